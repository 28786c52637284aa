//! Checks the text of secrets. Editors, shells and env files add invisible characters, which a value that is always
//! masked cannot show.

use super::needs_escape;

/// The byte-order mark, which some editors write at the start of a file.
const BOM: char = '\u{feff}';

/// Why a text cannot be sent as a value below `partnerKey`. The messages complete "the value …", and never repeat the
/// text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// A line feed, or another character that ends a line.
    #[error("contains a line break ({})", character_name(*.0))]
    LineBreak(char),
    #[error("contains a control character ({})", character_name(*.0))]
    Control(char),
    #[error("begins with a space ({})", character_name(' '))]
    Leading,
    #[error("ends with a space ({})", character_name(' '))]
    Trailing,
    #[error("contains only white space")]
    Blank,
}

/// Checks a value below `partnerKey`. Returns an invisible character of the value, if it has one.
pub fn check_value(text: &str) -> Result<Option<char>, InvalidValue> {
    let ends_line = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let is_invisible = |c: char| needs_escape(c) || c.is_whitespace();
    if let Some(c) = text.chars().find(|c| ends_line(*c)) {
        Err(InvalidValue::LineBreak(c))
    } else if let Some(c) = text.chars().find(|c| c.is_control()) {
        Err(InvalidValue::Control(c))
    } else if !text.is_empty() && text.chars().all(is_invisible) {
        Err(InvalidValue::Blank)
    } else if text.starts_with(' ') {
        Err(InvalidValue::Leading)
    } else if text.ends_with(' ') {
        Err(InvalidValue::Trailing)
    } else {
        Ok(text.chars().find(|c| *c != ' ' && is_invisible(*c)))
    }
}

/// A value without a byte-order mark before it and one line break after it.
#[must_use]
pub fn trim_value(text: &str) -> &str {
    let text = text.strip_prefix(BOM).unwrap_or(text);
    text.strip_suffix('\n')
        .map_or(text, |text| text.strip_suffix('\r').unwrap_or(text))
}

/// A key or a token without a byte-order mark before it and white space around it.
#[must_use]
pub fn trim_token(text: &str) -> &str {
    text.strip_prefix(BOM).unwrap_or(text).trim()
}

/// Whether a text is in quotes, which `docker --env-file` and others keep.
#[must_use]
pub fn is_quoted(text: &str) -> bool {
    text.len() > 1
        && ['"', '\'']
            .iter()
            .any(|quote| text.starts_with(*quote) && text.ends_with(*quote))
}

/// The name of an invisible character: `U+200B ZERO WIDTH SPACE`.
#[must_use]
pub fn character_name(c: char) -> String {
    let name = match c {
        '\0' => " NULL",
        '\t' => " CHARACTER TABULATION",
        '\n' => " LINE FEED",
        '\u{b}' => " LINE TABULATION",
        '\u{c}' => " FORM FEED",
        '\r' => " CARRIAGE RETURN",
        '\u{1b}' => " ESCAPE",
        ' ' => " SPACE",
        '\u{7f}' => " DELETE",
        '\u{85}' => " NEXT LINE",
        '\u{a0}' => " NO-BREAK SPACE",
        '\u{ad}' => " SOFT HYPHEN",
        '\u{61c}' => " ARABIC LETTER MARK",
        '\u{200b}' => " ZERO WIDTH SPACE",
        '\u{200c}' => " ZERO WIDTH NON-JOINER",
        '\u{200d}' => " ZERO WIDTH JOINER",
        '\u{200e}' => " LEFT-TO-RIGHT MARK",
        '\u{200f}' => " RIGHT-TO-LEFT MARK",
        '\u{2028}' => " LINE SEPARATOR",
        '\u{2029}' => " PARAGRAPH SEPARATOR",
        '\u{202a}' => " LEFT-TO-RIGHT EMBEDDING",
        '\u{202b}' => " RIGHT-TO-LEFT EMBEDDING",
        '\u{202c}' => " POP DIRECTIONAL FORMATTING",
        '\u{202d}' => " LEFT-TO-RIGHT OVERRIDE",
        '\u{202e}' => " RIGHT-TO-LEFT OVERRIDE",
        '\u{202f}' => " NARROW NO-BREAK SPACE",
        '\u{2060}' => " WORD JOINER",
        '\u{2066}' => " LEFT-TO-RIGHT ISOLATE",
        '\u{2067}' => " RIGHT-TO-LEFT ISOLATE",
        '\u{2068}' => " FIRST STRONG ISOLATE",
        '\u{2069}' => " POP DIRECTIONAL ISOLATE",
        '\u{3000}' => " IDEOGRAPHIC SPACE",
        BOM => " ZERO WIDTH NO-BREAK SPACE",
        _ => "",
    };
    format!("U+{:04X}{name}", u32::from(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invisible_character_is_an_error_or_is_named() {
        for (text, error) in [
            ("abc\n", InvalidValue::LineBreak('\n')),
            ("a\u{2028}bc", InvalidValue::LineBreak('\u{2028}')),
            ("a\tbc", InvalidValue::Control('\t')),
            ("abc\0", InvalidValue::Control('\0')),
            (" abc", InvalidValue::Leading),
            ("abc ", InvalidValue::Trailing),
            ("   ", InvalidValue::Blank),
            ("\u{a0}\u{200b}", InvalidValue::Blank),
        ] {
            assert_eq!(check_value(text), Err(error), "{text:?}");
            assert!(!error.to_string().contains("abc"));
        }
        for c in ['\u{200b}', '\u{a0}', BOM, '\u{202e}', '\u{3000}'] {
            for text in [format!("a{c}bc"), format!("abc{c}"), format!("{c}abc")] {
                assert_eq!(check_value(&text), Ok(Some(c)), "{text:?}");
            }
        }
        assert_eq!(
            [check_value(""), check_value("two words äöü")],
            [Ok(None); 2]
        );
        assert_eq!(
            InvalidValue::LineBreak('\n').to_string(),
            "contains a line break (U+000A LINE FEED)"
        );
    }

    #[test]
    fn only_what_an_editor_adds_is_dropped() {
        for (text, value) in [
            ("\u{feff}abc\r\n", "abc"),
            ("abc\n\n", "abc\n"),
            ("abc\r", "abc\r"),
            (" abc", " abc"),
            ("\u{feff}\u{feff}abc", "\u{feff}abc"),
        ] {
            assert_eq!(trim_value(text), value, "{text:?}");
        }
        assert_eq!(trim_token("\u{feff} abc\r\n\n"), "abc");
        assert!(
            is_quoted("\"abc\"") && is_quoted("'abc'") && !is_quoted("\"") && !is_quoted("\"abc")
        );
    }
}
