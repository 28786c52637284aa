"""A Kubernetes API server on loopback, with etcd and nothing else: no controllers, no scheduler, no kubelet.
It can be stopped, paused and slowed. The directory that KUBERNETES names holds its programs."""

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path

PROGRAMS = Path(os.environ["KUBERNETES"])
# Before a command: it ends when the tests do, however they end.
MORTAL = ["setpriv", "--pdeathsig", "KILL"]

# Requests for Leases and Events, with their bodies, and no others.
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "RequestResponse", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
        {"level": "Request", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(what, true, seconds=60, pause=0.1):
    """Waits until something is true, and answers with it."""
    end = time.monotonic() + seconds
    while not (is_ := true()):
        if time.monotonic() > end:
            raise AssertionError(f"it never came true that {what}")
        time.sleep(pause)
    return is_


class Slowed:
    """A proxy to a port of this machine that can delay answers."""

    def __init__(self, port):
        self.to, self.delay = port, 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.to))
                except OSError:
                    client.close()
                    continue
                for one, other, slowed in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self.pump, args=(one, other, slowed), daemon=True).start()

    def pump(self, one, other, slowed):
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                if slowed:
                    time.sleep(self.delay)
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            # Both directions end here; the second finds it closed.
            end.close()


class Cluster:
    def __init__(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="calry-gitops-cluster-")
        self.work = Path(self.temporary.name)
        self.running = {}
        # When the API server was started, and when it was ready; in between, it knows no permissions.
        self.starts = []
        self.port, self.etcd_port = free_port(), free_port()
        self.slowed = Slowed(self.port)
        self.admin = secrets.token_hex(16)
        (self.work / "tokens").write_text(f"{self.admin},admin,admin,system:masters\n")
        (self.work / "audit.yaml").write_text(json.dumps(AUDIT))
        # Made ten days ago, so that a clock that goes wrong by a day still finds it valid.
        self.call(
            "faketime", "-f", "-10d", "openssl", "req", "-x509", "-config", "/dev/null", "-days", "30", "-noenc",
            "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", "server.key", "-out", "server.crt",
            "-subj", "/CN=kube-apiserver", "-addext", "subjectAltName=IP:127.0.0.1",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )
        self.call("openssl", "genrsa", "-out", "accounts.key", "2048")
        self.tls = ssl.create_default_context(cafile=self.work / "server.crt")
        peer = f"http://127.0.0.1:{free_port()}"
        self.spawn(
            "etcd", "--name=one", f"--data-dir={self.work / 'etcd'}", "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{self.etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{self.etcd_port}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=one={peer}",
        )
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        self.kubeconfig_of_admin = self.kubeconfig(self.admin, "default", port=self.port)

    def call(self, *command):
        subprocess.run(command, cwd=self.work, check=True, capture_output=True, timeout=60)

    def spawn(self, name, *arguments):
        with open(self.work / f"{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(
                [*MORTAL, PROGRAMS / name, *arguments], cwd=self.work, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    # The API server

    def start(self):
        began = time.time()
        self.spawn(
            "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1", f"--secure-port={self.port}", "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/24",
            "--tls-cert-file=server.crt", "--tls-private-key-file=server.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=accounts.key", "--service-account-signing-key-file=accounts.key",
            "--token-auth-file=tokens", "--authorization-mode=RBAC",
            # Whether a Pod may be privileged is then for its namespace's profile to say.
            "--allow-privileged",
            "--audit-policy-file=audit.yaml", "--audit-log-path=audit.log", "--audit-log-mode=blocking-strict",
        )
        until("the API server is ready", self.is_ready, pause=0.05)
        self.starts.append((began, time.time()))

    def is_ready(self):
        code = self.running["kube-apiserver"].poll()
        assert code is None, f"the API server ended with {code}: {self.log('kube-apiserver')}"
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.request("GET", "/readyz")[0] == 200
        return False

    def stop(self, name="kube-apiserver", how=signal.SIGTERM):
        process = self.running.pop(name)
        # A paused process handles no other signal.
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def pause(self):
        """It takes connections and requests, and answers none."""
        self.running["kube-apiserver"].send_signal(signal.SIGSTOP)

    def resume(self):
        self.running["kube-apiserver"].send_signal(signal.SIGCONT)

    def slow(self, seconds):
        """How much later than they are made answers come, to those with a kubeconfig of `token`s."""
        self.slowed.delay = seconds

    def close(self):
        """The API server first: without etcd it takes long to end."""
        for name in ("kube-apiserver", "etcd"):
            if name in self.running:
                self.stop(name)
        self.slowed.listener.close()
        self.temporary.cleanup()

    def log(self, name):
        return "\n".join((self.work / f"{name}.log").read_text(errors="replace").splitlines()[-20:])

    def audit(self, namespace):
        """The requests to a namespace, with the answers for Leases: events of audit.k8s.io/v1."""
        whole, _, _ = (self.work / "audit.log").read_text().rpartition("\n")
        events = map(json.loads, whole.splitlines())
        return [event for event in events if event.get("objectRef", {}).get("namespace") == namespace]

    # Its clients

    def request(self, method, path, body=None, token=None, content_type="application/json", headers=None):
        """The status and the answer of one request; of the admin, without a token."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self.tls)
        headers = {"Authorization": f"Bearer {token or self.admin}", "Content-Type": content_type, **(headers or {})}
        with contextlib.closing(connection):
            connection.request(method, path, body and json.dumps(body), headers)
            answer = connection.getresponse()
            # What is watched has no end.
            text = b"" if answer.status == 200 and "watch=" in path else answer.read()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text.decode()

    def get(self, path):
        status, answer = self.request("GET", path)
        assert status == 200, f"{path}: {status} {answer}"
        return answer

    def kubectl(self, *arguments, stdin=None):
        """What kubectl wrote, as the admin. A failure and a warning are both an error."""
        done = subprocess.run(
            [PROGRAMS / "kubectl", f"--kubeconfig={self.kubeconfig_of_admin}", f"--cache-dir={self.work / 'cache'}",
             "--warnings-as-errors", *[str(part) for part in arguments]],
            input=stdin, capture_output=True, text=True, timeout=60,
        )
        if done.returncode:
            raise AssertionError(f"kubectl {arguments}: {done.stderr}{done.stdout}")
        return done.stdout

    def token(self, namespace, account, *more):
        return self.kubectl("create", "token", account, f"--namespace={namespace}", "--duration=1h", *more).strip()

    def kubeconfig(self, token, namespace, port=None):
        """A file for a client with this token; by default, through the proxy that can be slowed."""
        path = self.work / f"kubeconfig-{secrets.token_hex(4)}"
        path.touch(0o600)
        path.write_text(json.dumps({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": {
                "server": f"https://127.0.0.1:{port or self.slowed.port}",
                "certificate-authority": str(self.work / "server.crt"),
            }}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": namespace}}],
            "current-context": "it",
        }))
        return path

    def namespace(self):
        """A new namespace in which the restricted profile is enforced."""
        name = f"n-{secrets.token_hex(4)}"
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.kubectl("create", "--filename=-", stdin=json.dumps(made))
        return name
