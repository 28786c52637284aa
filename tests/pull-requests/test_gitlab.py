"""The GitLab component, its jobs run for real by gitlab-ci-local."""

import json
import os
import re
import shutil
import subprocess
import unittest

import yaml
from forge import ALICE
from world import LOOSENED, MARKER, ROOT, World, release

TOKEN = "ghp_alice-may-write"


class Component(World):
    def setUp(self):
        super().setUp()
        shutil.copy(ROOT / "templates/check.yml", self.repo / "check.yml")
        self.include()
        (self.repo / ".gitignore").write_text(".gitlab-ci-local\n")
        self.git("remote", "add", "origin", "git@gitlab.example.com:acme/definitions.git")
        self.base = self.commit("component")
        # Not in the image of the component, so that nothing else is used by accident.
        self.path = ":".join(entry for entry in self.path.split(":") if not shutil.which("calry-gitops", path=entry))

    def include(self, **inputs):
        """Includes the component, with the inputs that every test needs."""
        given = {"downloads": release().url, "api_url": self.calry} | inputs
        given = {name.replace("_", "-"): value for name, value in given.items()}
        (self.repo / ".gitlab-ci.yml").write_text(json.dumps({"include": [{"local": "check.yml", "inputs": given}]}))

    def gitlab(self, *args, environment=None, **given):
        variables = {
            "CI_PIPELINE_SOURCE": "merge_request_event", "CI_MERGE_REQUEST_DIFF_BASE_SHA": self.base,
            "CI_MERGE_REQUEST_IID": "7", "CI_PROJECT_ID": "42", "CI_API_V4_URL": f"{self.forge.url}/api/v4",
            "CI_PROJECT_URL": "https://gitlab.example.com/acme/definitions", "CI_COMMIT_SHA": self.commit_of("HEAD"),
            "CI_JOB_URL": "https://gitlab.example.com/acme/definitions/-/jobs/9",
            "CALRY_API_KEY": self.key, "CALRY_GITLAB_TOKEN": TOKEN,
        } | given  # fmt: skip
        pairs = [word for name, value in variables.items() if value for word in ("--variable", f"{name}={value}")]
        ran = subprocess.run(
            [os.environ["GITLAB_CI_LOCAL"], "--force-shell-executor", "--home", self.work, *args, *pairs],
            cwd=self.repo, capture_output=True, text=True,
            env={"PATH": self.path, "HOME": str(self.work)} | (environment or {}),
        )  # fmt: skip
        self.log, self.code = ran.stdout + ran.stderr, ran.returncode
        seen = self.arguments.read_text() if self.arguments.exists() else ""
        curls = [line for line in seen.splitlines() if "=" not in line]
        self.assertNotIn(TOKEN, self.log + "".join(curls))

    def test_jobs_are_for_merge_requests_and_a_plan_needs_a_key_or_a_snapshot(self):
        self.gitlab("--list")
        self.assertIn("calry-validate", self.log)
        self.assertIn("calry-plan", self.log)
        self.gitlab("--list", CALRY_API_KEY="")
        self.assertNotIn("calry-plan", self.log)
        self.gitlab("--list", CALRY_API_KEY="", CALRY_LIVE="snapshot.json")
        self.assertIn("calry-plan", self.log)
        self.gitlab("--list", CI_PIPELINE_SOURCE="push")
        self.assertNotIn("calry-validate", self.log)

    def test_problems_are_a_code_quality_report(self):
        self.write("guesty.yaml", "provider: GUESTY\nicn: x\n")
        self.gitlab("calry-validate")
        self.assertEqual(self.code, 1, self.log)  # gitlab-ci-local's own, of a job that failed
        self.assertIn("unknown-key", self.log)
        [problem] = json.loads((self.repo / "gl-code-quality-report.json").read_text())
        self.assertEqual(problem["location"], {"path": "definitions/guesty.yaml", "lines": {"begin": 2}})
        self.assertEqual((problem["check_name"], problem["severity"]), ("unknown-key", "major"))
        self.assertTrue(problem["fingerprint"] and problem["description"])

    def test_one_note_is_kept_and_nobody_elses_is_touched(self):
        for n in range(120):
            self.forge.add({"login": "mallory", "id": 1, "type": "User"}, f"{MARKER}\nI was here first")
        for change in ["one", "two"]:
            self.change(change)
            self.gitlab("calry-plan")
            self.assertEqual(self.code, 0, self.log)
        self.assertEqual([method for method, _ in self.forge.writes()], ["POST", "PUT"], self.log)
        own = [c for c in self.forge.comments if c["user"]["login"] == ALICE["login"]]
        self.assertEqual(len(own), 1)
        self.assertTrue(own[0]["body"].startswith(MARKER) and "two.png" in own[0]["body"])
        at = "https://gitlab.example.com/acme/definitions/-"
        self.assertIn(f"[`guesty.yaml`]({at}/blob/{self.commit_of('HEAD')}/definitions/guesty.yaml#L2)", own[0]["body"])
        self.assertIn(f"[Log]({at}/jobs/9)", own[0]["body"])
        self.assertTrue(all(c["body"].endswith("first") for c in self.forge.comments[:120]))
        self.assertEqual(json.loads((self.repo / "calry-plan.json").read_text())["summary"]["invalid"], 0)

        self.gitlab("calry-plan", CALRY_API_KEY="zepl.unknown.key.acme")
        self.assertEqual(self.code, 1)
        self.assertIn("there is no plan", own[0]["body"])
        self.gitlab("calry-plan", CALRY_GITLAB_TOKEN="revoked")
        self.assertEqual(self.code, 0, self.log)
        self.assertIn("could not be kept", self.log)

    def test_lost_protection_is_in_the_note_and_fails_if_that_is_asked_for(self):
        self.include(fail_on_loosened=True)
        self.protect()
        self.gitlab("calry-plan")
        self.assertEqual((self.code, self.forge.writes()), (0, []), self.log)
        for what in LOOSENED:
            self.loosen(what)
            self.forge.comments.clear()
            self.include()
            self.gitlab("calry-plan")
            self.assertEqual((self.code, len(self.forge.comments)), (0, 1), f"{what}: {self.log}")
        self.include(fail_on_loosened=True)
        self.gitlab("calry-plan")
        self.assertEqual(self.code, 1, self.log)  # gitlab-ci-local's own, of a job that failed

    def test_no_program_of_a_checkout_runs_and_nothing_is_written_through_a_link_of_it(self):
        # What gitlab-ci-local itself starts is not of the component.
        own = ["awk", "bash", "cat", "cp", "env", "find", "git", "grep", "mkdir", "mktemp", "mv", "rm", "tee", "touch"]
        ran, head = self.hostile(leave_out=own)
        victim = self.work / "victim"
        victim.write_text("untouched")
        outputs = ["calry-problems.json", "calry-problems.sarif", "gl-code-quality-report.json", "calry-plan.json", "calry-plan.md"]
        for name in outputs:
            (self.repo / name).symlink_to(victim)
        self.change("one")
        self.gitlab("calry-validate", "calry-plan", environment={"PATH": f"{head}:{self.path}"})
        self.assertFalse(ran.exists(), ran.exists() and ran.read_text())
        self.assertEqual((self.code, victim.read_text()), (0, "untouched"), self.log)
        self.assertFalse(any((self.repo / name).is_symlink() for name in outputs))
        self.assertIn("one.png", self.forge.comments[-1]["body"])

    def test_a_release_with_another_checksum_is_refused(self):
        self.change("one")
        self.include(sha256="1" * 64)
        self.gitlab("calry-plan")
        self.assertEqual((self.code, self.forge.requests), (1, []), self.log)
        self.assertIn("the checksum of", self.log)
        self.include(version="9.9.9")
        self.gitlab("calry-plan")
        self.assertEqual((self.code, self.forge.requests), (1, []), self.log)

    def test_each_workspace_can_have_a_key_of_its_own(self):
        self.change("one")
        self.include(api_key_variable="STAGING_KEY")
        self.gitlab("--list")
        self.assertNotIn("calry-plan", self.log)
        self.gitlab("calry-plan", CALRY_API_KEY="zepl.unknown.key.acme", STAGING_KEY=self.key)
        self.assertEqual(self.code, 0, self.log)
        self.assertIn("one.png", self.forge.comments[-1]["body"])
        self.assertNotIn(self.key, self.log)

    def test_inputs_reach_the_program(self):
        self.change("one")
        self.include(only="HOSTAWAY BEDS24", job_prefix="acme", timeout="20s", fail_on_drift=True)
        self.gitlab("acme-plan")
        self.assertEqual(self.code, 1, self.log)  # gitlab-ci-local's own, of a job that failed
        plan = json.loads((self.repo / "calry-plan.json").read_text())
        self.assertEqual({d["provider"] for d in plan["definitions"]}, {"HOSTAWAY", "BEDS24"})

    def jobs(self, **inputs):
        """The jobs of the component, with inputs, as GitLab reads them."""
        header, text = (ROOT / "templates/check.yml").read_text().split("\n---\n")
        declared = yaml.safe_load(header)["spec"]["inputs"]
        for name, entry in declared.items():
            value = inputs.get(name.replace("-", "_"), entry.get("default", ""))
            text = text.replace(f"$[[ inputs.{name} ]]", json.dumps(value).strip('"'))
        return yaml.safe_load(text)

    def test_the_scripts_run_in_the_shells_of_small_images(self):
        """The image decides which shell runs them: Alpine's is that of busybox, Debian's is dash."""
        jobs = self.jobs(downloads=release().url, api_url=self.calry)
        for field, shell in [("one", ["dash"]), ("two", ["busybox", "sh"])]:
            self.change(field)
            for job in ["calry-validate", "calry-plan"]:
                script = "\n".join(jobs[".calry-gitops"]["before_script"] + jobs[job]["script"])
                ran = subprocess.run(
                    [*shell, "-e", "-c", script], cwd=self.repo, capture_output=True, text=True,
                    env=jobs[".calry-gitops"]["variables"] | {
                        "PATH": self.path, "HOME": str(self.work), "CI_MERGE_REQUEST_DIFF_BASE_SHA": self.base,
                        "CI_MERGE_REQUEST_IID": "7", "CI_PROJECT_ID": "42", "CI_API_V4_URL": f"{self.forge.url}/api/v4",
                        "CI_PROJECT_URL": "https://gitlab.example.com/acme/definitions", "CI_COMMIT_SHA": self.commit_of("HEAD"),
                        "CI_JOB_URL": "https://gitlab.example.com/acme/definitions/-/jobs/9",
                        "CALRY_API_KEY": self.key, "CALRY_GITLAB_TOKEN": TOKEN,
                    },
                )  # fmt: skip
                self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
            self.assertIn(f"{field}.png", self.forge.comments[0]["body"])
        self.assertEqual([method for method, _ in self.forge.writes()], ["POST", "PUT"])

    def test_the_scripts_have_no_fault_that_shellcheck_finds(self):
        jobs = self.jobs()
        for script in [jobs[".calry-gitops"]["before_script"], jobs["calry-validate"]["script"], jobs["calry-plan"]["script"]]:
            ran = subprocess.run(
                ["shellcheck", "--shell=sh", "--exclude=SC2016", "-"], input="\n".join(script), text=True, capture_output=True
            )  # fmt: skip
            self.assertEqual(ran.returncode, 0, ran.stdout)


if __name__ == "__main__":
    unittest.main()
