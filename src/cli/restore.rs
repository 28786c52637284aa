//! `restore`: puts a definition back as a backup has it. It plans, asks, updates and verifies as `apply` does.
//!
//! Never: show a value of a backup, or leave open what git does next.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::Args;
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::apply::{Applying, confirm};
use super::options::{BackupArgs, ProviderParser, Setup, SourceArgs};
use super::plan::has_obstacle;
use super::{Exit, Output, UsageError, read_answer, signals};
use crate::daemon;
use crate::desired::definitions::{DefinitionFile, Edit, FileWrite, MissingSecrets};
use crate::desired::encrypted::Identities;
use crate::live::{ApiKey, Backup};
use crate::machine;
use crate::model::{Hold, Live, LiveValue, Provider, Workspace, printable};
use crate::ops::history::WorkspaceHistory;
use crate::plan::{
    AppliedState, Approved, Context, Limits, MaxChanges, Plan, PlanInput, describe_hold,
    parse_hold_reason,
};
use crate::reconcile::backups::BackupFile;
use crate::reconcile::restore::{Restorable, is_managed};
use crate::reconcile::{self, DefinitionsSource, Desired, Failure, today};
use crate::render::text::{self, Layout};
use crate::report::history::HistoryWriter;

#[derive(Args)]
pub(super) struct RestoreArgs {
    /// Provider whose definition is put back, in upper or lower case
    #[arg(value_parser = ProviderParser, value_name = "PROVIDER")]
    provider: Provider,
    /// Print the times of its backups, newest first, and exit; makes no connection and needs no key
    #[arg(long)]
    list: bool,
    /// Take the newest backup at or before this time, such as 2026-11-29T06:01:23Z; without it, the newest one
    #[arg(long, conflicts_with = "list", value_parser = backup_time, value_name = "TIME")]
    at: Option<BackupTime>,
    /// Skip the confirmation prompt
    #[arg(short, long)]
    yes: bool,
    /// Then put the provider on hold in its file, to the end of this day (UTC), so that git does not undo it
    #[arg(long, requires = "reason", value_name = "YYYY-MM-DD")]
    hold_until: Option<Date>,
    /// Reason of that hold
    #[arg(long, requires = "hold_until", value_parser = parse_hold_reason, value_name = "TEXT")]
    reason: Option<String>,
    /// Restore although workspace.yaml puts the workspace on hold, for this reason: it is logged
    #[arg(long, value_parser = parse_hold_reason, value_name = "REASON")]
    override_hold: Option<String>,
    // Last: their headings hold for what follows.
    #[command(flatten)]
    backups: BackupArgs,
    #[command(flatten)]
    source: SourceArgs,
}

/// The latest time of a backup that is taken.
#[derive(Clone)]
struct BackupTime {
    given: String,
    end: Timestamp,
}

/// Parses a time. Without a fraction it is the whole second, as other programs print it.
fn backup_time(text: &str) -> Result<BackupTime, &'static str> {
    const EXPECTED: &str = "must be a day and a time, such as 2026-11-29T06:01:23Z";
    let start: Timestamp = text.parse().map_err(|_| EXPECTED)?;
    let rest = if text.contains(['.', ',']) { 0 } else { 999 };
    let end = start.checked_add(SignedDuration::from_millis(rest));
    Ok(BackupTime {
        given: text.to_owned(),
        end: end.map_err(|_| EXPECTED)?,
    })
}

/// What is read before a restore is planned.
struct Found {
    workspace: Workspace,
    live: Live,
    unreadable: Vec<(Provider, String)>,
    /// When the live definition was received.
    fetched: Instant,
}

