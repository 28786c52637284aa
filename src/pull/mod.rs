//! The way back: from the live state to definition files, so that what Calry has becomes what git wants.
//!
//! [`prepare`] decides, without touching anything: what each file should say, in changes that leave the rest of it as it is,
//! and which secrets that takes. [`Pull::write`] writes what was prepared.
//!
//! What it never does: write to Calry, write a value that stands below `partnerKey` into a file, or bring a part under
//! management that a file leaves out and nobody named.

mod part;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub use part::{InvalidPart, Part};

use crate::desired::definitions::{
    self, DefinitionFile, Edit, FileWrite, Loaded, MAX_PARAMETERS, NewValue, Pin, WriteEffect,
    is_field_name, is_group_name, is_parameter_name,
};
use crate::desired::secrets::SecretSources;
use crate::model::{
    Catalogue, Desired, DesiredValue, FieldSet, Icon, KeySection, Live, LiveValue, Provider,
    Secret, SecretName, Slug, Workspace,
};
use crate::plan::join_path;

/// SecretNames for the secrets of new references: none is given twice, and none that a file refers to.
#[derive(Debug, Default)]
pub struct SecretNames {
    /// By variable: two names that differ in `-` and `.` alone have the same one.
    taken: BTreeSet<String>,
}

impl SecretNames {
    /// SecretNames that no file of a directory refers to.
    #[must_use]
    pub fn of(loaded: &Loaded) -> Self {
        Self {
            taken: loaded.references().map(SecretName::variable).collect(),
        }
    }

    /// The next free name for a header or parameter: `hostaway-authorization`, `hostaway-authorization-2`.
    pub fn next(&mut self, provider: &Provider, name: &str) -> Option<SecretName> {
        /// Leaves room for a number.
        const LONGEST: usize = SecretName::MAX_LEN - 8;
        let allowed = |c: char| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' {
                c
            } else {
                '-'
            }
        };
        let base: String = format!("{}-{}", provider.file_stem(), name.to_lowercase())
            .chars()
            .map(allowed)
            .collect();
        let base = base
            .get(..LONGEST)
            .unwrap_or(&base)
            .trim_matches(['-', '.']);
        let numbered = (2..).map(|number| format!("{base}-{number}"));
        let mut names = [base.to_owned()]
            .into_iter()
            .chain(numbered)
            .map_while(|name| SecretName::parse(&name).ok());
        names.find(|name| self.taken.insert(name.variable()))
    }
}

/// What a pull is about.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The parts that are set to live; empty for those that a file manages, and all of a new one.
    pub parts: &'a [Part],
    /// The only providers that count; empty for all.
    pub only: &'a [Provider],
    /// The names that the schema beside the files is to know.
    pub known: &'a Catalogue,
}

/// What is written, and what it takes.
#[derive(Debug)]
pub struct Pull {
    pub files: Vec<File>,
    /// The secrets that are not at hand, or hold another value than Calry, by name.
    pub secrets: BTreeMap<SecretName, NeededSecret>,
}

/// One file.
#[derive(Debug)]
pub struct File {
    /// Its name within the directory.
    pub name: String,
    /// What becomes of it.
    pub state: FileState,
    /// What of the live definition is not in it, and why: sentences.
    pub left_out: Vec<String>,
    writing: Option<FileWrite>,
}

/// What becomes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    /// It is new.
    Created,
    /// It is changed, in these parts.
    Updated(Vec<String>),
    /// It is as Calry is.
    Unchanged,
    /// It has errors, and is left as it is.
    Invalid,
    /// It cannot be written, and why.
    Refused(String),
}

/// What is wrong with a secret, and where it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeededSecret {
    /// Whether it is at hand, and Calry has another value.
    pub outdated: bool,
    /// Every place.
    pub uses: BTreeSet<(Provider, String)>,
}

/// The first part that no provider has, neither in Calry nor in its file.
#[must_use]
pub fn first_unknown<'a>(parts: &'a [Part], loaded: &Loaded, live: &[Live]) -> Option<&'a Part> {
    let files = by_provider(loaded);
    let desired = |provider| files.get(provider).and_then(|file| file.desired.as_deref());
    let known = |part: &Part| {
        live.iter()
            .any(|live| part.is_of(live, desired(&live.provider)))
    };
    parts.iter().find(|part| !known(part))
}

fn by_provider(loaded: &Loaded) -> BTreeMap<&Provider, &DefinitionFile> {
    loaded
        .files
        .iter()
        .filter_map(|file| Some((file.provider.as_ref()?, file)))
        .collect()
}

