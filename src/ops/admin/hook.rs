//! Webhooks of git hosts: a push is fetched at once. Each hook has its own secret.
//!
//! Each repository that the push may concern is fetched. If a body does not say which, that is every repository. A body is
//! kept only until it is read, and only if there is memory for it. Anyone can use up that memory for the time limit of a
//! body, because a signature can be checked only at its end. So messages of other replicas, which are small, need none of it.
//!
//! Never: read a body whose sender is not authenticated, or let a body choose what is fetched from where.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Said;
use super::limit::Proved;
use super::push::PushEvent;
use super::relay::{self, Message};
use super::request::{Refused, Shared, accept, read_secret, single};
use crate::daemon::publisher::now;
use crate::daemon::{Handle, Repository};
use crate::http::{Http, SecretFile};
use crate::model::{SharedSecret, SignatureCheck, ellipsize, parse_webhook_signatures, printable};
use crate::report::words::list_first;

/// The largest body, in bytes: a push of several thousand commits. The interval finds a larger one.
const MAX_BODY: usize = 4 << 20;

/// A larger body is read up to this size, so that its sender receives the answer.
const MAX_DRAINED: usize = 32 << 20;

/// The memory for the bodies of all requests of hosts together, in bytes. A body without memory is only checked.
const MEMORY: usize = 16 << 20;

/// How far the time of a signature may differ from the clock, in seconds.
pub(super) const AGE: u64 = 300;

/// When a host may send a push again that did not reach the leader, in seconds.
const RETRY: u64 = 5;

/// The longest id of a delivery that is kept, in bytes.
const MAX_DELIVERY: usize = 128;

/// The most repositories and references that a sentence names.
const MAX_NAMED: usize = 3;

/// The longest quotation of a name, in characters.
const MAX_QUOTE: usize = 200;

/// The secrets of the enabled hooks.
#[derive(Debug, Default)]
pub struct Hooks {
    /// `/hooks/github`: the hook's secret.
    pub github: Option<SecretFile>,
    /// `/hooks/gitlab`: the hook's signing token (`whsec_…`), or its secret token.
    pub gitlab: Option<SecretFile>,
    /// `/hooks/generic`: what the body is signed with.
    pub generic: Option<SecretFile>,
}

/// What the hooks share.
pub(super) struct Receiver {
    memory: Arc<Semaphore>,
    http: Http,
}

#[derive(Clone, Copy)]
enum Sender {
    Github,
    Gitlab,
    Generic,
}

/// What a host reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Push,
    Ping,
    Other,
}

/// The credential of a request.
enum Proof {
    /// The request contains the secret itself, and it is right.
    Shown,
    /// One of these must be the signature of the body and its prefix.
    Signed(SignatureCheck, Vec<Vec<u8>>),
}

/// A body, if there was memory for it.
#[derive(Default)]
struct KeptBody {
    bytes: Vec<u8>,
    permit: Option<OwnedSemaphorePermit>,
    is_dropped: bool,
}

/// What a push requests.
struct Requested<'a> {
    repositories: Vec<&'a Arc<Repository>>,
    /// The workspaces of the repositories.
    fetched: Vec<&'a Handle>,
    /// The workspaces whose definitions are in a directory.
    directories: Vec<&'a Handle>,
}

impl Receiver {
    pub(super) fn new(http: Http) -> Self {
        Self {
            memory: Arc::new(Semaphore::new(MEMORY)),
            http,
        }
    }
}

impl Sender {
    const fn path(self) -> &'static str {
        match self {
            Self::Github => "/hooks/github",
            Self::Gitlab => "/hooks/gitlab",
            Self::Generic => "/hooks/generic",
        }
    }

    /// Reads the secret. Also returns the option that names its file.
    async fn secret(self, hooks: &Hooks) -> Result<(SharedSecret, &'static str), Refused> {
        let (file, flag) = match self {
            Self::Github => (&hooks.github, "--github-hook-secret-file"),
            Self::Gitlab => (&hooks.gitlab, "--gitlab-hook-secret-file"),
            Self::Generic => (&hooks.generic, "--generic-hook-secret-file"),
        };
        let disabled = || {
            let sentence = format!("this hook is disabled; enable it with {flag}");
            Refused(StatusCode::NOT_FOUND, sentence)
        };
        let file = file.as_ref().ok_or_else(disabled)?;
        Ok((read_secret(file).await?, flag))
    }
}

