#!/usr/bin/env bash
# Many workspaces in one daemon while everything fails: about ten faults a second of every kind between the daemon and the sandbox,
# edits of files, broken files and clicks in Calry.
#   tests/load.sh [N] [SECONDS] [FAULTS] [INTERVAL]    CALRY_GITOPS is the binary, if it is not to be built
# By default 1,000 workspaces, 600 s, 10 faults a second, and an interval of 60 s. Fails if a bound of docs/faults.md is missed: memory
# and open files are flat, no interval is missed, requests are few, and after the last fault everything is as git wants it.
# Needs python3.
set -euo pipefail
cd "$(dirname "$0")/.."
count=${1:-1000} length=${2:-600} faults=${3:-10} interval=${4:-60}
# shellcheck source=tests/scale/setup.sh
. tests/scale/setup.sh
sandbox "$count"
python3 "$here/tests/scale/load.py" "$binary" "$url" "$count" "$length" "$faults" "$interval"