pub(super) async fn run(args: &RestoreArgs, output: &Output) -> anyhow::Result<Exit> {
    let usage = |sentence: &str| UsageError(sentence.to_owned());
    let provider = &args.provider;
    let directory = args.backups.directory();
    let directory = directory
        .ok_or_else(|| usage("restore needs --backup-dir, the directory of the backups"))?;
    if args.list {
        return list(provider, directory, output);
    }
    if args
        .source
        .live
        .files
        .only
        .iter()
        .any(|only| only != provider)
    {
        return Err(
            usage("restore puts back the one provider that it is given: remove --only").into(),
        );
    }
    if args.hold_until.is_some_and(|until| until < today()) {
        return Err(usage("--hold-until must not be in the past").into());
    }
    let identity_file = args.source.live.age_identity_file().ok_or_else(|| {
        usage("restore needs --age-identity-file, the private key that decrypts the backups")
    })?;
    let identities = Identities::read(identity_file)
        .map_err(|error| anyhow!("the backups of {provider} {error}"))?;
    // What a restore replaces is saved as well, for the same owner.
    let backups = args.backups.open_for(directory, &identities.recipients())?;

    let stop = signals::stop_token()?;
    let setup = args
        .source
        .set_up(MissingSecrets::Unavailable, output)
        .await?;
    // The sentence of a failure has its causes.
    let mut desired = reconcile::load(&setup.source, setup.api.scrubber())
        .map_err(|failure| anyhow!("{failure}"))?;
    if let Some(refused) = desired.refused.take() {
        return Err(Failure::Refused(refused).into());
    }
    let mut files = desired.loaded.files.iter();
    let file = files.find(|file| file.provider.as_ref() == Some(provider));
    let asked = args.hold_until.map(|until| Hold {
        until,
        reason: args.reason.clone(),
    });
    let hold = match &asked {
        Some(hold) => Some(write_of_hold(&setup, provider, file, hold)?),
        None => None,
    };
    let key = setup.read_key()?;
    let found = tokio::select! {
        found = find_live(&setup, &key, &desired, provider) => found?,
        () = stop.cancelled() => return Err(Failure::Stopped.into()),
    };
    let chosen = find_backup(args, directory, &found.workspace)?;
    let backup = chosen.read(&identities)?;
    ensure!(
        backup.workspace.id == found.workspace.id && backup.live.provider == *provider,
        "the backup is of another workspace or provider; nothing was changed"
    );
    let fetched = found.fetched;
    let (plan, left) = plan_restore(args, &setup, &desired, found, (chosen.time, &backup));
    let layout = Layout {
        diff: false,
        directory: &setup.shown,
        next: None,
        restore: true,
    };
    output.result(&text::plan(&plan, layout));
    for sentence in &left {
        output.result(&format!("Not restored: {sentence}\n"));
    }
    if let Some(hold) = plan.hold.as_ref().filter(|_| plan.suspended() > 0) {
        bail!(
            "{}; nothing was changed; help: in an emergency, restore with --override-hold and a reason",
            describe_hold(hold)
        );
    }
    // What is not restored is a failure, although the rest is.
    let end = Exit::Failed.when(has_obstacle(&plan) || !left.is_empty());
    if plan.steps().count() == 0 {
        let sentence = match left.as_slice() {
            [] => format!("{provider} is as the backup has it"),
            _ => format!("the rest of {provider} is as the backup has it"),
        };
        output.note(&format!("{sentence}; nothing was changed\n"));
        return Ok(end);
    }
    let next = Next::of(provider, file, &plan);
    output.note(&next.sentence(&setup, provider));
    let limits = Limits {
        max_changes: MaxChanges::Unlimited,
        approve: None,
    };
    let approved = plan
        .approve(&limits)
        .map_err(|refused| anyhow!("{refused}"))?;
    ask(args, &approved, output, &stop).await?;
    if let Some(overridden) = &approved.plan().overridden {
        let slug = printable(&approved.plan().workspace.slug);
        daemon::log::overridden_hold(Some(&slug), approved.plan().digest.as_ref(), overridden);
    }
    let history = WorkspaceHistory::new(None, None, HistoryWriter::Apply);
    let applying = Applying {
        approved: &approved,
        fetched,
        planned_with: Some(&key),
        concurrency: 1,
        backups: Some(backups),
        history: &history,
    };
    let report = applying.run(&setup, stop.clone()).await?;
    output.result(&text::report(&report));
    if !report.results.iter().all(|result| result.outcome.is_done()) {
        return Ok(Exit::Failed);
    }
    let hold = match (hold, &next) {
        (None, Next::Undone(file)) if !args.yes && std::io::stdin().is_terminal() => {
            ask_for_hold(&setup, provider, file, output, &stop).await?
        }
        (hold, _) => hold,
    };
    match (hold, &next) {
        (Some(hold), _) => write_hold(&setup, provider, &hold, output)?,
        (None, Next::Undone(file)) => output.note(&format!(
            "help: change {0}, or add `hold:` with `until` and `reason` to it, and push it\n",
            shown(&setup, &file.name)
        )),
        (None, _) => {}
    }
    Ok(end)
}

fn shown_path(path: &Path) -> String {
    printable(&path.display().to_string())
}

fn list(provider: &Provider, directory: &Path, output: &Output) -> anyhow::Result<Exit> {
    let backups = BackupFile::list_all(directory, provider)
        .with_context(|| format!("cannot read {}", shown_path(directory)))?;
    if backups.is_empty() {
        output.note(&format!(
            "there is no backup of {provider} in {}\n",
            shown_path(directory)
        ));
    }
    for (workspace, backup) in &backups {
        output.result(&format!("{:.3}  {}\n", backup.time, printable(workspace)));
    }
    Ok(Exit::Done)
}

