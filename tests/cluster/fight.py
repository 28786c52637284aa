"""What replicas fight over: a Calry that records the writer, content and time of each update, definitions that change all the time, and
a judge who knows from the API server's audit log who held which Lease when."""

import contextlib
import datetime
import http.client
import http.server
import itertools
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from cluster import MORTAL, until

BINARY = os.environ["CALRY_GITOPS"]
DURATION, DEADLINE, RETRY = 4.0, 3.0, 0.5
# The longest time, in seconds, between a replica's decision to write and its record in Calry.
SLACK = 0.25
# How long Calry takes for an update, in seconds.
PATIENCE = 0.1
SLUG = "acme-production"
ACCOUNTS = "system:serviceaccount:"
# What a Pod has of its account, and who puts a directory there for one process and what that starts.
MOUNTED = "/run/secrets/kubernetes.io/serviceaccount"
MOUNT = ["unshare", "--mount", "sh", "-euc", f'''
mount -t tmpfs none /run
mkdir -p {MOUNTED}
mount --bind "$1" {MOUNTED}
shift
exec "$@"
''', "sh"]
PROVIDERS = ("BOOM", "GUESTY", "HOSTAWAY", "LODGIFY")


@dataclass
class Write:
    """An update as Calry saw it. It ends when it is answered, or when the one that sent it gives up."""

    replica: str
    workspace: str
    provider: str
    began: float
    ended: float = float("inf")
    status: int = 0

    def __str__(self):
        return f"{self.replica} wrote {self.provider} of {self.workspace} from {self.began:.3f} to {self.ended:.3f}"


@dataclass
class Turn:
    """A change of a Lease that went through."""

    lease: str
    holder: str
    replica: str
    received: float
    done: float
    duration: int

    def __str__(self):
        return f"{self.lease} went to {self.holder or 'no replica'} between {self.received:.3f} and {self.done:.3f}"


def when(event, key):
    return datetime.datetime.fromisoformat(event[key]).timestamp()


def turns(cluster, namespace):
    """The history of the namespace's Leases, in its order. A deletion is none: a new Lease has no holder."""
    made = [(event["responseObject"], event) for event in cluster.audit(namespace)
            if event["verb"] in ("create", "update", "patch")
            and event.get("responseObject", {}).get("kind") == "Lease"]
    history, claims = [], {}
    for lease, event in sorted(made, key=lambda one: int(one[0]["metadata"]["resourceVersion"])):
        name, spec = lease["metadata"]["name"], lease["spec"]
        holder = spec.get("holderIdentity") or ""
        claim, before = (holder, spec.get("renewTime")), claims.get(name)
        claims[name] = claim
        # Another writer follows no rules, and a replica that asks for the Lease renews nothing.
        own = event["user"]["username"].startswith(ACCOUNTS) and holder.startswith("calry-") and claim != before
        at = when(event, "requestReceivedTimestamp"), when(event, "stageTimestamp")
        history.append(Turn(
            name, holder, holder.split("_")[0] if own else "", *at, spec.get("leaseDurationSeconds", 0)
        ))
    return history


def judge(writes, turns, thaws=(), in_flight=1):
    """What is wrong with the writes of one workspace, by the turns of its Lease: a sentence for each. A replica that
    was frozen may have had that many requests in flight, which land late: (replica, when it went on)."""
    faults, excused = [], {}
    for write in sorted(writes, key=lambda write: write.began):
        own = [number for number, turn in enumerate(turns)
               if turn.replica == write.replica and turn.received <= write.began]
        fault = None
        if not own:
            fault = "who never held the Lease"
        elif (age := write.began - turns[own[-1]].received) > DEADLINE + SLACK:
            fault = f"{age:.3f} s after it renewed the Lease"
        else:
            taken = [turn for turn in turns[own[-1] + 1:]
                     if turn.replica not in ("", write.replica) and turn.received < write.ended]
            if taken:
                fault = f"although {taken[0]}"
        if fault is None:
            continue
        thaw = next((thaw for thaw in thaws if thaw[0] == write.replica and thaw[1] <= write.began < thaw[1] + 1), None)
        if thaw and len(late := excused.setdefault(thaw, [])) < in_flight:
            late.append(write)
            continue
        faults.append(f"{write}, {fault}")
    late = list(itertools.chain(*excused.values()))
    for one, other in itertools.combinations(writes, 2):
        if one.replica != other.replica and one.began < other.ended and other.began < one.ended:
            if one not in late and other not in late:
                faults.append(f"{one}, and meanwhile {other}")
    return faults


