#!/bin/bash -p
# Builds calry-gitops for check.sh. cargo and rustup obey files of the directory that they start in, and of those above it
# (.cargo/config.toml, rust-toolchain.toml). So it is built from a copy of its source outside of the checkout, in which the
# action itself may be. The files of this kind in the source itself are left out: the toolchain of the job builds it.
set -euo pipefail
# shellcheck source=deploy/github-action/programs.sh
. "${BASH_SOURCE[0]%/*}/programs.sh"

built=$RUNNER_TEMP/calry-gitops
rm -rf "$built"
mkdir -p "$built/source"
tar -C "$GITHUB_ACTION_PATH/../.." --exclude=./target --exclude=./.git --exclude=./.cargo \
    --exclude=./rust-toolchain --exclude=./rust-toolchain.toml -cf - . | tar -C "$built/source" -xf -
cd "$built/source"
# Under another target its program would be in another place.
unset CARGO_BUILD_TARGET
cargo build --quiet --release --locked --target-dir "$built/target"
