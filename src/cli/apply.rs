//! `apply`: plans, confirms, updates, verifies.

use std::io::{IsTerminal, Write as _};
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use anyhow::bail;
use clap::Args;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::options::{BackupArgs, LinkArgs, Setup, SourceArgs, up_to_64};
use super::plan::{
    Format, Place, PlanCopy, PlanFailure, compare, has_obstacle, parse_copy, write_copies,
};
use super::{Exit, Output, read_yes, signals};
use crate::daemon::{self, HistoryFile};
use crate::desired::definitions::MissingSecrets;
use crate::live::{ApiKey, ReadCalry as _};
use crate::model::printable;
use crate::ops::history::WorkspaceHistory;
use crate::plan::{Approved, Digest, Limits, MaxChanges, parse_hold_reason};
use crate::reconcile::backups::Backups;
use crate::reconcile::plan_file::{self, PlanFile};
use crate::reconcile::{self, Failure, apply};
use crate::render::text::Layout;
use crate::render::{github, markdown, text};
use crate::report::history::HistoryWriter;
use crate::report::plan;
use crate::report::words::counted;

#[derive(Args)]
pub(super) struct ApplyArgs {
    /// Skip the confirmation prompt
    #[arg(short, long)]
    yes: bool,
    /// Refuse a plan that changes more providers than this: a number, a share of the managed providers such as 30% (but at
    /// least 5), or none for no limit
    #[arg(
        long,
        env = "CALRY_MAX_CHANGES",
        default_value = "none",
        value_name = "N|SHARE%|none"
    )]
    max_changes: MaxChanges,
    /// Apply exactly the plan with this digest, whatever --max-changes allows
    #[arg(long, value_parser = Digest::parse, value_name = "DIGEST")]
    approve: Option<Digest>,
    /// Apply the approved plan although workspace.yaml suspends writes, for this reason: it is logged
    #[arg(long, value_parser = parse_hold_reason, requires = "approve", value_name = "REASON")]
    override_hold: Option<String>,
    /// Apply the plan that plan --out wrote to this file, without a prompt; refused if the files or the live state changed
    #[arg(long = "plan", value_name = "FILE", conflicts_with_all = ["approve", "only"])]
    saved: Option<PathBuf>,
    /// How many updates may run at the same time
    #[arg(long, env = "CALRY_CONCURRENCY", default_value = "8", value_parser = up_to_64, value_name = "N")]
    concurrency: NonZeroU8,
    /// State directory of a daemon, to add what is updated to the history there
    #[arg(long, env = "CALRY_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How the plan and the report are printed
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "text|json|markdown|github")]
    format: Format,
    /// Show a unified diff of YAML, with secrets masked, instead of one line for each change (text only)
    #[arg(long)]
    diff: bool,
    /// Also write the plan and the report in another format to a file; repeatable
    #[arg(long, value_parser = parse_copy, value_name = "FORMAT=FILE")]
    also: Vec<PlanCopy>,
    // Last: their headings hold for what follows.
    #[command(flatten)]
    links: LinkArgs,
    #[command(flatten)]
    backups: BackupArgs,
    #[command(flatten)]
    source: SourceArgs,
}

