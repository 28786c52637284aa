//! The options of the repository that the daemon fetches, and one task for all workspaces of a repository.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::UsageError;
use super::options::interval;
use crate::daemon::Repository;
use crate::desired::git::{
    CloneRoot, FETCH_TIMEOUT, GitCredentials, GitPath, GitReference, GithubApp, MAX_FETCH, Remote,
    RemoteSettings, TrustPolicy, VerifiedObject, default_username,
};
use crate::http::{HttpUrl, InvalidUrl, SecretFile, UrlPolicy};

/// How many commits are fetched if commits must be signed: as many as are searched for a trusted one.
const SIGNED_DEPTH: NonZeroU32 = NonZeroU32::new(1_000).expect("not zero");

/// A repository at a git server, in place of a directory.
#[derive(Args)]
#[command(next_help_heading = "Git")]
pub(super) struct GitArgs {
    /// Fetch the definitions from this repository (https), instead of reading a directory
    #[arg(
        long,
        env = "CALRY_GIT_URL",
        conflicts_with = "definitions",
        value_name = "URL"
    )]
    git_url: Option<String>,
    /// Branch, tag or full id of a commit; without it, the default branch of the repository
    #[arg(long, env = "CALRY_GIT_REF", value_parser = GitReference::parse, value_name = "REF")]
    git_ref: Option<GitReference>,
    /// Directory of the definition files in the repository
    #[arg(long, env = "CALRY_GIT_PATH", default_value = "definitions", value_parser = GitPath::parse, value_name = "DIR")]
    git_path: GitPath,
    /// How often to ask the git server for new commits; a push hook asks at once
    #[arg(long, env = "CALRY_GIT_INTERVAL", default_value = "60s", value_parser = interval, value_name = "TIME")]
    git_interval: Duration,
    /// Directory for the clone, which holds only what the last commits need; by default git in --state-dir, or a temporary
    /// directory
    #[arg(long, env = "CALRY_GIT_DIR", value_name = "DIR")]
    git_dir: Option<PathBuf>,
    /// File with a token that may read the repository, read again at each fetch
    #[arg(long, env = "CALRY_GIT_TOKEN_FILE", value_name = "FILE")]
    git_token_file: Option<PathBuf>,
    /// User name that is sent with the token; by default the one that GitHub, GitLab or Bitbucket expects, otherwise git
    #[arg(
        long,
        env = "CALRY_GIT_USERNAME",
        value_parser = username,
        value_name = "NAME"
    )]
    git_username: Option<String>,
    /// Id of a GitHub App, which reads the repository in place of a token
    #[arg(
        long,
        env = "CALRY_GIT_GITHUB_APP_ID",
        value_parser = identifier,
        conflicts_with = "git_token_file",
        value_name = "ID"
    )]
    git_github_app_id: Option<String>,
    /// Id of the installation of the GitHub App
    #[arg(long, env = "CALRY_GIT_GITHUB_INSTALLATION_ID", value_parser = identifier, value_name = "ID")]
    git_github_installation_id: Option<String>,
    /// File with the private key (PEM) of the GitHub App
    #[arg(long, env = "CALRY_GIT_GITHUB_APP_KEY_FILE", value_name = "FILE")]
    git_github_app_key_file: Option<PathBuf>,
    /// File with CA certificates (PEM) to trust for the git server, in addition to those of the system
    #[arg(long, env = "CALRY_GIT_CA_FILE", value_name = "FILE")]
    git_ca_file: Option<PathBuf>,
    /// Which object must be signed by an allowed key: the commit, or the annotated tag that --git-ref names
    #[arg(
        long,
        env = "CALRY_VERIFY",
        value_enum,
        default_value_t = Verify::Commit,
        help_heading = "Trust",
        value_name = "commit|tag"
    )]
    verify: Verify,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Verify {
    Commit,
    Tag,
}

/// An id of GitHub: a number, or the client id of an app.
fn identifier(text: &str) -> Result<String, String> {
    let is_valid = !text.is_empty()
        && text.len() <= 64
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    is_valid
        .then(|| text.to_owned())
        .ok_or_else(|| "must be an id of GitHub, such as 123456".to_owned())
}

fn username(text: &str) -> Result<String, String> {
    let is_valid = !text.is_empty()
        && text.len() <= 256
        && text.bytes().all(|b| matches!(b, b'!'..=b'~') && b != b':');
    is_valid.then(|| text.to_owned()).ok_or_else(|| {
        "must be a user name of printable ASCII characters without a colon".to_owned()
    })
}

/// The repositories of all workspaces. Equal ones are fetched once.
#[derive(Default)]
pub(super) struct Repositories {
    roots: HashMap<Option<PathBuf>, Arc<CloneRoot>>,
    /// By the directories of their clones: an order that stays the same, for metrics.
    all: BTreeMap<PathBuf, Arc<Repository>>,
}

impl Drop for Repositories {
    fn drop(&mut self) {
        // A task may still hold it, and the process ends without waiting for that task.
        self.roots.values().for_each(|root| root.remove_temporary());
    }
}

impl Repositories {
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Repository>> {
        self.all.values()
    }

