//! The shared directory that `workspace.yaml` extends: where it may be, and how a shared definition and the workspace's own
//! become one.
//!
//! Merging is pure, and comes before secrets are resolved and names are checked. What the workspace's own file replaces is
//! forgotten, with its references to secrets: another workspace may need them.
//!
//! Never: leave the git checkout, follow a link out of it, or read a hidden directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::definition::{Locations, Overrides};
use super::directory::{DirectoryError, FileError, is_hidden, resolve_link};
use super::edit::{Edit, NewValue};
use crate::model::{Desired, KeySection, SharedSource};

/// The longest path of a shared directory, in bytes.
pub(super) const MAX_PATH: usize = 200;

/// The path of a shared directory from the definitions directory: `../shared`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPath {
    /// How many directories it goes up; at least one.
    up: usize,
    /// The names of the directories that it goes down; at least one.
    down: Vec<String>,
}

/// Why a shared directory cannot be used. The messages complete "the shared directory …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SharedError {
    #[error(
        "cannot be read: these definitions are in no git checkout, which is the limit of `extends`"
    )]
    NoCheckout,
    #[error("is outside of the repository")]
    Outside,
    #[error("is the definitions directory itself, or a part of it")]
    Itself,
    #[error("does not exist")]
    Missing,
    #[error("is not a directory")]
    NotADirectory,
    #[error("has no definition file (*.yaml, *.yml)")]
    Empty,
    #[error("has too many or too large files, together with those of the workspace")]
    TooLarge,
    #[error("was replaced while it was read")]
    Unsettled,
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

impl SharedPath {
    /// `None` unless it goes up, and then down to a directory that is not hidden.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_plain = text.len() <= MAX_PATH && !text.contains(|c: char| c.is_control());
        let text = text.strip_suffix('/').unwrap_or(text);
        let mut names = text.split('/').peekable();
        let mut up = 0;
        while names.next_if_eq(&"..").is_some() {
            up += 1;
        }
        let down: Vec<String> = names.map(str::to_owned).collect();
        let is_name = |name: &String| !name.is_empty() && !name.starts_with('.');
        let is_path = up > 0 && !down.is_empty() && down.iter().all(is_name);
        (is_plain && is_path).then_some(Self { up, down })
    }

    /// The path of the shared directory from the root of the repository. `directory` is that of the definitions directory.
    pub(crate) fn in_repository(&self, directory: &Path) -> Result<PathBuf, SharedError> {
        let mut path = directory.to_owned();
        for _ in 0..self.up {
            if !path.pop() {
                return Err(SharedError::Outside);
            }
        }
        path.extend(&self.down);
        if path.starts_with(directory) {
            return Err(SharedError::Itself);
        }
        Ok(path)
    }

    /// The shared directory on disk, with all links in its path resolved. `directory` is the definitions directory, also without
    /// links.
    pub(super) fn locate(&self, directory: &Path) -> Result<PathBuf, SharedError> {
        let is_root = |path: &&Path| fs::symlink_metadata(path.join(".git")).is_ok();
        let root = directory.ancestors().find(is_root);
        let root = root.ok_or(SharedError::NoCheckout)?;
        let inside = directory.strip_prefix(root);
        let path = self.in_repository(inside.map_err(|_| SharedError::Outside)?)?;
        let found = resolve_link(root, &path)?;
        if found.starts_with(directory) {
            return Err(SharedError::Itself);
        }
        let below = found.strip_prefix(root).unwrap_or(&found);
        if below.iter().any(is_hidden) {
            return Err(SharedError::Outside);
        }
        Ok(found)
    }

    /// The name of a shared file in messages.
    pub(super) fn file(&self, name: &str) -> String {
        format!("{self}/{name}")
    }
}

impl fmt::Display for SharedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = "../".repeat(self.up);
        write!(f, "{up}{}", self.down.join("/"))
    }
}

impl SharedError {
    /// What to do about it.
    pub(super) fn help(&self) -> &'static str {
        match self {
            Self::NoCheckout => "keep the definitions in a git checkout",
            Self::Outside | Self::Itself => {
                "name a directory of the same repository, such as `../shared`"
            }
            Self::Missing | Self::NotADirectory | Self::Empty => {
                "correct the path; without `extends`, what is shared is not managed"
            }
            Self::TooLarge => "name a directory with fewer files",
            Self::Unsettled => "run the command again",
            Self::Unreadable(_) => "make sure that this user can read it",
        }
    }
}

