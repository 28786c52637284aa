//! The rate limit of each sender: an IPv4 address, or in IPv6 the /64 network of one subscriber. The number of remembered
//! senders is bounded.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::{error, is_probe};

/// The most senders with a limit of their own. All others share one.
const SENDERS: usize = 4096;

/// The remote address of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Sender {
    One(IpAddr),
    Others,
}

pub(super) struct Limit<C: Clock = DefaultClock> {
    senders: RateLimiter<Sender, HashMapStateStore<Sender>, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    rate: NonZeroU32,
}

impl Limit {
    pub(super) fn new(rate: NonZeroU32) -> Self {
        Self::with_clock(rate, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limit<C> {
    fn with_clock(rate: NonZeroU32, clock: C) -> Self {
        Self {
            senders: RateLimiter::hashmap_with_clock(quota(rate), clock.clone()),
            clock,
            rate,
        }
    }

    /// Counts a request; above the limit, returns the seconds to wait.
    fn seconds_to_wait(&self, peer: Option<Peer>) -> Option<u64> {
        if self.senders.len() >= SENDERS {
            self.senders.retain_recent();
        }
        let sender = match peer {
            Some(Peer(address)) if self.senders.len() < SENDERS => Sender::One(network(address)),
            _ => Sender::Others,
        };
        let too_early = self.senders.check_key(&sender).err()?;
        let wait = too_early.wait_time_from(self.clock.now());
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        Some(u64::try_from(seconds).unwrap_or(u64::MAX))
    }
}

/// A third in a burst and the rest over the minute: no minute exceeds the rate.
fn quota(rate: NonZeroU32) -> Quota {
    let burst = NonZeroU32::new(rate.get() / 3).unwrap_or(NonZeroU32::MIN);
    let steady = NonZeroU32::new(rate.get() - burst.get()).unwrap_or(NonZeroU32::MIN);
    Quota::per_minute(steady).allow_burst(burst)
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        IpAddr::V4(_) => address,
    }
}

/// The number of a page's assets: style, script and tab icon.
const ASSETS: NonZeroU32 = NonZeroU32::new(3).unwrap();

/// The factor by which requests with credentials may exceed the rate.
const PROOFS: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// Marks the answer to an authenticated request: signed, or with the token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proved;

pub(super) struct Limits {
    asked: Limit,
    /// Requests with credentials. If valid, they do not count against others from the same address.
    proofs: Limit,
    /// Assets have a limit of their own, so that a page that was served can always load them.
    assets: Limit,
}

impl Limits {
    pub(super) fn new(rate: NonZeroU32) -> Self {
        Self {
            asked: Limit::new(rate),
            proofs: Limit::new(rate.saturating_mul(PROOFS)),
            assets: Limit::new(rate.saturating_mul(ASSETS)),
        }
    }
}

/// Whether a request has credentials, and is refused without valid ones.
fn may_prove(request: &Request) -> bool {
    let path = request.uri().path();
    let shows = || request.headers().contains_key(AUTHORIZATION);
    request.method() == Method::POST
        && (path.starts_with("/hooks/") || path.starts_with("/api/") && shows())
}

/// Refuses senders above their limit, except for probes.
pub(super) async fn guard(
    State(limits): State<Arc<Limits>>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let may_prove = may_prove(&request);
    let limit = match request.uri().path() {
        path if is_probe(path) => return next.run(request).await,
        path if path.starts_with("/assets/") => &limits.assets,
        _ if may_prove => &limits.proofs,
        _ => &limits.asked,
    };
    if let Some(seconds) = limit.seconds_to_wait(peer) {
        return too_many(limit, peer, seconds);
    }
    let response = next.run(request).await;
    if !may_prove || response.extensions().get::<Proved>().is_some() {
        return response;
    }
    // Not authenticated: it counts as an ordinary request.
    match limits.asked.seconds_to_wait(peer) {
        Some(seconds) if !response.status().is_success() => too_many(&limits.asked, peer, seconds),
        _ => response,
    }
}

fn too_many(limit: &Limit, peer: Option<Peer>, seconds: u64) -> Response {
    // At debug level, because such a sender would fill the log.
    tracing::debug!(
        peer = peer.map(|Peer(peer)| peer.to_string()),
        "too many requests from one address"
    );
    let sentence = format!(
        "too many requests: the limit is {} per minute and address (--admin-rate); try again in {seconds} s",
        limit.rate
    );
    let mut response = error(StatusCode::TOO_MANY_REQUESTS, &sentence);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limit(rate: u32) -> (Limit<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (
            Limit::with_clock(rate.try_into().unwrap(), clock.clone()),
            clock,
        )
    }

    fn peer(text: &str) -> Option<Peer> {
        Some(Peer(text.parse().unwrap()))
    }

    #[test]
    fn a_sender_above_its_limit_gets_the_seconds_to_wait() {
        let (limit, clock) = limit(60);
        let come = |times: usize| {
            (0..times)
                .filter(|_| limit.seconds_to_wait(peer("10.0.0.1")).is_none())
                .count()
        };
        assert_eq!(come(100), 20);
        assert_eq!(limit.seconds_to_wait(peer("10.0.0.1")), Some(2));
        assert_eq!(
            limit.seconds_to_wait(peer("10.0.0.2")),
            None,
            "another sender is not limited"
        );
        clock.advance(Duration::from_secs(3));
        assert_eq!(come(100), 2);
    }

    #[test]
    fn no_minute_exceeds_the_limit() {
        for rate in [2, 10, 60, 600] {
            let (limit, clock) = limit(rate);
            let mut let_in = 0;
            for _ in 0..59_900 / 20 {
                clock.advance(Duration::from_millis(20));
                let_in += u32::from(limit.seconds_to_wait(peer("10.0.0.1")).is_none());
            }
            assert!(let_in <= rate && let_in >= rate - 1, "{let_in} of {rate}");
        }
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_sender() {
        let (limit, _) = limit(1);
        assert_eq!(limit.seconds_to_wait(peer("2001:db8:0:1::1")), None);
        assert_eq!(
            limit.seconds_to_wait(peer("2001:db8:0:1:ffff::2")),
            Some(60)
        );
        assert_eq!(limit.seconds_to_wait(peer("2001:db8:0:2::1")), None);
    }

    #[test]
    fn the_number_of_remembered_senders_is_bounded() {
        let (limit, clock) = limit(1);
        let from = |n: usize| Some(Peer(IpAddr::from(u32::try_from(n).unwrap().to_be_bytes())));
        let let_in = (0..2 * SENDERS)
            .filter(|n| limit.seconds_to_wait(from(*n)).is_none())
            .count();
        assert_eq!((limit.senders.len(), let_in), (SENDERS + 1, SENDERS + 1));
        clock.advance(Duration::from_secs(120));
        assert_eq!(limit.seconds_to_wait(from(0)), None);
        assert_eq!(limit.senders.len(), 1, "an inactive sender is forgotten");
    }
}
