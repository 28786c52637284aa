//! Decides whether a value that Calry shows may be a mask, in whole or in part (trap 7 of the API).
//!
//! A mask mistaken for a value would destroy the value: an update would carry the mask over. A value mistaken for a
//! mask only costs a refusal, with the advice to bring its section into git. So anything that may be a mask counts as
//! one.

/// How much of a text may be a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redaction {
    /// All of it: nothing of the value is shown.
    Whole,
    /// Some of it, or it is a value that looks like a mask.
    Part,
}

/// The shortest run of mask characters within a text that may be a mask.
const RUN: usize = 3;

/// Words that replace a value, in brackets or alone.
const WORDS: [&str; 18] = [
    "censored",
    "confidential",
    "encrypted",
    "filtered",
    "hidden",
    "mask",
    "masked",
    "obfuscated",
    "obscured",
    "omitted",
    "protected",
    "redacted",
    "removed",
    "sanitized",
    "scrubbed",
    "sensitive",
    "suppressed",
    "withheld",
];

/// Words that do so in brackets only: alone, they are values like any other.
const BRACKETED_WORDS: [&str; 2] = ["private", "secret"];

const BRACKETS: [(char, char); 7] = [
    ('[', ']'),
    ('<', '>'),
    ('(', ')'),
    ('{', '}'),
    ('«', '»'),
    ('⟨', '⟩'),
    ('【', '】'),
];

/// Whether a text may be a mask. The empty text is none: a value can be empty.
pub(super) fn redaction(text: &str) -> Option<Redaction> {
    if !text.is_empty() && text.chars().all(is_dot) {
        return Some(Redaction::Whole);
    }
    if is_one_letter(text) || text == "…" || (text.len() >= RUN && text.chars().all(|c| c == '.'))
    {
        return Some(Redaction::Whole);
    }
    let may_be = has_run(text) || text.contains('…') || names_a_redaction(text);
    may_be.then_some(Redaction::Part)
}

/// The characters that are used for nothing but masks.
const fn is_dot(c: char) -> bool {
    matches!(c, '*' | '•' | '●')
}

/// Whether a text is a run of `x`, or of `X`.
fn is_one_letter(text: &str) -> bool {
    text.len() >= RUN && (text.bytes().all(|b| b == b'x') || text.bytes().all(|b| b == b'X'))
}

/// Whether a text holds a run of mask characters: of any of the dots, or of one and the same letter or full stop.
fn has_run(text: &str) -> bool {
    let mut run = (' ', 0);
    text.chars().any(|c| {
        let class = if is_dot(c) { '*' } else { c };
        run = if class == run.0 {
            (class, run.1 + 1)
        } else {
            (class, 1)
        };
        matches!(class, '*' | 'x' | 'X' | '.') && run.1 >= RUN
    })
}

/// Whether a text has a word such as `REDACTED` in brackets, or is one, after an authentication scheme or alone.
fn names_a_redaction(text: &str) -> bool {
    let is_one_of = |words: &[&str], word: &str| words.contains(&word.to_lowercase().as_str());
    let last = text.rsplit(char::is_whitespace).next().unwrap_or(text);
    let bracketed = |(open, close): (char, char)| {
        text.split(open)
            .skip(1)
            .filter_map(|rest| rest.split_once(close))
            .any(|(inside, _)| {
                inside
                    .split(|c: char| !c.is_alphanumeric())
                    .any(|word| is_one_of(&WORDS, word) || is_one_of(&BRACKETED_WORDS, word))
            })
    };
    is_one_of(&WORDS, last.trim_matches(|c: char| !c.is_alphanumeric()))
        || BRACKETS.into_iter().any(bracketed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_be_a_mask_is_one() {
        for whole in [
            "*",
            "****",
            "••••",
            "●●●●",
            "*•●",
            "xxx",
            "XXXXXXXX",
            "…",
            "...",
            ".......",
        ] {
            assert_eq!(redaction(whole), Some(Redaction::Whole), "{whole}");
        }
        for part in [
            "sk-********1234",
            "xxxx1234",
            "1234XXX",
            "ab•••",
            "ab●●●cd",
            "********abcd",
            "***redacted***",
            "sk-…1234",
            "sk-...1234",
            "[REDACTED]",
            "<hidden>",
            "(masked)",
            "{Filtered}",
            "«secret»",
            "【redacted】",
            "[REDACTED by policy]",
            "Bearer [redacted]",
            "Bearer <hidden> ",
            "REDACTED",
            "__REDACTED__",
            "Bearer masked",
            "a*•●b",
        ] {
            assert_eq!(redaction(part), Some(Redaction::Part), "{part}");
        }
    }

    #[test]
    fn a_value_is_no_mask() {
        for value in [
            "",
            "abcd",
            "x",
            "xx",
            "a**b",
            "xXx",
            "xx-xx",
            "v1.2..3",
            "secret",
            "private",
            "redactedly",
            "hidden cove",
            "<client>",
            "[a](redact)",
            "Bearer 0123456789abcdef",
        ] {
            assert_eq!(redaction(value), None, "{value}");
        }
    }
}
