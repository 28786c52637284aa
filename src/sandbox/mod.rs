//! A Calry of one's own: the API of the contract with its semantics and its faults, for trying, demos and tests.
//!
//! It holds everything in memory and listens on this machine only, unless told otherwise. It never sees the plan, the
//! client, or anything else of this crate but the vocabulary: what it answers is not made by what it tests.

mod connection;
mod contract;
mod faults;
mod http;
mod log;
mod seed;
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

pub use faults::{Chance, Fault, FaultKind, InvalidChance, InvalidRate, Rate};
pub use log::RequestRecord;
pub use seed::{InvalidSeed, Seed};
pub use store::{AcrossGroups, Mask, PartialPartnerKey, PutAbsent, Semantics, SpecifiedFields};

use crate::model::{Slug, UpdateMethod};
use connection::{Connection, CuttableListener};
use faults::{Faults, Limiter};
use http::{Mutable, Shared};
use store::Store;

/// How a sandbox is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens; port 0 is any free one.
    pub listen: SocketAddr,
    /// Whether that may be an address that other machines reach. They could then read whatever it is sent.
    pub allow_remote: bool,
    /// What it holds at the start.
    pub seed: Seed,
    /// Its keys; `None` is [`Keys::of`] the seed's workspace.
    pub keys: Option<Keys>,
    /// PATCH always works; with [`UpdateMethod::Put`], PUT does too.
    pub update_method: UpdateMethod,
    /// What updates mean.
    pub semantics: Semantics,
    /// How long every request waits before it is looked at.
    pub latency: Duration,
    /// How many requests a second it takes; `None` is any number.
    pub rate_limit: Option<Rate>,
    /// How often a request fails at random: 502, 503, 504, or a cut connection, before or after an update is made.
    pub fail: Chance,
    /// Where the dice for that begin.
    pub dice_seed: u64,
    /// How many workspaces like it there are beside, told apart by their keys. For measuring; this handle knows the first.
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
            dice_seed: 0,
            copies: 0,
        }
    }
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Look.
    Read,
    /// Look and update.
    Write,
}

/// The API keys of a sandbox. They are made for trying, so that it may print them; `Debug` does not, all the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// May look.
    pub read: String,
    /// May look and update.
    pub write: String,
    /// May do nothing any more.
    pub expired: String,
}

impl Keys {
    /// The keys of a workspace, in the form of Calry's: `zepl.{keyID}.{random}.{workspace}`. They are always the same, for
    /// documentation and scripts to name.
    #[must_use]
    pub fn of(workspace: &Slug) -> Self {
        let key = |id| format!("zepl.{id}.not-a-secret.{workspace}");
        Self {
            read: key("sandbox-read"),
            write: key("sandbox-write"),
            expired: key("sandbox-expired"),
        }
    }

    /// What a key may do, or the message with which it is refused.
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

/// A running sandbox. It ends when it is dropped.
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<io::Result<()>>,
    stop: DropGuard,
}

impl Sandbox {
    /// Starts a sandbox; when this returns, it listens.
    ///
    /// # Errors
    /// Where it cannot listen on the address, or must not because other machines would reach it.
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
                "the sandbox does not listen on {listen}, where other machines could reach it: choose a loopback \
                 address such as 127.0.0.1:{}",
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
        let of = |seed: Seed, keys: Keys, others| Shared {
            others,
            update_method: config.update_method,
            latency: config.latency,
            limiter: Limiter::new(config.rate_limit),
            state: Mutex::new(Mutable {
                keys,
                store: Store::new(seed.workspace, seed.definitions),
                semantics: config.semantics,
                faults: Faults::new(config.fail, config.dice_seed),
                log: log::Log::default(),
            }),
        };
        let mut others = HashMap::new();
        for copy in 1..=copies {
            let seed = seed.copy(copy);
            let keys = Keys::of(&seed.slug);
            let names = [keys.read.clone(), keys.write.clone(), keys.expired.clone()];
            let shared = Arc::new(of(seed, keys, HashMap::new()));
            others.extend(names.map(|key| (key, Arc::clone(&shared))));
        }
        let keys = keys.unwrap_or_else(|| Keys::of(&seed.slug));
        let shared = Arc::new(of(seed, keys, others));
        let stop = CancellationToken::new();
        let service = Router::new()
            .fallback(http::answer)
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

