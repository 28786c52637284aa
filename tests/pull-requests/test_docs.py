"""The pages about the actions and the component: every input and output, every version, every name."""

import os
import re
import unittest

import yaml
from world import ROOT, VERSION

PAGE = ROOT / "docs/pull-requests.md"
ACTIONS = ["setup", "check", "apply", "drift"]


def action(name):
    return yaml.safe_load((ROOT / "deploy/actions" / name / "action.yml").read_text())


def component():
    return (ROOT / "templates/check.yml").read_text()


def cell(text):
    return str(text).replace("|", "\\|")


def default(entry):
    if entry.get("required"):
        return "required"
    value = entry.get("default", "")
    return "" if value == "" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table(inputs, outputs):
    rows = ["| input | default | description |", "| --- | --- | --- |"]
    rows += [f"| `{name}` | {default(entry)} | {cell(entry['description'])} |" for name, entry in inputs.items()]
    if outputs:
        rows += ["", "| output | description |", "| --- | --- |"]
        rows += [f"| `{name}` | {cell(entry['description'])} |" for name, entry in outputs.items()]
    return "\n".join(rows)


class Docs(unittest.TestCase):
    def test_every_input_and_output_is_in_the_page(self):
        """UPDATE_DOCS=1 writes the tables."""
        tables = {f"action {name}": table(action(name)["inputs"], action(name)["outputs"]) for name in ACTIONS}
        tables["component"] = table(yaml.safe_load(component().split("\n---\n")[0])["spec"]["inputs"], {})
        page = PAGE.read_text()
        for name, text in tables.items():
            begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
            head, rest = page.split(begin)
            page = head + begin + text + end + rest.split(end)[1]
        if os.environ.get("UPDATE_DOCS"):
            PAGE.write_text(page)
        self.assertEqual(PAGE.read_text(), page, "UPDATE_DOCS=1 writes the tables")

    def test_every_input_and_output_is_used(self):
        for name in ACTIONS:
            text = (ROOT / "deploy/actions" / name / "action.yml").read_text()
            scripts = "".join(p.read_text() for p in (ROOT / "deploy/actions").glob("*/*.sh") if p.parts[-2] in (name, "lib", "setup"))
            used = set(re.findall(r"inputs\.([a-z0-9-]+)", text.split("\nruns:\n")[1]))
            self.assertEqual(used, set(action(name)["inputs"]), name)
            for step in action(name)["runs"]["steps"]:
                for variable in step["env"]:
                    self.assertTrue(re.search(rf"\b{variable}\b", scripts) or variable == "CALRY_FINGERPRINT_KEY", variable)
            for output in action(name)["outputs"]:
                self.assertRegex(scripts, rf"\boutput {output} ", name)
        used = re.findall(r"\$\[\[ inputs\.([a-z0-9-]+) \]\]", component())
        self.assertEqual(set(used), set(yaml.safe_load(component().split("\n---\n")[0])["spec"]["inputs"]))

    def test_every_workflow_gives_inputs_that_the_actions_have(self):
        for path in (ROOT / "deploy/workflows").glob("*.yml"):
            [job] = yaml.safe_load(path.read_text())["jobs"].values()
            steps = [step for step in job["steps"] if "/deploy/actions/" in step.get("uses", "")]
            self.assertTrue(steps, path)
            for step in steps:
                inputs = action(re.search(r"/deploy/actions/(\w+)@", step["uses"])[1])["inputs"]
                given = set(step.get("with", {}))
                self.assertLessEqual(given, set(inputs), path)
                self.assertLessEqual({name for name, entry in inputs.items() if entry.get("required")}, given, path)

    def test_everything_names_the_release_that_it_belongs_to(self):
        for path in [PAGE, ROOT / "templates/check.yml", *(ROOT / "deploy/workflows").glob("*.yml")]:
            named = re.findall(r"calry-gitops\S*[@/]v(\d+\.\d+\.\d+)|default: (\d+\.\d+\.\d+)$|rev: v(\S+)", path.read_text(), re.M)
            self.assertTrue(named, path)
            self.assertEqual({"".join(version) for version in named}, {VERSION}, path)


if __name__ == "__main__":
    unittest.main()
