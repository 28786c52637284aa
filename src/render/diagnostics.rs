//! Problems of definition files in the form of rustc's errors.
//!
//! Never: read a file. It shows the excerpts of the diagnostics.

use std::borrow::Cow;
use std::collections::HashMap;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use anstyle::{AnsiColor, Effects, Style};

use super::position;
use crate::model::{Code, Diagnostic, Excerpt, Severity, first_problems, printable};
use crate::report::words::counted;

/// The most warnings of one code to show; the rest is counted.
const MAX_OF_CODE: usize = 20;

/// The problems with their lines, coloured for a terminal, then a summary. `directory` is the definitions directory as the
/// user wrote it, empty if a file's name is its whole path; `files` is the number of files.
#[must_use]
pub fn diagnostics(list: &[Diagnostic], directory: &str, files: usize) -> String {
    let mut out = String::new();
    let mut alike: HashMap<Code, usize> = HashMap::new();
    // Missing secrets have one cause: the wrong source. One by one they would hide every other problem.
    let missing: Vec<&Diagnostic> = list
        .iter()
        .filter(|d| d.code == Code::MissingSecret)
        .collect();
    let missing = if missing.len() > 1 {
        missing
    } else {
        Vec::new()
    };
    let others = list
        .iter()
        .filter(|d| d.code != Code::MissingSecret || missing.is_empty());
    for diagnostic in first_problems(others).iter().map(Cow::as_ref) {
        let seen = alike.entry(diagnostic.code).or_default();
        if diagnostic.severity == Severity::Warning {
            *seen += 1;
        }
        if diagnostic.severity == Severity::Error || *seen <= MAX_OF_CODE {
            out.push_str(&render_one(diagnostic, directory));
            out.push_str("\n\n");
        }
    }
    let mut hidden: Vec<_> = alike
        .into_iter()
        .filter(|(_, seen)| *seen > MAX_OF_CODE)
        .collect();
    hidden.sort_unstable();
    for (code, seen) in hidden {
        out.push_str(&format!(
            "and {} of this kind: warning[{}]\n\n",
            count(seen - MAX_OF_CODE, "more warning"),
            code.as_str()
        ));
    }
    if !missing.is_empty() {
        out.push_str(&missing_secrets(&missing, directory));
    }
    out.push_str(&summary(list, files));
    out.push('\n');
    out
}

/// Several missing secrets as one problem, with a line for each reference. A reason that all of them have is shown once.
fn missing_secrets(missing: &[&Diagnostic], directory: &str) -> String {
    /// The most references to show.
    const MAX_LISTED: usize = 100;
    let mut rows: Vec<(String, String)> = missing
        .iter()
        .take(MAX_LISTED)
        .map(|diagnostic| {
            let place = path(directory, &diagnostic.file) + &position(diagnostic);
            (place, printable(&diagnostic.message))
        })
        .collect();
    let width = rows
        .iter()
        .map(|(place, _)| place.chars().count())
        .max()
        .unwrap_or(0);
    let mut title = format!("{} not available", count(missing.len(), "secret reference"));
    let first = rows.first().map(|(_, message)| message.clone());
    if let Some(shared) = first.filter(|first| rows.iter().all(|(_, message)| message == first)) {
        title = format!("{title}: {shared}");
        rows.iter_mut().for_each(|(_, message)| message.clear());
    }
    let title = Level::ERROR
        .primary_title(title)
        .id(Code::MissingSecret.as_str());
    let mut out = Renderer::styled()
        .decor_style(DecorStyle::Ascii)
        .render(&[Group::with_title(title)]);
    for (place, message) in rows {
        let row = format!("{place:<width$}  {message}");
        out.push_str(&format!("\n  {}", row.trim_end()));
    }
    if missing.len() > MAX_LISTED {
        out.push_str(&format!("\n  and {} more", missing.len() - MAX_LISTED));
    }
    out.push_str(&format!(
        "\n  {ARROW}={ARROW:#} {BOLD}help{BOLD:#}: put each secret into a file of --secrets-dir, or into its variable (CALRY_SECRET_NAME);\n          \
         plan --secrets-unavailable compares everything else\n\n"
    ));
    out
}

/// The path of a file, as the user can open it.
fn path(directory: &str, file: &str) -> String {
    match directory {
        "" => printable(file),
        _ => printable(&format!("{}/{file}", directory.trim_end_matches('/'))),
    }
}

