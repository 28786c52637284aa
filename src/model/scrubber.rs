//! Masks known secrets in foreign text, such as the message of an API error.
//!
//! Other output is masked by position; this module is for texts whose positions are unknown. A text is decoded in every
//! way in which an API may write a value: as it is, in another case, with the escapes of JSON, URLs and HTML, in base64
//! and in hexadecimal digits, also one inside another. Each reading is searched for every run of [`RUN`] characters of
//! a secret, so that a text that is cut off within a secret shows no more of it. A shorter secret is searched for as a
//! whole, and one of less than [`WORD`] characters only as a separate word, because it is part of many texts.
//!
//! Runs are kept as keyed hashes instead of the patterns of a multi-pattern matcher: a matcher would keep the text of
//! every replaced value, and finds no parts. The key is random, and neither it nor the hashes leave the process.
//!
//! Never: show a text that could not be decoded in every way, or keep the text of a secret that is no longer in use.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::{Secret, Template};

/// Fewer than this many consecutive characters of a secret are shown.
const RUN: usize = 8;

/// A secret of fewer characters than this is masked only as a separate word.
const WORD: usize = 4;

/// The most runs, or values, of one generation: those of 57,000 values of 60 characters. There are two generations.
const MOST: usize = if cfg!(test) { 2_000 } else { 3_500_000 };

/// How many encodings may be nested.
const DEPTH: usize = 3;

/// The longest text that is searched, in bytes.
const LONGEST: usize = 64 << 10;

/// How many characters are searched for each byte of the text, all readings together.
const EFFORT: usize = 32;

/// The known secrets of one workspace, for as long as the process runs. Clones share them.
///
/// At most 7 million runs are kept. Beyond that, the oldest are dropped; if more are in use at one time, every text is
/// withheld.
#[derive(Clone, Default)]
pub struct Scrubber(Arc<Mutex<KnownSecrets>>);

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrubber(***)")
    }
}

impl Scrubber {
    /// Starts a session: secrets that are learned again in it are kept longest.
    pub fn begin(&self) {
        let mut known = self.lock();
        known.index();
        known.session += 1;
    }

    /// Learns a secret. A secret that is known already costs almost nothing.
    pub fn learn(&self, secret: &Secret) {
        let mut known = self.lock();
        known.learn(secret);
        // The part after a scheme may be quoted alone.
        if let Some(rest) = Template::after_scheme(secret.expose()) {
            known.learn(&Secret::new(rest));
        }
    }

    /// The text with every run of a known secret masked, however it is escaped.
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        let mut known = self.lock();
        known.index();
        if known.overflowed || text.len() > LONGEST {
            return WITHHELD.to_owned();
        }
        let mut search = Search {
            known: &known,
            hidden: vec![false; text.len()],
            effort: text.len().saturating_mul(EFFORT).saturating_add(1024),
            given_up: false,
        };
        let unit = |(start, c): (usize, char)| Unit {
            c,
            start,
            end: start + c.len_utf8(),
            fresh: true,
        };
        search.read(text.char_indices().map(unit).collect(), DEPTH);
        if search.given_up {
            WITHHELD.to_owned()
        } else {
            mask_hidden(text, &search.hidden)
        }
    }

    fn lock(&self) -> MutexGuard<'_, KnownSecrets> {
        self.0.lock()
    }
}

/// Replaces a text that cannot be searched.
const WITHHELD: &str = "(withheld: it could not be searched for secrets)";

fn mask_hidden(text: &str, hidden: &[bool]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut masking = false;
    for (at, c) in text.char_indices() {
        let hide = hidden.get(at).copied().unwrap_or(true);
        if !hide {
            out.push(c);
        } else if !masking {
            out.push_str("***");
        }
        masking = hide;
    }
    out
}

/// Hashes of the known secrets.
#[derive(Default)]
struct KnownSecrets {
    key: RandomState,
    /// What was learned since the last rotation.
    young: Generation,
    /// What was learned before. It is dropped as a whole when the young generation is full.
    old: Generation,
    /// Learned and not hashed yet, because no foreign text has been shown since.
    pending: Vec<Secret>,
    session: u64,
    /// The session of the last rotation.
    rotated: Option<u64>,
    /// Whether something was dropped that may still be in use.
    overflowed: bool,
}

