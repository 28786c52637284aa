//! Writes live state into definition files, so that desired becomes equal to live.
//!
//! [`prepare`] decides without writing: the edits of each file, which leave the rest of it unchanged, and the secrets
//! that are needed. [`Pull::write`] writes the files.
//!
//! Never: write to Calry, write a value below `partnerKey` into a file, or start to manage a part that a file leaves
//! out, unless `--fields` names it.

mod part;
mod shareable;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub use part::{InvalidPart, Part};
pub use shareable::{Shareable, shareable};

use crate::desired::definitions::{
    self, DefinitionFile, Edit, FileWrite, Loaded, MAX_PARAMETERS, NewValue, Pin, WriteEffect,
    is_field_name, is_group_name, is_parameter_name,
};
use crate::desired::encrypted::EncryptedSecrets;
use crate::desired::secrets::{SecretSources, check_possible};
use crate::model::{
    Catalogue, Desired, DesiredValue, FieldSet, Icon, KeySection, Live, LiveValue, Provider,
    Secret, SecretName, Slug, Workspace,
};
use crate::plan::join_path;

/// Names for the secrets of new references. No name is used twice, or is already referred to by a file.
#[derive(Debug, Default)]
pub struct SecretNames {
    /// The variables of the names: names that differ only in `-` and `.` have the same variable.
    taken: BTreeSet<String>,
}

impl SecretNames {
    /// Excludes the names that the files of a directory refer to, and those of its encrypted secrets.
    #[must_use]
    pub fn of(loaded: &Loaded) -> Self {
        let names = loaded.references().chain(loaded.encrypted.files.keys());
        Self {
            taken: names.map(SecretName::variable).collect(),
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

#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The parts to pull; empty for all that a file manages, and for all of a new file.
    pub parts: &'a [Part],
    /// The only providers to pull; empty for all.
    pub only: &'a [Provider],
    /// The names for the schema beside the files.
    pub known: &'a Catalogue,
}

/// The prepared files, and the secrets that they need.
#[derive(Debug)]
pub struct Pull {
    pub files: Vec<File>,
    /// The secrets that are not found, or have another value than Calry, by name.
    pub secrets: BTreeMap<SecretName, NeededSecret>,
    /// The parts that could move to the shared directory.
    pub shareable: Vec<Shareable>,
}

#[derive(Debug)]
pub struct File {
    pub name: String,
    pub state: FileState,
    /// The live parts that are not in the file, each with the reason: sentences.
    pub left_out: Vec<String>,
    writing: Option<FileWrite>,
}

/// The state of a file after the pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    Created,
    /// Changed, in these parts.
    Updated(Vec<String>),
    /// Equal to live state.
    Unchanged,
    /// Not written: it has errors.
    Invalid,
    /// Not written, with the reason.
    Refused(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeededSecret {
    /// Whether it was found, and Calry has another value.
    pub outdated: bool,
    /// Every use: provider and path.
    pub uses: BTreeSet<(Provider, String)>,
}

/// The first part that no provider has, in Calry or in its file.
#[must_use]
pub fn first_unknown<'a>(parts: &'a [Part], loaded: &Loaded, live: &[Live]) -> Option<&'a Part> {
    let files = by_provider(loaded);
    let desired = |provider| files.get(provider).and_then(|file| file.desired.as_deref());
    let known = |part: &Part| {
        live.iter()
            .any(|live| part.exists_in(live, desired(&live.provider)))
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

/// Prepares the files of a directory.
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
        encrypted: &loaded.encrypted,
        needed: BTreeMap::new(),
    };
    let files_by_provider = by_provider(loaded);
    let prepare_one = |live: &Live| {
        prepare_file(
            files_by_provider.get(&live.provider).copied(),
            live,
            scope,
            &mut needed_secrets,
        )
    };
    let mut files: Vec<File> = live.iter().filter_map(prepare_one).collect();
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
        shareable: Vec::new(),
    }
}

