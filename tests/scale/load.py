"""Faults at a rate below a daemon with many workspaces, while files and Calry are edited: load.py BINARY SANDBOX COUNT SECONDS
FAULTS INTERVAL. See tests/load.sh."""

import collections
import datetime
import json
import pathlib
import random
import statistics
import subprocess
import sys
import time
import urllib.request

import faulty
from workspaces import Process, key, lay, workspaces

# After the last fault, the longest pause is over after this time: DESIGN and docs/daemon.md say 5 minutes, plus a tenth.
LONGEST_PAUSE = 300
# What a loop may take beyond its pauses: on a machine of two cores, the sandbox, the proxy and this program run beside it.
SLACK = 3
EDITED = ["GUESTY", "HOSTAWAY"]

binary, sandbox = sys.argv[1:3]
count, length, rate, interval = int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]), float(sys.argv[6])
dice = random.Random(1)
failed = []


def verdict(holds, sentence):
    print(("ok      " if holds else "FAILED  ") + sentence, flush=True)
    if not holds:
        failed.append(sentence)


class Wanted:
    """What the file of a provider says."""

    def __init__(self, n, provider):
        self.path = pathlib.Path(f"ws/{n}/{provider.lower()}.yaml")
        self.n, self.provider, self.icon, self.fields, self.broken = n, provider, "first", ["name"], False

    def write(self):
        text = f"provider: {self.provider}\nicon: https://cdn.example.com/{self.icon}.png\nfieldsToSync:\n  listing: [{', '.join(self.fields)}]\n"
        text = text.replace("icon:", "icn:") if self.broken else text
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.rename(self.path)

    def is_live(self, live):
        listing = live["fieldsToSync"].get("listing", {})
        on = sorted(field for field, value in listing.items() if value)
        return live.get("icon") == f"https://cdn.example.com/{self.icon}.png" and on == sorted(self.fields)


def calry(n, method="GET", path="", body=None):
    """Asks the sandbox itself, without faults."""
    url = f"{sandbox}/api/v1/integration-definition{path}"
    data = json.dumps(body).encode() if body else None
    headers = {"x-calry-api-key": key(n), "content-type": "application/json"}
    request = urllib.request.Request(url, data, headers, method=method)
    return json.load(urllib.request.urlopen(request, timeout=60))


def not_live(ns):
    """The workspaces of these that differ from their files."""
    found = []
    for n in ns:
        live = {one["provider"]: one for one in calry(n)}
        if not all(wanted[n, provider].is_live(live[provider]) for provider in EDITED):
            found.append(n)
    return found


proxy = faulty.Proxy(sandbox, 0, hang=interval)
# One reconciliation may take an interval, and one request half of it: the defaults for an interval of 60 s.
settings = [f"interval: {interval:g}s", f"timeout: {interval:g}s", f"requestTimeout: {interval / 2:g}s", "logFormat: json"]
lay(count, proxy.address, settings)
wanted = {(n, provider): Wanted(n, provider) for n in range(count) for provider in EDITED}
for one in wanted.values():
    one.write()
log = open("daemon.out", "w")
child = subprocess.Popen([binary, "run", "--config", "calry-gitops.yaml"], stdout=log, stderr=log)
daemon = Process(child.pid)


def address():
    for line in pathlib.Path("daemon.out").read_text().splitlines():
        if "listening on http://" in line:
            return "http://" + line.split("listening on http://")[1].split("/")[0]
    return None


try:
    while address() is None:
        assert child.poll() is None, pathlib.Path("daemon.out").read_text()
        time.sleep(0.1)
    # Every workspace starts within the first interval, and is brought into sync without a fault.
    time.sleep(1.2 * interval)
    differing = range(count)
    while differing := not_live(differing):
        assert child.poll() is None, "the daemon ended"
        time.sleep(0.5)
    began, spent = time.time(), daemon.cpu()
    at_start = (proxy.requests, proxy.updates, proxy.reads_of_workspaces)
    proxy.rate = rate
    edits = clicks = breaks = 0
    samples, broken = [], []
    while (now := time.time()) < began + length:
        # One edit and one click a second; each tenth edit breaks a file for some seconds.
        if edits < now - began:
            edits += 1
            one = wanted[dice.randrange(count), dice.choice(EDITED)]
            one.icon, one.fields = f"edit-{edits}", dice.choice([["name"], ["name", "rooms"], ["name", "pictures"]])
            if dice.random() < 0.1:
                one.broken = True
                breaks += 1
                broken.append((now + 5, one))
            one.write()
        if clicks < now - began:
            clicks += 1
            n, provider = dice.randrange(count), dice.choice(EDITED)
            calry(n, "PATCH", f"/{provider}", {"icon": f"https://clicked.example.com/{clicks}.png"})
        while broken and broken[0][0] < now:
            one = broken.pop(0)[1]
            one.broken = False
            one.write()
        samples.append((now - began, daemon.status("VmRSS") / 1024, daemon.files(), daemon.status("Threads")))
        time.sleep(0.25)
    ended, used = time.time(), daemon.cpu()
    faults, faulty_updates = sum(proxy.faults.values()), proxy.faulty_updates
    proxy.rate = 0
    for _, one in broken:
        one.broken = False
        one.write()
    at_end = (proxy.requests, proxy.updates, proxy.reads_of_workspaces)
    requests, updates, of_workspaces = (after - before for after, before in zip(at_end, at_start))

    # The end: everything is as git wants it, and nothing more is sent.
    differing, deadline = range(count), ended + 1.1 * max(LONGEST_PAUSE, interval) + interval
    while (differing := not_live(differing)) and time.time() < deadline:
        time.sleep(0.5)
    settled = time.time() - ended
    # The back-offs of all workspaces, also of those in which nothing differs, end as well.
    while [one for one in workspaces(address()) if one["lastPass"]["result"] not in ("ok", "applied")]:
        if time.time() > deadline:
            break
        time.sleep(1)
    recovered = time.time() - ended
    quiet, quiet_since = proxy.updates, proxy.requests
    time.sleep(1.2 * interval + 1)
    quiet, quiet_requests = proxy.updates - quiet, proxy.requests - quiet_since
    status = workspaces(address())
    lines = [json.loads(line) for line in pathlib.Path("daemon.out").read_text().splitlines()]
    rss_end, peak = daemon.status("VmRSS") / 1024, daemon.status("VmHWM") / 1024
