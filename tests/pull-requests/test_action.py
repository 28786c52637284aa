"""The GitHub actions, run for real by a runner of composite actions."""

import json
import platform
import re
import shutil
import subprocess
import time
import unittest
from pathlib import Path

import runner
from forge import ALICE, BOT
from world import BINARY, GUESTY, LOOSENED, MARKER, ROOT, TARGET, VERSION, World, release

FINGERPRINT_KEY = "a-fingerprint-key-that-is-long-enough-for-this"
TOKEN = "ghs_bot-may-write"
ARCHITECTURE = {"x86_64": "X64", "aarch64": "ARM64"}[platform.machine()]


def executed(log):
    """The commands that the runner would find in a log, as it finds them."""
    stopped, found = None, []
    for line in log.splitlines():
        line = line.lstrip()
        if stopped:
            if line == f"::{stopped}::":
                stopped = None
            continue
        if command := re.match(r"::([a-z-]+)( [^:]*)?::(.*)$", line):
            if command[1] == "stop-commands":
                stopped = command[3]
            else:
                found.append((command[1], command[2] or "", command[3]))
        elif "##[" in line:
            found.append(("old", "", line))
    return found


class Actions(World):
    def run_action(self, name, inputs, event=None, github=None, path=None, **variables):
        """Runs an action in the repository, as the runner does, on a runner that keeps its tool cache."""
        self.summary_file = self.work / "summary"
        self.summary_file.write_text("")
        for directory in ["runner", "tools"]:
            (self.work / directory).mkdir(exist_ok=True)
        environment = {
            "PATH": path or self.path, "HOME": str(self.work), "GITHUB_WORKSPACE": str(self.repo),
            "GITHUB_REPOSITORY": "acme/definitions", "GITHUB_STEP_SUMMARY": str(self.summary_file),
            "GITHUB_REF": "refs/heads/main", "GITHUB_REF_NAME": "main", "GITHUB_SHA": self.commit_of("HEAD"),
            "GITHUB_SERVER_URL": "https://github.example.com", "GITHUB_RUN_ID": "42",
            "RUNNER_TEMP": str(self.work / "runner"), "RUNNER_TOOL_CACHE": str(self.work / "tools"),
            "RUNNER_OS": "Linux", "RUNNER_ARCH": ARCHITECTURE, "CALRY_GITOPS_DOWNLOADS": release().url,
        } | variables  # fmt: skip
        contexts = {"token": TOKEN, "api_url": self.forge.url, "event": event or {}} | (github or {})
        action = name if isinstance(name, Path) else ROOT / "deploy/actions" / name
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        self.code, self.log, self.outputs = runner.run(action, given, contexts, environment, self.work)
        self.summary = self.summary_file.read_text()
        seen = self.arguments.read_text() if self.arguments.exists() else ""
        for secret in [TOKEN, given.get("token"), given.get("api-key"), FINGERPRINT_KEY]:
            self.assertTrue(not secret or secret not in self.log + self.summary + str(self.forge.requests), secret)
        self.assertNotIn(TOKEN, seen)
        for level, _, _ in executed(self.log):
            self.assertIn(level, ["error", "warning", "notice", "group", "endgroup"], self.log)

    def check(self, path=None, action="check", head_repository="acme/definitions", **inputs):
        """Runs the check of the pull request 7."""
        head = {"sha": self.commit_of("HEAD"), "repo": {"full_name": head_repository}}
        event = {"pull_request": {"number": 7, "base": {"sha": self.base}, "head": head}}
        given = {"api_key": self.key, "api_url": self.calry} | inputs
        if action == "check" and "from_source" not in inputs:
            given = {"binary": BINARY} | given
        cargo = self.cargo() if "from_source" in inputs else {}
        self.run_action(action, given, event, path=path, **cargo)

    def own(self, user=BOT):
        return [c for c in self.forge.comments if c["user"] == user and c["body"].startswith(MARKER)]