/// Decides what the files of a directory should say.
#[must_use]
pub fn prepare(
    loaded: &Loaded,
    workspace: &Workspace,
    live: &[Live],
    scope: Scope<'_>,
    names: SecretNames,
    sources: &SecretSources,
) -> Pull {
    let mut needed_secrets = NeededSecrets {
        names,
        sources,
        needed: BTreeMap::new(),
    };
    let there = by_provider(loaded);
    let one = |live: &Live| {
        file(
            there.get(&live.provider).copied(),
            live,
            scope,
            &mut needed_secrets,
        )
    };
    let mut files: Vec<File> = live.iter().filter_map(one).collect();
    let schemas = [
        (
            definitions::DEFINITION_SCHEMA,
            definitions::definition_schema(scope.known),
        ),
        (
            definitions::WORKSPACE_SCHEMA,
            definitions::workspace_schema(),
        ),
    ];
    files.extend(
        schemas
            .map(|(name, text)| File::to_write(FileWrite::unconditional(name, text), Vec::new())),
    );
    if loaded.pin == Pin::None {
        files.push(match Slug::parse(&workspace.slug) {
            Ok(slug) => File::to_write(definitions::draft_pin(&slug), Vec::new()),
            Err(error) => File::refused(
                "workspace.yaml",
                format!("cannot name the workspace: {error}"),
            ),
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Pull {
        files,
        secrets: needed_secrets.needed,
    }
}

impl File {
    fn to_write(writing: FileWrite, changes: Vec<String>) -> Self {
        let (name, state) = (writing.name().to_owned(), FileState::Updated(changes));
        Self {
            name,
            state,
            left_out: Vec::new(),
            writing: Some(writing),
        }
    }

    /// A file, or a provider, of which nothing is written.
    #[must_use]
    pub fn refused(name: &str, why: String) -> Self {
        Self {
            name: name.to_owned(),
            state: FileState::Refused(why),
            left_out: Vec::new(),
            writing: None,
        }
    }
}

impl Pull {
    /// Writes the files, or only finds out what would become of them. One that cannot be written stops no other.
    pub fn write(&mut self, directory: &Path, dry_run: bool) {
        for file in &mut self.files {
            let Some(writing) = file.writing.take() else {
                continue;
            };
            match writing.write(directory, dry_run) {
                Ok(WriteEffect::Created) => file.state = FileState::Created,
                Ok(WriteEffect::Changed) => {}
                Ok(WriteEffect::Same) => file.state = FileState::Unchanged,
                Err(error) => file.state = FileState::Refused(error.to_string()),
            }
        }
    }
}

/// The first eight of some things, and how many more there are.
#[must_use]
pub fn first_of(things: &[String]) -> String {
    const MOST: usize = 8;
    let mut named = things.get(..MOST).unwrap_or(things).join(", ");
    if things.len() > MOST {
        named.push_str(&format!(", and {} more", things.len() - MOST));
    }
    named
}

/// The file of one provider; `None` where there is none, and nothing to make one of.
fn file(
    file: Option<&DefinitionFile>,
    live: &Live,
    scope: Scope<'_>,
    needed_secrets: &mut NeededSecrets<'_>,
) -> Option<File> {
    let provider = &live.provider;
    let (name, desired) = match file {
        Some(DefinitionFile {
            name,
            desired: Some(desired),
            ..
        }) => (name.clone(), Some(&**desired)),
        Some(DefinitionFile { name, .. }) => {
            return Some(File {
                name: name.clone(),
                state: FileState::Invalid,
                left_out: Vec::new(),
                writing: None,
            });
        }
        None => (format!("{}.yaml", provider.file_stem()), None),
    };
    if name == "workspace.yaml" {
        return Some(File::refused(
            &name,
            format!("is the pin of the workspace, and cannot be the file of {provider}"),
        ));
    }
    let mut pull = FilePull {
        live,
        desired,
        scope,
        needed_secrets,
        result: FileEdits::default(),
    };
    pull.icon();
    KeySection::BOTH
        .into_iter()
        .for_each(|section| pull.section(section));
    pull.groups();
    let FileEdits {
        edits,
        changes,
        left_out,
        refused,
        needs,
    } = pull.result;
    let made = match (refused, file) {
        (Some(why), _) => File::refused(&name, why),
        (None, None) if edits.is_empty() && !scope.parts.is_empty() => return None,
        (None, None) => match definitions::draft(provider, &edits) {
            Some(writing) => File::to_write(writing, changes),
            None => File::refused(
                &name,
                "cannot be written: this definition does not fit into one file".to_owned(),
            ),
        },
        (None, Some(_)) if edits.is_empty() => File {
            name,
            state: FileState::Unchanged,
            left_out: Vec::new(),
            writing: None,
        },
        (None, Some(file)) => match file.edit(&edits) {
            Some(writing) => File::to_write(writing, changes),
            None => {
                let why = "is written in a form that cannot be changed in place; change it by hand";
                let why = format!("{why}: {}", first_of(&changes));
                File::refused(&name, why)
            }
        },
    };
    if !matches!(made.state, FileState::Refused(_)) {
        for (secret, outdated, path) in needs {
            let needed = needed_secrets
                .needed
                .entry(secret)
                .or_insert_with(|| NeededSecret {
                    outdated,
                    uses: BTreeSet::new(),
                });
            needed.uses.insert((provider.clone(), path));
        }
    }
    Some(File { left_out, ..made })
}

/// The secrets that new references need.
struct NeededSecrets<'a> {
    names: SecretNames,
    sources: &'a SecretSources,
    needed: BTreeMap<SecretName, NeededSecret>,
}

/// Which names of a section or group are meant.
enum Selection<'a> {
    All,
    Some(Vec<&'a str>),
    None,
}

impl Selection<'_> {
    fn contains(&self, name: &str, fold: impl Fn(&str) -> String) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.iter().any(|selected| fold(selected) == fold(name)),
            Self::None => false,
        }
    }
}

