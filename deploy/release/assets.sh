#!/usr/bin/env bash
# assets.sh DIR: adds what a release has beside the archives and packages in a directory, and then SHA256SUMS of everything.
set -euo pipefail
# shellcheck source=deploy/release/common.sh
. "$(dirname "$0")/common.sh"

to=${1:?the directory of the release}
deploy/release/sbom.sh "$to"
deploy/release/formula.sh "$to"
cp deploy/install.sh "$to/"
cd "$to"
rm -f SHA256SUMS
sums=$(sha256sum -- *)
printf '%s\n' "$sums" | tee SHA256SUMS
