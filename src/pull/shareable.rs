//! Which parts the workspace's own files have in common with those of other workspaces that extend the same shared directory.
//!
//! Never: write a file, or follow a link to another workspace.

use std::fs;
use std::path::{Path, PathBuf};

use super::by_provider;
use crate::desired::definitions::{self, DefinitionFile, Loaded};
use crate::model::KeySection;

/// The most directories that are compared; a repository with more has other means.
const MAX_WORKSPACES: usize = 50;

/// Parts of one file that are equal in another workspace's own file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shareable {
    /// The file's name in this workspace's directory.
    pub file: String,
    /// The directory of the other workspace, from this one: `../staging`.
    pub workspace: String,
    /// Such as `icon`, `headers`, `listing`.
    pub parts: Vec<String>,
}

/// The equal parts of all other workspaces beside this one that extend the same shared directory. What cannot be read has none.
#[must_use]
pub fn shareable(loaded: &Loaded) -> Vec<Shareable> {
    let Some((shared, parent)) = loaded.shared.as_ref().zip(loaded.directory.parent()) else {
        return Vec::new();
    };
    let files = by_provider(loaded);
    let mut found = Vec::new();
    // One after the other, because each may be large.
    for directory in directories(parent)
        .filter(|directory| *directory != loaded.directory)
        .take(MAX_WORKSPACES)
    {
        let name = directory.file_name().and_then(|name| name.to_str());
        let (Ok(other), Some(name)) = (definitions::load(&directory), name) else {
            continue;
        };
        if other.shared.as_ref().map(|it| &it.directory) != Some(&shared.directory) {
            continue;
        }
        found.extend(
            by_provider(&other)
                .into_iter()
                .filter_map(|(provider, other)| {
                    let file = files.get(provider)?;
                    let parts = equal_parts(file, other);
                    (!parts.is_empty()).then(|| Shareable {
                        file: file.name.clone(),
                        workspace: format!("../{name}"),
                        parts,
                    })
                }),
        );
    }
    found
}

/// The directories with a `workspace.yaml`, by name.
fn directories(parent: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut directories: Vec<PathBuf> = directories
        .map(|entry| entry.path())
        .filter(|path| path.join("workspace.yaml").exists())
        .collect();
    directories.sort();
    directories.into_iter()
}

fn equal_parts(one: &DefinitionFile, other: &DefinitionFile) -> Vec<String> {
    let (Some(a), Some(b)) = (&one.desired, &other.desired) else {
        return Vec::new();
    };
    let sources = [&one.shared, &other.shared];
    let sources = || sources.into_iter().flatten();
    let mut parts = Vec::new();
    if a.icon.is_some() && a.icon == b.icon && !sources().any(|shared| shared.icon) {
        parts.push("icon".to_owned());
    }
    for section in KeySection::BOTH {
        let values = a.partner_key.section(section);
        let is_shared = sources().any(|shared| shared.sections.contains(&section));
        if values.is_some() && values == b.partner_key.section(section) && !is_shared {
            parts.push(section.to_string());
        }
    }
    for (group, on) in &a.fields {
        let is_shared = sources().any(|shared| shared.groups.contains_key(group));
        if b.fields.get(group) == Some(on) && !is_shared {
            parts.push(group.clone());
        }
    }
    if a.hold.is_some() && a.hold == b.hold && !sources().any(|shared| shared.hold) {
        parts.push("hold".to_owned());
    }
    parts
}
