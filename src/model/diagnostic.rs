//! Problems in definition files as data; `render` prints them.

use std::borrow::Cow;
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether a file with a problem is used.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// It is not used.
    Error,
    /// It is used, unless `--strict` makes this an error.
    Warning,
}

/// The kind of a problem, stable across versions, so that scripts can match it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The file cannot be read: missing, not a regular file, too large, outside the directory, not UTF-8.
    Unreadable,
    /// The file is not YAML, or uses what this format does not support: aliases, tags, several documents.
    Syntax,
    /// A key that the format does not have.
    UnknownKey,
    /// A duplicate key or field.
    DuplicateKey,
    /// A required key that is missing.
    MissingKey,
    /// A value of the wrong type.
    WrongType,
    /// A value of the right type that is not allowed.
    InvalidValue,
    /// The file's name does not match its provider.
    FileName,
    /// Two files for one provider.
    DuplicateProvider,
    /// A reference to a secret that is not found.
    MissingSecret,
    /// A provider that is not in the catalogue, or not in the workspace.
    UnknownProvider,
    /// A group or field that is not in the catalogue.
    UnknownField,
    /// A value that looks like a credential in plain text.
    PlainCredential,
    /// An empty group or partner key.
    Empty,
    /// A group that explicitly switches every field off: `[]`, or each known field as `false`. `pull` writes this form,
    /// so `--strict` does not make it an error.
    AllOff,
    /// A hold without a reason.
    Hold,
    /// A hold whose last day has passed. Time causes it, not a commit, so `--strict` does not make it an error: that
    /// would exclude the provider just when its changes should resume.
    HoldOver,
    /// A provider of the workspace without a file, although `requireFiles` asks for one.
    NoFile,
    /// An encrypted secret that is not encrypted to exactly the recipients of `workspace.yaml`.
    Recipients,
    /// More problems than are listed.
    TooMany,
}

impl Code {
    pub const ALL: [Self; 20] = [
        Self::Unreadable,
        Self::Syntax,
        Self::UnknownKey,
        Self::DuplicateKey,
        Self::MissingKey,
        Self::WrongType,
        Self::InvalidValue,
        Self::FileName,
        Self::DuplicateProvider,
        Self::MissingSecret,
        Self::UnknownProvider,
        Self::UnknownField,
        Self::PlainCredential,
        Self::Empty,
        Self::AllOff,
        Self::Hold,
        Self::HoldOver,
        Self::NoFile,
        Self::Recipients,
        Self::TooMany,
    ];

    /// The name in output, in kebab case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Syntax => "syntax",
            Self::UnknownKey => "unknown-key",
            Self::DuplicateKey => "duplicate-key",
            Self::MissingKey => "missing-key",
            Self::WrongType => "wrong-type",
            Self::InvalidValue => "invalid-value",
            Self::FileName => "file-name",
            Self::DuplicateProvider => "duplicate-provider",
            Self::MissingSecret => "missing-secret",
            Self::UnknownProvider => "unknown-provider",
            Self::UnknownField => "unknown-field",
            Self::PlainCredential => "plain-credential",
            Self::Empty => "empty",
            Self::AllOff => "all-off",
            Self::Hold => "hold",
            Self::HoldOver => "hold-over",
            Self::NoFile => "no-file",
            Self::Recipients => "recipients",
            Self::TooMany => "too-many",
        }
    }

    /// Whether `--strict` makes a warning of this kind an error.
    #[must_use]
    pub const fn is_strict(self) -> bool {
        !matches!(self, Self::HoldOver | Self::AllOff)
    }
}

/// One problem of one file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    pub severity: Severity,
    pub code: Code,
    /// The file's name within the definitions directory.
    pub file: String,
    /// The line; `None` if the problem concerns the file as a whole.
    pub excerpt: Option<Excerpt>,
    /// The problem, as a sentence. It contains no value below `partnerKey`.
    pub message: String,
    /// Advice.
    pub help: Option<String>,
}

/// The most problems that any output, log or status lists.
pub const MAX_LISTED: usize = 1_000;

/// The first problems of a list, errors before warnings, in the order of the list. If there are more than [`MAX_LISTED`],
/// one more problem counts the rest.
#[must_use]
pub fn first_problems<'a>(
    all: impl Iterator<Item = &'a Diagnostic> + Clone,
) -> Vec<Cow<'a, Diagnostic>> {
    let of = |severity| all.clone().filter(move |d| d.severity == severity).count();
    let mut errors = of(Severity::Error).min(MAX_LISTED);
    let mut warnings = of(Severity::Warning).min(MAX_LISTED - errors);
    let mut omitted: Option<Diagnostic> = None;
    let mut count = 0_usize;
    let mut listed = Vec::with_capacity(errors + warnings + 1);
    for diagnostic in all {
        let left = match diagnostic.severity {
            Severity::Error => &mut errors,
            Severity::Warning => &mut warnings,
        };
        if *left > 0 {
            *left -= 1;
            listed.push(Cow::Borrowed(diagnostic));
            continue;
        }
        count += 1;
        // It is reported for the first file that has one, with the worst severity of all.
        let rest = omitted.get_or_insert_with(|| Diagnostic {
            severity: diagnostic.severity,
            code: Code::TooMany,
            file: diagnostic.file.clone(),
            excerpt: None,
            message: String::new(),
            help: None,
        });
        rest.severity = rest.severity.min(diagnostic.severity);
    }
    if let Some(mut rest) = omitted {
        let noun = if count == 1 {
            "problem is"
        } else {
            "problems are"
        };
        rest.message = format!("{count} more {noun} not listed, in this file and those after it");
        rest.help = Some("fix the problems that are listed, then run the command again".to_owned());
        listed.push(Cow::Owned(rest));
    }
    listed
}

/// A span in a file with the text of its line, which is masked and printable.
///
/// The text is not always the line character by character: a secret is `***` whatever its length, control characters
/// are escaped, and a long line is cut around the span. So `mark` is the span within `text`, and `line`, `column` and
/// `width` are the span within the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Excerpt {
    /// The line, from 1.
    pub line: usize,
    /// The column of the first character of the span, from 1, in characters of the file.
    pub column: usize,
    /// The length of the span in characters of the file, at least 1; always 1 if it is masked, so that no length shows.
    pub width: usize,
    /// The text of the line, or its part around the span, without the line break.
    pub text: String,
    /// The span in bytes of `text`, on character boundaries; empty at the end of a line.
    pub mark: Range<usize>,
}
