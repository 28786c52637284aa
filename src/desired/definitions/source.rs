//! The text of one file, and the problems that quote its lines. Every quoted line is masked.

use std::fmt;
use std::sync::OnceLock;

use super::mask::{Mask, visible_unparsed};
use super::yaml::{self, Span, Tree, YamlProblem};
use crate::model::{Code, Diagnostic, Excerpt, Severity, printable};

/// The most problems of one file that are reported.
pub(crate) const MAX_PROBLEMS: usize = 100;

/// A file's name and text. Its `Debug` shows the name only.
pub(crate) struct Source {
    name: String,
    text: String,
    /// Set when the text has been parsed. A text that does not parse cannot be masked by position, and is masked line
    /// by line.
    mask: OnceLock<Mask>,
    /// The byte at which each line begins.
    lines: OnceLock<Vec<u32>>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.name)
    }
}

impl Source {
    pub(crate) fn new(name: &str, text: String) -> Self {
        Self {
            name: name.to_owned(),
            text,
            mask: OnceLock::new(),
            lines: OnceLock::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The name without the path to the shared directory.
    pub(crate) fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    /// The text without a mask: not to be shown.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Parses the text as YAML. From then on it is masked by position.
    pub(crate) fn parse(&self) -> Result<Tree<'_>, YamlProblem> {
        let tree = yaml::read(&self.text)?;
        let _ = self.mask.set(Mask::of(&tree, &self.text));
        Ok(tree)
    }

    /// Parses the text as settings, of at most `limit` nodes. `shown` decides by its key whether a setting may be
    /// shown.
    pub(crate) fn parse_settings(
        &self,
        limit: usize,
        shown: &dyn Fn(&str) -> bool,
    ) -> Result<Tree<'_>, YamlProblem> {
        let tree = yaml::read_with_limit(&self.text, limit)?;
        let _ = self.mask.set(Mask::of_settings(&tree, &self.text, shown));
        Ok(tree)
    }

    /// The line of a byte, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.lines()
            .partition_point(|start| *start as usize <= at)
            .max(1)
    }

    fn lines(&self) -> &[u32] {
        self.lines.get_or_init(|| {
            let bytes = self.text.as_bytes();
            let breaks = bytes
                .iter()
                .zip(bytes.iter().skip(1).chain([&0]))
                .enumerate();
            let after = breaks.filter(|(_, (byte, next))| {
                **byte == b'\n' || (**byte == b'\r' && **next != b'\n')
            });
            [0].into_iter()
                .chain(after.filter_map(|(at, _)| u32::try_from(at + 1).ok()))
                .collect()
        })
    }

    pub(crate) fn excerpt(&self, span: Span) -> Excerpt {
        let number = self.line(span.start());
        let start = self.lines().get(number - 1).map_or(0, |at| *at as usize);
        let end = self
            .lines()
            .get(number)
            .map_or(self.text.len(), |at| *at as usize);
        let line = self
            .text
            .get(start..end)
            .unwrap_or_default()
            .trim_end_matches(['\n', '\r']);
        let from = line.floor_char_boundary(span.start() - start);
        let to = line.floor_char_boundary(span.end() - start).max(from);
        let column = chars(line.get(..from)) + 1;

        let visible = match self.mask.get() {
            Some(mask) => mask.visible(line, start),
            None => Some(visible_unparsed(line)),
        };
        // A space between the key and the hidden value is shown only if there is one.
        let gap = |visible: &str| {
            let next = line.get(visible.len()..).unwrap_or_default();
            if next.is_empty() || next.starts_with([' ', '\t']) {
                " "
            } else {
                ""
            }
        };
        match visible {
            Some(visible) if to > visible.len() || visible.len() == from => {
                let gap = if visible.ends_with(':') {
                    gap(visible)
                } else {
                    ""
                };
                let text = format!("{}{gap}***", printable(visible));
                let mark = text.len() - 3..text.len();
                Excerpt {
                    line: number,
                    column,
                    width: 1,
                    text,
                    mark,
                }
            }
            _ => {
                let shown = visible.unwrap_or(line);
                let width = chars(line.get(from..to)).max(1);
                let hidden = visible
                    .map(|visible| format!("{}***", gap(visible)))
                    .unwrap_or_default();
                let (text, mark) = window(shown, from, to, &hidden);
                Excerpt {
                    line: number,
                    column,
                    width,
                    text,
                    mark,
                }
            }
        }
    }

    /// A problem, at a place in the file or of the file as a whole.
    pub(crate) fn diagnostic(
        &self,
        severity: Severity,
        code: Code,
        at: Option<Span>,
        message: impl Into<String>,
    ) -> Diagnostic {
        let excerpt = at.map(|span| self.excerpt(span));
        Diagnostic {
            severity,
            code,
            file: self.name.clone(),
            excerpt,
            message: message.into(),
            help: None,
        }
    }
}

