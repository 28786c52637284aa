//! Problems in definition files, as data: where, what, and what would be right. How they look is for `render` to say.

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

/// The kind of a problem, stable across versions: what scripts match and what a flood is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The file cannot be read: missing, not a regular file, too large, outside the directory, not UTF-8.
    Unreadable,
    /// The file is not YAML, or uses what this format leaves out: aliases, tags, several documents.
    Syntax,
    /// A key that the format does not have.
    UnknownKey,
    /// A key, or a field, that is there twice.
    DuplicateKey,
    /// A key that must be there and is not.
    MissingKey,
    /// A value of the wrong type.
    WrongType,
    /// A value of the right type that is not allowed.
    InvalidValue,
    /// The file's name does not fit its provider.
    FileName,
    /// Two files for one provider.
    DuplicateProvider,
    /// A secret that is referred to and not at hand.
    MissingSecret,
    /// A provider that the catalogue does not have, or the workspace.
    UnknownProvider,
    /// A group or field that the catalogue does not have.
    UnknownField,
    /// A value that looks like a credential and is written out.
    PlainCredential,
    /// A group, or a partner key, without anything in it.
    Empty,
    /// A group that leaves no doubt that every field is off: `[]`, or each known field as `false`. `pull` writes it if that
    /// is so in Calry: `--strict` does not make it an error.
    AllOff,
    /// A hold without a reason.
    Hold,
    /// A hold whose last day has passed. It comes by time and not by a commit: `--strict` does not make it an error, for
    /// that would keep the provider out just when it is to be resumed.
    HoldOver,
    /// More problems than are worth telling.
    TooMany,
}

impl Code {
    /// Every kind, in the order of the declaration.
    pub const ALL: [Self; 18] = [
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Its kind.
    pub code: Code,
    /// The file's name within the definitions directory.
    pub file: String,
    /// Where in the file, and the line itself; `None` where the problem is the file as a whole.
    pub excerpt: Option<Excerpt>,
    /// What is wrong, as a sentence. Holds no value that stands below `partnerKey`.
    pub message: String,
    /// What would be right.
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
        // It stands at the first file that has one, and is as grave as the gravest.
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

/// A place in a file with the line's text, already masked and printable: it holds nothing that may not be shown, or that
/// would act on a terminal.
///
/// The text need not be the line character by character: what is secret is `***` whatever its length, what would act is
/// escaped, and of a long line only the surroundings of the place are there. So `mark` says where to point within `text`,
/// and `line`, `column` and `width` where an editor would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The line, from 1.
    pub line: usize,
    /// The column of the first character that is meant, from 1, in characters of the file.
    pub column: usize,
    /// How many characters of the file are meant, at least 1; 1 where the place is masked, so that no length shows.
    pub width: usize,
    /// The line's text, or its part around the place, without its line break.
    pub text: String,
    /// The bytes of `text` that are meant; on character boundaries, empty at the end of a line.
    pub mark: Range<usize>,
}