impl File {
    /// The text to write; `None` if the file is left as it is.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.writing.as_ref().map(FileWrite::text)
    }

    fn to_write(writing: FileWrite, changes: Vec<String>) -> Self {
        let file = Self::unwritten(writing.name(), FileState::Updated(changes));
        Self {
            writing: Some(writing),
            ..file
        }
    }

    fn unwritten(name: &str, state: FileState) -> Self {
        Self {
            name: name.to_owned(),
            state,
            left_out: Vec::new(),
            writing: None,
        }
    }

    /// A file that is not written, with the reason.
    #[must_use]
    pub fn refused(name: &str, why: String) -> Self {
        Self::unwritten(name, FileState::Refused(why))
    }
}

impl Pull {
    /// Writes the files, or only determines their states (`dry_run`). A file that cannot be written does not stop the
    /// others.
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

/// The first eight items, and how many more there are.
#[must_use]
pub fn first_of(items: &[String]) -> String {
    const MOST: usize = 8;
    let mut named = items.get(..MOST).unwrap_or(items).join(", ");
    if items.len() > MOST {
        named.push_str(&format!(", and {} more", items.len() - MOST));
    }
    named
}

/// The file of one provider; `None` if there is none, and nothing to write into one.
fn prepare_file(
    file: Option<&DefinitionFile>,
    live: &Live,
    scope: Scope<'_>,
    needed_secrets: &mut NeededSecrets<'_>,
) -> Option<File> {
    let provider = &live.provider;
    let (name, desired) = match file {
        Some(
            file @ DefinitionFile {
                desired: Some(desired),
                ..
            },
        ) => (file.own_name(), Some(&**desired)),
        Some(DefinitionFile { name, .. }) => {
            return Some(File::unwritten(name, FileState::Invalid));
        }
        None => (format!("{}.yaml", provider.file_stem()), None),
    };
    if name == "workspace.yaml" {
        return Some(File::refused(
            &name,
            format!("pins the workspace, and cannot be the file of {provider}"),
        ));
    }
    let mut pull = FilePull {
        live,
        desired,
        scope,
        needed_secrets,
        edits: Vec::new(),
        changes: Vec::new(),
        left_out: Vec::new(),
        refused: None,
        needs: Vec::new(),
    };
    pull.icon();
    KeySection::BOTH
        .into_iter()
        .for_each(|section| pull.section(section));
    pull.groups();
    let FilePull {
        edits,
        changes,
        left_out,
        refused,
        needs,
        ..
    } = pull;
    let prepared = match (refused, file) {
        (Some(why), _) => File::refused(&name, why),
        (None, None) if edits.is_empty() && !scope.parts.is_empty() => return None,
        (None, None) => match definitions::draft(provider, &edits) {
            Some(writing) => File::to_write(writing, changes),
            None => File::refused(
                &name,
                "cannot be written: this definition does not fit into a file".to_owned(),
            ),
        },
        (None, Some(_)) if edits.is_empty() => File::unwritten(&name, FileState::Unchanged),
        (None, Some(file)) => match file.edit(&edits) {
            Some(writing) => File::to_write(writing, changes),
            None => {
                let why = "has a form that cannot be edited in place; edit it by hand";
                let why = format!("{why}: {}", first_of(&changes));
                File::refused(&name, why)
            }
        },
    };
    if !matches!(prepared.state, FileState::Refused(_)) {
        for need in needs {
            let needed = needed_secrets.needed.entry(need.secret);
            let needed = needed.or_insert_with(|| NeededSecret {
                outdated: need.outdated,
                uses: BTreeSet::new(),
            });
            needed.uses.insert((provider.clone(), need.path));
        }
    }
    Some(File {
        left_out,
        ..prepared
    })
}

struct NeededSecrets<'a> {
    names: SecretNames,
    sources: &'a SecretSources,
    encrypted: &'a EncryptedSecrets,
    needed: BTreeMap<SecretName, NeededSecret>,
}

/// The selected names of a section or group.
enum Selection<'a> {
    All,
    Only(Vec<&'a str>),
}

impl Selection<'_> {
    fn contains(&self, name: &str, fold: impl Fn(&str) -> String) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|selected| fold(selected) == fold(name)),
        }
    }
}

/// A use of a secret that is not found, or is outdated: Calry has another value.
struct SecretUse {
    secret: SecretName,
    outdated: bool,
    path: String,
}

