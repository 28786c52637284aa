//! Reads the tree of a definition file into desired state, and reports all problems of the file at once.
//!
//! Reading continues after a problem if the rest still has a meaning. This module knows the file format only: no file
//! system, no catalogue, no sources of secrets.
//!
//! Never: repeat a value in a message, or a key that is not a valid name.

use std::collections::{BTreeMap, HashMap};

use jiff::civil::Date;

use super::mask::is_part_of_a_partner_key;
use super::reader::{Entry, MERGE_KEY, Reader, quote_name};
use super::source::{Collected, Collector, Source};
use super::yaml::{Node, Span, Tree, Value};
use crate::model::{
    Code, Desired, DesiredPartnerKey, DesiredValue, Diagnostic, FieldSet, Hold, Icon, KeySection,
    Provider, Template, character_name, check_header_name, check_value,
};

pub(crate) const KEYS: [&str; 5] = ["provider", "icon", "partnerKey", "fieldsToSync", "hold"];
/// The keys of a group that changes a shared group.
pub(super) const DELTA_KEYS: [&str; 2] = ["add", "remove"];
/// The longest name of a group or field, in characters.
pub(crate) const MAX_NAME: usize = 100;
/// The longest name of a header or query parameter, in characters.
pub(crate) const MAX_PARAMETER_NAME: usize = 256;
/// The most headers, or query parameters, of a definition.
pub const MAX_PARAMETERS: usize = 100;
/// The longest value below `partnerKey`, in bytes, as it is written and as it is sent. Servers accept less.
pub(crate) const MAX_VALUE: usize = 16 << 10;
/// The longest reason of a hold, in characters.
pub(crate) const MAX_REASON: usize = 500;

/// The content of a definition file.
pub(crate) struct Definition {
    /// The provider, if the file has a valid one.
    pub(crate) provider: Option<Provider>,
    /// `None` if the file has an error.
    pub(crate) desired: Option<Desired>,
    pub(crate) locations: Locations,
    pub(crate) collected: Collected,
}

/// The spans of what later steps check or show.
#[derive(Debug, Default)]
pub(crate) struct Locations {
    /// The provider's name, if it is valid.
    pub(crate) provider: Option<Span>,
    pub(super) icon: Option<Span>,
    /// The key of each section of the partner key.
    pub(super) sections: Vec<(KeySection, Span)>,
    /// Every group, with every field that it names.
    pub(crate) groups: Vec<Group>,
    /// The values below `partnerKey`.
    pub(crate) values: Vec<Parameter>,
    pub(crate) hold: Option<Span>,
    pub(super) overrides: Overrides,
    /// Whether the file has a part, or something meant as one.
    has_parts: bool,
}

/// The forms of a file that only have a meaning with a shared definition of the same provider.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    /// Whether the icon is `null`: not managed, whatever the shared definition says.
    pub(super) icon: bool,
    /// The sections that are `null`.
    pub(super) sections: Vec<KeySection>,
    /// The groups that are `null`.
    pub(super) groups: Vec<String>,
    /// Whether the hold is `null`.
    pub(super) hold: bool,
    /// The groups that change the shared group, by name.
    pub(super) deltas: BTreeMap<String, GroupDelta>,
    /// The problems of a `null`, if there is no shared definition.
    pub(super) problems: Vec<Diagnostic>,
}

/// A group that is written as `{add: […], remove: […]}`.
#[derive(Debug, Default)]
pub(super) struct GroupDelta {
    pub(super) add: FieldSet,
    pub(super) remove: FieldSet,
}

impl GroupDelta {
    pub(super) fn apply(&self, shared: &FieldSet) -> FieldSet {
        let kept = shared.difference(&self.remove).cloned();
        kept.chain(self.add.iter().cloned()).collect()
    }
}

/// A part of a definition, to find it in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    Definition,
    Icon,
    /// A header or query parameter.
    Parameter(KeySection, &'a str),
    Field {
        group: &'a str,
        field: &'a str,
    },
    Hold,
}