pub(super) async fn run(args: &ApplyArgs, output: &Output) -> anyhow::Result<Exit> {
    let stop = signals::stop_token()?;
    // Wrong options are an error before anything is planned.
    let backups = args.backups.open()?;
    let mut setup = args.source.set_up(MissingSecrets::Error, output).await?;
    let place = Place::new(&args.links, &setup)?;
    let saved = match &args.saved {
        Some(path) => {
            let saved = PlanFile::open(path)?;
            setup.source.only = saved.only(path)?;
            Some((path, saved))
        }
        None => None,
    };
    let reviewed = args.yes || saved.is_some();
    let planned_with = setup.key.read().ok();
    let comparison = tokio::select! {
        comparison = compare(&setup, None) => comparison,
        () = stop.cancelled() => Err(PlanFailure::new(Failure::Stopped)),
    };
    let mut comparison = match comparison {
        Ok(comparison) => comparison,
        Err(failure) => {
            let exit = failure.report(&setup, args.format, &place, output);
            write_copies(&args.also, |format| failure.print(format, &place))?;
            return Ok(exit);
        }
    };
    if let (Some(digest), Some(reason)) = (&args.approve, &args.override_hold) {
        comparison.planned.plan.override_hold(digest, reason);
    }
    let diagnostics = &comparison.desired.loaded.diagnostics;
    output.diagnostics(
        diagnostics,
        &setup.shown,
        comparison.desired.loaded.files.len(),
    );
    let plan = &comparison.planned.plan;
    // Only with --format text is the plan that precedes the prompt a part of the result.
    let layout = Layout {
        diff: args.diff,
        directory: &setup.shown,
        next: None,
        restore: false,
    };
    match args.format {
        Format::Text => output.result(&text::plan(plan, layout)),
        _ if !reviewed => output.note(&text::plan(plan, layout)),
        _ => {}
    }
    let count = plan.steps().count();
    let print = |format, outcome: Result<&apply::Report, &str>| {
        let directory = &place.links.directory;
        match (format, outcome) {
            (Format::Text, Ok(report)) if count > 0 => {
                text::plan(plan, layout) + &text::report(report)
            }
            (Format::Text, Ok(_)) => text::plan(plan, layout),
            (Format::Text, Err(sentence)) => format!("{}{sentence}\n", text::plan(plan, layout)),
            (Format::Json, _) => plan::plan(plan, diagnostics, outcome.ok(), outcome.err()),
            (Format::Markdown, _) => {
                let find = |file: &str, target: github::AnnotationTarget<'_>| {
                    comparison.find(file, target)
                };
                markdown::plan(plan, diagnostics, outcome.map(Some), place.of(&find))
            }
            (Format::Github, Ok(report)) => {
                github::diagnostics(diagnostics, directory) + &github::report(report)
            }
            (Format::Github, Err(sentence)) => {
                github::diagnostics(diagnostics, directory) + &github::failure(sentence)
            }
        }
    };
    let finish = |outcome: Result<&apply::Report, &str>| {
        match (args.format, outcome) {
            // The plan was shown before.
            (Format::Text, Ok(report)) if count > 0 => output.result(&text::report(report)),
            (Format::Text, _) => {}
            (format, outcome) => output.result(&print(format, outcome)),
        }
        write_copies(&args.also, |format| print(format, outcome))
    };
    let give_up = |exit: Exit, sentence: &str| {
        finish(Err(sentence))?;
        output.error(sentence);
        Ok(exit)
    };
    if comparison.is_invalid() {
        let exit = Exit::Failed.when(has_obstacle(plan)).or(Exit::Invalid);
        return give_up(
            exit,
            "the definitions are invalid, and nothing was changed; fix them, or apply the valid ones with --only",
        );
    }
    let mut approve = args.approve.clone();
    if let Some((path, saved)) = &saved {
        let differences = saved.differences(
            path,
            plan,
            setup.api.method(),
            setup.fingerprint_key.as_ref(),
        )?;
        if !differences.is_empty() {
            let sentence = format!(
                "plan {} refused, because something has changed since: {}; nothing was changed. Plan again and review the new plan",
                path.display(),
                plan_file::join_differences(&differences)
            );
            return give_up(Exit::Failed, &sentence);
        }
        approve = saved.digest();
    }
    let limits = Limits {
        max_changes: args.max_changes,
        approve,
    };
    let approved = match plan.clone().approve(&limits) {
        Ok(approved) => approved,
        Err(refused) => return give_up(Exit::Failed, &refused.to_string()),
    };
    if count > 0 && !reviewed {
        if !std::io::stdin().is_terminal() {
            return give_up(
                Exit::Failed,
                "cannot ask for confirmation: there is no terminal; nothing was changed. Review the plan, then apply it with --yes",
            );
        }
        if !confirm(count, &plan.workspace.slug, output, &stop).await? {
            return give_up(Exit::Failed, "nothing was changed: the answer was not yes");
        }
    }

    if let Some(overridden) = &approved.plan().overridden {
        let slug = printable(&approved.plan().workspace.slug);
        daemon::log::overridden_hold(Some(&slug), approved.plan().digest.as_ref(), overridden);
    }
    if let Some(directory) = args.state_dir.as_ref().filter(|_| count > 0) {
        // If that fails, so does the first write, which is logged.
        let _ = HistoryFile::create_directory(directory);
    }
    let history = WorkspaceHistory::new(args.state_dir.as_deref(), None, HistoryWriter::Apply);
    if count > 0 {
        match (&args.approve, &args.saved) {
            (Some(_), _) => history.record_approval(plan, "apply --approve"),
            (None, Some(_)) => history.record_approval(plan, "apply --plan"),
            (None, None) => {}
        }
    }
    let applying = Applying {
        approved: &approved,
        fetched: comparison.planned.fetched,
        planned_with: planned_with.as_ref(),
        concurrency: args.concurrency.get().into(),
        backups,
        history: &history,
    };
    let report = applying.run(&setup, stop).await;
    history.settle(WorkspaceHistory::GRACE).await;
    let report = report?;
    finish(Ok(&report))?;
    let failed = report
        .results
        .iter()
        .any(|result| !result.outcome.is_done())
        || has_obstacle(plan);
    Ok(Exit::Failed.when(failed))
}

