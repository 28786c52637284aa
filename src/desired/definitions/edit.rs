//! Edits the text of a definition file in place, so that comments, order, quoting and style stay as they are.
//!
//! It works on the spans of the tree that `yaml` reads, one edit after another. The caller loads the new text and
//! compares it with the wanted state ([`Edit::apply`]): a form that this module cannot handle costs an edit, and never
//! a definition.

use std::collections::BTreeMap;

use super::definition::{KEYS, is_delta};
use super::mask::is_boolean_elsewhere;
use super::yaml::{self, Node, Value};
use crate::model::{Desired, DesiredValue, FieldSet, Hold, Icon, KeySection, SecretName, Template};

/// One change to the desired state of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Set the icon, or stop managing it.
    Icon(Option<Icon>),
    /// Stop managing the icon, although the shared definition has one.
    UnmanagedIcon,
    /// Switch a field of a managed group on or off. A list needs no change for a field that is off and not in it.
    Field {
        group: String,
        field: String,
        on: bool,
    },
    /// Start to manage a group.
    Group {
        group: String,
        /// The fields that are on.
        on: FieldSet,
    },
    /// Set or remove a header or parameter of a managed section.
    Value {
        section: KeySection,
        /// The name, in the file's spelling if the file has it.
        name: String,
        value: Option<NewValue>,
    },
    /// Start to manage a section.
    KeySection {
        section: KeySection,
        values: BTreeMap<String, NewValue>,
    },
    /// Suspend changes to a provider without a hold.
    Hold(Hold),
}

/// A value below `partnerKey` that may be written into a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewValue {
    Secret(SecretName),
    /// The empty string: there is nothing to keep secret, and no secret is empty.
    Empty,
}

impl NewValue {
    /// The value of a file, if it is a reference or empty.
    pub(super) fn of(value: &DesiredValue) -> Option<Self> {
        let source = value.template.to_source();
        let new = match value.references().next() {
            Some(name) => Self::Secret(name.clone()),
            None => Self::Empty,
        };
        (new.text() == source.expose()).then_some(new)
    }

    fn text(&self) -> String {
        match self {
            Self::Secret(name) => format!("${{secret:{name}}}"),
            Self::Empty => String::new(),
        }
    }

    fn desired(&self) -> Option<DesiredValue> {
        Some(DesiredValue {
            template: Template::parse(&self.text()).ok()?,
            value: None,
        })
    }
}

impl Edit {
    /// Applies the edit to a desired state. `None` if it does not fit.
    pub(super) fn apply(&self, desired: &mut Desired) -> Option<()> {
        match self {
            Self::Icon(icon) => desired.icon.clone_from(icon),
            Self::UnmanagedIcon => desired.icon = None,
            Self::Field {
                group,
                field,
                on: true,
            } => _ = desired.fields.get_mut(group)?.insert(field.clone()),
            Self::Field {
                group,
                field,
                on: false,
            } => _ = desired.fields.get_mut(group)?.remove(field),
            Self::Group { group, on } => _ = desired.fields.insert(group.clone(), on.clone()),
            Self::Value {
                section,
                name,
                value,
            } => {
                let values = desired.partner_key.section_mut(*section).as_mut()?;
                match value {
                    Some(value) => values.insert(name.clone(), value.desired()?),
                    None => values.remove(name),
                };
            }
            Self::Hold(hold) => desired.hold = Some(hold.clone()),
            Self::KeySection { section, values } => {
                let values = values
                    .iter()
                    .map(|(name, value)| Some((name.clone(), value.desired()?)));
                *desired.partner_key.section_mut(*section) = Some(values.collect::<Option<_>>()?);
            }
        }
        Some(())
    }

