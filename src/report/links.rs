//! Web addresses for people: the page of a workspace, and commits and files at the git host.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

/// The repository of this program.
pub const PROJECT: &str = env!("CARGO_PKG_REPOSITORY");

/// The page of a file of this program, in the version that runs.
#[must_use]
pub fn project_file(path: &str) -> String {
    format!("{PROJECT}/blob/v{}/{path}", env!("CARGO_PKG_VERSION"))
}

/// Web addresses of a workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Links {
    /// This workspace's page of the daemon, from `--external-url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// The repository of the definitions, from `--repository-url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryUrl>,
    /// The path of the definitions directory from the root of the repository.
    pub directory: String,
}

impl Links {
    /// Whether any address is known.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.page.is_some() || self.repository.is_some()
    }

    /// The page of a commit; `commit` may be shortened, with a mark such as `+dirty`.
    #[must_use]
    pub fn commit(&self, commit: &str) -> Option<String> {
        Some(self.repository.as_ref()?.commit(commit_id(commit)?))
    }

    /// The page of a definition file at a commit, at a line.
    #[must_use]
    pub fn line(&self, commit: &str, file: &str, line: Option<usize>) -> Option<String> {
        let page = self.file(commit, file)?;
        Some(match (line, &self.repository) {
            (Some(line), Some(repository)) => format!("{page}#{}{line}", repository.line_anchor()),
            _ => page,
        })
    }

    /// The page of a definition file at a commit.
    #[must_use]
    pub fn file(&self, commit: &str, file: &str) -> Option<String> {
        let path = path_from_root(&self.directory, file);
        let path: Vec<&str> = path
            .split('/')
            .filter(|part| !matches!(*part, "" | "."))
            .collect();
        Some(
            self.repository
                .as_ref()?
                .file(commit_id(commit)?, &path.join("/")),
        )
    }
}

/// The path of a file from the root of the repository, for forges; `directory` is that of the definitions. The name of a shared
/// file begins with `../`.
pub(crate) fn path_from_root(directory: &str, file: &str) -> String {
    let (mut directory, mut file) = (directory, file);
    while let Some(below) = file.strip_prefix("../") {
        let (above, last) = directory.rsplit_once('/').unwrap_or(("", directory));
        if matches!(last, "" | "." | "..") {
            break;
        }
        (directory, file) = (above, below);
    }
    if directory.is_empty() {
        file.to_owned()
    } else {
        format!("{directory}/{file}")
    }
}

fn commit_id(commit: &str) -> Option<&str> {
    let id = commit.split('+').next()?;
    (!id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

/// The page of a workspace, by its name in the configuration file.
#[must_use]
pub fn page_url(external: &str, workspace: Option<&str>) -> String {
    let external = external.trim_end_matches('/');
    match workspace {
        None => format!("{external}/"),
        Some(name) => {
            let name: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
            format!("{external}/?workspace={name}")
        }
    }
}

/// The web page of a git repository. How the host forms the addresses of commits and files is seen from its name; for a host
/// with another name, `gitlab+https://…` names the kind (also `github+`, `gitea+`, `bitbucket+`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct RepositoryUrl {
    text: String,
    base: Url,
    host: GitHost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GitHost {
    GitHub,
    GitLab,
    Gitea,
    Bitbucket,
}

impl GitHost {
    const ALL: [(&'static str, Self); 5] = [
        ("github", Self::GitHub),
        ("gitlab", Self::GitLab),
        ("bitbucket", Self::Bitbucket),
        ("gitea", Self::Gitea),
        ("codeberg", Self::Gitea),
    ];
}

/// A repository's address is not accepted. It is the end of a sentence that names the setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be the web address of the repository, such as https://github.com/acme/definitions, without user name, query and fragment"
)]
pub struct InvalidRepositoryUrl;

impl RepositoryUrl {
    /// # Errors
    /// The text is not an absolute http or https URL of a repository's page.
    pub fn parse(text: &str) -> Result<Self, InvalidRepositoryUrl> {
        let (host, address) = GitHost::ALL
            .iter()
            .find_map(|(name, host)| {
                Some((Some(*host), text.strip_prefix(name)?.strip_prefix('+')?))
            })
            .unwrap_or((None, text));
        let mut base = Url::parse(address).map_err(|_| InvalidRepositoryUrl)?;
        let is_plain = base.username().is_empty() && base.password().is_none();
        let is_page = base.query().is_none() && base.fragment().is_none();
        if !matches!(base.scheme(), "http" | "https") || !is_plain || !is_page {
            return Err(InvalidRepositoryUrl);
        }
        let path = base.path().trim_end_matches('/');
        let path = path.strip_suffix(".git").unwrap_or(path).to_owned();
        base.set_path(&path);
        let name = base.host_str().unwrap_or_default();
        let host = host.or_else(|| {
            let of_host = |(kind, host): &(&str, GitHost)| name.contains(kind).then_some(*host);
            GitHost::ALL.iter().find_map(of_host)
        });
        Ok(Self {
            text: text.to_owned(),
            base,
            host: host.unwrap_or(GitHost::GitHub),
        })
    }

    #[must_use]
    pub fn commit(&self, commit: &str) -> String {
        match self.host {
            GitHost::GitHub | GitHost::Gitea => self.page(&["commit", commit]),
            GitHost::GitLab => self.page(&["-", "commit", commit]),
            GitHost::Bitbucket => self.page(&["commits", commit]),
        }
    }

    /// The page of a file at a commit. The path is relative to the repository's root.
    #[must_use]
    pub fn file(&self, commit: &str, path: &str) -> String {
        let mut segments = match self.host {
            GitHost::GitHub => vec!["blob", commit],
            GitHost::GitLab => vec!["-", "blob", commit],
            GitHost::Gitea => vec!["src", "commit", commit],
            GitHost::Bitbucket => vec!["src", commit],
        };
        segments.extend(path.split('/'));
        self.page(&segments)
    }

    /// What precedes the number of a line in the fragment of a file's page.
    const fn line_anchor(&self) -> &'static str {
        match self.host {
            GitHost::GitHub | GitHost::GitLab | GitHost::Gitea => "L",
            GitHost::Bitbucket => "lines-",
        }
    }

    fn page(&self, segments: &[&str]) -> String {
        let mut url = self.base.clone();
        // An http URL has segments.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url.into()
    }
}

