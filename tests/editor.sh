#!/usr/bin/env bash
# Shows definition files to an editor: the YAML language server over stdio, with the schema that `schema` prints and with
# the one that `schema --from-live` prints for a sandbox. tests/editor/complete.mjs asks for completions and diagnostics.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names) and node. The language server is
# installed into a cache. It reads files of the test alone: its schema store is switched off.
set -euo pipefail

server_version=2.0.0
root=$(cd "$(dirname "$0")/.." && pwd)
binary=${CALRY_GITOPS:-$root/target/debug/calry-gitops}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source=tests/need.sh
. "$root/tests/need.sh"
server=$(node_tool yaml-language-server "$server_version")/yaml-language-server

# look NAME SCHEMA: the files of the project, and those that the driver makes up, beside this schema.
look() {
    mkdir "$work/$1"
    cp "$root"/definitions/*.yaml "$work/$1"
    cp "$2" "$work/$1/definition.schema.json"
    "$binary" schema workspace >"$work/$1/workspace.schema.json"
    timeout 120 node "$root/tests/editor/complete.mjs" "$server" "$work/$1"
    echo "an editor completes and checks by the schema that is $1"
}

"$binary" schema >"$work/built-in.json"
cmp "$work/built-in.json" "$root/definitions/definition.schema.json"
look built-in "$work/built-in.json"

"$binary" schema --from-live --sandbox --definitions "$root/definitions" >"$work/live.json" 2>"$work/log" || {
    cat "$work/log" >&2
    exit 1
}
look live "$work/live.json"
