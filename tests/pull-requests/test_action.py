"""The GitHub action's script, run for real."""

import re
import shlex
import subprocess
import unittest

from forge import ALICE, BOT
from world import BINARY, LOOSENED, MARKER, ROOT, World

FINGERPRINT_KEY = "a-fingerprint-key-that-is-long-enough-for-this"
TOKEN = "ghs_bot-may-write"


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


class Action(World):
    def check(self, action=None, **given):
        """Runs check.sh, or the steps of an action as the runner does."""
        output, summary = self.work / "output", self.work / "summary"
        output.write_text("")
        summary.write_text("")
        environment = {
            "PATH": self.path, "HOME": str(self.work), "GITHUB_ACTION_PATH": str(ROOT / "deploy/github-action"),
            "GITHUB_REPOSITORY": "acme/definitions", "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary),
            "DEFINITIONS": "definitions", "BINARY": BINARY, "CALRY_API_URL": self.calry, "CALRY_API_KEY": self.key,
            "LIVE": "", "CALRY_FINGERPRINT_KEY": "", "SECRETS_UNAVAILABLE": "true", "BASE": self.base,
            "FAIL_ON_DRIFT": "false", "FAIL_ON_LOOSENED": "false", "STRICT": "false", "SARIF": "", "COMMENT": "true", "TOKEN": TOKEN,
            "API_URL": self.forge.url, "PULL_REQUEST": "7",
        } | given  # fmt: skip
        environment["GITHUB_WORKSPACE"] = str(self.repo)
        steps = [[str(ROOT / "deploy/github-action/check.sh")]]
        if action:
            environment |= {"GITHUB_ACTION_PATH": str(action), "RUNNER_TEMP": str(self.work / "runner"), "BINARY": ""}
            (self.work / "runner").mkdir(exist_ok=True)
            steps = re.findall(r"shell: (.*)\n *run: '(.*)'\n", (action / "action.yml").read_text())
            self.assertEqual(len(steps), 2)
            for number, (shell, script) in enumerate(steps):
                (self.work / f"step{number}").write_text(script)
                steps[number] = shlex.split(shell.format(self.work / f"step{number}"))
        self.log = ""
        for step in steps:
            ran = subprocess.run(step, cwd=self.repo, env=environment, capture_output=True, text=True)
            self.log += ran.stdout + ran.stderr
            if ran.returncode:
                break
        self.summary, self.code = summary.read_text(), ran.returncode
        self.outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
        seen = self.arguments.read_text() if self.arguments.exists() else ""
        for secret in [TOKEN, environment["TOKEN"], environment["CALRY_API_KEY"], FINGERPRINT_KEY]:
            self.assertTrue(not secret or secret not in self.log + self.summary + str(self.forge.requests), secret)
        self.assertNotIn(environment["TOKEN"], seen)
        for level, _, _ in executed(self.log):
            self.assertIn(level, ["error", "warning", "notice"], self.log)

    def own(self, user=BOT):
        return [c for c in self.forge.comments if c["user"] == user and c["body"].startswith(MARKER)]

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
            self.check(TOKEN="ghp_alice-may-write")
        self.assertEqual([method for method, _ in self.forge.writes()], ["POST", "PATCH"])
        self.assertEqual([c["body"] for c in self.own()], [f"{MARKER}\nof the bot"])
        self.assertEqual(len(self.own(ALICE)), 1)

    def test_drift_alone_is_no_comment_and_no_failure_unless_it_is_asked_for(self):
        (self.repo / "README").write_text("nothing of Calry's")
        self.commit("readme")
        self.check()
        self.assertEqual((self.code, self.outputs["changes"], self.outputs["exitcode"]), (0, "0", "0"), self.log)
        self.assertEqual(self.forge.writes(), [])
        self.assertIn("drift", self.summary)
        self.check(FAIL_ON_DRIFT="true")
        self.assertEqual((self.code, self.outputs["changes"], self.outputs["exitcode"]), (2, "0", "2"), self.log)
        self.check(BASE="")
        self.assertEqual((self.code, self.outputs["exitcode"]), (0, "2"))
        self.assertGreater(int(self.outputs["changes"]), 5)
        self.check(BASE="", FAIL_ON_DRIFT="true")
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
            self.check(FAIL_ON_LOOSENED="true")
            self.assertEqual((self.code, self.outputs["exitcode"]), (2, "2"), self.log)
        self.git("checkout", "--quiet", "--force", "-B", "branch", self.base)
        self.check(FAIL_ON_LOOSENED="true")
        self.assertEqual((self.code, self.outputs["loosened"]), (0, "0"), self.log)
        self.assertEqual(self.forge.writes()[-1][0], "PATCH", "what a branch no longer loosens is corrected")

    def test_a_check_of_protection_that_cannot_be_made_is_64(self):
        for missing in [{"BASE": ""}, {"CALRY_API_KEY": ""}]:
            self.check(FAIL_ON_LOOSENED="true", **missing)
            self.assertEqual(self.code, 64, self.log)

    def test_no_program_of_a_checkout_runs(self):
        action = self.source() / "deploy/github-action"
        ran, head = self.hostile()
        self.change("one")
        for what in ["rust-toolchain.toml", ".cargo/config.toml"]:
            self.obey(what)
            self.forge.comments.clear()
            self.check(action=action, PATH=f"{head}:{self.path}", CARGO_TARGET_DIR="target", **self.cargo())
            self.assertFalse(ran.exists(), ran.exists() and ran.read_text())
            self.assertEqual((self.code, self.outputs["changes"], len(self.own())), (0, "1", 1), self.log)
        # The action itself may be in a directory of the checkout.
        self.git("clone", "--quiet", str(self.work / "source"), str(self.repo / "action"))
        self.check(action=self.repo / "action/deploy/github-action", PATH=f"{head}:{self.path}", **self.cargo())
        self.assertFalse(ran.exists(), ran.exists() and ran.read_text())
        self.assertEqual((self.code, self.outputs["changes"]), (0, "1"), self.log)
        self.check(BINARY="target/release/calry-gitops")
        self.assertEqual(self.code, 64, self.log)
        self.assertFalse(ran.exists())

    def test_nothing_is_written_through_a_link_of_a_checkout(self):
        victim = self.work / "victim"
        victim.write_text("untouched")
        (self.repo / "problems.sarif").symlink_to(victim)
        self.commit("link")
        self.check(SARIF="problems.sarif")
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
        self.check(SARIF="problems.sarif")
        self.assertEqual((self.code, self.outputs["exitcode"]), (3, "3"), self.log)
        error = next(c for c in executed(self.log) if c[0] == "error")
        self.assertEqual(error[1], " file=definitions/guesty.yaml,line=2,endLine=2,col=1,endColumn=4,title=unknown-key")
        self.assertIn("icn", self.own()[0]["body"])
        self.assertIn('"ruleId": "unknown-key"', (self.repo / "problems.sarif").read_text())

    def test_a_failure_is_1_and_replaces_the_plan_that_is_told_no_more(self):
        self.change("one")
        self.check()
        self.check(CALRY_API_KEY="zepl.unknown.key.acme")
        self.assertEqual((self.code, self.outputs), (1, {"changes": "", "loosened": "", "digest": "", "exitcode": "1"}), self.log)
        self.assertIn("failed", self.own()[0]["body"])
        self.assertIn("does not know the API key", self.summary)
        self.assertEqual(len(self.forge.comments), 1)
        self.check(BASE="nowhere")
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
                CALRY_API_KEY="", LIVE=str(self.work / "snapshot.json"), CALRY_FINGERPRINT_KEY=fingerprints,
                TOKEN="ghs_fork-may-read",
            )  # fmt: skip
            self.assertEqual((self.code, self.outputs["changes"]), (0, "1"), self.log)
            self.assertIn("one.png", self.summary)
            self.assertIn("the token may not comment here", self.log)
        self.assertEqual(self.forge.comments, [])

    def test_with_neither_key_nor_snapshot_the_files_are_checked(self):
        self.check(CALRY_API_KEY="")
        self.assertEqual((self.code, self.outputs["changes"]), (0, ""), self.log)
        self.assertIn("nothing was planned", self.summary)
        self.write("guesty.yaml", "provider: GUESTY\nicn: x\n")
        self.check(CALRY_API_KEY="")
        self.assertEqual(self.code, 3)
        self.assertEqual(self.forge.requests, [])

    def test_what_a_branch_says_is_never_a_command_of_the_runner(self):
        for field in ["##[set-output name=changes;]99", "::set-output name=changes::99", "##[add-mask]a"]:
            self.write("guesty.yaml", f'provider: GUESTY\nfieldsToSync:\n  listing: ["{field}"]\n')
            for key in [self.key, ""]:
                self.check(CALRY_API_KEY=key, STRICT="true")
                self.assertEqual(self.code, 3, self.log)
                self.assertIn(field[-6:], self.log)
                self.assertNotIn("##[", self.log)

    def test_a_forge_that_is_not_there_does_not_fail_the_check(self):
        self.change("one")
        for trouble in [{"API_URL": "http://127.0.0.1:9"}, {"TOKEN": "ghs_revoked"}]:
            self.check(**trouble)
            self.assertEqual((self.code, self.outputs["changes"]), (0, "1"))
            self.assertIn("cannot be read; the plan is in the summary", self.log)

    def test_every_input_is_declared_and_reaches_the_script(self):
        action = (ROOT / "deploy/github-action/action.yml").read_text()
        script = (ROOT / "deploy/github-action/check.sh").read_text()
        inputs, rest = action.split("outputs:\n", 1)
        self.assertEqual(set(re.findall(r"^  ([a-z-]+):$", inputs, re.M)), set(re.findall(r"inputs\.([a-z-]+)", rest)))
        for variable in re.findall(r"^        ([A-Z_]+): ", rest, re.M):
            self.assertTrue(variable in script or variable == "CALRY_FINGERPRINT_KEY", variable)
        for output in re.findall(r"steps\.check\.outputs\.([a-z]+)", rest):
            self.assertIn(f"printf '{output}=", script)

    def test_a_wrong_input_is_64(self):
        self.check(STRICT="yes")
        self.assertEqual(self.code, 64)
        self.assertEqual(self.forge.requests, [])


if __name__ == "__main__":
    unittest.main()
