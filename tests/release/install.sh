#!/usr/bin/env bash
# install.sh DIR: what the installer says and leaves behind on other machines and when something is wrong, with a local file
# server and programs that are scripts. DIR is an empty directory, which it may fill.
set -euo pipefail

work=$(cd "${1:?an empty directory}" && pwd)
cd "$(dirname "$0")/../.."
# shellcheck source=tests/need.sh
. tests/need.sh
need wget busybox
installer=$PWD/deploy/install.sh
server=
finish() {
    if [ -n "$server" ]; then kill "$server"; fi
}
trap finish EXIT
fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

# publish VERSION: a release whose programs print their version and target.
publish() {
    local target name release=$work/downloads/v$1
    mkdir -p "$release"
    for target in {x86_64,aarch64}-{unknown-linux-gnu,unknown-linux-musl,apple-darwin}; do
        name=calry-gitops-$1-$target
        mkdir "$work/$name"
        printf '#!/bin/sh\necho "calry-gitops %s (%s)"\n' "$1" "$target" >"$work/$name/calry-gitops"
        tar -czf "$release/$name.tar.gz" -C "$work" "$name"
        rm -r "${work:?}/$name"
    done
    (cd "$release" && sha256sum -- *.tar.gz >SHA256SUMS)
}
for version in 0.0.1 0.0.2 0.0.3; do publish "$version"; done
python3 -B -u -m http.server --bind 127.0.0.1 --directory "$work/downloads" 0 >"$work/server" 2>&1 &
server=$!
expect "$work/server" 'Serving HTTP on'
port=$(sed -n 's/.* port \([0-9]*\).*/\1/p' "$work/server" | head -n 1)

# A machine with nothing but what the installer needs; `machine SYSTEM PROCESSOR GLIBC` says which one it seems to be.
bin=$work/bin
mkdir "$bin" "$work/temporary" "$work/home"
for program in sh mktemp rm curl sed tar gzip chmod mkdir cp mv sha256sum; do ln -s "$(command -v "$program")" "$bin/"; done
machine() {
    # shellcheck disable=SC2016 # for that shell
    printf '#!/bin/sh\n[ "$1" != -s ] || echo %s\n[ "$1" != -m ] || echo %s\n' "$1" "$2" >"$bin/uname"
    printf '#!/bin/sh\n[ %s != none ] && echo glibc %s\n' "$3" "$3" >"$bin/getconf"
    chmod +x "$bin/uname" "$bin/getconf"
}
# run NAME=VALUE… PROGRAM ARGUMENT…: for a user with a home of its own. It never leaves a temporary file.
run() {
    local status=0
    env -i PATH="$bin" HOME="$work/home" TMPDIR="$work/temporary" CALRY_GITOPS_DOWNLOADS="http://127.0.0.1:$port" "$@" \
        >"$work/said" 2>&1 || status=$?
    [ -z "$(find "$work/temporary" -mindepth 1)" ] || fail "it leaves temporary files: $*"
    return "$status"
}
# installs TARGET ARGUMENT…: the last program that was installed is the one for the target.
installs() {
    local target=$1
    shift
    run "$@" || fail "$* fails: $(cat "$work/said")"
    grep -q "^installed calry-gitops 0.0.[123] ($target) as /" "$work/said" || fail "$* prints: $(cat "$work/said")"
}
# refuses PATTERN ARGUMENT…: it fails, prints a line of that pattern and one error, and installs nothing.
refuses() {
    local pattern=$1
    shift
    if run "$@"; then fail "not refused: $*"; fi
    grep -q -- "$pattern" "$work/said" || fail "$* fails without '$pattern': $(cat "$work/said")"
    [ "$(grep -c '^error: ' "$work/said")" = 1 ] || fail "$* prints: $(cat "$work/said")"
    [ -z "$(find "$work/wrong" -name '*calry-gitops*' -type f 2>/dev/null)" ] || fail "it installs something: $*"
    printf 'refused: %s\n' "$(grep -m 1 -- "$pattern" "$work/said")"
}
wrong=$work/wrong

# Which archive it takes.
while read -r system processor glibc target; do
    machine "$system" "$processor" "$glibc"
    installs "$target" sh "$installer" --version 0.0.1 --to "$work/right"
done <<'TABLE'
Linux x86_64 2.36 x86_64-unknown-linux-gnu
Linux aarch64 2.34 aarch64-unknown-linux-gnu
Linux x86_64 2.33 x86_64-unknown-linux-musl
Linux aarch64 none aarch64-unknown-linux-musl
Darwin arm64 none aarch64-apple-darwin
Darwin x86_64 none x86_64-apple-darwin
TABLE
machine Linux riscv64 2.39
refuses 'no release for the processor riscv64' sh "$installer" --version 0.0.1 --to "$wrong"
machine MINGW64_NT-10.0 x86_64 none
refuses 'WSL' sh "$installer" --version 0.0.1 --to "$wrong"
machine Linux x86_64 2.36
native=x86_64-unknown-linux-gnu
installs "$native" sh "$installer" --version 0.0.1 --to "$work/right"

