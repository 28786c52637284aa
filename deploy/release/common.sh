# Sourced by the scripts beside it, which run in the root of the repository.
# shellcheck shell=bash

# The bash of macOS does not know it.
shopt -s inherit_errexit 2>/dev/null || true
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

# The value of a key of Cargo.toml that stands in one line.
manifest() {
    sed -n "s/^$1 = \"\(.*\)\"$/\1/p" Cargo.toml | head -n 1
}

# Cargo's profile of what is packed. The gate sets a cheaper one.
profile=${CALRY_GITOPS_PROFILE:-dist}
# shellcheck disable=SC2034 # for the scripts
version=$(manifest version)

# output TARGET: the directory in which cargo puts the programs for a target. Without --target, for the machine that builds,
# it shares its dependencies with other builds.
output() {
    local directory=${CARGO_TARGET_DIR:-target}
    if [ "$1" != "$(host)" ]; then directory+=/$1; fi
    case $profile in
        dev) printf '%s/debug\n' "$directory" ;;
        *) printf '%s/%s\n' "$directory" "$profile" ;;
    esac
}
host() {
    rustc --version --verbose | sed -n 's/^host: //p'
}
