#!/bin/bash -p
# Builds calry-gitops for setup.sh. cargo and rustup read configuration files of the current directory and its parents
# (.cargo/config.toml, rust-toolchain.toml). So it is built from a copy of its source outside of the checkout: the action
# itself may be inside. The files of this kind in the source itself are left out: the toolchain of the job builds it.
set -euo pipefail
# shellcheck source=deploy/actions/lib/programs.sh
. "${BASH_SOURCE[0]%/*}/../lib/programs.sh"

built=$RUNNER_TEMP/calry-gitops-source
rm -rf "$built"
mkdir -p "$built/source"
tar -C "${BASH_SOURCE[0]%/*}/../../.." --exclude=./target --exclude=./.git --exclude=./.cargo \
    --exclude=./rust-toolchain --exclude=./rust-toolchain.toml -cf - . | tar -C "$built/source" -xf -
cd "$built/source"
# Another target would put the program in another directory.
unset CARGO_BUILD_TARGET
cargo build --quiet --release --locked --target-dir "$built/target"
