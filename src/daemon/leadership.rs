//! Whether this process may write to a workspace now. One of several replicas leads; the election decides which one and
//! reports it here.
//!
//! The leader has a [`Term`]: no update begins after its renew deadline, and each is given no more time than is left of it.
//! So an update is over before another replica may lead, unless the process was frozen between being let in and sending.
//!
//! Never: trust a clock that can be set, or one that stops while the machine sleeps.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use crate::live::WriteGuard;
use crate::report::status::{LeadershipStatus, ReplicaRole};

/// A point in time: how long the machine has been up, sleep included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    #[must_use]
    pub fn now() -> Self {
        // Elsewhere, the monotonic clock is the nearest there is.
        #[cfg(target_os = "linux")]
        const CLOCK: ClockId = ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        const CLOCK: ClockId = ClockId::Monotonic;
        // Without a time, every term is over.
        Self(Duration::try_from(clock_gettime(CLOCK)).unwrap_or(Duration::MAX))
    }

    /// So long after the machine started.
    #[must_use]
    pub const fn at(uptime: Duration) -> Self {
        Self(uptime)
    }

    /// So much later.
    #[must_use]
    pub fn after(self, pause: Duration) -> Self {
        Self(self.0.saturating_add(pause))
    }

    /// How long it is from another moment to this one; nothing where that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// For how long a replica leads, unless it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Until when updates may begin.
    pub renew_by: Moment,
    /// Until when no other replica leads, whatever happens.
    pub ends: Moment,
}

/// Whether this process may write; the same for all workspaces of one Lease. Without an election it always may.
#[derive(Clone, Debug, Default)]
pub struct Leadership(Option<Arc<Elected>>);

#[derive(Debug)]
struct Elected {
    lease: String,
    state: Mutex<ElectionState>,
    /// Rings when the last update under way is over.
    idle: Notify,
}

#[derive(Debug, Default)]
struct ElectionState {
    term: Option<Term>,
    holder: Option<String>,
    /// Whether it is known who leads, or that nobody does.
    known: bool,
    /// Updates under way.
    writing: usize,
    /// Until when any of them may be, and any before them.
    lasts: Moment,
    /// Until when those may be under way that were given up.
    given_up: Moment,
}

impl Leadership {
    /// By election: nobody leads yet. `lease` is what it is decided by, as people write it.
    #[must_use]
    pub fn elected_by(lease: String) -> Self {
        Self(Some(Arc::new(Elected {
            lease,
            state: Mutex::default(),
            idle: Notify::new(),
        })))
    }

    /// Whether updates may begin now.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|elected| elected.state().leads(Moment::now()))
    }

    /// Takes over what was decided: this replica's term, where it leads, and who holds the lease as far as is known.
    /// Without an election it does nothing.
    pub fn set_term(&self, term: Option<Term>, holder: Option<&str>) {
        if let Some(elected) = &self.0 {
            let mut state = elected.state();
            state.term = term;
            state.holder = holder.map(str::to_owned);
        }
    }

    /// Marks the leader, or its absence, as observed.
    pub fn mark_observed(&self) {
        if let Some(elected) = &self.0 {
            elected.state().known = true;
        }
    }

    /// Whether it was found out once who leads, or that nobody does. Without an election there is nothing to find out.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.0.as_ref().is_none_or(|elected| elected.state().known)
    }

    /// Waits until no update is under way. None begins while this replica does not lead.
    pub async fn idle(&self) {
        let Some(elected) = &self.0 else { return };
        loop {
            let idle = elected.idle.notified();
            if elected.state().writing == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Whether an update that was given up may still be under way: then another replica must not lead before this one's
    /// term is over.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|elected| Moment::now() < elected.state().given_up)
    }

    /// As the status shows it; `None` without an election.
    #[must_use]
    pub fn status(&self) -> Option<LeadershipStatus> {
        let elected = self.0.as_ref()?;
        let state = elected.state();
        let lead = if state.leads(Moment::now()) {
            ReplicaRole::Leader
        } else {
            ReplicaRole::Standby
        };
        Some(LeadershipStatus {
            lease: elected.lease.clone(),
            state: lead,
            holder: state.holder.clone(),
        })
    }
}

