//! The options that commands share, and the clients and sources that they set up.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::builder::{PathBufValueParser, PossibleValue, TypedValueParser};
use clap::{Arg, Args, Command, ValueEnum, ValueHint};

use super::git_args::GitArgs;
use super::progress::Progress;
use super::{Output, UsageError};
use crate::desired::definitions::{MissingSecrets, Pin};
use crate::desired::encrypted::Recipient;
use crate::desired::git::{CommitId, TrustPolicy, TrustedKeyFiles};
use crate::desired::secrets::SecretSources;
use crate::desired::{definitions, git};
use crate::http::{Http, HttpTimeouts, HttpUrl, UrlPolicy, install_tls};
use crate::live::{Api, ApiKey, ExpirySource, KeyError, KeySource};
use crate::model::{
    FingerprintKey, KNOWN_PROVIDERS, KeyExpiry, KeyStage, Provider, Secret, Slug, UpdateMethod,
    looks_like_a_key, read_at_most,
};
use crate::policies::PolicyFile;
use crate::pull::SecretNames;
use crate::reconcile::backups::{BackupDirectory, Backups};
use crate::reconcile::{DefinitionsSource, Source, today};
use crate::report::links::{Links, RepositoryUrl};
use crate::report::words::key_warning;
use crate::sandbox::{Config, Sandbox, Seed};

#[derive(Args)]
#[command(next_help_heading = "Definitions")]
pub(super) struct FileArgs {
    /// Directory of the definition files
    #[arg(
        short,
        long,
        env = "CALRY_DEFINITIONS",
        default_value = "definitions",
        value_parser = definitions_directory,
        value_hint = ValueHint::DirPath,
        value_name = "DIR"
    )]
    pub(super) definitions: PathBuf,
    /// Only this provider, in upper or lower case; the errors of other files are ignored. Repeatable
    #[arg(long, value_parser = ProviderParser, value_name = "PROVIDER")]
    pub(super) only: Vec<Provider>,
    /// Treat warnings as errors
    #[arg(long)]
    pub(super) strict: bool,
}

/// Which commits are trusted.
#[derive(Args)]
#[command(next_help_heading = "Trust")]
pub(super) struct TrustArgs {
    /// Use only commits that are signed with an SSH key of this file (gpg.ssh.allowedSignersFile of git). The definitions
    /// are then read from the commit, not from the directory
    #[arg(long, env = "CALRY_ALLOWED_SIGNERS", value_name = "FILE")]
    allowed_signers: Option<PathBuf>,
    /// Use only commits that are signed with an OpenPGP key of this file, as gpg --export writes it. With --allowed-signers,
    /// a key of either file counts
    #[arg(long, env = "CALRY_ALLOWED_KEYS", value_name = "FILE")]
    allowed_keys: Option<PathBuf>,
    /// Trust this commit (its full id) without a signature; without allowed keys, trust no other commit
    #[arg(long, env = "CALRY_TRUSTED_REVISION", value_parser = CommitId::parse, value_name = "COMMIT")]
    trusted_revision: Option<CommitId>,
}

impl TrustArgs {
    /// The trusted commits; `None` if no trust is required and the directory itself is read.
    pub(super) fn trust(&self) -> Option<TrustPolicy> {
        let keys = TrustedKeyFiles {
            signers: self.allowed_signers.clone(),
            keys: self.allowed_keys.clone(),
        };
        (!keys.is_empty() || self.trusted_revision.is_some())
            .then(|| TrustPolicy::new(keys, self.trusted_revision))
    }
}

/// What plans must comply with.
#[derive(Args)]
#[command(next_help_heading = "Policies")]
pub(super) struct PolicyArgs {
    /// File with the operator's policies: rules in CEL that deny a plan or warn of it. Read again at each reconciliation
    #[arg(long, env = "CALRY_POLICIES", value_name = "FILE")]
    policies: Option<PathBuf>,
}

impl PolicyArgs {
    pub(super) fn file(&self) -> Option<PolicyFile> {
        self.policies.clone().map(PolicyFile)
    }
}