pub(super) fn router() -> Router<Arc<Shared>> {
    let senders = [Sender::Github, Sender::Gitlab, Sender::Generic];
    senders.into_iter().fold(Router::new(), |router, sender| {
        router
            .route(
                sender.path(),
                post(move |state, request| receive(sender, state, request)),
            )
            .route(
                &format!("{}/relay", sender.path()),
                post(move |state, request| receive_relayed(sender, state, request)),
            )
    })
}

/// Receives a push from a host.
async fn receive(
    sender: Sender,
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refused> {
    let (head, body) = request.into_parts();
    let (secret, flag) = sender.secret(&shared.access.hooks).await?;
    let proof = proof(sender, &secret, &head.headers);
    let memory = Some(&shared.receiver.memory);
    let Some(body) = verify(proof, body, MAX_BODY, memory).await? else {
        let sentence = format!(
            "the signature does not match the secret of {flag}, or its time differs too much from this machine's clock"
        );
        return Err(Refused(StatusCode::FORBIDDEN, sentence));
    };
    let response = match event(sender, &head.headers) {
        Event::Push => {
            // Of a dropped body nothing is known, so everything is fetched.
            let push = PushEvent::parse(&body.bytes, delivery(&head.headers));
            let is_dropped = body.is_dropped;
            drop(body);
            let response = shared.answer(sender, &secret, &push).await;
            match is_dropped {
                // The fetch may come before the host shows the commit, which is unknown here.
                true => unavailable("there was no memory for the body; send the push again"),
                false => response,
            }
        }
        Event::Ping => ignore("a ping, not a push; pushes are accepted".to_owned()),
        Event::Other => ignore("not a push".to_owned()),
    };
    Ok(proved(response))
}

/// Receives a push from another replica, which does not lead.
async fn receive_relayed(
    sender: Sender,
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refused> {
    let (head, body) = request.into_parts();
    let (secret, flag) = sender.secret(&shared.access.hooks).await?;
    let signature = single(&head.headers, relay::SIGNATURE).and_then(unhex);
    let proof = signature.map(|it| Proof::Signed(relay::signature(&secret), vec![it]));
    let body = verify(proof, body, relay::MAX_MESSAGE, None).await?;
    let message = body.and_then(|body| serde_json::from_slice::<Message>(&body.bytes).ok());
    let Some(mut message) = message.filter(Message::is_fresh) else {
        let sentence = format!(
            "not a message of another replica: the signature does not match the secret of {flag}, or the clocks of the two \
             replicas differ too much"
        );
        return Err(Refused(StatusCode::FORBIDDEN, sentence));
    };
    message.push.delivery = message.push.delivery.filter(|id| is_delivery(id));
    let requested = shared.request_fetches(&message.push);
    Ok(proved(match message.lease_led_elsewhere(&shared.loops) {
        Some(lease) => {
            let lease = quote(lease);
            let sentence = format!("this replica does not lead by the Lease {lease}");
            Refused(StatusCode::SERVICE_UNAVAILABLE, sentence).into_response()
        }
        None => requested.answer(&message.push, &shared),
    }))
}

fn proved(mut response: Response) -> Response {
    response.extensions_mut().insert(Proved);
    response
}

/// Asks the host to send its push again.
fn unavailable(sentence: &str) -> Response {
    let refused = Refused(StatusCode::SERVICE_UNAVAILABLE, sentence.to_owned());
    let mut response = refused.into_response();
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from(RETRY));
    response
}

fn ignore(why: String) -> Response {
    let body = json!({"ignored": why});
    accept(StatusCode::OK, Some(&body), format!("ignored: {why}"))
}

impl Shared {
    /// Requests what a push makes necessary, here and at the leaders, and answers it.
    async fn answer(&self, sender: Sender, secret: &SharedSecret, push: &PushEvent) -> Response {
        let mut requested = self.request_fetches(push);
        // A directory belongs to its replica.
        requested.directories = self
            .loops
            .iter()
            .filter(|one| one.repository().is_none())
            .collect();
        for one in &requested.directories {
            one.request_after(push.push());
        }
        let (http, loops) = (&self.receiver.http, &requested.fetched);
        if let Err(why) = relay::pass_on(http, sender.path(), secret, push, loops).await {
            // The host shows its log to its users, who must not learn what answers at an address in the cluster.
            let mut response = unavailable(
                "this replica fetches, but it does not lead, and the leader did not confirm the push; send the push again, or \
                 wait for the leader's next fetch",
            );
            let said = format!("this replica fetches, but it does not lead, and {why}");
            response.extensions_mut().insert(Said(said));
            return response;
        }
        requested.answer(push, self)
    }

    /// Requests a fetch of each repository that the push may concern.
    fn request_fetches(&self, push: &PushEvent) -> Requested<'_> {
        let mut repositories: Vec<&Arc<Repository>> = Vec::new();
        for repository in self.loops.iter().filter_map(Handle::repository) {
            if !repositories.iter().any(|it| Arc::ptr_eq(it, repository)) {
                repositories.push(repository);
            }
        }
        let may_be = |it: &Repository| push.may_be_of(&it.remote().url().to_string());
        // At another address of the host, which is valid only inside, the references decide.
        if repositories
            .iter()
            .any(|it| push.names(&it.remote().url().to_string()))
        {
            repositories.retain(|it| may_be(it));
        }
        repositories.retain(|it| {
            let push = push.push_for(|name| it.is_moved_by(name));
            push.map(|push| it.request(push)).is_some()
        });
        let is_fetched = |one: &&Handle| {
            let own = one.repository();
            own.is_some_and(|own| repositories.iter().any(|it| Arc::ptr_eq(it, own)))
        };
        Requested {
            fetched: self.loops.iter().filter(is_fetched).collect(),
            repositories,
            directories: Vec::new(),
        }
    }
}

