"""What the checks of pull requests are tried on: a git repository with a branch, the sandbox as Calry, and a forge."""

import functools
import hashlib
import http.server
import os
import platform
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import threading
import unittest
from pathlib import Path

from forge import Forge

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ["CALRY_GITOPS"]
VERSION = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
# What runs on a machine, by the name that a release has for it, and by the names that GitHub's runner has.
TARGET = f"{platform.machine()}-unknown-linux-gnu"
# A branch that only takes protection away, and what the plan calls that.
LOOSENED = {
    "file": lambda files: (files / "guesty.yaml").unlink(),
    "hold": lambda files: (files / "guesty.yaml").write_text(GUESTY + "hold:\n  until: 2099-12-31\n"),
    "part": lambda files: (files / "guesty.yaml").write_text("provider: GUESTY\nfieldsToSync:\n  listing: [name]\n"),
    "pin": lambda files: (files / "workspace.yaml").unlink(),
}
GUESTY = "provider: GUESTY\nicon: https://cdn.example.com/a.png\nfieldsToSync:\n  listing: [name]\n"
# Programs that a checkout could offer in the place of those that the checks start.
PROGRAMS = ["awk", "bash", "calry-gitops", "cargo", "cat", "cp", "curl", "cut", "env", "find", "git", "grep", "gzip", "head", "jq",
            "mkdir", "mktemp", "mv", "od", "realpath", "rm", "rustc", "rustup", "sed", "sha256sum", "tar", "tee", "touch", "tr",
            "uname"]  # fmt: skip
MARKER = "<!-- calry-gitops:acme-production -->"


