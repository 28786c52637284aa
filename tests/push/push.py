"""Pushes to a repository and waits until the sandbox has each change: push.py PUSHES. See tests/push.sh."""

import contextlib
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

BINARY = os.environ["CALRY_GITOPS"]
TESTS = Path(__file__).parents[1]
SERVE = TESTS / "git-sync" / "serve.py"
STAND_IN = TESTS / "git-sync" / "stand-in.sh"
TLS = TESTS / "fixtures" / "tls"
SECRET, TOKEN = "0123456789abcdef" * 2, "not-a-secret"
# Longer than the pause that the daemon makes between reconciliations in a row.
PAUSE = 1.1
# Reports a push, as a git host does.
HOOK = """#!/bin/sh
read -r _ after reference
body="{\\"ref\\": \\"$reference\\", \\"after\\": \\"$after\\", \\"repository\\": {\\"clone_url\\": \\"%(url)s\\"}}"
signature=$(printf %%s "$body" | openssl dgst -sha256 -hmac "$(cat %(secret)s)" -r | cut -d ' ' -f 1)
curl --silent --fail --output /dev/null --request POST --header "X-GitHub-Event: push" \\
    --header "X-GitHub-Delivery: delivery-$after" --header "X-Hub-Signature-256: sha256=$signature" --data "$body" "%(hook)s"
"""


class Process:
    """A program whose output goes into a file."""

    def __init__(self, work, name, command, environment=None):
        self.log = work / f"{name}.log"
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdout=log, stderr=subprocess.STDOUT, cwd=work, start_new_session=True,
                env={"PATH": os.environ["PATH"], "HOME": str(work)} | (environment or {}),
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def line(self, pattern):
        """Waits for a line, and returns its first group, if it has one."""
        found = until(pattern, lambda: re.search(pattern, self.log.read_text(), re.MULTILINE), self.log)
        return found[found.lastindex or 0]


def until(what, holds, log=None, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.002)
    sys.exit(f"not seen: {what}\n{log.read_text()[-4000:] if log else ''}")


class Repository:
    def __init__(self, work):
        self.bare, self.clone, self.pushes = work / "served" / "definitions.git", work / "clone", 0
        self.git("init", "--quiet", "--bare", "--initial-branch=main", self.bare)
        self.git("init", "--quiet", "--initial-branch=main", self.clone)
        self.git("-C", self.clone, "remote", "add", "origin", self.bare)
        (self.clone / "definitions").mkdir()

    def git(self, *arguments):
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
        command = ["git", *identity, *(str(argument) for argument in arguments)]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self):
        """Commits another icon, and returns it."""
        self.pushes += 1
        icon = f"https://cdn.example.com/{self.pushes}.png"
        (self.clone / "definitions" / "guesty.yaml").write_text(f"provider: GUESTY\nicon: {icon}\n")
        self.git("-C", self.clone, "add", "--all")
        self.git("-C", self.clone, "commit", "--quiet", f"--message=icon {self.pushes}")
        return icon

    def push(self):
        self.git("-C", self.clone, "push", "--quiet", "--force", "origin", "HEAD:main")

    def head(self):
        return self.git("-C", self.clone, "rev-parse", "HEAD")

    def report_to(self, hook, url, work):
        (work / "secret").write_text(SECRET)
        script = self.bare / "hooks" / "post-receive"
        script.write_text(HOOK % {"url": url, "secret": work / "secret", "hook": hook})
        script.chmod(0o755)

    def report_to_nobody(self):
        (self.bare / "hooks" / "post-receive").unlink(missing_ok=True)


class Sandbox(Process):
    def __init__(self, work):
        super().__init__(work, "sandbox", [BINARY, "sandbox", "--listen", "127.0.0.1:0"])
        self.url = self.line(r"(http://127\.0\.0\.1:\d+)")
        self.key = self.line(r"WRITE key\s+(\S+)")
        (work / "key").write_text(self.key)
        address = urllib.parse.urlsplit(self.url)
        self.connection = http.client.HTTPConnection(address.hostname, address.port)

    def icon(self):
        path = "/api/v1/integration-definition/GUESTY"
        self.connection.request("GET", path, headers={"x-calry-api-key": self.key})
        return json.load(self.connection.getresponse()).get("icon")


def serve(work, *more, environment=None):
    """A server of git http-backend, and its port."""
    server = Process(work, "serve", [sys.executable, "-B", SERVE, work / "served", 0, *more], environment)
    return server, int(server.line(r"^(\d+)"))


def daemon(work, sandbox, *arguments):
    (work / "hook-secret").write_text(SECRET)
    common = ["--api-url", sandbox.url, "--api-key-file", "key", "--interval", "10m", "--listen", "127.0.0.1:0"]
    return Process(work, "daemon", [BINARY, "run", *common, *arguments], {"CALRY_ADMIN_RATE": "10000"})


