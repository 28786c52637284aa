# Sourced by tests/scale.sh and tests/load.sh: a sandbox of many workspaces, in a directory that is removed at the end.
# shellcheck shell=bash

here=$PWD
binary=${CALRY_GITOPS:-$PWD/target/dist/calry-gitops}
[ -n "${CALRY_GITOPS:-}" ] || cargo build --quiet --locked --profile dist
work=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT
cd "$work" || exit
unset CALRY_API_KEY CALRY_CONFIG
export PYTHONPATH=$here/tests/scale PYTHONDONTWRITEBYTECODE=1

# sandbox COUNT: starts it, sets `url`, and pulls the files of 20 providers to `first`.
sandbox() {
    : >sandbox.out
    (ulimit -n "$(ulimit -Hn)"; exec "$binary" sandbox --listen 127.0.0.1:0 --workspaces "$1" --latency 20ms >sandbox.out 2>&1) &
    pids+=($!)
    disown # so that its end is not reported
    until url=$(grep -om1 'http://127.0.0.1:[0-9]*' sandbox.out); do sleep 0.1; done
    mkdir first
    "$binary" pull -d first --api-url "$url" --api-key-file <(echo zepl.sandbox-write.not-a-secret.acme-production) >/dev/null 2>pull.err || {
        cat pull.err
        return 1
    }
    rm -f first/workspace.yaml
    find first -name "*.yaml" | sort | tail -n +21 | xargs rm -f
}
