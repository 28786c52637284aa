#!/usr/bin/env bash
# The release: every script of .github/workflows/release.yml for this machine's target and for musl, on what they build and
# with the tools that users have; the installer against a local file server; the package and its units; the formula.
#
# Needs cargo, rustup, git, go, python3, curl, root or sudo, and a Debian on which it may install packages. What else it
# needs it installs into a cache; with --tools, it does only that.
set -euo pipefail

zizmor_version=1.32.0
cyclonedx_version=11.12.0
audit_info_version=0.5.4
compose_version=v2.16.2
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
server=
finish() {
    if [ -n "$server" ]; then kill "$server"; fi
    rm -rf "$work"
}
trap finish EXIT
# shellcheck source=tests/need.sh
. tests/need.sh
need shellcheck openssl ruby
if [ ! -x /lib/systemd/systemd ]; then need systemd; fi
as=()
if [ "$(id -u)" != 0 ]; then as=(sudo); fi

export CALRY_GITOPS_TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/calry-gitops/release-tools
export PATH=$CALRY_GITOPS_TOOLS/bin:$PATH
# Quick to build, and with the dependencies that tests/pull-requests.sh has built.
export CALRY_GITOPS_PROFILE=release CARGO_PROFILE_RELEASE_OPT_LEVEL=0

target=$(rustc --version --verbose | sed -n 's/^host: //p')
musl=${target/-gnu/-musl}
# They run for seconds and would be built for minutes.
install_tools() (
    export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
    for purpose in "$target" "$musl" sbom; do deploy/release/tools.sh "$purpose"; done
    cargo install --quiet --locked --root "$CALRY_GITOPS_TOOLS" --version "=$audit_info_version" rust-audit-info
)
if [ "${1:-}" = --tools ]; then
    install_tools
    exit
fi

step() {
    printf -- '-- %s (%s s)\n' "$1" "$SECONDS"
}
fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}
# refuses PATTERN COMMAND…: the command fails, and what it prints matches.
refuses() {
    local pattern=$1
    shift
    if "$@" >"$work/said" 2>&1; then fail "not refused: $*"; fi
    grep -q -- "$pattern" "$work/said" || fail "$* fails without '$pattern': $(cat "$work/said")"
    printf 'refused: %s\n' "$(grep -m 1 -- "$pattern" "$work/said")"
}

# tests/pull-requests.sh runs actionlint.
step "the workflows' permissions, pins and expansions"
zizmor=$(python_tool zizmor "$zizmor_version")/zizmor
"$zizmor" --offline --quiet .github
sh -n deploy/install.sh

step "versions, notes and the signature of the tag"
mkdir "$work/repo"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --no-dereference --target-directory "$work/repo"
cd "$work/repo"
printf '## [Unreleased]\n\n### Added\n\n- Everything.\n\n## [0.0.1] - 2026-11-01\n\n- Nothing.\n' >CHANGELOG.md
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
export GIT_CONFIG_GLOBAL=/dev/null
for key in maintainer stranger; do ssh-keygen -q -t ed25519 -N '' -C "$key" -f "$work/$key"; done
git init --quiet --initial-branch main
git add --all
git commit --quiet --message "the list is empty"
# Prepared for another version, every file has it.
version=7.8.9
refuses 'Chart.yaml, appVersion, has version' deploy/release/verify-version.sh "v$version"
refuses 'v7.8.9 is not a version' deploy/release/prepare.sh "v$version"
refuses 'name the version' deploy/release/prepare.sh
deploy/release/prepare.sh "$version"
refuses 'has a section for 7.8.9 already' deploy/release/prepare.sh "$version"
refuses 'nothing below .Unreleased. would be released' deploy/release/prepare.sh 7.9.0
git --no-pager diff --stat
cargo metadata --quiet --locked --no-deps --format-version 1 >/dev/null
# sign KEY TAG: makes a signed tag.
sign() {
    git -c gpg.format=ssh -c user.signingKey="$work/$1" tag --sign --message "$2" "$2"
}
refuses 'there is no tag v0.0.9' deploy/release/verify-tag.sh v0.0.9 main
sign maintainer v0.0.9
refuses 'names no maintainer' deploy/release/verify-tag.sh v0.0.9 main
printf 'a@example.com namespaces="git" %s\n' "$(cat "$work/maintainer.pub")" >>deploy/release/allowed_signers
git commit --quiet --all --message "release"
sign maintainer "v$version"
deploy/release/verify-tag.sh "v$version" main
git tag v1.0.0
refuses 'not an annotated tag' deploy/release/verify-tag.sh v1.0.0 main
git tag --annotate --message x v1.0.1
refuses 'not signed by a maintainer' deploy/release/verify-tag.sh v1.0.1 main
sign stranger v1.0.2
refuses 'not signed by a maintainer' deploy/release/verify-tag.sh v1.0.2 main
git checkout --quiet -b other
printf 'a@example.com %s\n' "$(cat "$work/stranger.pub")" >>deploy/release/allowed_signers
git commit --quiet --all --message "a stranger"
sign stranger v1.0.3
refuses 'not signed by a maintainer' deploy/release/verify-tag.sh v1.0.3 main
sign maintainer v1.0.4
refuses 'is not in main' deploy/release/verify-tag.sh v1.0.4 main