    /// Applies the edit to a text. `None` if this module cannot edit its form.
    pub(super) fn edit(&self, text: &str) -> Option<String> {
        let tree = yaml::read(text).ok()?;
        let editor = Editor {
            text,
            root: tree.root.as_ref()?,
        };
        match self {
            Self::Icon(Some(icon)) => {
                editor.put(&["icon"], NewNode::Text(icon.as_str().to_owned()))
            }
            Self::Icon(None) => editor.remove(&["icon"]),
            Self::UnmanagedIcon => editor.put(&["icon"], NewNode::Null),
            Self::Field { group, field, on } => {
                let (key, value) = editor.find(&["fieldsToSync", group])?;
                match (&value.value, on) {
                    (Value::Map(_), on) => {
                        editor.put(&["fieldsToSync", group, field], NewNode::Bool(*on))
                    }
                    (Value::List(items), true) => editor.append(value, items, field),
                    (Value::List(items), false) => {
                        let Some(at) = items.iter().position(|item| item.text() == Some(field))
                        else {
                            return Some(text.to_owned());
                        };
                        editor.take_out(key, value, &editor.item_extents(items)?, at)
                    }
                    _ => None,
                }
            }
            Self::Group { group, on } => {
                let path = ["fieldsToSync", group.as_str()];
                // A group that changes the shared one is replaced.
                if let Some((_, value)) = editor.find(&path)
                    && is_delta(value)
                {
                    return self.edit(&editor.remove(&path)?);
                }
                let on = on.iter().map(String::as_str);
                editor.put(&path, NewNode::List(on.collect()))
            }
            Self::Value {
                section,
                name,
                value: None,
            } => editor.remove(&["partnerKey", section.key(), name]),
            Self::Value {
                section,
                name,
                value: Some(value),
            } => {
                // An empty partner key has two sections, both empty: the other one stays so.
                let (_, partner_key) = editor.find(&["partnerKey"])?;
                if matches!(&partner_key.value, Value::Map(sections) if sections.is_empty()) {
                    let both =
                        KeySection::BOTH.map(|section| (section.key(), NewNode::Map(Vec::new())));
                    return self.edit(&editor.put(&["partnerKey"], NewNode::Map(both.into()))?);
                }
                editor.put(
                    &["partnerKey", section.key(), name],
                    NewNode::Text(value.text()),
                )
            }
            Self::Hold(hold) => {
                let until = ("until", NewNode::Text(hold.until.to_string()));
                let reason = hold.reason.as_ref();
                let reason = reason.map(|reason| ("reason", NewNode::Text(reason.clone())));
                let hold = [until].into_iter().chain(reason).collect();
                editor.put(&["hold"], NewNode::Map(hold))
            }
            Self::KeySection { section, values } => {
                let values = values
                    .iter()
                    .map(|(name, value)| (name.as_str(), NewNode::Text(value.text())));
                editor.put(
                    &["partnerKey", section.key()],
                    NewNode::Map(values.collect()),
                )
            }
        }
    }
}

pub(super) enum NewNode<'a> {
    Null,
    Bool(bool),
    Text(String),
    List(Vec<&'a str>),
    Map(Vec<(&'a str, NewNode<'a>)>),
}

impl NewNode<'_> {
    /// The node on one line. `flow`: within brackets.
    fn inline(&self, flow: bool) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(on) => on.to_string(),
            Self::Text(text) => scalar(text, flow),
            Self::List(items) => format!(
                "[{}]",
                items
                    .iter()
                    .map(|i| scalar(i, true))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            Self::Map(entries) => {
                let entry = |(key, new): &(&str, NewNode<'_>)| {
                    format!("{}: {}", scalar(key, true), new.inline(true))
                };
                format!(
                    "{{{}}}",
                    entries.iter().map(entry).collect::<Vec<_>>().join(", ")
                )
            }
        }
    }

    /// An entry on lines of its own.
    pub(super) fn lines(&self, key: &str, indent: usize, step: usize, lines: &mut Vec<String>) {
        let at = " ".repeat(indent);
        let key = scalar(key, false);
        match self {
            Self::List(items) if !items.is_empty() => {
                lines.push(format!("{at}{key}:"));
                let inner = " ".repeat(indent + step);
                lines.extend(
                    items
                        .iter()
                        .map(|item| format!("{inner}- {}", scalar(item, false))),
                );
            }
            Self::Map(entries) if !entries.is_empty() => {
                lines.push(format!("{at}{key}:"));
                entries
                    .iter()
                    .for_each(|(key, new)| new.lines(key, indent + step, step, lines));
            }
            new => lines.push(format!("{at}{key}: {}", new.inline(false))),
        }
    }
}

