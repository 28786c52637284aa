//! Whether this process may write to a workspace now. The election among several replicas sets the leader's term here.
//!
//! The leader has a [`Term`]: no update begins after its renew deadline, and each update gets only the time left of the term.
//! So every update ends before another replica may lead, unless the process was frozen between the check and the request.
//!
//! Never: trust a clock that can be set, or one that stops while the machine sleeps.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::live::WriteGuard;
use crate::machine;
use crate::report::status::{LeadershipStatus, ReplicaRole};

/// A point in time: how long the machine has been up, sleep included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    #[must_use]
    pub fn now() -> Self {
        Self(machine::uptime())
    }

    #[must_use]
    pub const fn at(uptime: Duration) -> Self {
        Self(uptime)
    }

    #[must_use]
    pub fn after(self, pause: Duration) -> Self {
        Self(self.0.saturating_add(pause))
    }

    /// The time since an earlier moment; zero if that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The time for which a replica leads unless it renews the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// No update begins after this.
    pub renew_by: Moment,
    /// No other replica leads before this.
    pub ends: Moment,
}

/// Whether this process may write; the same for all workspaces of one Lease. Without an election it always may.
#[derive(Clone, Debug, Default)]
pub struct Leadership(Option<Arc<Elected>>);

#[derive(Debug)]
struct Elected {
    lease: String,
    state: Mutex<ElectionState>,
    /// Notified when the last running update ends.
    idle: Notify,
}

#[derive(Debug, Default)]
struct ElectionState {
    term: Option<Term>,
    holder: Option<String>,
    /// Where the holder's HTTP server listens. It decides nothing about leading.
    address: Option<SocketAddr>,
    /// Whether the Lease was read once.
    is_observed: bool,
    /// The number of running updates.
    writing: usize,
    /// When the last of all updates so far must have ended.
    lasts: Moment,
    /// When updates that were given up must have ended.
    given_up: Moment,
}

impl Leadership {
    /// A leadership by election, without a leader yet. `lease` is the Lease as namespace/name.
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
            .is_none_or(|elected| elected.state.lock().leads(Moment::now()))
    }

    /// Sets this replica's term, if it leads, and the known holder of the Lease. Without an election it does nothing.
    pub fn set_term(&self, term: Option<Term>, holder: Option<&str>) {
        if let Some(elected) = &self.0 {
            let mut state = elected.state.lock();
            state.term = term;
            state.holder = holder.map(str::to_owned);
        }
    }

    /// Sets where the HTTP server of the Lease's holder listens, if it is known.
    pub fn set_leader_address(&self, address: Option<SocketAddr>) {
        if let Some(elected) = &self.0 {
            elected.state.lock().address = address;
        }
    }

    /// Where the HTTP server of the leader listens. Anyone who may write the Lease can set it.
    #[must_use]
    pub fn leader_address(&self) -> Option<SocketAddr> {
        self.0.as_ref()?.state.lock().address
    }

    /// The Lease as namespace/name; `None` without an election.
    #[must_use]
    pub fn lease(&self) -> Option<&str> {
        self.0.as_ref().map(|elected| elected.lease.as_str())
    }

    /// Marks the leader, or its absence, as observed.
    pub fn mark_observed(&self) {
        if let Some(elected) = &self.0 {
            elected.state.lock().is_observed = true;
        }
    }

    /// Whether the Lease was read once. Always true without an election.
    #[must_use]
    pub fn is_observed(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|elected| elected.state.lock().is_observed)
    }

    /// Waits until no update is running. None begins while this replica does not lead.
    pub async fn idle(&self) {
        let Some(elected) = &self.0 else { return };
        loop {
            let idle = elected.idle.notified();
            if elected.state.lock().writing == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Whether an update that was given up may still be running: then no other replica may lead before this one's term is
    /// over.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|elected| Moment::now() < elected.state.lock().given_up)
    }

    /// `None` without an election.
    #[must_use]
    pub fn status(&self) -> Option<LeadershipStatus> {
        let elected = self.0.as_ref()?;
        let state = elected.state.lock();
        Some(LeadershipStatus {
            lease: elected.lease.clone(),
            state: match state.leads(Moment::now()) {
                true => ReplicaRole::Leader,
                false => ReplicaRole::Standby,
            },
            holder: state.holder.clone(),
        })
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
        let mut state = elected.state.lock();
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
            let mut state = elected.state.lock();
            if !over {
                // It got at most the rest of the term.
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

    fn hours() -> Term {
        let (now, hour) = (Moment::now(), Duration::from_secs(3600));
        Term {
            renew_by: now.after(hour),
            ends: now.after(hour * 2),
        }
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
    fn a_leader_that_steps_down_waits_for_running_updates_and_begins_none() {
        let leadership = Leadership::elected_by("calry/calry-gitops".to_owned());
        assert!(
            !leadership.leads() && leadership.begin().is_err(),
            "it does not lead before the election"
        );
        leadership.set_term(Some(hours()), Some("me"));
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
    fn an_update_that_was_given_up_may_run_until_its_term_is_over() {
        let leadership = Leadership::elected_by("calry/calry-gitops".to_owned());
        leadership.set_term(Some(hours()), Some("me"));
        leadership.begin().unwrap();
        leadership.end(true);
        assert!(!leadership.is_in_doubt());
        leadership.begin().unwrap();
        leadership.end(false);
        assert!(leadership.is_in_doubt());
    }

    #[test]
    fn without_an_election_it_may_always_write() {
        let leadership = Leadership::default();
        assert!(leadership.leads() && leadership.begin().is_ok() && leadership.status().is_none());
    }
}
