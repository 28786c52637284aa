//! What goes wrong on the way to Calry, at will: a rate limit, scripted faults for tests, random ones for demos. It decides
//! what befalls a request, and never carries it out.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// A fault that befalls the next requests which fit.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The method that it waits for; `None` fits every one.
    pub method: Option<Method>,
    /// How the path that it waits for ends; `None` fits every one.
    pub path_suffix: Option<String>,
    /// How many requests it befalls.
    pub times: usize,
    /// What happens.
    pub kind: FaultKind,
}

impl Fault {
    /// A fault that befalls the next request, whichever that is.
    #[must_use]
    pub fn once(kind: FaultKind) -> Self {
        Self {
            method: None,
            path_suffix: None,
            times: 1,
            kind,
        }
    }

    /// The same fault for one method only.
    #[must_use]
    pub fn on(self, method: Method) -> Self {
        Self {
            method: Some(method),
            ..self
        }
    }

    /// The same fault for paths that end so, such as `/HOSTAWAY`.
    #[must_use]
    pub fn at(self, path_suffix: impl Into<String>) -> Self {
        Self {
            path_suffix: Some(path_suffix.into()),
            ..self
        }
    }

    /// The same fault for so many requests.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    fn fits(&self, method: &Method, path: &str) -> bool {
        self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self
                .path_suffix
                .as_ref()
                .is_none_or(|suffix| path.ends_with(suffix))
    }
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It is not carried out, and answered with an error of this status.
    Status {
        /// The status.
        code: StatusCode,
        /// The error's message.
        message: String,
        /// The header `Retry-After`: seconds, an HTTP date, or anything else in visible ASCII.
        retry_after: Option<String>,
    },
    /// It is carried out at once, and answered so much later. It is carried out even if the client gives up meanwhile.
    Delay(Duration),
    /// The connection is cut and nothing is carried out.
    DropBefore,
    /// It is carried out, and the connection is cut in place of the answer.
    DropAfter,
    /// It is carried out, and the connection is cut in the middle of the answer's body.
    TruncateBody,
    /// It is carried out, and answered with this status and body in place of the definition.
    Answer {
        /// The status.
        code: StatusCode,
        /// The body.
        body: String,
    },
    /// It is not carried out, and answered with 200 and bytes that are neither JSON nor text.
    Garbage,
    /// It is not carried out, and answered with 307 to this location.
    Redirect(String),
    /// It is not carried out, and answered with 200 and a JSON text of so many bytes, whose length is not announced.
    HugeBody(u64),
    /// It is not carried out, and answered with 400 and a message that repeats the request's body and API key.
    EchoBodyInError,
}

/// The faults that wait, in order, and the dice.
pub(super) struct Faults {
    waiting: Vec<Fault>,
    chance: Chance,
    dice: fastrand::Rng,
}

impl Faults {
    pub(super) fn new(chance: Chance, seed: u64) -> Self {
        Self {
            waiting: Vec::new(),
            chance,
            dice: fastrand::Rng::with_seed(seed),
        }
    }

    pub(super) fn inject(&mut self, fault: Fault) {
        if fault.times > 0 {
            self.waiting.push(fault);
        }
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// What befalls a request: the first scripted fault that fits, else what the dice say.
    pub(super) fn befall(&mut self, method: &Method, path: &str) -> Option<FaultKind> {
        let fitting = self
            .waiting
            .iter_mut()
            .enumerate()
            .find(|(_, fault)| fault.fits(method, path));
        let Some((at, fault)) = fitting else {
            return self.roll();
        };
        let kind = fault.kind.clone();
        fault.times -= 1;
        if fault.times == 0 {
            self.waiting.remove(at);
        }
        Some(kind)
    }

    /// A random fault, of those that a client should get over by itself.
    fn roll(&mut self) -> Option<FaultKind> {
        if self.dice.f64() >= self.chance.0 {
            return None;
        }
        let status = |code: StatusCode| FaultKind::Status {
            code,
            message: code.canonical_reason().unwrap_or_default().to_owned(),
            retry_after: None,
        };
        Some(match self.dice.u8(..5) {
            0 => status(StatusCode::BAD_GATEWAY),
            1 => status(StatusCode::SERVICE_UNAVAILABLE),
            2 => status(StatusCode::GATEWAY_TIMEOUT),
            3 => FaultKind::DropBefore,
            _ => FaultKind::DropAfter,
        })
    }
}

/// How often a request fails at random: 0 is never, 1 is always.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Chance(f64);

/// A text that is no probability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a probability is a number from 0 to 1, such as `0.1`")]
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

/// How many requests a second are answered, and how many at once; the others get 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(NonZeroU32);

/// A text that is no rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rate is a number of requests a second, such as `10/s`")]
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

/// The rate limit, if any.
pub(super) struct Limiter(Option<DefaultDirectRateLimiter>);

impl Limiter {
    pub(super) fn new(rate: Option<Rate>) -> Self {
        Self(rate.map(|rate| RateLimiter::direct(Quota::per_second(rate.0))))
    }

    /// Counts a request; where it is one too many, the whole seconds after which to ask again.
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
    fn scripted_faults_befall_in_order_those_whom_they_fit() {
        let mut faults = Faults::new(Chance::default(), 0);
        faults.inject(
            Fault::once(FaultKind::Garbage)
                .on(Method::PATCH)
                .at("/HOSTAWAY")
                .times(2),
        );
        faults.inject(Fault::once(FaultKind::DropBefore));
        assert_eq!(
            faults.befall(&Method::PATCH, "/x/HOSTAWAY"),
            Some(FaultKind::Garbage)
        );
        assert_eq!(
            faults.befall(&Method::GET, "/x/HOSTAWAY"),
            Some(FaultKind::DropBefore)
        );
        assert_eq!(faults.befall(&Method::PATCH, "/x/GUESTY"), None);
        assert_eq!(
            faults.befall(&Method::PATCH, "/x/HOSTAWAY"),
            Some(FaultKind::Garbage)
        );
        assert_eq!(faults.befall(&Method::PATCH, "/x/HOSTAWAY"), None);
    }

    #[test]
    fn the_dice_fall_as_often_as_was_asked_and_the_same_way_each_time() {
        let roll = || {
            let mut faults = Faults::new("0.25".parse().unwrap(), 7);
            (0..4000)
                .map(|_| faults.befall(&Method::GET, "/"))
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
    fn a_rate_is_a_number_of_requests_a_second() {
        assert!("10/s".parse::<Rate>().is_ok());
        for bad in ["", "10", "0/s", "-1/s", "10/m", "/s"] {
            assert_eq!(bad.parse::<Rate>(), Err(InvalidRate), "{bad}");
        }
    }

    #[test]
    fn one_request_too_many_is_told_to_wait_a_second() {
        let limiter = Limiter::new("2/s".parse().ok());
        assert_eq!(
            [(); 3].map(|()| limiter.seconds_to_wait()),
            [None, None, Some(1)]
        );
        assert_eq!(Limiter::new(None).seconds_to_wait(), None);
    }
}
