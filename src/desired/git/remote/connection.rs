//! A conversation with a git server: its references, and the pack of one commit.
//!
//! Nothing is negotiated: one object is wanted, and at most one commit is there already.

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;

use gix::ObjectId;
use gix::progress::Discard;
use gix_protocol::fetch::negotiate::{Action, Round, one_round};
use gix_protocol::fetch::{Arguments, Context, Negotiate, Options, Response, Shallow, Tags};
use gix_protocol::handshake::Ref;
use gix_protocol::ls_refs::RefPrefixes;
use gix_protocol::transport::client::blocking_io::http::Transport;
use gix_protocol::transport::{Protocol, Service};
use gix_protocol::{Handshake, LsRefsCommand};

use super::clone::{Generation, open_bare};
use super::error::FetchError;
use super::quote;
use super::reference::Target;
use super::transport::{Client, Exchange};
use crate::http::HttpUrl;

/// The largest object of a pack, in bytes. Decoding takes up to three times that much memory.
const MAX_OBJECT: usize = 32 << 20;
/// The largest pack that is added to a clone, in bytes. Its entries are kept in memory, because it may refer to objects of the
/// clone; a larger one is received again as a whole clone, whose entries are not.
const MAX_INCREMENT: u64 = 32 << 20;
/// The largest list of references, in bytes.
const MAX_LIST: u64 = 4 << 20;

/// A conversation with a server.
pub(super) struct Connection {
    exchange: Arc<Exchange>,
    transport: Transport<Client>,
    handshake: Handshake,
}

impl Connection {
    pub(super) fn open(url: &HttpUrl, exchange: Arc<Exchange>) -> Result<Self, FetchError> {
        let parsed = gix::url::parse(url.as_url().as_str())
            .map_err(|error| FetchError::NotGit(quote(&error.to_string())))?;
        let client = Client::new(Arc::clone(&exchange));
        let mut transport = Transport::new_http(client, parsed, Protocol::V2, false);
        let never = |_| Ok(None);
        let handshake = gix_protocol::handshake(
            &mut transport,
            Service::UploadPack,
            never,
            Vec::new(),
            &mut Discard,
        );
        let handshake = handshake.map_err(|error| failure(&exchange, &error))?;
        let format = handshake.capabilities.capability("object-format");
        if format.is_some_and(|format| format.value().is_some_and(|name| name != "sha1")) {
            return Err(FetchError::Sha256);
        }
        Ok(Self {
            exchange,
            transport,
            handshake,
        })
    }

    /// The references with these names and `HEAD`, and perhaps others.
    pub(super) fn list(&mut self, names: &[String]) -> Result<Vec<Ref>, FetchError> {
        // Version 0 has listed all of them already.
        if let Some(refs) = self.handshake.refs.take() {
            return Ok(refs);
        }
        self.exchange.allow(MAX_LIST);
        let mut prefixes = RefPrefixes::new();
        prefixes.extend(names.iter().map(|name| name.as_str().into()));
        prefixes.extend(["HEAD".into()]);
        let command =
            LsRefsCommand::new(Some(prefixes), &self.handshake.capabilities, user_agent());
        command
            .invoke_blocking(&mut self.transport, &mut Discard, false)
            .map_err(|error| failure(&self.exchange, &error))
    }

