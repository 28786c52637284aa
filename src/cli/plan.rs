//! `plan`: shows what would change. Its client has no way to write.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum, ValueHint};
use tokio::time::Instant;

use super::options::{LinkArgs, LiveSource, Setup, SourceArgs};
use super::{Exit, Output, UsageError};
use crate::desired::definitions::{FileWrite, MissingSecrets, Subject};
use crate::live::{Operation, Snapshot, SnapshotError};
use crate::model::{Code, Diagnostic, Excerpt, printable};
use crate::plan::{AppliedState, Change, Origin, Plan, Verdict};
use crate::reconcile::plan_file::PlanFile;
use crate::reconcile::{self, Desired, Failure, Planned};
use crate::render::text::Layout;
use crate::render::{github, markdown, text};
use crate::report::links::Links;
use crate::report::plan;

#[derive(Args)]
pub(super) struct PlanArgs {
    /// How the plan is printed
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "text|json|markdown|github")]
    format: Format,
    /// Show a unified diff of YAML, with secrets masked, instead of one line for each change (text only)
    #[arg(long)]
    diff: bool,
    /// Also write the plan in another format to a file; repeatable
    #[arg(long, value_parser = parse_copy, value_name = "FORMAT=FILE")]
    also: Vec<PlanCopy>,
    /// Exit with 2 if changes are pending
    #[arg(long)]
    detailed_exitcode: bool,
    /// Compare everything except values whose secrets are missing, as in a pull-request job
    #[arg(long)]
    secrets_unavailable: bool,
    /// Compare with the merge base of REVISION (such as origin/main), to tell this branch's changes from earlier drift. Only
    /// this branch's changes are then pending
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new(), value_hint = ValueHint::Other, value_name = "REVISION")]
    base: Option<String>,
    /// Count earlier drift as pending as well
    #[arg(long, requires = "base", requires = "detailed_exitcode")]
    fail_on_drift: bool,
    /// Exit with 2 as well if the branch stops protecting something: a removed file or workspace pin, a part that is no
    /// longer managed, a new or longer hold
    #[arg(long, requires = "base", requires = "detailed_exitcode")]
    fail_on_loosened: bool,
    /// Plan against a snapshot instead of Calry, without an API key
    #[arg(long = "live", value_name = "FILE|URL", value_parser = |text: &str| LiveSource::parse(text).map(Arc::new), conflicts_with = "sandbox")]
    snapshot: Option<Arc<LiveSource>>,
    /// Also write the plan to a file, for apply --plan
    #[arg(long, value_parser = output_file, value_name = "FILE", conflicts_with = "secrets_unavailable")]
    out: Option<PathBuf>,
    // Last: their headings hold for what follows.
    #[command(flatten)]
    links: LinkArgs,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
    Markdown,
    Github,
}

/// The plan in one more format. A second call of `plan` could find another plan.
#[derive(Clone)]
pub(super) struct PlanCopy {
    format: Format,
    file: PathBuf,
}

pub(super) fn parse_copy(text: &str) -> Result<PlanCopy, String> {
    let parsed = text.split_once('=').filter(|(_, file)| !file.is_empty());
    let parsed =
        parsed.and_then(|(format, file)| Some((Format::from_str(format, false).ok()?, file)));
    let (format, file) = parsed.ok_or("must be FORMAT=FILE, such as markdown=plan.md")?;
    Ok(PlanCopy {
        format,
        file: output_file(file)?,
    })
}

/// Parses a file to write. It is not `-`: standard output has the plan already, in the form that --format names.
fn output_file(text: &str) -> Result<PathBuf, String> {
    match text {
        "-" => {
            Err("this option writes a file; --format prints the plan to standard output".to_owned())
        }
        _ => Ok(text.into()),
    }
}

pub(super) fn write_copies(
    copies: &[PlanCopy],
    print: impl Fn(Format) -> String,
) -> anyhow::Result<()> {
    for PlanCopy { format, file } in copies {
        let text = print(*format);
        std::fs::write(file, anstream::adapter::strip_str(&text).to_string()).with_context(
            || {
                format!(
                    "cannot write the plan to the file {}, which --also names",
                    file.display()
                )
            },
        )?;
    }
    Ok(())
}

