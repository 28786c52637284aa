"""What the checks of pull requests are tried on: a git repository with a branch, the sandbox as Calry, and a forge."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from forge import Forge

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ["CALRY_GITOPS"]
MARKER = "<!-- calry-gitops:acme-production -->"


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

    def git(self, *args):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *identity, *args], cwd=self.repo, check=True, capture_output=True, text=True).stdout

    def commit(self, message):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD").strip()

    def write(self, name, text):
        (self.repo / "definitions" / name).write_text(text)
        self.commit(name)

    def change(self, field):
        """Something that only this branch wants: GUESTY is in sync at the base."""
        self.write("guesty.yaml", f"provider: GUESTY\nicon: https://cdn.example.com/{field}.png\n")