impl Locations {
    /// Whether the file names its provider and nothing else.
    pub(super) fn is_without_parts(&self) -> bool {
        self.provider.is_some() && !self.has_parts
    }

    /// The span of a part, or of its parent if the file does not name the part.
    pub(crate) fn find(&self, subject: Subject<'_>) -> Option<Span> {
        let place = match subject {
            Subject::Definition => None,
            Subject::Icon => self.icon,
            Subject::Hold => self.hold,
            Subject::Parameter(section, name) => {
                let same = |value: &&Parameter| {
                    value.section == section && section.fold(&value.name) == section.fold(name)
                };
                let section_key = || {
                    self.sections
                        .iter()
                        .find(|(of, _)| *of == section)
                        .map(|(_, at)| *at)
                };
                self.values
                    .iter()
                    .find(same)
                    .map(|value| value.key)
                    .or_else(section_key)
            }
            Subject::Field { group, field } => {
                self.groups.iter().find(|of| of.name == group).map(|group| {
                    group
                        .fields
                        .iter()
                        .find(|(name, _)| name == field)
                        .map_or(group.at, |(_, at)| *at)
                })
            }
        };
        place.or(self.provider)
    }
}

/// A header or query parameter in the file.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) section: KeySection,
    pub(crate) name: String,
    /// The span of the name.
    key: Span,
    /// The span of the value.
    pub(crate) at: Span,
    pub(crate) template: Template,
}

/// A group of fields in the file.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) at: Span,
    pub(crate) fields: Vec<(String, Span)>,
    /// Whether it is a map in which no field is on.
    pub(crate) all_false: bool,
}

/// Whether a part is `null`, in a word. A key without a value may be a half-written one.
fn is_unmanaged(node: &Node<'_>) -> bool {
    matches!(node.value, Value::Null) && !node.span.is_empty()
}

/// Whether a group changes a shared group. A map of booleans has fields of these names instead.
pub(super) fn is_delta(node: &Node<'_>) -> bool {
    let Value::Map(entries) = &node.value else {
        return false;
    };
    let mut keys = entries.iter().map(|(key, _)| key.text());
    keys.all(|key| key.is_some_and(|key| DELTA_KEYS.contains(&key)))
        && entries
            .iter()
            .any(|(_, value)| matches!(value.value, Value::List(_)))
}

pub(crate) fn read_definition(source: &Source, tree: &Tree<'_>) -> Definition {
    let mut reader = Reader::new(source, tree);
    let mut locations = Locations::default();
    let (provider, desired) = reader.definition(tree, &mut locations);
    let collected = reader.problems.finish();
    Definition {
        provider,
        desired: desired.filter(|_| !collected.has_errors),
        locations,
        collected,
    }
}

pub(crate) fn warn_all_off(problems: &mut Collector<'_>, code: Code, group: &Group) {
    let message = format!(
        "this switches off every field of {}",
        quote_name(&group.name, "group")
    );
    problems
        .warning(code, Some(group.at), message)
        .help("to leave the group as it is in Calry, remove it");
}

#[must_use]
pub fn is_field_name(name: &str) -> bool {
    !name.is_empty()
        && name != MERGE_KEY
        && name.chars().nth(MAX_NAME).is_none()
        && !name.contains(|c: char| c.is_control() || c.is_whitespace())
}

#[must_use]
pub fn is_group_name(name: &str) -> bool {
    is_field_name(name) && !is_part_of_a_partner_key(name)
}

#[must_use]
pub fn is_parameter_name(section: KeySection, name: &str) -> bool {
    check_parameter_name(section, name).is_none()
}

