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
use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::Mutex;

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
        let mut known = self.0.lock();
        known.index();
        known.session += 1;
    }

    /// Learns a secret. A secret that is known already costs almost nothing.
    pub fn learn(&self, secret: &Secret) {
        let mut known = self.0.lock();
        known.learn(secret);
        // The part after a scheme may be quoted alone.
        if let Some(rest) = Template::after_scheme(secret.expose()) {
            known.learn(&Secret::new(rest));
        }
    }

    /// The text with every run of a known secret masked, however it is escaped.
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        let mut known = self.0.lock();
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
    values: HashSet<u64>,
    runs: HashSet<u64>,
    /// Whole secrets that are shorter than a run.
    short: HashSet<u64>,
    /// The lengths of the short secrets, one bit each.
    lengths: u8,
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
        for ((first, begin), _) in news {
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
                if found && let Some(bytes) = self.hidden.get_mut(begin.unit.start..step.unit.end) {
                    bytes.fill(true);
                }
            }
        }
    }
}

/// Decodes at each position: the escape that begins there, or the unit itself. The text before a position has no
/// influence, so it cannot change how a value is read.
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
mod tests;
