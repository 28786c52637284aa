//! Making foreign text safe to show: on a terminal, in a log line, in a page.

/// The text with every character escaped that could act instead of being read: control characters (a terminal obeys
/// them), and the invisible and bidirectional formatting characters that make a text read as another one. Spaces stay;
/// line breaks and tabs are escaped.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a character could act instead of being read; see [`printable`].
#[must_use]
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text cut to at most `max` characters, the last one an ellipsis where anything was cut.
#[must_use]
pub fn ellipsize(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => {
            let end = text.char_indices().nth(max.saturating_sub(1)).map_or(0, |(at, _)| at);
            let mut out = text.get(..end).unwrap_or_default().to_owned();
            out.push('…');
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_act_is_escaped() {
        assert_eq!(printable("a\u{1b}[31mb\u{202e}c\nd é"), "a\\u{1b}[31mb\\u{202e}c\\u{a}d é");
    }

    #[test]
    fn a_cut_is_marked_and_counts_characters() {
        assert_eq!(ellipsize("äbc", 3), "äbc");
        assert_eq!(ellipsize("äbcd", 3), "äb…");
    }
}