pub(super) async fn run(args: &PlanArgs, output: &Output) -> anyhow::Result<Exit> {
    let missing = if args.secrets_unavailable {
        MissingSecrets::Unavailable
    } else {
        MissingSecrets::ErrorUnlessEncrypted
    };
    let mut setup = args.source.set_up(missing, output).await?;
    setup.source.base.clone_from(&args.base);
    let place = Place::new(&args.links, &setup)?;
    let comparison = match compare(&setup, args.snapshot.as_deref()).await {
        Ok(comparison) => comparison,
        Err(failure) => {
            let exit = failure.report(&setup, args.format, &place, output);
            write_copies(&args.also, |format| failure.print(format, &place))?;
            return Ok(exit);
        }
    };
    let Comparison { desired, planned } = &comparison;
    let denied = planned.plan.denied(false);
    let next = match &args.out {
        _ if denied.is_some() => None,
        Some(file) => Some(format!(
            "calry-gitops apply --plan {}",
            printable(&file.display().to_string())
        )),
        None if args.base.is_some() || args.snapshot.is_some() => None,
        None if std::env::args_os().len() > 2 => {
            Some("calry-gitops apply, with the same options".to_owned())
        }
        None => Some("calry-gitops apply".to_owned()),
    };
    let layout = Layout {
        diff: args.diff,
        directory: &setup.shown,
        next: next.as_deref(),
        restore: false,
    };
    output.diagnostics(
        &desired.loaded.diagnostics,
        &setup.shown,
        desired.loaded.files.len(),
    );
    output.result(&comparison.print(args.format, layout, &place));
    write_copies(&args.also, |format| {
        comparison.print(format, layout, &place)
    })?;
    if let Some(denied) = &denied {
        output.error(&denied.to_string());
    }
    let mut failed = has_obstacle(&planned.plan) || denied.is_some();
    if let Some(file) = &args.out {
        if comparison.is_invalid() {
            let why = "the definitions are invalid, so the plan could not be applied";
            output.error(&format!("{} is not written: {why}", file.display()));
        } else {
            match PlanFile::of(
                &planned.plan,
                setup.api.method(),
                &setup.source.only,
                setup.fingerprint_key.as_ref(),
            ) {
                Ok(saved) => write_file(file, saved.to_json())?,
                Err(why) => {
                    output.error(&format!("{} is not written: {why}", file.display()));
                    failed = true;
                }
            }
        }
    }
    let due = |origin| {
        planned
            .plan
            .entries
            .iter()
            .any(|entry| entry.is_due_to(origin))
    };
    let pending = match &args.base {
        None => planned.plan.steps().next().is_some(),
        Some(_) => {
            due(Origin::Branch)
                || args.fail_on_drift && due(Origin::Drift)
                || args.fail_on_loosened && !planned.plan.loosened.is_empty()
        }
    };
    Ok(Exit::Failed
        .when(failed)
        .or(Exit::Invalid.when(comparison.is_invalid()))
        .or(Exit::Pending.when(args.detailed_exitcode && pending)))
}

/// Where the definitions are in their repository, and the repository on the web.
pub(super) struct Place {
    pub(super) links: Links,
    commit: Option<String>,
}

impl Place {
    pub(super) fn new(args: &LinkArgs, setup: &Setup) -> Result<Self, UsageError> {
        Ok(Self {
            links: args.links(setup.repository_path())?,
            commit: args.link_commit.clone(),
        })
    }

    pub(super) fn of<'a>(
        &'a self,
        find: &'a dyn Fn(&str, github::AnnotationTarget<'_>) -> Option<Excerpt>,
    ) -> markdown::Place<'a> {
        markdown::Place {
            links: &self.links,
            commit: self.commit.as_deref(),
            find,
        }
    }
}

/// Desired and live state, compared.
pub(super) struct Comparison {
    pub(super) desired: Desired,
    pub(super) planned: Planned,
}

impl Comparison {
    /// Whether the definitions have errors, or name a provider that the workspace does not have.
    pub(super) fn is_invalid(&self) -> bool {
        let missing = self
            .planned
            .plan
            .entries
            .iter()
            .any(|entry| matches!(entry.verdict, Verdict::Missing));
        self.desired.loaded.has_errors() || missing
    }

    /// The plan in a format.
    fn print(&self, format: Format, layout: Layout<'_>, place: &Place) -> String {
        let (plan, diagnostics) = (&self.planned.plan, &self.desired.loaded.diagnostics);
        let find = |file: &str, target: github::AnnotationTarget<'_>| self.find(file, target);
        match format {
            Format::Text => text::plan(plan, layout),
            Format::Json => plan::plan(plan, diagnostics, None, None),
            Format::Markdown => markdown::plan(plan, diagnostics, Ok(None), place.of(&find)),
            Format::Github => github::plan(plan, diagnostics, &place.links.directory, find),
        }
    }

