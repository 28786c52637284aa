//! Decides by position which parts of a file may be shown: the one module that keeps values below `partnerKey` out of
//! quoted source lines.
//!
//! It lists what may be shown and hides the rest, so that a misspelt `partnerkey`, a section under the wrong key or a
//! list instead of a map hides too much rather than too little.
//!
//! Never: decide by whether a value looks like a secret.

use jiff::civil::Date;

use super::yaml::{Node, Span, Tree, Value};
use crate::model::{KNOWN_LISTING_FIELDS, check_header_name, looks_like_a_key};

/// The key of the list of workspaces in the operator's configuration file.
pub(crate) const WORKSPACES: &str = "workspaces";

/// The parts of a parsed file that may be shown.
pub(crate) struct Mask {
    /// What must not be shown, in order.
    hidden: Vec<Span>,
    /// The keys that may be shown even so, in order.
    keys: Vec<Span>,
}

/// A key and its value.
type Entry<'a> = (Node<'a>, Node<'a>);

impl Mask {
    /// The mask of a definition file, or of `workspace.yaml`.
    pub(crate) fn of(tree: &Tree<'_>, text: &str) -> Self {
        Self::build(tree, text, |mask, entries| {
            for_each_entry(entries, tree.end, |entry, end| mask.top(entry, end))
        })
    }

    /// The mask of a file of settings. If `shown` is false for a key, only the key is shown: its value may be a secret
    /// instead of the name of the secret's file.
    pub(crate) fn of_settings(tree: &Tree<'_>, text: &str, shown: &dyn Fn(&str) -> bool) -> Self {
        Self::build(tree, text, |mask, entries| {
            mask.settings(entries, tree.end, shown)
        })
    }

    /// `add` adds the entries of the document, if it is a map; anything else is hidden, and so is what follows the document.
    fn build<'t>(
        tree: &Tree<'t>,
        text: &str,
        add: impl FnOnce(&mut MaskBuilder<'_>, &[Entry<'t>]),
    ) -> Self {
        let mut mask = MaskBuilder {
            text,
            mask: Self {
                hidden: Vec::new(),
                keys: Vec::new(),
            },
        };
        match tree.root.as_ref().map(|root| &root.value) {
            Some(Value::Map(entries)) => add(&mut mask, entries),
            _ => mask.mask.hidden.push(Span::new(0, tree.end)),
        }
        mask.mask.hidden.push(Span::new(tree.end, text.len()));
        mask.mask
    }

    /// The part of a line that may be shown, from its start; `None` for the whole line. `line` begins at byte `start`.
    pub(crate) fn visible<'t>(&self, line: &'t str, start: usize) -> Option<&'t str> {
        let end = start + line.len();
        // A hidden span ends with the indentation of the next key.
        let blank = line.len() - line.trim_start_matches(' ').len();
        let begin = if blank < line.len() {
            start + blank
        } else {
            start
        };
        let from = self.hidden.partition_point(|span| span.end() <= begin);
        // An empty line within a hidden span is hidden, too: that it is empty must not show.
        self.hidden
            .get(from)
            .filter(|span| span.start() < end.max(start + 1))?;
        let first = self
            .keys
            .get(self.keys.partition_point(|key| key.start() < start));
        let shown = first.filter(|key| key.end() <= end).and_then(|key| {
            let before = line.get(..key.start() - start)?;
            let after = line.get(key.end() - start..)?;
            let gap = after.len() - after.trim_start_matches(' ').len();
            let colon = after.get(gap..)?.starts_with(':');
            (colon && before.bytes().all(|b| matches!(b, b' ' | b'{' | b'-')))
                .then(|| line.get(..key.end() - start + gap + 1))?
        });
        Some(shown.unwrap_or_else(|| indentation(line)))
    }
}

struct MaskBuilder<'t> {
    text: &'t str,
    mask: Mask,
}

