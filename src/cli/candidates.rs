//! `candidates`: prints the values of an option that only this machine knows, for the completion scripts of shells.
//!
//! Never: print an error into the command line, make a connection, or print a name that a shell could expand.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{Exit, Output};
use crate::desired::{definitions, git};
use crate::model::KNOWN_PROVIDERS;

const MAX_CANDIDATES: usize = 1000;

#[derive(Args)]
pub(super) struct CandidatesArgs {
    /// The option
    of: Candidates,
    /// The words of the command line so far
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Candidates {
    /// Branches and tags.
    Base,
    /// Providers.
    Only,
}

pub(super) fn run(args: &CandidatesArgs, output: &Output) -> Exit {
    let directory = definitions_directory(&args.words);
    let mut names = match args.of {
        Candidates::Base => git::list_references(&directory, MAX_CANDIDATES),
        Candidates::Only => providers(&directory),
    };
    names.retain(|name| is_safe(name));
    names.sort_unstable();
    names.dedup();
    names.truncate(MAX_CANDIDATES);
    output.result(
        &names
            .iter()
            .map(|name| format!("{name}\n"))
            .collect::<String>(),
    );
    Exit::Done
}

/// The definitions directory of the command line: `-d DIR`, `-dDIR`, `--definitions DIR` or `--definitions=DIR`.
fn definitions_directory(words: &[String]) -> PathBuf {
    // In bash, the `=` is a word of its own.
    let after = |at: usize| words.iter().skip(at + 1).find(|word| *word != "=").cloned();
    let named = words
        .iter()
        .enumerate()
        .rev()
        .find_map(|(at, word)| match word.as_str() {
            "-d" | "--definitions" => after(at),
            word => word
                .strip_prefix("--definitions=")
                .or(word.strip_prefix("-d"))
                .map(str::to_owned),
        });
    named
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("CALRY_DEFINITIONS").map(PathBuf::from))
        .unwrap_or_else(|| "definitions".into())
}

fn providers(directory: &Path) -> Vec<String> {
    let files = definitions::load(directory)
        .map(|loaded| loaded.files)
        .unwrap_or_default();
    let of_files = files
        .into_iter()
        .filter_map(|file| Some(file.provider?.to_string()));
    of_files
        .chain(KNOWN_PROVIDERS.iter().map(ToString::to_string))
        .collect()
}

/// Whether a shell leaves the name as it is: a branch may have the name `$(rm -rf ~)`.
fn is_safe(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_shell_could_expand_are_left_out() {
        for name in ["main", "origin/main", "v1.2.0", "feature/a_b-c"] {
            assert!(is_safe(name), "{name}");
        }
        for name in [
            "", "-x", "$(id)", "`id`", "a b", "a;b", "a*", "~", "ü", "a\nb", "'a", "{a,b}",
        ] {
            assert!(!is_safe(name), "{name}");
        }
    }

    #[test]
    fn the_directory_is_that_of_the_command_line() {
        for line in [
            "plan -d x --only",
            "plan -dx",
            "plan --definitions x",
            "plan --definitions=x",
            "plan --definitions = x",
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(definitions_directory(&words), Path::new("x"), "{line}");
        }
    }
}