    /// Finds a part of a plan in its file.
    pub(super) fn find(&self, file: &str, target: github::AnnotationTarget<'_>) -> Option<Excerpt> {
        let subject = match target {
            github::AnnotationTarget::File => Subject::Definition,
            github::AnnotationTarget::Hold => Subject::Hold,
            github::AnnotationTarget::Change(Change::Icon { .. }) => Subject::Icon,
            github::AnnotationTarget::Change(Change::Key { section, name, .. }) => {
                Subject::Parameter(*section, name)
            }
            github::AnnotationTarget::Change(Change::Field { group, field, .. }) => {
                Subject::Field { group, field }
            }
        };
        self.desired.loaded.excerpt(file, subject)
    }
}

/// Why there is no plan, with the problems of the files.
pub(super) struct PlanFailure {
    failure: Failure,
    diagnostics: Vec<Diagnostic>,
    files: usize,
}

impl PlanFailure {
    /// A failure before the files were read.
    pub(super) const fn new(failure: Failure) -> Self {
        Self {
            failure,
            diagnostics: Vec::new(),
            files: 0,
        }
    }

    pub(super) fn report(
        &self,
        setup: &Setup,
        format: Format,
        place: &Place,
        output: &Output,
    ) -> Exit {
        output.diagnostics(&self.diagnostics, &setup.shown, self.files);
        if format != Format::Text {
            output.result(&self.print(format, place));
        }
        output.error(&self.failure.to_string());
        Exit::from(&self.failure)
    }

    pub(super) fn print(&self, format: Format, place: &Place) -> String {
        let directory = &place.links.directory;
        let sentence = self.failure.to_string();
        match format {
            Format::Text => format!("error: {sentence}\n"),
            Format::Json => plan::failure(&sentence, &self.diagnostics),
            Format::Markdown => {
                markdown::failure(&sentence, &self.diagnostics, place.of(&|_, _| None))
            }
            Format::Github => {
                github::diagnostics(&self.diagnostics, directory) + &github::failure(&sentence)
            }
        }
    }
}

/// Loads, fetches and compares, for one-shot commands. With a fingerprint key the digest covers literal values as well.
pub(super) async fn compare(
    setup: &Setup,
    snapshot: Option<&LiveSource>,
) -> Result<Comparison, PlanFailure> {
    let key = setup.fingerprint_key.as_ref();
    let deadline = Instant::now() + setup.timeout;
    let mut desired =
        reconcile::load(&setup.source, setup.api.scrubber()).map_err(PlanFailure::new)?;
    let planning = async {
        // Only the daemon falls back to the last trusted revision; a command is about what is checked out.
        if let Some(refused) = desired.refused.take() {
            return Err(Failure::Refused(refused));
        }
        if let Some(source) = snapshot {
            let snapshot = match source {
                LiveSource::File(path) => Snapshot::open(path, key).map_err(SnapshotError::from)?,
                LiveSource::Url(url) => {
                    setup.progress.begin(&Operation::Snapshot, 1, deadline);
                    let fetched = Snapshot::fetch(&setup.http, url, deadline, key).await;
                    setup.progress.end(&Operation::Snapshot);
                    fetched?
                }
            };
            let mut planned = reconcile::plan_workspace(
                &setup.source,
                &mut desired,
                &snapshot,
                None,
                setup.api.method(),
                &AppliedState::new(),
            )
            .await?;
            planned.plan.snapshot = Some(snapshot.taken_at);
            return Ok(planned);
        }
        let api_key = setup.read_key()?;
        let reader = setup.api.reader(&api_key, deadline);
        reconcile::plan_workspace(
            &setup.source,
            &mut desired,
            &reader,
            None,
            setup.api.method(),
            &AppliedState::new(),
        )
        .await
    };
    match planning.await {
        Ok(mut planned) => {
            if let Some(key) = key {
                planned.plan.seal(key);
            }
            Ok(Comparison { desired, planned })
        }
        Err(failure) => {
            let mut loaded = desired.loaded;
            // Without an API key, missing secrets would hide the first problem.
            if matches!(failure, Failure::Key(_)) {
                loaded.diagnostics.retain(|d| d.code != Code::MissingSecret);
            }
            Err(PlanFailure {
                failure,
                files: loaded.files.len(),
                diagnostics: loaded.diagnostics,
            })
        }
    }
}

/// Whether some part of the plan is known to fail.
pub(super) fn has_obstacle(plan: &Plan) -> bool {
    plan.entries
        .iter()
        .any(|entry| matches!(entry.verdict, Verdict::Unreadable(_)))
        || plan.steps().any(|step| step.payload.obstacle().is_some())
}

/// Writes a file, whole or not at all.
fn write_file(path: &Path, text: String) -> anyhow::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| anyhow!("{} is not the name of a file", path.display()))?;
    FileWrite::unconditional(name, text)
        .write(directory, false)
        .map(drop)
        .map_err(|error| anyhow!("{} {error}", path.display()))
}
