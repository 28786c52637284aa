#!/usr/bin/env bash
# notes.sh TAG: prints what CHANGELOG.md lists for a release.
set -euo pipefail
# shellcheck source=deploy/release/common.sh
. "$(dirname "$0")/common.sh"

tag=${1:?the tag, as v1.2.3}
notes=$(awk -v heading="## [${tag#v}]" '
    index($0, heading) == 1 { found = 1; next }
    /^## / || /^\[[^]]*\]: / { found = 0 }
    found' CHANGELOG.md)
[[ $notes == *[![:space:]]* ]] || fail "CHANGELOG.md has no section for ${tag#v}, or nothing in it"
# Without the blank lines around it.
printf '%s\n' "$notes" | sed '/./,$!d'
