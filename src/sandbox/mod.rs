//! A local Calry for trying, demos and tests: the API of the contract, with its semantics and faults.
//!
//! It holds everything in memory and by default listens on this machine only.
//!
//! Never: use another module than `model`, so that the sandbox is independent of the code that is tested with it.

mod contract;
mod cuttable;
mod faults;
mod request_log;
mod seed;
mod server;
mod store;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use parking_lot::Mutex;

use axum::Router;
use jiff::Timestamp;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use contract::Update;
pub use faults::{Chance, Fault, FaultKind, InvalidChance, InvalidRate, Rate};
pub use request_log::RequestRecord;
pub use seed::{InvalidSeed, Seed};
pub use store::{
    AcrossGroups, Mask, PartialPartnerKey, PutAbsent, Semantics, SpecifiedFields, Store, mask,
};

use crate::model::{Slug, UpdateMethod};
use cuttable::{Connection, CuttableListener};
use faults::{Faults, Limiter};
use server::{MutableState, ServerState};

#[derive(Clone, Debug)]
pub struct Config {
    /// Port 0 takes a free port.
    pub listen: SocketAddr,
    /// Allow an address that other machines can reach. They could then read everything that is sent to the sandbox.
    pub allow_remote: bool,
    pub seed: Seed,
    /// `None` uses [`Keys::of`] the seed's workspace.
    pub keys: Option<Keys>,
    /// PATCH always works; with [`UpdateMethod::Put`], PUT works as well.
    pub update_method: UpdateMethod,
    pub semantics: Semantics,
    /// The delay of every request.
    pub latency: Duration,
    /// `None` sets no limit.
    pub rate_limit: Option<Rate>,
    /// The share of requests that fail at random: 502, 503, 504, or a cut connection before or after the update.
    pub fail: Chance,
    pub random_seed: u64,
    /// The number of additional, equal workspaces, each with its own keys. For measurements; this handle controls the first.
    pub copies: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            allow_remote: false,
            seed: Seed::builtin(),
            keys: None,
            update_method: UpdateMethod::default(),
            semantics: Semantics::default(),
            latency: Duration::ZERO,
            rate_limit: None,
            fail: Chance::default(),
            random_seed: 0,
            copies: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Read,
    Write,
}

/// The API keys of a sandbox. They are not secret and may be printed, but `Debug` masks them.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub read: String,
    pub write: String,
    pub expired: String,
}

impl Keys {
    /// The keys of a workspace, in the form of Calry's keys: `zepl.{keyID}.{random}.{workspace}`. They are constant, so that
    /// documents and scripts can name them.
    #[must_use]
    pub fn of(workspace: &Slug) -> Self {
        let key = |id| format!("zepl.{id}.not-a-secret.{workspace}");
        Self {
            read: key("sandbox-read"),
            write: key("sandbox-write"),
            expired: key("sandbox-expired"),
        }
    }

    /// The permission of a key, or the message of its refusal.
    fn permission(&self, key: Option<&str>) -> Result<Permission, &'static str> {
        match key {
            Some(key) if key == self.write => Ok(Permission::Write),
            Some(key) if key == self.read => Ok(Permission::Read),
            Some(key) if key == self.expired => {
                Err("Authentication failed: the API key has expired")
            }
            _ => Err("Authentication failed"),
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(***)")
    }
}

/// A running sandbox. It stops when it is dropped.
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<ServerState>,
    server: JoinHandle<io::Result<()>>,
    stop: DropGuard,
}

