use proptest::prelude::*;

use super::*;

fn scrubber(secrets: &[&str]) -> Scrubber {
    let scrubber = Scrubber::default();
    secrets
        .iter()
        .for_each(|secret| scrubber.learn(&Secret::new(*secret)));
    scrubber
}

/// A value of 48 characters that has no run in common with the one of another number.
fn made_up(n: usize) -> Secret {
    let digits = |salt| {
        (n as u64 + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(salt)
    };
    Secret::new(format!(
        "{:016x}{:016x}{:016x}",
        digits(0),
        digits(21),
        digits(42)
    ))
}

#[test]
fn a_secret_is_masked_in_every_form_an_api_may_echo() {
    let s = scrubber(&["Bearer a b/\"c ä😀"]);
    for echo in [
        "Bearer a b/\"c ä😀",
        "BEARER A B/\"C Ä😀",
        "Bearer%20a%20b%2F%22c%20%C3%A4%F0%9F%98%80",
        "Bearer+a+b%2f%22c+%c3%a4%f0%9f%98%80",
        "Bearer a b/\\\"c ä😀",
        "Bearer a b\\/\\\"c \\u00e4\\ud83d\\ude00",
        "Bearer a b\\\\/\\\\\\\"c \\\\u00e4\\\\ud83d\\\\ude00",
        "Bearer a b/\\\"c \\u{e4}\\u{1f600}",
        "Bearer a b/&quot;c &#xe4;&#128512;",
        "QmVhcmVyIGEgYi8iYyDDpPCfmIA",
        "426561726572206120622f226320c3a4f09f9880",
    ] {
        assert_eq!(
            s.scrub(&format!("bad value {echo}!")),
            "bad value ***!",
            "{echo}"
        );
    }
}

#[test]
fn what_comes_before_a_secret_does_not_change_how_it_is_read() {
    for (secret, text) in [
        (
            "0aaa😀aa😀",
            "\\\\\\0aaa\\\\ud83d\\\\ude00aa\\\\ud83d\\\\ude00",
        ),
        ("1abcdef%", "%41abcdef%25"),
    ] {
        assert!(scrubber(&[secret]).scrub(text).ends_with("***"), "{text}");
    }
    assert_eq!(
        scrubber(&["abc"]).scrub("a%20abc%20b \\u0041abc"),
        "a%20***%20b \\u0041abc"
    );
}

#[test]
fn a_part_of_a_secret_is_masked_at_the_start_and_end_of_a_text() {
    let s = scrubber(&["0123456789abcdef"]);
    assert_eq!(s.scrub("is 01234567"), "is ***");
    assert_eq!(s.scrub("89abcdef, is"), "***, is");
    assert_eq!(s.scrub("is 0123456"), "is 0123456");
}

#[test]
fn overlapping_secrets_leave_no_rest() {
    assert_eq!(
        scrubber(&["abcdefgh", "defghijk"]).scrub("x abcdefghijk y"),
        "x *** y"
    );
}

#[test]
fn a_short_secret_is_masked_and_the_text_around_it_stays() {
    let s = scrubber(&["true", "a", "v2"]);
    assert_eq!(
        s.scrub("a value is trUe or untruenesses, as in v2, v22"),
        "*** value is *** or un***nesses, as in ***, v22"
    );
}

#[test]
fn what_follows_a_scheme_is_masked_alone_too() {
    assert_eq!(
        scrubber(&["Bearer abc12"]).scrub("the token abc12 is old"),
        "the token *** is old"
    );
}

#[test]
fn a_value_that_was_replaced_stays_known_and_its_text_does_not_stay_in_memory() {
    let s = scrubber(&["the-old-value", "the-same-value"]);
    s.begin();
    s.learn(&Secret::new("the-new-value"));
    s.learn(&Secret::new("the-same-value"));
    assert_eq!(
        s.0.lock().pending.len(),
        1,
        "what is known already is not hashed again"
    );
    s.begin();
    assert!(s.0.lock().pending.is_empty());
    assert_eq!(
        s.scrub("the-old-value, the-same-value, the-new-value"),
        "***, ***, ***"
    );
}

#[test]
fn what_was_learned_longest_ago_is_dropped_first_and_what_is_in_use_never() {
    let (s, current) = (
        scrubber(&["the-first-value"]),
        Secret::new("the-current-value"),
    );
    let fill = |session: usize| {
        s.begin();
        s.learn(&current);
        (0..MOST / 50).for_each(|n| s.learn(&made_up(session * MOST + n)));
    };
    (0..6).for_each(fill);
    assert_eq!(
        s.scrub("the-first-value or the-current-value"),
        "the-first-value or ***"
    );
    let known = s.0.lock();
    assert!(known.young.runs.len() <= MOST && known.old.runs.len() <= MOST);
}

#[test]
fn with_more_secrets_than_can_be_known_nothing_is_shown() {
    let s = Scrubber::default();
    (0..MOST / 5).for_each(|n| s.learn(&made_up(n)));
    assert_eq!(s.scrub("hello"), WITHHELD);
}

#[test]
fn the_time_for_a_text_is_bounded() {
    let s = scrubber(&["the-current-value"]);
    assert_eq!(s.scrub(&"x".repeat(LONGEST + 1)), WITHHELD);
    // Each reading of this holds something new.
    let hostile = "\\u0025&#92;%5C%26QUJDREVG%41".repeat(150);
    let units = hostile
        .char_indices()
        .map(|(start, c)| Unit {
            c,
            start,
            end: start + 1,
            fresh: true,
        })
        .collect();
    let known = s.0.lock();
    let (hidden, effort) = (vec![false; hostile.len()], hostile.len() * 2);
    let mut search = Search {
        known: &known,
        hidden,
        effort,
        given_up: false,
    };
    search.read(units, DEPTH);
    assert!(search.given_up);
    drop(known);
    // A long text in base64 is searched, and not given up.
    assert!(s.scrub(&"YWJj0ZHM/2h+".repeat(340)).starts_with("YWJj"));
}

// Any secret, written by any encoder in any text that is cut anywhere.

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn escaped(text: &str, ascii: bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() || ascii && !c.is_ascii() => {
                c.encode_utf16(&mut [0; 2])
                    .iter()
                    .for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
            c => out.push(c),
        }
    }
    out
}

