#!/usr/bin/env bash
# Holds the sandbox to the API's contract: schemathesis makes up thousands of requests, good and bad, and judges each answer
# by tests/contract/calry-openapi.yaml. What is tested against the sandbox is worth as much as the sandbox is true.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names) and python3. The first run installs
# schemathesis into a cache; a run takes about a minute.
set -euo pipefail

version=4.32.5
root=$(cd "$(dirname "$0")/.." && pwd)
binary=${CALRY_GITOPS:-$root/target/debug/calry-gitops}
venv=${XDG_CACHE_HOME:-$root/target}/calry-gitops/schemathesis-$version
work=$(mktemp -d)
sandbox=

finish() {
    if [ -n "$sandbox" ]; then kill "$sandbox" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

if [ ! -e "$venv/complete" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    timeout 300 "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
    touch "$venv/complete"
fi

"$binary" sandbox --listen 127.0.0.1:0 >"$work/banner" 2>&1 &
sandbox=$!
url=
for _ in $(seq 100); do
    url=$(grep -oEm1 'http://127\.0\.0\.1:[0-9]+' "$work/banner" | head -n 1) && break
    kill -0 "$sandbox" 2>/dev/null || break
    sleep 0.1
done
key=$(grep -oE 'zepl\.sandbox-write\.[^ '"'"']+' "$work/banner" | head -n 1) || true
if [ -z "$url" ] || [ -z "$key" ]; then
    echo "the sandbox did not say where it listens and what its WRITE key is; it said:" >&2
    cat "$work/banner" >&2
    exit 1
fi

cd "$work" # schemathesis leaves files where it runs
timeout 110 "$venv/bin/schemathesis" run "$root/tests/contract/calry-openapi.yaml" \
    --url "$url" --header "x-calry-api-key: $key" --checks all --max-time 60 --request-timeout 10