impl TryFrom<String> for RepositoryUrl {
    type Error = InvalidRepositoryUrl;

    fn try_from(text: String) -> Result<Self, InvalidRepositoryUrl> {
        Self::parse(&text)
    }
}

impl From<RepositoryUrl> for String {
    fn from(url: RepositoryUrl) -> Self {
        url.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_git_host_has_its_addresses() {
        for (repository, commit, file) in [
            (
                "https://github.com/acme/defs.git",
                "https://github.com/acme/defs/commit/c1",
                "https://github.com/acme/defs/blob/c1/a%20b/x.yaml",
            ),
            (
                "https://gitlab.example.com/group/sub/defs/",
                "https://gitlab.example.com/group/sub/defs/-/commit/c1",
                "https://gitlab.example.com/group/sub/defs/-/blob/c1/a%20b/x.yaml",
            ),
            (
                "https://bitbucket.org/acme/defs",
                "https://bitbucket.org/acme/defs/commits/c1",
                "https://bitbucket.org/acme/defs/src/c1/a%20b/x.yaml",
            ),
            (
                "gitea+https://git.example.com/acme/defs",
                "https://git.example.com/acme/defs/commit/c1",
                "https://git.example.com/acme/defs/src/commit/c1/a%20b/x.yaml",
            ),
            (
                "https://git.example.com/acme/defs",
                "https://git.example.com/acme/defs/commit/c1",
                "https://git.example.com/acme/defs/blob/c1/a%20b/x.yaml",
            ),
        ] {
            let url = RepositoryUrl::parse(repository).unwrap();
            assert_eq!(url.commit("c1"), commit);
            assert_eq!(url.file("c1", "a b/x.yaml"), file);
            let links = Links {
                page: None,
                repository: Some(url),
                directory: "a b".to_owned(),
            };
            let anchor = if repository.contains("bitbucket") {
                "#lines-7"
            } else {
                "#L7"
            };
            let file = file.replace("c1", "c1c1");
            assert_eq!(
                links.line("c1c1", "x.yaml", Some(7)),
                Some(format!("{file}{anchor}"))
            );
            assert_eq!(links.line("c1c1", "x.yaml", None), Some(file));
        }
        for text in [
            "acme/defs",
            "git@github.com:acme/defs.git",
            "ssh://git@github.com/acme/defs",
            "javascript:alert(1)",
            "https://user:pass@github.com/acme/defs",
            "https://github.com/acme/defs?tab=readme",
        ] {
            assert!(RepositoryUrl::parse(text).is_err(), "{text}");
        }
    }
}