impl From<FileError> for SharedError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Gone | FileError::Dangling => Self::Missing,
            FileError::Outside => Self::Outside,
            FileError::NotAFile => Self::NotADirectory,
            FileError::TooLarge(_) => Self::TooLarge,
            FileError::Unreadable(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Self::NotADirectory
            }
            FileError::Unreadable(error) => Self::Unreadable(error.to_string()),
        }
    }
}

impl From<DirectoryError> for SharedError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Unreadable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Self::Missing,
                _ => Self::Unreadable(source.to_string()),
            },
            DirectoryError::NotADirectory(_) => Self::NotADirectory,
            DirectoryError::Empty { .. } => Self::Empty,
            DirectoryError::TooManyEntries(_)
            | DirectoryError::TooManyEncrypted(_)
            | DirectoryError::TooLarge(_) => Self::TooLarge,
            DirectoryError::Unsettled(_) => Self::Unsettled,
        }
    }
}

/// A workspace's own definition of a provider over the shared one, part by part.
pub(super) fn merge(own: &Desired, overrides: &Overrides, shared: &Desired) -> Desired {
    let mut merged = own.clone();
    if merged.icon.is_none() && !overrides.icon {
        merged.icon.clone_from(&shared.icon);
    }
    for section in KeySection::BOTH {
        let values = merged.partner_key.section_mut(section);
        if values.is_none() && !overrides.sections.contains(&section) {
            *values = shared.partner_key.section(section).cloned();
        }
    }
    for (group, on) in &shared.fields {
        if merged.fields.contains_key(group) || overrides.groups.contains(group) {
            continue;
        }
        let delta = overrides.deltas.get(group);
        let on = delta.map_or_else(|| on.clone(), |delta| delta.apply(on));
        merged.fields.insert(group.clone(), on);
    }
    if merged.hold.is_none() && !overrides.hold {
        merged.hold.clone_from(&shared.hold);
    }
    merged
}

/// The parts that a workspace takes from a shared definition.
pub(super) fn source(own: &Desired, overrides: &Overrides, shared: &Desired) -> SharedSource {
    let sections = KeySection::BOTH.into_iter().filter(|section| {
        shared.partner_key.section(*section).is_some()
            && own.partner_key.section(*section).is_none()
            && !overrides.sections.contains(section)
    });
    let groups = shared
        .fields
        .keys()
        .filter(|group| !own.fields.contains_key(*group) && !overrides.groups.contains(*group));
    let groups = groups.map(|group| {
        let delta = overrides.deltas.get(group).into_iter();
        let own = delta.flat_map(|delta| delta.add.iter().chain(&delta.remove));
        (group.clone(), own.cloned().collect())
    });
    SharedSource {
        file: String::new(),
        icon: shared.icon.is_some() && own.icon.is_none() && !overrides.icon,
        sections: sections.collect(),
        groups: groups.collect::<BTreeMap<_, _>>(),
        hold: shared.hold.is_some() && own.hold.is_none() && !overrides.hold,
    }
}

/// The edits of the workspace's own file that have the effect of edits of the merged definition, which is then `wanted`. A part
/// that is in the shared file is written in full. `None` if a value of it cannot be written into a file.
pub(super) fn overriding_edits(
    shared: &SharedSource,
    wanted: &Desired,
    edits: &[Edit],
) -> Option<Vec<Edit>> {
    let mut own = Vec::new();
    let (mut groups, mut sections) = (BTreeSet::new(), BTreeSet::new());
    for edit in edits {
        match edit {
            Edit::Icon(None) if shared.icon => own.push(Edit::UnmanagedIcon),
            Edit::Field { group, .. } if shared.groups.contains_key(group) => {
                groups.insert(group);
            }
            Edit::Value { section, .. } if shared.sections.contains(section) => {
                sections.insert(*section);
            }
            edit => own.push(edit.clone()),
        }
    }
    for section in sections {
        let values = wanted.partner_key.section(section)?.iter();
        let values = values.map(|(name, value)| Some((name.clone(), NewValue::of(value)?)));
        let values = values.collect::<Option<_>>()?;
        own.push(Edit::KeySection { section, values });
    }
    for group in groups {
        let (group, on) = (group.clone(), wanted.fields.get(group)?.clone());
        own.push(Edit::Group { group, on });
    }
    Some(own)
}

