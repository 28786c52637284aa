//! `schema`: prints the JSON Schema of a definition file, of workspace.yaml or of the configuration file, for editors. Without
//! `--from-live` it reads nothing.

use clap::{Args, ValueEnum};
use tokio::time::Instant;

use super::options::LiveArgs;
use super::{Exit, Output, UsageError, config};
use crate::desired::definitions::{self, MissingSecrets, Pin};
use crate::model::{Catalogue, DefinitionPart, printable};
use crate::reconcile;

#[derive(Args)]
pub(super) struct SchemaArgs {
    /// Kind of file: a definition file, workspace.yaml, or the configuration file of run
    #[arg(value_enum, default_value_t = File::Definition, value_name = "definition|workspace|config")]
    file: File,
    /// Add the providers, groups and fields of the workspace; save the output as definition.schema.json beside the files
    #[arg(long)]
    from_live: bool,
    // Last, because its help headings also apply to every argument after it.
    #[command(flatten)]
    live: LiveArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum File {
    Definition,
    Workspace,
    Config,
}

pub(super) async fn run(args: &SchemaArgs, output: &Output) -> anyhow::Result<Exit> {
    if args.from_live {
        if args.file != File::Definition {
            return Err(UsageError(
                "--from-live only extends the schema of a definition file".to_owned(),
            )
            .into());
        }
        return from_live(args, output).await;
    }
    output.result(&match args.file {
        File::Definition => definitions::definition_schema(&Catalogue::built_in()),
        File::Workspace => definitions::workspace_schema(),
        File::Config => config::schema(),
    });
    Ok(Exit::Done)
}

/// Prints the schema with the names of the workspace, if all of them can be read: a schema that lacks names would make valid
/// files invalid.
async fn from_live(args: &SchemaArgs, output: &Output) -> anyhow::Result<Exit> {
    let setup = args
        .live
        .set_up(MissingSecrets::Unavailable, output)
        .await?;
    let pin =
        definitions::load(&args.live.files.definitions).map_or(Pin::None, |loaded| loaded.pin);
    let key = setup.key.read()?;
    let reader = setup.api.reader(&key, Instant::now() + setup.timeout);
    let (_, listing, _) = match reconcile::fetch(&reader, setup.source.pins(&pin), None).await {
        Ok(fetched) => fetched,
        Err(failure) => {
            output.error(&failure.to_string());
            return Ok(Exit::from(&failure));
        }
    };
    let unreadable = listing.unreadable.iter().map(ToString::to_string);
    let unreadable_fields = listing.live.iter().filter_map(|live| {
        let why = live.problems.part(DefinitionPart::FieldsToSync)?;
        Some(format!(
            "the fields of {} cannot be read: {why}",
            live.provider
        ))
    });
    let problems: Vec<String> = unreadable.chain(unreadable_fields).collect();
    if !problems.is_empty() {
        problems
            .iter()
            .for_each(|problem| output.error(&printable(problem)));
        return Ok(Exit::Failed);
    }
    let mut known = Catalogue::built_in();
    known.extend(reconcile::names(&listing).readable());
    output.result(&definitions::definition_schema(&known));
    Ok(Exit::Done)
}