class Check(Actions):
    def test_a_comment_is_posted_once_then_kept_and_nobody_elses_is_touched(self):
        stranger = {"login": "mallory", "type": "User"}
        for n in range(75):
            self.forge.add(stranger, f"{MARKER}\nI was here first" if n in (3, 70) else f"comment {n}")
        for n in range(75):
            alike = {"login": "github-actions", "type": "User"} if n == 5 else {"login": "another[bot]", "type": "Bot"}
            self.forge.add(alike, f"{MARKER}\nso was I")
        foreign = [c["body"] for c in self.forge.comments]
        self.change("one")
        self.check()
        self.assertEqual((self.code, self.outputs["changes"], self.outputs["exitcode"]), (0, "1", "2"), self.log)
        self.assertEqual(self.forge.writes(), [("POST", "/repos/acme/definitions/issues/7/comments")])
        self.assertEqual(len(self.own()), 1)
        self.assertIn("GUESTY", self.own()[0]["body"])
        self.assertIn("GUESTY", self.summary)
        at = r" file=definitions/guesty\.yaml,line=\d+,endLine=\d+,col=\d+,endColumn=\d+,title=this branch changes"
        self.assertTrue(any(re.fullmatch(at, c[1]) for c in executed(self.log)), self.log)

        self.check()
        self.assertEqual(len(self.forge.writes()), 1, "the same is not said again")

        for n in range(60):  # the comment is on page 2 from the start; here it is followed by more
            self.forge.add(stranger, "later")
        self.own()[0]["body"] += "\r\nedited\r\n"
        self.change("two")
        self.check()
        self.assertEqual(self.forge.writes()[1:], [("PATCH", "/repos/acme/definitions/issues/comments/151")])
        self.assertIn("two.png", self.own()[0]["body"])
        self.assertNotIn("edited", self.own()[0]["body"])
        self.assertEqual([c["body"] for c in self.forge.comments][:150], foreign)

    def test_a_person_s_token_finds_that_person_s_comment(self):
        self.forge.add(BOT, f"{MARKER}\nof the bot")
        for change in ["one", "two"]:
            self.change(change)
            self.check(token="ghp_alice-may-write")
        self.assertEqual([method for method, _ in self.forge.writes()], ["POST", "PATCH"])
        self.assertEqual([c["body"] for c in self.own()], [f"{MARKER}\nof the bot"])
        self.assertEqual(len(self.own(ALICE)), 1)

    def test_drift_alone_is_no_comment_and_no_failure_unless_it_is_asked_for(self):
        (self.repo / "README").write_text("nothing of Calry's")
        self.commit("readme")
        self.check(fail_on_drift="true", comment="false")
        self.assertEqual((self.code, self.outputs["changes"], self.outputs["exitcode"]), (2, "0", "2"), self.log)
        self.assertGreater(int(self.outputs["drifted"]), 5)
        self.assertIn("drift", self.summary)
        # In canonical form, a file that differs from its base in a comment changes nothing.
        (self.repo / "definitions/guesty.yaml").write_text("# a comment\n" + (self.repo / "definitions/guesty.yaml").read_text())
        self.commit("comment")
        self.check()
        self.assertEqual((self.code, self.outputs["changes"], self.outputs["exitcode"]), (0, "0", "0"), self.log)
        self.assertEqual(self.forge.writes(), [])
        self.assertIn("drift", self.summary)
        self.check(base="none")
        self.assertEqual((self.code, self.outputs["exitcode"]), (0, "2"))
        self.assertGreater(int(self.outputs["changes"]), 5)
        self.check(base="none", fail_on_drift="true")
        self.assertEqual(self.code, 2)

    def test_lost_protection_is_commented_and_annotated_and_fails_if_that_is_asked_for(self):
        self.protect()
        self.check()
        self.assertEqual((self.code, self.outputs["loosened"], self.forge.writes()), (0, "0", []), self.log)
        for what in LOOSENED:
            self.loosen(what)
            self.forge.comments.clear()
            self.check()
            self.assertEqual((self.code, self.outputs["changes"]), (0, "0"), self.log)
            self.assertGreaterEqual(int(self.outputs["loosened"]), 1, what)
            self.assertEqual(len(self.own()), 1, what)
            warnings = [c for c in executed(self.log) if c[0] == "warning" and "title=no longer protected" in c[1]]
            self.assertEqual(len(warnings), int(self.outputs["loosened"]), self.log)
            self.check(fail_on_loosened="true")
            self.assertEqual((self.code, self.outputs["exitcode"]), (2, "2"), self.log)
        self.git("checkout", "--quiet", "--force", "-B", "branch", self.base)
        self.check(fail_on_loosened="true")
        self.assertEqual((self.code, self.outputs["loosened"]), (0, "0"), self.log)
        self.assertEqual(self.forge.writes()[-1][0], "PATCH", "what a branch no longer loosens is corrected")

    def test_policies_are_those_of_the_base_and_not_of_the_branch(self):
        policies = self.repo / "policies.yaml"
        rule = "{name: no-icons, each: change, expression: \"change.kind != 'icon'\", message: no icon changes}"
        policies.write_text(f"policies: [{rule}]\n")
        self.commit("policies")
        self.base = self.commit_of("HEAD")
        policies.write_text("policies: []\n")
        self.change("one")
        self.check(policies="policies.yaml")
        self.assertEqual((self.code, self.outputs["exitcode"]), (1, "1"), self.log)
        self.assertTrue(any(c[0] == "error" and "title=denied by policy" in c[1] for c in executed(self.log)), self.log)
        self.assertIn("no icon changes", self.own()[0]["body"])
        self.check(policies=str(policies))
        self.assertEqual(self.code, 0, "an absolute path is that of the operator")
        for given in [{"policies": "missing.yaml"}, {"policies": "policies.yaml", "base": "none"}]:
            self.check(**given)
            self.assertEqual(self.code, 64, self.log)

    def test_a_check_of_protection_that_cannot_be_made_is_64(self):
        for missing in [{"base": "none"}, {"api_key": ""}]:
            self.check(fail_on_loosened="true", **missing)
            self.assertEqual(self.code, 64, self.log)

    def test_no_program_of_a_checkout_runs(self):
        action = self.source() / "deploy/actions/check"
        ran, head = self.hostile()
        self.change("one")
        path = f"{head}:{self.path}"
        for what in ["rust-toolchain.toml", ".cargo/config.toml"]:
            self.obey(what)
            self.forge.comments.clear()
            self.check(action=action, path=path, from_source="true")
            self.assertFalse(ran.exists(), ran.exists() and ran.read_text())
            self.assertEqual((self.code, self.outputs["changes"], len(self.own())), (0, "1", 1), self.log)
        # The action itself may be in a directory of the checkout.
        self.git("clone", "--quiet", str(self.work / "source"), str(self.repo / "action"))
        self.check(action=self.repo / "action/deploy/actions/check", path=path, from_source="true")
        self.assertFalse(ran.exists(), ran.exists() and ran.read_text())
        self.assertEqual((self.code, self.outputs["changes"]), (0, "1"), self.log)
        self.check(action=action, path=path)
        self.assertFalse(ran.exists(), ran.exists() and ran.read_text())
        self.assertEqual((self.code, self.outputs["changes"]), (0, "1"), self.log)
        self.check(binary="target/release/calry-gitops")
        self.assertEqual(self.code, 64, self.log)
        self.assertFalse(ran.exists())

    def test_nothing_is_written_through_a_link_of_a_checkout(self):
        victim = self.work / "victim"
        victim.write_text("untouched")
        (self.repo / "problems.sarif").symlink_to(victim)
        self.commit("link")
        self.check(sarif="problems.sarif")
        self.assertEqual((self.code, victim.read_text()), (0, "untouched"), self.log)
        self.assertIn('"version"', (self.repo / "problems.sarif").read_text())

    def test_what_a_branch_no_longer_does_is_corrected(self):
        self.change("one")
        self.check()
        self.git("revert", "--no-edit", "HEAD")
        self.check()
        self.assertEqual([method for method, _ in self.forge.writes()], ["POST", "PATCH"])
        self.assertNotIn("one.png", self.own()[0]["body"])

    def test_invalid_definitions_are_3_at_their_line_and_in_the_comment(self):
        self.write("guesty.yaml", "provider: GUESTY\nicn: x\n")
        self.check(sarif="problems.sarif")
        self.assertEqual((self.code, self.outputs["exitcode"]), (3, "3"), self.log)
        error = next(c for c in executed(self.log) if c[0] == "error")
        self.assertEqual(error[1], " file=definitions/guesty.yaml,line=2,endLine=2,col=1,endColumn=4,title=unknown-key")
        self.assertIn("icn", self.own()[0]["body"])
        self.assertIn('"ruleId": "unknown-key"', (self.repo / "problems.sarif").read_text())

    def test_a_failure_is_1_and_replaces_the_plan_that_is_told_no_more(self):
        self.change("one")
        self.check()
        self.check(api_key="zepl.unknown.key.acme")
        self.assertEqual((self.code, self.outputs["changes"], self.outputs["digest"], self.outputs["exitcode"]), (1, "", "", "1"), self.log)
        self.assertIn("there is no plan", self.own()[0]["body"])
        self.assertIn("does not know the API key", self.summary)
        self.assertEqual(len(self.forge.comments), 1)
        self.check(base="nowhere")
        self.assertEqual(self.code, 1)

    def test_a_fork_has_a_plan_against_the_snapshot_in_the_summary_and_no_comment(self):
        snapshot = subprocess.run(
            [BINARY, "snapshot"], cwd=self.repo, capture_output=True, text=True, check=True,
            env={"CALRY_API_URL": self.calry, "CALRY_API_KEY": self.key, "CALRY_FINGERPRINT_KEY": FINGERPRINT_KEY},
        )  # fmt: skip
        (self.work / "snapshot.json").write_text(snapshot.stdout)
        self.change("one")
        for fingerprints in ["", FINGERPRINT_KEY]:
            self.check(
                api_key="", live=str(self.work / "snapshot.json"), fingerprint_key=fingerprints,
                token="ghs_fork-may-read",
            )  # fmt: skip
            self.assertEqual((self.code, self.outputs["changes"]), (0, "1"), self.log)
            self.assertIn("one.png", self.summary)
            self.assertIn("the token may not comment on this pull request", self.log)
        self.assertEqual(self.forge.comments, [])

    def test_with_neither_key_nor_snapshot_the_files_are_checked(self):
        self.change("one")
        self.check(api_key="")
        self.assertEqual((self.code, self.outputs["changes"]), (0, ""), self.log)
        self.assertTrue(self.summary.startswith("### ✅ Calry: the files are valid; nothing was planned\n"), self.summary)
        # A missing key is a mistake in the repository itself, and as it should be in a fork.
        levels = lambda: [c[0] for c in executed(self.log) if "neither an API key nor a snapshot" in c[2]]
        self.assertEqual(levels(), ["warning"], self.log)
        self.check(api_key="", head_repository="mallory/definitions")
        self.assertEqual(levels(), ["notice"], self.log)
        self.write("guesty.yaml", "provider: GUESTY\nicn: x\n")
        self.check(api_key="")
        self.assertEqual(self.code, 3)
        self.assertTrue(self.summary.startswith("### ❌ Calry: the files have errors; nothing was planned\n"), self.summary)
        self.assertIn("    error[unknown-key]: `icn`", self.summary)
        self.assertEqual(self.forge.requests, [])

    def test_what_a_branch_says_is_never_a_command_of_the_runner(self):
        for field in ["##[set-output name=changes;]99", "::set-output name=changes::99", "##[add-mask]a"]:
            self.write("guesty.yaml", f'provider: GUESTY\nfieldsToSync:\n  listing: ["{field}"]\n')
            for key in [self.key, ""]:
                self.check(api_key=key, strict="true")
                self.assertEqual(self.code, 3, self.log)
                self.assertIn(field[-6:], self.log)
                self.assertNotIn("##[", self.log)

    def test_a_forge_that_is_not_there_does_not_fail_the_check(self):
        self.change("one")
        for trouble in [{"github_api_url": "http://127.0.0.1:9"}, {"token": "ghs_revoked"}]:
            self.check(**trouble)
            self.assertEqual((self.code, self.outputs["changes"]), (0, "1"))
            self.assertIn("cannot be read; the plan is in the summary", self.log)

    def test_a_wrong_input_is_64(self):
        self.change("one")
        for wrong, reason in [
            ({"strict": "yes"}, "strict is true or false"),
            ({"api_url": "ftp://x"}, "--api-url must be an absolute URL"),
            ({"timeout": "abc"}, "invalid value 'abc'"),
        ]:
            self.check(**wrong)
            self.assertEqual((self.code, self.forge.requests), (64, []), self.log)
            self.assertTrue(any(c[0] == "error" and reason in c[2] for c in executed(self.log)), self.log)


    def test_a_cold_runner_is_green_within_20_seconds(self):
        """From an empty tool cache to the comment: the checkout, the download, the checksum, the plan."""
        self.change("one")
        origin, self.repo = self.repo, self.work / "checkout"
        started = time.monotonic()
        self.git("clone", "--quiet", f"file://{origin}", str(self.repo), at=self.work)
        self.check(binary="")
        took = time.monotonic() - started
        size = release().archive.stat().st_size / 1e6
        print(f"\nthe check of a cold runner took {took:.1f} s (an archive of {size:.0f} MB)", flush=True)
        self.assertEqual((self.code, self.outputs["changes"], len(self.own())), (0, "1", 1), self.log)
        self.assertIn("checksum verified", self.log)
        self.assertLess(took, 20)

    def test_every_output_says_what_the_plan_says(self):
        self.write("guesty.yaml", GUESTY)
        self.base = self.commit_of("HEAD")
        self.write("guesty.yaml", GUESTY.replace("[name]", "[]").replace("a.png", "b.png"))
        self.check()
        self.assertEqual(self.code, 0, self.log)
        plan = json.loads(Path(self.outputs["plan-json"]).read_text())
        self.assertEqual(self.outputs["digest"], plan["digest"] or "")
        off = [c for d in plan["definitions"] for c in d["changes"] if c["after"] is False and c["origin"] == "branch"]
        self.assertEqual(self.outputs["fields-off"], str(len(off)))
        self.assertGreater(len(off), 0)
        self.assertGreater(int(self.outputs["drifted"]), 5)
        self.assertEqual(self.outputs["loosened"], "0")
        self.assertIn(Path(self.outputs["plan-markdown"]).read_text(), self.own()[0]["body"])
        self.assertEqual(self.outputs["comment-id"], str(self.own()[0]["id"]))
        group = self.log.split("::group::The plan\n")[1].split("::endgroup::")[0]
        self.assertIn("b.png", group)
        self.check()
        self.assertEqual(self.outputs["comment-id"], str(self.own()[0]["id"]), "also of a comment that stays as it is")

    def test_a_branch_that_changes_no_definition_is_green_without_calry(self):
        (self.repo / "README").write_text("another file")
        self.commit("readme")
        self.check(api_key="zepl.unknown.key.acme")
        self.assertEqual((self.code, self.outputs["changes"], self.outputs["exitcode"]), (0, "0", "0"), self.log)
        self.assertIn("changes no definition", self.summary)
        self.assertEqual(self.forge.writes(), [])
        # What a link leads to can differ although the link does not.
        (self.repo / "guesty.yaml").write_text(f"provider: GUESTY\nicon: https://cdn.example.com/one.png\n")
        shutil.move(self.repo / "definitions", self.repo / "elsewhere")
        (self.repo / "definitions").symlink_to("elsewhere")
        self.base = self.commit("link")
        (self.repo / "elsewhere/guesty.yaml").write_text("provider: GUESTY\nicon: https://cdn.example.com/two.png\n")
        self.commit("behind the link")
        self.check(api_key="zepl.unknown.key.acme")
        self.assertEqual(self.code, 1, self.log)

    def test_the_comment_links_to_the_commit_and_the_log_and_says_when_a_merge_is_applied(self):
        self.change("one")
        self.check(applied_within="1 minute")
        head = self.commit_of("HEAD")
        at = "https://github.example.com/acme/definitions"
        for text in [self.own()[0]["body"], self.summary]:
            self.assertIn(f"[`{head[:10]}`]({at}/commit/{head})", text)
            self.assertIn(f"Merging applies this within 1 minute. [Log]({at}/actions/runs/42)", text)
            self.assertIn(f"| `GUESTY` | `icon` | [`guesty.yaml`]({at}/blob/{head}/definitions/guesty.yaml#L2) |", text)
        self.check(applied_within="[x](https://evil.example)")
        self.assertEqual(self.code, 64)

    def test_a_merge_group_is_checked_without_a_comment(self):
        self.change("one")
        self.run_action("check", {"api_key": self.key, "api_url": self.calry}, {"merge_group": {"base_sha": self.base}})
        self.assertEqual((self.code, self.outputs["changes"], self.outputs["comment-id"]), (0, "1", ""), self.log)
        self.assertEqual(self.forge.requests, [])
        self.assertIn("one.png", self.log)

    def test_what_others_merged_meanwhile_is_not_of_this_branch(self):
        """GitHub merges the branch into the newest main, which the event does not name."""
        self.change("one")
        head = self.commit_of("HEAD")
        self.git("checkout", "--quiet", "main")
        self.write("hostaway.yaml", "provider: HOSTAWAY\nicon: https://cdn.example.com/others.png\n")
        self.git("merge", "--quiet", "--no-ff", "--no-edit", "branch")
        event = {"pull_request": {"number": 7, "base": {"sha": self.base}, "head": {"sha": head}}}
        self.run_action("check", {"api_key": self.key, "api_url": self.calry, "binary": BINARY}, event)
        self.assertEqual((self.code, self.outputs["changes"]), (0, "1"), self.log)
        self.assertNotIn("others.png", self.log.split("Earlier drift")[0])

    def test_definitions_in_a_directory_and_some_providers_only(self):
        self.change("one")
        (self.repo / "calry").mkdir()
        self.git("mv", "definitions", "calry/definitions")
        self.commit("move")
        self.check(working_directory="calry", only="guesty", timeout="20s", sarif="problems.sarif")
        self.assertEqual((self.code, self.outputs["changes"]), (0, "1"), self.log)
        self.assertTrue((self.repo / "calry/problems.sarif").exists())
        self.check(working_directory="calry", only="HOSTAWAY, BEDS24", base="none")
        self.assertNotIn("GUESTY", self.summary)
        self.assertIn("HOSTAWAY", self.summary)
        for wrong in [{"working_directory": "/tmp"}, {"working_directory": ".."}, {"working_directory": "missing"},
                      {"only": "--help"}, {"only": "a;b"}]:  # fmt: skip
            self.check(**wrong)
            self.assertEqual(self.code, 64, wrong)


