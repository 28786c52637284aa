//! What a pull did, as a person reads it on a terminal of 80 columns. Of a secret it knows the name and the place.

use std::fmt::Write as _;

use super::text::{BOLD, DIM, GREEN, LABEL, RED, YELLOW, column, wrapped};
use crate::model::printable;
use crate::pull::{File, FileState, Pull, first_of};

/// The files that are not as they were, the secrets that they take, and a summary line. `dry_run` says that nothing was
/// written.
#[must_use]
pub fn pull(pull: &Pull, dry_run: bool) -> String {
    let mut out = String::new();
    for file in &pull.files {
        file_lines(&mut out, file);
    }
    secrets(&mut out, pull);
    let count = |wanted: fn(&FileState) -> bool| {
        pull.files.iter().filter(|file| wanted(&file.state)).count()
    };
    let (created, updated) = (
        count(|s| *s == FileState::Created),
        count(|s| matches!(s, FileState::Updated(_))),
    );
    let mut parts = Vec::new();
    for (count, word) in [
        (created, "created"),
        (updated, "updated"),
        (count(|s| *s == FileState::Unchanged), "unchanged"),
        (count(|s| *s == FileState::Invalid), "invalid"),
        (count(|s| matches!(s, FileState::Refused(_))), "not written"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    let nothing = match (created + updated, dry_run) {
        (0, _) => " There was nothing to write.",
        (_, true) => " Nothing was written: this was a dry run.",
        _ => "",
    };
    let style = if count(|s| matches!(s, FileState::Refused(_) | FileState::Invalid)) > 0 {
        RED
    } else {
        GREEN
    };
    let _ = writeln!(
        out,
        "{style}{BOLD}Pull: {}.{BOLD:#}{style:#}{nothing}",
        parts.join(", ")
    );
    out
}

fn file_lines(out: &mut String, file: &File) {
    /// Of what is left out, so much is told.
    const MOST: usize = 8;
    let label = printable(&file.name);
    let (style, word, rest) = match &file.state {
        FileState::Unchanged if file.left_out.is_empty() => return,
        FileState::Unchanged => (GREEN, "unchanged", String::new()),
        FileState::Created => (GREEN, "created", String::new()),
        FileState::Updated(changes) => (GREEN, "updated", printable(&first_of(changes))),
        FileState::Invalid => (
            RED,
            "invalid",
            "it has errors, and is left as it is".to_owned(),
        ),
        FileState::Refused(why) => (RED, "not written", format!("it {}", printable(why))),
    };
    let _ = write!(out, "{label:<LABEL$} {style}{word}{style:#}");
    let colon = if rest.is_empty() {
        String::new()
    } else {
        format!(": {rest}")
    };
    let _ = writeln!(
        out,
        "{}",
        wrapped(&colon, column(&label) + word.len(), LABEL + 1)
    );
    for sentence in file.left_out.iter().take(MOST) {
        let told = format!("left out: {}", printable(sentence));
        let _ = writeln!(out, "  {YELLOW}{}{YELLOW:#}", wrapped(&told, 2, 4));
    }
    if file.left_out.len() > MOST {
        let _ = writeln!(
            out,
            "  {YELLOW}and {} more{YELLOW:#}",
            file.left_out.len() - MOST
        );
    }
}

fn secrets(out: &mut String, pull: &Pull) {
    for (outdated, title, how) in [
        (
            false,
            "Secrets that were not found",
            "Put each into a file of its name in --secrets-dir, or into the variable. Until then, \
             plan --secrets-unavailable compares the rest.",
        ),
        (
            true,
            "Secrets of which Calry has another value",
            "Replace each where it is kept, or let apply put it back into Calry.",
        ),
    ] {
        let mut secrets = pull
            .secrets
            .iter()
            .filter(|(_, needed)| needed.outdated == outdated)
            .peekable();
        if secrets.peek().is_none() {
            continue;
        }
        let _ = writeln!(out, "\n{BOLD}{title}{BOLD:#}");
        for (name, needed) in secrets {
            let _ = writeln!(out, "  {name}  {DIM}{}{DIM:#}", name.variable());
            for (provider, path) in &needed.uses {
                let _ = writeln!(out, "    {DIM}{provider} {}{DIM:#}", printable(path));
            }
        }
        let _ = writeln!(out, "  {}", wrapped(how, 2, 2));
    }
    if !pull.secrets.is_empty() {
        out.push('\n');
    }
}
