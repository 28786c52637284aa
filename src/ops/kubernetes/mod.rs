//! Uses the Kubernetes cluster of the daemon: Leases elect the leader among several replicas, and Events about the Pod show
//! what happened.
//!
//! Never: read or change any other object, or delay a reconciliation. If the API server does not answer, the leader writes
//! until the end of its term; after that no replica writes.

mod election;
mod event_writer;
mod lease;
mod replica;

use std::error::Error;
use std::iter::successors;
use std::net::IpAddr;
use std::time::Duration;

use axum::http::Response;
use http_body_util::Limited;
use kube::client::{AuthError, ClientBuilder, DynBody};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use tokio::runtime::Handle;
use tower::util::MapResponseLayer;

pub use election::{Election, LeaseRecord, Step, Times};
pub use event_writer::{EventWriter, Events};
pub use lease::{Lease, Shards};
pub use replica::{Options, Replica, RunningReplica};

use crate::model::{ellipsize, printable};

/// How long a connection to the API server may take.
const CONNECT: Duration = Duration::from_secs(3);

/// How long finding the API server may take: a kubeconfig may start a program that gets the credentials.
const FIND: Duration = Duration::from_secs(15);

/// The largest answer of the API server, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// The longest quotation of an error of the API server, in characters.
const MAX_QUOTE: usize = 300;

#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    pod: Pod,
}

/// The Pod of this process, as set by the downward API.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub uid: Option<String>,
    /// Its own address.
    pub ip: Option<IpAddr>,
}

/// Why there is no connection to an API server.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(
        "cannot use the API server of this cluster: {0}; mount the token of a service account into the container"
    )]
    InCluster(String),
    #[error("cannot find an API server: {0}; run in a cluster, or set KUBECONFIG to a kubeconfig")]
    Kubeconfig(String),
    #[error("cannot set up the client of the API server: {0}")]
    Client(String),
    #[error(
        "timed out after {} while waiting for the credentials for the API server; check the kubeconfig's exec plugin",
        crate::model::human_duration(FIND)
    )]
    Late,
    #[error("POD_NAMESPACE is {0:?}, which is not a valid namespace")]
    Namespace(String),
    #[error(
        "Events need the name and the uid of the Pod: set POD_NAME, POD_NAMESPACE and POD_UID by the downward API, as \
         deploy/kubernetes/base does, or omit --kubernetes-events"
    )]
    NoPod,
}

impl Cluster {
    /// An API server that `client` reaches.
    #[must_use]
    pub const fn new(client: Client, namespace: String, pod: Pod) -> Self {
        Self {
            client,
            namespace,
            pod,
        }
    }

    /// Finds the API server: by `KUBECONFIG`, otherwise in the cluster of this process, otherwise by the default kubeconfig.
    /// Sends no request.
    pub async fn find(pod: Pod) -> Result<Self, ClusterError> {
        // An exec plugin of the kubeconfig blocks the thread.
        let runtime = Handle::current();
        let finding = tokio::task::spawn_blocking(move || runtime.block_on(Self::connect(pod)));
        match tokio::time::timeout(FIND, finding).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(ClusterError::Client(
                "an internal error; its cause is logged above".to_owned(),
            )),
            Err(_) => Err(ClusterError::Late),
        }
    }

    async fn connect(pod: Pod) -> Result<Self, ClusterError> {
        let of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if let Some(namespace) = pod
            .namespace
            .as_ref()
            .filter(|name| name.len() > 63 || !name.chars().all(of_name))
        {
            return Err(ClusterError::Namespace(quoted(namespace)));
        }
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let mut config = if !set("KUBECONFIG") && set("KUBERNETES_SERVICE_HOST") {
            Config::incluster()
                .map_err(|error| ClusterError::InCluster(quoted(&error.to_string())))?
        } else {
            Config::from_kubeconfig(&KubeConfigOptions::default())
                .await
                .map_err(|error| ClusterError::Kubeconfig(quoted(&error.to_string())))?
        };
        config.connect_timeout = Some(CONNECT);
        // Retries are decided here. The API server is near: proxies are for Calry and git.
        config.default_retry = false;
        config.proxy_url = None;
        let namespace = pod
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let client = ClientBuilder::try_from(config)
            .map_err(|error| ClusterError::Client(describe_error(&error)))?;
        // kube itself does not limit the size of an answer.
        let bounded = MapResponseLayer::new(|answer: Response<Box<DynBody>>| {
            answer.map(|body| Limited::new(body, MAX_ANSWER))
        });
        Ok(Self {
            client: client.with_layer(&bounded).build(),
            namespace,
            pod,
        })
    }

    /// A unique name for this process.
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

/// The error of the API server or of the connection.
fn describe_error(error: &kube::Error) -> String {
    let text = match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        // The output of an exec plugin may be a token.
        kube::Error::Auth(AuthError::AuthExecRun { out, .. }) => {
            format!("the kubeconfig's exec plugin ended with {}", out.status)
        }
        other => {
            // The innermost cause, such as "Connection refused": the outer ones say less.
            let causes = successors(Some(other as &dyn Error), |cause| (*cause).source());
            causes.last().unwrap_or(other).to_string()
        }
    };
    quoted(&text)
}

fn quoted(text: &str) -> String {
    ellipsize(&printable(text), MAX_QUOTE)
}
