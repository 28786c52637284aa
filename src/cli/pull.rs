//! `pull`: writes definition files from the live state. Its client has no way to write to Calry.

use clap::Args;
use tokio::time::Instant;

use super::options::LiveArgs;
use super::{Exit, Output};
use crate::desired::definitions::{self, Loader, MissingSecrets, Purpose};
use crate::model::{Code, Live, closest, printable};
use crate::pull::{File, FileState, Part, Scope, SecretNames, first_unknown, prepare, shareable};
use crate::reconcile;
use crate::render;

#[derive(Args)]
pub(super) struct PullArgs {
    /// Only these parts, named as plan prints them, such as icon,listing.pictures; a part that a file did not mention is
    /// managed from now on. Repeatable
    #[arg(long, value_parser = parts, value_name = "PATH")]
    fields: Vec<Parts>,
    /// Print what would be written, without writing it
    #[arg(long)]
    dry_run: bool,
    // Last, because its help headings also apply to every argument after it.
    #[command(flatten)]
    live: LiveArgs,
}

#[derive(Clone)]
struct Parts(Vec<Part>);

fn parts(text: &str) -> Result<Parts, String> {
    Part::parse_list(text)
        .map(Parts)
        .map_err(|error| error.to_string())
}

pub(super) async fn run(args: &PullArgs, output: &Output) -> anyhow::Result<Exit> {
    let setup = args
        .live
        .set_up(MissingSecrets::Unavailable, output)
        .await?;
    let source = &setup.source;
    let loader = Loader {
        only: &source.only,
        today: reconcile::today(),
        purpose: Purpose::Pull {
            secrets: &source.secrets,
            missing: source.missing,
        },
    };
    let loaded = definitions::load_or_empty(&args.live.files.definitions)?;
    // The names of all files, so that no secret is overwritten.
    let names = SecretNames::of(&loaded);
    let mut loaded = loader.finish(loaded)?;
    loaded
        .secrets()
        .for_each(|secret| setup.api.scrubber().learn(secret));
    let fetched = async {
        let key = setup.key.read()?;
        let reader = setup.api.reader(&key, Instant::now() + setup.timeout);
        reconcile::fetch(&reader, source.pins(&loaded.pin), None).await
    };
    let fetched = fetched.await.map(|(workspace, listing, _)| {
        (
            workspace,
            reconcile::check_live(source, &mut loaded, listing),
        )
    });
    // It is what a pull corrects.
    loaded.diagnostics.retain(|d| d.code != Code::NoFile);
    let loaded = &loaded;
    output.diagnostics(&loaded.diagnostics, &setup.shown, loaded.files.len());
    let (workspace, state) = match fetched {
        Ok(fetched) => fetched,
        Err(failure) => {
            output.error(&failure.to_string());
            return Ok(Exit::from(&failure));
        }
    };
    // A part that cannot be read is not the same as an absent part.
    let (live, partly): (Vec<_>, Vec<_>) = state
        .live
        .into_iter()
        .partition(|live| live.problems.first_problem().is_none());
    let problem = |live: Live| Some((live.provider, live.problems.first_problem()?.to_owned()));
    let unreadable: Vec<_> = state
        .unreadable
        .into_iter()
        .chain(partly.into_iter().filter_map(problem))
        .collect();
    let readable = live.iter().map(|live| &live.provider);
    let providers: Vec<_> = readable
        .chain(unreadable.iter().map(|(provider, _)| provider))
        .collect();
    let missing: Vec<_> = source
        .only
        .iter()
        .filter(|provider| !providers.contains(provider))
        .collect();
    for provider in &missing {
        output.error(&format!(
            "the workspace has no provider {provider}, which --only names"
        ));
    }
    let parts: Vec<Part> = args
        .fields
        .iter()
        .flat_map(|parts| parts.0.clone())
        .collect();
    if let Some(part) = first_unknown(&parts, loaded, &live).filter(|_| missing.is_empty()) {
        output.error(&unknown_part(part, &live));
        return Ok(Exit::Failed);
    }

    state
        .nameless
        .iter()
        .for_each(|sentence| output.error(sentence));
    let known = loaded.names_for_schema(&state.names);
    let scope = Scope {
        parts: &parts,
        only: &source.only,
        known: &known,
    };
    let mut pull = prepare(loaded, &workspace, &live, scope, names, &source.secrets);
    for (provider, problem) in unreadable
        .iter()
        .filter(|(p, _)| source.only.is_empty() || source.only.contains(p))
    {
        let why =
            format!("cannot be made: Calry's definition of {provider} cannot be read: {problem}");
        pull.files.push(File::refused(
            &format!("{}.yaml", provider.file_stem()),
            why,
        ));
    }
    if !args.dry_run {
        std::fs::create_dir_all(&loaded.directory).map_err(|error| {
            anyhow::anyhow!("cannot create the directory {}: {error}", setup.shown)
        })?;
    }
    // Links in its path may change from now on: this is the directory that is written to.
    let directory =
        std::fs::canonicalize(&loaded.directory).unwrap_or_else(|_| loaded.directory.clone());
    pull.write(&directory, args.dry_run);
    if loaded.shared.is_some()
        && let Ok(written) = definitions::load(&directory)
    {
        pull.shareable = shareable(&written);
    }
    output.result(&render::pull::pull(&pull, args.dry_run));
    let failed = !state.nameless.is_empty()
        || pull
            .files
            .iter()
            .any(|file| matches!(file.state, FileState::Refused(_)));
    let invalid = loaded.has_errors() || !missing.is_empty();
    Ok(Exit::Failed.when(failed).or(Exit::Invalid.when(invalid)))
}

fn unknown_part(part: &Part, live: &[Live]) -> String {
    let meant = match part {
        Part::Field(_, name) | Part::Group(name) => {
            let fields = || live.iter().flat_map(|live| &live.fields);
            let groups = fields().map(|(group, _)| group.as_str());
            closest(
                name,
                groups.chain(fields().flat_map(|(_, fields)| fields.keys().map(String::as_str))),
            )
        }
        Part::Value(_, name) => {
            let keys = live
                .iter()
                .flat_map(|live| [&live.partner_key.headers, &live.partner_key.query_params]);
            closest(
                name,
                keys.flatten()
                    .flat_map(|values| values.keys().map(String::as_str)),
            )
        }
        Part::Icon | Part::PartnerKey | Part::KeySection(_) | Part::Fields => None,
    };
    let help = meant
        .map(|meant| format!("; did you mean `{}`?", printable(meant)))
        .unwrap_or_default();
    format!(
        "no provider has {}, which --fields names, in Calry or in its file{help}",
        printable(&part.to_string())
    )
}