fn render_one(diagnostic: &Diagnostic, directory: &str) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let path = path(directory, &diagnostic.file);
    let title = level
        .primary_title(printable(&diagnostic.message))
        .id(diagnostic.code.as_str());
    let mut group = match &diagnostic.excerpt {
        None => title.element(Origin::path(path.as_str())),
        Some(excerpt) => {
            let mark = AnnotationKind::Primary.span(excerpt.mark.clone());
            title.element(
                Snippet::source(excerpt.text.as_str())
                    .line_start(excerpt.line)
                    .annotation(mark),
            )
        }
    };
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(printable(help)));
    }
    let rendered = Renderer::styled()
        .decor_style(DecorStyle::Ascii)
        .render(&[group]);
    // Parts that are harmless alone may form a workflow command together.
    let rendered = rendered.replace("##[", "#\\u{23}[");
    match (&diagnostic.excerpt, rendered.split_once('\n')) {
        // The renderer would show the column of the excerpt, which may differ from that of the file.
        (Some(Excerpt { line, column, .. }), Some((title, rest))) => {
            let margin = " ".repeat(line.to_string().len());
            format!("{title}\n{margin}{ARROW}-->{ARROW:#} {path}:{line}:{column}\n{rest}")
        }
        _ => rendered,
    }
}

/// The style of the renderer's own arrows.
const ARROW: Style = AnsiColor::BrightBlue.on_default().effects(Effects::BOLD);
const BOLD: Style = Style::new().bold();

/// The number of problems and of files.
fn summary(list: &[Diagnostic], files: usize) -> String {
    let of = |severity| list.iter().filter(|d| d.severity == severity).count();
    let found = match (of(Severity::Error), of(Severity::Warning)) {
        (0, 0) => "no problems".to_owned(),
        (errors, 0) => count(errors, "error"),
        (0, warnings) => count(warnings, "warning"),
        (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    };
    format!("{found} in {}", count(files, "file"))
}

fn count(n: usize, noun: &str) -> String {
    counted(n, noun, &format!("{noun}s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(severity: Severity, code: Code, excerpt: Option<Excerpt>) -> Diagnostic {
        Diagnostic {
            severity,
            code,
            file: "a.yaml".into(),
            excerpt,
            message: "it is wrong".into(),
            help: None,
        }
    }

    fn plain(list: &[Diagnostic]) -> String {
        anstream::adapter::strip_str(&diagnostics(list, "definitions/", 20)).to_string()
    }

    #[test]
    fn a_problem_is_shown_at_its_line_with_a_remedy() {
        let excerpt = Excerpt {
            line: 12,
            column: 3,
            width: 4,
            text: "  hots: x".into(),
            mark: 2..6,
        };
        let help = Some("did you mean `host`?".into());
        let error = Diagnostic {
            help,
            ..problem(Severity::Error, Code::UnknownKey, Some(excerpt))
        };
        insta::assert_snapshot!(plain(&[error]), @r"
        error[unknown-key]: it is wrong
          --> definitions/a.yaml:12:3
           |
        12 |   hots: x
           |   ^^^^
           |
           = help: did you mean `host`?

        1 error in 20 files
        ");
    }

    #[test]
    fn the_position_is_that_of_the_file_even_if_the_line_is_masked_or_cut() {
        let excerpt = Excerpt {
            line: 7,
            column: 321,
            width: 1,
            text: "…x-api-key: ***".into(),
            mark: 14..17,
        };
        insta::assert_snapshot!(plain(&[problem(Severity::Warning, Code::PlainCredential, Some(excerpt))]), @r"
        warning[plain-credential]: it is wrong
         --> definitions/a.yaml:7:321
          |
        7 | …x-api-key: ***
          |             ^^^

        1 warning in 20 files
        ");
    }

    #[test]
    fn a_problem_of_a_file_as_a_whole_has_no_line() {
        insta::assert_snapshot!(plain(&[problem(Severity::Error, Code::Unreadable, None)]), @r"
        error[unreadable]: it is wrong
        --> definitions/a.yaml

        1 error in 20 files
        ");
    }

    #[test]
    fn many_warnings_of_one_code_are_counted_and_errors_are_all_shown() {
        let mut list = vec![problem(Severity::Warning, Code::UnknownField, None); 30];
        list.extend(vec![problem(Severity::Error, Code::UnknownKey, None); 25]);
        let text = plain(&list);
        assert_eq!(
            text.matches("warning[unknown-field]: it is wrong").count(),
            MAX_OF_CODE
        );
        assert_eq!(text.matches("error[unknown-key]: it is wrong").count(), 25);
        assert!(text.ends_with(
            "\nand 10 more warnings of this kind: warning[unknown-field]\n\n25 errors, 30 warnings in 20 files\n"
        ));
    }

    #[test]
    fn a_file_name_cannot_act_on_the_terminal() {
        let named = Diagnostic {
            file: "\u{1b}[2J.yaml".into(),
            ..problem(Severity::Error, Code::FileName, None)
        };
        assert!(plain(&[named]).contains("definitions/\\u{1b}[2J.yaml"));
    }

    #[test]
    fn no_problem_is_one_line() {
        assert_eq!(plain(&[]), "no problems in 20 files\n");
    }
}
