#!/usr/bin/env bash
# tools.sh TARGET|sbom: installs what the scripts beside it need, from the package registries: cargo's tools below
# CALRY_GITOPS_TOOLS (by default where cargo installs), and what compiles for the target.
set -euo pipefail
# shellcheck source=deploy/release/common.sh
. "$(dirname "$0")/common.sh"

for_what=${1:?the target, as x86_64-unknown-linux-gnu, or sbom}
tool() {
    cargo install --quiet --locked --root "${CALRY_GITOPS_TOOLS:-${CARGO_HOME:-$HOME/.cargo}}" --version "=$2" "$1"
}

# The compiler of rust-toolchain.toml.
rustup toolchain install
case $for_what in
    sbom) tool cargo-cyclonedx 0.5.9 ;;
    *)
        tool cargo-auditable 0.7.7
        if [ "$for_what" != "$(host)" ]; then rustup target add "$for_what"; fi
        ;;
esac
case $for_what in
    *-linux-gnu) tool cargo-deb 3.8.0 ;;
    *-linux-musl)
        if ! command -v musl-gcc >/dev/null; then
            if [ "$(id -u)" = 0 ]; then as=(); else as=(sudo); fi
            "${as[@]}" apt-get update -qq
            "${as[@]}" apt-get install -y -qq --no-install-recommends musl-tools >/dev/null
        fi
        ;;
esac