impl Requested<'_> {
    fn answer(&self, push: &PushEvent, shared: &Shared) -> Response {
        let loops = self.fetched.iter().chain(&self.directories);
        let labels: Vec<String> = loops.map(|one| one.publisher().label()).collect();
        let urls: Vec<String> = self
            .repositories
            .iter()
            .map(|it| it.remote().url().to_string())
            .collect();
        if labels.is_empty() {
            return ignore(why_ignored(push, shared));
        }
        let of_directories = match self.directories.as_slice() {
            [] => None,
            [one] => Some(format!("a reconciliation of {}", one.publisher().label())),
            all => Some(format!("a reconciliation of {} workspaces", all.len())),
        };
        let of_repositories =
            (!urls.is_empty()).then(|| format!("a fetch of {}", list_first(&urls, MAX_NAMED)));
        let said: Vec<String> = of_repositories.into_iter().chain(of_directories).collect();
        let delivery = match &push.delivery {
            Some(delivery) => format!(" (delivery {})", quote(delivery)),
            None => String::new(),
        };
        let mut body = match urls.is_empty() {
            true => json!({"asked": "reconcile"}),
            false => json!({"asked": "fetch", "repositories": urls}),
        };
        if let Value::Object(body) = &mut body {
            body.insert("workspaces".to_owned(), json!(labels));
            body.insert("delivery".to_owned(), json!(push.delivery));
        }
        accept(
            StatusCode::ACCEPTED,
            Some(&body),
            format!("{}{delivery}", said.join(" and ")),
        )
    }
}

