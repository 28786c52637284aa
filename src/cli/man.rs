//! `man`: prints the manual, made from the definitions of the command line. Packages call it; the help does not show it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{Exit, Output, UsageError, help};

#[derive(Args)]
pub(super) struct ManArgs {
    /// Write a page for each command into this directory, and not the main page to standard output
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs, output: &Output) -> anyhow::Result<Exit> {
    let date = date()?;
    let mut main = help::command().disable_help_subcommand(true);
    main.build();
    let Some(dir) = &args.dir else {
        output.result(&String::from_utf8(page(&main, &main, date)?)?);
        return Ok(Exit::Done);
    };
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot create the directory {}", dir.display()))?;
    for command in commands_of(&main) {
        let file = dir.join(Man::new(command.clone()).get_filename());
        std::fs::write(&file, page(&main, command, date)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(Exit::Done)
}

/// A command and its commands that help shows.
fn commands_of(command: &Command) -> impl Iterator<Item = &Command> {
    let visible = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    std::iter::once(command).chain(visible)
}

fn reads_definitions(command: &Command) -> bool {
    command
        .get_arguments()
        .any(|arg| arg.get_long() == Some("definitions"))
}

/// The date of the pages: today, or that of a reproducible build.
fn date() -> anyhow::Result<Date> {
    let time = match std::env::var("SOURCE_DATE_EPOCH") {
        Err(_) => Timestamp::now(),
        Ok(seconds) => seconds
            .parse()
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .ok_or_else(|| {
                UsageError(
                    "the variable SOURCE_DATE_EPOCH must be a time in seconds since 1970"
                        .to_owned(),
                )
            })?,
    };
    Ok(time.to_zoned(TimeZone::UTC).date())
}

fn page(main: &Command, command: &Command, date: Date) -> anyhow::Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .date(date.to_string())
        .manual("calry-gitops");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    examples(command).to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    section(
        &mut rest,
        "EXIT STATUS",
        help::exits(command.get_name())
            .iter()
            .map(|(exit, meaning)| {
                let meaning = meaning.split_whitespace().collect::<Vec<_>>().join(" ");
                ((*exit as u8).to_string(), meaning)
            }),
    );
    section(&mut rest, "ENVIRONMENT", environment(command));
    if commands_of(command).any(reads_definitions) {
        section(
            &mut rest,
            "FILES",
            [
                (
                    "definitions/*.yaml".to_owned(),
                    "One file for each provider, named after it in lower case.".to_owned(),
                ),
                (
                    "definitions/workspace.yaml".to_owned(),
                    "The slug of the workspace that the definitions are for.".to_owned(),
                ),
            ],
        );
    }
    rest.control("SH", ["SEE ALSO"]);
    let others = commands_of(main).filter(|other| other.get_name() != command.get_name());
    let others: Vec<String> = others
        .map(|other| other.get_display_name().unwrap_or(other.get_name()))
        .map(|name| format!("{name}(1)"))
        .collect();
    rest.text([roman(others.join(", "))]);
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// Command lines to copy, each below its purpose.
fn examples(command: &Command) -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["EXAMPLES"]);
    for (at, (purpose, line)) in help::examples(command.get_name()).iter().enumerate() {
        if !purpose.is_empty() {
            if at > 0 {
                section.control("PP", []);
            }
            section.text([roman(format!("{purpose}:"))]);
        }
        section.control("PP", []);
        section.control("RS", ["4"]);
        section.control("nf", []);
        section.text([roman(*line)]);
        section.control("fi", []);
        section.control("RE", []);
    }
    section
}

/// The variables of a command, and of its subcommands.
fn environment(command: &Command) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from([(
        "NO_COLOR".to_owned(),
        "No colours, whatever its value.".to_owned(),
    )]);
    if commands_of(command).any(help::connects) {
        variables
            .extend(help::NETWORK.map(|(names, meaning)| (names.to_owned(), meaning.to_owned())));
    }
    for arg in commands_of(command).flat_map(Command::get_arguments) {
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
                "The API key, if --api-key-file is not given.",
            ),
            Some("fingerprint-key-file") => (
                "CALRY_FINGERPRINT_KEY",
                "The key of the fingerprints, if --fingerprint-key-file is not given.",
            ),
            Some("secrets-dir") => (
                "CALRY_SECRET_NAME",
                "The value of ${secret:name}, if --secrets-dir has no file for it; the name is in upper case, with _ in \
                 place of - and of a dot.",
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
