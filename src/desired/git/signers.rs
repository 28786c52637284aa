//! The file that says whose signature counts, in git's own format (`gpg.ssh.allowedSignersFile`; see ALLOWED SIGNERS in
//! ssh-keygen(1)).
//!
//! What is not understood makes the whole file invalid: a restriction that is read past would be a key that may more than
//! its owner meant. Certificates are not supported, so `cert-authority` is refused. It never decides by a principal: git
//! does not either, as it takes the one that the key is listed for.

use std::path::{Path, PathBuf};

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use ssh_key::PublicKey;
use ssh_key::public::KeyData;

use crate::desired::definitions::directory::{self, FileError};

/// The largest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What git signs in.
pub(super) const NAMESPACE: &str = "git";

/// The file cannot be used, so nobody's signature counts.
#[derive(Debug, thiserror::Error)]
pub enum SignersError {
    #[error("the allowed signers {} cannot be read: the file {why}", .file.display())]
    Unreadable {
        /// As it was named.
        file: PathBuf,
        /// Why; it completes "the file …".
        why: String,
    },
    #[error("the allowed signers {} are invalid in line {line}: {why}", .file.display())]
    Invalid {
        /// As it was named.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong, as a sentence.
        why: &'static str,
    },
    #[error("the allowed signers {} hold no key", .0.display())]
    Empty(PathBuf),
}

/// Whose signature counts, and when.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signers(Vec<Signer>);

#[derive(Debug, PartialEq, Eq)]
struct Signer {
    key: KeyData,
    /// Patterns of namespaces, `None` for every one.
    namespaces: Option<String>,
    /// From this second on.
    after: Option<i64>,
    /// Until this second.
    before: Option<i64>,
}

/// How a key stands to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Allowed,
    /// It is not there.
    Unknown,
    /// It is there for other things than commits.
    OtherNamespace,
    /// It was not valid at the time, in seconds since 1970.
    NotAt(i64),
}

impl Signers {
    /// Reads the file, following links: a mounted ConfigMap consists of them.
    pub(super) fn read(path: &Path) -> Result<Self, SignersError> {
        let file = path.to_owned();
        let unreadable = |error: FileError| SignersError::Unreadable {
            file: file.clone(),
            why: error.to_string(),
        };
        let real = std::fs::canonicalize(path)
            .map_err(|error| unreadable(FileError::Unreadable(error)))?;
        let text = directory::read_regular_file(&real, MAX_FILE).map_err(unreadable)?;
        let signers = Self::parse(&text).map_err(|(line, why)| SignersError::Invalid {
            file: file.clone(),
            line,
            why,
        })?;
        if signers.0.is_empty() {
            Err(SignersError::Empty(file))
        } else {
            Ok(signers)
        }
    }

    /// Reads the text; what is wrong is told with its line, from 1.
    pub(super) fn parse(text: &[u8]) -> Result<Self, (usize, &'static str)> {
        let mut signers = Vec::new();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let wrong = |why| (number + 1, why);
            let line = std::str::from_utf8(line)
                .map_err(|_| wrong("it is not UTF-8"))?
                .trim();
            if !line.is_empty() && !line.starts_with('#') {
                signers.push(signer(line).map_err(wrong)?);
            }
        }
        Ok(Self(signers))
    }

    /// Whether a key's signature under a commit of this time counts.
    pub(super) fn judge(&self, key: &KeyData, time: i64) -> Standing {
        let mut standing = Standing::Unknown;
        for signer in self.0.iter().filter(|signer| signer.key == *key) {
            if !signer
                .namespaces
                .as_deref()
                .is_none_or(|list| list.split(',').any(|one| matches(one, NAMESPACE)))
            {
                standing = Standing::OtherNamespace;
            } else if signer.after.is_some_and(|after| time < after)
                || signer.before.is_some_and(|end| time > end)
            {
                standing = Standing::NotAt(time);
            } else {
                return Standing::Allowed;
            }
        }
        standing
    }
}