    /// Receives the pack of a commit into a generation. `have` is a commit that it holds already.
    pub(super) fn receive(
        &mut self,
        generation: &Generation,
        target: &Target,
        have: Option<ObjectId>,
        depth: NonZeroU32,
    ) -> Result<(), FetchError> {
        let invalid = |error: gix::Error| FetchError::Invalid(quote(&error.to_string()));
        let repository = open_bare(generation.path()).map_err(invalid)?;
        let mut want = Want {
            id: target.tag.unwrap_or(target.commit),
            have: have.filter(|have| repository.find_header(*have).is_ok()),
        };
        let is_whole = want.have.is_none();
        self.exchange
            .allow(if is_whole { u64::MAX } else { MAX_INCREMENT });
        // Only a pack without them is received without keeping its entries in memory.
        let known = (!is_whole).then(|| Box::new(repository.objects.clone()));
        let packs = generation.packs();
        let options = gix_pack::bundle::write::Options {
            thread_limit: Some(1),
            alloc_limit_bytes: Some(MAX_OBJECT),
            ..Default::default()
        };
        let fetched = gix_protocol::fetch(
            &mut want,
            |pack, progress, interrupt| {
                let written = gix_pack::Bundle::write_to_directory(
                    pack,
                    Some(&packs),
                    progress,
                    interrupt,
                    known,
                    gix::hash::Kind::Sha1,
                    options,
                )?;
                // The mark is for a git that cleans up, which is never used here.
                if let Some(mark) = written.keep_path {
                    std::fs::remove_file(mark).map_err(gix::Error::from_error)?;
                }
                Ok(true)
            },
            Discard,
            &Arc::clone(&self.exchange.interrupt),
            Context {
                handshake: &mut self.handshake,
                transport: &mut self.transport,
                user_agent: user_agent(),
                trace_packetlines: false,
            },
            Options {
                shallow_file: generation.shallow_file(),
                shallow: &Shallow::DepthAtRemote(depth),
                tags: Tags::None,
                reject_shallow_remote: false,
            },
        );
        fetched.map(drop).map_err(|error| {
            // What failed on this side is an error of the file system.
            let own = error.iter_errors().find_map(|cause| {
                let cause = cause.downcast_ref::<io::Error>()?;
                matches!(
                    cause.kind(),
                    io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                        | io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::PermissionDenied
                )
                .then(|| io::Error::from(cause.kind()))
            });
            if let Some(ended) = self.exchange.ended() {
                return ended;
            }
            match own {
                Some(source) => FetchError::Storage {
                    directory: packs.clone(),
                    source,
                },
                None if error.is_resource_exhausted() => FetchError::LargeObject(MAX_OBJECT as u64),
                None => match failure(&self.exchange, &error) {
                    // What every implementation of git answers to an unknown commit.
                    FetchError::Invalid(text) if text.contains("not our ref") => {
                        FetchError::CommitMissing(target.commit.to_string())
                    }
                    failure => failure,
                },
            }
        })
    }
}

/// The cause of a failed request, or else what the protocol code says.
fn failure(exchange: &Exchange, error: &gix::Error) -> FetchError {
    let failed = exchange.failure.lock().take();
    failed.unwrap_or_else(|| {
        let causes: Vec<String> = error.iter_errors().map(ToString::to_string).collect();
        FetchError::Invalid(quote(&causes.join(": ")))
    })
}

fn user_agent() -> (&'static str, Option<String>) {
    let agent = concat!("git/calry-gitops-", env!("CARGO_PKG_VERSION"));
    ("agent", Some(agent.to_owned()))
}

/// Wants one object, and has at most one commit: nothing is negotiated.
struct Want {
    id: ObjectId,
    have: Option<ObjectId>,
}

impl Negotiate for Want {
    fn mark_complete_and_common_ref(&mut self) -> Result<Action, gix::Error> {
        Ok(Action::MustNegotiate {
            remote_ref_target_known: vec![false],
        })
    }

    fn add_wants(&mut self, arguments: &mut Arguments, _known: &[bool]) -> bool {
        arguments.want(self.id);
        true
    }

    fn one_round(
        &mut self,
        _state: &mut one_round::State,
        arguments: &mut Arguments,
        _previous: Option<&Response>,
    ) -> Result<(Round, bool), gix::Error> {
        if let Some(have) = self.have {
            arguments.have(have);
        }
        let round = Round {
            haves_sent: usize::from(self.have.is_some()),
            in_vain: 0,
            haves_to_send: 0,
            previous_response_had_at_least_one_in_common: false,
        };
        Ok((round, true))
    }
}
