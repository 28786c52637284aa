//! `plan`: what would change. It is given a client that has no way to write.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum, ValueHint};
use tokio::time::Instant;

use super::options::{FingerprintArgs, LiveArgs, LiveSource, Setup, TrustArgs};
use super::{Exit, Output};
use crate::desired::definitions::{FileWrite, MissingSecrets, Subject};
use crate::live::{Operation, Snapshot, SnapshotError};
use crate::model::{Code, Diagnostic, Excerpt, FingerprintKey, printable};
use crate::plan::{AppliedState, Change, Origin, Plan, Verdict};
use crate::reconcile::plan_file::PlanFile;
use crate::reconcile::{self, Desired, Failure, Planned};
use crate::render::text::Layout;
use crate::render::{github, markdown, text};
use crate::report::plan;

#[derive(Args)]
pub(super) struct PlanArgs {
    /// How the plan is printed
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true, value_name = "text|json|markdown|github")]
    format: Format,
    /// Show a unified diff of YAML, with secrets masked, instead of one line for each change (text only)
    #[arg(long)]
    diff: bool,
    /// Also write the plan in another format to a file; repeatable
    #[arg(long, value_parser = also, value_name = "FORMAT=FILE")]
    also: Vec<Also>,
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
    // Last: its headings hold for what follows.
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    fingerprints: FingerprintArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
    Markdown,
    Github,
}

/// One plan in one more format: what is printed twice must not be asked for twice, for it could differ.
#[derive(Clone)]
struct Also {
    format: Format,
    file: PathBuf,
}

fn also(text: &str) -> Result<Also, String> {
    let parsed = text.split_once('=').filter(|(_, file)| !file.is_empty());
    let parsed =
        parsed.and_then(|(format, file)| Some((Format::from_str(format, false).ok()?, file)));
    let (format, file) = parsed.ok_or("a format and a file, as in markdown=plan.md")?;
    Ok(Also {
        format,
        file: output_file(file)?,
    })
}

/// A file to write. `-` is none: standard output has the plan already, in the form that --format names.
fn output_file(text: &str) -> Result<PathBuf, String> {
    match text {
        "-" => Err(
            "this writes to a file, and not to standard output, where --format prints the plan"
                .to_owned(),
        ),
        _ => Ok(text.into()),
    }
}