/// Reads a line: principals, options where there are any, and a key.
fn signer(line: &str) -> Result<Signer, &'static str> {
    let (principals, rest) = word(line)?;
    if principals.trim_matches('"').is_empty() {
        return Err("it names no principal");
    }
    let (next, after) = word(rest)?;
    let key = |text: &str| PublicKey::from_openssh(text).map(|key| key.key_data().clone());
    // As in ssh-keygen: what is no key must be options.
    let (options, key) = match key(rest) {
        Ok(key) => ("", key),
        Err(_) => (
            next,
            key(after).map_err(|_| "it holds no key that can be read, or an unknown option")?,
        ),
    };
    if !matches!(
        key,
        KeyData::Ed25519(_)
            | KeyData::Ecdsa(_)
            | KeyData::Rsa(_)
            | KeyData::SkEd25519(_)
            | KeyData::SkEcdsaSha2NistP256(_)
    ) || matches!(&key, KeyData::Ecdsa(key) if key.curve() == ssh_key::EcdsaCurve::NistP521)
    {
        return Err(
            "a key of this kind is not supported: use ed25519, ecdsa (nistp256, nistp384) or rsa",
        );
    }
    let mut signer = Signer {
        key,
        namespaces: None,
        after: None,
        before: None,
    };
    for option in split(options) {
        let (name, value) = option
            .split_once('=')
            .map_or((option, None), |(name, value)| (name, Some(value)));
        let value = || {
            let value = value.and_then(|value| value.strip_prefix('"')?.strip_suffix('"'));
            value
                .filter(|value| !value.is_empty())
                .ok_or("the value of an option stands in double quotes")
        };
        let new = match name.to_ascii_lowercase().as_str() {
            "namespaces" => signer.namespaces.replace(value()?.to_owned()).is_none(),
            "valid-after" => signer.after.replace(second(value()?)?).is_none(),
            "valid-before" => signer.before.replace(second(value()?)?).is_none(),
            "cert-authority" => {
                return Err("cert-authority is not supported: list the keys themselves");
            }
            _ => return Err("it has an unknown option"),
        };
        if !new {
            return Err("an option stands there twice");
        }
    }
    if signer
        .after
        .zip(signer.before)
        .is_some_and(|(after, before)| after >= before)
    {
        return Err("valid-before is not later than valid-after");
    }
    Ok(signer)
}

/// The first word, where quoted spaces are part of it, and what comes after the spaces behind it.
fn word(line: &str) -> Result<(&str, &str), &'static str> {
    let mut quoted = false;
    let end = line.find(|c: char| {
        quoted ^= c == '"';
        !quoted && matches!(c, ' ' | '\t')
    });
    let end = match end {
        Some(end) => end,
        None if quoted => return Err("a quotation mark is missing"),
        None => return Err("it ends too early: a principal and a key are needed"),
    };
    let (word, rest) = line.split_at(end);
    Ok((word, rest.trim_start()))
}

/// Options, at the commas between them.
fn split(options: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let parts = options.split(move |c: char| {
        quoted ^= c == '"';
        !quoted && c == ','
    });
    parts.filter(move |_| !options.is_empty())
}

/// `YYYYMMDD`, `YYYYMMDDHHMM` or `YYYYMMDDHHMMSS`, each with a `Z` or without it, in seconds since 1970. It is UTC in either
/// case: what is valid must not depend on where this runs.
fn second(text: &str) -> Result<i64, &'static str> {
    let wrong = "a time is written as 20260131, 202601311200 or 20260131120000, and is UTC";
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || !matches!(digits.len(), 8 | 12 | 14) {
        return Err(wrong);
    }
    let part = |from, to| {
        digits
            .get(from..to)
            .map_or(Ok(0), |part: &str| part.parse::<i16>().map_err(|_| wrong))
    };
    let small = |from, to| part(from, to).and_then(|part| i8::try_from(part).map_err(|_| wrong));
    let date = Date::new(part(0, 4)?, small(4, 6)?, small(6, 8)?).map_err(|_| wrong)?;
    let time = Time::new(small(8, 10)?, small(10, 12)?, small(12, 14)?, 0).map_err(|_| wrong)?;
    DateTime::from_parts(date, time)
        .to_zoned(TimeZone::UTC)
        .map(|at| at.timestamp().as_second())
        .map_err(|_| wrong)
}

