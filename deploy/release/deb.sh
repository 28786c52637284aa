#!/usr/bin/env bash
# deb.sh TARGET DIR: packs what archive.sh has built for a target as DIR/calry-gitops_VERSION-1_ARCH.deb. It needs cargo-deb.
set -euo pipefail
# shellcheck source=deploy/release/common.sh
. "$(dirname "$0")/common.sh"

target=${1:?the target, as x86_64-unknown-linux-gnu}
to=${2:?the directory for the package}
# Where Cargo.toml expects the files.
stage=target/package/deb
mkdir -p "$to"
rm -rf "$stage"
cp -r "${CARGO_TARGET_DIR:-target}/package/$target/calry-gitops-$version-$target" "$stage"
options=(--no-build --no-strip --target "$target" --output "$to/")
if [ "$profile" != dist ]; then options+=(--fast); fi
cargo deb "${options[@]}"