#[derive(Default)]
struct Generation {
    /// Whole values, to recognize those that are known already.
    values: Hashes,
    runs: Hashes,
    /// Whole secrets that are shorter than a run.
    short: Hashes,
    /// The lengths of the short secrets, one bit each.
    lengths: u8,
}

type Hashes = HashSet<u64, BuildHasherDefault<IdentityHasher>>;

/// Passes a hash through.
#[derive(Default)]
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl KnownSecrets {
    fn learn(&mut self, secret: &Secret) {
        if self.young.values.insert(self.key.hash_one(secret.expose())) {
            self.pending.push(secret.clone());
        }
    }

    /// Hashes what was learned since the last call.
    fn index(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let coming = pending
            .iter()
            .map(|secret| secret.expose().len().saturating_sub(RUN - 1))
            .sum::<usize>();
        self.young
            .runs
            .reserve(coming.min(MOST.saturating_sub(self.young.runs.len())));
        for secret in pending {
            let mut folded = Vec::with_capacity(secret.expose().len());
            secret
                .expose()
                .chars()
                .for_each(|c| fold(c, |c| folded.push(c)));
            if self.young.runs.len() + folded.len() > MOST || self.young.values.len() > MOST {
                self.rotate();
            }
            if (1..RUN).contains(&folded.len()) {
                let hash = self.hash(&folded);
                self.young.short.insert(hash);
                self.young.lengths |= 1 << folded.len();
            }
            for run in folded.windows(RUN) {
                let hash = self.hash(run);
                self.young.runs.insert(hash);
            }
        }
    }

    fn rotate(&mut self) {
        self.overflowed |= self.rotated == Some(self.session);
        self.rotated = Some(self.session);
        self.old = std::mem::take(&mut self.young);
    }

    fn hash(&self, run: &[char]) -> u64 {
        // Three characters in each word; the rest is filled with a value that is no character.
        let mut words = [u64::MAX; RUN.div_ceil(3)];
        for (word, chars) in words.iter_mut().zip(run.chunks(3)) {
            for c in chars {
                *word = *word << 21 | u64::from(*c);
            }
        }
        self.key.hash_one(words)
    }

    fn knows(&self, run: &[char]) -> bool {
        let generations = [&self.young, &self.old];
        if run.len() == RUN {
            let hash = self.hash(run);
            return generations
                .iter()
                .any(|generation| generation.runs.contains(&hash));
        }
        let mut with_length = generations
            .iter()
            .filter(|generation| generation.lengths >> run.len() & 1 == 1)
            .peekable();
        with_length.peek().is_some() && {
            let hash = self.hash(run);
            with_length.any(|generation| generation.short.contains(&hash))
        }
    }
}

/// Case makes no difference, nor does `+` for a space, as in the query of a URL. Some characters become several in
/// another case: all are compared in the longest form.
fn fold(c: char, mut each: impl FnMut(char)) {
    if c == '+' {
        each(' ');
    } else if c.is_ascii() {
        each(c.to_ascii_lowercase());
    } else {
        c.to_lowercase()
            .flat_map(char::to_uppercase)
            .flat_map(char::to_lowercase)
            .for_each(each);
    }
}

/// A character of a reading, and the bytes of the text that it was read from.
#[derive(Clone, Copy)]
struct Unit {
    c: char,
    start: usize,
    end: usize,
    /// Whether this reading decoded it. A run without such a unit was searched in the previous reading.
    fresh: bool,
}

/// A unit at one position of a reading, and the position of the next one.
#[derive(Clone, Copy)]
struct Step {
    unit: Unit,
    next: usize,
    /// Whether it was decoded from a fresh unit.
    of_fresh: bool,
}

/// Separates two pieces of a reading that do not belong together. It never occurs in valid text.
const GAP: char = char::REPLACEMENT_CHARACTER;

struct Search<'k> {
    known: &'k KnownSecrets,
    /// For each byte of the text.
    hidden: Vec<bool>,
    /// How many more characters may be searched.
    effort: usize,
    given_up: bool,
}