deploy/release/verify-version.sh "v$version"
refuses 'does not begin with v' deploy/release/verify-version.sh "$version"
sed -i 's/check@v7.8.9/check@v7.8.8/' deploy/workflows/check.yml
refuses 'deploy/workflows/check.yml names .*check@v7.8.8' deploy/release/verify-version.sh "v$version"
notes=$(deploy/release/notes.sh "v$version")
[ "$notes" = "$(printf '### Added\n\n- Everything.')" ] || fail "the notes are: $notes"
refuses 'no section for 9.9.9' deploy/release/notes.sh v9.9.9

step "another owner"
git checkout --quiet --force main
owner=acme
deploy/release/owner.sh "$owner" >/dev/null
# Of this owner, only paths of files are left.
left=$(git grep -nE '(//|ghcr\.io/|github\.com/|uses: *|--repo +|install +)calry-gitops/' -- ':!deploy/release' || true)
[ -z "$left" ] || fail "these name the old owner: $left"
git diff -U0 | grep -E "^\\+.*runbook_url: https://github.com/$owner/calry-gitops/blob" >/dev/null || fail "an alert links to the old owner"
if git diff -U0 | grep -E "^\\+.*(etc|run|lib|cache)/$owner"; then fail "a path of a file is changed"; fi
cargo metadata --quiet --locked --no-deps --format-version 1 | grep "\"repository\":\"https://github.com/$owner/calry-gitops\"" >/dev/null
cd "$root"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)

step "archives for this machine and for musl"
release=$work/downloads/v$version
install_tools
deploy/release/archive.sh "$target" "$release"
deploy/release/try.sh "$target" "$release"
deploy/release/archive.sh "$musl" "$release"
deploy/release/try.sh "$musl" "$release"
first=$(sha256sum <"$release/calry-gitops-$version-$target.tar.gz")
deploy/release/archive.sh "$target" "$release" >/dev/null
[ "$(sha256sum <"$release/calry-gitops-$version-$target.tar.gz")" = "$first" ] || fail "the same files make two archives"
tar -xzf "$release/calry-gitops-$version-$musl.tar.gz" -C "$work"

step "the static program resolves names, in a file system of its own"
static=$work/static
mkdir -p "$static/etc/ssl/certs" "$static/tmp"
install -D "$work/calry-gitops-$version-$musl/calry-gitops" "$static/usr/local/bin/calry-gitops"
cp --dereference /etc/ssl/certs/ca-certificates.crt "$static/etc/ssl/certs/"
echo '{"OCIv1": {"config": {"User": "65532:65532", "Entrypoint": ["/usr/local/bin/calry-gitops"], "Cmd": ["run"],
    "Labels": {"org.opencontainers.image.revision": "0123abcd"}}}}' >"$work/image.json"