impl MaskBuilder<'_> {
    /// One entry of the document. It extends to `end`, comments included.
    fn top(&mut self, (key, value): &Entry<'_>, end: usize) {
        self.show_key(key);
        match (key.text(), &value.value) {
            // The password in a URL is before its `@`.
            (Some("icon"), _)
                if [self.text_of(value), value.text().unwrap_or_default()]
                    .iter()
                    .any(|url| url.contains('@')) =>
            {
                self.hide(key, end);
            }
            (Some("provider" | "icon" | "slug" | "extends" | "requireFiles" | "unmanaged"), _)
                if !has_key(value)
                    && (self.is_short((key, value))
                        || self.is_bare(key, end) && self.is_short_list(value)) => {}
            (Some("fieldsToSync"), Value::Map(groups)) => {
                for_each_entry(groups, end, |group, end| self.group(group, end))
            }
            (Some("fieldsToSync" | KNOWN_GROUP), Value::List(items))
                if self.is_bare(key, end) && items.iter().all(|item| self.is_known(item)) => {}
            (Some("fieldsToSync" | KNOWN_GROUP | "hold"), _)
                if self.is_bare(key, end) && self.is_known(value) => {}
            (Some("hold"), Value::Map(entries)) => {
                for_each_entry(entries, end, |(key, value), end| {
                    self.show_key(key);
                    let short = self.is_short((key, value))
                        || self.is_bare(key, end) && self.is_short_list(value);
                    if !(matches!(key.text(), Some("until" | "reason")) && short) {
                        self.hide(key, end);
                    }
                })
            }
            (Some("hold"), Value::Text(day))
                if self.is_bare(key, end)
                    && day.parse::<Date>().is_ok()
                    && self.is_short((key, value)) => {}
            (Some("partnerKey"), Value::Map(sections)) => {
                self.hide(key, end);
                for (key, names) in sections {
                    self.show_key(key);
                    if let (Some("headers" | "queryParams"), Value::Map(names)) =
                        (key.text(), &names.value)
                    {
                        names.iter().for_each(|(name, _)| self.show_key(name));
                    }
                }
            }
            _ => self.hide(key, end),
        }
    }

    /// The settings of the daemon, or of one workspace.
    fn settings(&mut self, entries: &[Entry<'_>], end: usize, shown: &dyn Fn(&str) -> bool) {
        let harmless = |value: &Node<'_>| !value.text().is_some_and(looks_like_a_key);
        for_each_entry(entries, end, |(key, value), end| {
            self.show_key(key);
            match &value.value {
                Value::List(items) if key.text() == Some(WORKSPACES) => {
                    let ends = items
                        .iter()
                        .skip(1)
                        .map(|item| item.span.start())
                        .chain([end]);
                    for (item, end) in items.iter().zip(ends) {
                        match &item.value {
                            Value::Map(entries) => self.settings(entries, end, shown),
                            _ => self.mask.hidden.push(Span::new(item.span.start(), end)),
                        }
                    }
                }
                Value::List(items)
                    if key.text().is_some_and(shown)
                        && items
                            .iter()
                            .all(|item| self.is_short((item, item)) && harmless(item)) => {}
                _ if key.text().is_some_and(shown)
                    && self.is_short((key, value))
                    && harmless(value) => {}
                _ => {
                    self.hide(key, end);
                    if key.text().is_some_and(shown) {
                        self.show_keys(value);
                    }
                }
            }
        });
    }

    /// Shows every key of a hidden part.
    fn show_keys(&mut self, node: &Node<'_>) {
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| self.show_keys(item)),
            Value::Map(entries) => entries.iter().for_each(|(key, value)| {
                self.show_key(key);
                self.show_keys(value);
            }),
            _ => {}
        }
    }

    /// One group below `fieldsToSync`.
    fn group(&mut self, (key, value): &Entry<'_>, end: usize) {
        self.show_key(key);
        match &value.value {
            _ if key.text().is_none_or(is_part_of_a_partner_key) => self.hide(key, end),
            Value::List(items) => {
                let bare = self.is_bare(key, end);
                let shown = |item: &Node<'_>| match &item.value {
                    Value::Map(fields) if bare => fields
                        .iter()
                        .all(|(key, on)| key.is_scalar() && self.is_known(on)),
                    _ => item.is_scalar(),
                };
                // What follows an item of another form may belong to that item.
                if let Some(first) = items.iter().find(|item| !shown(item)) {
                    self.mask.hidden.push(Span::new(first.span.start(), end));
                }
            }
            Value::Map(fields) => for_each_entry(fields, end, |(key, value), end| {
                self.show_key(key);
                if let (Some("add" | "remove"), Value::List(names)) = (key.text(), &value.value) {
                    // The names of fields, as in a group that is a list.
                    if let Some(first) = names.iter().find(|name| !name.is_scalar()) {
                        self.mask.hidden.push(Span::new(first.span.start(), end));
                    }
                    return;
                }
                // A key that is not a name may be a key and its value with nothing between them.
                let is_name = key.is_scalar() && key.text().is_none_or(is_name);
                let boolean = match &value.value {
                    Value::Null | Value::Bool(_) => true,
                    Value::Text(word) => is_boolean_elsewhere(word),
                    _ => false,
                };
                if !(is_name && (boolean || self.is_bare(key, end) && self.is_known(value))) {
                    self.hide(key, end);
                }
            }),
            _ if self.is_bare(key, end) && self.is_known(value) => {}
            _ => self.hide(key, end),
        }
    }

    /// Whether an entry has no comment, in it or below it.
    fn is_bare(&self, key: &Node<'_>, end: usize) -> bool {
        self.text
            .get(key.span.start()..end)
            .is_some_and(|entry| !entry.contains('#'))
    }

    /// Whether a value is one line of words that are never a secret.
    fn is_known(&self, value: &Node<'_>) -> bool {
        self.is_short((value, value))
            && match &value.value {
                Value::Null | Value::Bool(_) => true,
                Value::Text(words) => is_known(words),
                Value::SpelledBool | Value::Number => is_known(self.text_of(value)),
                Value::List(_) | Value::Map(_) | Value::Refused => false,
            }
    }

    /// Whether a value is a list of scalars on one line.
    fn is_short_list(&self, value: &Node<'_>) -> bool {
        let text = self.text_of(value);
        let scalars =
            matches!(&value.value, Value::List(items) if items.iter().all(Node::is_scalar));
        scalars && !text.is_empty() && !text.contains(['\n', '\r'])
    }

    /// The source text of a node; empty for a block list or map.
    fn text_of(&self, node: &Node<'_>) -> &str {
        node.span.of(self.text)
    }

    /// Whether an entry is a scalar on one line: a longer one, such as a string without its closing quote, may include
    /// the lines below it.
    fn is_short(&self, (key, value): (&Node<'_>, &Node<'_>)) -> bool {
        let entry = self
            .text
            .get(key.span.start()..value.span.end().max(key.span.end()));
        value.is_scalar() && entry.is_some_and(|entry| !entry.contains(['\n', '\r']))
    }

    /// Hides an entry, from its key to the start of the next one.
    fn hide(&mut self, key: &Node<'_>, end: usize) {
        self.mask.hidden.push(Span::new(key.span.start(), end));
    }

    fn show_key(&mut self, key: &Node<'_>) {
        if key.text().is_some_and(is_name) {
            self.mask.keys.push(key.span);
        }
    }
}

