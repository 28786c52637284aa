#!/usr/bin/env bash
# Many workspaces in one daemon, measured: N workspaces of 20 providers each (1000 by default), at an interval
# of 60 s, on one sandbox of this machine, for some seconds from the start (150 by default).
#   tests/scale.sh [N] [SECONDS] [REPOSITORIES]    CALRY_GITOPS is the binary, if it is not to be built
# With a number of repositories, the daemon fetches the definitions from so many of them, served by git http-backend.
# Prints what the daemon takes, and how its reconciliations are spread; fails if that is more than the limits below, which are
# meant for 1,000 workspaces on an idle machine.
set -euo pipefail
cd "$(dirname "$0")/.."
count=${1:-1000} length=${2:-150} repositories=${3:-0} max_mib=150 max_share=0.5

# shellcheck source=tests/scale/setup.sh
. tests/scale/setup.sh
sandbox "$count"
python3 - "$count" "$url" "$repositories" <<'PY'
import sys, workspaces
count, url, repositories = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
workspaces.lay(count, url, ["interval: 60s"] + ["gitInterval: 5s"] * bool(repositories), repositories)
PY
port=0
if [ "$repositories" -gt 0 ]; then
    python3 -B "$here/tests/git-sync/serve.py" "$PWD/served" 0 >serve.out 2>&1 &
    pids+=($!)
    disown
    until port=$(grep -om1 '^[0-9]*' serve.out); do sleep 0.1; done
fi
sed -i "s|PORT|$port|" calry-gitops.yaml
"$binary" run --config calry-gitops.yaml >daemon.out 2>&1 &
daemon=$!
pids+=("$daemon")
disown
until address=$(grep -om1 'listening on http://[^/]*' daemon.out); do
    kill -0 "$daemon" || { cat daemon.out; exit 1; }
    sleep 0.1
done
python3 - "$daemon" "${address#listening on }" "$count" "$length" "$max_mib" "$max_share" "$repositories" <<'PY'
import collections, datetime, pathlib, re, sys, time
from workspaces import Process, git, workspaces
pid, address, count, length, max_mib, max_share, repositories = sys.argv[1:]
count, length, repositories = int(count), int(length), int(repositories)
daemon = Process(pid)
cpu, memory = daemon.cpu, daemon.status

began, spent = time.time(), cpu()
while time.time() < began + length / 2:
    time.sleep(1)
middle, half = time.time(), cpu()
print(f"start:  {(half - spent) / (middle - began):.2f} cores in the first {middle - began:.0f} s")
# A change in one of them, as quickly as in a daemon that has one.
log = pathlib.Path("daemon.out")
at = pathlib.Path(f"work/{count // 2 % repositories}" if repositories else ".")
path = sorted((at / f"ws/{count // 2}").glob("*.yaml"))[0]
path.write_text(path.read_text() + "\nicon: https://cdn.example.com/changed.png\n"
                if "icon:" not in path.read_text()
                else re.sub(r"(?m)^icon:.*$", "icon: https://cdn.example.com/changed.png", path.read_text()))
changed = time.time()
if repositories:
    # Without a hook, the next fetch finds it.
    git(at, "commit", "--quiet", "--all", "--message=Change one")
    git(at, "push", "--quiet", str(pathlib.Path(f"served/{at.name}.git").absolute()), "main")
while f"w{count // 2}: " not in "".join(l for l in log.read_text().splitlines() if " updated: icon" in l):
    assert time.time() < changed + (90 if repositories else 30), "the change was not acted on"
    time.sleep(0.05)
print(f"change: applied after {time.time() - changed:.2f} s")
most_threads = most_files = 0
while time.time() < began + length:
    most_threads = max(most_threads, memory("Threads"))
    most_files = max(most_files, daemon.files())
    time.sleep(0.5)
share = (cpu() - half) / (time.time() - middle)
rss, peak = memory("VmRSS") / 1024, memory("VmHWM") / 1024
all_ = workspaces(address)
print(f"steady: {share:.2f} cores, {rss:.0f} MiB resident (at most {peak:.0f}), {most_threads} threads, {most_files} open files")
states = collections.Counter((one["lastPass"] or {}).get("result") for one in all_)
numbers = collections.Counter((one["lastPass"] or {}).get("number") for one in all_)
print(f"passes: {dict(states)}; last pass by number: {dict(sorted(numbers.items()))}")
at = [datetime.datetime.fromisoformat(one["lastPass"]["began"].replace("Z", "+00:00")).timestamp() for one in all_]
buckets = collections.Counter(int((max(at) - one) // 6) for one in at)
print("spread: passes begun in each 6 s of the last interval:", [buckets[n] for n in range(11)])
took = sorted(one["lastPass"]["durationSeconds"] for one in all_)
print(f"took:   half of the passes {took[len(took) // 2] * 1000:.0f} ms, the longest {took[-1] * 1000:.0f} ms")
assert set(states) <= {"ok", "applied"}, states
assert all(one["ready"] for one in all_)
if count >= 100:
    assert max(buckets.values()) < count / 4, "passes are not spread"
assert peak < float(max_mib), "too much memory"
assert share < float(max_share), "too much processor time"
PY