async fn find_live(
    setup: &Setup,
    key: &ApiKey,
    desired: &Desired,
    provider: &Provider,
) -> anyhow::Result<Found> {
    let reader = setup.api.reader(key, Instant::now() + setup.timeout);
    let pins = setup.source.pins(&desired.loaded.pin);
    let (workspace, listing, fetched) = reconcile::fetch(&reader, pins, None).await?;
    let unreadable = listing.unreadable.iter();
    let unreadable: Vec<(Provider, String)> = unreadable
        .filter_map(|one| Some((one.provider.clone()?, one.problem.clone())))
        .collect();
    if let Some((_, problem)) = unreadable.iter().find(|(of, _)| of == provider) {
        bail!("Calry's definition of {provider} cannot be read: {problem}; nothing was changed");
    }
    let mut live = listing.live.into_iter();
    let live = live.find(|live| live.provider == *provider);
    let live = live.with_context(|| {
        let slug = printable(&workspace.slug);
        format!("the workspace {slug} has no {provider}; nothing was changed")
    })?;
    Ok(Found {
        workspace,
        live,
        unreadable,
        fetched,
    })
}

/// The backup to restore.
fn find_backup(
    args: &RestoreArgs,
    directory: &Path,
    workspace: &Workspace,
) -> anyhow::Result<BackupFile> {
    let provider = &args.provider;
    let backups = BackupFile::list(directory, &workspace.id, provider)
        .with_context(|| format!("cannot read {}", shown_path(directory)))?;
    let count = backups.len();
    let mut backups = backups.into_iter();
    let at = args.at.as_ref();
    let found = backups.find(|backup| at.is_none_or(|at| backup.time <= at.end));
    found.ok_or_else(|| match at.filter(|_| count > 0) {
        Some(BackupTime { given, .. }) => anyhow!(
            "{provider} has no backup of {given} or before; help: `calry-gitops restore {provider} --list` prints the times"
        ),
        None => anyhow!(
            "there is no backup of {provider} of the workspace {} in {}",
            printable(&workspace.slug),
            shown_path(directory)
        ),
    })
}

/// The plan that makes the definition what the backup has, and what it leaves as it is.
fn plan_restore(
    args: &RestoreArgs,
    setup: &Setup,
    desired: &Desired,
    found: Found,
    (time, backup): (Timestamp, &Backup),
) -> (Plan, Vec<String>) {
    // No message of Calry may show a value that was live once.
    for value in backup.live.partner_key.values() {
        if let LiveValue::Value(value) | LiveValue::MaybeMask(value) = value {
            setup.api.scrubber().learn(value);
        }
    }
    let Restorable {
        desired: wanted,
        left,
    } = Restorable::new(&backup.live, &found.live);
    let wanted = Arc::new(wanted);
    let input = PlanInput {
        file: format!("the backup of {time:.3}"),
        provider: Some(args.provider.clone()),
        desired: Some(Arc::clone(&wanted)),
    };
    let context = Context {
        today: today(),
        method: setup.api.method(),
        applied: &AppliedState::new(),
        base: None,
    };
    let plan = crate::plan::plan(
        found.workspace,
        None,
        [input],
        [found.live],
        &found.unreadable,
        context,
    );
    let mut plan = plan.suspend(desired.loaded.holds.clone(), machine::now());
    if let (Some(digest), Some(reason)) = (plan.digest.clone(), &args.override_hold) {
        plan.override_hold(&digest, reason);
    }
    plan.violations = desired.policies.check(&plan, [&*wanted], today());
    (plan, left)
}

async fn ask(
    args: &RestoreArgs,
    approved: &Approved,
    output: &Output,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if args.yes {
        return Ok(());
    }
    ensure!(
        std::io::stdin().is_terminal(),
        "cannot ask for confirmation: there is no terminal; nothing was changed. Review the changes, then restore with --yes"
    );
    let is_confirmed = confirm(1, &approved.plan().workspace.slug, output, stop).await?;
    ensure!(is_confirmed, "nothing was changed: the answer was not yes");
    Ok(())
}