impl Locations {
    /// Forgets the parts that the workspace does not take from this file.
    pub(super) fn keep_only(&mut self, kept: &SharedSource) {
        self.icon = self.icon.filter(|_| kept.icon);
        self.sections
            .retain(|(section, _)| kept.sections.contains(section));
        self.values
            .retain(|value| kept.sections.contains(&value.section));
        self.groups
            .retain(|group| kept.groups.contains_key(&group.name));
        self.hold = self.hold.filter(|_| kept.hold);
    }
}

#[cfg(test)]
mod tests {
    use super::super::edit::NewValue;
    use super::*;
    use crate::model::{PartnerKey, Provider};

    #[test]
    fn a_shared_path_goes_up_and_then_down_to_what_is_not_hidden() {
        let long = format!("../{}", "a".repeat(MAX_PATH - 3));
        for (text, path) in [
            ("../shared", "../shared"),
            ("../../a/b/", "../../a/b"),
            (&long, &long),
        ] {
            assert_eq!(SharedPath::parse(text).unwrap().to_string(), path);
        }
        let longer = format!("{long}a");
        for text in [
            "",
            "..",
            "../..",
            "shared",
            "/shared",
            "./shared",
            "../.git",
            "../a/.b",
            "../a//b",
            "../a/../b",
            "../a\nb",
            &longer,
        ] {
            assert!(SharedPath::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn each_error_of_a_shared_directory_has_advice() {
        let error = |kind: io::ErrorKind| SharedError::from(FileError::Unreadable(kind.into()));
        let unreadable = |kind: io::ErrorKind| {
            SharedError::from(DirectoryError::Unreadable {
                directory: PathBuf::new(),
                source: kind.into(),
            })
        };
        insta::assert_snapshot!(
            [
                SharedError::NoCheckout,
                SharedError::Itself,
                SharedError::from(FileError::Outside),
                SharedError::from(FileError::Gone),
                SharedError::from(FileError::NotAFile),
                error(io::ErrorKind::NotADirectory),
                error(io::ErrorKind::PermissionDenied),
                unreadable(io::ErrorKind::NotFound),
                unreadable(io::ErrorKind::PermissionDenied),
                SharedError::Empty,
                SharedError::TooLarge,
                SharedError::Unsettled,
            ]
            .map(|error| format!("{error}: {}", error.help()))
            .join("\n"),
            @"
        cannot be read: these definitions are in no git checkout, which is the limit of `extends`: keep the definitions in a git checkout
        is the definitions directory itself, or a part of it: name a directory of the same repository, such as `../shared`
        is outside of the repository: name a directory of the same repository, such as `../shared`
        does not exist: correct the path; without `extends`, what is shared is not managed
        is not a directory: correct the path; without `extends`, what is shared is not managed
        is not a directory: correct the path; without `extends`, what is shared is not managed
        cannot be read: permission denied: make sure that this user can read it
        does not exist: correct the path; without `extends`, what is shared is not managed
        cannot be read: permission denied: make sure that this user can read it
        has no definition file (*.yaml, *.yml): correct the path; without `extends`, what is shared is not managed
        has too many or too large files, together with those of the workspace: name a directory with fewer files
        was replaced while it was read: run the command again
        "
        );
    }

    #[test]
    fn edits_of_what_is_in_the_own_file_stay_as_they_are() {
        let wanted = Desired {
            provider: Provider::parse("HOSTAWAY").unwrap(),
            icon: None,
            partner_key: PartnerKey::default(),
            fields: BTreeMap::new(),
            hold: None,
        };
        let edits = [
            Edit::Icon(None),
            Edit::Field {
                group: "listing".to_owned(),
                field: "name".to_owned(),
                on: true,
            },
            Edit::Value {
                section: KeySection::Headers,
                name: "a".to_owned(),
                value: Some(NewValue::Empty),
            },
        ];
        let own = overriding_edits(&SharedSource::default(), &wanted, &edits);
        assert_eq!(own.unwrap(), edits);
    }
}
