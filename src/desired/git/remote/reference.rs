//! Which commit of a repository is followed, and what the references of a server say about it.

use std::fmt;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix_protocol::handshake::Ref;

use super::error::FetchError;
use super::quote;

/// Which commit of a repository is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GitReference {
    /// The default branch, which must stay the same.
    Default,
    /// A branch or a tag, as a short or a full name.
    Name(String),
    Commit(ObjectId),
}

/// The path of the definitions directory in a repository: relative, without `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitPath(PathBuf);

/// The object that a reference names at the server.
pub(super) struct Target {
    pub(super) reference: Option<String>,
    pub(super) commit: ObjectId,
    pub(super) tag: Option<ObjectId>,
}

impl GitReference {
    /// # Errors
    /// A sentence if it is neither a name of a reference nor the full id of a commit.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() == 40
            && let Ok(id) = ObjectId::from_hex(text.as_bytes())
        {
            return Ok(Self::Commit(id));
        }
        match gix::validate::reference::name_partial(text.into()) {
            Ok(_) if text.len() <= 250 => Ok(Self::Name(text.to_owned())),
            Ok(_) | Err(_) => {
                Err("must be a branch, a tag or the full id of a commit, such as main".to_owned())
            }
        }
    }

    /// The reference as a tag; `None` if it is something else.
    #[must_use]
    pub fn of_tag(self) -> Option<Self> {
        match self {
            Self::Name(name) if !name.starts_with("refs/") => {
                Some(Self::Name(format!("refs/tags/{name}")))
            }
            Self::Name(name) if name.starts_with("refs/tags/") => Some(Self::Name(name)),
            Self::Name(_) | Self::Default | Self::Commit(_) => None,
        }
    }

    /// The full names that it may mean.
    pub(super) fn candidates(&self) -> Vec<String> {
        match self {
            Self::Name(name) if name.starts_with("refs/") => vec![name.clone()],
            Self::Name(name) => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")],
            Self::Default | Self::Commit(_) => Vec::new(),
        }
    }

    /// Whether a push to a reference, by its full name, concerns this one. `known` is the name that was found last.
    #[must_use]
    pub fn is_moved_by(&self, pushed: &str, known: Option<&str>) -> bool {
        match self {
            // Before the first fetch, and of a server that does not name it, the default branch is unknown.
            Self::Default => known.is_none_or(|known| known == pushed || known == "HEAD"),
            Self::Name(_) => self.candidates().iter().any(|name| name == pushed),
            Self::Commit(_) => false,
        }
    }
}

impl fmt::Display for GitReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default branch"),
            Self::Name(name) => f.write_str(name),
            Self::Commit(id) => id.fmt(f),
        }
    }
}

impl GitPath {
    /// # Errors
    /// A sentence if it is not a path within a repository.
    pub fn parse(text: &str) -> Result<Self, String> {
        use std::path::Component;
        let mut path = PathBuf::new();
        for part in Path::new(text).components() {
            match part {
                Component::Normal(name) => path.push(name),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(
                        "must be a directory in the repository, such as definitions".to_owned()
                    );
                }
            }
        }
        Ok(Self(path))
    }

    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for GitPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_os_str().is_empty() {
            true => f.write_str("."),
            false => self.0.display().fmt(f),
        }
    }
}

/// The default branch, which must be the one that is known.
pub(super) fn default_branch(refs: &[Ref], known: Option<&str>) -> Result<Target, FetchError> {
    let head = refs.iter().find(|found| name_of(found) == "HEAD");
    let short = |name: &str| quote(name.strip_prefix("refs/heads/").unwrap_or(name));
    let (name, commit) = match head {
        None | Some(Ref::Unborn { .. }) => {
            return Err(match known {
                Some(known) => FetchError::ReferenceMissing(short(known)),
                None => FetchError::Empty,
            });
        }
        Some(Ref::Symbolic { target, object, .. }) => (target.to_string(), *object),
        Some(Ref::Direct { object, .. } | Ref::Peeled { object, .. }) => {
            ("HEAD".to_owned(), *object)
        }
    };
    match known {
        Some(known) if known != name => Err(FetchError::DefaultBranchMoved {
            before: short(known),
            now: short(&name),
        }),
        _ => Ok(Target {
            reference: Some(name),
            commit,
            tag: None,
        }),
    }
}

fn name_of(found: &Ref) -> String {
    found.unpack().0.to_string()
}

/// The object of a reference, if it is one of those asked for.
pub(super) fn target_of(found: &Ref, candidates: &[String]) -> Option<Target> {
    let (name, id, peeled) = found.unpack();
    let name = name.to_string();
    let id = id.filter(|_| candidates.contains(&name))?.to_owned();
    let (commit, tag) = match peeled {
        Some(peeled) => (peeled.to_owned(), Some(id)),
        None => (id, None),
    };
    Some(Target {
        reference: Some(name),
        commit,
        tag,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_push_to_any_branch_may_move_a_default_branch_without_a_name() {
        let pushed = "refs/heads/next";
        for (known, is_moved) in [
            (None, true),
            (Some("HEAD"), true),
            (Some(pushed), true),
            (Some("refs/heads/main"), false),
        ] {
            let found = GitReference::Default.is_moved_by(pushed, known);
            assert_eq!(found, is_moved, "{known:?}");
        }
    }

    #[test]
    fn a_path_is_shown_without_what_means_nothing() {
        for (text, shown) in [("", "."), ("./", "."), ("a/./b/", "a/b")] {
            assert_eq!(GitPath::parse(text).unwrap().to_string(), shown);
        }
    }
}