/// An approved plan that is about to be applied.
pub(super) struct Applying<'a> {
    pub(super) approved: &'a Approved,
    /// When the live state of the plan was received.
    pub(super) fetched: Instant,
    pub(super) planned_with: Option<&'a ApiKey>,
    pub(super) concurrency: usize,
    pub(super) backups: Option<Backups>,
    pub(super) history: &'a WorkspaceHistory,
}

impl Applying<'_> {
    pub(super) async fn run(
        self,
        setup: &Setup,
        stop: CancellationToken,
    ) -> anyhow::Result<apply::Report> {
        // The prompt may have waited long: the updates have a time limit of their own, and use the key as it is now.
        let deadline = Instant::now() + setup.timeout;
        let key = setup.key.read()?;
        let reader = setup.api.reader(&key, deadline);
        let plan = self.approved.plan();
        // Another key may belong to another workspace, for which nothing was planned.
        if self
            .planned_with
            .is_none_or(|planned_with| planned_with.secret() != key.secret())
        {
            let (found, planned) = (reader.workspace().await?, &plan.workspace);
            if found.id != planned.id {
                bail!(
                    "the API key has been replaced since the plan was made, and belongs to the workspace {}, not to {}; \
                     nothing was changed",
                    printable(&found.slug),
                    printable(&planned.slug)
                );
            }
        }
        let writer = reconcile::writer(&setup.api, &reader, self.approved);
        let options = apply::Options {
            caller: apply::Caller::Command {
                concurrency: self.concurrency,
            },
            method: setup.api.method(),
            fetched: self.fetched,
            deadline,
            skip: std::collections::BTreeMap::new(),
            backups: self.backups,
            stop,
        };
        let (all, done) = (plan.steps().count(), AtomicUsize::new(0));
        setup.progress.updated(0, all);
        let applied = apply::apply(self.approved, &reader, &writer, &options, |result| {
            if result.sent > 0 {
                daemon::log::update(plan, result, None);
            }
            self.history.record_update(plan, result);
            setup.progress.updated(done.fetch_add(1, Relaxed) + 1, all);
        });
        Ok(applied.await)
    }
}

pub(super) async fn confirm(
    count: usize,
    slug: &str,
    output: &Output,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let providers = counted(count, "provider", "providers");
    output.note(&format!(
        "Apply these changes to {providers} in {}? Type \"yes\" to confirm: ",
        printable(slug)
    ));
    std::io::stderr().flush()?;
    let answer = tokio::task::spawn_blocking(read_yes);
    tokio::select! {
        () = stop.cancelled() => Ok(false),
        answer = answer => Ok(answer??),
    }
}
