//! The faults of a sandbox: a rate limit, scripted faults for tests and random faults for demos. This module chooses the fault
//! of a request; `server` executes it.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// A fault for the next requests that match.
#[derive(Clone, Debug)]
pub struct Fault {
    /// `None` matches every method.
    pub method: Option<Method>,
    /// The end of the path; `None` matches every path.
    pub path_suffix: Option<String>,
    /// The number of requests that get the fault.
    pub times: usize,
    pub kind: FaultKind,
}

impl Fault {
    /// A fault for the next request.
    #[must_use]
    pub fn once(kind: FaultKind) -> Self {
        Self {
            method: None,
            path_suffix: None,
            times: 1,
            kind,
        }
    }

    #[must_use]
    pub fn on(self, method: Method) -> Self {
        Self {
            method: Some(method),
            ..self
        }
    }

    /// The same fault for paths with this end, such as `/HOSTAWAY`.
    #[must_use]
    pub fn at(self, path_suffix: impl Into<String>) -> Self {
        Self {
            path_suffix: Some(path_suffix.into()),
            ..self
        }
    }

    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    fn matches(&self, method: &Method, path: &str) -> bool {
        self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self
                .path_suffix
                .as_ref()
                .is_none_or(|suffix| path.ends_with(suffix))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The request is not executed and gets an error with this status.
    Status {
        code: StatusCode,
        message: String,
        /// The header `Retry-After`: seconds, an HTTP date, or any other visible ASCII.
        retry_after: Option<String>,
    },
    /// The request is executed at once and answered after this delay. It is executed even if the client gives up meanwhile.
    Delay(Duration),
    /// The connection is cut and the request is not executed.
    DropBefore,
    /// The request is executed, but the connection is cut before the answer.
    DropAfter,
    /// The request is executed, but the connection is cut in the middle of the answer's body.
    TruncateBody,
    /// The request is executed, but gets this status and body instead of the definition.
    Answer { code: StatusCode, body: String },
    /// The request is not executed and gets 200 with bytes that are neither JSON nor text.
    Garbage,
    /// The request is not executed and gets 307 to this location.
    Redirect(String),
    /// The request is not executed and gets 200 with a JSON string of this many bytes, without a `Content-Length`.
    HugeBody(u64),
    /// The request is not executed and gets 400 with a message that repeats its body and API key.
    EchoBodyInError,
}

/// The pending faults, in order, and the generator of random ones.
pub(super) struct Faults {
    pending: Vec<Fault>,
    chance: Chance,
    rng: fastrand::Rng,
}

impl Faults {
    pub(super) fn new(chance: Chance, seed: u64) -> Self {
        Self {
            pending: Vec::new(),
            chance,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    pub(super) fn inject(&mut self, fault: Fault) {
        if fault.times > 0 {
            self.pending.push(fault);
        }
    }

    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }

    /// The fault of a request: the first scripted one that matches, otherwise a random one.
    pub(super) fn next_fault(&mut self, method: &Method, path: &str) -> Option<FaultKind> {
        let matching = self
            .pending
            .iter_mut()
            .enumerate()
            .find(|(_, fault)| fault.matches(method, path));
        let Some((at, fault)) = matching else {
            return self.random_fault();
        };
        let kind = fault.kind.clone();
        fault.times -= 1;
        if fault.times == 0 {
            self.pending.remove(at);
        }
        Some(kind)
    }

    /// A random fault that a client should recover from by itself.
    fn random_fault(&mut self) -> Option<FaultKind> {
        if self.rng.f64() >= self.chance.0 {
            return None;
        }
        let status = |code: StatusCode| FaultKind::Status {
            code,
            message: code.canonical_reason().unwrap_or_default().to_owned(),
            retry_after: None,
        };
        Some(match self.rng.u8(..5) {
            0 => status(StatusCode::BAD_GATEWAY),
            1 => status(StatusCode::SERVICE_UNAVAILABLE),
            2 => status(StatusCode::GATEWAY_TIMEOUT),
            3 => FaultKind::DropBefore,
            _ => FaultKind::DropAfter,
        })
    }
}

/// The share of requests that fail at random, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Chance(f64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a number from 0 to 1, such as `0.1`")]
pub struct InvalidChance;

impl FromStr for Chance {
    type Err = InvalidChance;