impl Search<'_> {
    /// Searches a text as it is, and every reading of it.
    fn read(&mut self, units: Vec<Unit>, depth: usize) {
        let step = |(at, unit)| Step {
            unit,
            next: at + 1,
            of_fresh: true,
        };
        let steps: Vec<Step> = units.into_iter().enumerate().map(step).collect();
        self.compare(&steps);
        self.read_on(&steps, depth);
    }

    /// Searches every reading of a text.
    fn read_on(&mut self, steps: &[Step], depth: usize) {
        if depth == 0 || self.given_up {
            return;
        }
        for (mark, unescape) in ESCAPES {
            if steps.iter().any(|step| step.unit.c == mark) {
                let unescaped = unescape_all(steps, mark, unescape);
                self.compare(&unescaped);
                if unescaped.iter().any(|step| step.unit.fresh) {
                    self.read_on(&unescaped, depth - 1);
                }
            }
        }
        let units = in_order(steps);
        for digits in DIGITS {
            for skipped in 0..digits.alignments {
                let decoded = digits.decode(&units, skipped);
                if !decoded.is_empty() {
                    // At a wrong alignment, escape characters occur by chance.
                    self.read(decoded, (depth - 1).min(1));
                }
            }
        }
    }

    /// Hides every known run that contains a fresh unit.
    fn compare(&mut self, steps: &[Step]) {
        let Some(left) = self.effort.checked_sub(steps.len()) else {
            self.given_up = true;
            return;
        };
        self.effort = left;
        // The number of steps from each one to the next fresh one, itself included.
        let mut away = vec![usize::MAX; steps.len()];
        for (at, step) in steps.iter().enumerate().rev() {
            let next = if step.unit.fresh {
                0
            } else {
                away.get(step.next)
                    .map_or(usize::MAX, |n| n.saturating_add(1))
            };
            if let Some(place) = away.get_mut(at) {
                *place = next;
            }
        }
        // Whether a character that is not a letter or digit may come before each one.
        let mut open = vec![false; steps.len() + 1];
        for step in steps.iter().filter(|step| !step.unit.c.is_alphanumeric()) {
            if let Some(place) = open.get_mut(step.next) {
                *place = true;
            }
        }
        let is_inner = |at: usize| {
            steps
                .get(at)
                .is_some_and(|step| step.unit.c.is_alphanumeric())
        };
        let news = steps
            .iter()
            .enumerate()
            .zip(&away)
            .filter(|(_, away)| **away < RUN);
        for (
            (
                first,
                Step {
                    unit: Unit { start, .. },
                    ..
                },
            ),
            _,
        ) in news
        {
            let (mut run, mut length, mut at, mut of_fresh) = (['\0'; RUN], 0, first, false);
            while let Some(step) = steps.get(at).filter(|_| length < RUN) {
                fold(step.unit.c, |c| {
                    if let Some(place) = run.get_mut(length) {
                        *place = c;
                        length += 1;
                    }
                });
                at = step.next;
                of_fresh |= step.of_fresh;
                let found = of_fresh
                    && (length >= WORD
                        || (first == 0 || open.get(first) == Some(&true)) && !is_inner(at))
                    && run.get(..length).is_some_and(|run| self.known.knows(run));
                if found && let Some(bytes) = self.hidden.get_mut(*start..step.unit.end) {
                    bytes.fill(true);
                }
            }
        }
    }
}

/// Decodes at each position: the escape that begins there, or the unit itself. What comes before a position has no
/// influence, so that it cannot change how a value is read.
fn unescape_all(steps: &[Step], mark: char, unescape: Unescape) -> Vec<Step> {
    let read = |(at, step): (usize, &Step)| {
        if step.unit.c == mark {
            let mut made_of: Vec<Step> = Vec::with_capacity(LONGEST_ESCAPE);
            let mut at = at;
            while let Some(step) = steps.get(at).filter(|_| made_of.len() < LONGEST_ESCAPE) {
                made_of.push(*step);
                at = step.next;
            }
            let units: Vec<Unit> = made_of.iter().map(|step| step.unit).collect();
            if let Some((c, length)) = unescape(&units)
                && let Some([.., last]) = made_of.get(..length)
            {
                let of_fresh = units.iter().take(length).any(|unit| unit.fresh);
                let unit = Unit {
                    c,
                    start: step.unit.start,
                    end: last.unit.end,
                    fresh: true,
                };
                return Step {
                    unit,
                    next: last.next,
                    of_fresh,
                };
            }
        }
        Step {
            unit: Unit {
                fresh: false,
                ..step.unit
            },
            next: step.next,
            of_fresh: step.unit.fresh,
        }
    };
    steps.iter().enumerate().map(read).collect()
}

