//! Which commit of a repository is followed, and what the references of a server say about it.

use std::fmt;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix_protocol::handshake::Ref;

use super::error::FetchError;
use super::quote;
use crate::model::printable;

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

/// The object of the only reference that a name may mean.
pub(super) fn find_target(refs: &[Ref], reference: &GitReference) -> Result<Target, FetchError> {
    let candidates = reference.candidates();
    let mut found = refs
        .iter()
        .filter_map(|found| target_of(found, &candidates));
    let name = || printable(&reference.to_string());
    match (found.next(), found.next()) {
        (Some(target), None) => Ok(target),
        (Some(_), Some(_)) => Err(FetchError::Ambiguous(name())),
        (None, _) if refs.iter().all(|it| matches!(it, Ref::Unborn { .. })) => {
            Err(FetchError::Empty)
        }
        (None, _) => Err(FetchError::ReferenceMissing(name())),
    }
}

/// The object of a reference, if it is one of those asked for.
fn target_of(found: &Ref, candidates: &[String]) -> Option<Target> {
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

    fn name(text: &str) -> GitReference {
        GitReference::Name(text.to_owned())
    }

    fn id(of: u8) -> ObjectId {
        ObjectId::from([of; 20])
    }

    #[test]
    fn a_reference_is_a_name_or_the_full_id_of_a_commit() {
        let hex = "0123456789abcdef0123456789abcdef01234567";
        let commit = GitReference::Commit(ObjectId::from_hex(hex.as_bytes()).unwrap());
        assert_eq!(GitReference::parse(hex), Ok(commit));
        let (longest, too_long) = ("a".repeat(250), "a".repeat(251));
        for text in [&hex[1..], &"x".repeat(40), "main", "release/1.x", &longest] {
            assert_eq!(GitReference::parse(text), Ok(name(text)));
        }
        for text in ["", "a..b", "two words", &too_long] {
            let error = GitReference::parse(text).unwrap_err();
            assert!(error.contains("such as main"), "{error}");
        }
    }

    #[test]
    fn a_name_may_mean_a_branch_and_a_tag() {
        let branch = "refs/heads/main";
        for (reference, candidates, tag) in [
            (
                name("v1"),
                &["refs/heads/v1", "refs/tags/v1"][..],
                Some("refs/tags/v1"),
            ),
            (
                name("refs/tags/v1"),
                &["refs/tags/v1"],
                Some("refs/tags/v1"),
            ),
            (name(branch), &[branch], None),
            (GitReference::Default, &[], None),
            (GitReference::Commit(id(1)), &[], None),
        ] {
            assert_eq!(reference.candidates(), candidates);
            let moved = |pushed| reference.is_moved_by(pushed, Some(branch));
            let follows_it = reference == name(branch) || reference == GitReference::Default;
            assert_eq!(moved(branch), follows_it, "{reference}");
            assert_eq!(moved("refs/tags/v1"), tag.is_some(), "{reference}");
            assert_eq!(reference.of_tag(), tag.map(name));
        }
    }

    fn direct(name: &str, of: u8) -> Ref {
        Ref::Direct {
            full_ref_name: name.into(),
            object: id(of),
        }
    }

    fn unborn() -> Ref {
        Ref::Unborn {
            full_ref_name: "HEAD".into(),
            target: "refs/heads/main".into(),
        }
    }

    fn head(of: u8) -> Ref {
        Ref::Symbolic {
            full_ref_name: "HEAD".into(),
            target: "refs/heads/main".into(),
            tag: None,
            object: id(of),
        }
    }

    fn show(target: Result<Target, FetchError>) -> String {
        match target {
            Ok(target) => format!(
                "{} {}{}",
                target.reference.as_deref().unwrap_or("none"),
                target.commit.as_bytes()[0],
                target.tag.map_or(String::new(), |_| " by a tag".to_owned()),
            ),
            Err(FetchError::DefaultBranchMoved { before, now }) => format!("{before}, now {now}"),
            Err(FetchError::ReferenceMissing(name)) => format!("no {name}"),
            Err(FetchError::Ambiguous(name)) => format!("two {name}"),
            Err(FetchError::Empty) => "empty".to_owned(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_default_branch_stays_the_one_that_is_known() {
        let main = "refs/heads/main";
        for (refs, known, expected) in [
            (vec![], None, "empty"),
            (vec![unborn()], None, "empty"),
            (vec![unborn()], Some(main), "no main"),
            (vec![direct(main, 1)], Some(main), "no main"),
            (vec![direct(main, 1), head(2)], None, "refs/heads/main 2"),
            (vec![head(2)], Some(main), "refs/heads/main 2"),
            (vec![head(2)], Some("refs/heads/next"), "next, now main"),
            (vec![direct("HEAD", 3)], None, "HEAD 3"),
            (vec![direct("HEAD", 3)], Some(main), "main, now HEAD"),
        ] {
            assert_eq!(show(default_branch(&refs, known)), expected, "{refs:?}");
        }
    }

    #[test]
    fn a_name_means_one_reference_of_the_server() {
        let tag = || Ref::Peeled {
            full_ref_name: "refs/tags/v1".into(),
            tag: id(4),
            object: id(5),
        };
        let branch = || direct("refs/heads/v1", 1);
        for (refs, expected) in [
            (vec![], "empty"),
            (vec![unborn()], "empty"),
            (vec![head(2)], "no v1"),
            (vec![head(2), unborn()], "no v1"),
            (vec![head(2), branch()], "refs/heads/v1 1"),
            (vec![tag()], "refs/tags/v1 5 by a tag"),
            (vec![tag(), branch()], "two v1"),
        ] {
            assert_eq!(show(find_target(&refs, &name("v1"))), expected, "{refs:?}");
        }
    }

    #[test]
    fn a_path_is_shown_without_what_means_nothing() {
        for (text, shown) in [("", "."), ("./", "."), ("a/./b/", "a/b")] {
            assert_eq!(GitPath::parse(text).unwrap().to_string(), shown);
        }
    }
}