finally:
    child.kill()

# The reconciliations of each workspace: when each ended, how long it took, and its result.
passes = collections.defaultdict(list)
for line in lines:
    if "pass" in line and "result" in line:
        at = datetime.datetime.fromisoformat(line["timestamp"].replace("Z", "+00:00")).timestamp()
        passes[line["workspace"]].append((at, line["duration_seconds"], line["result"]))
during = [one for each in passes.values() for one in each if began <= one[0] < ended]
results = collections.Counter(result for _, _, result in during)
regular, backed_off, late = [], [], []
for each in passes.values():
    failures = 0
    for (at, _, result), (then, took, _) in zip(each, each[1:]):
        failures = failures + 1 if result == "failed" else 0
        if failures <= 1:
            regular.append(then - at)
        else:
            backed_off.append(then - at)
            # The pause doubles with each failure after the first, up to 5 minutes, and is spread by a tenth.
            pause = min(1.1 * interval * 2 ** (failures - 1), max(LONGEST_PAUSE, interval))
            late.append(then - at - took - pause)

third = len(samples) // 3
rss = [sample[1] for sample in samples]
first, last = statistics.median(rss[:third]), statistics.median(rss[-third:])
files = [sample[2] for sample in samples]
threads = [sample[3] for sample in samples]
tenth = rss[len(rss) // 10]
bound = len(during) + count + of_workspaces + 3 * updates + faults

print(f"load:   {faults} faults in {ended - began:.0f} s ({faults / (ended - began):.1f} a second), {edits} edits ({breaks} broken), {clicks} clicks")
print(f"        {dict(sorted(proxy.faults.items()))}")
print(f"passes: {len(during)}, {dict(results)}; {requests} requests, {updates} of them updates")
print(f"cpu:    {(used - spent) / (ended - began):.2f} cores")
print(f"memory: {tenth:.0f} MiB after a tenth, {rss[len(rss) // 2]:.0f} at half, {rss[-1]:.0f} at the end of the faults, {rss_end:.0f} later; at most {peak:.0f}")
print(f"files:  {statistics.median(files):.0f} open (at most {max(files)}), threads at most {max(threads)}")
verdict(faults >= 0.7 * rate * length, f"at least 70 % of {rate:g} faults a second were injected")
# A short run is still warming up in its first third.
warming = 1 if length >= 300 else 12
verdict(last <= 1.1 * first + warming, f"memory is flat: median {first:.0f} MiB in the first third, {last:.0f} in the last")
# Two answers of 32 MiB are read at a time.
most = 2 * 32 + 30 + 0.11 * count
verdict(peak < most, f"memory is at most {most:.0f} MiB: {peak:.0f}")
verdict(
    statistics.median(files[-third:]) <= statistics.median(files[:third]) + 32 and max(files) < 128 + 256,
    "open files are flat, and no more than the connections that may wait",
)
verdict(
    max(regular) <= 2 * interval + SLACK,
    f"without a back-off, no two reconciliations are further apart than two intervals and {SLACK} s: {max(regular):.1f} s of {2 * interval + SLACK:g}",
)
if late:
    verdict(
        max(late) <= SLACK,
        f"after {len(backed_off)} repeated failures the next one comes when the documented pause ends, at most {max(max(late), 0):.1f} s later",
    )
verdict(requests <= bound, f"at most one request a reconciliation, three an update and one a fault: {requests} of {bound}")
verdict(
    updates <= edits + clicks + faulty_updates + breaks,
    f"at most one update for each edit, click and fault of an update: {updates} of {edits + clicks + faulty_updates + breaks}",
)
verdict(not differing, f"after the last fault, Calry is as git wants it: after {settled:.1f} s")
verdict(
    all(one["lastPass"]["result"] in ("ok", "applied") and one["ready"] and one["alive"] for one in status),
    f"every workspace is ready, and its last reconciliation succeeded: after {recovered:.1f} s",
)
verdict(quiet == 0, f"then nothing is updated: {quiet} updates, {quiet_requests} requests in {1.2 * interval + 1:.0f} s")
internal = [line["message"] for line in lines if "internal error" in line["message"] or "panic" in line["message"]]
verdict(not internal, f"no panic and no internal error {internal[:3] or ''}")
sys.exit(bool(failed))