/// The most units of one escape: two surrogates, or four bytes of a URL.
const LONGEST_ESCAPE: usize = 12;

/// The units of a reading, from its start.
fn in_order(steps: &[Step]) -> Vec<Unit> {
    let mut units = Vec::with_capacity(steps.len());
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        units.push(step.unit);
        at = step.next;
    }
    units
}

/// Decodes the escape at the start of some units: its character, and its length in units.
type Unescape = fn(&[Unit]) -> Option<(char, usize)>;

/// The escapings, each with the character that begins one.
const ESCAPES: [(char, Unescape); 3] = [('\\', backslash), ('%', percent), ('&', entity)];

/// The escapes of JSON, and of languages whose strings are quoted in it.
fn backslash(units: &[Unit]) -> Option<(char, usize)> {
    let ['\\', kind] = chars(units, 0)? else {
        return None;
    };
    Some(match kind {
        'u' => return unicode(units),
        'U' => (char::from_u32(hex(units, 2, 8)?)?, 10),
        'x' => (char::from_u32(hex(units, 2, 2)?)?, 4),
        'b' => ('\u{8}', 2),
        'f' => ('\u{c}', 2),
        'n' => ('\n', 2),
        'r' => ('\r', 2),
        't' => ('\t', 2),
        'v' => ('\u{b}', 2),
        '0' => ('\0', 2),
        other => (other, 2),
    })
}

/// `\u00e4`, a surrogate pair of them, or `\u{e4}`.
fn unicode(units: &[Unit]) -> Option<(char, usize)> {
    if chars(units, 2) == Some(['{']) {
        let digits = units
            .get(3..)?
            .iter()
            .take(6)
            .take_while(|unit| unit.c.is_ascii_hexdigit())
            .count();
        let closed = chars(units, 3 + digits) == Some(['}']);
        return closed.then(|| Some((char::from_u32(hex(units, 3, digits)?)?, digits + 4)))?;
    }
    let high = hex(units, 2, 4)?;
    let low = (chars(units, 6) == Some(['\\', 'u']))
        .then(|| hex(units, 8, 4))
        .flatten();
    match (high, low) {
        (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
            char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)).map(|c| (c, 12))
        }
        _ => Some((char::from_u32(high).unwrap_or(GAP), 6)),
    }
}

/// `%c3%a4`, or `%u00e4`.
fn percent(units: &[Unit]) -> Option<(char, usize)> {
    if chars(units, 0) == Some(['%', 'u']) {
        return Some((char::from_u32(hex(units, 2, 4)?).unwrap_or(GAP), 6));
    }
    let byte = |at: usize| -> Option<u8> {
        (chars(units, at) == Some(['%']))
            .then(|| hex(units, at + 1, 2))
            .flatten()?
            .try_into()
            .ok()
    };
    let first = byte(0)?;
    let length = match first {
        0..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    let bytes: Option<Vec<u8>> = (0..length).map(|n| byte(n * 3)).collect();
    let c = bytes.and_then(|bytes| {
        std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.chars().next())
    });
    Some(c.map_or((GAP, 3), |c| (c, length * 3)))
}

/// `&amp;`, `&#39;` or `&#x27;`.
fn entity(units: &[Unit]) -> Option<(char, usize)> {
    /// The longest one, without its `&`.
    const LONGEST: usize = 10;
    let ['&'] = chars(units, 0)? else { return None };
    let name: String = units
        .get(1..)?
        .iter()
        .take(LONGEST)
        .map(|unit| unit.c)
        .take_while(|c| *c != ';')
        .collect();
    let length = name.chars().count() + 2;
    if chars(units, length - 1) != Some([';']) {
        return None;
    }
    let c = match name.as_str() {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        number => {
            let number = number.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)?
        }
    };
    Some((c, length))
}

fn chars<const N: usize>(units: &[Unit], at: usize) -> Option<[char; N]> {
    Some(units.get(at..)?.first_chunk::<N>()?.map(|unit| unit.c))
}