/// Where definitions are saved before they are replaced.
#[derive(Args)]
#[command(next_help_heading = "Backups")]
pub(super) struct BackupArgs {
    /// Directory for backups: before an update is sent, the definition that it replaces is saved there, encrypted. An update
    /// whose backup fails is not sent. Needs --backup-recipient
    #[arg(long, env = "CALRY_BACKUP_DIR", value_name = "DIR")]
    backup_dir: Option<PathBuf>,
    /// Public key of age to which backups are encrypted, so that only its owner can read them; repeatable. Needs --backup-dir
    #[arg(
        long,
        env = "CALRY_BACKUP_RECIPIENT",
        value_delimiter = ',',
        value_parser = recipient,
        value_name = "age1…"
    )]
    backup_recipient: Vec<Recipient>,
}

fn recipient(text: &str) -> Result<Recipient, String> {
    if looks_like_a_key(text) {
        return Err("this is a private key; the public key begins with age1".to_owned());
    }
    Recipient::parse(text).map_err(|error| error.to_string())
}

/// Parses the path of a file with a key. It is not the key itself: a path is shown in messages.
pub(super) fn key_file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.to_str() {
        Some(text) if looks_like_a_key(text) => {
            Err("this is a key, and not the path of a file that has it")
        }
        _ => Ok(path),
    })
}

impl BackupArgs {
    pub(super) fn directory(&self) -> Option<&Path> {
        self.backup_dir.as_deref()
    }

    /// The store of the backups; `None` if none are made.
    pub(super) fn open(&self) -> Result<Option<Backups>, UsageError> {
        match (&self.backup_dir, self.backup_recipient.as_slice()) {
            (None, []) => Ok(None),
            (None, _) => Err(UsageError(
                "--backup-recipient needs --backup-dir: no backups would be made".to_owned(),
            )),
            (Some(_), []) => Err(UsageError(
                "--backup-dir needs --backup-recipient: backups have secrets in them, and are never written unencrypted"
                    .to_owned(),
            )),
            (Some(directory), recipients) => open_backups(directory, recipients).map(Some),
        }
    }

    /// The store of the backups of a restore from this directory: for the given public keys, or for the owner of its backups.
    pub(super) fn open_for(
        &self,
        directory: &Path,
        owner: &[Recipient],
    ) -> Result<Backups, UsageError> {
        let given = self.backup_recipient.as_slice();
        open_backups(directory, if given.is_empty() { owner } else { given })
    }
}

fn open_backups(directory: &Path, recipients: &[Recipient]) -> Result<Backups, UsageError> {
    let recipients = recipients.iter().cloned().collect();
    let store = BackupDirectory::new(directory.to_owned(), recipients)
        .map_err(|error| UsageError(error.to_string()))?;
    Ok(Backups::new(Arc::new(store)))
}

/// What a command needs to compare desired and live state.
#[derive(Args)]
pub(super) struct SourceArgs {
    #[command(flatten)]
    pub(super) live: LiveArgs,
    #[command(flatten)]
    pub(super) trust: TrustArgs,
    #[command(flatten)]
    pub(super) policies: PolicyArgs,
    #[command(flatten)]
    pub(super) fingerprints: FingerprintArgs,
}

/// What a command needs to read the live state.
#[derive(Args)]
pub(super) struct LiveArgs {
    #[command(flatten)]
    pub(super) files: FileArgs,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Args)]