/// What git does after a restore.
enum Next<'a> {
    /// Nothing: no file manages what was put back.
    NotManaged,
    /// Nothing until a hold of the file ends.
    OnHold(&'a DefinitionFile, Date),
    /// It undoes the restore.
    Undone(&'a DefinitionFile),
    /// It may undo the restore once the file is valid.
    Invalid(&'a DefinitionFile),
}

impl<'a> Next<'a> {
    fn of(provider: &Provider, file: Option<&'a DefinitionFile>, plan: &Plan) -> Self {
        let Some(file) = file else {
            return Self::NotManaged;
        };
        let Some(desired) = &file.desired else {
            return Self::Invalid(file);
        };
        let mut steps = plan
            .steps()
            .filter(|step| step.desired.provider == *provider);
        if let Some(hold) = desired.hold.as_ref().filter(|hold| hold.in_force(today())) {
            return Self::OnHold(file, hold.until);
        }
        let manages = |change| is_managed(change, desired);
        match steps.any(|step| step.changes.iter().any(manages)) {
            true => Self::Undone(file),
            false => Self::NotManaged,
        }
    }

    fn sentence(&self, setup: &Setup, provider: &Provider) -> String {
        match self {
            Self::NotManaged => {
                format!("No file manages these parts of {provider}, so git does not undo this.\n")
            }
            Self::OnHold(file, until) => format!(
                "{} puts {provider} on hold until {until}, so git does not undo this until then.\n",
                shown(setup, &file.name)
            ),
            Self::Invalid(file) => format!(
                "{} is invalid, so git does not undo this until the file is corrected.\n",
                shown(setup, &file.name)
            ),
            Self::Undone(file) => format!(
                "Git will undo this: the next reconciliation applies {0}, unless {0} is changed or puts {provider} on hold.\n",
                shown(setup, &file.name)
            ),
        }
    }
}

/// The path of a definition file as the user knows it.
fn shown(setup: &Setup, file: &str) -> String {
    printable(&format!("{}/{file}", setup.shown))
}

/// The provider's file with a hold.
fn write_of_hold(
    setup: &Setup,
    provider: &Provider,
    file: Option<&DefinitionFile>,
    hold: &Hold,
) -> anyhow::Result<(FileWrite, Hold)> {
    let file = file.with_context(|| {
        format!("no file of {} manages {provider}, so there is nothing to put on hold; restore without --hold-until", setup.shown)
    })?;
    let name = shown(setup, &file.name);
    let held = file
        .desired
        .as_ref()
        .and_then(|desired| desired.hold.as_ref());
    if let Some(held) = held.filter(|held| held.in_force(today())) {
        bail!(
            "{name} puts {provider} on hold until {} already; restore without --hold-until",
            held.until
        );
    }
    let write = file.edit(&[Edit::Hold(hold.clone())]).with_context(|| {
        format!(
            "{name} cannot be edited in place; restore without --hold-until, and add `hold:` with `until: {}` yourself",
            hold.until
        )
    })?;
    Ok((write, hold.clone()))
}

fn write_hold(
    setup: &Setup,
    provider: &Provider,
    (write, hold): &(FileWrite, Hold),
    output: &Output,
) -> anyhow::Result<()> {
    let DefinitionsSource::Directory(directory) = &setup.source.definitions else {
        bail!("the definitions are in no directory");
    };
    let name = shown(setup, write.name());
    write
        .write(directory, false)
        .map_err(|error| anyhow!("{provider} was restored, but {name} {error}"))?;
    output.note(&format!(
        "{name} now puts {provider} on hold until {}. Until you commit and push it, the daemon undoes the restore.\n",
        hold.until
    ));
    Ok(())
}

async fn ask_for_hold(
    setup: &Setup,
    provider: &Provider,
    file: &DefinitionFile,
    output: &Output,
    stop: &CancellationToken,
) -> anyhow::Result<Option<(FileWrite, Hold)>> {
    output.note(&format!(
        "Put {provider} on hold in {}? Last day as YYYY-MM-DD, or nothing for no: ",
        shown(setup, &file.name)
    ));
    let Some(day) = ask_for_text(stop).await? else {
        return Ok(None);
    };
    let until = day.parse::<Date>().ok().filter(|until| *until >= today());
    let until = until.with_context(|| {
        format!(
            "{} is no day from today on; no hold was written",
            printable(&day)
        )
    })?;
    output.note("Reason: ");
    let reason = ask_for_text(stop).await?;
    let reason = reason.context("a hold needs a reason; no hold was written")?;
    let reason =
        parse_hold_reason(&reason).map_err(|error| anyhow!("{error}; no hold was written"))?;
    let hold = Hold {
        until,
        reason: Some(reason),
    };
    write_of_hold(setup, provider, Some(file), &hold).map(Some)
}

/// The answer of the user; `None` if it is empty.
async fn ask_for_text(stop: &CancellationToken) -> anyhow::Result<Option<String>> {
    std::io::stderr().flush()?;
    let answer = tokio::task::spawn_blocking(read_answer);
    let answer = tokio::select! {
        () = stop.cancelled() => return Ok(None),
        answer = answer => answer??,
    };
    Ok((!answer.is_empty()).then_some(answer))
}