class Release:
    """A release page: the program, stripped, in an archive as a release has it, and its checksum."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory()
        self.files = Path(self.directory.name) / f"v{VERSION}"
        self.files.mkdir()
        self.name = f"calry-gitops-{VERSION}-{TARGET}"
        self.archive = self.files / f"{self.name}.tar.gz"
        program = Path(self.directory.name) / "calry-gitops"
        subprocess.run(["strip", "-o", program, BINARY], check=True)
        with tarfile.open(self.archive, "w:gz", compresslevel=1) as archive:
            archive.add(program, f"{self.name}/calry-gitops")
            archive.add(ROOT / "README.md", f"{self.name}/README.md")
        self.sum = hashlib.sha256(self.archive.read_bytes()).hexdigest()
        (self.files / "SHA256SUMS").write_text(f"{'0' * 64}  another.tar.gz\n{self.sum}  {self.archive.name}\n")
        self.requests = requests = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                requests.append(self.path)
                super().do_GET()

            def log_message(self, *_):
                pass

        handler = functools.partial(Handler, directory=self.directory.name)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"


release = functools.cache(Release)


class World(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sandbox = subprocess.Popen(
            [BINARY, "sandbox", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        banner = ""
        while "WRITE key" not in banner:
            line = cls.sandbox.stdout.readline()
            assert line, banner
            banner += line
        cls.calry = re.search(r"http://127\.0\.0\.1:\d+", banner)[0]
        cls.key = re.search(r"zepl\.sandbox-read\.\S+", banner)[0]
        cls.write_key = re.search(r"zepl\.sandbox-write\.\S+", banner)[0]

    @classmethod
    def tearDownClass(cls):
        cls.sandbox.terminate()
        cls.sandbox.wait()
        cls.sandbox.stdout.close()

    def setUp(self):
        self.forge = Forge()
        self.addCleanup(self.forge.server.server_close)
        self.addCleanup(self.forge.server.shutdown)
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.work = Path(temporary.name)
        self.repo = self.work / "repo"
        shutil.copytree(ROOT / "definitions", self.repo / "definitions")
        self.git("init", "--quiet", "--initial-branch=main")
        self.base = self.commit("definitions")
        self.git("checkout", "--quiet", "-b", "branch")
        # Every program that could be given a secret as an argument leaves its arguments and variables here.
        self.arguments = self.work / "arguments"
        shims = self.work / "shims"
        shims.mkdir()
        for program in ["curl", "jq"]:
            shim = shims / program
            shim.write_text(f'#!/bin/bash\n{{ printf "%s\\n" "$@"; env; }} >>{self.arguments}\nexec {shutil.which(program)} "$@"\n')
            shim.chmod(0o755)
        self.path = f"{shims}:{os.environ['PATH']}"

    def git(self, *args, at=None):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
        ran = subprocess.run(["git", *identity, *args], cwd=at or self.repo, check=True, capture_output=True, text=True)
        return ran.stdout

    def commit_of(self, revision):
        return self.git("rev-parse", revision).strip()

    def commit(self, message):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.commit_of("HEAD")

    def write(self, name, text):
        (self.repo / "definitions" / name).write_text(text)
        self.commit(name)

    def change(self, field):
        """Something that only this branch wants: GUESTY is in sync at the base."""
        self.write("guesty.yaml", f"provider: GUESTY\nicon: https://cdn.example.com/{field}.png\n")

    def protect(self):
        """A base with parts that can be left out; what differs from Calry there is drift."""
        self.write("guesty.yaml", GUESTY)
        self.base = self.commit_of("HEAD")

    def loosen(self, what):
        self.git("checkout", "--quiet", "--force", "-B", "branch", self.base)
        LOOSENED[what](self.repo / "definitions")
        self.commit(what)

    def source(self):
        """A repository of calry-gitops that takes a second to build: its program starts the real one."""
        source = self.work / "source"
        shutil.copytree(ROOT / "deploy/actions", source / "deploy/actions")
        (source / "Cargo.toml").write_text(f'[package]\nname = "calry-gitops"\nversion = "{VERSION}"\nedition = "2024"\n')
        (source / "Cargo.lock").write_text(f'version = 4\n\n[[package]]\nname = "calry-gitops"\nversion = "{VERSION}"\n')
        (source / "src").mkdir()
        (source / "src/main.rs").write_text(
            "use std::os::unix::process::CommandExt;\n"
            f'fn main() {{ panic!("{{}}", std::process::Command::new("{Path(BINARY).resolve()}")'
            ".args(std::env::args_os().skip(1)).exec()) }\n"
        )
        self.git("init", "--quiet", "--initial-branch=main", at=source)
        self.git("add", "--all", at=source)
        self.git("commit", "--quiet", "--message", "source", at=source)
        return source

    def cargo(self):
        """Variables by which cargo and rustup work in another home."""
        rustup = os.environ.get("RUSTUP_HOME", Path.home() / ".rustup")
        return {"RUSTUP_HOME": str(rustup), "CARGO_HOME": str(self.work / "cargo")}

    def hostile(self, leave_out=()):
        """A checkout with programs in every place; returns those that ran, and the head of PATH that finds them."""
        ran = self.work / "ran"
        program = f'#!/bin/sh\necho "$0" >>{shlex.quote(str(ran))}\nexit 1\n'
        places = [".", ".calry-gitops/bin", "evil/bin", "target/release"]
        for place in places:
            (self.repo / place).mkdir(parents=True, exist_ok=True)
            for name in set(PROGRAMS) - set(leave_out):
                (self.repo / place / name).write_text(program)
                (self.repo / place / name).chmod(0o755)
        (self.repo / "evil/lib").mkdir()
        self.commit("programs")
        return ran, ":".join(["", ".", ".calry-gitops/bin", *(str(self.repo / place) for place in places)])

    def obey(self, what):
        """Commits a file that cargo or rustup reads in its start directory."""
        self.git("rm", "--quiet", "-r", "--ignore-unmatch", ".cargo", "rust-toolchain.toml")
        if what == "rust-toolchain.toml":
            (self.repo / what).write_text(f'[toolchain]\npath = "{self.repo}/evil"\n')
        else:
            (self.repo / ".cargo").mkdir(exist_ok=True)
            (self.repo / what).write_text('[build]\nrustc-wrapper = "./evil/bin/rustc"\n')
        self.commit(what)