#[command(next_help_heading = "Calry")]
struct ApiArgs {
    /// Address of Calry
    #[arg(
        long,
        env = "CALRY_API_URL",
        default_value = "https://zepl.calry.app",
        value_name = "URL"
    )]
    api_url: String,
    /// File with the API key, read again at each reconciliation; without it, the variable CALRY_API_KEY is used
    #[arg(long, env = "CALRY_API_KEY_FILE", value_parser = key_file(), value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Last day of the API key (UTC), to be warned before it ends. A file beside --api-key-file with its name and -expires
    /// wins over it, so that key and day are replaced together
    #[arg(long, env = "CALRY_API_KEY_EXPIRES", value_name = "YYYY-MM-DD")]
    api_key_expires: Option<KeyExpiry>,
    /// Plan and write only if the API key belongs to this workspace, even without a workspace.yaml
    #[arg(long, env = "CALRY_WORKSPACE", value_parser = Slug::parse, value_name = "SLUG")]
    workspace: Option<Slug>,
    /// Allow plain http to another machine; the API key, or the token for git, is then readable on the network
    #[arg(long, env = "CALRY_INSECURE_HTTP")]
    insecure_http: bool,
    /// HTTP method of an update
    #[arg(long, env = "CALRY_UPDATE_METHOD", value_enum, default_value_t = Method::Patch, value_name = "patch|put")]
    update_method: Method,
    /// Directory of secrets, one file each; a secret without a file is read from the variable CALRY_SECRET_NAME
    #[arg(long, env = "CALRY_SECRETS_DIR", value_name = "DIR")]
    secrets_dir: Option<PathBuf>,
    /// File with the age identities that decrypt the secrets beside the definitions (secrets/NAME.age)
    #[arg(long, env = "CALRY_AGE_IDENTITY_FILE", value_parser = key_file(), value_name = "FILE")]
    age_identity_file: Option<PathBuf>,
    /// Time limit of a reconciliation, retries included
    #[arg(long, env = "CALRY_TIMEOUT", default_value = "60s", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
    /// Time limit of a single request, within --timeout
    #[arg(long, env = "CALRY_REQUEST_TIMEOUT", default_value = "30s", value_parser = duration, value_name = "TIME")]
    request_timeout: Duration,
    /// Start a local Calry and use it: real keys and addresses are ignored, missing secrets get placeholders
    #[arg(long)]
    sandbox: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Fingerprints")]
pub(super) struct FingerprintArgs {
    /// File with the key of the fingerprints, by which partner keys are compared without being shown: at least 32 random
    /// characters. Without it, the variable CALRY_FINGERPRINT_KEY is used
    #[arg(long, env = "CALRY_FINGERPRINT_KEY_FILE", value_name = "FILE")]
    fingerprint_key_file: Option<PathBuf>,
}

impl FingerprintArgs {
    /// The key, if the operator gave one.
    pub(super) fn key(&self) -> anyhow::Result<Option<FingerprintKey>> {
        /// Enough for any key, in bytes.
        const MAX: u64 = 4096;
        let (text, from) = match &self.fingerprint_key_file {
            Some(path) => {
                let from = format!("the file {}", path.display());
                let bytes = File::open(path)
                    .and_then(|file| read_at_most(file, MAX))
                    .with_context(|| format!("cannot read the fingerprint key from {from}"))?;
                // A cut text would be another key.
                let bytes = bytes.with_context(|| {
                    format!("{from} is not a fingerprint key: it has more than {MAX} bytes")
                })?;
                let text = String::from_utf8(bytes)
                    .ok()
                    .with_context(|| format!("{from} is not a fingerprint key: it is not UTF-8"))?;
                (text, from)
            }
            None => match variable("CALRY_FINGERPRINT_KEY") {
                Some(text) => (text, "the variable CALRY_FINGERPRINT_KEY".to_owned()),
                None => return Ok(None),
            },
        };
        FingerprintKey::new(&Secret::new(text))
            .map(Some)
            .with_context(|| format!("{from} is not a fingerprint key"))
    }
}

/// A variable that is set and not empty. What is not UTF-8 becomes a character that no key has, so that it is reported as
/// invalid, not as missing.
fn variable(name: &str) -> Option<String> {
    std::env::var_os(name)
        .map(|value| value.to_string_lossy().into_owned())
        .filter(|value| !value.is_empty())
}

/// Where the repository is on the web, for links in Markdown.
#[derive(Args)]
#[command(next_help_heading = "Links")]
pub(super) struct LinkArgs {
    /// Web address of the repository, for links to commits and files (markdown only). If the name of the host does not show
    /// its kind, begin with github+, gitlab+, gitea+ or bitbucket+
    #[arg(long, env = "CALRY_REPOSITORY_URL", value_name = "URL")]
    repository_url: Option<String>,
    /// Commit that the links name, if another one is checked out, such as a merge of it
    #[arg(long, value_parser = full_commit, requires = "repository_url", value_name = "COMMIT")]
    pub(super) link_commit: Option<String>,
}