fn has_key(value: &Node<'_>) -> bool {
    let is_key = |node: &Node<'_>| node.text().is_some_and(looks_like_a_key);
    is_key(value) || matches!(&value.value, Value::List(items) if items.iter().any(is_key))
}

/// The group whose fields are known.
const KNOWN_GROUP: &str = "listing";

/// Whether a text consists of names of known fields and of words for on, off, all and none.
fn is_known(words: &str) -> bool {
    const WORDS: [&str; 8] = [
        "true", "false", "enabled", "disabled", "all", "none", "0", "1",
    ];
    words
        .split([',', ' '])
        .filter(|word| !word.is_empty())
        .all(|word| {
            KNOWN_LISTING_FIELDS.contains(&word)
                || is_boolean_elsewhere(word)
                || WORDS.iter().any(|known| word.eq_ignore_ascii_case(known))
        })
}

/// The markers of a merge conflict, each at the start of a line.
pub(crate) const CONFLICT: [&str; 2] = ["<<<<<<<", ">>>>>>>"];

/// The keys that may be shown even if no space follows their `:`. With any other key, such a line may be one secret.
const KEYS: [&str; 12] = [
    "extends",
    "provider",
    "icon",
    "partnerKey",
    "headers",
    "queryParams",
    "fieldsToSync",
    KNOWN_GROUP,
    "hold",
    "until",
    "reason",
    "slug",
];

/// The part of a line that may be shown if the file does not parse: its first key, if the line begins with one, or the
/// marker of a merge conflict.
pub(crate) fn visible_unparsed(line: &str) -> &str {
    if let Some(mark) = CONFLICT
        .iter()
        .find_map(|mark| line.starts_with(mark).then(|| line.get(..mark.len()))?)
    {
        return mark;
    }
    let indentation = indentation(line);
    let rest = line.get(indentation.len()..).unwrap_or_default();
    match rest.split_once(':') {
        Some((key, value))
            if KEYS.contains(&key)
                || is_name(key) && (value.is_empty() || value.starts_with([' ', '\t'])) =>
        {
            line.get(..=indentation.len() + key.len())
                .unwrap_or_default()
        }
        _ => indentation,
    }
}

/// Whether a text is a plain name of a key, which messages may repeat.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 64 && check_header_name(text).is_ok()
}

/// Whether a key belongs to a partner key: below `fieldsToSync` it is misplaced.
pub(crate) fn is_part_of_a_partner_key(key: &str) -> bool {
    matches!(key, "partnerKey" | "headers" | "queryParams")
}

/// Whether YAML 1.1 parsers read a text as a boolean.
pub(crate) fn is_boolean_elsewhere(word: &str) -> bool {
    ["yes", "no", "on", "off", "y", "n"]
        .iter()
        .any(|boolean| word.eq_ignore_ascii_case(boolean))
}

fn indentation(line: &str) -> &str {
    let rest = line.trim_start_matches(' ');
    line.get(..(line.len() - rest.len()).min(64))
        .unwrap_or_default()
}

