"""A runner of composite actions: evaluates the expressions of an action.yml and runs its steps, as GitHub's runner does."""

import re
import shlex
import subprocess

import yaml


def evaluate(expression, contexts):
    """The value of an expression; what is not there is an empty text."""
    for operator, join in [("||", lambda left, right: left() or right()), ("&&", lambda left, right: left() and right())]:
        left, found, right = expression.partition(operator)
        if found:
            return join(lambda: evaluate(left, contexts), lambda: evaluate(right, contexts))
    if compared := re.fullmatch(r"(.*?)\s*(==|!=)\s*(.*)", expression.strip()):
        equal = evaluate(compared[1], contexts) == evaluate(compared[3], contexts)
        return equal == (compared[2] == "==")
    expression = expression.strip()
    if literal := re.fullmatch(r"'([^']*)'", expression):
        return literal[1]
    if not re.fullmatch(r"[a-z_]+(\.[A-Za-z0-9_-]+)+", expression):
        raise ValueError(f"not an expression that this runner knows: {expression}")
    value = contexts
    for name in expression.split("."):
        value = (value or {}).get(name, "")
    return "" if value is None else value


def expand(text, contexts):
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: str(evaluate(found[1], contexts)), str(text))


def run(action, inputs, github, environment, work):
    """Runs an action in a directory; returns its exit code, its log and its outputs. `environment` keeps a changed PATH."""
    description = yaml.safe_load((action / "action.yml").read_text())
    declared = description["inputs"]
    if unknown := set(inputs) - set(declared):
        raise ValueError(f"inputs that {action.name} does not have: {unknown}")
    contexts = {"github": github, "steps": {}}
    contexts["inputs"] = {
        name: inputs.get(name, expand(entry.get("default", ""), contexts)) for name, entry in declared.items()
    }
    log, code = "", 0
    for number, step in enumerate(description["runs"]["steps"]):
        if "if" in step and not evaluate(step["if"], contexts):
            continue
        script, output, path = (work / f"{name}{number}" for name in ["script", "output", "path"])
        script.write_text(expand(step["run"], contexts))
        output.write_text("")
        path.write_text("")
        variables = {name: expand(value, contexts) for name, value in step.get("env", {}).items()}
        ran = subprocess.run(
            shlex.split(step["shell"].format(script)), cwd=environment["GITHUB_WORKSPACE"], capture_output=True, text=True,
            env=environment | variables | {
                "GITHUB_ACTION_PATH": str(action), "GITHUB_OUTPUT": str(output), "GITHUB_PATH": str(path),
            },
        )  # fmt: skip
        log += ran.stdout + ran.stderr
        outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
        contexts["steps"][step["id"]] = {"outputs": outputs}
        for line in path.read_text().splitlines():
            environment["PATH"] = f"{line}:{environment['PATH']}"
        code = ran.returncode
        if code:
            break
    return code, log, {name: expand(entry["value"], contexts) for name, entry in description["outputs"].items()}