fn full_commit(text: &str) -> Result<String, String> {
    CommitId::parse(text).map(|_| text.to_owned())
}

impl LinkArgs {
    pub(super) fn links(&self, directory: String) -> Result<Links, UsageError> {
        Ok(Links {
            page: None,
            repository: parse_repository_url(self.repository_url.as_deref())?,
            directory,
        })
    }
}

/// # Errors
/// [`UsageError`] if it is no address of a repository.
pub(super) fn parse_repository_url(
    text: Option<&str>,
) -> Result<Option<RepositoryUrl>, UsageError> {
    let parse = |text| {
        RepositoryUrl::parse(text).map_err(|error| UsageError(format!("--repository-url {error}")))
    };
    text.map(parse).transpose()
}

/// Where the live state comes from, if not from Calry.
pub(super) enum LiveSource {
    File(PathBuf),
    Url(HttpUrl),
}

impl LiveSource {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let url = HttpUrl::parse(text, UrlPolicy::SNAPSHOT);
        url.map(Self::Url)
            .map_err(|error| format!("the URL of a snapshot {error}"))
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Method {
    Patch,
    Put,
}

impl From<Method> for UpdateMethod {
    fn from(method: Method) -> Self {
        match method {
            Method::Patch => Self::Patch,
            Method::Put => Self::Put,
        }
    }
}

/// The sources and clients of a command, as its options set them up.
pub(super) struct Setup {
    pub(super) source: Source,
    pub(super) api: Api,
    pub(super) key: KeySource,
    pub(super) key_expiry: ExpirySource,
    pub(super) timeout: Duration,
    /// The definitions directory as the operator wrote it.
    pub(super) shown: String,
    /// Runs until this is dropped.
    pub(super) sandbox: Option<Sandbox>,
    pub(super) http: Http,
    /// What a user sees while the command waits.
    pub(super) progress: Arc<Progress>,
    pub(super) fingerprint_key: Option<FingerprintKey>,
}

impl Setup {
    /// Reads the API key of a one-shot command, and warns if it ends soon.
    pub(super) fn read_key(&self) -> Result<ApiKey, KeyError> {
        let key = self.key.read()?;
        let today = today();
        let expiry = self.key_expiry.read().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            None
        });
        if let Some(expiry) = expiry.filter(|expiry| expiry.stage(today) != KeyStage::Fresh) {
            tracing::warn!("{}", key_warning(key.source(), expiry, today));
        }
        Ok(key.ended(expiry.filter(|expiry| expiry.stage(today) == KeyStage::Over)))
    }

    /// The path of the definitions directory from the root of the repository.
    pub(super) fn repository_path(&self) -> String {
        match &self.source.definitions {
            DefinitionsSource::Directory(directory) => repository_path(directory),
            DefinitionsSource::Git { path, .. } => path.to_string(),
            DefinitionsSource::Memory(_) => String::new(),
        }
    }
}

/// The path of a directory from the root of the repository, which forges expect; without a repository, from the workspace of
/// the job or from the working directory.
pub(super) fn repository_path(directory: &Path) -> String {
    let within = |root: PathBuf| {
        let directory = std::fs::canonicalize(directory).ok()?;
        directory
            .strip_prefix(std::fs::canonicalize(root).ok()?)
            .ok()
            .map(Path::to_owned)
    };
    let path = git::path_in_checkout(directory)
        .or_else(|| std::env::var_os("GITHUB_WORKSPACE").and_then(|root| within(root.into())))
        .or_else(|| std::env::current_dir().ok().and_then(within));
    path.unwrap_or_else(|| directory.to_owned())
        .display()
        .to_string()
}

/// The groups of options that each workspace can have of its own.
pub(super) fn workspace_groups() -> impl Iterator<Item = clap::Id> {
    let groups = [
        FileArgs::group_id(),
        GitArgs::group_id(),
        ApiArgs::group_id(),
        TrustArgs::group_id(),
        BackupArgs::group_id(),
    ];
    groups.into_iter().flatten()
}