/// The problem with the name of a header or query parameter, if there is one.
fn check_parameter_name(section: KeySection, name: &str) -> Option<String> {
    let problem = match section {
        KeySection::Headers => check_header_name(name).err().map(|error| error.to_string()),
        KeySection::QueryParams if name.is_empty() || name.contains(char::is_control) => Some(
            "the name of a query parameter must not be empty or contain control characters"
                .to_owned(),
        ),
        KeySection::QueryParams if name == MERGE_KEY => Some("`<<` cannot be a name".to_owned()),
        KeySection::QueryParams => None,
    };
    let too_long = || format!("this name has more than {MAX_PARAMETER_NAME} characters");
    problem.or_else(|| {
        name.chars()
            .nth(MAX_PARAMETER_NAME)
            .is_some()
            .then(too_long)
    })
}

impl Reader<'_> {
    fn definition(
        &mut self,
        tree: &Tree<'_>,
        locations: &mut Locations,
    ) -> (Option<Provider>, Option<Desired>) {
        let Some(entries) = self.root(tree, "a definition", "begin with `provider: NAME`") else {
            return (None, None);
        };
        let mut provider = None;
        let mut has_provider = false;
        let (mut icon, mut hold) = (None, None);
        let mut partner_key = DesiredPartnerKey::default();
        let mut fields = BTreeMap::new();
        locations.has_parts = entries.iter().any(|entry| entry.name != "provider");
        for entry in &entries {
            match entry.name {
                "provider" => {
                    has_provider = true;
                    provider = self.provider(entry);
                    locations.provider = provider.is_some().then_some(entry.value.span);
                }
                "icon" => {
                    locations.icon = Some(entry.at);
                    let overrides = &mut locations.overrides;
                    overrides.icon = is_unmanaged(entry.value);
                    icon = self.part(entry, overrides, Self::icon);
                }
                "partnerKey" => partner_key = self.partner_key(entry, locations),
                "fieldsToSync" => fields = self.fields(entry, locations),
                "hold" => {
                    locations.hold = Some(entry.at);
                    let overrides = &mut locations.overrides;
                    overrides.hold = is_unmanaged(entry.value);
                    hold = self.part(entry, overrides, Self::hold);
                }
                _ => self.unknown_key(entry, "a definition", &KEYS),
            }
        }
        if !has_provider {
            let stem = self
                .source
                .file_name()
                .rsplit_once('.')
                .map_or("", |(stem, _)| stem);
            let guess = Provider::parse(&stem.to_ascii_uppercase());
            let at = entries.first().map_or(Span::default(), |entry| entry.at);
            self.error(Code::MissingKey, at, "the definition has no `provider`")
                .help(format!(
                    "add `provider: {}`",
                    guess.as_ref().map_or("NAME", Provider::as_str)
                ));
        }
        let desired = provider.clone().map(|provider| Desired {
            provider,
            icon,
            partner_key,
            fields,
            hold,
        });
        (provider, desired)
    }

    /// Reads a part that may be `null`. The problems of a `null` count only if there is no shared definition.
    fn part<T>(
        &mut self,
        entry: &Entry<'_>,
        overrides: &mut Overrides,
        read: impl FnOnce(&mut Self, &Entry<'_>) -> T,
    ) -> T {
        if !is_unmanaged(entry.value) {
            return read(self, entry);
        }
        let problems = std::mem::replace(&mut self.problems, Collector::new(self.source, 0));
        let part = read(self, entry);
        let apart = std::mem::replace(&mut self.problems, problems);
        overrides.problems.extend(apart.finish().diagnostics);
        part
    }

    fn icon(&mut self, entry: &Entry<'_>) -> Option<Icon> {
        let leave = "to leave it as it is in Calry, remove the line";
        let text = self.text("`icon`", entry, Some(leave))?;
        Icon::parse(text)
            .map_err(|error| {
                _ = self.error(
                    Code::InvalidValue,
                    entry.value.span,
                    format!("the icon {error}"),
                );
            })
            .ok()
    }

    fn provider(&mut self, entry: &Entry<'_>) -> Option<Provider> {
        let text = self.text("`provider`", entry, None)?;
        let provider = Provider::parse(text)
            .map_err(|error| {
                let upper = text.to_ascii_uppercase();
                self.error(Code::InvalidValue, entry.value.span, error.to_string())
                    .help_with(|| {
                        Provider::parse(&upper)
                            .ok()
                            .map(|meant| format!("did you mean `{meant}`?"))
                    });
            })
            .ok()?;
        let source = self.source;
        let (stem, ending) = source
            .file_name()
            .rsplit_once('.')
            .unwrap_or((source.file_name(), "yaml"));
        let wanted = provider.file_stem();
        if stem != wanted {
            let message = format!("the file name does not match the provider {provider}");
            self.error(Code::FileName, entry.value.span, message)
                .help(format!(
                    "rename the file to `{wanted}.{ending}`, or correct the provider"
                ));
        }
        Some(provider)
    }

    fn partner_key(&mut self, entry: &Entry<'_>, locations: &mut Locations) -> DesiredPartnerKey {
        let mut key = DesiredPartnerKey::default();
        let help = "write `headers` and `queryParams` below it, each with its own entries, or remove it to leave all of it as it is in Calry";
        let Some(sections) = self.entries("`partnerKey`", entry.at, entry.value, Some(help)) else {
            return key;
        };
        if matches!(&entry.value.value, Value::Map(map) if map.is_empty()) {
            let message = "`partnerKey` is empty: every header and query parameter will be removed from Calry";
            self.warning(Code::Empty, entry.at, message)
                .help("to leave them as they are, remove the line");
            return DesiredPartnerKey {
                headers: Some(BTreeMap::new()),
                query_params: Some(BTreeMap::new()),
            };
        }
        for entry in &sections {
            match KeySection::BOTH
                .into_iter()
                .find(|section| section.key() == entry.name)
            {
                Some(section) => {
                    locations.sections.push((section, entry.at));
                    if is_unmanaged(entry.value) {
                        locations.overrides.sections.push(section);
                        let help = |reader: &mut Self, entry: &Entry<'_>| {
                            reader.section_entries(section, entry);
                        };
                        self.part(entry, &mut locations.overrides, help);
                    } else {
                        *key.section_mut(section) = self.section(section, entry, locations);
                    }
                }
                None => self.unknown_key(
                    entry,
                    "`partnerKey`",
                    &KeySection::BOTH.map(KeySection::key),
                ),
            }
        }
        key
    }

    fn section_entries<'n>(
        &mut self,
        section: KeySection,
        entry: &Entry<'n>,
    ) -> Option<Vec<Entry<'n>>> {
        let help = "write `name: value` below it, or remove it to leave all as it is in Calry";
        self.entries(&format!("`{section}`"), entry.at, entry.value, Some(help))
    }

    fn section(
        &mut self,
        section: KeySection,
        entry: &Entry<'_>,
        locations: &mut Locations,
    ) -> Option<BTreeMap<String, DesiredValue>> {
        let entries = self.section_entries(section, entry)?;
        if entries.len() > MAX_PARAMETERS {
            let message = format!(
                "`{section}` has {} entries; the limit is {MAX_PARAMETERS}",
                entries.len()
            );
            self.error(Code::InvalidValue, entry.at, message);
            return None;
        }
        let mut values = BTreeMap::new();
        let mut seen = HashMap::new();
        for entry in &entries {
            if !self.is_valid_parameter_name(section, entry) {
                continue;
            }
            if let Some(first) = seen.insert(section.fold(entry.name), entry.at) {
                self.duplicate(
                    &format!("{} (in another case)", quote_name(entry.name, "name")),
                    entry.at,
                    first,
                );
                continue;
            }
            if let Some(template) = self.template(entry) {
                let value = template.resolve(|_| None).ok();
                let name = entry.name.to_owned();
                let (key, at) = (entry.at, entry.value.span);
                locations.values.push(Parameter {
                    section,
                    name,
                    key,
                    at,
                    template: template.clone(),
                });
                values.insert(entry.name.to_owned(), DesiredValue { template, value });
            }
        }
        Some(values)
    }

    fn is_valid_parameter_name(&mut self, section: KeySection, entry: &Entry<'_>) -> bool {
        let problem = check_parameter_name(section, entry.name);
        let valid = problem.is_none();
        if let Some(problem) = problem {
            self.error(Code::InvalidValue, entry.at, problem);
        }
        valid
    }

    fn template(&mut self, entry: &Entry<'_>) -> Option<Template> {
        let text = self.text(
            &format!("the value of {}", quote_name(entry.name, "key")),
            entry,
            Some("write `\"\"` for an empty string"),
        )?;
        let at = entry.value.span;
        if text.len() > MAX_VALUE {
            self.error(
                Code::InvalidValue,
                at,
                format!("the value is longer than {} KiB", MAX_VALUE >> 10),
            );
            return None;
        }
        match check_value(text) {
            Ok(None) => {}
            Ok(Some(unseen)) => {
                let message = format!(
                    "the value contains an invisible character ({})",
                    character_name(unseen)
                );
                self.warning(Code::InvalidValue, at, message);
            }
            Err(problem) => {
                let help = "write the value on one line, in quotes if necessary";
                self.error(Code::InvalidValue, at, format!("the value {problem}"))
                    .help(help);
                return None;
            }
        }
        let template = Template::parse(text)
            .map_err(|e| _ = self.error(Code::InvalidValue, at, e.to_string()))
            .ok()?;
        if !text.is_empty()
            && template.references().next().is_none()
            && looks_like_a_credential(entry.name)
        {
            let message = format!(
                "{} looks like a credential in plain text",
                quote_name(entry.name, "name")
            );
            let help = "store it as a secret and refer to it with `${secret:NAME}`; replace a value that was ever committed";
            self.warning(Code::PlainCredential, at, message).help(help);
        }
        Some(template)
    }

    fn fields(
        &mut self,
        entry: &Entry<'_>,
        locations: &mut Locations,
    ) -> BTreeMap<String, FieldSet> {
        let mut fields = BTreeMap::new();
        let help = "write groups of fields below it, such as `listing: [name, type]`";
        let Some(groups) = self.entries("`fieldsToSync`", entry.at, entry.value, Some(help)) else {
            return fields;
        };
        if matches!(&entry.value.value, Value::Map(map) if map.is_empty()) {
            self.warning(
                Code::Empty,
                entry.at,
                "`fieldsToSync` is empty: it manages no group",
            )
            .help("name the groups to manage, or remove the line");
        }
        for entry in &groups {
            if is_part_of_a_partner_key(entry.name) {
                // Its values would be read as fields, and shown.
                let message = format!(
                    "`{}` is not a group of fields: it belongs below `partnerKey`",
                    entry.name
                );
                self.error(Code::UnknownKey, entry.at, message)
                    .help("fix the indentation");
                continue;
            }
            if !self.is_valid_field_name(entry.name, entry.at, "group") {
                continue;
            }
            let mut group = Group {
                name: entry.name.to_owned(),
                at: entry.at,
                fields: Vec::new(),
                all_false: false,
            };
            if is_unmanaged(entry.value) {
                let overrides = &mut locations.overrides;
                overrides.groups.push(group.name.clone());
                let fields = &mut group.fields;
                self.part(entry, overrides, |reader, entry| {
                    reader.group(entry, fields)
                });
                locations.groups.push(group);
                continue;
            }
            if is_delta(entry.value) {
                let delta = self.delta(entry, &mut group.fields);
                let name = group.name.clone();
                locations.overrides.deltas.insert(name, delta);
                locations.groups.push(group);
                continue;
            }
            let on = self.group(entry, &mut group.fields);
            let none = on.as_ref().is_some_and(FieldSet::is_empty);
            group.all_false = none && matches!(entry.value.value, Value::Map(_));
            if none && !group.all_false {
                warn_all_off(&mut self.problems, Code::AllOff, &group);
            }
            locations.groups.push(group);
            let Some(on) = on else { continue };
            fields.insert(entry.name.to_owned(), on);
        }
        fields
    }

    /// The fields of a group that are on; `None` if the group has an error.
    fn group(&mut self, entry: &Entry<'_>, all: &mut Vec<(String, Span)>) -> Option<FieldSet> {
        let what = quote_name(entry.name, "group");
        match &entry.value.value {
            Value::List(items) => self.field_list(entry, items, all),
            Value::Map(_) => {
                let mut on = FieldSet::new();
                let mut valid = true;
                for field in &self.entries(&what, entry.at, entry.value, None)? {
                    let state = self.field_state(field);
                    if !self.is_valid_field_name(field.name, field.at, "field") || state.is_none() {
                        valid = false;
                        continue;
                    }
                    if state == Some(true) {
                        on.insert(field.name.to_owned());
                    }
                    all.push((field.name.to_owned(), field.at));
                }
                valid.then_some(on)
            }
            _ => {
                // Never an empty list: a person who wrote `all` would switch every field off.
                let help = match &entry.value.value {
                    Value::Null => {
                        "write the fields that are on below it, each as `- name`; to leave the group as it is in Calry, \
                         remove the line"
                    }
                    _ => "name the fields that are on, in brackets: `[name, type]`",
                };
                self.wrong_type(
                    &what,
                    entry.at,
                    entry.value,
                    "a list of fields or a map (`field: true`)",
                    Some(help),
                );
                None
            }
        }
    }

    /// The fields that a list names; `None` if it has an error.
    fn field_list(
        &mut self,
        entry: &Entry<'_>,
        items: &[Node<'_>],
        all: &mut Vec<(String, Span)>,
    ) -> Option<FieldSet> {
        let mut on = FieldSet::new();
        let mut seen = HashMap::with_capacity(items.len());
        let mut valid = true;
        for item in items {
            if let Value::Map(map) = &item.value {
                let at = map.first().map_or(entry.at, |(key, _)| key.span);
                self.error(Code::WrongType, at, "a field in a list cannot have a value")
                    .help(
                        "write `- name` for a field that is on, or `name: true` without the dash",
                    );
                valid = false;
                continue;
            }
            let item = Entry {
                name: "",
                at: if item.span.is_empty() {
                    entry.at
                } else {
                    item.span
                },
                value: item,
            };
            let field = self
                .text("a field", &item, None)
                .filter(|name| self.is_valid_field_name(name, item.at, "field"));
            let Some(field) = field else {
                valid = false;
                continue;
            };
            if let Some(first) = seen.insert(field, item.at) {
                self.duplicate(&quote_name(field, "field"), item.at, first);
                seen.insert(field, first);
                continue;
            }
            on.insert(field.to_owned());
            // What follows an item of another form may belong to that item, and not be a name.
            if valid {
                all.push((field.to_owned(), item.at));
            }
        }
        valid.then_some(on)
    }

    /// A group that adds fields to the shared group, or removes some.
    fn delta(&mut self, entry: &Entry<'_>, all: &mut Vec<(String, Span)>) -> GroupDelta {
        let mut delta = GroupDelta::default();
        let what = quote_name(entry.name, "group");
        let entries = self.entries(&what, entry.at, entry.value, None);
        for entry in &entries.unwrap_or_default() {
            let Value::List(items) = &entry.value.value else {
                let what = quote_name(entry.name, "key");
                let help = "name the fields in brackets: `[name, type]`";
                self.wrong_type(&what, entry.at, entry.value, "a list of fields", Some(help));
                continue;
            };
            let fields = self.field_list(entry, items, all).unwrap_or_default();
            match entry.name {
                "add" => delta.add = fields,
                _ => delta.remove = fields,
            }
        }
        if let Some(both) = delta.add.intersection(&delta.remove).next() {
            let message = format!("{} is both added and removed", quote_name(both, "field"));
            self.error(Code::InvalidValue, entry.at, message)
                .help("remove it from one of the two lists");
        }
        delta
    }

    fn field_state(&mut self, field: &Entry<'_>) -> Option<bool> {
        match &field.value.value {
            Value::Bool(on) => Some(*on),
            value => {
                let spelt = matches!(value, Value::SpelledBool | Value::Number | Value::Text(_));
                let help =
                    spelt.then_some("write `true` or `false`, in lower case and without quotes");
                self.wrong_type(
                    &quote_name(field.name, "field"),
                    field.at,
                    field.value,
                    "`true` or `false`",
                    help,
                );
                None
            }
        }
    }

    fn is_valid_field_name(&mut self, name: &str, at: Span, noun: &str) -> bool {
        let valid = is_field_name(name);
        if !valid {
            let message = format!(
                "the name of a {noun} must have 1 to {MAX_NAME} characters, without spaces"
            );
            self.error(Code::InvalidValue, at, message);
        }
        valid
    }

    pub(super) fn hold(&mut self, entry: &Entry<'_>) -> Option<Hold> {
        let help = "write `until: YYYY-MM-DD` and `reason: …` below it, or remove it";
        let entries = self.entries("`hold`", entry.at, entry.value, Some(help))?;
        let (mut until, mut reason) = (None, None);
        let (mut has_until, mut has_reason) = (false, false);
        for entry in &entries {
            match entry.name {
                "until" => {
                    has_until = true;
                    let text = self.text("`until`", entry, Some("write a date: `YYYY-MM-DD`"));
                    until = text.and_then(parse_date);
                    if text.is_some() && until.is_none() {
                        self.error(
                            Code::InvalidValue,
                            entry.value.span,
                            "`until` must be a date",
                        )
                        .help("write it as `YYYY-MM-DD`");
                    }
                }
                "reason" => {
                    has_reason = true;
                    reason = self.reason(entry);
                    has_reason &= reason.as_ref().is_none_or(|text| !text.is_empty());
                }
                _ => self.unknown_key(entry, "`hold`", &["until", "reason"]),
            }
        }
        if !has_until {
            self.error(Code::MissingKey, entry.at, "the hold has no `until`")
                .help("add `until: YYYY-MM-DD`, the last day of the hold");
        }
        if !has_reason {
            self.warning(Code::Hold, entry.at, "the hold has no reason")
                .help("add `reason: …` for other readers of the file");
        }
        until.map(|until| Hold {
            until,
            reason: reason.filter(|text| !text.is_empty()),
        })
    }
}

/// Parses a date in the form `YYYY-MM-DD`, and in no other.
fn parse_date(text: &str) -> Option<Date> {
    let form = |(at, b): (usize, u8)| {
        if matches!(at, 4 | 7) {
            b == b'-'
        } else {
            b.is_ascii_digit()
        }
    };
    // Digits after the day are refused by the parser.
    let is_in_form = text.bytes().enumerate().all(form);
    is_in_form.then(|| text.parse().ok()).flatten()
}

fn looks_like_a_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // `auth` also stands for authorization, `passw` for password and passwd.
    [
        "key",
        "token",
        "secret",
        "passw",
        "auth",
        "credential",
        "signature",
        "cookie",
    ]
    .iter()
    .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_four_two_and_two_digits_are_a_date() {
        assert_eq!(
            parse_date("2026-01-02"),
            Some(jiff::civil::date(2026, 1, 2))
        );
        for text in [
            "",
            "2026",
            "2026-01",
            "2026-01-0",
            "2026-01-010",
            "2026-01-0100",
            "2026-01-02T03",
            "20260102",
            "2026-W01-2",
            "+2026-01-02",
        ] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }
}
