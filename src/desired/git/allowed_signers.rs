//! The file of allowed signers, in git's own format (`gpg.ssh.allowedSignersFile`; see ALLOWED SIGNERS in ssh-keygen(1)).
//!
//! A line that is not understood makes the whole file invalid: if a restriction were skipped, a key could do more than its
//! owner meant. Certificates are not supported, so `cert-authority` is an error.
//!
//! Never: decide by a principal. Git does not either: it uses the principal that the key is listed for.

use std::path::{Path, PathBuf};

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use ssh_key::PublicKey;
use ssh_key::public::KeyData;

use crate::desired::definitions::directory::{self, FileError};

/// The largest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The namespace of git's signatures.
pub(super) const NAMESPACE: &str = "git";

#[derive(Debug, thiserror::Error)]
pub enum SignersError {
    #[error("the allowed signers {} cannot be read: the file {why}", .file.display())]
    Unreadable {
        file: PathBuf,
        /// Completes "the file …".
        why: String,
    },
    #[error("line {line} of the allowed signers {} is invalid: {why}", .file.display())]
    Invalid {
        file: PathBuf,
        /// From 1.
        line: usize,
        why: &'static str,
    },
    #[error("the allowed signers {} contain no key", .0.display())]
    Empty(PathBuf),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct AllowedSigners(Vec<Signer>);

#[derive(Debug, PartialEq, Eq)]
struct Signer {
    key: KeyData,
    /// Patterns; `None` for every namespace.
    namespaces: Option<String>,
    /// In seconds since 1970.
    after: Option<i64>,
    before: Option<i64>,
}

/// Whether a signature by a key counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyStatus {
    Allowed,
    Unknown,
    OtherNamespace,
    /// The key was not valid at the time of the commit.
    NotValid,
}

impl AllowedSigners {
    /// Reads the file. Follows links: a mounted ConfigMap consists of them.
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

    /// An error has its line, from 1.
    pub(super) fn parse(text: &[u8]) -> Result<Self, (usize, &'static str)> {
        let mut signers = Vec::new();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let wrong = |why| (number + 1, why);
            let line = std::str::from_utf8(line)
                .map_err(|_| wrong("it is not UTF-8"))?
                .trim();
            if !line.is_empty() && !line.starts_with('#') {
                signers.push(parse_signer(line).map_err(wrong)?);
            }
        }
        Ok(Self(signers))
    }

    /// Whether a signature by a key counts for a commit of this time, in seconds since 1970.
    pub(super) fn status(&self, key: &KeyData, time: i64) -> KeyStatus {
        let mut status = KeyStatus::Unknown;
        for signer in self.0.iter().filter(|signer| signer.key == *key) {
            if !signer
                .namespaces
                .as_deref()
                .is_none_or(|list| list.split(',').any(|one| matches_pattern(one, NAMESPACE)))
            {
                status = KeyStatus::OtherNamespace;
            } else if signer.after.is_some_and(|after| time < after)
                || signer.before.is_some_and(|end| time > end)
            {
                status = KeyStatus::NotValid;
            } else {
                return KeyStatus::Allowed;
            }
        }
        status
    }
}