/// A string in the plainest form that every YAML parser reads as that string.
fn scalar(text: &str, flow: bool) -> String {
    let reference = !flow && text.starts_with("${");
    let fits = |c: char| {
        c.is_ascii_alphanumeric() || "_-./:@%+~=?&".contains(c) || (reference && "${}".contains(c))
    };
    let plain = (text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || reference)
        && text.chars().all(fits)
        && !text.ends_with(':')
        && !is_boolean_elsewhere(text)
        && yaml::read(text).is_ok_and(|tree| tree.root.as_ref().and_then(Node::text) == Some(text));
    if plain { text.to_owned() } else { quote(text) }
}

fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric() => out.push(c),
            c => out.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

type Entry<'t> = (Node<'t>, Node<'t>);

/// A text, and the tree that was read from it.
struct Editor<'t> {
    text: &'t str,
    root: &'t Node<'t>,
}

/// A byte range, and the text that replaces it.
type Splice = (usize, usize, String);

impl<'t> Editor<'t> {
    fn splice(&self, mut splices: Vec<Splice>) -> Option<String> {
        splices.sort_unstable();
        let mut text = self.text.to_owned();
        for (start, end, new) in splices.into_iter().rev() {
            text.get(start..end)?;
            text.replace_range(start..end, &new);
        }
        Some(text)
    }

    fn find(&self, path: &[&str]) -> Option<&'t Entry<'t>> {
        let mut node = self.root;
        let mut found = None;
        for key in path {
            let Value::Map(entries) = &node.value else {
                return None;
            };
            found = entries.iter().find(|(name, _)| name.text() == Some(key));
            node = &found?.1;
        }
        found
    }

    /// Sets the value at a path, and adds missing parents.
    fn put(&self, path: &[&str], new: NewNode<'_>) -> Option<String> {
        if let Some((key, value)) = self.find(path) {
            return self.replace(key, value, new, self.is_flow(path.split_last()?.1));
        }
        let depth = (1..path.len()).rev().find(|depth| {
            path.get(..*depth)
                .and_then(|path| self.find(path))
                .is_some()
        });
        let (above, below) = path.split_at_checked(depth.unwrap_or(0))?;
        let (key, rest) = below.split_first()?;
        self.insert(
            above,
            key,
            rest.iter()
                .rev()
                .fold(new, |new, key| NewNode::Map(vec![(key, new)])),
        )
    }

    /// Whether the entries of the map at a path are within brackets.
    fn is_flow(&self, path: &[&str]) -> bool {
        let below = (1..=path.len())
            .filter_map(|depth| self.find(path.get(..depth)?))
            .map(|(_, value)| value);
        [self.root]
            .into_iter()
            .chain(below)
            .any(|node| !node.span.is_empty())
    }

    /// Replaces a scalar or an empty map. `flow`: whether it is within brackets.
    fn replace(
        &self,
        key: &Node<'_>,
        value: &Node<'_>,
        new: NewNode<'_>,
        flow: bool,
    ) -> Option<String> {
        let (mut start, end) = self.extent(value)?;
        match (&value.value, new) {
            (Value::Map(entries), NewNode::Map(new)) if entries.is_empty() && !flow => self.unfold(
                self.bare(key, value)?,
                value,
                self.column(key.span.start()),
                &new,
            ),
            (Value::Map(entries), new) if entries.is_empty() => {
                self.splice(vec![(start, end, new.inline(flow))])
            }
            (Value::Map(_) | Value::List(_), _) => None,
            (_, new) => {
                let after = self.colon(key)?;
                let between = self.text.get(after..start)?;
                let header = between.trim_start();
                if header.starts_with(['|', '>']) {
                    start = after + between.len() - header.len();
                }
                let text = match (&new, self.text.get(start..)?.chars().next()) {
                    (NewNode::Text(text), Some('"')) => quote(text),
                    (NewNode::Text(text), Some('\''))
                        if text.bytes().all(|b| b.is_ascii_graphic()) =>
                    {
                        format!("'{}'", text.replace('\'', "''"))
                    }
                    (new, _) => new.inline(flow),
                };
                self.splice(vec![(start, end, text)])
            }
        }
    }