/// Calls `f` for each entry with its end: the start of the next entry, or `end` for the last one.
fn for_each_entry<'n, 't>(
    entries: &'n [Entry<'t>],
    end: usize,
    mut f: impl FnMut(&'n Entry<'t>, usize),
) {
    let ends = entries
        .iter()
        .skip(1)
        .map(|(key, _)| key.span.start())
        .chain([end]);
    entries
        .iter()
        .zip(ends)
        .for_each(|(entry, end)| f(entry, end));
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    /// The text of a definition file as it may be shown.
    fn masked(text: &str) -> String {
        show(&Mask::of(&yaml::read(text).unwrap(), text), text)
    }

    /// The text of a file of settings as it may be shown.
    fn masked_settings(text: &str) -> String {
        let mask = Mask::of_settings(&yaml::read(text).unwrap(), text, &|key| key != "keyFile");
        show(&mask, text)
    }

    fn show(mask: &Mask, text: &str) -> String {
        let mut start = 0;
        let lines = text.split('\n').map(|line| {
            let visible = mask.visible(line, start);
            start += line.len() + 1;
            visible.map_or_else(|| line.to_owned(), |visible| format!("{visible}***"))
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_line_is_shown_up_to_what_may_be_a_secret() {
        for (text, shown) in [
            // What follows a hidden entry is shown.
            (
                "fieldsToSync:\n  x: SECRET\n  listing: [a]\nhold: x y",
                "fieldsToSync:\n  x:***\n  listing: [a]\nhold:***",
            ),
            // Blank lines of a hidden part are hidden, too.
            ("\n- a\n  ", "***\n***\n  ***"),
            (
                "slug: zepl.SECRET\nunmanaged: [A, zepl.SECRET]\nrequireFiles: 1",
                "slug:***\nunmanaged:***\nrequireFiles: 1",
            ),
            ("unmanaged: [A, B]", "unmanaged: [A, B]"),
            // A URL with a password, also if its `@` is escaped.
            ("icon: https://u:SECRET@h/i", "icon:***"),
            ("icon: \"https://u:SECRET\\x40h/i\"", "icon:***"),
            (
                "fieldsToSync:\n  listing:\n    add: [a, b]\n    remove: [c, {d: SECRET}]",
                "fieldsToSync:\n  listing:\n    add: [a, b]\n    remove:***",
            ),
            // A key is shown if nothing but signs is before it, with its `:`.
            (
                "partnerKey: {headers: {a:\n SECRET, b: c},\n  x y: SECRET, queryParams:\n {}}",
                "partnerKey:***\n ***\n  ***\n ***",
            ),
            (
                "partnerKey :\n  headers  : {a: SECRET}",
                "partnerKey :***\n  headers  :***",
            ),
            // A comment beside a field may be a secret only if the value says nothing about it.
            (
                "fieldsToSync:\n  listing:\n  - name: true # SECRET",
                "fieldsToSync:\n  listing:\n  ***",
            ),
            (
                "fieldsToSync:\n  listing:\n    name: # a\n    type: true # b\n    rooms: yes # c\n    rates: all # d\nslug: x",
                "fieldsToSync:\n  listing:\n    name: # a\n    type: true # b\n    rooms: yes # c\n    rates:***\nslug: x",
            ),
        ] {
            assert_eq!(masked(text), shown, "{text}");
        }
    }

    #[test]
    fn of_a_file_of_settings_only_short_values_without_a_key_are_shown() {
        for (text, shown) in [
            ("listen: a\nkeyFile: SECRET", "listen: a\nkeyFile:***"),
            ("name: ' zepl.SECRET'", "name:***"),
            ("name: age-secret-key-1SECRET", "name:***"),
            (
                "names: [a, b]\nkeyFile: [SECRET]",
                "names: [a, b]\nkeyFile:***",
            ),
            ("names: [a, zepl.SECRET]", "names:***"),
            (
                "names: {a: SECRET,\n  b: SECRET}\nkeyFile:\n  c: SECRET",
                "names:***\n  b:***\nkeyFile:***\n  ***",
            ),
            (
                "workspaces:\n- name: a\n  keyFile: SECRET\n- SECRET\n- name: b\nlisten: a",
                "workspaces:\n- name: a\n  keyFile:***\n***\n- name:***\nlisten: a",
            ),
        ] {
            assert_eq!(masked_settings(text), shown, "{text}");
        }
    }

    #[test]
    fn of_a_text_that_does_not_parse_a_key_before_a_space_is_shown() {
        for (line, shown) in [
            ("  x-key: SECRET", "  x-key:"),
            ("x-key:\tSECRET", "x-key:"),
            ("x-key:", "x-key:"),
            ("  x-key:SECRET", "  "),
            ("headers:SECRET", "headers:"),
            ("a b: SECRET", ""),
            ("SECRET", ""),
        ] {
            assert_eq!(visible_unparsed(line), shown, "{line}");
        }
    }
}
