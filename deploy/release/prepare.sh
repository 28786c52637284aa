#!/usr/bin/env bash
# prepare.sh VERSION: writes the version of the next release into every file that has one, and its heading into CHANGELOG.md.
set -euo pipefail
# shellcheck source=deploy/release/common.sh
. "$(dirname "$0")/common.sh"

next=${1:-}
[ -n "$next" ] || fail "name the version: deploy/release/prepare.sh 1.2.3"
[[ $next =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$ ]] || fail "$next is not a version"
if grep -qF "## [$next]" CHANGELOG.md; then fail "CHANGELOG.md has a section for $next already"; fi
deploy/release/notes.sh vUnreleased >/dev/null || fail "nothing below [Unreleased] would be released"
old=${version//./\\.}
sed -i "0,/^version = \"$old\"$/s//version = \"$next\"/" Cargo.toml
sed -i "/^name = \"calry-gitops\"$/{n;s/\"$old\"/\"$next\"/;}" Cargo.lock
sed -i "s/^## \[Unreleased\]$/&\n\n## [$next] - $(date -u +%F)/" CHANGELOG.md
git grep -lz --fixed-strings "$version" -- README.md deploy docs templates |
    xargs -0 sed -i "s/\(^\|[^0-9.]\)$old\([^0-9.]\|\.[^0-9]\|$\)/\1$next\2/g"
deploy/release/verify-version.sh "v$next"