/// What is found for one file.
#[derive(Default)]
struct FileEdits {
    edits: Vec<Edit>,
    /// The same in words.
    changes: Vec<String>,
    left_out: Vec<String>,
    refused: Option<String>,
    /// Secrets that were not found, or (`true`) hold another value than Calry, and the paths that need them.
    needs: Vec<(SecretName, bool, String)>,
}

/// One provider on its way into its file.
struct FilePull<'a, 'v> {
    live: &'a Live,
    desired: Option<&'a Desired>,
    scope: Scope<'a>,
    needed_secrets: &'a mut NeededSecrets<'v>,
    result: FileEdits,
}

impl<'a> FilePull<'a, '_> {
    fn edit(&mut self, change: String, edit: Edit) {
        self.result.changes.push(change);
        self.result.edits.push(edit);
    }

    /// Whether what the file leaves out may be brought under management.
    const fn may_add(&self) -> bool {
        self.desired.is_none() || !self.scope.parts.is_empty()
    }

    /// `whole` names all of a section or group, `one` a single name of it.
    fn select(
        &self,
        whole: impl Fn(&Part) -> bool,
        one: impl Fn(&'a Part) -> Option<&'a str>,
    ) -> Selection<'a> {
        let parts = self.scope.parts;
        let names: Vec<_> = parts.iter().filter_map(one).collect();
        match () {
            () if parts.is_empty() || parts.iter().any(whole) => Selection::All,
            () if names.is_empty() => Selection::None,
            () => Selection::Some(names),
        }
    }

    /// A single name of a section or group that the file does not manage: it would end all others.
    fn refuse_one_of(&mut self, whole: &Part) {
        let asked = self.desired.is_some() || self.scope.only.contains(&self.live.provider);
        if asked {
            self.result.refused.get_or_insert(format!(
                "does not manage {whole}, and with some of it named all the rest would be removed or switched off in Calry; \
                 name the whole: --fields {whole}"
            ));
        }
    }

    fn icon(&mut self) {
        let parts = self.scope.parts;
        let now = self.desired.and_then(|desired| desired.icon.as_ref());
        if !(parts.is_empty() || parts.contains(&Part::Icon)) || !(now.is_some() || self.may_add())
        {
            return;
        }
        match self.live.icon.as_deref().map(Icon::parse) {
            None if now.is_some() => {
                self.edit("icon removed (Calry has none)".to_owned(), Edit::Icon(None));
            }
            Some(Ok(icon)) if now != Some(&icon) => {
                self.edit("icon".to_owned(), Edit::Icon(Some(icon)))
            }
            Some(Err(error)) => self.result.left_out.push(format!("icon: {error}")),
            None | Some(Ok(_)) => {}
        }
    }

    fn section(&mut self, section: KeySection) {
        let selection = self.select(
            |part| *part == Part::PartnerKey || *part == Part::KeySection(section),
            |part| match part {
                Part::Value(of, name) if *of == section => Some(name),
                _ => None,
            },
        );
        let live = self.live.partner_key.section(section);
        let mut there: BTreeMap<String, Vec<(&String, &LiveValue)>> = BTreeMap::new();
        for (name, value) in live
            .into_iter()
            .flatten()
            .filter(|(name, _)| selection.contains(name, |name| section.fold(name)))
        {
            there
                .entry(section.fold(name))
                .or_default()
                .push((name, value));
        }
        match self
            .desired
            .and_then(|desired| desired.partner_key.section(section))
        {
            Some(wanted) => self.compare_section(section, wanted, there, &selection),
            None if there.is_empty() || !self.may_add() => {}
            None if !matches!(selection, Selection::All) => {
                self.refuse_one_of(&Part::KeySection(section))
            }
            None => self.add_section(section, there),
        }
    }

    fn add_section(
        &mut self,
        section: KeySection,
        there: BTreeMap<String, Vec<(&String, &LiveValue)>>,
    ) {
        let whole = Part::KeySection(section);
        let problem = there.iter().find_map(|(_, spelled)| {
            let (name, _) = spelled.first()?;
            if spelled.len() > 1 {
                Some(format!(
                    "{} is there in several spellings",
                    join_path(&[name])
                ))
            } else {
                (!is_parameter_name(section, name))
                    .then(|| format!("a file cannot name {}", join_path(&[name])))
            }
        });
        let many = || {
            (there.len() > MAX_PARAMETERS)
                .then(|| format!("a file takes at most {MAX_PARAMETERS} of them"))
        };
        if let Some(problem) = problem.or_else(many) {
            return self
                .result
                .left_out
                .push(format!("{whole}, as a whole: {problem}"));
        }
        let mut values = BTreeMap::new();
        for (name, value) in there.into_values().flatten() {
            let Some(new) = self.new_value(section, name, value) else {
                continue;
            };
            values.insert(name.clone(), new);
        }
        self.edit(whole.to_string(), Edit::KeySection { section, values });
    }

    fn compare_section(
        &mut self,
        section: KeySection,
        wanted: &BTreeMap<String, DesiredValue>,
        mut there: BTreeMap<String, Vec<(&String, &LiveValue)>>,
        selection: &Selection<'_>,
    ) {
        for (name, value) in wanted
            .iter()
            .filter(|(name, _)| selection.contains(name, |name| section.fold(name)))
        {
            let path = join_path(&[section.key(), name]);
            match there
                .remove(&section.fold(name))
                .unwrap_or_default()
                .as_slice()
            {
                [] => self.edit(
                    format!("{path} removed"),
                    Edit::Value {
                        section,
                        name: name.clone(),
                        value: None,
                    },
                ),
                [(_, live)] => self.compare_value(section, name, value, live),
                _ => self
                    .result
                    .left_out
                    .push(format!("{path}: Calry has it in several spellings")),
            }
        }
        for (name, live) in there.into_values().flatten() {
            let path = join_path(&[section.key(), name]);
            if !is_parameter_name(section, name) {
                self.result.left_out.push(format!(
                    "{path}: a file cannot name it; apply would remove it"
                ));
            } else if let Some(value) = self.new_value(section, name, live) {
                self.edit(
                    format!("{path} added"),
                    Edit::Value {
                        section,
                        name: name.clone(),
                        value: Some(value),
                    },
                );
            }
        }
    }

    fn compare_value(
        &mut self,
        section: KeySection,
        name: &str,
        wanted: &DesiredValue,
        live: &LiveValue,
    ) {
        let path = join_path(&["partnerKey", section.key(), name]);
        let Some(value) = &wanted.value else {
            for secret in wanted.references() {
                if !matches!(self.needed_secrets.sources.find(secret), Ok(Some(_))) {
                    self.result
                        .needs
                        .push((secret.clone(), false, path.clone()));
                }
            }
            return;
        };
        if live.is(value) != Some(false) {
            return;
        }
        let emptied = live.is(&Secret::new("")) == Some(true);
        if wanted.references().next().is_some() && !emptied {
            self.result.needs.extend(
                wanted
                    .references()
                    .map(|secret| (secret.clone(), true, path.clone())),
            );
        } else if let Some(new) = self.new_value(section, name, live) {
            let change = format!(
                "{} {}",
                join_path(&[section.key(), name]),
                if emptied {
                    "emptied"
                } else {
                    "made a reference"
                }
            );
            self.edit(
                change,
                Edit::Value {
                    section,
                    name: name.to_owned(),
                    value: Some(new),
                },
            );
        }
    }

    /// What a file says of a live value: a reference, and never the value.
    fn new_value(&mut self, section: KeySection, name: &str, live: &LiveValue) -> Option<NewValue> {
        if live.is(&Secret::new("")) == Some(true) {
            return Some(NewValue::Empty);
        }
        let Some(secret) = self.needed_secrets.names.next(&self.live.provider, name) else {
            self.result.refused = Some(format!(
                "is left as it is: no name was found for the secret of {}",
                join_path(&[name])
            ));
            return None;
        };
        let held = self.needed_secrets.sources.find(&secret).ok().flatten();
        let same = held.as_ref().and_then(|held| live.is(held));
        if held.is_none() || same == Some(false) {
            let path = join_path(&["partnerKey", section.key(), name]);
            self.result
                .needs
                .push((secret.clone(), held.is_some(), path));
        }
        Some(NewValue::Secret(secret))
    }

    fn groups(&mut self) {
        let nothing = BTreeMap::new();
        let managed = self.desired.map_or(&nothing, |desired| &desired.fields);
        let no_fields = BTreeMap::new();
        for group in self
            .live
            .fields
            .keys()
            .chain(managed.keys())
            .collect::<BTreeSet<_>>()
        {
            let selection = self.select(
                |part| *part == Part::Fields || matches!(part, Part::Group(name) if name == group),
                |part| match part {
                    Part::Field(of, name) if of == group => Some(name),
                    _ => None,
                },
            );
            let there = self.live.fields.get(group).unwrap_or(&no_fields);
            let is_selected = |field: &&String| selection.contains(field, str::to_owned);
            match managed.get(group) {
                Some(on) => {
                    let before = self.result.edits.len();
                    for field in there
                        .keys()
                        .chain(on)
                        .filter(is_selected)
                        .collect::<BTreeSet<_>>()
                    {
                        self.compare_field(
                            group,
                            field,
                            on.contains(field),
                            there.get(field) == Some(&true),
                        );
                    }
                    let left_on = there
                        .iter()
                        .any(|(field, on)| *on && selection.contains(field, str::to_owned))
                        || on
                            .iter()
                            .any(|field| !selection.contains(field, str::to_owned));
                    if self.result.edits.len() > before && !left_on {
                        self.name_all_as_off(group, on);
                    }
                }
                None if there.keys().filter(is_selected).count() == 0 || !self.may_add() => {}
                None if !matches!(selection, Selection::All) => {
                    self.refuse_one_of(&Part::Group(group.clone()))
                }
                None => self.add_group(group, there),
            }
        }
    }

    /// In a map in which no field is left on, each known field is named: one that names a few only looks like a mistake.
    fn name_all_as_off(&mut self, group: &str, before: &FieldSet) {
        let known = self.scope.known.fields(group).into_iter().flatten();
        let unnamed = known.filter(|field| !before.contains(*field) && is_field_name(field));
        let off = |field: &String| Edit::Field {
            group: group.to_owned(),
            field: field.clone(),
            on: false,
        };
        self.result.edits.extend(unnamed.map(off));
    }

    fn add_group(&mut self, group: &String, there: &BTreeMap<String, bool>) {
        let on: FieldSet = there
            .iter()
            .filter(|(_, on)| **on)
            .map(|(field, _)| field.clone())
            .collect();
        let whole = Part::Group(group.clone());
        let strange = (!is_group_name(group))
            .then_some(group)
            .or_else(|| on.iter().find(|field| !is_field_name(field)));
        match strange {
            Some(name) => {
                let problem = format!(
                    "{whole}, as a whole: a file cannot name {}",
                    join_path(&[name])
                );
                self.result.left_out.push(problem);
            }
            None => self.edit(
                whole.to_string(),
                Edit::Group {
                    group: group.clone(),
                    on,
                },
            ),
        }
    }

    fn compare_field(&mut self, group: &str, field: &str, wanted: bool, on: bool) {
        let path = join_path(&[group, field]);
        if on && !is_field_name(field) {
            self.result.left_out.push(format!(
                "{path}: a file cannot name it; apply would switch it off"
            ));
        } else if on != wanted {
            let change = format!("{path} {}", if on { "on" } else { "off" });
            self.edit(
                change,
                Edit::Field {
                    group: group.to_owned(),
                    field: field.to_owned(),
                    on,
                },
            );
        }
    }
}
