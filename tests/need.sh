# Sourced by the scripts beside it: to install what they need, and to wait for what they test.
# shellcheck shell=bash

# What fails in $(…) fails, or a tool that could not be installed would count as installed.
shopt -s inherit_errexit

# need PROGRAM[:PACKAGE]…: installs the missing ones, each from the Debian package of its name or the one that is given.
need() {
    local program missing=() as=()
    for program; do
        if ! command -v "${program%:*}" >/dev/null; then missing+=("${program#*:}"); fi
    done
    if [ ${#missing[@]} -gt 0 ]; then
        if [ "$(id -u)" != 0 ]; then as=(sudo); fi
        "${as[@]}" apt-get update -qq
        "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    fi
}

# python_tool PACKAGE VERSION, node_tool PACKAGE VERSION, go_tool PACKAGE VERSION, cargo_tool PACKAGE VERSION: where its
# programs are, in a directory of its own.
python_tool() {
    local at=${XDG_CACHE_HOME:-$HOME/.cache}/calry-gitops/$1-$2
    if [ ! -e "$at/complete" ]; then
        rm -rf "$at"
        python3 -m venv "$at"
        timeout 300 "$at/bin/pip" install --quiet --disable-pip-version-check "$1==$2" >&2
        touch "$at/complete"
    fi
    printf '%s/bin\n' "$at"
}
node_tool() {
    local at=${XDG_CACHE_HOME:-$HOME/.cache}/calry-gitops/${1##*/}-$2
    if [ ! -e "$at/complete" ]; then
        rm -rf "$at"
        timeout 300 npm install --silent --no-audit --no-fund --prefix "$at" "$1@$2" >&2
        touch "$at/complete"
    fi
    printf '%s/node_modules/.bin\n' "$at"
}
go_tool() {
    local name=${1%/v[0-9]}
    local at=${XDG_CACHE_HOME:-$HOME/.cache}/calry-gitops/${name##*/}-$2
    if [ ! -e "$at/complete" ]; then
        rm -rf "$at"
        GOBIN=$at/bin CGO_ENABLED=0 timeout 900 go install -ldflags='-s -w' "$1@$2" >&2
        touch "$at/complete"
    fi
    printf '%s/bin\n' "$at"
}
cargo_tool() {
    local at=${XDG_CACHE_HOME:-$HOME/.cache}/calry-gitops/$1-$2
    if [ ! -e "$at/complete" ]; then
        rm -rf "$at"
        # Not optimized: it runs for seconds and would be built for minutes.
        CARGO_PROFILE_DEV_DEBUG=0 timeout 900 cargo install --quiet --debug --locked --root "$at" --version "$2" "$1" >&2
        touch "$at/complete"
    fi
    printf '%s/bin\n' "$at"
}

# expect LOG PATTERN: waits for ten seconds until a line of a log matches, and shows it.
expect() {
    for _ in $(seq 200); do
        if grep -q -- "$2" "$1"; then
            printf 'seen: %s\n' "$(grep -m1 -- "$2" "$1")"
            return
        fi
        sleep 0.05
    done
    printf 'not seen: %s\n' "$2" >&2
    cat "$1" >&2
    exit 1
}