/// The part of a line around `from..to`, printable, with that range in it.
fn window(line: &str, from: usize, to: usize, suffix: &str) -> (String, std::ops::Range<usize>) {
    /// Lines of at most this many bytes are shown in full.
    const WHOLE: usize = 200;
    /// Of a longer line, this many characters before the span and after its start are shown.
    const BEFORE: usize = 60;
    const AFTER: usize = 120;

    let (before, rest) = line.split_at_checked(from).unwrap_or((line, ""));
    let (mut left, mut right) = (0, rest.len());
    if line.len() > WHOLE {
        left = before
            .char_indices()
            .rev()
            .nth(BEFORE - 1)
            .map_or(0, |(at, _)| at);
        right = rest
            .char_indices()
            .nth(AFTER)
            .map_or(rest.len(), |(at, _)| at);
    }
    let marked = rest.floor_char_boundary(to - from).min(right);
    let mut text = if left > 0 {
        "…".to_owned()
    } else {
        String::new()
    };
    text.push_str(&printable(before.get(left..).unwrap_or_default()));
    let start = text.len();
    text.push_str(&printable(rest.get(..marked).unwrap_or_default()));
    let mark = start..text.len();
    text.push_str(&printable(rest.get(marked..right).unwrap_or_default()));
    text.push_str(if right < rest.len() { "…" } else { suffix });
    (text, mark)
}

fn chars(text: Option<&str>) -> usize {
    text.unwrap_or_default().chars().count()
}

/// Collects the problems of one file: the first [`MAX_PROBLEMS`], and whether there are more.
pub(crate) struct Collector<'a> {
    source: &'a Source,
    diagnostics: Vec<Diagnostic>,
    /// How many more can be reported.
    remaining: usize,
    /// The worst severity beyond the limit.
    unreported: Option<Severity>,
    /// Whether the limit was exceeded before.
    was_flooded: bool,
    has_errors: bool,
}

#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Whether there was an error, reported or not.
    pub(crate) has_errors: bool,
}

impl<'a> Collector<'a> {
    /// `reported`: how many problems of the file were reported before.
    pub(crate) fn new(source: &'a Source, reported: usize) -> Self {
        let remaining = MAX_PROBLEMS.saturating_sub(reported);
        Self {
            source,
            diagnostics: Vec::new(),
            remaining,
            unreported: None,
            was_flooded: reported > MAX_PROBLEMS,
            has_errors: false,
        }
    }

    /// The name of the file.
    pub(crate) fn file(&self) -> &str {
        self.source.name()
    }

    pub(crate) fn error(
        &mut self,
        code: Code,
        at: Option<Span>,
        message: impl Into<String>,
    ) -> NewDiagnostic<'_> {
        self.push(Severity::Error, code, at, message)
    }

    pub(crate) fn warning(
        &mut self,
        code: Code,
        at: Option<Span>,
        message: impl Into<String>,
    ) -> NewDiagnostic<'_> {
        self.push(Severity::Warning, code, at, message)
    }

    pub(crate) fn push(
        &mut self,
        severity: Severity,
        code: Code,
        at: Option<Span>,
        message: impl Into<String>,
    ) -> NewDiagnostic<'_> {
        self.has_errors |= severity == Severity::Error;
        if self.remaining == 0 {
            self.unreported = self.unreported.min(Some(severity)).or(Some(severity));
            return NewDiagnostic(None);
        }
        self.remaining -= 1;
        self.diagnostics
            .push(self.source.diagnostic(severity, code, at, message));
        NewDiagnostic(self.diagnostics.last_mut())
    }

    /// Reports a problem of the text as YAML.
    pub(crate) fn syntax(&mut self, problem: &YamlProblem) {
        self.error(Code::Syntax, Some(problem.at), problem.message.as_ref())
            .help_with(|| problem.help.map(str::to_owned));
    }

    pub(crate) fn finish(mut self) -> Collected {
        // An excess that was reported before is reported again only if an error is part of it now.
        if let Some(severity) = self
            .unreported
            .filter(|s| !self.was_flooded || *s == Severity::Error)
        {
            let message = format!("more than {MAX_PROBLEMS} problems; the rest is not listed");
            self.diagnostics.push(
                self.source
                    .diagnostic(severity, Code::TooMany, None, message),
            );
        }
        Collected {
            diagnostics: self.diagnostics,
            has_errors: self.has_errors,
        }
    }
}

/// The diagnostic that was collected last, if it is reported.
pub(crate) struct NewDiagnostic<'a>(Option<&'a mut Diagnostic>);

impl NewDiagnostic<'_> {
    /// Adds advice.
    pub(crate) fn help(self, help: impl Into<String>) {
        self.help_with(|| Some(help.into()));
    }

    /// Adds advice that takes time to find, or that there may be none of.
    pub(crate) fn help_with(self, help: impl FnOnce() -> Option<String>) {
        if let Some(diagnostic) = self.0 {
            diagnostic.help = help();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_line_of_more_than_200_bytes_a_window_around_the_mark_is_shown() {
        let line = |before: usize, after: usize| {
            format!("{}MARK{}", "b".repeat(before), "a".repeat(after))
        };
        let shown = |line: &str, from: usize| {
            let (text, mark) = window(line, from, from + 4, " ***");
            assert_eq!(&text[mark], "MARK");
            text
        };
        let whole = line(100, 96);
        assert_eq!(shown(&whole, 100), format!("{whole} ***"));
        let longer = shown(&line(100, 97), 100);
        assert_eq!(longer, format!("…{} ***", line(60, 97)));
        // The mark is within the characters that are shown of what follows.
        let longest = shown(&line(60, 300), 60);
        assert_eq!(longest, format!("{}…", line(60, 116)));
    }
}