class Door(http.server.ThreadingHTTPServer):
    """Calry's door for one replica, behind which all replicas meet in one sandbox."""

    daemon_threads = True

    def __init__(self, calry, replica):
        super().__init__(("127.0.0.1", 0), Request)
        self.calry, self.replica = calry, replica
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle_error(self, *_):
        """A client that hangs up was killed."""


class Request(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.sandbox = http.client.HTTPConnection("127.0.0.1", self.server.calry.port, timeout=30)

    def finish(self):
        self.sandbox.close()
        super().finish()

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(*self.forward(None))

    def do_PATCH(self):
        calry = self.server.calry
        body = self.rfile.read(int(self.headers["Content-Length"]))
        workspace = self.headers["x-calry-api-key"].split(".")[-1]
        write = Write(self.server.replica, workspace, self.path.rsplit("/", 1)[1], time.time())
        calry.writes.append(write)
        try:
            # It takes its time, in which its sender may give up.
            if select.select([self.connection], [], [], calry.patience)[0]:
                self.close_connection = True
                return
            status, answer = self.forward(body) if calry.works else (500, b'{"message": "It is broken", "details": []}')
            write.status = status
            self.answer(status, answer)
        finally:
            write.ended = time.time()

    def forward(self, body):
        headers = {name: self.headers[name] for name in ("x-calry-api-key", "Content-Type") if name in self.headers}
        self.sandbox.request(self.command, self.path, body, headers)
        answer = self.sandbox.getresponse()
        return answer.status, answer.read()

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Calry:
    """The sandbox, and what was written to it by whom."""

    def __init__(self, workspaces=1):
        self.writes, self.patience, self.works = [], PATIENCE, True
        self.slugs = [SLUG] + [f"{SLUG}-{number}" for number in range(1, workspaces)]
        self.process = subprocess.Popen(
            [*MORTAL, BINARY, "sandbox", "--listen=127.0.0.1:0", f"--workspaces={workspaces}"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        banner = ""
        while "WRITE key" not in banner:
            line = self.process.stdout.readline()
            assert line, banner
            banner += line
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)", banner)[1])

    def key(self, slug):
        return f"zepl.sandbox-write.not-a-secret.{slug}"

    def drift(self, slug, provider, icon):
        """A click in the console."""
        url = f"http://127.0.0.1:{self.port}/api/v1/integration-definition/{provider}"
        request = urllib.request.Request(
            url, json.dumps({"icon": icon}).encode(),
            {"x-calry-api-key": self.key(slug), "Content-Type": "application/json"}, method="PATCH",
        )
        urllib.request.urlopen(request, timeout=10).close()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@dataclass
class Replica:
    """A daemon, and what only its Pod has: a name, a clock, a door to Calry."""

    name: str
    process: subprocess.Popen
    door: Door
    log: Path
    clock: Path
    ended: float = 0.0
    frozen: bool = False
    thaws: list = field(default_factory=list)

    def alive(self):
        return self.process.poll() is None

    def said(self):
        return self.log.read_text(errors="replace")

    def address(self):
        return re.search(r"listening on (http://127\.0\.0\.1:\d+)", self.said())

    def ask(self, path, method="GET"):
        """Status and answer of the admin server."""
        # urllib.request asks for the connection to be closed, as a proxy does.
        address = urllib.parse.urlsplit(self.address()[1])
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def leads(self):
        """The workspaces that it says it leads."""
        workspaces = json.loads(self.ask("/api/v1/status")[1])["workspaces"]
        return {one["workspace"]["slug"] for one in workspaces if (one["leadership"] or {}).get("state") == "leader"}

    def freeze(self):
        self.frozen = True
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        if self.frozen:
            self.thaws.append((self.name, time.time()))
            self.process.send_signal(signal.SIGCONT)
            self.frozen = False

    def end(self, how):
        """Its exit code."""
        self.process.send_signal(how)
        if how == signal.SIGKILL:
            self.process.send_signal(signal.SIGCONT)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.ended = time.time()

    def turn_clock(self, days):
        """Its wall clock is wrong by that many days from now on."""
        new = self.clock.with_suffix(".new")
        new.write_text(f"{days * 86400:+d}\n")
        new.rename(self.clock)


class World:
    """Replicas of one Deployment on a cluster, and what they keep."""

    def __init__(self, cluster, namespace, account, workspaces=1, concurrency=1, arguments=()):
        self.cluster, self.namespace, self.account = cluster, namespace, account
        self.concurrency, self.arguments = concurrency, arguments
        self.work = cluster.work / namespace
        self.work.mkdir()
        self.calry = Calry(workspaces)
        self.kubeconfig = cluster.kubeconfig(cluster.token(namespace, account), namespace)
        self.replicas, self.revision, self.writing = [], 0, threading.Event()
        for slug in self.calry.slugs:
            (self.work / slug).mkdir()
            (self.work / f"{slug}.key").write_text(self.calry.key(slug))
        self.publish()

    def publish(self):
        """Something to write, in each workspace."""
        self.revision += 1
        for slug in self.calry.slugs:
            for provider in PROVIDERS:
                at = self.work / slug / f"{provider.lower()}.yaml"
                new = at.with_name(".new")
                new.write_text(f"provider: {provider}\nicon: {self.icon()}\n")
                new.rename(at)

    def icon(self):
        return f"https://cdn.example.com/{self.revision}.png"

    @contextlib.contextmanager
    def always_something_to_write(self):
        stop = threading.Event()

        def go_on():
            while not stop.wait(0.6):
                self.publish()

        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def start(self, days=0, definitions=None, mounted=None):
        """One more replica, whose wall clock is wrong by that many days. It may have definitions of its own, and, as in a
        Pod, no kubeconfig but this directory of its account."""
        name = f"calry-{len(self.replicas)}"
        door, clock, log = Door(self.calry, name), self.work / f"{name}.clock", self.work / f"{name}.log"
        clock.write_text(f"{days * 86400:+d}\n")
        config = self.work / f"{name}.yaml"
        config.write_text(json.dumps({
            "apiUrl": door.url, "interval": "1s", "concurrency": self.concurrency,
            "listen": "127.0.0.1:0", "adminRate": 100_000,
            "leaderElection": True, "leaseDuration": f"{DURATION:g}s", "leaseRenewDeadline": f"{DEADLINE:g}s",
            "leaseRetryPeriod": f"{RETRY * 1000:g}ms", "kubernetesEvents": True,
            "workspaces": [
                {"name": slug, "definitions": str((definitions or self.work) / slug),
                 "apiKeyFile": str(self.work / f"{slug}.key")}
                for slug in self.calry.slugs
            ],
        }))
        mount, access = [], {"KUBECONFIG": str(self.kubeconfig), "POD_NAMESPACE": self.namespace}
        if mounted:
            mount = [*MOUNT, mounted]
            access = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.cluster.slowed.port)}
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [*MORTAL, *mount, BINARY, "run", f"--config={config}", *self.arguments],
                stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=self.work,
                env={
                    "PATH": os.environ["PATH"], **access, "POD_NAME": name, "POD_UID": str(uuid.uuid4()),
                    # The wall clock alone is ever wrong.
                    "LD_PRELOAD": "/usr/$LIB/faketime/libfaketime.so.1", "DONT_FAKE_MONOTONIC": "1",
                    "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                },
            )
        replica = Replica(name, process, door, log, clock)
        self.replicas.append(replica)
        return replica

    def alive(self):
        return [replica for replica in self.replicas if replica.alive()]

    def writes(self, since=0.0, by=None, workspace=None):
        return [write for write in list(self.calry.writes)
                if write.began >= since and (by is None or write.replica == by.name)
                and (workspace is None or write.workspace == workspace)]

    def leader(self, workspace=SLUG):
        """Who writes now. It waits until one does."""
        since = time.time()
        write = until("a replica writes", lambda: next(iter(self.writes(since, workspace=workspace)), None), 30, 0.02)
        return next(replica for replica in self.replicas if replica.name == write.replica)

    def others(self, replica):
        return [other for other in self.alive() if other is not replica]

    def turns(self, lease=None):
        return [turn for turn in turns(self.cluster, self.namespace) if lease in (None, turn.lease)]

    def asked(self):
        """What the daemons asked of the API server: verb, resource, and whether they may."""
        def at_a_start(event):
            at = when(event, "requestReceivedTimestamp")
            return any(began <= at <= ready for began, ready in self.cluster.starts)

        return {
            (event["verb"], event["objectRef"]["resource"], event["responseStatus"]["code"] != 403)
            for event in self.cluster.audit(self.namespace)
            if event["user"].get("username", "").startswith(ACCOUNTS) and not at_a_start(event)
        }

    def faults(self, leases):
        """What is wrong with everything that was written so far; of each workspace, its Lease."""
        thaws = [thaw for replica in self.replicas for thaw in replica.thaws]
        return [fault for slug, lease in leases.items()
                for fault in judge(self.writes(workspace=slug), self.turns(lease), thaws, self.concurrency)]

    def close(self):
        for replica in self.replicas:
            if replica.alive():
                replica.end(signal.SIGKILL)
            replica.door.shutdown()
            replica.door.server_close()
        self.calry.close()
