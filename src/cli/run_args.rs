//! The command line of `run`. Its flags are the keys of the configuration file as well.

use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::UsageError;
use super::cluster::ClusterArgs;
use super::git_args::GitArgs;
use super::options::{BackupArgs, SourceArgs, interval, parse_repository_url, up_to_64};
use crate::http::{HttpUrl, SecretFile, UrlPolicy};
use crate::ops::admin::{Access, Hooks, Host};
use crate::plan::MaxChanges;
use crate::report::links::RepositoryUrl;
use crate::report::status::Mode;

#[derive(Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) workspace_loop: LoopArgs,
    /// Configuration file: values of these options, for one or several workspaces. Read once, at the start
    #[arg(long, env = "CALRY_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print the effective configuration with the source of each value, then exit; makes no connection
    #[arg(long)]
    pub(super) print_config: bool,
    /// Directory where the daemon saves what it last applied. With it, a restarted daemon still distinguishes drift
    /// from changes and does not repeat updates that had no effect. It holds no partner keys
    #[arg(long, env = "CALRY_STATE_DIR", value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// Reconcile once, then exit; serves no HTTP
    #[arg(long)]
    pub(super) once: bool,
    // Last, because their help headings also apply to every argument after them.
    #[command(flatten)]
    pub(super) http: HttpArgs,
    #[command(flatten)]
    pub(super) git: GitArgs,
    #[command(flatten)]
    pub(super) backups: BackupArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
}

/// The HTTP server, and who may use it.
#[derive(Args)]
#[command(next_help_heading = "HTTP")]
pub(super) struct HttpArgs {
    /// Address of the status page, metrics and health endpoints; port 0 takes a free port, off disables them
    #[arg(long, env = "CALRY_LISTEN", default_value = "127.0.0.1:8080", value_parser = listen, value_name = "ADDR|off")]
    pub(super) listen: Listen,
    /// Additional Host name to accept (loopback and the listening address always are); repeatable
    #[arg(
        long,
        env = "CALRY_ADMIN_HOST",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    admin_host: Vec<Host>,
    /// File with the token for POST requests; without it, they are accepted from loopback only
    #[arg(long, env = "CALRY_ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// Most requests per minute from one client address; probes and the files of the page are not counted
    #[arg(long, env = "CALRY_ADMIN_RATE", default_value = "60", value_name = "N")]
    admin_rate: NonZeroU32,
    /// Address under which people reach the status page, for links in notifications and commit statuses
    #[arg(long, env = "CALRY_EXTERNAL_URL", value_name = "URL")]
    external_url: Option<String>,
    /// File with the secret of the webhook of GitHub, Gitea or Forgejo; enables /hooks/github, so that a push is applied at once
    #[arg(long, env = "CALRY_GITHUB_HOOK_SECRET_FILE", value_name = "FILE")]
    github_hook_secret_file: Option<PathBuf>,
    /// File with the signing token (whsec_...) or the secret token of GitLab's webhook; enables /hooks/gitlab
    #[arg(long, env = "CALRY_GITLAB_HOOK_SECRET_FILE", value_name = "FILE")]
    gitlab_hook_secret_file: Option<PathBuf>,
    /// File with the secret of the webhook of Bitbucket, or of any other one, which sends X-Signature-256: sha256=HMAC; enables
    /// /hooks/generic
    #[arg(long, env = "CALRY_GENERIC_HOOK_SECRET_FILE", value_name = "FILE")]
    generic_hook_secret_file: Option<PathBuf>,
}

impl HttpArgs {
    /// The address of the status page for people.
    pub(super) fn external_url(&self) -> Result<Option<HttpUrl>, UsageError> {
        let parse = |text: &String| {
            HttpUrl::parse(text, UrlPolicy::DAEMON)
                .map_err(|error| UsageError(format!("--external-url {error}")))
        };
        self.external_url.as_ref().map(parse).transpose()
    }

    /// Who may use the server. A secret that cannot be read is an error now, not at the first request.
    pub(super) fn access(&self) -> anyhow::Result<Access> {
        let secret = |path: &Option<PathBuf>| {
            let file = path.as_ref().map(SecretFile::new);
            file.map(|file| file.shared().map(|_| file)).transpose()
        };
        Ok(Access {
            hosts: self.admin_host.clone(),
            token: secret(&self.admin_token_file)?,
            hooks: Hooks {
                github: secret(&self.github_hook_secret_file)?,
                gitlab: secret(&self.gitlab_hook_secret_file)?,
                generic: secret(&self.generic_hook_secret_file)?,
            },
            rate: self.admin_rate,
        })
    }
}

/// How a workspace is reconciled. Each workspace can have its own values.
#[derive(Args)]
pub(super) struct LoopArgs {
    /// How often to check for drift; a changed file is applied at once
    #[arg(long, env = "CALRY_INTERVAL", default_value = "60s", value_parser = interval, value_name = "TIME")]
    pub(super) interval: Duration,
    /// enforce applies the files and undoes drift; observe reports differences and writes nothing
    #[arg(long, env = "CALRY_MODE", value_enum, default_value_t = ModeArg::Enforce, value_name = "enforce|observe")]
    mode: ModeArg,
    /// Most providers that a plan may change without an approval: a number, a share of the managed providers such as 30%
    /// (but at least 5), or none for no limit
    #[arg(
        long,
        env = "CALRY_MAX_CHANGES",
        default_value = "30%",
        value_name = "N|SHARE%|none"
    )]
    pub(super) max_changes: MaxChanges,
    /// How many updates may run at the same time
    #[arg(long, env = "CALRY_CONCURRENCY", default_value = "8", value_parser = up_to_64, value_name = "N")]
    pub(super) concurrency: NonZeroU8,
    /// Web address of the repository, for links to commits and files. If the name of the host does not show its kind, begin
    /// with gitlab+, gitea+ or bitbucket+
    #[arg(long, env = "CALRY_REPOSITORY_URL", value_name = "URL")]
    repository_url: Option<String>,
}

impl LoopArgs {
    pub(super) fn repository_url(&self) -> Result<Option<RepositoryUrl>, UsageError> {
        parse_repository_url(self.repository_url.as_deref())
    }

    pub(super) const fn mode(&self) -> Mode {
        match self.mode {
            ModeArg::Enforce => Mode::Enforce,
            ModeArg::Observe => Mode::Observe,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeArg {
    Enforce,
    Observe,
}

#[derive(Clone, Copy)]
pub(super) enum Listen {
    Off,
    On(SocketAddr),
}

fn listen(text: &str) -> Result<Listen, String> {
    match text {
        "off" => Ok(Listen::Off),
        _ => text.parse().map(Listen::On).map_err(|_| {
            "must be an address such as 127.0.0.1:8080, [::]:8080 for every interface, or off to disable the server".to_owned()
        }),
    }
}
