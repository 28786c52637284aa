#!/usr/bin/env bash
# Does what a newcomer does: starts the first command of the README, edits a file, clicks in the sandbox by the curl line
# that is printed, and looks whether each is followed. Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS
# names) and curl.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/need.sh
. tests/need.sh

command=$(grep -om1 'cargo run -- run --sandbox' README.md)
work=$(mktemp -d)
cp -r definitions "$work/definitions"
daemon=
finish() {
    if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

# Not by cargo, so that the process that is started is the one that a signal reaches.
CALRY_DEFINITIONS="$work/definitions" ${command/cargo run --/"${CALRY_GITOPS:-target/debug/calry-gitops}"} --interval 5s >"$work/out" 2>&1 &
daemon=$!

expect "$work/out" 'reconciliation 1 (start).*12 updated'
url=$(grep -oEm1 'http://127\.0\.0\.1:[0-9]+' "$work/out")
key=$(grep -oEm1 'zepl\.sandbox-read\.[^ ]+' "$work/out")
icon() {
    curl -sS -H "x-calry-api-key: $key" "$url/api/v1/integration-definition/$1" | grep -o '"icon":"[^"]*"'
}

echo 'icon: https://cdn.example.com/icons/guesty-2.png' >>"$work/definitions/guesty.yaml"
expect "$work/out" 'GUESTY updated: icon'
[ "$(icon GUESTY)" = '"icon":"https://cdn.example.com/icons/guesty-2.png"' ]

# Exactly the line that is printed, continuation lines and all.
sed -n '/^ *curl /,/[^\\]$/p' "$work/out" | bash >/dev/null
expect "$work/out" 'HOSTAWAY drifted; drift undone: icon'
[ "$(icon HOSTAWAY)" = '"icon":"https://cdn.example.com/icons/hostaway.png"' ]

kill -TERM "$daemon"
wait "$daemon"
daemon=
expect "$work/out" 'stopped'
echo "the quick start does what the README says"
