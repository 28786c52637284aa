//! `plan`: what would change. It is given a client that has no way to write.

use clap::{Args, ValueEnum};
use tokio::time::Instant;

use super::options::{LiveArgs, Setup};
use super::{Exit, Output};
use crate::model::Diagnostic;
use crate::pass::{self, Desired, Failure, Look};
use crate::plan::{Applied, Payload, Plan, Verdict};
use crate::render::{github, json, markdown, text};
use crate::repo::MissingSecrets;

#[derive(Args)]
pub(super) struct PlanArgs {
    /// How the plan is printed
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true, value_name = "text|json|markdown|github")]
    format: Format,
    /// Exit with 2 where changes are pending
    #[arg(long)]
    detailed_exitcode: bool,
    /// Compare everything but the values whose secrets are not at hand, as in a pull-request job
    #[arg(long)]
    secrets_unavailable: bool,
    // Last: its headings hold for what follows.
    #[command(flatten)]
    live: LiveArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
    Markdown,
    Github,
}

pub(super) async fn run(args: &PlanArgs, output: &Output) -> anyhow::Result<Exit> {
    let missing = if args.secrets_unavailable { MissingSecrets::Unavailable } else { MissingSecrets::Error };
    let setup = args.live.set_up(missing).await?;
    let looked = match look(&setup).await {
        Ok(looked) => looked,
        Err(failed) => return Ok(failed.tell(&setup, args.format, output)),
    };
    let Looked { desired, look } = &looked;
    output.diagnostics(&desired.loaded.diagnostics, &setup.shown, desired.loaded.files.len());
    match args.format {
        Format::Text => output.result(&text::plan(&look.plan)),
        Format::Json => output.result(&json::plan(&look.plan, &desired.loaded.diagnostics, None, None)),
        Format::Markdown => output.result(&markdown::plan(&look.plan, &desired.loaded.diagnostics, None, &setup.shown)),
        Format::Github => {
            output.result(&github::diagnostics(&desired.loaded.diagnostics, &setup.shown));
            output.result(&github::plan(&look.plan, &setup.shown));
        }
    }
    let pending = args.detailed_exitcode && look.plan.steps().next().is_some();
    Ok(Exit::of(cannot_be_applied(&look.plan), looked.is_invalid(), pending))
}

/// Desired and live state, compared.
pub(super) struct Looked {
    pub(super) desired: Desired,
    pub(super) look: Look,
}

impl Looked {
    /// Whether the definitions are at fault.
    pub(super) fn is_invalid(&self) -> bool {
        let missing = self.look.plan.entries.iter().any(|entry| matches!(entry.verdict, Verdict::Missing));
        self.desired.loaded.has_errors() || missing
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
        Self { failure: Failure::Stopped, diagnostics: Vec::new(), files: 0 }
    }

    pub(super) fn tell(self, setup: &Setup, format: Format, output: &Output) -> Exit {
        output.diagnostics(&self.diagnostics, &setup.shown, self.files);
        let sentence = self.failure.to_string();
        match format {
            Format::Text => {}
            Format::Json => output.result(&json::failure(&sentence, &self.diagnostics)),
            Format::Markdown => output.result(&markdown::failure(&sentence, &self.diagnostics, &setup.shown)),
            Format::Github => {
                output.result(&github::diagnostics(&self.diagnostics, &setup.shown));
                output.result(&github::failure(&sentence));
            }
        }
        output.error(&sentence);
        if self.failure.is_invalid_definitions() { Exit::Invalid } else { Exit::Failed }
    }
}

/// Loads, fetches and compares, for one-shot commands.
pub(super) async fn look(setup: &Setup) -> Result<Looked, Failed> {
    let deadline = Instant::now() + setup.timeout;
    let mut desired = match pass::load(&setup.source) {
        Ok(desired) => desired,
        Err(failure) => return Err(Failed { failure, diagnostics: Vec::new(), files: 0 }),
    };
    let looked = async {
        let key = setup.key.read()?;
        let reader = setup.api.reader(&key, deadline, pass::scrubber(&desired));
        pass::look(&setup.source, &mut desired, &reader, None, setup.api.method(), &Applied::new()).await
    };
    match looked.await {
        Ok(look) => Ok(Looked { desired, look }),
        Err(failure) => {
            let loaded = desired.loaded;
            Err(Failed { failure, files: loaded.files.len(), diagnostics: loaded.diagnostics })
        }
    }
}

/// Whether something in the plan is known to fail.
pub(super) fn cannot_be_applied(plan: &Plan) -> bool {
    plan.entries.iter().any(|entry| matches!(entry.verdict, Verdict::Unreadable(_)))
        || plan.steps().any(|step| matches!(step.payload, Payload::Masked(_)))
}