fn write(also: &[Also], print: impl Fn(Format) -> String) -> anyhow::Result<()> {
    for Also { format, file } in also {
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
        MissingSecrets::Error
    };
    let mut setup = args.live.set_up(missing, output).await?;
    setup.source.base.clone_from(&args.base);
    setup.source.trust = args.trust.trust();
    let key = args.fingerprints.key()?;
    let snapshot = args.snapshot.as_deref();
    let looked = match look(&setup, snapshot, key.as_ref()).await {
        Ok(looked) => looked,
        Err(failed) => {
            let exit = failed.tell(&setup, args.format, output);
            write(&args.also, |format| {
                failed.print(format, &setup.repository_path())
            })?;
            return Ok(exit);
        }
    };
    let Looked { desired, look } = &looked;
    let next = match &args.out {
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
    };
    output.diagnostics(
        &desired.loaded.diagnostics,
        &setup.shown,
        desired.loaded.files.len(),
    );
    output.result(&looked.print(args.format, layout, &setup.repository_path()));
    write(&args.also, |format| {
        looked.print(format, layout, &setup.repository_path())
    })?;
    let mut failed = cannot_be_applied(&look.plan);
    if let Some(file) = &args.out {
        if looked.is_invalid() {
            let why = "the definitions are invalid, and the plan could not be applied";
            output.error(&format!("{} is not written: {why}", file.display()));
        } else {
            match PlanFile::of(
                &look.plan,
                setup.api.method(),
                &setup.source.only,
                key.as_ref(),
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
        look.plan
            .entries
            .iter()
            .any(|entry| entry.is_due_to(origin))
    };
    let pending = match &args.base {
        None => look.plan.steps().next().is_some(),
        Some(_) => {
            due(Origin::Branch)
                || args.fail_on_drift && due(Origin::Drift)
                || args.fail_on_loosened && !look.plan.loosened.is_empty()
        }
    };
    Ok(Exit::of(
        failed,
        looked.is_invalid(),
        args.detailed_exitcode && pending,
    ))
}

/// Desired and live state, compared.
pub(super) struct Looked {
    pub(super) desired: Desired,
    pub(super) look: Planned,
}

impl Looked {
    /// Whether the definitions are at fault.
    pub(super) fn is_invalid(&self) -> bool {
        let missing = self
            .look
            .plan
            .entries
            .iter()
            .any(|entry| matches!(entry.verdict, Verdict::Missing));
        self.desired.loaded.has_errors() || missing
    }

    /// The plan in a format. `directory` is the path of the definitions from the root of the repository.
    fn print(&self, format: Format, layout: Layout<'_>, directory: &str) -> String {
        let (plan, diagnostics) = (&self.look.plan, &self.desired.loaded.diagnostics);
        match format {
            Format::Text => text::plan(plan, layout),
            Format::Json => plan::plan(plan, diagnostics, None, None),
            Format::Markdown => markdown::plan(plan, diagnostics, None, directory),
            Format::Github => github::plan(plan, diagnostics, directory, |file, target| {
                self.place(file, target)
            }),
        }
    }
}

impl Looked {
    /// Where a file speaks of what a plan shows.
    fn place(&self, file: &str, target: github::Target<'_>) -> Option<Excerpt> {
        let subject = match target {
            github::Target::File => Subject::Definition,
            github::Target::Hold => Subject::Hold,
            github::Target::Change(Change::Icon { .. }) => Subject::Icon,
            github::Target::Change(Change::Key { section, name, .. }) => {
                Subject::Parameter(*section, name)
            }
            github::Target::Change(Change::Field { group, field, .. }) => {
                Subject::Field { group, field }
            }
        };
        self.desired.loaded.excerpt(file, subject)
    }
}

/// Why there is no plan, and what is known of the files all the same.
pub(super) struct Failed {
    failure: Failure,
    diagnostics: Vec<Diagnostic>,
    files: usize,
}

impl Failed {
    pub(super) const fn stopped() -> Self {
        Self {
            failure: Failure::Stopped,
            diagnostics: Vec::new(),
            files: 0,
        }
    }

    pub(super) fn tell(&self, setup: &Setup, format: Format, output: &Output) -> Exit {
        output.diagnostics(&self.diagnostics, &setup.shown, self.files);
        if format != Format::Text {
            output.result(&self.print(format, &setup.repository_path()));
        }
        output.error(&self.failure.to_string());
        if self.failure.is_invalid_definitions() {
            Exit::Invalid
        } else {
            Exit::Failed
        }
    }

    fn print(&self, format: Format, directory: &str) -> String {
        let sentence = self.failure.to_string();
        match format {
            Format::Text => format!("error: {sentence}\n"),
            Format::Json => plan::failure(&sentence, &self.diagnostics),
            Format::Markdown => markdown::failure(&sentence, &self.diagnostics, directory),
            Format::Github => {
                github::diagnostics(&self.diagnostics, directory) + &github::failure(&sentence)
            }
        }
    }
}

/// Loads, fetches and compares, for one-shot commands. With a fingerprint key the digest covers written-out values.
pub(super) async fn look(
    setup: &Setup,
    snapshot: Option<&LiveSource>,
    key: Option<&FingerprintKey>,
) -> Result<Looked, Failed> {
    let deadline = Instant::now() + setup.timeout;
    let mut desired = match reconcile::load(&setup.source, setup.api.scrubber()) {
        Ok(desired) => desired,
        Err(failure) => {
            return Err(Failed {
                failure,
                diagnostics: Vec::new(),
                files: 0,
            });
        }
    };
    let looked = async {
        // The last trusted revision is for the daemon; this command is about the checked-out commit.
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
            let (source, method) = (&setup.source, setup.api.method());
            let mut look = reconcile::plan_workspace(
                source,
                &mut desired,
                &snapshot,
                None,
                method,
                &AppliedState::new(),
            )
            .await?;
            look.plan.snapshot = Some(snapshot.taken_at);
            return Ok(look);
        }
        let api_key = setup.key.read()?;
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
    match looked.await {
        Ok(mut look) => {
            if let Some(key) = key {
                look.plan.seal(key);
            }
            Ok(Looked { desired, look })
        }
        Err(failure) => {
            let mut loaded = desired.loaded;
            // Without a key the secrets are the second problem, and a long one.
            if matches!(failure, Failure::Key(_)) {
                loaded.diagnostics.retain(|d| d.code != Code::MissingSecret);
            }
            Err(Failed {
                failure,
                files: loaded.files.len(),
                diagnostics: loaded.diagnostics,
            })
        }
    }
}

/// Whether something in the plan is known to fail.
pub(super) fn cannot_be_applied(plan: &Plan) -> bool {
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
        .unwrap_or_default();
    FileWrite::unconditional(name, text)
        .write(directory, false)
        .map(drop)
        .map_err(|error| anyhow!("{} {error}", path.display()))
}