# The version with or without v, a directory with a blank, and one that is relative: the advice names all of it.
installs "$native" sh "$installer" --version v0.0.2 --to "$work/my programs"
(cd "$work" && installs "$native" sh "$installer" --version 0.0.2 --to relative)
grep -q "^help: Add it to PATH: export PATH=\"$work/relative:\$PATH\"$" "$work/said" || fail "$(cat "$work/said")"
# The default, on PATH and not. Another program that PATH has first is named.
installs "$native" sh "$installer" --version 0.0.1
[ "$("$work/home/.local/bin/calry-gitops")" = "calry-gitops 0.0.1 ($native)" ]
installs "$native" PATH="$bin:$work/home/.local/bin" sh "$installer" --version 0.0.2
[ "$(cat "$work/said")" = "installed calry-gitops 0.0.2 ($native) as $work/home/.local/bin/calry-gitops" ] ||
    fail "it prints: $(cat "$work/said")"
installs "$native" PATH="$bin:$work/right:$work/home/.local/bin" sh "$installer" --version 0.0.1
grep -q "^warning: PATH has another one first: $work/right/calry-gitops$" "$work/said" || fail "$(cat "$work/said")"

# Nothing is installed when something is wrong.
echo >>"$work/downloads/v0.0.2/calry-gitops-0.0.2-$native.tar.gz"
refuses 'nothing was installed' sh "$installer" --version 0.0.2 --to "$wrong"
truncate --size=100 "$work/downloads/v0.0.2/calry-gitops-0.0.2-$native.tar.gz"
refuses 'nothing was installed' sh "$installer" --version 0.0.2 --to "$wrong"
echo '<html>' >"$work/downloads/v0.0.2/SHA256SUMS"
refuses 'SHA256SUMS of 0.0.2 lists no' sh "$installer" --version 0.0.2 --to "$wrong"
refuses 'cannot download' sh "$installer" --version 0.0.9 --to "$wrong"
refuses 'cannot download' CALRY_GITOPS_DOWNLOADS=http://127.0.0.1:1 sh "$installer" --version 0.0.1 --to "$wrong"
refuses 'is not a version' sh "$installer" --version ../x --to "$wrong"
refuses 'is not a version' sh "$installer" --version latest --to "$wrong"
refuses 'Set HOME' HOME= sh "$installer" --version 0.0.1
refuses 'name the directory with --to' sh "$installer" --version 0.0.1 --to ''
mkdir -p "$wrong/calry-gitops"
refuses 'is a directory' sh "$installer" --version 0.0.1 --to "$wrong"
refuses 'cannot make the directory' sh "$installer" --version 0.0.1 --to "$work/server/x"
# As another user, in a directory of root. As root there is no such directory.
if [ "$(id -u)" = 0 ]; then
    chmod 755 "$work" "$wrong"
    chmod 777 "$work/temporary"
    ln -s "$(command -v setpriv)" "$bin/"
    rmdir "$wrong/calry-gitops"
    refuses 'cannot write to' setpriv --reuid=65534 --regid=65534 --clear-groups \
        sh -s -- --version 0.0.1 --to "$wrong" <"$installer"
fi
# A program that does not run here replaces none that does.
name=calry-gitops-0.0.3-$native
mkdir "$work/$name"
printf '\177ELF of another machine' >"$work/$name/calry-gitops"
tar -czf "$work/downloads/v0.0.3/$name.tar.gz" -C "$work" "$name"
(cd "$work/downloads/v0.0.3" && sha256sum -- *.tar.gz >SHA256SUMS)
refuses 'does not run in' sh "$installer" --version 0.0.3 --to "$wrong"
if run sh "$installer" --version 0.0.3 --to "$work/right"; then fail "a program that does not run is installed"; fi
[ "$("$work/right/calry-gitops")" = "calry-gitops 0.0.1 ($native)" ] || fail "the program that ran is replaced"
[ "$(ls -A "$work/right")" = calry-gitops ] || fail "it leaves files: $(ls -A "$work/right")"
# An incomplete download of the script does nothing.
head -c "$(($(stat --format %s "$installer") - 12))" "$installer" >"$work/cut"
run sh "$work/cut" --version 0.0.1 --to "$work/cut-short"
[ ! -e "$work/cut-short" ] || fail "an incomplete script installs something"

# With shasum in place of sha256sum, wget in place of curl, and without a tool.
for program in sha256sum curl tar gzip; do
    mv "$bin/$program" "$work/away"
    case $program in
        sha256sum) refuses 'neither sha256sum nor shasum is installed' sh "$installer" --version 0.0.1 --to "$wrong" ;;
        curl) refuses 'neither curl nor wget is installed' sh "$installer" --version 0.0.1 --to "$wrong" ;;
        *) refuses "$program is not installed" sh "$installer" --version 0.0.1 --to "$wrong" ;;
    esac
    mv "$work/away" "$bin/$program"
done
rm "$bin/sha256sum" "$bin/curl"
for program in shasum perl wget; do ln -s "$(command -v "$program")" "$bin/"; done
installs "$native" sh "$installer" --version 0.0.1 --to "$work/with wget"
refuses 'cannot download' sh "$installer" --version 0.0.9 --to "$wrong"
# With nothing but busybox.
rm -r "$bin"
mkdir "$bin"
for program in $(busybox --list); do ln -s "$(command -v busybox)" "$bin/$program"; done
rm -f "$bin/getconf"
installs "$(uname -m)-unknown-linux-musl" sh "$installer" --version 0.0.1 --to "$work/busybox"
refuses 'cannot download' sh "$installer" --version 0.0.9 --to "$wrong"
