//! What the daemon asks of the cluster that it runs in: Leases, by which one of several replicas leads, and Events, which say
//! on the Pod what happened.
//!
//! What it never does: read or change any other object, or hold a pass up. The API server away, whoever leads writes until
//! its term is over, and then nobody does.

mod election;
mod event_writer;
mod lease;
mod replica;

use std::time::Duration;

use axum::http::Response;
use http_body_util::Limited;
use kube::client::{AuthError, ClientBuilder, DynBody};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use tokio::runtime::Handle;
use tower::util::MapResponseLayer;

pub use election::{Election, Record, Step, Times};
pub use event_writer::{EventWriter, Events, NoPod, drain};
pub use lease::{Lease, Shards};
pub use replica::{Options, Replica, RunningReplica};

use crate::model::{ellipsize, printable};

/// How long a connection to the API server may take.
const CONNECT: Duration = Duration::from_secs(3);

/// How long finding the API server may take: a kubeconfig may name a program that has the credentials.
const FIND: Duration = Duration::from_secs(15);

/// The largest answer of the API server, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// The longest quotation of what the API server says, in characters.
const MAX_QUOTE: usize = 300;

/// The API server, and who asks it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    pod: Pod,
}

/// The Pod that this process runs in, as the downward API tells of it.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// `metadata.name`.
    pub name: Option<String>,
    /// `metadata.namespace`.
    pub namespace: Option<String>,
    /// `metadata.uid`.
    pub uid: Option<String>,
}

/// Why there is no API server to ask.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// In a cluster, and without what a Pod needs.
    #[error(
        "cannot ask the API server of this cluster: {0}; mount the token of a service account into the container"
    )]
    InCluster(String),
    #[error(
        "cannot tell where the API server is: {0}; run it in a cluster, or name a kubeconfig by KUBECONFIG"
    )]
    Kubeconfig(String),
    #[error("cannot set the client of the API server up: {0}")]
    Client(String),
    /// Something that is asked for credentials does not answer.
    #[error(
        "timed out after {} while waiting for the credentials for the API server; check the program that the kubeconfig names for them",
        crate::model::human_duration(FIND)
    )]
    Late,
    #[error("POD_NAMESPACE is {0:?}, and that is no name of a namespace")]
    Namespace(String),
    /// Events are asked for, and the Pod is unknown.
    #[error(transparent)]
    NoPod(#[from] NoPod),
}

impl Cluster {
    /// Finds the API server: by `KUBECONFIG`, else that of the cluster that the process runs in, else by the usual kubeconfig.
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn find(pod: Pod) -> Result<Self, ClusterError> {
        // A program that a kubeconfig names is waited for by the thread.
        let runtime = Handle::current();
        let finding = tokio::task::spawn_blocking(move || runtime.block_on(Self::found(pod)));
        match tokio::time::timeout(FIND, finding).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(ClusterError::Client(
                "a fault of calry-gitops, told above".to_owned(),
            )),
            Err(_) => Err(ClusterError::Late),
        }
    }

    async fn found(pod: Pod) -> Result<Self, ClusterError> {
        let of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if let Some(namespace) = pod
            .namespace
            .as_ref()
            .filter(|name| name.len() > 63 || !name.chars().all(of_name))
        {
            return Err(ClusterError::Namespace(ellipsize(
                &printable(namespace),
                MAX_QUOTE,
            )));
        }
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let mut config = if !set("KUBECONFIG") && set("KUBERNETES_SERVICE_HOST") {
            Config::incluster()
                .map_err(|error| ClusterError::InCluster(quoted(&error.to_string())))?
        } else {
            let config = Config::from_kubeconfig(&KubeConfigOptions::default()).await;
            config.map_err(|error| ClusterError::Kubeconfig(quoted(&error.to_string())))?
        };
        config.connect_timeout = Some(CONNECT);
        // Whether anything is tried again, and when, is decided here. And it is near: a proxy is for Calry and git.
        config.default_retry = false;
        config.proxy_url = None;
        let namespace = pod
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let client =
            ClientBuilder::try_from(config).map_err(|error| ClusterError::Client(said(&error)))?;
        // kube reads an answer to its end, however long it is.
        let bounded = MapResponseLayer::new(|answer: Response<Box<DynBody>>| {
            answer.map(|body| Limited::new(body, MAX_ANSWER))
        });
        Ok(Self {
            client: client.with_layer(&bounded).build(),
            namespace,
            pod,
        })
    }

    /// A name for this process that no other ever has.
    #[must_use]
    pub fn identity(&self) -> String {
        let host = || {
            rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned()
        };
        let name = self.pod.name.clone().unwrap_or_else(host);
        format!(
            "{}_{:016x}",
            ellipsize(&printable(&name), 200),
            fastrand::u64(..)
        )
    }
}

/// What the API server says, or what kept it from that.
fn said(error: &kube::Error) -> String {
    let told = match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        // What such a program printed may be a token.
        kube::Error::Auth(AuthError::AuthExecRun { out, .. }) => {
            format!(
                "the program that the kubeconfig names for credentials ended with {}",
                out.status
            )
        }
        other => innermost(other),
    };
    quoted(&told)
}

fn quoted(text: &str) -> String {
    ellipsize(&printable(text), MAX_QUOTE)
}

/// The innermost reason, such as "Connection refused": the outer ones say less.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