/// Whether a text is as a pattern says, of `*` and `?`.
fn matches(pattern: &str, text: &str) -> bool {
    let mut reached = vec![false; text.len() + 1];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    for c in pattern.trim().bytes() {
        let before = reached.clone();
        let mut any = false;
        for (at, now) in reached.iter_mut().enumerate() {
            any |= before.get(at) == Some(&true);
            let one = at.checked_sub(1).is_some_and(|at| {
                before.get(at) == Some(&true) && (c == b'?' || text.as_bytes().get(at) == Some(&c))
            });
            *now = if c == b'*' { any } else { one };
        }
    }
    reached.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB1eTVyhvIfrUvWvJP4vJtcHRyLLVwE8BmBJYOTaVDDd";
    const OTHER: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn key(text: &str) -> KeyData {
        PublicKey::from_openssh(text).unwrap().key_data().clone()
    }

    fn why(text: &str) -> &'static str {
        Signers::parse(text.as_bytes()).unwrap_err().1
    }

    #[test]
    fn a_key_counts_where_its_line_says_so_and_no_other_does() {
        let text = format!(
            "# who may\r\n\nada@x,\"bob of y\" {ONE} Ada's laptop\r\n*@z namespaces=\"file, g?t\",valid-after=\"20260101\",\
             VALID-BEFORE=\"202601311200Z\"\t{OTHER}\n"
        );
        let signers = Signers::parse(text.as_bytes()).unwrap();
        assert_eq!(signers.judge(&key(ONE), 0), Standing::Allowed);
        let times = [1_767_225_599, 1_767_225_600, 1_769_860_800, 1_769_860_801];
        let standings = times.map(|time| signers.judge(&key(OTHER), time) == Standing::Allowed);
        assert_eq!(standings, [false, true, true, false]);
        let only_files =
            Signers::parse(format!("a namespaces=\"file,gi\" {ONE}").as_bytes()).unwrap();
        assert_eq!(only_files.judge(&key(ONE), 0), Standing::OtherNamespace);
        assert_eq!(only_files.judge(&key(OTHER), 0), Standing::Unknown);
    }

    #[test]
    fn a_key_on_two_lines_counts_where_either_lets_it() {
        let text =
            format!("a valid-before=\"20200101\" {ONE}\na {ONE}\na namespaces=\"file\" {ONE}\n");
        assert_eq!(
            Signers::parse(text.as_bytes())
                .unwrap()
                .judge(&key(ONE), i64::MAX),
            Standing::Allowed
        );
    }

    #[test]
    fn what_is_not_understood_makes_the_file_invalid_at_its_line() {
        let text = format!("a {ONE}\n\na cert-authority {OTHER}\n");
        assert_eq!(
            Signers::parse(text.as_bytes()).unwrap_err(),
            (
                3,
                "cert-authority is not supported: list the keys themselves"
            )
        );
        for (options, said) in [
            ("no-touch", "it has an unknown option"),
            ("namespaces=git", "in double quotes"),
            ("namespaces=\"\"", "in double quotes"),
            ("namespaces=\"git\",namespaces=\"file\"", "twice"),
            ("valid-after=\"2026\"", "a time is written as"),
            ("valid-after=\"20261301\"", "a time is written as"),
            ("valid-after=\"+2026101\"", "a time is written as"),
            (
                "valid-after=\"20260102\",valid-before=\"20260101\"",
                "not later",
            ),
            ("valid-after=\"20260102", "a quotation mark is missing"),
        ] {
            assert!(
                why(&format!("a {options} {ONE}")).contains(said),
                "{options}"
            );
        }
        for text in [
            "a",
            "a ssh-ed25519",
            "a ssh-ed25519 AAAA",
            &format!("{ONE} Ada"),
            &format!("\"\" {ONE}"),
        ] {
            why(text);
        }
        assert_eq!(
            Signers::parse(b"# nobody\n\n").unwrap(),
            Signers(Vec::new())
        );
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange_to_be_judged(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Signers::parse(&text);
        }

        #[test]
        fn no_options_let_a_key_do_more_than_the_line_without_them(
            options in "[a-z=\",*?0-9Z -]{0,60}", time in any::<i64>()
        ) {
            if let Ok(signers) = Signers::parse(format!("a {options} {ONE}").as_bytes()) {
                prop_assert_eq!(signers.judge(&key(OTHER), time), Standing::Unknown);
                let named = options.to_ascii_lowercase();
                if named.contains("valid-after") {
                    prop_assert!(signers.judge(&key(ONE), i64::MIN) != Standing::Allowed);
                }
            }
        }

        #[test]
        fn a_pattern_is_matched_as_a_person_reads_it(text in "[a-c]{0,6}", from in 0..4_usize, rest in "[d-f]{1,3}") {
            let (before, after) = text.split_at(from.min(text.len()));
            let all = [format!("{before}*"), format!("*{after}"), format!("{before}*{after}"), "?".repeat(text.len())];
            prop_assert_eq!(all.each_ref().map(|pattern| matches(pattern, &text)), [true; 4], "{:?}", all);
            let none = ["?".repeat(text.len() + 1), format!("*{rest}"), format!("{text}?"), format!("{rest}*")];
            prop_assert_eq!(none.each_ref().map(|pattern| matches(pattern, &text)), [false; 4], "{:?}", none);
        }
    }
}