class Setup(Actions):
    def set_up(self, **inputs):
        self.run_action("setup", inputs)

    def test_setup_verifies_keeps_and_finds_a_release(self):
        release().requests.clear()
        self.set_up()
        self.assertEqual((self.code, self.outputs["version"]), (0, VERSION), self.log)
        self.assertEqual(release().requests, [f"/v{VERSION}/SHA256SUMS", f"/v{VERSION}/{release().archive.name}"])
        self.assertIn(TARGET, self.outputs["path"])
        ran = subprocess.run([self.outputs["path"], "--version"], capture_output=True, text=True, check=True)
        self.assertIn(VERSION, ran.stdout)
        # From here on the tool cache has it, and the network is not needed.
        self.set_up(downloads="http://127.0.0.1:9/")
        self.assertEqual(self.code, 0, self.log)
        self.set_up(version=f"v{VERSION}", sha256=release().sum)
        self.assertEqual((self.code, len(release().requests)), (0, 2), self.log)
        self.assertIn("from the tool cache", self.log)
        self.set_up(sha256="0" * 64)
        self.assertEqual(self.code, 64, self.log)

    def test_setup_refuses_what_is_not_the_release(self):
        mirror = self.work / "mirror" / f"v{VERSION}"
        shutil.copytree(release().files, mirror)
        sums = (mirror / "SHA256SUMS").read_text()
        for name, text in [("a wrong sum", sums.replace(release().sum, "1" * 64)), ("no sum", ""), ("no archive", sums)]:
            (mirror / "SHA256SUMS").write_text(text)
            if name == "no archive":
                (mirror / release().archive.name).unlink()
            self.set_up(downloads=f"file://{mirror.parent}")
            self.assertEqual(self.code, 1, name)
            self.assertEqual(self.outputs["path"], "", name)
            self.assertEqual([p for p in (self.work / "tools").rglob("*") if p.is_file()], [], name)
        self.set_up(sha256="1" * 64)
        self.assertEqual(self.code, 1, self.log)
        for wrong in [{"version": "latest"}, {"version": "../.."}, {"from_source": "yes"},
                      {"from_source": "true", "version": "9.9.9"}]:  # fmt: skip
            self.set_up(**wrong)
            self.assertEqual(self.code, 64, wrong)
        self.run_action("setup", {}, RUNNER_OS="Windows")
        self.assertEqual(self.code, 64, self.log)