/// Why no repository is fetched.
fn why_ignored(push: &PushEvent, shared: &Shared) -> String {
    let pushed = push.references.iter().flatten();
    let names: Vec<String> = pushed.map(|pushed| quote(&pushed.name)).collect();
    let mut own = shared.loops.iter().filter_map(Handle::repository);
    let of = match push.addresses.first() {
        Some(address) if !own.any(|it| push.names(&it.remote().url().to_string())) => {
            format!(" of {}", quote(address))
        }
        _ => String::new(),
    };
    format!("no workspace follows {}{of}", list_first(&names, MAX_NAMED))
}

fn quote(text: &str) -> String {
    ellipsize(&printable(text), MAX_QUOTE)
}

/// What the headers name the event. A generic sender need not name it.
fn event(sender: Sender, headers: &HeaderMap) -> Event {
    let names: &[&str] = match sender {
        Sender::Gitlab => &["x-gitlab-event"],
        // Gitea and Forgejo also send the header of GitHub.
        Sender::Github | Sender::Generic => &[
            "x-forgejo-event",
            "x-gitea-event",
            "x-github-event",
            "x-event-key",
        ],
    };
    let event = names.iter().find_map(|name| single(headers, name));
    match (sender, event) {
        (Sender::Gitlab, Some("Push Hook" | "Tag Push Hook")) => Event::Push,
        (Sender::Gitlab, _) => Event::Other,
        (Sender::Generic, None) => Event::Push,
        (_, Some("push" | "repo:push" | "repo:refs_changed")) => Event::Push,
        (_, Some("ping" | "diagnostics:ping")) => Event::Ping,
        _ => Event::Other,
    }
}

/// The host's id of the delivery.
fn delivery(headers: &HeaderMap) -> Option<String> {
    let names = [
        "x-forgejo-delivery",
        "x-gitea-delivery",
        "x-github-delivery",
        "x-gitlab-event-uuid",
        "webhook-id",
        "x-gitlab-webhook-uuid",
        "x-request-uuid",
    ];
    // Proxies add such a header as well.
    let of_bitbucket =
        || single(headers, "x-event-key").and_then(|_| single(headers, "x-request-id"));
    let id = names
        .iter()
        .find_map(|name| single(headers, name))
        .or_else(of_bitbucket)?;
    is_delivery(id).then(|| id.to_owned())
}

fn is_delivery(id: &str) -> bool {
    (1..=MAX_DELIVERY).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
}

fn proof(sender: Sender, secret: &SharedSecret, headers: &HeaderMap) -> Option<Proof> {
    let own = match sender {
        // A hook with a signing token needs a signature.
        Sender::Gitlab if secret.is_webhook_key() => return standard_webhook(secret, headers),
        Sender::Gitlab => {
            return secret
                .is(single(headers, "x-gitlab-token")?.as_bytes())
                .then_some(Proof::Shown);
        }
        Sender::Github => "x-hub-signature-256",
        Sender::Generic => "x-signature-256",
    };
    // Bitbucket sends the second one. That of GitHub is not one of SHA-256, and does not count.
    let prefixed = [own, "x-hub-signature"]
        .into_iter()
        .filter_map(|name| single(headers, name)?.strip_prefix("sha256="));
    let plain = ["x-forgejo-signature", "x-gitea-signature"]
        .into_iter()
        .filter_map(|name| single(headers, name));
    let signatures: Vec<_> = prefixed.chain(plain).filter_map(unhex).collect();
    (!signatures.is_empty()).then(|| Proof::Signed(secret.check_signature(), signatures))
}

/// The signature of Standard Webhooks covers the message's id, its time and its body.
fn standard_webhook(secret: &SharedSecret, headers: &HeaderMap) -> Option<Proof> {
    let (id, time) = (
        single(headers, "webhook-id")?,
        single(headers, "webhook-timestamp")?,
    );
    if now().as_second().abs_diff(time.parse().ok()?) > AGE {
        return None;
    }
    let signatures = parse_webhook_signatures(single(headers, "webhook-signature")?);
    Some(Proof::Signed(secret.check_webhook(id, time)?, signatures))
}