/// The pull of one provider into its file.
struct FilePull<'a, 'v> {
    live: &'a Live,
    desired: Option<&'a Desired>,
    scope: Scope<'a>,
    needed_secrets: &'a mut NeededSecrets<'v>,
    edits: Vec<Edit>,
    /// The edits in words.
    changes: Vec<String>,
    left_out: Vec<String>,
    refused: Option<String>,
    needs: Vec<SecretUse>,
}

impl<'a> FilePull<'a, '_> {
    fn edit(&mut self, change: String, edit: Edit) {
        self.changes.push(change);
        self.edits.push(edit);
    }

    /// Whether to manage what the file leaves out.
    const fn may_add(&self) -> bool {
        self.desired.is_none() || !self.scope.parts.is_empty()
    }

    /// `whole` matches all of a section or group, `one` a single name of it.
    fn select(
        &self,
        whole: impl Fn(&Part) -> bool,
        one: impl Fn(&'a Part) -> Option<&'a str>,
    ) -> Selection<'a> {
        let parts = self.scope.parts;
        if parts.is_empty() || parts.iter().any(whole) {
            Selection::All
        } else {
            Selection::Only(parts.iter().filter_map(one).collect())
        }
    }

    /// Refuses to pull a single name of a section or group that the file does not manage: Calry would remove all
    /// others.
    fn refuse_one_of(&mut self, whole: &Part) {
        let is_requested = self.desired.is_some() || self.scope.only.contains(&self.live.provider);
        if is_requested {
            self.refused.get_or_insert(format!(
                "does not manage {whole}: with only a part of it in the file, the rest would be removed or switched off in Calry; \
                 use --fields {whole}"
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
            Some(Err(error)) => self.left_out.push(format!("icon: {error}")),
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
        let mut live_values: BTreeMap<String, Vec<(&String, &LiveValue)>> = BTreeMap::new();
        for (name, value) in live
            .into_iter()
            .flatten()
            .filter(|(name, _)| selection.contains(name, |name| section.fold(name)))
        {
            live_values
                .entry(section.fold(name))
                .or_default()
                .push((name, value));
        }
        match self
            .desired
            .and_then(|desired| desired.partner_key.section(section))
        {
            Some(wanted) => self.compare_section(section, wanted, live_values, &selection),
            None if live_values.is_empty() || !self.may_add() => {}
            None if !matches!(selection, Selection::All) => {
                self.refuse_one_of(&Part::KeySection(section))
            }
            None => self.add_section(section, live_values),
        }
    }

    fn add_section(
        &mut self,
        section: KeySection,
        live_values: BTreeMap<String, Vec<(&String, &LiveValue)>>,
    ) {
        let whole = Part::KeySection(section);
        let problem = live_values.iter().find_map(|(_, spelled)| {
            let (name, _) = spelled.first()?;
            if spelled.len() > 1 {
                Some(format!(
                    "{} exists in several spellings",
                    join_path(&[name])
                ))
            } else {
                (!is_parameter_name(section, name))
                    .then(|| format!("a file cannot name {}", join_path(&[name])))
            }
        });
        let many = || {
            (live_values.len() > MAX_PARAMETERS)
                .then(|| format!("a file has at most {MAX_PARAMETERS} of them"))
        };
        if let Some(problem) = problem.or_else(many) {
            return self
                .left_out
                .push(format!("{whole}, as a whole: {problem}"));
        }
        let mut values = BTreeMap::new();
        for (name, value) in live_values.into_values().flatten() {
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
        mut live_values: BTreeMap<String, Vec<(&String, &LiveValue)>>,
        selection: &Selection<'_>,
    ) {
        for (name, value) in wanted
            .iter()
            .filter(|(name, _)| selection.contains(name, |name| section.fold(name)))
        {
            let path = join_path(&[section.key(), name]);
            match live_values
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
                    .left_out
                    .push(format!("{path}: Calry has it in several spellings")),
            }
        }
        for (name, live) in live_values.into_values().flatten() {
            let path = join_path(&[section.key(), name]);
            if !is_parameter_name(section, name) {
                self.left_out.push(format!(
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
                // Without an identity, its value is unknown, and not missing.
                if self.needed_secrets.encrypted.files.contains_key(secret) {
                    continue;
                }
                if !matches!(self.needed_secrets.sources.find(secret), Ok(Some(_))) {
                    self.needs.push(SecretUse {
                        secret: secret.clone(),
                        outdated: false,
                        path: path.clone(),
                    });
                }
            }
            return;
        };
        if live.is(value) != Some(false) {
            return;
        }
        let emptied = live.is(&Secret::new("")) == Some(true);
        if wanted.references().next().is_some() && !emptied {
            if let Some(why) = impossible(live) {
                self.left_out
                    .push(format!("{path}: the value in Calry {why}"));
                return;
            }
            self.needs
                .extend(wanted.references().map(|secret| SecretUse {
                    secret: secret.clone(),
                    outdated: true,
                    path: path.clone(),
                }));
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

    /// A live value in a file: a reference, never the value itself.
    fn new_value(&mut self, section: KeySection, name: &str, live: &LiveValue) -> Option<NewValue> {
        if live.is(&Secret::new("")) == Some(true) {
            return Some(NewValue::Empty);
        }
        if let Some(why) = impossible(live) {
            self.refused = Some(format!(
                "is left as it is: the value of {} in Calry {why}",
                join_path(&["partnerKey", section.key(), name])
            ));
            return None;
        }
        let Some(secret) = self.needed_secrets.names.next(&self.live.provider, name) else {
            self.refused = Some(format!(
                "is left as it is: no free name for the secret of {}",
                join_path(&[name])
            ));
            return None;
        };
        let found = self.needed_secrets.sources.find(&secret).ok().flatten();
        let same = found.as_ref().and_then(|found| live.is(found));
        if found.is_none() || same == Some(false) {
            let path = join_path(&["partnerKey", section.key(), name]);
            self.needs.push(SecretUse {
                secret: secret.clone(),
                outdated: found.is_some(),
                path,
            });
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
            let live_values = self.live.fields.get(group).unwrap_or(&no_fields);
            let is_selected = |field: &&String| selection.contains(field, str::to_owned);
            match managed.get(group) {
                Some(on) => {
                    let before = self.edits.len();
                    for field in live_values
                        .keys()
                        .chain(on)
                        .filter(is_selected)
                        .collect::<BTreeSet<_>>()
                    {
                        self.compare_field(
                            group,
                            field,
                            on.contains(field),
                            live_values.get(field) == Some(&true),
                        );
                    }
                    let left_on = live_values
                        .iter()
                        .any(|(field, on)| *on && selection.contains(field, str::to_owned))
                        || on
                            .iter()
                            .any(|field| !selection.contains(field, str::to_owned));
                    if self.edits.len() > before && !left_on {
                        self.name_all_as_off(group, on);
                    }
                }
                None if live_values.keys().filter(is_selected).count() == 0 || !self.may_add() => {}
                None if !matches!(selection, Selection::All) => {
                    self.refuse_one_of(&Part::Group(group.clone()))
                }
                None => self.add_group(group, live_values),
            }
        }
    }

    /// Names each known field in a map in which no field is left on: a map with only a few fields looks like a mistake.
    fn name_all_as_off(&mut self, group: &str, before: &FieldSet) {
        let known = self.scope.known.fields(group).into_iter().flatten();
        let unnamed = known.filter(|field| !before.contains(*field) && is_field_name(field));
        let off = |field: &String| Edit::Field {
            group: group.to_owned(),
            field: field.clone(),
            on: false,
        };
        self.edits.extend(unnamed.map(off));
    }

    fn add_group(&mut self, group: &String, live_values: &BTreeMap<String, bool>) {
        let on: FieldSet = live_values
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
                self.left_out.push(problem);
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
            self.left_out.push(format!(
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

/// Why no secret can have a live value, and what to do; `None` if one can.
fn impossible(live: &LiveValue) -> Option<String> {
    let LiveValue::Value(value) = live else {
        return None;
    };
    let problem = check_possible(value).err()?;
    Some(format!(
        "{problem}, which no secret can have; correct it in Calry"
    ))
}
