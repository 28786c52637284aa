"""Git without git-sync, as the manifests set it: replicas with the variables of the Deployment that the API server has, a git
server that asks for a token, and a push to it. Each replica fetches for itself, and only the leader writes."""

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import unittest
import urllib.parse
import uuid
from pathlib import Path

from cluster import MORTAL, until
from fight import BINARY, SLUG, Calry, Door, Replica, turns
from test_manifests import DEPLOY, OnACluster
from test_permissions import LEASE

TOKEN = "glpat-not-a-secret"
SECRET = "0123456789abcdef" * 2
SERVE = Path(__file__).parents[1] / "git-sync" / "serve.py"


class Repository:
    """A repository on a git server that asks for a token."""

    def __init__(self, work):
        self.served, self.clone, self.port, self.commits = work / "served", work / "clone", 0, 0
        self.served.mkdir()
        bare = self.served / "definitions.git"
        self.git("init", "--quiet", "--bare", "--initial-branch=main", bare)
        self.git("init", "--quiet", "--initial-branch=main", self.clone)
        self.git("-C", self.clone, "remote", "add", "origin", bare)
        (self.clone / "definitions").mkdir()
        self.start()
        self.push()

    def git(self, *arguments):
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
        done = subprocess.run(["git", *identity, *map(str, arguments)], env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def start(self):
        self.server = subprocess.Popen(
            [*MORTAL, sys.executable, "-B", SERVE, self.served, str(self.port), TOKEN], stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.server.stdout.readline())

    def stop(self):
        self.server.kill()
        self.server.wait()
        self.server.stdout.close()

    def push(self):
        """A commit that changes the icon, which it returns."""
        self.commits += 1
        icon = f"https://cdn.example.com/{self.commits}.png"
        (self.clone / "definitions" / "guesty.yaml").write_text(f"provider: GUESTY\nicon: {icon}\n")
        self.git("-C", self.clone, "add", "--all")
        self.git("-C", self.clone, "commit", "--quiet", f"--message=icon {self.commits}")
        self.git("-C", self.clone, "push", "--quiet", "origin", "main")
        return icon

    def head(self):
        return self.git("-C", self.clone, "rev-parse", "HEAD")


class FromGit(OnACluster):
    interval = "1s"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.namespace = cls.cluster.namespace()
        made = cls.apply(cls.namespace, "--kustomize", DEPLOY / "kubernetes" / "base")
        (cls.deployment,) = [one for one in made if one["kind"] == "Deployment"]
        cls.kubeconfig = cls.cluster.kubeconfig(cls.cluster.token(cls.namespace, "calry-gitops"), cls.namespace)
        cls.work = cls.cluster.work / cls.namespace
        cls.work.mkdir()
        cls.repository = Repository(cls.work)
        cls.addClassCleanup(cls.repository.stop)
        cls.calry = Calry()
        cls.addClassCleanup(cls.calry.close)
        (cls.work / "secret").write_text(SECRET)

    def setUp(self):
        self.replicas = []
        for _ in range(2):
            self.start()

    def start(self):
        """What the kubelet would start of the Deployment, with the addresses and directories of this machine."""
        name = f"calry-{uuid.uuid4().hex[:6]}"
        door, root, log = Door(self.calry, name), self.work / name, self.work / f"{name}.log"
        (container,) = self.deployment["spec"]["template"]["spec"]["containers"]
        for mount in container["volumeMounts"]:
            (root / mount["mountPath"][1:]).mkdir(parents=True)
        (root / "run/calry/git/token").write_text(TOKEN)
        (root / "run/calry/api-key/api-key").write_text(self.calry.key(SLUG))
        environment = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        environment |= {name: f"{root}{value}" for name, value in environment.items() if value.startswith("/")}
        self.assertLessEqual({"CALRY_GIT_URL", "CALRY_GIT_DIR", "CALRY_GIT_TOKEN_FILE"}, set(environment))
        environment |= {
            "CALRY_GIT_URL": f"http://127.0.0.1:{self.repository.port}/definitions.git", "CALRY_GIT_INTERVAL": self.interval,
            "CALRY_API_URL": door.url, "CALRY_INTERVAL": "1s", "CALRY_LISTEN": "127.0.0.1:0", "CALRY_ADMIN_RATE": "100000",
            "CALRY_LOG_FORMAT": "text",
            "CALRY_GENERIC_HOOK_SECRET_FILE": str(self.work / "secret"), "CALRY_LEASE_DURATION": "4s",
            "CALRY_LEASE_RENEW_DEADLINE": "3s", "CALRY_LEASE_RETRY_PERIOD": "500ms", "KUBECONFIG": str(self.kubeconfig),
            "POD_IP": "127.0.0.1", "POD_NAME": name, "POD_NAMESPACE": self.namespace, "POD_UID": str(uuid.uuid4()),
            "PATH": os.environ["PATH"],
        }
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [*MORTAL, BINARY, *container["args"]], stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=root, env=environment
            )
        replica = Replica(name, process, door, log, root / "clock")
        self.replicas.append(replica)
        self.addCleanup(self.end, replica)
        return replica

    def until(self, what, true, seconds=30):
        try:
            until(what, true, seconds)
        except AssertionError as error:
            logs = [f"-- {replica.name}\n{replica.said()}" for replica in self.replicas]
            raise AssertionError("\n".join([str(error), *logs])) from None

    def end(self, replica):
        if replica.alive():
            self.assertEqual(replica.end(signal.SIGTERM), 0, replica.said())
        replica.door.shutdown()
        replica.door.server_close()

    def roles(self):
        """The leader and the standby, when both are ready and see each other's roles."""
        for replica in self.replicas:
            self.until(f"{replica.name} is ready", lambda: replica.address() and replica.ask("/readyz")[0] == 200, 30)
        self.until("one of them leads", lambda: [one for one in self.replicas if one.leads()], 30)
        return sorted(self.replicas, key=lambda one: not one.leads())

    def revision(self, replica):
        (workspace,) = json.loads(replica.ask("/api/v1/status")[1])["workspaces"]
        return workspace["revision"] and workspace["revision"]["commit"]

    def icon(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.calry.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/api/v1/integration-definition/GUESTY", headers={"x-calry-api-key": self.calry.key(SLUG)})
            return json.load(connection.getresponse()).get("icon")


class Polled(FromGit):
    def test_a_push_is_applied_by_the_leader_alone(self):
        leader, standby = self.roles()
        for _ in range(3):
            icon, since = self.repository.push(), time.time()
            self.until("the push is applied", lambda: self.icon() == icon)
            self.until("both have the commit", lambda: {self.revision(leader), self.revision(standby)} == {self.repository.head()})
            self.assertEqual({write.replica for write in self.calry.writes if write.began > since}, {leader.name})

    def test_without_the_git_server_a_standby_takes_over_with_the_last_commit(self):
        leader, standby = self.roles()
        icon, commit = f"https://cdn.example.com/{self.repository.commits}.png", self.repository.head()
        self.until("both have the commit", lambda: {self.revision(leader), self.revision(standby)} == {commit})
        self.repository.stop()
        self.addCleanup(lambda: self.repository.server.poll() is None or self.repository.start())
        leader.end(signal.SIGKILL)
        self.calry.drift(SLUG, "GUESTY", "https://cdn.example.com/clicked.png")
        self.until("the standby undoes the drift", lambda: self.icon() == icon, 30)
        self.assertEqual(self.revision(standby), commit)
        # One that starts now has no definitions, and takes nothing.
        late = self.start()
        self.until("it says why", lambda: "git server" in late.said() and late.address(), 30)
        self.assertEqual(late.ask("/readyz")[0], 503)
        # It goes on by itself.
        self.repository.start()
        self.until("it is ready", lambda: late.ask("/readyz")[0] == 200, 60)

    def test_a_token_that_is_refused_is_read_again(self):
        leader, _ = self.roles()
        files = [self.work / replica.name / "run/calry/git/token" for replica in self.replicas]
        for file in files:
            file.write_text("glpat-of-yesterday")
        icon = self.repository.push()
        self.until("the refusal is reported", lambda: "refuses the credentials" in leader.said(), 30)
        self.assertNotIn("glpat-of-yesterday", leader.said())
        self.assertEqual(leader.ask("/readyz")[0], 200)
        for file in files:
            file.write_text(TOKEN)
        self.until("the push is applied", lambda: self.icon() == icon, 60)


class Pushed(FromGit):
    interval = "10m"

    def hook(self, replica):
        """A push hook, as a Service sends it to any replica."""
        body = json.dumps({"ref": "refs/heads/main"}).encode()
        address = urllib.parse.urlsplit(replica.address()[1])
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        with contextlib.closing(connection):
            signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
            connection.request("POST", "/hooks/generic", body, {"X-Signature-256": f"sha256={signature}"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def test_a_push_is_applied_by_the_leader_whichever_replica_hears_of_it(self):
        leader, standby = self.roles()
        self.until("the first commit is applied", lambda: self.icon() == f"https://cdn.example.com/{self.repository.commits}.png")
        for receiver in (leader, standby):
            with self.subTest(receiver.name):
                icon, since = self.repository.push(), time.time()
                status, answer = self.hook(receiver)
                self.assertEqual(status, 202, answer)
                self.until("the push is applied", lambda: self.icon() == icon, 5)
                # The interval is ten minutes.
                self.assertLess(time.time() - since, 5)
                self.until("the receiver has the commit", lambda: self.revision(receiver) == self.repository.head(), 5)
                self.assertEqual({write.replica for write in self.calry.writes if write.began > since}, {leader.name})

    def test_a_standby_without_the_last_push_takes_over_and_does_not_undo_it(self):
        leader, standby = self.roles()
        before, icon = self.repository.head(), self.repository.push()
        self.assertEqual(self.hook(leader)[0], 202)
        self.until("the push is applied", lambda: self.icon() == icon)
        self.assertEqual(self.revision(standby), before)
        leader.end(signal.SIGKILL)
        self.until("the standby leads", standby.leads)
        self.until("it has the commit", lambda: self.revision(standby) == self.repository.head(), 5)
        # It has nothing to write.
        self.assertEqual([write for write in self.calry.writes if write.began > leader.ended], [])
        self.assertEqual(self.icon(), icon)

    def test_the_lease_names_the_address_of_the_leader(self):
        leader, _ = self.roles()
        lease = self.cluster.get(f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{LEASE}")
        address = re.sub("^http://", "", leader.address()[1])
        self.assertEqual(lease["metadata"]["annotations"]["calry-gitops/address"], address)
        self.assertEqual(turns(self.cluster, self.namespace)[-1].replica, leader.name)


del OnACluster, FromGit

if __name__ == "__main__":
    unittest.main()
