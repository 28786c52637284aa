#!/bin/bash -p
# Provides calry-gitops: from the runner's tool cache, from a release whose checksum is verified, or, only if asked, built from
# source. setup/action.yml describes each variable. The other actions run this script as well, because an action cannot use
# its neighbour by a relative path. It needs bash, curl, tar and a SHA-256 program.
set -euo pipefail
# shellcheck source=deploy/actions/lib/programs.sh
. "${BASH_SOURCE[0]%/*}/../lib/programs.sh"

here=$(cd -P -- "${BASH_SOURCE[0]%/*}" && pwd)
# The one place that names the version and the repository of this action, whatever it was pinned by: tag, branch or commit.
manifest=$here/../../../Cargo.toml
field() {
    sed -nE "s/^$1 = \"([^\"]+)\"\$/\1/p" "$manifest" | head -n 1
}

true_or_false from-source "${FROM_SOURCE:=false}"
own=$(field version)
version=${VERSION:-$own}
version=${version#v}
if ! [[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]]; then
    refuse "version is a release such as 0.1.0"
fi

provide() {
    output version "$version"
    output path "$1"
    printf '%s\n' "${1%/*}" >>"${GITHUB_PATH:-/dev/null}"
    printf 'calry-gitops %s: %s\n' "$version" "$2"
}

if [ "$FROM_SOURCE" = true ]; then
    if [ "$version" != "$own" ]; then refuse "from-source builds $own, the version of this action; pin the action to v$version"; fi
    "$here/build.sh"
    provide "$RUNNER_TEMP/calry-gitops-source/target/release/calry-gitops" "built from source"
    exit
fi

case ${RUNNER_OS:-$(uname -s)}-${RUNNER_ARCH:-$(uname -m)} in
Linux-X64 | Linux-x86_64) target=x86_64-unknown-linux ;;
Linux-ARM64 | Linux-aarch64) target=aarch64-unknown-linux ;;
macOS-X64 | Darwin-x86_64) target=x86_64-apple-darwin ;;
macOS-ARM64 | Darwin-arm64) target=aarch64-apple-darwin ;;
*) refuse "there is no release for ${RUNNER_OS:-$(uname -s)} ${RUNNER_ARCH:-$(uname -m)}; use a runner with Linux or macOS" ;;
esac
# The program for glibc needs 2.35; the static one runs on every Linux, such as Alpine.
if [[ $target == *-linux ]]; then
    case $(getconf GNU_LIBC_VERSION 2>/dev/null || true) in
    'glibc 2.3'[4-9]* | 'glibc 2.'[4-9][0-9]* | 'glibc '[3-9]*) target+=-gnu ;;
    *) target+=-musl ;;
    esac
fi

name=calry-gitops-$version-$target
cache=${RUNNER_TOOL_CACHE:-$RUNNER_TEMP/tools}/calry-gitops/$version/$target
mkdir -p "${cache%/*}"
if in_checkout "${cache%/*}"; then refuse "the tool cache is inside the checkout: $cache"; fi

# The mark of a complete entry holds the checksum of its archive.
if [ -f "$cache.complete" ] && [ -x "$cache/calry-gitops" ]; then
    if [ -n "${SHA256:-}" ] && [ "$(cat "$cache.complete")" != "$SHA256" ]; then
        refuse "the tool cache holds another $name than sha256 demands; delete $cache"
    fi
    provide "$cache/calry-gitops" "from the tool cache"
    exit
fi

work=$(mktemp -d "${cache%/*}/incoming.XXXXXX")
trap 'rm -rf "$work"' EXIT
from=${DOWNLOADS:-${CALRY_GITOPS_DOWNLOADS:-$(field repository)/releases/download}}
from=${from%/}/v$version
fetch() {
    local options=(--fail --silent --show-error --location --retry 3 --connect-timeout 10 --max-time 120)
    # No redirect leads to an unencrypted address.
    case $from in https:*) options+=(--proto '=https') ;; esac
    if ! curl "${options[@]}" --output "$work/$1" "$from/$1"; then
        say error "$from/$1 cannot be downloaded; check the version, set downloads to a mirror, or set from-source"
        exit 1
    fi
}
fetch SHA256SUMS
fetch "$name.tar.gz"

wanted=$(awk -v name="$name.tar.gz" '$2 == name || $2 == "*" name { print $1; exit }' "$work/SHA256SUMS")
if command -v sha256sum >/dev/null; then
    sum=$(sha256sum "$work/$name.tar.gz")
else
    sum=$(shasum -a 256 "$work/$name.tar.gz")
fi
sum=${sum%% *}
for expected in "$wanted" "${SHA256:-$wanted}"; do
    if [ "$sum" != "$expected" ]; then
        say error "the checksum of $name.tar.gz is wrong: it is $sum, expected ${expected:-none that SHA256SUMS lists}; nothing was installed"
        exit 1
    fi
done

tar -xzf "$work/$name.tar.gz" -C "$work" "$name/calry-gitops"
if ! "$work/$name/calry-gitops" --version >"$work/version" || ! grep -qF " $version" "$work/version"; then
    say error "$name.tar.gz holds no calry-gitops $version that runs on this machine"
    exit 1
fi
# Another job may do the same at the same time, or already run the program: each file is replaced in one step.
printf '%s\n' "$sum" >"$work/complete"
mkdir -p "$cache"
mv -f "$work/$name/calry-gitops" "$cache/calry-gitops"
mv -f "$work/complete" "$cache.complete"
provide "$cache/calry-gitops" "downloaded from $from, checksum verified"