fn percent(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn html(text: &str) -> String {
    let escapes = [
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("\"", "&quot;"),
        ("'", "&#x27;"),
    ];
    escapes
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Encoders that write each character by itself, so that what they make of a part is a part of what they make of all.
const ENCODERS: [fn(&str) -> String; 13] = [
    str::to_owned,
    |text| escaped(text, true),
    |text| escaped(text, false),
    |text| escaped(text, false).replace('/', "\\/"),
    |text| escaped(&escaped(text, true), true),
    percent,
    |text| percent(text).to_lowercase(),
    |text| percent(text).replace("%20", "+"),
    |text| {
        percent(text)
            .replace("%2D", "-")
            .replace("%2E", ".")
            .replace("%5F", "_")
    },
    html,
    |text| escaped(&html(text), true),
    str::to_uppercase,
    str::to_lowercase,
];

/// Whether some row of base64 digits in a text holds these bytes.
fn base64_holds(text: &str, bytes: &[u8]) -> bool {
    let rows = text.split(|c| sextet(c).is_none());
    rows.into_iter().any(|row| {
        (0..4).any(|skipped| {
            let bits: String = row
                .chars()
                .skip(skipped)
                .filter_map(sextet)
                .map(|value| format!("{value:06b}"))
                .collect();
            let decoded: Vec<u8> = bits
                .as_bytes()
                .chunks_exact(8)
                .filter_map(|b| u8::from_str_radix(std::str::from_utf8(b).ok()?, 2).ok())
                .collect();
            decoded.windows(bytes.len()).any(|window| window == bytes)
        })
    })
}

/// A text of characters that the encoders write in different ways.
fn text(length: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = String> {
    let chars: Vec<char> = "abcXYZ019 /+\"\\<>&'%=äÖß漢😀\n\t\u{1}.-_~u"
        .chars()
        .collect();
    proptest::collection::vec(proptest::sample::select(chars), length).prop_map(String::from_iter)
}

/// What must not be left: runs of eight characters, or the whole.
fn runs(secret: &str) -> Vec<String> {
    let chars: Vec<char> = secret.chars().collect();
    chars
        .windows(RUN.min(chars.len()))
        .map(|run| run.iter().collect())
        .collect()
}

fn cut(text: &str, from: usize, to: usize) -> String {
    let length = text.chars().count() + 1;
    let (from, to) = (from % length, to % length);
    text.chars().take(from.max(to)).skip(from.min(to)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_run_of_a_secret_is_left_however_it_is_escaped_and_cut(
        secret in text(4..=40), before in text(0..=12), after in text(0..=12),
        encoder in 0..ENCODERS.len(), whole in any::<bool>(), from in 0..500_usize, to in 0..500_usize,
    ) {
        let encode = ENCODERS[encoder];
        let text = format!("{before}{}{after}", encode(&secret));
        let text = if whole { text } else { cut(&text, from, to) };
        let scrubbed = scrubber(&[&secret]).scrub(&text);
        for run in runs(&secret) {
            prop_assert!(!scrubbed.contains(&encode(&run)), "{text:?} is shown as {scrubbed:?}, with {run:?}");
        }
    }

    #[test]
    fn no_run_of_a_secret_is_left_in_base64(
        secret in text(4..=40), before in "[a-z: /-]{0,12}", after in "[a-z: /-]{0,12}",
        url in any::<bool>(), padded in any::<bool>(), whole in any::<bool>(), from in 0..500_usize, to in 0..500_usize,
    ) {
        let mut text = base64(format!("{before}{secret}{after}").as_bytes());
        if !padded {
            text.truncate(text.trim_end_matches('=').len());
        }
        if url {
            text = text.replace('+', "-").replace('/', "_");
        }
        let text = format!("{before}{text}{after}");
        let text = if whole { text } else { cut(&text, from, to) };
        let scrubbed = scrubber(&[&secret]).scrub(&text);
        for run in runs(&secret) {
            prop_assert!(!base64_holds(&scrubbed, run.as_bytes()), "{text:?} is shown as {scrubbed:?}, with {run:?}");
        }
    }
}