    fn from_str(text: &str) -> Result<Self, InvalidChance> {
        text.parse()
            .ok()
            .filter(|chance| (0.0..=1.0).contains(chance))
            .map(Self)
            .ok_or(InvalidChance)
    }
}

/// The number of requests that are answered per second, also at once. The others get 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(NonZeroU32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a number of requests per second, such as `10/s`")]
pub struct InvalidRate;

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        text.strip_suffix("/s")
            .and_then(|number| number.parse().ok())
            .map(Self)
            .ok_or(InvalidRate)
    }
}

pub(super) struct Limiter(Option<DefaultDirectRateLimiter>);

impl Limiter {
    pub(super) fn new(rate: Option<Rate>) -> Self {
        Self(rate.map(|rate| RateLimiter::direct(Quota::per_second(rate.0))))
    }

    /// Counts a request. If it exceeds the limit, returns the whole seconds to wait.
    pub(super) fn seconds_to_wait(&self) -> Option<u64> {
        let too_early = self.0.as_ref()?.check().err()?;
        let wait = too_early.wait_time_from(DefaultClock::default().now());
        Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0 || wait.is_zero()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripted_faults_apply_in_order_to_matching_requests() {
        let mut faults = Faults::new(Chance::default(), 0);
        faults.inject(
            Fault::once(FaultKind::Garbage)
                .on(Method::PATCH)
                .at("/HOSTAWAY")
                .times(2),
        );
        faults.inject(Fault::once(FaultKind::DropBefore));
        for (method, path, fault) in [
            (Method::PATCH, "/x/HOSTAWAY", Some(FaultKind::Garbage)),
            (Method::GET, "/x/HOSTAWAY", Some(FaultKind::DropBefore)),
            (Method::PATCH, "/x/GUESTY", None),
            (Method::PATCH, "/x/HOSTAWAY", Some(FaultKind::Garbage)),
            (Method::PATCH, "/x/HOSTAWAY", None),
        ] {
            assert_eq!(faults.next_fault(&method, path), fault);
        }
    }

    #[test]
    fn random_faults_have_the_given_share_and_repeat_with_the_same_seed() {
        let roll = || {
            let mut faults = Faults::new("0.25".parse().unwrap(), 7);
            (0..4000)
                .map(|_| faults.next_fault(&Method::GET, "/"))
                .collect::<Vec<_>>()
        };
        assert!((800..1200).contains(&roll().iter().flatten().count()));
        assert_eq!(roll(), roll());
    }

    #[test]
    fn a_probability_is_a_number_from_0_to_1() {
        assert!("0".parse::<Chance>().is_ok() && "1".parse::<Chance>().is_ok());
        for bad in ["", "-0.1", "1.1", "NaN", "10%"] {
            assert_eq!(bad.parse::<Chance>(), Err(InvalidChance), "{bad}");
        }
    }

    #[test]
    fn a_rate_is_a_number_of_requests_per_second() {
        assert!("10/s".parse::<Rate>().is_ok());
        for bad in ["", "10", "0/s", "-1/s", "10/m", "/s"] {
            assert_eq!(bad.parse::<Rate>(), Err(InvalidRate), "{bad}");
        }
    }

    #[test]
    fn one_request_too_many_must_wait_a_second() {
        let limiter = Limiter::new("2/s".parse().ok());
        assert_eq!(
            [(); 3].map(|()| limiter.seconds_to_wait()),
            [None, None, Some(1)]
        );
        assert_eq!(Limiter::new(None).seconds_to_wait(), None);
    }
}