    /// Its base URL, without a slash at the end.
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

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> Keys {
        self.shared.lock().keys.clone()
    }

    /// Puts another WRITE key in the place of the one there is, which has expired from then on.
    pub fn rotate_write_key(&self, key: impl Into<String>) {
        let keys = &mut self.shared.lock().keys;
        keys.expired = std::mem::replace(&mut keys.write, key.into());
    }

    /// What was asked of it, in the order of arrival: the last 100,000 requests.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.shared.lock().log.records()
    }

    /// A definition as it is stored, unmasked; `None` where there is none for the provider.
    #[must_use]
    pub fn definition(&self, provider: &str) -> Option<Value> {
        self.shared
            .lock()
            .store
            .definitions()
            .get(provider)
            .cloned()
    }

    /// Puts any JSON in the place of a provider's definition, or beside the others, and moves its `updatedAt`.
    pub fn set_definition(&self, provider: &str, definition: Value) {
        self.shared
            .lock()
            .store
            .set(provider, definition, Timestamp::now());
    }

    /// Takes a provider's definition away, and answers with it.
    pub fn remove_definition(&self, provider: &str) -> Option<Value> {
        self.shared.lock().store.remove(provider)
    }

    /// Changes a definition, as a click in a console does, and moves its `updatedAt`; `false` where there is none for the
    /// provider. The sandbox answers nobody before `change` returns.
    pub fn modify(&self, provider: &str, change: impl FnOnce(&mut Value)) -> bool {
        self.shared
            .lock()
            .store
            .modify(provider, Timestamp::now(), change)
            .is_some()
    }

    /// Changes the workspace, such as its slug.
    pub fn modify_workspace(&self, change: impl FnOnce(&mut Value)) {
        change(self.shared.lock().store.workspace_mut());
    }

    /// Lets a fault wait for the requests that it fits, behind those that wait already.
    pub fn inject(&self, fault: Fault) {
        self.shared.lock().faults.inject(fault);
    }

    /// Forgets the faults that wait.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// What updates mean now.
    #[must_use]
    pub fn semantics(&self) -> Semantics {
        self.shared.lock().semantics
    }

    /// What updates mean from now on.
    pub fn set_semantics(&self, semantics: Semantics) {
        self.shared.lock().semantics = semantics;
    }

    /// Cuts every connection and ends; when this returns, its address is free.
    pub async fn shutdown(self) {
        let Self { server, stop, .. } = self;
        drop(stop);
        let _ = server.await;
    }

    /// What a person needs who wants to try it: where it listens, its keys, and a command that makes drift.
    #[must_use]
    pub fn banner(&self) -> String {
        let (slug, definitions, example) = {
            let state = self.shared.lock();
            let definitions = state.store.definitions();
            let example = ["HOSTAWAY"]
                .into_iter()
                .find(|provider| definitions.contains_key(*provider));
            let example = example
                .or_else(|| definitions.keys().next().map(String::as_str))
                .map(str::to_owned);
            let slug = state
                .store
                .workspace()
                .get("slug")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            (slug, definitions.len(), example)
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
             READ key   {read:width$}  may look\n  \
             WRITE key  {write:width$}  may look and change\n  \
             old key    {expired:width$}  has expired\n"
        );
        if let Some(provider) = example {
            banner.push_str(&format!(
                "\nMake drift, like an edit in the Calry console. (Icon only. Sending some fieldsToSync would switch\n\
                 all others off.)\n\n  \
                 curl -X PATCH {url}/api/v1/integration-definition/{provider} \\\n    \
                 -H 'x-calry-api-key: {write}' \\\n    \
                 -H 'content-type: application/json' \\\n    \
                 -d '{{\"icon\": \"https://cdn.example.com/icons/somebody-clicked.png\"}}'\n"
            ));
        }
        banner
    }
}

/// A text that names no choice of an option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is one of {0}")]
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
