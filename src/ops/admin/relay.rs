//! Passes a push on to the replicas that lead: each replica fetches for itself, but only the leader writes.
//!
//! The message contains no secret, so that plain http between Pods is enough. Its signature is made from the secret of the
//! hook, which all replicas have, and is valid for a few minutes.
//!
//! Never: send the request of the host, which may contain its secret, or pass a message on again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use url::Url;

use super::hook::AGE;
use super::push::PushEvent;
use crate::daemon::Handle;
use crate::daemon::publisher::now;
use crate::http::Http;
use crate::model::{SharedSecret, SignatureCheck, hex, human_duration};

/// The largest message, in bytes. Any push is smaller, also with the most shards.
pub(super) const MAX_MESSAGE: usize = 64 << 10;

/// The header of the signature.
pub(super) const SIGNATURE: &str = "x-calry-gitops-signature";

/// How long the leader may take for its answer.
const LIMIT: Duration = Duration::from_secs(2);

/// What the key of the signature is derived for.
const PURPOSE: &str = "calry-gitops relay";

/// A push that another replica has received.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Message {
    /// When it was sent, in seconds since 1970.
    time: i64,
    /// The Leases by which the receiver is expected to lead.
    leases: BTreeSet<String>,
    pub(super) push: PushEvent,
}

impl Message {
    /// Whether it was sent a short time ago, by this machine's clock.
    pub(super) fn is_fresh(&self) -> bool {
        now().as_second().abs_diff(self.time) <= AGE
    }

    /// A Lease by which none of the loops leads, against the expectation of the sender.
    pub(super) fn lease_led_elsewhere(&self, loops: &[Handle]) -> Option<&str> {
        let is_led_here = |lease: &str| {
            let mut all = loops.iter().map(|one| one.publisher().leadership());
            all.any(|here| here.lease() == Some(lease) && here.leads())
        };
        let mut leases = self.leases.iter().map(String::as_str);
        leases.find(|lease| !is_led_here(lease))
    }
}

/// Starts to sign or to check a message.
pub(super) fn signature(secret: &SharedSecret) -> SignatureCheck {
    secret.check_signature_for(PURPOSE)
}

/// Passes a push on to the leaders of these workspaces, if other replicas lead. `path` is that of the hook.
///
/// # Errors
/// Why a leader did not accept it, as the end of a sentence for the log.
pub(super) async fn pass_on(
    http: &Http,
    path: &str,
    secret: &SharedSecret,
    push: &PushEvent,
    loops: &[&Handle],
) -> Result<(), String> {
    let mut leaders: BTreeMap<SocketAddr, BTreeSet<String>> = BTreeMap::new();
    let mut unknown = None;
    for one in loops {
        let leadership = one.publisher().leadership();
        let Some(lease) = leadership.lease().filter(|_| !leadership.leads()) else {
            continue;
        };
        match leadership.leader_address() {
            Some(address) => drop(leaders.entry(address).or_default().insert(lease.to_owned())),
            None => unknown = Some(lease),
        }
    }
    let sent = leaders.into_iter().map(|(address, leases)| {
        let message = Message {
            time: now().as_second(),
            leases,
            push: push.clone(),
        };
        send(http, address, path, secret, message)
    });
    for result in futures_util::future::join_all(sent).await {
        result?;
    }
    match unknown {
        Some(lease) => Err(format!(
            "the address of the holder of the Lease {lease} is unknown"
        )),
        None => Ok(()),
    }
}

async fn send(
    http: &Http,
    address: SocketAddr,
    path: &str,
    secret: &SharedSecret,
    message: Message,
) -> Result<(), String> {
    let failed = |why: String| Err(format!("the leader at {address} {why}"));
    let url = match Url::parse(&format!("http://{address}{path}/relay")) {
        Ok(url) => url,
        Err(error) => return failed(format!("has no URL: {error}")),
    };
    let body = match serde_json::to_vec(&message) {
        Ok(body) => body,
        Err(error) => return failed(format!("got no message: {error}")),
    };
    let mut signing = signature(secret);
    signing.update(&body);
    let route = http.route(&url).map_err(|error| error.to_string())?;
    let used = route.active_client();
    let request = used
        .client
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header(SIGNATURE, hex(&signing.sign()))
        .body(body);
    match tokio::time::timeout(LIMIT, request.send()).await {
        Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
        Ok(Ok(answer)) => failed(format!("answered with {}", answer.status().as_u16())),
        Ok(Err(error)) => failed(format!("did not answer: {}", route.failure(error))),
        Err(_) => {
            route.replace_client(&used);
            failed(format!("did not answer within {}", human_duration(LIMIT)))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn any_push_fits_into_a_message_for_the_leader_of_all_shards() {
        // Each quotation mark is two bytes in JSON.
        let change = |n: usize| {
            let quotes = "\"".repeat(250 - "refs/heads/00".len());
            json!({"ref": {"id": format!("refs/heads/{n:02}{quotes}")}, "toHash": "a".repeat(64)})
        };
        let link =
            |n: usize| json!({"href": format!("https://a.example/{n:02}{}", "x".repeat(1000))});
        let body = json!({
            "changes": (0..64).map(change).collect::<Vec<_>>(),
            "repository": {"links": {"clone": (0..16).map(link).collect::<Vec<_>>()}},
        });
        let delivery = Some("\"".repeat(128));
        let push = PushEvent::parse(body.to_string().as_bytes(), delivery);
        assert_eq!(push.references.as_ref().map(Vec::len), Some(64));
        assert_eq!(push.addresses.len(), 16);
        let message = Message {
            time: i64::MAX,
            leases: (0..u8::MAX)
                .map(|n| format!("calry/calry-gitops-{n}"))
                .collect(),
            push,
        };
        let length = serde_json::to_vec(&message).unwrap().len();
        assert!(
            length <= MAX_MESSAGE && length > MAX_MESSAGE * 3 / 4,
            "{length}"
        );
    }
}