impl SourceArgs {
    pub(super) async fn set_up(
        &self,
        missing: MissingSecrets,
        output: &Output,
    ) -> anyhow::Result<Setup> {
        let mut setup = self.live.set_up(missing, output).await?;
        setup.source.trust = self.trust.trust();
        setup.source.policies = self.policies.file();
        setup.fingerprint_key = self.fingerprints.key()?;
        Ok(setup)
    }
}

impl LiveArgs {
    /// Sets up a one-shot command.
    pub(super) async fn set_up(
        &self,
        missing: MissingSecrets,
        output: &Output,
    ) -> anyhow::Result<Setup> {
        install_tls();
        let timeouts = HttpTimeouts {
            request: self.api.request_timeout,
            ..HttpTimeouts::default()
        };
        let mut setup = self.set_up_on(Http::new(timeouts)?, missing).await?;
        setup.progress = Arc::new(Progress::new(output.is_watched()));
        setup.api = setup
            .api
            .for_one_command()
            .with_observer(Arc::clone(&setup.progress) as _);
        Ok(setup)
    }

    pub(super) fn api_url(&self) -> Result<HttpUrl, UsageError> {
        HttpUrl::parse(&self.api.api_url, UrlPolicy::api(self.api.insecure_http))
            .map_err(|error| UsageError(format!("--api-url {error}")))
    }

    pub(super) fn age_identity_file(&self) -> Option<&Path> {
        self.api.age_identity_file.as_deref()
    }

    /// Whether plain http to other machines is allowed.
    pub(super) const fn insecure_http(&self) -> bool {
        self.api.insecure_http
    }

    /// Refuses a daemon on a sandbox without files, which would wait for them for ever: its user tries the program.
    pub(super) fn check_trial(&self) -> anyhow::Result<()> {
        let definitions = &self.files.definitions;
        ensure!(
            !self.api.sandbox || definitions.exists(),
            "the definitions directory {} does not exist; help: create it with `calry-gitops pull --sandbox`",
            definitions.display()
        );
        Ok(())
    }

    /// Sets up a loop of the daemon, on shared connections.
    pub(super) async fn set_up_on(
        &self,
        http: Http,
        missing: MissingSecrets,
    ) -> anyhow::Result<Setup> {
        let (files, api) = (&self.files, &self.api);
        let method = UpdateMethod::from(api.update_method);
        let sandbox = if api.sandbox {
            Some(start_sandbox(&files.definitions, api.workspace.as_ref(), method).await?)
        } else {
            None
        };
        let mut secrets = SecretSources::new(api.secrets_dir.clone())
            .with_identities(api.age_identity_file.clone());
        let (url, key, missing) = match &sandbox {
            Some(sandbox) => {
                let key = KeySource::Variable(Some(Secret::new(sandbox.keys().write.clone())));
                // With --secrets-unavailable the secrets stay missing; otherwise they get placeholders.
                let missing = match missing {
                    MissingSecrets::Error | MissingSecrets::ErrorUnlessEncrypted => {
                        MissingSecrets::Placeholder
                    }
                    MissingSecrets::Unavailable | MissingSecrets::Placeholder => missing,
                };
                if missing == MissingSecrets::Placeholder {
                    let secrets_of_sandbox = sandbox_secrets(&Seed::builtin());
                    secrets = secrets.with_variables(move |name| {
                        std::env::var_os(name)
                            .or_else(|| secrets_of_sandbox.get(name).map(Into::into))
                    });
                }
                (
                    HttpUrl::parse(&sandbox.url(), UrlPolicy::api(false))?,
                    key,
                    missing,
                )
            }
            None => {
                let key = match &api.api_key_file {
                    Some(file) => KeySource::File(file.clone()),
                    None => KeySource::Variable(variable("CALRY_API_KEY").map(Secret::new)),
                };
                (self.api_url()?, key, missing)
            }
        };
        let key_expiry = ExpirySource::new(&key, api.api_key_expires);
        Ok(Setup {
            source: Source {
                definitions: DefinitionsSource::Directory(files.definitions.clone()),
                secrets,
                missing,
                strict: files.strict,
                only: files.only.clone(),
                base: None,
                trust: None,
                workspace: api.workspace.clone(),
                policies: None,
            },
            api: Api::new(&http, url, method)?.with_request_timeout(api.request_timeout),
            key,
            key_expiry,
            timeout: api.timeout,
            shown: files.definitions.display().to_string(),
            sandbox,
            http,
            progress: Arc::new(Progress::new(false)),
            fingerprint_key: None,
        })
    }
}