/// Reads a body of at most `max` bytes; `None` if the credential is not valid for it. The body is always read, so that its
/// sender receives the answer. Without a `memory` to share it is kept in any case.
async fn verify(
    mut proof: Option<Proof>,
    body: Body,
    max: usize,
    memory: Option<&Arc<Semaphore>>,
) -> Result<Option<KeptBody>, Refused> {
    let mut chunks = body.into_data_stream();
    let mut length = 0_usize;
    let mut kept = KeptBody::default();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            Refused(
                StatusCode::BAD_REQUEST,
                "the body ended too early".to_owned(),
            )
        })?;
        length = length.saturating_add(chunk.len());
        if length > MAX_DRAINED {
            break;
        }
        if let Some(proof) = &mut proof
            && length <= max
        {
            kept.add(&chunk, memory);
            if let Proof::Signed(signing, _) = proof {
                signing.update(&chunk);
            }
        }
    }
    if length > max {
        let size = match max >> 20 {
            0 => format!("{} KiB", max >> 10),
            size => format!("{size} MiB"),
        };
        let sentence = format!("the body is larger than {size}");
        return Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, sentence));
    }
    let is_valid = match proof {
        None => false,
        Some(Proof::Shown) => true,
        Some(Proof::Signed(signing, signatures)) => signing.is_one_of(&signatures),
    };
    Ok(is_valid.then_some(kept))
}

impl KeptBody {
    fn add(&mut self, chunk: &[u8], memory: Option<&Arc<Semaphore>>) {
        if self.is_dropped {
            return;
        }
        let Some(memory) = memory else {
            self.bytes.extend_from_slice(chunk);
            return;
        };
        let length = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        match Arc::clone(memory).try_acquire_many_owned(length) {
            Ok(more) => {
                match &mut self.permit {
                    Some(permit) => permit.merge(more),
                    None => self.permit = Some(more),
                }
                self.bytes.extend_from_slice(chunk);
            }
            Err(_) => {
                *self = Self {
                    is_dropped: true,
                    ..Self::default()
                }
            }
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: char| u8::try_from(c.to_digit(16)?).ok();
    let digits: Vec<u8> = text.chars().map(digit).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks();
    let bytes = pairs.iter().map(|[high, low]| high << 4 | low);
    rest.is_empty().then(|| bytes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_without_memory_is_dropped_and_all_memory_is_returned() {
        let memory = Arc::new(Semaphore::new(10));
        let mut first = KeptBody::default();
        first.add(b"12345", Some(&memory));
        first.add(b"678", Some(&memory));
        let mut second = KeptBody::default();
        second.add(b"12", Some(&memory));
        second.add(b"3", Some(&memory));
        second.add(b"", Some(&memory));
        assert_eq!(
            (first.bytes.as_slice(), second.bytes.as_slice()),
            (&b"12345678"[..], &b""[..])
        );
        assert_eq!(memory.available_permits(), 2);
        drop(first);
        second.add(b"4", Some(&memory));
        assert!(second.bytes.is_empty(), "a part of a body is not read");
        drop(second);
        assert_eq!(memory.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_message_of_another_replica_needs_no_shared_memory_and_is_bounded() {
        let memory = Arc::new(Semaphore::new(0));
        let verify = async |length: usize, memory| {
            let body = Body::from(vec![b'x'; length]);
            verify(Some(Proof::Shown), body, relay::MAX_MESSAGE, memory).await
        };
        let kept = verify(relay::MAX_MESSAGE, None).await.unwrap().unwrap();
        assert_eq!(
            (kept.bytes.len(), kept.is_dropped),
            (relay::MAX_MESSAGE, false)
        );
        let kept = verify(1, Some(&memory)).await.unwrap().unwrap();
        assert_eq!((kept.bytes.len(), kept.is_dropped), (0, true));
        let refused = verify(relay::MAX_MESSAGE + 1, None).await.err().unwrap();
        assert_eq!(refused.0, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
