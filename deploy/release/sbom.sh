#!/usr/bin/env bash
# sbom.sh DIR: writes the software bill of materials of every target, in the format of CycloneDX, as
# DIR/calry-gitops-VERSION.cdx.json. It needs cargo-cyclonedx.
set -euo pipefail
# shellcheck source=deploy/release/common.sh
. "$(dirname "$0")/common.sh"

to=${1:?the directory for the document}
mkdir -p "$to"
# It is written beside Cargo.toml, whatever its name, and with the path of this machine.
cargo cyclonedx --quiet --format json --spec-version 1.5 --all --target all --override-filename calry-gitops.cdx
sed "s|path+file://$PWD#||g" calry-gitops.cdx.json >"$to/calry-gitops-$version.cdx.json"
rm calry-gitops.cdx.json
printf '%s\n' "$to/calry-gitops-$version.cdx.json"