/// A line consists of principals, options if there are any, and a key.
fn parse_signer(line: &str) -> Result<Signer, &'static str> {
    let (principals, rest) = split_word(line)?;
    if principals.trim_matches('"').is_empty() {
        return Err("a principal is missing");
    }
    let (next, after) = split_word(rest)?;
    let key = |text: &str| PublicKey::from_openssh(text).map(|key| key.key_data().clone());
    // As in ssh-keygen: text that is not a key must be options.
    let (options, key) = match key(rest) {
        Ok(key) => ("", key),
        Err(_) => (
            next,
            key(after).map_err(|_| "the key cannot be read, or an option is unknown")?,
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
            "this kind of key is not supported; use ed25519, ecdsa (nistp256, nistp384) or rsa",
        );
    }
    let mut signer = Signer {
        key,
        namespaces: None,
        after: None,
        before: None,
    };
    for option in split_options(options) {
        let (name, value) = option
            .split_once('=')
            .map_or((option, None), |(name, value)| (name, Some(value)));
        let value = || {
            let value = value.and_then(|value| value.strip_prefix('"')?.strip_suffix('"'));
            value
                .filter(|value| !value.is_empty())
                .ok_or("the value of an option must be in double quotes")
        };
        let new = match name.to_ascii_lowercase().as_str() {
            "namespaces" => signer.namespaces.replace(value()?.to_owned()).is_none(),
            "valid-after" => signer.after.replace(parse_time(value()?)?).is_none(),
            "valid-before" => signer.before.replace(parse_time(value()?)?).is_none(),
            "cert-authority" => {
                return Err("cert-authority is not supported; list the keys themselves");
            }
            _ => return Err("an option is unknown"),
        };
        if !new {
            return Err("an option is given twice");
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

/// Splits off the first word, which may contain quoted spaces.
fn split_word(line: &str) -> Result<(&str, &str), &'static str> {
    let mut quoted = false;
    let end = line.find(|c: char| {
        quoted ^= c == '"';
        !quoted && matches!(c, ' ' | '\t')
    });
    let end = match end {
        Some(end) => end,
        None if quoted => return Err("a quotation mark is missing"),
        None => return Err("the line needs a principal and a key"),
    };
    let (word, rest) = line.split_at(end);
    Ok((word, rest.trim_start()))
}

fn split_options(options: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let parts = options.split(move |c: char| {
        quoted ^= c == '"';
        !quoted && c == ','
    });
    parts.filter(move |_| !options.is_empty())
}

/// Parses `YYYYMMDD`, `YYYYMMDDHHMM` or `YYYYMMDDHHMMSS`, with or without a `Z`, to seconds since 1970. The time is always
/// UTC, so that the result does not depend on the machine.
fn parse_time(text: &str) -> Result<i64, &'static str> {
    let wrong = "a time is written as 20260131, 202601311200 or 20260131120000, in UTC";
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

/// Whether a text matches a pattern with `*` and `?`.
fn matches_pattern(pattern: &str, text: &str) -> bool {
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

    const P521: &str = "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAAV6Uk957Xmq28tjqVyD68\
                        L7YPBA/woK46tVTibNWYdjS+ebPd6hRZr3H0SCvvA/giVS26jbwRf0OMksq2hNK1VEQFUcqXwXM27XV5As6PSeEVq4J5m/\
                        dZ1i70t3gsBbieow9DGhhBMX6R5Y2qmSVbyCkZfv7CjE5hV2iwlPHy/hk7u0Q==";

    fn key(text: &str) -> KeyData {
        PublicKey::from_openssh(text).unwrap().key_data().clone()
    }

    fn why(text: &str) -> &'static str {
        AllowedSigners::parse(text.as_bytes()).unwrap_err().1
    }

    #[test]
    fn a_key_counts_as_its_line_says_and_no_other_key_does() {
        let text = format!(
            "# allowed\r\n\nada@x,\"bob of y\" {ONE} Ada's laptop\r\n*@z namespaces=\"file, g?t\",valid-after=\"20260101\",\
             VALID-BEFORE=\"202601311200Z\"\t{OTHER}\n"
        );
        let signers = AllowedSigners::parse(text.as_bytes()).unwrap();
        assert_eq!(signers.status(&key(ONE), 0), KeyStatus::Allowed);
        let times = [1_767_225_599, 1_767_225_600, 1_769_860_800, 1_769_860_801];
        let statuses = times.map(|time| signers.status(&key(OTHER), time) == KeyStatus::Allowed);
        assert_eq!(statuses, [false, true, true, false]);
        let only_files =
            AllowedSigners::parse(format!("a namespaces=\"file,gi\" {ONE}").as_bytes()).unwrap();
        assert_eq!(only_files.status(&key(ONE), 0), KeyStatus::OtherNamespace);
        assert_eq!(only_files.status(&key(OTHER), 0), KeyStatus::Unknown);
    }

    #[test]
    fn a_key_on_two_lines_counts_if_either_line_allows_it() {
        let text =
            format!("a valid-before=\"20200101\" {ONE}\na {ONE}\na namespaces=\"file\" {ONE}\n");
        assert_eq!(
            AllowedSigners::parse(text.as_bytes())
                .unwrap()
                .status(&key(ONE), i64::MAX),
            KeyStatus::Allowed
        );
    }

    #[test]
    fn a_line_that_is_not_understood_makes_the_file_invalid() {
        let text = format!("a {ONE}\n\na cert-authority {OTHER}\n");
        assert_eq!(
            AllowedSigners::parse(text.as_bytes()).unwrap_err(),
            (
                3,
                "cert-authority is not supported; list the keys themselves"
            )
        );
        for (options, message) in [
            ("no-touch", "an option is unknown"),
            ("namespaces=git", "in double quotes"),
            ("namespaces=\"\"", "in double quotes"),
            ("namespaces=\"git\",namespaces=\"file\"", "twice"),
            ("valid-after=\"2026\"", "a time is written as"),
            ("valid-after=\"20261301\"", "a time is written as"),
            ("valid-after=\"+2026101\"", "a time is written as"),
            ("valid-after=\"+2020101\"", "a time is written as"),
            ("valid-after=\"202601011\"", "a time is written as"),
            (
                "valid-after=\"20260102\",valid-before=\"20260101\"",
                "not later",
            ),
            ("valid-after=\"20260102", "a quotation mark is missing"),
        ] {
            assert!(
                why(&format!("a {options} {ONE}")).contains(message),
                "{options}"
            );
        }
        assert_eq!(why("a"), "the line needs a principal and a key");
        assert!(why(&format!("a {P521}")).starts_with("this kind of key is not supported"));
        for text in [
            "a ssh-ed25519",
            "a ssh-ed25519 AAAA",
            &format!("{ONE} Ada"),
            &format!("\"\" {ONE}"),
        ] {
            why(text);
        }
        assert_eq!(
            AllowedSigners::parse(b"# no signer\n\n").unwrap(),
            AllowedSigners(Vec::new())
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = AllowedSigners::parse(&text);
        }

        #[test]
        fn no_options_allow_a_key_more_than_the_line_without_them(
            options in "[a-z=\",*?0-9Z -]{0,60}", time in any::<i64>()
        ) {
            if let Ok(signers) = AllowedSigners::parse(format!("a {options} {ONE}").as_bytes()) {
                prop_assert_eq!(signers.status(&key(OTHER), time), KeyStatus::Unknown);
                let lowercase = options.to_ascii_lowercase();
                if lowercase.contains("valid-after") {
                    prop_assert!(signers.status(&key(ONE), i64::MIN) != KeyStatus::Allowed);
                }
            }
        }

        #[test]
        fn a_pattern_matches_what_it_describes(text in "[a-c]{0,6}", from in 0..4_usize, rest in "[d-f]{1,3}") {
            let (before, after) = text.split_at(from.min(text.len()));
            let all = [format!("{before}*"), format!("*{after}"), format!("{before}*{after}"), "?".repeat(text.len())];
            prop_assert_eq!(all.each_ref().map(|pattern| matches_pattern(pattern, &text)), [true; 4], "{:?}", all);
            let none = ["?".repeat(text.len() + 1), format!("*{rest}"), format!("{text}?"), format!("{rest}*")];
            prop_assert_eq!(none.each_ref().map(|pattern| matches_pattern(pattern, &text)), [false; 4], "{:?}", none);
        }
    }
}
