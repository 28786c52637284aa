//! Turns plans, reports, statuses and problems into text, Markdown, annotations and SARIF. Data in, string out.
//!
//! Never: print, read, decide, or see a secret. Its types hold none, or have no way to show one; values are masked by
//! position, before rendering.

mod diagnostics;
pub mod github;
pub mod history;
pub mod markdown;
pub mod pull;
pub mod sarif;
pub mod status;
pub mod text;
mod view;
pub(crate) mod yaml;

pub use diagnostics::diagnostics;

use crate::model::Diagnostic;
use crate::report::links::path_from_root;

/// The message of a problem, with its advice in parentheses.
fn message_with_help(Diagnostic { message, help, .. }: &Diagnostic) -> String {
    match help {
        Some(help) => format!("{message} ({help})"),
        None => message.clone(),
    }
}

/// The line and column of a problem after the name of its file: `:12:3`; empty for the file as a whole.
fn position(diagnostic: &Diagnostic) -> String {
    let at = diagnostic.excerpt.as_ref();
    at.map_or_else(String::new, |at| format!(":{}:{}", at.line, at.column))
}
