"""Plants faults into a copy of the source, one for each promise and each trap, and shows that simulated histories find them.

All faults are compiled into one binary: the fault whose number the variable PLANTED holds is active. Each replaces an
expression, which must occur exactly once in its file; `--check` shows only that. Arguments are the numbers of faults.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

# Name, file below src, expression, faulty expression.
FAULTS = [
    ("trap 1: an update has only the fields that change", "plan/diff.rs",
     "update.fields = Some(groups(desired, live));",
     "{ update.fields = Some(groups(desired, live)); if PLANTED { for (group, on) in update.fields.iter_mut().flatten() { "
     "on.retain(|field| live.fields.get(group).and_then(|known| known.get(field)) != Some(&true)); } } }"),
    ("trap 2: an update names fields that are to be off", "live/wire.rs",
     "let on = |fields: &'a FieldSet| fields.iter().map(|field| (field.as_str(), true)).collect();",
     "let on = |fields: &'a FieldSet| { let mut all: BTreeMap<&str, bool> = fields.iter().map(|field| (field.as_str(), "
     "true)).collect(); if PLANTED { all.entry(\"name\").or_insert(false); } all };"),
    ("trap 3: unmanaged groups are left out", "plan/diff.rs",
     "groups.extend(desired.fields.clone());",
     "if PLANTED { groups.clear(); } groups.extend(desired.fields.clone());"),
    ("trap 4: a partner key has only the managed sections", "plan/diff.rs",
     "None => live.partner_key.section(section).map(|values| {",
     "None => live.partner_key.section(section).filter(|_| !PLANTED).map(|values| {"),
    ("trap 5: PUT leaves the unmanaged icon out", "plan/diff.rs",
     ".or_else(|| live.icon.clone());",
     ".or_else(|| live.icon.clone().filter(|_| !PLANTED));"),
    ("trap 6: an answer of 200 counts as success", "plan/diff.rs",
     "    mismatches\n}\n\n/// Why an answer cannot show",
     "    if PLANTED { mismatches.clear(); }\n    mismatches\n}\n\n/// Why an answer cannot show"),
    ("trap 7: a mask is carried over", "plan/diff.rs",
     "LiveValue::Mask | LiveValue::MaybeMask(_) => Err(Obstacle::Masked {",
     "LiveValue::Mask if PLANTED => Ok((name.to_owned(), Secret::new(\"********\"))),\n"
     "        LiveValue::Mask | LiveValue::MaybeMask(_) => Err(Obstacle::Masked {"),
    ("promise 1: a change of the files waits for the interval", "daemon/mod.rs",
     "() = inputs.changed() => inputs.trigger(),",
     "() = inputs.changed(), if !PLANTED => inputs.trigger(),"),
    ("promise 1: a provider that failed is never tried again", "daemon/memory.rs",
     "(!left.is_zero())\n                .then(",
     "(PLANTED || !left.is_zero())\n                .then("),
    ("promise 2: an unknown part of a partner key is ignored", "plan/diff.rs",
     "(Some(obstacle), _) => Err(obstacle),",
     "(Some(obstacle), other) if !PLANTED || other != DefinitionPart::PartnerKey => Err(obstacle),\n"
     "            (Some(_), _) => partner_key(desired, live).map(|key| { update.partner_key = Some(key); true }),"),
    ("promise 2: a hold is ignored", "plan/diff.rs",
     ".filter(|hold| hold.in_force(context.today))\n    {",
     ".filter(|hold| !PLANTED && hold.in_force(context.today))\n    {"),
    ("promise 2: an update is sent while the workspace is on hold", "reconcile/mod.rs",
     "match self.holds.in_force(machine::now()) {",
     "match self.holds.in_force(machine::now()).filter(|_| !PLANTED) {"),
    ("promise 2: a freeze window is ignored", "model/workspace_hold.rs",
     "let windows = windows.filter(|window| contains(window.from, window.to, now));",
     "let windows = windows.filter(|window| !PLANTED && contains(window.from, window.to, now));"),
    ("promise 2: a hold of the workspace is ignored", "model/workspace_hold.rs",
     "let hold = self.hold.iter().filter(|hold| hold.in_force(today));",
     "let hold = self.hold.iter().filter(|hold| !PLANTED && hold.in_force(today));"),
    ("a plan is silent about what switched-off fields mean", "report/consequences.rs",
     "} if group == GROUP => words(field),",
     "} if !PLANTED && group == GROUP => words(field),"),
    ("promise 2: a key of another workspace is used", "daemon/reconciliation.rs",
     ".filter(|before| before.id != workspace.id)",
     ".filter(|before| !PLANTED && before.id != workspace.id)"),
    ("promise 2: the age of an answer ignores that the process was frozen", "reconcile/mod.rs",
     "return (answer, stopped.unwrap_or(seen));",
     "return (answer, stopped.filter(|_| !PLANTED).unwrap_or(seen));"),
    ("promise 2: the age of a second read ignores that the process was frozen", "reconcile/apply.rs",
     "unless the process was stopped meanwhile.\n                        (fetched, reread) = (at, at.elapsed() <= patience);",
     "unless the process was stopped meanwhile.\n                        (fetched, reread) = (if PLANTED { "
     "Instant::now() } else { at }, PLANTED || at.elapsed() <= patience);"),
    ("promise 3: the observing daemon writes", "daemon/reconciliation.rs",
     "if settings.mode == Mode::Observe {",
     "if !PLANTED && settings.mode == Mode::Observe {"),
    ("promise 4: a secret is logged", "live/api.rs",
     "let body = Some(wire::write_update(update));",
     "let body = Some(wire::write_update(update)); if PLANTED { tracing::info!(\"sending {}\", "
     "String::from_utf8_lossy(body.as_deref().unwrap_or_default())); }"),
    ("promise 5: an update without a usable answer counts as applied", "reconcile/apply.rs",
     "Err(error) if error.is_unusable_answer() => {",
     "Err(error) if PLANTED && error.is_unusable_answer() => return Outcome::Applied,\n"
     "                Err(error) if error.is_unusable_answer() => {"),
    ("promise 5: masked values count as equal", "plan/last_applied.rs",
     "counts && known.is_some_and(|known| known.matches(value))",
     "(PLANTED || counts) && known.is_some_and(|known| PLANTED || known.matches(value))"),
    ("promise 6: Retry-After is ignored", "live/pace.rs",
     "state.closed_until = Some(until.max(now + pause));",
     "if !PLANTED { state.closed_until = Some(until.max(now + pause)); }"),
    ("promise 6: a file that is still being written is used", "desired/definitions/load.rs",
     "if unsettled.iter().any(|name| name == problems.file()) {",
     "if !PLANTED && unsettled.iter().any(|name| name == problems.file()) {"),
    ("promise 7: unknown names are sent", "desired/definitions/names.rs",
     "let mut unknown = unknown_names(locations, &known);",
     "let mut unknown = unknown_names(locations, &known); if PLANTED { unknown.clear(); }"),
    ("an update that may have arrived is sent again without reading", "reconcile/apply.rs",
     "if error.may_have_arrived() {\n                // Written",
     "if !PLANTED && error.may_have_arrived() {\n                // Written"),
    ("two updates of one provider run at once", "daemon/updates.rs",
     "if let Some(pending) = self.pending.get_mut(&step.desired.provider) {",
     "if let Some(pending) = self.pending.get_mut(&step.desired.provider).filter(|_| !PLANTED) {"),
    ("an update that git no longer wants begins", "reconcile/apply.rs",
     "&& withdrawn.borrow().contains(provider)",
     "&& !PLANTED && withdrawn.borrow().contains(provider)"),
    ("a standby writes", "daemon/leadership.rs",
     ".filter(|term| now < term.renew_by)",
     ".filter(|term| PLANTED || now < term.renew_by)"),
    ("drift is called a change of git", "plan/last_applied.rs",
     "if self.matches(desired) && changes.iter().any(drifted) {",
     "if !PLANTED && self.matches(desired) && changes.iter().any(drifted) {"),
    ("the state file is not read", "daemon/memory.rs",
     "for (provider, Remembered { last_applied, kept }) in remembered {",
     "for (provider, Remembered { last_applied, kept }) in remembered.into_iter().filter(|_| !PLANTED) {"),
    ("backups: an update is sent although its backup failed", "reconcile/apply.rs",
     "if let Err(why) = backups.save(self.backup(&step.live)).await {",
     "if let Err(why) = backups.save(self.backup(&step.live)).await && !PLANTED {"),
    ("policies: a denial is ignored", "plan/guard.rs",
     "(!violations.is_empty()).then_some(Refusal::Denied",
     "(!PLANTED && !violations.is_empty()).then_some(Refusal::Denied"),
]


def plant(root: pathlib.Path) -> None:
    for number, (name, file, old, new) in enumerate(FAULTS, 1):
        path = root / "src" / file
        text = path.read_text()
        if text.count(old) != 1:
            sys.exit(f"{name}: the expression is {text.count(old)} times in src/{file}, and must be there once:\n{old}")
        path.write_text(text.replace(old, re.sub(r"\bPLANTED\b", f"crate::planted({number})", new)))
    lib = root / "src/lib.rs"
    lib.write_text(lib.read_text() + """