def measure(repository, sandbox, pushes, pause=PAUSE):
    """The seconds from each push to its change in the sandbox."""
    times = []
    for number in range(pushes):
        icon = repository.commit()
        began = time.monotonic()
        repository.push()
        until(f"push {number}: {icon}", lambda: sandbox.icon() == icon)
        times.append(time.monotonic() - began)
        time.sleep(pause)
    return times


def report(what, times):
    print(f"{what:44} median {statistics.median(times):6.2f} s, longest {max(times):6.2f} s, {len(times)} pushes", flush=True)
    return statistics.median(times)


def built_in(work, repository, sandbox, pushes):
    server, port = serve(work)
    url = f"http://127.0.0.1:{port}/definitions.git"
    with server, daemon(
        work, sandbox, "--git-url", url, "--git-interval", "10m", "--github-hook-secret-file", "hook-secret"
    ) as running:
        address = running.line(r"listening on (http://[^/]*)/")
        running.line("reconciliation 1 ")
        repository.report_to(f"{address}/hooks/github", url, work)
        times = measure(repository, sandbox, pushes)
        # The log names the delivery of the push, and the status its commit.
        running.line(f"hook, delivery delivery-{repository.head()}")
        revision = subprocess.run(["curl", "--silent", f"{address}/api/v1/status"], capture_output=True, check=True)
        status = json.loads(revision.stdout)["workspaces"][0]
        assert status["revision"]["commit"] == status["repository"]["commit"] == repository.head(), status
    repository.report_to_nobody()
    median = report("built in, with a push hook", times)
    if median >= 1:
        sys.exit("from push to verified takes a second or more")
    with serve_again(work, port), daemon(work, sandbox, "--git-url", url, "--git-interval", "1s") as running:
        running.line("reconciliation 1 ")
        report("built in, without a hook, asking every 1 s", measure(repository, sandbox, pushes))


def serve_again(work, port):
    server = Process(work, "serve", [sys.executable, "-B", SERVE, work / "served", port])
    server.line(r"^(\d+)")
    return server


def git_sync(work, repository, sandbox, pushes, period):
    server, port = serve(work)
    volume = work / f"volume-{period}"
    settings = {
        "REPO": f"http://127.0.0.1:{port}/definitions.git", "REF": "main", "ROOT": str(volume), "LINK": "current",
        "PERIOD": f"{period}s", "MAX_FAILURES": "-1", "STALE_WORKTREE_TIMEOUT": "2m",
    }
    settings = {f"GITSYNC_{name}": value for name, value in settings.items()}
    with server, Process(work, "git-sync", [STAND_IN], settings) as syncing:
        syncing.line("updated successfully")
        with daemon(work, sandbox, "--definitions", volume / "current" / "definitions") as running:
            running.line("reconciliation 1 ")
            # A period and a part of it, so that pushes fall on every part of the period.
            times = measure(repository, sandbox, pushes, pause=PAUSE + period * 0.37)
    report(f"git-sync (stand-in), asking every {period} s", times)


def old_server(work, repository, sandbox):
    """A server that does not know version 2 of the protocol."""
    server, port = serve(work, environment={"SERVE_VERSION": "0"})
    url = f"http://127.0.0.1:{port}/definitions.git"
    with server, daemon(work, sandbox, "--git-url", url, "--git-ref", "main", "--git-interval", "1s") as running:
        running.line("reconciliation 1 ")
        report("a server with protocol version 0", measure(repository, sandbox, 2))


def tls(work, repository, sandbox):
    """A server with a certificate of its own authority, which asks for a token."""
    server, port = serve(work, TOKEN, environment={"SERVE_TLS": str(TLS)})
    url = f"https://localhost:{port}/definitions.git"
    (work / "token").write_text(TOKEN + "-old")
    arguments = ["--git-url", url, "--git-interval", "1s", "--git-token-file", "token"]
    with server:
        with daemon(work, sandbox, *arguments) as running:
            running.line("the git server is not trusted")
        with daemon(work, sandbox, *arguments, "--git-ca-file", TLS / "cert.pem") as running:
            running.line("refuses the credentials")
            (work / "token").write_text(TOKEN)
            running.line("can be fetched again")
            report("TLS with its own authority, and a token", measure(repository, sandbox, 2))


def main():
    pushes = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        (work / "served").mkdir()
        repository = Repository(work)
        with Sandbox(work) as sandbox:
            repository.commit()
            repository.push()
            built_in(work, repository, sandbox, pushes)
            old_server(work, repository, sandbox)
            tls(work, repository, sandbox)
            git_sync(work, repository, sandbox, pushes, 1)
            git_sync(work, repository, sandbox, max(pushes // 3, 1), 10)


main()