impl Sandbox {
    /// Starts a sandbox, which listens when this returns.
    ///
    /// # Errors
    /// The address is in use, or other machines could reach it and that is not allowed.
    pub async fn start(config: Config) -> io::Result<Self> {
        let Config {
            listen,
            allow_remote,
            seed,
            keys,
            copies,
            ..
        } = config.clone();
        if !listen.ip().is_loopback() && !allow_remote {
            let sentence = format!(
                "{listen} can be reached from other machines: choose a loopback address such as 127.0.0.1:{}, or add \
                 --allow-remote",
                listen.port()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        let inner = TcpListener::bind(listen).await.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("the sandbox cannot listen on {listen}: {error}; choose another address"),
            )
        })?;
        let address = inner.local_addr()?;
        let of = |seed: Seed, keys: Keys, other_workspaces| ServerState {
            other_workspaces,
            update_method: config.update_method,
            latency: config.latency,
            limiter: Limiter::new(config.rate_limit),
            state: Mutex::new(MutableState {
                keys,
                store: Store {
                    workspace: seed.workspace,
                    definitions: seed.definitions,
                },
                semantics: config.semantics,
                faults: Faults::new(config.fail, config.random_seed),
                log: request_log::RequestLog::default(),
            }),
        };
        let mut other_workspaces = HashMap::new();
        for copy in 1..=copies {
            let seed = seed.copy(copy);
            let keys = Keys::of(&seed.slug);
            let names = [keys.read.clone(), keys.write.clone(), keys.expired.clone()];
            let shared = Arc::new(of(seed, keys, HashMap::new()));
            other_workspaces.extend(names.map(|key| (key, Arc::clone(&shared))));
        }
        let keys = keys.unwrap_or_else(|| Keys::of(&seed.slug));
        let shared = Arc::new(of(seed, keys, other_workspaces));
        let stop = CancellationToken::new();
        let service = Router::new()
            .fallback(server::answer)
            .with_state(Arc::clone(&shared));
        let server = axum::serve(
            CuttableListener {
                inner,
                stop: stop.clone(),
            },
            service.into_make_service_with_connect_info::<Connection>(),
        )
        .with_graceful_shutdown(stop.clone().cancelled_owned());
        Ok(Self {
            address,
            shared,
            server: tokio::spawn(server.into_future()),
            stop: stop.drop_guard(),
        })
    }

    /// The base URL, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        let mut address = self.address;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        format!("http://{address}")
    }

    #[must_use]
    pub fn keys(&self) -> Keys {
        self.shared.lock().keys.clone()
    }

    /// Replaces the WRITE key. The previous one becomes the expired key.
    pub fn rotate_write_key(&self, key: impl Into<String>) {
        let keys = &mut self.shared.lock().keys;
        keys.expired = std::mem::replace(&mut keys.write, key.into());
    }

    /// The last 100,000 requests, in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.shared.lock().log.records()
    }

    #[must_use]
    pub fn definition(&self, provider: &str) -> Option<Value> {
        self.shared.lock().store.definitions.get(provider).cloned()
    }

    /// Sets a provider's definition to any JSON and updates its `updatedAt`.
    pub fn set_definition(&self, provider: &str, definition: Value) {
        self.shared
            .lock()
            .store
            .set(provider, definition, Timestamp::now());
    }

    pub fn remove_definition(&self, provider: &str) -> Option<Value> {
        self.shared.lock().store.definitions.remove(provider)
    }

    /// Changes a definition, as an edit in the Calry console does, and updates its `updatedAt`. `false` if the provider has no
    /// definition. The sandbox answers no request until `change` returns.
    pub fn modify(&self, provider: &str, change: impl FnOnce(&mut Value)) -> bool {
        self.shared
            .lock()
            .store
            .modify(provider, Timestamp::now(), change)
            .is_some()
    }

    pub fn modify_workspace(&self, change: impl FnOnce(&mut Value)) {
        change(&mut self.shared.lock().store.workspace);
    }

    /// Adds a fault, after the pending ones, for the requests that match it.
    pub fn inject(&self, fault: Fault) {
        self.shared.lock().faults.inject(fault);
    }

    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    #[must_use]
    pub fn semantics(&self) -> Semantics {
        self.shared.lock().semantics
    }

    pub fn set_semantics(&self, semantics: Semantics) {
        self.shared.lock().semantics = semantics;
    }

    /// Cuts every connection and stops. When this returns, the address is free.
    pub async fn shutdown(self) {
        let Self { server, stop, .. } = self;
        drop(stop);
        let _ = server.await;
    }

    /// The text for a user who tries the sandbox: its URL, its keys, and a command that causes drift.
    #[must_use]
    pub fn banner(&self) -> String {
        let (slug, definitions, example) = {
            let state = self.shared.lock();
            let Store {
                workspace,
                definitions,
            } = &state.store;
            let mut providers = definitions.keys();
            let known = providers.clone().find(|provider| *provider == "HOSTAWAY");
            let example = known.or_else(|| providers.next()).cloned();
            let slug = workspace
                .get("slug")
                .and_then(Value::as_str)
                .unwrap_or_default();
            (slug.to_owned(), definitions.len(), example)
        };
        let url = self.url();
        let Keys {
            read,
            write,
            expired,
        } = self.keys();
        let width = read.len().max(write.len()).max(expired.len());
        let mut banner = format!(
            "Local Calry sandbox: {url}\n\n  \
             workspace  {slug}, {definitions} integration definitions, held in memory\n  \
             READ key   {read:width$}  read only\n  \
             WRITE key  {write:width$}  read and update\n  \
             old key    {expired:width$}  expired\n"
        );
        if let Some(provider) = example {
            banner.push_str(&format!(
                "\nCause drift, like an edit in the Calry console. (Icon only. Sending some fieldsToSync would switch\n\
                 all others off.)\n\n  \
                 curl -X PATCH {url}/api/v1/integration-definition/{provider} \\\n    \
                 -H 'x-calry-api-key: {write}' \\\n    \
                 -H 'content-type: application/json' \\\n    \
                 -d '{{\"icon\": \"https://cdn.example.com/icons/clicked.png\"}}'\n"
            ));
        }
        banner
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {0}")]
pub struct UnknownChoice(&'static str);

macro_rules! choices {
    ($type:ty, $names:literal, $($name:literal => $value:expr),+) => {
        impl FromStr for $type {
            type Err = UnknownChoice;

            fn from_str(text: &str) -> Result<Self, UnknownChoice> {
                match text {
                    $($name => Ok($value),)+
                    _ => Err(UnknownChoice($names)),
                }
            }
        }
    };
}

choices!(SpecifiedFields, "`true`, `present`", "true" => Self::TrueMeansTrue, "present" => Self::PresentMeansTrue);
choices!(AcrossGroups, "`yes`, `no`", "yes" => Self::Yes, "no" => Self::No);
choices!(PartialPartnerKey, "`merge`, `replace`", "merge" => Self::Merges, "replace" => Self::Replaces);
choices!(PutAbsent, "`clear`, `keep`", "clear" => Self::Clears, "keep" => Self::Keeps);
choices!(Mask, "`never`, `read`, `always`", "never" => Self::Never, "read" => Self::ReadKeys, "always" => Self::Always);

#[cfg(test)]
mod tests;