impl Elected {
    fn state(&self) -> MutexGuard<'_, ElectionState> {
        self.state.lock()
    }
}

impl ElectionState {
    fn leads(&self, now: Moment) -> bool {
        self.at_most(now).is_some()
    }

    /// How long an update that begins now may take.
    fn at_most(&self, now: Moment) -> Option<Duration> {
        self.term
            .filter(|term| now < term.renew_by)
            .map(|term| term.ends.since(now))
    }
}

impl WriteGuard for Leadership {
    fn begin(&self) -> Result<Duration, String> {
        let Some(elected) = &self.0 else {
            return ().begin();
        };
        let mut state = elected.state();
        let now = Moment::now();
        match state.at_most(now) {
            Some(left) => {
                state.writing += 1;
                state.lasts = now.after(left);
                Ok(left)
            }
            None => Err(format!(
                "this replica does not lead by the Lease {}",
                elected.lease
            )),
        }
    }

    fn end(&self, over: bool) {
        if let Some(elected) = &self.0 {
            let mut state = elected.state();
            if !over {
                // What is left of the term is the most that it was given.
                state.given_up = state.lasts;
            }
            state.writing = state.writing.saturating_sub(1);
            if state.writing == 0 {
                elected.idle.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn second(n: u64) -> Moment {
        Moment::at(Duration::from_secs(n))
    }

    #[test]
    fn an_update_begins_before_the_renew_deadline_and_has_what_is_left_of_the_term() {
        let term = Some(Term {
            renew_by: second(10),
            ends: second(15),
        });
        let state = ElectionState {
            term,
            ..ElectionState::default()
        };
        assert_eq!(state.at_most(second(0)), Some(Duration::from_secs(15)));
        assert_eq!(state.at_most(second(9)), Some(Duration::from_secs(6)));
        assert_eq!(state.at_most(second(10)), None);
        assert_eq!(ElectionState::default().at_most(second(0)), None);
    }

    #[test]
    fn who_gives_up_waits_for_the_updates_under_way_and_lets_none_begin() {
        let leadership = Leadership::elected_by("calry/calry-gitops".to_owned());
        assert!(
            !leadership.leads() && leadership.begin().is_err(),
            "nobody leads before it is decided"
        );
        let now = Moment::now();
        let hour = Duration::from_secs(3600);
        leadership.set_term(
            Some(Term {
                renew_by: now.after(hour),
                ends: now.after(hour * 2),
            }),
            Some("me"),
        );
        assert!(leadership.leads() && leadership.begin().is_ok() && leadership.begin().is_ok());
        leadership.set_term(None, Some("me"));
        assert!(leadership.begin().is_err());
        let idle = leadership.idle();
        tokio::pin!(idle);
        assert_eq!((&mut idle).now_or_never(), None);
        leadership.end(true);
        assert_eq!((&mut idle).now_or_never(), None);
        leadership.end(true);
        assert_eq!(idle.now_or_never(), Some(()));
    }

    #[test]
    fn an_update_that_was_given_up_may_be_under_way_until_its_term_is_over() {
        let leadership = Leadership::elected_by("calry/calry-gitops".to_owned());
        let (now, hour) = (Moment::now(), Duration::from_secs(3600));
        leadership.set_term(
            Some(Term {
                renew_by: now.after(hour),
                ends: now.after(hour * 2),
            }),
            Some("me"),
        );
        leadership.begin().unwrap();
        leadership.end(true);
        assert!(!leadership.is_in_doubt());
        leadership.begin().unwrap();
        leadership.end(false);
        assert!(leadership.is_in_doubt());
    }

    #[test]
    fn without_an_election_it_always_may() {
        let leadership = Leadership::default();
        assert!(leadership.leads() && leadership.begin().is_ok() && leadership.status().is_none());
    }
}