/// The sandbox's own secrets by variable, under the names that `pull` gives them, so that definitions that were pulled from
/// a sandbox are in sync with the next one.
fn sandbox_secrets(seed: &Seed) -> BTreeMap<String, String> {
    let mut names = SecretNames::default();
    let keys = seed.partner_keys().into_iter();
    keys.filter_map(|(provider, name, value)| {
        let secret = names.next(&Provider::parse(provider).ok()?, name)?;
        Some((secret.variable(), value.to_owned()))
    })
    .collect()
}

/// Starts a sandbox whose workspace is the one that the definitions are for.
async fn start_sandbox(
    definitions: &Path,
    operator: Option<&Slug>,
    update_method: UpdateMethod,
) -> anyhow::Result<Sandbox> {
    let mut seed = Seed::builtin();
    // A directory that cannot be read is reported by the command itself.
    let pinned = match definitions::load(definitions).map(|loaded| loaded.pin) {
        Ok(Pin::Slug(slug)) => Some(slug),
        _ => operator.cloned(),
    };
    if let Some(slug) = pinned {
        seed = seed.with_slug(slug);
    }
    Sandbox::start(Config {
        seed,
        update_method,
        ..Config::default()
    })
    .await
    .context("the sandbox cannot be started")
}

/// Parses a provider's name in any case. Shells complete the known ones; any other valid name is accepted as well.
#[derive(Clone)]
pub(super) struct ProviderParser;

impl TypedValueParser for ProviderParser {
    type Value = Provider;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Provider, clap::Error> {
        let parse = |text: &str| {
            Provider::parse(&text.to_ascii_uppercase()).map_err(|error| {
                match provider_of_file(Path::new(text)) {
                    Some(meant) => format!("{error}; did you mean {meant}?"),
                    None => error.to_string(),
                }
            })
        };
        parse.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(
            KNOWN_PROVIDERS.into_iter().map(PossibleValue::new),
        ))
    }
}

/// The provider that a definition file is named after.
pub(super) fn provider_of_file(path: &Path) -> Option<Provider> {
    let is_yaml = path
        .extension()
        .is_some_and(|ending| ending == "yaml" || ending == "yml");
    let stem = path.file_stem().filter(|_| is_yaml)?.to_str()?;
    Provider::parse(&stem.to_ascii_uppercase()).ok()
}

/// Parses a directory of definition files. A missing one is reported when it is read.
pub(super) fn definitions_directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if !path.is_file() {
        return Ok(path);
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    Err(match provider_of_file(&path) {
        Some(provider) => format!(
            "this is a file; for one provider: -d {} --only {provider}",
            parent.display()
        ),
        None => "this is a file, not a directory of definition files".to_owned(),
    })
}

/// Parses a duration such as `90s` or `5m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| "must be a duration such as 90s, 5m or 1h30m".to_owned())?;
    if duration < Duration::from_millis(1) || duration > Duration::from_secs(31 * 86_400) {
        return Err("must be between 1ms and 31 days".to_owned());
    }
    Ok(duration)
}

/// Parses the time between two actions that repeat.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        interval if interval < Duration::from_secs(1) => Err("must be at least 1s".to_owned()),
        interval => Ok(interval),
    }
}

/// Parses a number from 1 to 64.
pub(super) fn up_to_64(text: &str) -> Result<NonZeroU8, String> {
    match text.parse::<NonZeroU8>() {
        Ok(number) if number.get() <= 64 => Ok(number),
        _ => Err("must be a number from 1 to 64".to_owned()),
    }
}
