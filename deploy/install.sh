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
        *) fail "there is no release for the processor $(uname -m)" "Build it: cargo install --locked --git https://github.com/calry-gitops/calry-gitops" ;;
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
        *) fail "there is no release for $(uname -s)" "Build it: cargo install --locked --git https://github.com/calry-gitops/calry-gitops" ;;
    esac
}

# download URL FILE
download() {
    if command -v curl >/dev/null; then
        curl --fail --silent --show-error --location --retry 3 --output "$2" "$1"
    elif command -v wget >/dev/null; then
        wget -q -O "$2" "$1"
    else
        fail "neither curl nor wget is installed"
    fi || fail "cannot download $1" "Check the version and the network. A proxy is taken from HTTPS_PROXY."
}

sum() {
    if command -v sha256sum >/dev/null; then
        sha256sum "$1"
    elif command -v shasum >/dev/null; then
        shasum -a 256 "$1"
    else
        fail "neither sha256sum nor shasum is installed"
    fi | cut -d ' ' -f 1
}

main() {
    to=${HOME:-}/.local/bin
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
        *[!0-9A-Za-z.+-]* | '') fail "$release is no version" ;;
    esac

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
    chmod 755 "$work/$name/calry-gitops"
    # A program that does not run here replaces none that does.
    "$work/$name/calry-gitops" --version >/dev/null || fail "the program for $(target) does not run on this machine"
    mkdir -p "$to" || fail "cannot make the directory $to" "Choose another one with --to."
    # By a rename: a running program is not overwritten.
    cp "$work/$name/calry-gitops" "$to/.calry-gitops.$$" || fail "cannot write to $to" "Choose another directory with --to."
    mv -f "$to/.calry-gitops.$$" "$to/calry-gitops"
    printf 'installed %s as %s\n' "$("$to/calry-gitops" --version)" "$to/calry-gitops"
    case :${PATH:-}: in
        *:"$to":*) ;;
        *) echo "help: Add it to PATH: export PATH=\"$to:\$PATH\"" ;;
    esac
}

# Last: an incomplete download of this script runs nothing.
main "$@"
