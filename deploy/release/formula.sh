#!/usr/bin/env bash
# formula.sh DIR: fills the Homebrew formula with the version and the sums of the archives in a directory, as
# DIR/calry-gitops.rb.
set -euo pipefail
# shellcheck source=deploy/release/common.sh
. "$(dirname "$0")/common.sh"

directory=${1:?the directory of the release}
formula=$(sed "1d; s/@version@/$version/g" deploy/homebrew/calry-gitops.rb)
for target in $(printf '%s\n' "$formula" | sed -n 's/.*@sha256:\(.*\)@.*/\1/p'); do
    sum=$(sha256sum "$directory/calry-gitops-$version-$target.tar.gz")
    formula=${formula//@sha256:$target@/${sum%% *}}
done
printf '%s\n' "$formula" >"$directory/calry-gitops.rb"
