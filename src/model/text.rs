//! Makes foreign text safe to show on a terminal, in a log line or in a page.

use std::time::Duration;

/// Escapes every character that [`needs_escape`], and `##[`, which begins a command anywhere in the log of a workflow.
/// Spaces stay; line breaks and tabs are escaped.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if needs_escape(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out.replace(COMMAND, "#\\u{23}[")
}

/// The runner of GitHub's workflows obeys this anywhere in a line.
const COMMAND: &str = "##[";

/// A duration for people: `25ms`, `2.9s`, `42s`, `4m 5s`, `1h 30m`.
#[must_use]
pub fn human_duration(duration: Duration) -> String {
    let (millis, seconds) = (duration.as_micros().div_ceil(1000), duration.as_secs_f64());
    match duration {
        _ if millis < 1000 => format!("{millis}ms"),
        // What rounds up to 10.0 is printed as whole seconds.
        _ if seconds < 9.95 => format!("{seconds:.1}s").replace(".0s", "s"),
        // Whole seconds up to an hour, then whole minutes.
        _ if seconds < 3600.0 => whole(duration, 1),
        _ => whole(duration, 60),
    }
}

fn whole(duration: Duration, unit: u64) -> String {
    let units = (duration.as_secs_f64() / unit as f64).round() as u64;
    humantime::format_duration(Duration::from_secs(units * unit)).to_string()
}

/// Whether a character must not be printed as it is: control characters, which a terminal obeys, and invisible and
/// bidirectional formatting characters, which make a text look like another one.
#[must_use]
pub fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// A JSON document, with a line break at its end, that is safe on a terminal: characters that [`needs_escape`] are JSON
/// escapes, which parsers read as the characters themselves. serde_json escapes only those below U+0020.
#[must_use]
pub fn printable_json(document: &str) -> String {
    let mut text = String::with_capacity(document.len() + 1);
    for c in document.chars() {
        if c != '\n' && needs_escape(c) {
            c.encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        } else {
            text.push(c);
        }
    }
    text.push('\n');
    text.replace(COMMAND, "#\\u0023[")
}

/// Cuts the text to at most `max` characters, of which the last is an ellipsis if anything is cut.
#[must_use]
pub fn ellipsize(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => {
            let end = text
                .char_indices()
                .nth(max.saturating_sub(1))
                .map_or(0, |(at, _)| at);
            let mut out = text.get(..end).unwrap_or_default().to_owned();
            out.push('…');
            out
        }
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> String {
    bytes
        .into_iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_for_people() {
        let text = |seconds| human_duration(Duration::from_secs_f64(seconds));
        let all = [
            0.0, 0.000_2, 0.025, 0.999_9, 1.0, 2.94, 9.96, 42.4, 119.999, 245.0, 5400.0, 3586.4,
            86_399.9,
        ]
        .map(text);
        insta::assert_snapshot!(all.join(", "), @"0ms, 1ms, 25ms, 1s, 1s, 2.9s, 10s, 42s, 2m, 4m 5s, 1h 30m, 59m 46s, 1day");
    }

    #[test]
    fn active_characters_are_escaped() {
        assert_eq!(
            printable("a ##[set-output name=x]y ###[ #["),
            "a #\\u{23}[set-output name=x]y ##\\u{23}[ #["
        );
        assert_eq!(
            printable("a\u{1b}[31mb\u{202e}c\nd é"),
            "a\\u{1b}[31mb\\u{202e}c\\u{a}d é"
        );
    }

    #[test]
    fn an_escaped_document_has_the_same_meaning() {
        let hostile = "##[x]a\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\u{e0041}ü\n";
        let text = printable_json(&serde_json::json!({ "error": hostile }).to_string());
        assert!(
            text.chars().all(|c| c == '\n' || !needs_escape(c)) && !text.contains("##["),
            "{text:?}"
        );
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["error"], hostile);
    }

    #[test]
    fn a_cut_is_marked_and_counts_characters() {
        assert_eq!(ellipsize("äbc", 3), "äbc");
        assert_eq!(ellipsize("äbcd", 3), "äb…");
    }
}