"${as[@]}" unshare --mount --net --pid --fork --kill-child --mount-proc \
    timeout 120 python3 -B tests/image/live.py "$static" "$work/image.json" "$static/usr/local/bin/calry-gitops"

step "the package"
deploy/release/deb.sh "$target" "$release"
deb=$(echo "$release"/*.deb)
[ "${deb##*/}" = "calry-gitops_$version-1_$(dpkg --print-architecture).deb" ] || fail "the package is ${deb##*/}"
dpkg-deb --field "$deb" Package Version Depends
"${as[@]}" timeout --kill-after 10 240 \
    unshare --mount --pid --net --ipc --uts --cgroup --fork --kill-child tests/release/package.sh "$deb"

step "SBOM, sums and the formula"
# Programs of the other systems are not built here.
for other in x86_64-apple-darwin aarch64-apple-darwin x86_64-unknown-linux-musl aarch64-unknown-linux-musl; do
    archive=$release/calry-gitops-$version-$other.tar.gz
    [ -e "$archive" ] || echo "$other" >"$archive"
done
deploy/release/assets.sh "$release"
(cd "$release" && sha256sum --check --quiet SHA256SUMS)
rust-audit-info "$work/calry-gitops-$version-$musl/calry-gitops" >"$work/audit.json"
python=$(python_tool 'cyclonedx-python-lib[json-validation]' "$cyclonedx_version")
"$python/python3" -B tests/release/sbom.py "$release/calry-gitops-$version.cdx.json" "$work/audit.json"
ruby -wc "$release/calry-gitops.rb"
ruby tests/release/formula.rb "$release/calry-gitops.rb" |
    sed "s|^https://github.com/calry-gitops/calry-gitops/releases/download/v$version/\([^ ]*\) \(.*\)|\2  \1|" >"$work/formula"
[ "$(wc -l <"$work/formula")" = 4 ] || fail "the formula knows: $(cat "$work/formula")"
(cd "$release" && sha256sum --check "$work/formula")

step "the installer"
python3 -B -u -m http.server --bind 127.0.0.1 --directory "$work/downloads" 0 >"$work/server" 2>&1 &
server=$!
expect "$work/server" 'Serving HTTP on'
port=$(sed -n 's/.* port \([0-9]*\).*/\1/p' "$work/server" | head -n 1)
# run NAME=VALUE… ARGUMENT…: the installer for a user with an empty home.
home=$work/home
run() {
    env -i PATH="$PATH" HOME="$home" CALRY_GITOPS_DOWNLOADS="http://127.0.0.1:$port" "$@"
}
mkdir "$home"
# As users run it.
curl -fsSL "http://127.0.0.1:$port/v$version/install.sh" | run sh
[ "$("$home/.local/bin/calry-gitops" --version)" = "calry-gitops $version ($(git rev-parse HEAD))" ]
[ -z "$(find "$home" -type f ! -name calry-gitops)" ] || fail "the installer leaves files"
# A running program is replaced, and a directory with a blank is no problem.
"$home/.local/bin/calry-gitops" sandbox --listen 127.0.0.1:0 >/dev/null 2>&1 &
sandbox=$!
sleep 0.2
run sh deploy/install.sh >/dev/null
kill "$sandbox"
run sh deploy/install.sh --version "v$version" --to "$home/my programs"
[ -x "$home/my programs/calry-gitops" ]
mkdir "$work/install"
# It has a part for another user, who passes through this directory.
chmod 711 "$work"
tests/release/install.sh "$work/install"

step "the compose file"
compose=$(go_tool github.com/compose-spec/compose-go/v2/cmd "$compose_version")/cmd
"$compose" --no-interpolation deploy/compose.yaml >/dev/null
refuses 'the URL of the repository with your definitions' "$compose" deploy/compose.yaml
