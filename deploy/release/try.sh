#!/usr/bin/env bash
# try.sh TARGET DIR: unpacks DIR/calry-gitops-VERSION-TARGET.tar.gz in an empty directory and runs the program there.
set -euo pipefail
# shellcheck source=deploy/release/common.sh
. "$(dirname "$0")/common.sh"

target=${1:?the target, as x86_64-unknown-linux-gnu}
archive=$(cd "${2:?the directory of the archive}" && pwd)/calry-gitops-$version-$target.tar.gz
commit=$(git rev-parse HEAD)
definitions=$PWD/definitions
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

tar -xzf "$archive"
[ "$(ls)" = "calry-gitops-$version-$target" ] || fail "the archive holds more than one directory"
cd "calry-gitops-$version-$target"
for file in calry-gitops README.md LICENSE CHANGELOG.md completions/_calry-gitops completions/_calry-gitops.ps1 \
    completions/calry-gitops.bash completions/calry-gitops.fish man/calry-gitops.1 man/calry-gitops-run.1; do
    [ -s "$file" ] || fail "the archive has no $file"
done
[ "$(./calry-gitops --version)" = "calry-gitops $version ($commit)" ] ||
    fail "--version prints $(./calry-gitops --version), and the commit is $commit"
./calry-gitops validate --quiet --definitions "$definitions"
./calry-gitops run --once --sandbox --quiet --definitions "$definitions" --listen 127.0.0.1:0 >"$work/log" 2>&1 ||
    fail "it does not bring a workspace in sync: $(cat "$work/log")"
printf '%s: calry-gitops %s (%s) starts and brings a workspace in sync\n' "$target" "$version" "$commit"
