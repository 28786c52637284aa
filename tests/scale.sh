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
cd "$work"
unset CALRY_API_KEY CALRY_CONFIG

(ulimit -n "$(ulimit -Hn)"; exec "$binary" sandbox --listen 127.0.0.1:0 --workspaces "$count" --latency 20ms >sandbox.out 2>&1) &
pids+=($!)
disown # so that its end is not reported
until url=$(grep -om1 'http://127.0.0.1:[0-9]*' sandbox.out); do sleep 0.1; done
mkdir first
"$binary" pull -d first --api-url "$url" --api-key-file <(echo zepl.sandbox-write.not-a-secret.acme-production) >/dev/null 2>pull.err || {
    cat pull.err
    exit 1
}
rm -f first/workspace.yaml
find first -name "*.yaml" | sort | tail -n +21 | xargs rm -f
python3 - "$count" "$url" "$repositories" <<'PY'
import pathlib, re, subprocess, sys
count, url, repositories = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
lines = ["interval: 60s", f"apiUrl: {url}", "listen: 127.0.0.1:0"]
lines += ["gitInterval: 5s"] * bool(repositories) + ["workspaces:"]
files = {path.name: path.read_text() for path in pathlib.Path("first").glob("*.yaml")}
for n in range(count):
    slug = "acme-production" + (f"-{n}" if n else "")
    directory = pathlib.Path(f"work/{n % repositories}/ws/{n}" if repositories else f"ws/{n}")
    directory.mkdir(parents=True)
    for name, text in files.items():
        # The values of partner keys stay Calry's.
        (directory / name).write_text(re.sub(r"(?ms)^partnerKey:.*?(?=^\S)", "", text))
    pathlib.Path(f"key-{n}").write_text(f"zepl.sandbox-write.not-a-secret.{slug}")
    lines += [f"  - name: w{n}", f"    apiKeyFile: key-{n}"]
    if repositories:
        lines += [f"    gitUrl: http://127.0.0.1:PORT/{n % repositories}.git", f"    gitPath: ws/{n}"]
    else:
        lines += [f"    definitions: ws/{n}"]
for n in range(repositories):
    bare, work = f"served/{n}.git", f"work/{n}"
    git = lambda *arguments: subprocess.run(["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com", *arguments], check=True)
    git("init", "--quiet", "--bare", "--initial-branch=main", bare)
    git("init", "--quiet", "--initial-branch=main", work)
    git("-C", work, "add", "--all")
    git("-C", work, "commit", "--quiet", "--message=Add the workspaces")
    git("-C", work, "push", "--quiet", str(pathlib.Path(bare).absolute()), "main")
pathlib.Path("calry-gitops.yaml").write_text("\n".join(lines) + "\n")
print(f"{count} workspaces of {len(files)} providers each")
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
import collections, datetime, json, os, pathlib, re, subprocess, sys, time, urllib.request
pid, address, count, length, max_mib, max_share, repositories = sys.argv[1:]
count, length, repositories = int(count), int(length), int(repositories)
tick = os.sysconf("SC_CLK_TCK")

def cpu():
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / tick

def memory(key):
    return int(re.search(rf"{key}:\s+(\d+)", open(f"/proc/{pid}/status").read())[1])

def status():
    return json.load(urllib.request.urlopen(f"{address}/api/v1/status", timeout=60))["workspaces"]

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
    git = lambda *arguments: subprocess.run(["git", "-C", at, "-c", "user.name=Ada", "-c", "user.email=ada@example.com", *arguments], check=True)
    git("commit", "--quiet", "--all", "--message=Change one")
    git("push", "--quiet", str(pathlib.Path(f"served/{at.name}.git").absolute()), "main")
while f"w{count // 2}: " not in "".join(l for l in log.read_text().splitlines() if " updated: icon" in l):
    assert time.time() < changed + (90 if repositories else 30), "the change was not acted on"
    time.sleep(0.05)
print(f"change: applied after {time.time() - changed:.2f} s")
most_threads = most_files = 0
while time.time() < began + length:
    most_threads = max(most_threads, memory("Threads"))
    most_files = max(most_files, len(os.listdir(f"/proc/{pid}/fd")))
    time.sleep(0.5)
share = (cpu() - half) / (time.time() - middle)
rss, peak = memory("VmRSS") / 1024, memory("VmHWM") / 1024
all_ = status()
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