class ApplyAndDrift(Actions):
    def apply(self, **inputs):
        self.forge.refs.setdefault("heads/main", self.commit_of("HEAD"))
        self.run_action(
            "apply", {"api_key": self.write_key, "api_url": self.calry, "binary": BINARY, "only": "GUESTY"} | inputs,
            CALRY_SECRET_GUESTY_TOKEN="unused",
        )  # fmt: skip

    def test_a_merged_change_is_applied_verified_and_reported(self):
        self.change("applied")
        self.apply(max_changes="0")
        self.assertEqual((self.code, self.outputs["applied"], self.outputs["exitcode"]), (1, "0", "1"), self.log)
        digest = self.outputs["digest"]
        self.assertIn(digest, self.summary)
        refused = [c[2] for c in executed(self.log) if c[0] == "error"]
        self.assertTrue(len(refused) == 1 and refused[0].startswith("plan refused: it changes 1 provider"), refused)
        self.apply(max_changes="0", approve="sha256:" + "0" * 64)
        self.assertEqual(self.code, 1, self.log)
        self.apply(max_changes="0", approve=digest)
        self.assertEqual((self.code, self.outputs["applied"], self.outputs["failed"]), (0, "1", "0"), self.log)
        report = json.loads(Path(self.outputs["report-json"]).read_text())
        self.assertEqual([d["outcome"] for d in report["definitions"] if d["provider"] == "GUESTY"], ["applied"])
        self.assertIn("GUESTY", Path(self.outputs["report-markdown"]).read_text())
        self.assertIn("GUESTY", self.log.split("::group::")[1])
        self.apply()
        self.assertEqual((self.code, self.outputs["applied"]), (0, "0"), self.log)
        self.apply(api_key=self.key)
        self.assertEqual(self.code, 0, "nothing is left to write")
        self.change("applied-later")
        self.forge.refs.clear()
        self.apply(api_key=self.key)
        self.assertEqual((self.code, self.outputs["failed"]), (1, "1"), self.log)
        self.assertIn("::error title=Calry::1 of 1 updates failed", self.log)

    def test_an_older_commit_never_replaces_a_newer_one(self):
        self.change("older")
        self.forge.refs["heads/main"] = "f" * 40
        self.apply()
        self.assertEqual((self.code, self.outputs["exitcode"], self.outputs["applied"]), (0, "0", ""), self.log)
        self.assertIn("a newer commit", self.log)
        self.apply(github_api_url="http://127.0.0.1:9")
        self.assertEqual((self.code, self.outputs["applied"]), (1, ""), self.log)
        self.apply(api_key="")
        self.assertEqual(self.code, 64, self.log)

    def drift(self, **inputs):
        self.run_action(
            "drift", {"api_key": self.key, "api_url": self.calry, "binary": BINARY, "only": "GUESTY"} | inputs
        )  # fmt: skip

    def in_console(self, icon):
        """Changes an icon in Calry, as an edit in its console does."""
        directory = self.work / "console"
        directory.mkdir(exist_ok=True)
        (directory / "guesty.yaml").write_text(f"provider: GUESTY\nicon: https://cdn.example.com/{icon}.png\n")
        subprocess.run(
            [BINARY, "apply", "--yes", "--definitions", directory, "--api-url", self.calry],
            env={"CALRY_API_KEY": self.write_key}, check=True, capture_output=True,
        )  # fmt: skip

    def test_drift_opens_one_issue_updates_it_and_closes_it(self):
        self.in_console("wanted")
        self.change("wanted")
        mallory = {"login": "mallory", "type": "User"}
        foreign = self.forge.open(self.forge.issues, mallory, {"body": "<!-- calry-gitops-drift:acme-production -->", "title": "x"})
        self.drift()
        self.assertEqual((self.code, self.outputs["drifted"], self.forge.writes()), (0, "0", []), self.log)
        self.in_console("once")
        self.drift()
        self.assertEqual((self.code, self.outputs["drifted"], self.outputs["exitcode"]), (0, "1", "2"), self.log)
        own = [issue for issue in self.forge.issues if issue["user"] == BOT]
        self.assertEqual((len(own), self.outputs["issue"]), (1, str(own[0]["number"])))
        self.assertIn("once.png", own[0]["body"])
        self.assertEqual(own[0]["title"], "Calry: acme-production differs from git in 1 provider")
        writes = len(self.forge.writes())
        self.drift(fail_on_drift="true")
        self.assertEqual((self.code, len(self.forge.writes())), (2, writes), "the same is not reported again")
        self.in_console("twice")
        self.drift()
        self.assertIn("twice.png", own[0]["body"])
        self.drift(api_key="zepl.unknown.key.acme")
        self.assertEqual((self.code, self.outputs["drifted"], own[0]["state"]), (1, "", "open"), self.log)
        self.assertIn("::error title=Calry::cannot read the workspace: ", self.log)
        self.in_console("wanted")
        self.drift()
        self.assertEqual((self.code, own[0]["state"], self.outputs["issue"]), (0, "closed", str(own[0]["number"])), self.log)
        self.assertIn("/actions/runs/42", own[0]["comments"][0])
        self.assertEqual((len(self.forge.issues), foreign["state"], foreign["comments"]), (2, "open", []))
        self.in_console("again")
        self.drift(token="ghs_fork-may-read")
        self.assertEqual(self.code, 1, self.log)

    def test_drift_is_offered_as_a_pull_request(self):
        self.in_console("wanted")
        self.change("wanted")
        self.in_console("once")
        for _ in range(2):
            self.drift(issue="false", pull_request="true")
            self.git("checkout", "--quiet", "--", ".")
        self.assertEqual((self.code, len(self.forge.commits)), (0, 1), self.log)
        # The schema learns the names that the workspace shows.
        self.assertLessEqual(set(self.forge.commits[0]), {"definitions/guesty.yaml", "definitions/definition.schema.json"})
        self.assertIn("once.png", self.forge.commits[0]["definitions/guesty.yaml"])
        [pull] = self.forge.pulls
        self.assertEqual((pull["head"], pull["base"]), ("calry-gitops/drift-acme-production", "main"))
        self.assertEqual((self.outputs["pull-request"], self.forge.issues), (str(pull["number"]), []))
        self.in_console("twice")
        self.drift(issue="false", pull_request="true")
        self.git("checkout", "--quiet", "--", ".")
        self.assertEqual((len(self.forge.commits), len(self.forge.pulls)), (2, 1), self.log)
        self.assertIn("twice.png", self.forge.commits[1]["definitions/guesty.yaml"])
        self.in_console("wanted")
        self.drift(issue="false", pull_request="true")
        self.assertEqual((self.code, pull["state"], self.forge.refs), (0, "closed", {}), self.log)


if __name__ == "__main__":
    unittest.main()
