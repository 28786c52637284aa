//! The result of a pull as text for a terminal of 80 columns. Of a secret it knows the name and the position only.

use std::fmt::Write as _;

use super::text::{BOLD, DIM, GREEN, LABEL, RED, YELLOW, text_column, wrap};
use crate::model::printable;
use crate::pull::{File, FileState, Pull, Shareable, first_of};
use crate::report::words::nonzero;

/// The files that changed, the secrets that they need, and a summary line. With `dry_run`, nothing was written.
#[must_use]
pub fn pull(pull: &Pull, dry_run: bool) -> String {
    let mut out = String::new();
    for file in &pull.files {
        write_file(&mut out, file);
    }
    write_secrets(&mut out, pull);
    write_shareable(&mut out, &pull.shareable);
    let count = |wanted: fn(&FileState) -> bool| {
        pull.files.iter().filter(|file| wanted(&file.state)).count()
    };
    let (created, updated) = (
        count(|s| *s == FileState::Created),
        count(|s| matches!(s, FileState::Updated(_))),
    );
    let parts = nonzero([
        (created, "created"),
        (updated, "updated"),
        (count(|s| *s == FileState::Unchanged), "unchanged"),
        (count(|s| *s == FileState::Invalid), "invalid"),
        (count(|s| matches!(s, FileState::Refused(_))), "not written"),
    ]);
    let parts: Vec<String> = parts.collect();
    let nothing = match (created + updated, dry_run) {
        (0, _) => " There is nothing to write.",
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

fn write_file(out: &mut String, file: &File) {
    /// The most omissions to show for a file.
    const MAX_OMISSIONS: usize = 8;
    let label = printable(&file.name);
    let (style, word, rest) = match &file.state {
        FileState::Unchanged if file.left_out.is_empty() => return,
        FileState::Unchanged => (GREEN, "unchanged", String::new()),
        FileState::Created => (GREEN, "created", String::new()),
        FileState::Updated(changes) => (GREEN, "updated", printable(&first_of(changes))),
        FileState::Invalid => (
            RED,
            "invalid",
            "it has errors, and is not changed".to_owned(),
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
        wrap(&colon, text_column(&label) + word.len(), LABEL + 1)
    );
    for sentence in file.left_out.iter().take(MAX_OMISSIONS) {
        let line = format!("left out: {}", printable(sentence));
        let _ = writeln!(out, "  {YELLOW}{}{YELLOW:#}", wrap(&line, 2, 4));
    }
    if file.left_out.len() > MAX_OMISSIONS {
        let _ = writeln!(
            out,
            "  {YELLOW}and {} more{YELLOW:#}",
            file.left_out.len() - MAX_OMISSIONS
        );
    }
}

fn write_shareable(out: &mut String, shareable: &[Shareable]) {
    /// The most files to name.
    const MAX_FILES: usize = 20;
    if shareable.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{BOLD}Equal in another workspace{BOLD:#}");
    for equal in shareable.iter().take(MAX_FILES) {
        let line = format!("{}: {}", equal.file, first_of(&equal.parts));
        let _ = writeln!(out, "  {}", wrap(&printable(&line), 2, 4));
        let _ = writeln!(out, "    {DIM}{}{DIM:#}", printable(&equal.workspace));
    }
    if shareable.len() > MAX_FILES {
        let _ = writeln!(out, "  and {} more", shareable.len() - MAX_FILES);
    }
    let how = "A part that every workspace has can move to the shared directory. Write it there first, and then remove it here \
               and there, with the file if it has nothing else: so the part stays managed throughout.";
    let _ = writeln!(out, "  {}\n", wrap(how, 2, 2));
}

fn write_secrets(out: &mut String, pull: &Pull) {
    for (outdated, title, how) in [
        (
            false,
            "Secrets that were not found",
            "Put each into a file of its name in --secrets-dir, into the variable, or beside the files with \
             `calry-gitops encrypt NAME`. Until then, plan --secrets-unavailable compares the rest.",
        ),
        (
            true,
            "Secrets with another value in Calry",
            "Replace each in your secret store, or let apply write your value to Calry.",
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
        let _ = writeln!(out, "  {}", wrap(how, 2, 2));
    }
    if !pull.secrets.is_empty() {
        out.push('\n');
    }
}
