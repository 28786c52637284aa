"""Many workspaces for one daemon: their files, keys and configuration; and what a process takes. Shared by tests/scale.sh and
tests/load.sh."""

import json
import os
import pathlib
import re
import subprocess
import urllib.request

TICK = os.sysconf("SC_CLK_TCK")


def slug(n):
    """The slug of a workspace of the sandbox."""
    return "acme-production" + (f"-{n}" if n else "")


def key(n):
    """The WRITE key of a workspace of the sandbox."""
    return f"zepl.sandbox-write.not-a-secret.{slug(n)}"


def git(at, *arguments):
    as_ada = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    subprocess.run(["git", "-C", at, *as_ada, *arguments], check=True)


def lay(count, url, settings, repositories=0):
    """Writes definitions and a key for each workspace, and calry-gitops.yaml; copies the files that a pull wrote to `first`."""
    lines = [f"apiUrl: {url}", "listen: 127.0.0.1:0", *settings, "workspaces:"]
    files = {path.name: path.read_text() for path in pathlib.Path("first").glob("*.yaml")}
    # The values of partner keys stay Calry's.
    files = {name: re.sub(r"(?ms)^partnerKey:.*?(?=^\S)", "", text) for name, text in files.items()}
    for n in range(count):
        directory = pathlib.Path(f"work/{n % repositories}/ws/{n}" if repositories else f"ws/{n}")
        directory.mkdir(parents=True)
        for name, text in files.items():
            (directory / name).write_text(text)
        pathlib.Path(f"key-{n}").write_text(key(n))
        lines += [f"  - name: w{n}", f"    apiKeyFile: key-{n}"]
        if repositories:
            lines += [f"    gitUrl: http://127.0.0.1:PORT/{n % repositories}.git", f"    gitPath: ws/{n}"]
        else:
            lines += [f"    definitions: ws/{n}"]
    for n in range(repositories):
        bare, work = f"served/{n}.git", f"work/{n}"
        git(".", "init", "--quiet", "--bare", "--initial-branch=main", bare)
        git(work, "init", "--quiet", "--initial-branch=main")
        git(work, "add", "--all")
        git(work, "commit", "--quiet", "--message=Add the workspaces")
        git(work, "push", "--quiet", str(pathlib.Path(bare).absolute()), "main")
    pathlib.Path("calry-gitops.yaml").write_text("\n".join(lines) + "\n")
    print(f"{count} workspaces of {len(files)} providers each", flush=True)


class Process:
    """What a process takes."""

    def __init__(self, pid):
        self.pid = pid

    def cpu(self):
        """The seconds of processor time so far."""
        fields = open(f"/proc/{self.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def status(self, name):
        """A number of /proc/PID/status: VmRSS and VmHWM in KiB, Threads."""
        return int(re.search(rf"{name}:\s+(\d+)", open(f"/proc/{self.pid}/status").read())[1])

    def files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def workspaces(address):
    """The status of each workspace, by the daemon's API."""
    return json.load(urllib.request.urlopen(f"{address}/api/v1/status", timeout=60))["workspaces"]