    /// Where clones are kept; a temporary directory if the operator names none.
    fn root(&mut self, directory: Option<PathBuf>) -> anyhow::Result<Arc<CloneRoot>> {
        if let Some(root) = self.roots.get(&directory) {
            return Ok(Arc::clone(root));
        }
        let root = match &directory {
            Some(directory) => CloneRoot::Directory(directory.clone()),
            None => CloneRoot::Temporary(
                tempfile::Builder::new()
                    .prefix("calry-gitops-git-")
                    .tempdir()
                    .context("cannot create a temporary directory for the clone; name one with --git-dir")?,
            ),
        };
        let root = Arc::new(root);
        self.roots.insert(directory, Arc::clone(&root));
        Ok(root)
    }
}

impl GitArgs {
    /// The policy for the object that must be signed.
    ///
    /// # Errors
    /// [`UsageError`] if that is a tag, and no tag is followed or no key may sign one.
    pub(super) fn verifying(
        &self,
        trust: Option<TrustPolicy>,
    ) -> Result<Option<TrustPolicy>, UsageError> {
        match (self.verify, &self.git_url, trust) {
            (Verify::Commit, _, trust) => Ok(trust),
            (Verify::Tag, Some(_), Some(trust)) => Ok(Some(trust.verifying(VerifiedObject::Tag))),
            (Verify::Tag, None, _) => Err(UsageError(
                "--verify tag needs --git-url and a tag as --git-ref".to_owned(),
            )),
            (Verify::Tag, Some(_), None) => Err(UsageError(
                "--verify tag needs --allowed-signers or --allowed-keys, the keys that may sign it"
                    .to_owned(),
            )),
        }
    }

    /// What is fetched. If a tag must be signed, a branch of its name is not meant.
    fn reference(&self) -> Result<GitReference, UsageError> {
        let reference = self.git_ref.clone().unwrap_or(GitReference::Default);
        match self.verify {
            Verify::Commit => Ok(reference),
            Verify::Tag => reference.of_tag().ok_or_else(|| {
                UsageError("--verify tag needs a tag as --git-ref, such as v1.0.0".to_owned())
            }),
        }
    }

    /// The repository of these options, and the path in it; `None` without a URL.
    pub(super) fn repository(
        &self,
        repositories: &mut Repositories,
        insecure_http: bool,
        is_signed: bool,
        state_dir: Option<&Path>,
    ) -> anyhow::Result<Option<(Arc<Repository>, GitPath)>> {
        let Some(url) = &self.git_url else {
            self.check_without_url()?;
            return Ok(None);
        };
        let reference = self.reference()?;
        let url = HttpUrl::parse(url, UrlPolicy::api(insecure_http)).map_err(|error| {
            let is_ssh = url.starts_with("ssh:") || (url.contains('@') && !url.contains("://"));
            UsageError(match (is_ssh, error) {
                (true, _) => "--git-url takes https only: for SSH, let git-sync make a checkout and name that with --definitions"
                    .to_owned(),
                (_, InvalidUrl::PlainHttp) => {
                    format!("--git-url {error}, unless --insecure-http is set")
                }
                _ => format!("--git-url {error}"),
            })
        })?;
        let directory = self
            .git_dir
            .clone()
            .or_else(|| state_dir.map(|directory| directory.join("git")));
        let settings = RemoteSettings {
            credentials: self.credentials(&url)?,
            url,
            reference,
            ca_file: self.git_ca_file.clone(),
            root: repositories.root(directory)?,
            depth: match is_signed {
                true => SIGNED_DEPTH,
                false => NonZeroU32::MIN,
            },
            timeout: FETCH_TIMEOUT,
            max_bytes: MAX_FETCH,
        };
        let remote = Arc::new(Remote::new(settings));
        let known = repositories.all.entry(remote.directory().to_owned());
        let repository = known
            .and_modify(|repository| repository.share(self.git_interval))
            .or_insert_with(|| Arc::new(Repository::new(remote, self.git_interval)));
        let repository = Arc::clone(repository);
        Ok(Some((repository, self.git_path.clone())))
    }

    fn credentials(&self, url: &HttpUrl) -> Result<GitCredentials, UsageError> {
        let app = (
            &self.git_github_app_id,
            &self.git_github_installation_id,
            &self.git_github_app_key_file,
        );
        match (app, &self.git_token_file) {
            ((Some(id), Some(installation), Some(key)), None) => {
                let app = GithubApp::new(url, id.clone(), installation.clone(), key.clone());
                app.map(GitCredentials::GithubApp)
                    .map_err(|error| UsageError(format!("--git-url: the API of its host {error}")))
            }
            ((None, None, None), Some(file)) => Ok(GitCredentials::Token {
                username: self
                    .git_username
                    .clone()
                    .unwrap_or_else(|| default_username(url).to_owned()),
                file: SecretFile::new(file),
            }),
            ((None, None, None), None) => Ok(GitCredentials::None),
            _ => Err(UsageError(
                "a GitHub App needs all of --git-github-app-id, --git-github-installation-id and --git-github-app-key-file, \
                 and no --git-token-file"
                    .to_owned(),
            )),
        }
    }

    /// Options without the URL would have no effect.
    fn check_without_url(&self) -> Result<(), UsageError> {
        let given = [
            ("--git-ref", self.git_ref.is_some()),
            ("--git-dir", self.git_dir.is_some()),
            ("--git-token-file", self.git_token_file.is_some()),
            ("--git-username", self.git_username.is_some()),
            ("--git-github-app-id", self.git_github_app_id.is_some()),
            ("--git-ca-file", self.git_ca_file.is_some()),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(UsageError(format!(
                "{flag} needs --git-url, the repository to fetch"
            ))),
            None => Ok(()),
        }
    }
}
