#!/bin/sh
# Installs calry-gitops for the current user, without root:
#
#   curl -fsSL https://github.com/calry-gitops/calry-gitops/releases/latest/download/install.sh | sh
#   curl -fsSL …/install.sh | sh -s -- --version 0.1.0 --to /opt/bin
#
# It downloads the archive for this machine and the release's SHA256SUMS, and installs nothing if they do not match.
# CALRY_GITOPS_DOWNLOADS names a mirror: the address of the directory that holds v0.1.0/.
set -eu

release=0.1.0

usage() {
    cat <<'TEXT'
Usage: install.sh [--version VERSION] [--to DIR]

  --version VERSION  the release to install, by default the one of this script
  --to DIR           the directory for the program [default: ~/.local/bin]

Environment:
  CALRY_GITOPS_DOWNLOADS  a mirror, in place of https://github.com/calry-gitops/calry-gitops/releases/download
TEXT
}

fail() {
    printf 'error: %s\n' "$1" >&2
    if [ $# -gt 1 ]; then printf 'help: %s\n' "$2" >&2; fi
    exit 1
}

# The target whose archive runs here.
target() {
    case $(uname -m) in
        x86_64 | amd64) arch=x86_64 ;;
        aarch64 | arm64) arch=aarch64 ;;
        *) fail "there is no release for the processor $(uname -m)" "Build it: cargo install --locked --profile dist --git https://github.com/calry-gitops/calry-gitops" ;;
    esac
    case $(uname -s) in
        Linux)
            # What is built for glibc needs 2.34; the static program for musl runs everywhere.
            libc=musl
            glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || glibc=
            case ${glibc#glibc } in
                2.3[4-9] | 2.[4-9][0-9] | [3-9].*) libc=gnu ;;
            esac
            printf '%s\n' "$arch-unknown-linux-$libc"
            ;;
        Darwin)
            # A shell under Rosetta reports the processor that it emulates.
            if [ "$(sysctl -n sysctl.proc_translated 2>/dev/null)" = 1 ]; then arch=aarch64; fi
            printf '%s\n' "$arch-apple-darwin"
            ;;
        MINGW* | MSYS* | CYGWIN* | Windows_NT)
            fail "there is no release for Windows" "Use it in WSL, or run the container image."
            ;;
        *) fail "there is no release for $(uname -s)" "Build it: cargo install --locked --profile dist --git https://github.com/calry-gitops/calry-gitops" ;;
    esac
}

# download URL FILE
download() {
    if command -v curl >/dev/null; then
        curl --fail --silent --show-error --location --connect-timeout 20 --retry 3 --output "$2" "$1"
    elif command -v wget >/dev/null; then
        wget -q -O "$2" "$1"
    else
        fail "neither curl nor wget is installed"
    fi || fail "cannot download $1" "Check the version and the network. A proxy is taken from HTTPS_PROXY."
}

sum() {
    if command -v sha256sum >/dev/null; then
        printed=$(sha256sum "$1")
    elif command -v shasum >/dev/null; then
        printed=$(shasum -a 256 "$1")
    else
        fail "neither sha256sum nor shasum is installed"
    fi
    printf '%s\n' "${printed%% *}"
}

main() {
    to=${HOME:+$HOME/.local/bin}
    while [ $# -gt 0 ]; do
        case $1 in
            --version | --to)
                [ $# -gt 1 ] || fail "$1 needs a value"
                if [ "$1" = --to ]; then to=$2; else release=${2#v}; fi
                shift 2
                ;;
            --help | -h)
                usage
                exit
                ;;
            *)
                usage >&2
                exit 64
                ;;
        esac
    done
    case $release in
        *[!0-9A-Za-z.+-]* | [!0-9]* | '') fail "\"$release\" is not a version" "Give it as --version 0.1.0." ;;
    esac
    [ -n "$to" ] || fail "there is no directory for the program" "Set HOME, or name the directory with --to."
    for program in tar gzip; do
        command -v "$program" >/dev/null || fail "$program is not installed"
    done

    name=calry-gitops-$release-$(target)
    from=${CALRY_GITOPS_DOWNLOADS:-https://github.com/calry-gitops/calry-gitops/releases/download}
    from=${from%/}/v$release
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM

    download "$from/SHA256SUMS" "$work/SHA256SUMS"
    wanted=$(sed -n "s/^\([0-9a-f]*\) [ *]$name\.tar\.gz\$/\1/p" "$work/SHA256SUMS")
    [ "${#wanted}" = 64 ] || fail "SHA256SUMS of $release lists no $name.tar.gz"
    download "$from/$name.tar.gz" "$work/$name.tar.gz"
    got=$(sum "$work/$name.tar.gz")
    [ "$got" = "$wanted" ] ||
        fail "$name.tar.gz has the checksum $got, and SHA256SUMS lists $wanted; nothing was installed" \
            "Try again. If it happens again, do not use this file, and report it."

    tar -xzf "$work/$name.tar.gz" -C "$work"
    mkdir -p "$to" || fail "cannot make the directory $to" "Choose another one with --to."
    to=$(cd "$to" && pwd)
    [ ! -d "$to/calry-gitops" ] || fail "$to/calry-gitops is a directory" "Choose another directory with --to."
    new=$to/.calry-gitops.$$
    trap 'rm -rf "$work" "$new"' EXIT
    cp "$work/$name/calry-gitops" "$new" || fail "cannot write to $to" "Choose another directory with --to."
    chmod 755 "$new"
    # A program that does not run replaces none that does. It is tried where it stays: /tmp may forbid programs.
    "$new" --version >/dev/null ||
        fail "the program for $(target) does not run in $to; nothing was installed" \
            "If the file system forbids programs (noexec), choose another directory with --to."
    # By a rename: a running program is not overwritten.
    mv -f "$new" "$to/calry-gitops"
    printf 'installed %s as %s\n' "$("$to/calry-gitops" --version)" "$to/calry-gitops"
    case :${PATH:-}: in
        *:"$to":*)
            first=$(command -v calry-gitops) || first=
            [ "$first" = "$to/calry-gitops" ] || echo "warning: PATH has another one first: $first"
            ;;
        *) echo "help: Add it to PATH: export PATH=\"$to:\$PATH\"" ;;
    esac
}

# Last: an incomplete download of this script runs nothing.
main "$@"
