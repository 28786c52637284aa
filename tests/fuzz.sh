#!/usr/bin/env bash
# Each fuzz target for some time, one on each processor: tests/fuzz.sh [SECONDS [TARGET...]]. Without a target, all of them;
# without a time, a minute each; with --build, only the build. An input that fails is left in fuzz/artifacts, and the script says
# how to run it again.
#
# The seed is fixed, so that no change is refused for a fault that it did not bring. FUZZ_SEED sets another one, and 0 means a
# random one.
#
# New inputs are thrown away, or kept in the directory that FUZZ_CORPUS names.
#
# Needs cargo and a C++ compiler. No sanitizer: the program has no unsafe code, and so the stable toolchain is enough.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/need.sh
. tests/need.sh
need c++:g++
PATH=$(cargo_tool cargo-fuzz 0.13.2):$PATH
# Below the directory that everything ignores.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

if [ "${1:-}" = --build ]; then exec cargo fuzz build --sanitizer none; fi
seconds=${1:-60}
targets=("${@:2}")
if [ ${#targets[@]} = 0 ]; then mapfile -t targets < <(cargo fuzz list); fi
work=$(mktemp -d)
finish() {
    for job in $(jobs -p); do pkill -P "$job" || true; done
    rm -rf "$work"
}
trap finish EXIT

cargo fuzz build --sanitizer none

# fuzz TARGET
fuzz() {
    local target=$1 log=$work/$1.log new=${FUZZ_CORPUS:-$work/corpus}/$1
    local dictionary=fuzz/dictionaries/$target.dict options=()
    mkdir -p "$new" "fuzz/artifacts/$target"
    if [ -e "$dictionary" ]; then options+=(-dict="$dictionary"); fi
    # A slow input is a finding, like one that takes memory.
    if ! "$CARGO_TARGET_DIR/$host/release/$target" -seed="${FUZZ_SEED:-1}" -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb=1024 -max_len=10000 -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$target/" "${options[@]}" "$new" "fuzz/corpus/$target" \
        >"$log" 2>&1; then
        # What the property said, and the file.
        tail -n 60 "$log" | cut -c 1-2000 >&2
        found=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        echo "$target fails with $found; run it again: cargo fuzz run --sanitizer none $target $found" >&2
        return 1
    fi
    awk -v target="$target" '
        /^stat::number_of_executed_units/ { runs = $2 }
        /^stat::average_exec_per_sec/ { speed = $2 }
        /^stat::slowest_unit_time_sec/ { slowest = $2 }
        /^stat::peak_rss_mb/ { memory = $2 }
        /cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") covered = $(i + 1) }
        END { printf "%-14s %9d inputs, %6d a second, %6d edges, slowest %d s, %4d MB\n", target, runs, speed, covered, slowest, memory }
    ' "$log"
}

# One target that fails does not keep the others from being run.
running=0 failed=0
for target in "${targets[@]}"; do
    if [ "$running" = "$(nproc)" ]; then
        wait -n || failed=$((failed + 1))
        running=$((running - 1))
    fi
    fuzz "$target" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=$((failed + 1))
    running=$((running - 1))
done
if [ "$failed" != 0 ]; then
    echo "$failed of ${#targets[@]} targets fail" >&2
    exit 1
fi
echo "${#targets[@]} targets, and none fails"
