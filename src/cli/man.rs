//! `man`: the manual, made from the same definitions as the command line itself. Packages call it; the help does not show it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{Cli, EXITS, Exit, Output, UsageError};

#[derive(Args)]
pub(super) struct ManArgs {
    /// Write a page for each command into this directory, and not the main page to standard output
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs, output: &Output) -> anyhow::Result<Exit> {
    let date = date()?;
    let mut main = Cli::command().disable_help_subcommand(true);
    main.build();
    let Some(dir) = &args.dir else {
        output.result(&String::from_utf8(page(&main, date)?)?);
        return Ok(Exit::Done);
    };
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot make the directory {}", dir.display()))?;
    for command in std::iter::once(&main).chain(visible(&main)) {
        let file = dir.join(Man::new(command.clone()).get_filename());
        std::fs::write(&file, page(command, date)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(Exit::Done)
}

fn visible(main: &Command) -> impl Iterator<Item = &Command> {
    main.get_subcommands()
        .filter(|command| !command.is_hide_set())
}

/// The day of the pages: today, or the one that a reproducible build gives.
fn date() -> anyhow::Result<Date> {
    let time = match std::env::var("SOURCE_DATE_EPOCH") {
        Err(_) => Timestamp::now(),
        Ok(seconds) => seconds
            .parse()
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .ok_or_else(|| {
                UsageError(
                    "the variable SOURCE_DATE_EPOCH holds no time in seconds since 1970".to_owned(),
                )
            })?,
    };
    Ok(time.to_zoned(TimeZone::UTC).date())
}

fn page(command: &Command, date: Date) -> anyhow::Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .date(date.to_string())
        .manual("calry-gitops");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    section(
        &mut rest,
        "EXIT STATUS",
        EXITS.map(|(exit, meaning)| ((exit as u8).to_string(), meaning.to_owned())),
    );
    section(&mut rest, "ENVIRONMENT", environment(command));
    section(
        &mut rest,
        "FILES",
        [
            (
                "definitions/*.yaml".to_owned(),
                "One file per provider, named after it in lower case.".to_owned(),
            ),
            (
                "definitions/workspace.yaml".to_owned(),
                "The slug of the workspace that the definitions are for.".to_owned(),
            ),
        ],
    );
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// The variables of a command, and of its subcommands.
fn environment(command: &Command) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from([(
        "NO_COLOR".to_owned(),
        "No colours, whatever its value.".to_owned(),
    )]);
    let commands = || std::iter::once(command).chain(visible(command));
    if commands().any(super::connects) {
        variables
            .extend(super::NETWORK.map(|(names, meaning)| (names.to_owned(), meaning.to_owned())));
    }
    for arg in commands().flat_map(Command::get_arguments) {
        if let (Some(variable), Some(option)) = (arg.get_env(), arg.get_long()) {
            variables.insert(
                variable.to_string_lossy().into_owned(),
                format!("The same as --{option}."),
            );
        }
        // Those that stand for no option.
        let (variable, meaning) = match arg.get_long() {
            Some("api-key-file") => (
                "CALRY_API_KEY",
                "The API key, where --api-key-file is not given.",
            ),
            Some("fingerprint-key-file") => (
                "CALRY_FINGERPRINT_KEY",
                "The key of fingerprints, where --fingerprint-key-file is not given.",
            ),
            Some("secrets-dir") => (
                "CALRY_SECRET_NAME",
                "The value of ${secret:name}, where no file of --secrets-dir has it; the name is in upper case, with _ in \
                 the place of - and of a dot.",
            ),
            _ => continue,
        };
        variables.insert(variable.to_owned(), meaning.to_owned());
    }
    variables
}

fn section(page: &mut Roff, title: &str, entries: impl IntoIterator<Item = (String, String)>) {
    page.control("SH", [title]);
    for (term, meaning) in entries {
        page.control("TP", []);
        page.text([bold(term)]);
        page.text([roman(meaning)]);
    }
}