fn planted(number: u32) -> bool {
    static ACTIVE: std::sync::LazyLock<Option<u32>> =
        std::sync::LazyLock::new(|| std::env::var("PLANTED").ok()?.parse().ok());
    *ACTIVE == Some(number)
}
""")


def rename(path: pathlib.Path, version: str) -> None:
    text, times = re.subn(version, r'\1\2-planted"', path.read_text(), count=1, flags=re.MULTILINE)
    if times != 1:
        sys.exit(f"no version in {path}")
    path.write_text(text)


def main() -> None:
    here = pathlib.Path(__file__).resolve().parents[2]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", here / "target"))
    copy = target / "planted"
    shutil.rmtree(copy / "src", ignore_errors=True)
    copy.mkdir(parents=True, exist_ok=True)
    for name in ["src", "tests/simulation", "benches", "templates", "definitions", "docs"]:
        if (here / name).exists():
            shutil.rmtree(copy / name, ignore_errors=True)
            shutil.copytree(here / name, copy / name)
    for name in ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "README.md"]:
        shutil.copy(here / name, copy / name)
    # Another version, so that no artifact of the copy is taken for one of the original.
    rename(copy / "Cargo.toml", r'^(version = ")([^"]*)"')
    rename(copy / "Cargo.lock", r'^(name = "calry-gitops"\nversion = ")([^"]*)"')
    plant(copy)
    if sys.argv[1:] == ["--check"]:
        print(f"{len(FAULTS)} faults can be planted")
        return
    cargo = ["cargo", "test", "--locked", "--test", "simulation"]
    # A program with planted faults is never where others look for one.
    environment = {**os.environ, "CARGO_TARGET_DIR": str(copy / "target"), "CARGO_PROFILE_TEST_OPT_LEVEL": "1"}
    subprocess.run([*cargo, "--no-run"], cwd=copy, check=True, env=environment)
    survivors = []
    only = [int(number) for number in sys.argv[1:]] or range(1, len(FAULTS) + 1)
    for number in only:
        name = FAULTS[number - 1][0]
        began = time.monotonic()
        ran = subprocess.run(
            [*cargo, "no_history_breaks_a_promise"], cwd=copy, capture_output=True, text=True,
            env={**environment, "PLANTED": str(number), "SIMULATION_HISTORIES": "10000", "SIMULATION_SHORTEN": "0",
                 "RUST_BACKTRACE": "0"})
        found = re.search(r"after (\d+) histories .*?breaks the promise (\w+): ([^\n]*)", ran.stdout, re.DOTALL)
        if found:
            print(f"found by history {found[1]:>5} ({time.monotonic() - began:.1f} s): {name}: {found[2]}", flush=True)
            print("    " + found[3][:200], flush=True)
        else:
            print(f"NOT FOUND: {name}", flush=True)
            if ran.returncode:
                print(ran.stdout[-3000:], ran.stderr[-2000:])
            survivors.append(name)
    tried = len(list(only))
    if survivors:
        sys.exit(f"{len(survivors)} of {tried} planted faults were not found")
    print(f"all {tried} planted faults were found")


main()