fn hex(units: &[Unit], at: usize, digits: usize) -> Option<u32> {
    let units = units
        .get(at..at + digits)
        .filter(|units| !units.is_empty())?;
    units.iter().try_fold(0_u32, |code, unit| {
        code.checked_mul(16)?.checked_add(unit.c.to_digit(16)?)
    })
}

/// An encoding of bytes as digits of `bits` bits.
struct Digits {
    bits: u32,
    /// The number of positions at which a byte can begin.
    alignments: usize,
    /// The fewest digits that are decoded: those of the shortest secret that is not matched as a word.
    least: usize,
    value: fn(char) -> Option<u32>,
}

/// Base64 with either alphabet, and hexadecimal digits.
const DIGITS: [Digits; 2] = [
    Digits {
        bits: 6,
        alignments: 4,
        least: 6,
        value: sextet,
    },
    Digits {
        bits: 4,
        alignments: 2,
        least: 8,
        value: |c| c.to_digit(16),
    },
];

fn sextet(c: char) -> Option<u32> {
    let code = u32::from(c);
    match c {
        'A'..='Z' => Some(code - u32::from('A')),
        'a'..='z' => Some(code - u32::from('a') + 26),
        '0'..='9' => Some(code - u32::from('0') + 52),
        '+' | '-' => Some(62),
        '/' | '_' => Some(63),
        _ => None,
    }
}

impl Digits {
    /// Decodes the rows of digits of a reading, each without its first `skipped` digits.
    fn decode(&self, units: &[Unit], skipped: usize) -> Vec<Unit> {
        let mut decoded = Vec::new();
        let mut row: Vec<(u32, Unit)> = Vec::new();
        for unit in units {
            match (self.value)(unit.c) {
                Some(value) => row.push((value, *unit)),
                // Long rows are split into lines.
                None if matches!(unit.c, '\r' | '\n') => {}
                None => {
                    self.decode_row(&row, skipped, &mut decoded);
                    row.clear();
                }
            }
        }
        self.decode_row(&row, skipped, &mut decoded);
        decoded
    }

    fn decode_row(&self, row: &[(u32, Unit)], skipped: usize, decoded: &mut Vec<Unit>) {
        if row.len() < self.least || !row.iter().any(|(_, unit)| unit.fresh) {
            return;
        }
        let Some(row) = row.get(skipped..) else {
            return;
        };
        let mut bytes = Vec::with_capacity(row.len());
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(row.len());
        let (mut held, mut bits, mut start) = (0_u32, 0, None);
        for (value, unit) in row {
            held = held << self.bits | value;
            let begin = *start.get_or_insert(unit.start);
            bits += self.bits;
            if bits >= 8 {
                bits -= 8;
                bytes.push((held >> bits & 0xff) as u8);
                places.push((begin, unit.end));
                held &= (1 << bits) - 1;
                start = (bits > 0).then_some(unit.start);
            }
        }
        let mut at = 0;
        let mut push = |c: char, length: usize| {
            if let (Some((start, _)), Some((_, end))) =
                (places.get(at), places.get(at + length - 1))
            {
                decoded.push(Unit {
                    c,
                    start: *start,
                    end: *end,
                    fresh: true,
                });
            }
            at += length;
        };
        for chunk in bytes.utf8_chunks() {
            chunk.valid().chars().for_each(|c| push(c, c.len_utf8()));
            if !chunk.invalid().is_empty() {
                push(GAP, chunk.invalid().len());
            }
        }
        if let Some(last) = decoded.last().copied() {
            decoded.push(Unit {
                c: GAP,
                start: last.end,
                end: last.end,
                fresh: true,
            });
        }
    }
}

#[cfg(test)]
mod tests {
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
    fn a_part_of_a_secret_is_masked_where_a_text_begins_or_ends_with_it() {
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
            s.lock().pending.len(),
            1,
            "what is known already is not hashed again"
        );
        s.begin();
        assert!(s.lock().pending.is_empty());
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
        let known = s.lock();
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
        let known = s.lock();
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
        proptest::collection::vec(proptest::sample::select(chars), length)
            .prop_map(String::from_iter)
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
}