    /// Adds an entry to the map at a path: in the order of the keys at the top level, elsewhere at the end.
    fn insert(&self, path: &[&str], key: &str, new: NewNode<'_>) -> Option<String> {
        let (name, map) = self
            .find(path)
            .map_or((None, self.root), |(name, map)| (Some(name), map));
        let Value::Map(entries) = &map.value else {
            return None;
        };
        if let (Some(name), Some((_, above))) = (name, path.split_last())
            && entries.is_empty()
            && !self.is_flow(above)
            && let Some(colon) = self.bare(name, map)
        {
            return self.unfold(colon, map, self.column(name.span.start()), &[(key, new)]);
        }
        let rank = |entry: &Entry<'_>| KEYS.iter().position(|known| entry.0.text() == Some(known));
        let wanted = KEYS.iter().position(|known| *known == key);
        let mut before = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| name.is_some() || rank(entry) < wanted);
        let last = if name.is_some() {
            before.next_back()
        } else {
            before.max_by_key(|(_, entry)| rank(entry))
        };
        if !map.span.is_empty() {
            let extents = self.extents(entries)?;
            let text = format!("{}: {}", scalar(key, true), new.inline(true));
            return self.insert_within(map, &extents, last.map(|(at, _)| at), &text);
        }
        let mut lines = Vec::new();
        new.lines(
            key,
            self.column(entries.first()?.0.span.start()),
            self.step(),
            &mut lines,
        );
        let (_, above) = last?;
        self.splice(vec![self.lines_after(self.end(&above.1)?, &lines)])
    }

    /// The end of the `:` of `name: {}`, if that is all of one line.
    fn bare(&self, name: &Node<'_>, map: &Node<'_>) -> Option<usize> {
        let colon = self.colon(name)?;
        let text = self.text.get(colon..map.span.end())?;
        (text.replace(' ', "") == "{}").then_some(colon)
    }

    /// Replaces an empty map with entries on lines of their own.
    fn unfold(
        &self,
        colon: usize,
        map: &Node<'_>,
        indent: usize,
        entries: &[(&str, NewNode<'_>)],
    ) -> Option<String> {
        let (end, step) = (map.span.end(), self.step());
        let mut lines = Vec::new();
        entries
            .iter()
            .for_each(|(key, new)| new.lines(key, indent + step, step, &mut lines));
        self.splice(vec![
            (colon, end, String::new()),
            self.lines_after(end, &lines),
        ])
    }

    /// Adds an item to a list.
    fn append(&self, list: &Node<'_>, items: &[Node<'_>], item: &str) -> Option<String> {
        if !list.span.is_empty() {
            let (extents, last) = (self.item_extents(items)?, items.len().checked_sub(1));
            return self.insert_within(list, &extents, last, &scalar(item, true));
        }
        let last = items.last()?;
        let prefix = self
            .text
            .get(self.line_start(last.span.start())..last.span.start())?;
        let dash = prefix.trim() == "-" && !prefix.contains('\t');
        let line = dash.then(|| format!("{prefix}{}", scalar(item, false)))?;
        self.splice(vec![self.lines_after(self.end(last)?, &[line])])
    }

    /// Adds an item to a list or map within brackets, after the one with the index `after`.
    fn insert_within(
        &self,
        node: &Node<'_>,
        extents: &[(usize, usize)],
        after: Option<usize>,
        new: &str,
    ) -> Option<String> {
        let (open, close) = (node.span.start() + 1, node.span.end().checked_sub(1)?);
        let Some(after) = after else {
            let inner = self.text.get(open..close)?;
            let end = if inner.trim().is_empty() { close } else { open };
            return self.splice(vec![(open, end, new.to_owned())]);
        };
        let (start, end) = *extents.get(after)?;
        let comma = self.comma(end, close);
        let line = self.line_start(start);
        let next = self.line_end(comma.unwrap_or(end));
        // One item per line: the new one gets a line, too.
        if line >= open && next <= close && self.text.get(line..start)?.trim().is_empty() {
            let indent = self.text.get(line..start)?;
            let (mine, its) = if comma.is_some() {
                ("", ",")
            } else {
                (",", "")
            };
            let new = format!("{indent}{new}{its}");
            return self.splice(vec![
                (end, end, mine.to_owned()),
                self.lines_after(comma.unwrap_or(end), &[new]),
            ]);
        }
        self.splice(vec![(end, end, format!(", {new}"))])
    }

    /// Removes the entry at a path.
    fn remove(&self, path: &[&str]) -> Option<String> {
        let (last, above) = path.split_last()?;
        let (name, map) = self
            .find(above)
            .map_or((self.root, self.root), |(name, map)| (name, map));
        let Value::Map(entries) = &map.value else {
            return None;
        };
        let at = entries
            .iter()
            .position(|(key, _)| key.text() == Some(last))?;
        self.take_out(name, map, &self.extents(entries)?, at)
    }

    /// Removes one item or entry of the list or map under the key `name`.
    fn take_out(
        &self,
        name: &Node<'_>,
        node: &Node<'_>,
        extents: &[(usize, usize)],
        at: usize,
    ) -> Option<String> {
        let (start, end) = *extents.get(at)?;
        if !node.span.is_empty() {
            return self.take_out_of_brackets(node, extents, at);
        }
        let mut splices = vec![self.without_lines(start, end)?];
        if extents.len() == 1 {
            let none = if matches!(node.value, Value::List(_)) {
                " []"
            } else {
                " {}"
            };
            let colon = self.colon(name)?;
            splices.push((colon, colon, none.to_owned()));
        }
        self.splice(splices)
    }

    fn take_out_of_brackets(
        &self,
        node: &Node<'_>,
        extents: &[(usize, usize)],
        at: usize,
    ) -> Option<String> {
        let (open, close) = (node.span.start() + 1, node.span.end().checked_sub(1)?);
        let (start, end) = *extents.get(at)?;
        let comma = self.comma(end, close);
        let after = comma.map_or(end, |comma| comma + 1);
        let (line, next) = (self.line_start(start), self.line_end(after));
        let rest = self.text.get(after..next)?.trim();
        let alone = self.text.get(line..start)?.trim().is_empty()
            && (rest.is_empty() || rest.starts_with('#'));
        if alone && line >= open && next <= close {
            return self.splice(vec![(line, next, String::new())]);
        }
        let blanks = |text: &str| text.len() - text.trim_end_matches([' ', '\t']).len();
        let before = self.text.get(open..start)?;
        let bare = start - blanks(before);
        let (from, to) = if comma.is_some() {
            let rest = self.text.get(after..close)?;
            let kept = rest.trim_start_matches([' ', '\t']);
            let to = after + rest.len() - kept.len();
            if kept.is_empty() || kept.starts_with(['\r', '\n']) {
                (bare, to)
            } else {
                (start, to)
            }
        } else if self.text.get(..bare)?.ends_with(',') {
            (bare - 1, end)
        } else {
            (start, end)
        };
        // Only white space is left.
        let inner = [self.text.get(open..from)?, self.text.get(to..close)?];
        let (from, to) = if inner.iter().all(|text| text.trim().is_empty()) {
            (open, close)
        } else {
            (from, to)
        };
        self.splice(vec![(from, to, String::new())])
    }

    fn extents(&self, entries: &[Entry<'_>]) -> Option<Vec<(usize, usize)>> {
        entries
            .iter()
            .map(|(key, value)| Some((key.span.start(), self.end(value)?)))
            .collect()
    }

    fn item_extents(&self, items: &[Node<'_>]) -> Option<Vec<(usize, usize)>> {
        items.iter().map(|item| self.extent(item)).collect()
    }

    /// The bytes of a node, without the line breaks after it.
    fn extent(&self, node: &Node<'_>) -> Option<(usize, usize)> {
        let start = node.span.start();
        let content = self.text.get(start..node.span.end())?;
        Some((start, start + content.trim_end().len()))
    }

    /// The end of a node, without the line breaks after it.
    fn end(&self, node: &Node<'_>) -> Option<usize> {
        match &node.value {
            Value::List(items) if node.span.is_empty() => self.end(items.last()?),
            Value::Map(entries) if node.span.is_empty() => self.end(&entries.last()?.1),
            _ => self.extent(node).map(|(_, end)| end),
        }
    }

    /// The end of the `:` after a key.
    fn colon(&self, key: &Node<'_>) -> Option<usize> {
        let rest = self.text.get(key.span.end()..)?;
        rest.trim_start()
            .starts_with(':')
            .then(|| key.span.end() + rest.len() - rest.trim_start().len() + 1)
    }

    /// The comma after an item, if there is one before `limit`.
    fn comma(&self, from: usize, limit: usize) -> Option<usize> {
        let mut at = from;
        loop {
            let rest = self.text.get(at..limit)?;
            let blank = rest.len() - rest.trim_start().len();
            at += blank;
            match rest.trim_start().chars().next()? {
                ',' => return Some(at),
                '#' => at = self.line_end(at),
                _ => return None,
            }
        }
    }

    /// The indentation of one level.
    fn step(&self) -> usize {
        let Value::Map(entries) = &self.root.value else {
            return 2;
        };
        let inner = |(key, value): &Entry<'_>| {
            let inside = !value.is_scalar() && value.span.is_empty();
            inside.then(|| {
                self.column(value.span.start())
                    .saturating_sub(self.column(key.span.start()))
            })
        };
        entries
            .iter()
            .filter_map(inner)
            .find(|step| *step > 0)
            .unwrap_or(2)
    }

    fn column(&self, at: usize) -> usize {
        at - self.line_start(at)
    }

    fn line_start(&self, at: usize) -> usize {
        self.text
            .get(..at)
            .and_then(|before| before.rfind('\n'))
            .map_or(0, |at| at + 1)
    }

    /// The start of the line after `at`.
    fn line_end(&self, at: usize) -> usize {
        self.text
            .get(at..)
            .and_then(|rest| rest.find('\n'))
            .map_or(self.text.len(), |length| at + length + 1)
    }

    /// Inserts lines after the line of `at`.
    fn lines_after(&self, at: usize, lines: &[String]) -> Splice {
        let at = self.line_end(at);
        let end = if self.text.contains("\r\n") {
            "\r\n"
        } else {
            "\n"
        };
        let lines = lines.join(end);
        let unended = !self
            .text
            .get(..at)
            .is_some_and(|before| before.ends_with('\n'));
        (
            at,
            at,
            if unended {
                format!("{end}{lines}")
            } else {
                format!("{lines}{end}")
            },
        )
    }

    /// Removes the lines of an item or entry.
    fn without_lines(&self, start: usize, end: usize) -> Option<Splice> {
        let (mut from, to) = (self.line_start(start), self.line_end(end));
        let before = self.text.get(from..start)?.trim();
        if !self.text.get(..to)?.ends_with('\n') {
            // The last line had no line break, so the new last line gets none.
            from = self.text.get(..from)?.trim_end_matches(['\r', '\n']).len();
        }
        matches!(before, "" | "-").then(|| (from, to, String::new()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
