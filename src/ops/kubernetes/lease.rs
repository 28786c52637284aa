//! One Lease, asked for and kept: what [`Election`] decides, carried out by GET and PUT with the `resourceVersion` that was
//! seen, so that of several who try only one gets through.
//!
//! With several Leases, one for each shard of the workspaces, replicas spread them among themselves: who has at least two
//! fewer than another asks for one, by an annotation, and is handed it as soon as the updates under way are over.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, ResourceExt as _};
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::election::{Election, Record, Step, Times};
use super::event_writer::Events;
use super::{Cluster, said};
use crate::daemon::{Handle, Leadership, Moment};
use crate::model::{ellipsize, human_duration, printable};
use crate::report::status::{ReconciliationOutcome, ReconciliationRecord, ReplicaRole, Trigger};

/// Who asks for a Lease that another one holds.
const WANTED_BY: &str = "calry-gitops/wanted-by";

/// Whether its holder gives it to anybody who asks.
const OFFERED: &str = "calry-gitops/offered";

/// After so many failed passes in a row a replica offers its Lease to others.
const FAILED_PASSES: u64 = 3;

/// What goes wrong in the same way is said again after this time.
const REMINDER: Duration = Duration::from_secs(5 * 60);

/// The longest name of a holder that is shown, in characters.
const MAX_HOLDER: usize = 253;

/// How long giving a Lease up may take at the end.
const RELEASE: Duration = Duration::from_secs(3);

/// A candidate for one Lease.
pub struct Lease {
    cluster: Cluster,
    api: Api<coordination::Lease>,
    name: String,
    /// `namespace/name`.
    shown: String,
    me: String,
    times: Times,
    election: Election,
    /// As the API server had it last.
    object: Option<coordination::Lease>,
    /// Whether it was asked for, and the answer never came.
    unanswered: bool,
    leadership: Leadership,
    shards: Shards,
    /// The loops of its workspaces.
    loops: Vec<Handle>,
    /// What was said last of who leads.
    told: Option<(ReplicaRole, Option<String>)>,
    /// What went wrong last, and when that was said.
    trouble: Option<(Kind, Moment)>,
}

/// Who holds which Lease, as far as this process knows.
#[derive(Clone, Debug, Default)]
pub struct Shards(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// By the name of the Lease.
    holders: BTreeMap<String, String>,
    /// When one was asked for last.
    asked: Option<Moment>,
}

impl Shards {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock()
    }
}

impl Held {
    /// Whether one has so many more than the other that the other should get one.
    fn is_uneven(&self, rich: &str, poor: &str) -> bool {
        let count = |who: &str| {
            self.holders
                .values()
                .filter(|holder| *holder == who)
                .count()
        };
        count(rich) >= count(poor) + 2
    }
}

/// Why a Lease could not be read or written.
#[derive(Debug)]
enum Trouble {
    /// Somebody else wrote it first.
    Conflict,
    Other(Kind, String),
}

/// What is the same trouble, however it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// By the status of the answer.
    Status(u16),
    Silence,
    Fault,
    Other,
}

impl Lease {
    /// A candidate for the Lease of this name, by a name that [`Cluster::identity`] gave.
    #[must_use]
    pub fn new(cluster: &Cluster, name: String, me: String, times: Times, shards: Shards) -> Self {
        let shown = format!("{}/{name}", cluster.namespace);
        Self {
            api: Api::namespaced(cluster.client.clone(), &cluster.namespace),
            cluster: cluster.clone(),
            leadership: Leadership::elected_by(shown.clone()),
            election: Election::new(me.clone(), times),
            name,
            shown,
            me,
            times,
            object: None,
            unanswered: false,
            shards,
            loops: Vec::new(),
            told: None,
            trouble: None,
        }
    }

    /// Whether this process leads by it: what the loops of its workspaces go by.
    #[must_use]
    pub const fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// Asks for it and keeps it until `stop` is cancelled, and then gives it up: the loops must have ended before. Who leads
    /// is shown on the publishers of these loops, and they are asked for a pass as soon as this process does.
    pub async fn keep(
        mut self,
        loops: Vec<Handle>,
        events: Option<Events>,
        stop: CancellationToken,
    ) {
        self.loops = loops;
        loop {
            if self.told.is_some() {
                // A term may have ended during the pause.
                self.tell(events.as_ref());
            }
            let turn = tokio::select! {
                // A candidate that is gone would stand by for ever, and nobody would know.
                turn = AssertUnwindSafe(self.turn()).catch_unwind() => turn.unwrap_or_else(|_| {
                    Err(Trouble::Other(Kind::Fault, "a fault of calry-gitops, told above".to_owned()))
                }),
                () = stop.cancelled() => break,
            };
            if matches!(turn, Err(Trouble::Other(Kind::Status(401), _))) {
                self.begin_anew().await;
            }
            self.note(&turn);
            self.tell(events.as_ref());
            let pause = self.pause();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => break,
            }
        }
        let leaving = tokio::time::timeout(RELEASE, async {
            if self.unanswered {
                self.look().await?;
            }
            if !self.election.holds() {
                return Ok(false);
            }
            if self.leadership.is_in_doubt() {
                let why = "an update was given up that may still be under way";
                return Err(Trouble::Other(Kind::Other, why.to_owned()));
            }
            self.release().await
        });
        let left = leaving.await;
        let lease = &self.shown;
        match left {
            Ok(Ok(true)) => tracing::info!(lease, "the Lease {lease} is released"),
            Ok(Ok(false)) => {}
            Ok(Err(trouble)) => {
                tracing::warn!(lease, "the Lease {lease} runs out: {}", trouble.sentence())
            }
            Err(_) => tracing::warn!(lease, "the Lease {lease} runs out: no answer in time"),
        }
    }

    /// Asks for the credentials again: kube reads a token's file again by the wall clock, which may have been set back.
    async fn begin_anew(&mut self) {
        if let Ok(cluster) = Cluster::find(self.cluster.pod.clone()).await {
            self.api = Api::namespaced(cluster.client.clone(), &cluster.namespace);
            self.cluster = cluster;
        }
    }

    /// Looks what is to be done, and does it.
    async fn turn(&mut self) -> Result<(), Trouble> {
        // Who leads renews without looking first: whoever wrote into the Lease meanwhile makes that fail.
        if self.election.term(Moment::now()).is_some() {
            match self.hold().await {
                Err(Trouble::Conflict) => {}
                done => return done,
            }
        }
        self.look().await?;
        match self.election.step(Moment::now()) {
            Step::Create => self.create().await,
            Step::Hold if self.is_to_be_handed_over() => self.hand_over().await,
            Step::Hold if self.election.holds() || self.is_fit() => self.hold().await,
            Step::Hold => Ok(()),
            Step::Wait => self.ask_for_it().await,
        }
    }

    /// Whether this replica can do anything with it: a workspace of it was read, and its passes do not fail all the time.
    fn is_fit(&self) -> bool {
        self.loops.iter().any(|one| {
            let status = one.publisher().published();
            let failing = |pass: &ReconciliationRecord| {
                matches!(pass.result, ReconciliationOutcome::Failed) && pass.times >= FAILED_PASSES
            };
            status.ready && !status.last_pass.as_ref().is_some_and(failing)
        })
    }

    async fn look(&mut self) -> Result<(), Trouble> {
        let found = self.within(self.api.get_opt(&self.name)).await?;
        self.saw(found)?;
        self.unanswered = false;
        self.leadership.mark_observed();
        Ok(())
    }

    /// Takes over what the API server has.
    fn saw(&mut self, lease: Option<coordination::Lease>) -> Result<(), Trouble> {
        let lease = lease.map(versioned).transpose()?;
        self.election.saw(lease.as_ref().map(record), Moment::now());
        self.object = lease;
        self.publish_term();
        Ok(())
    }

    /// What is known counts at once.
    fn publish_term(&self) {
        let holder = self.election.holder().map(shown);
        self.leadership
            .set_term(self.election.term(Moment::now()), holder.as_deref());
    }

    async fn create(&mut self) -> Result<(), Trouble> {
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            ..ObjectMeta::default()
        };
        let lease = coordination::Lease {
            metadata,
            spec: None,
        };
        let made = self
            .within(self.api.create(&PostParams::default(), &lease))
            .await?;
        let wait = human_duration(self.times.duration);
        tracing::info!(
            lease = self.shown,
            "there was no Lease {}, and now there is: it is taken in {wait}, in case somebody deleted it and a replica still \
             leads by it",
            self.shown
        );
        self.saw(Some(made))
    }

    /// Writes this candidate into the Lease.
    async fn hold(&mut self) -> Result<(), Trouble> {
        let Some(mut lease) = self.object.clone() else {
            return Err(Trouble::Conflict);
        };
        let asked = Moment::now();
        let now = MicroTime(self.election.claim(Timestamp::now(), asked));
        let spec = lease.spec.get_or_insert_default();
        if !self.election.holds() {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(self.me.clone());
        spec.renew_time = Some(now);
        spec.lease_duration_seconds =
            i32::try_from(self.times.duration.as_millis().div_ceil(1000)).ok();
        lease.annotations_mut().remove(WANTED_BY);
        if self.is_fit() {
            lease.annotations_mut().remove(OFFERED);
        } else {
            lease
                .annotations_mut()
                .insert(OFFERED.to_owned(), "true".to_owned());
        }
        self.unanswered = true;
        let lease = self.write(lease).await?;
        self.unanswered = false;
        self.election.held(record(&lease), asked);
        self.object = Some(lease);
        self.publish_term();
        Ok(())
    }

    /// Gives the Lease up; `false` where another one has it.
    async fn release(&mut self) -> Result<bool, Trouble> {
        while self.election.holds() {
            let Some(mut lease) = self.object.clone() else {
                break;
            };
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds =
                Some(i32::try_from(self.election.release().as_secs()).unwrap_or(1));
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            lease.annotations_mut().remove(OFFERED);
            match self.write(lease).await {
                Ok(lease) => {
                    self.saw(Some(lease))?;
                    return Ok(true);
                }
                Err(Trouble::Conflict) => {
                    self.election.not_released();
                    self.look().await?;
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(false)
    }

    /// Whether somebody asked for it who has so few that he is to get it, or can do more with it.
    fn is_to_be_handed_over(&self) -> bool {
        let wanted_by = self
            .election
            .record()
            .and_then(|record| record.wanted_by.as_deref());
        let gets_it = |by| !self.is_fit() || self.shards.held().is_uneven(&self.me, by);
        self.election.holds() && wanted_by.is_some_and(gets_it)
    }

    async fn hand_over(&mut self) -> Result<(), Trouble> {
        let by = self
            .election
            .record()
            .and_then(|record| record.wanted_by.as_deref())
            .map(shown);
        let by = by.unwrap_or_default();
        tracing::info!(
            lease = self.shown,
            to = by,
            "hands the Lease {} over to {by}, which asked for it",
            self.shown
        );
        self.election.give_up();
        self.publish_term();
        // No longer than the term lasts that was just given up: each update is bounded by that.
        self.leadership.idle().await;
        if self.leadership.is_in_doubt() {
            return Ok(());
        }
        self.release().await.map(drop)
    }

    /// Asks whoever holds it to hand it over, where that one has more than its share or can do nothing with it.
    async fn ask_for_it(&mut self) -> Result<(), Trouble> {
        let now = Moment::now();
        let Some(record) = self
            .election
            .record()
            .filter(|record| record.wanted_by.is_none())
        else {
            return Ok(());
        };
        let Some(holder) = record.holder.as_deref().filter(|_| self.is_fit()) else {
            return Ok(());
        };
        {
            let mut held = self.shards.held();
            let waits = held
                .asked
                .is_some_and(|asked| now.since(asked) < self.times.duration);
            if waits || !(record.offered || held.is_uneven(holder, &self.me)) {
                return Ok(());
            }
            held.asked = Some(now);
        }
        let Some(mut lease) = self.object.clone() else {
            return Ok(());
        };
        lease
            .annotations_mut()
            .insert(WANTED_BY.to_owned(), self.me.clone());
        let lease = self.write(lease).await?;
        self.election.noted(self::record(&lease));
        self.object = Some(lease);
        Ok(())
    }

    /// Writes over what was seen, and over nothing else.
    async fn write(&self, lease: coordination::Lease) -> Result<coordination::Lease, Trouble> {
        versioned(
            self.within(self.api.replace(&self.name, &PostParams::default(), &lease))
                .await?,
        )
    }

    /// Waits for an answer, so long that a second attempt is possible while this replica leads, and no longer than it does.
    async fn within<T>(&self, asking: impl Future<Output = kube::Result<T>>) -> Result<T, Trouble> {
        let now = Moment::now();
        let most = self.times.renew_deadline / 2;
        let left = self
            .election
            .term(now)
            .map_or(most, |term| term.renew_by.since(now));
        match tokio::time::timeout(most.min(left), asking).await {
            Ok(Ok(answer)) => Ok(answer),
            // What is written is gone, or somebody else wrote it first: it is looked at again.
            Ok(Err(kube::Error::Api(status)))
                if status.code == 409 || (status.code == 404 && self.object.is_some()) =>
            {
                Err(Trouble::Conflict)
            }
            Ok(Err(error)) => {
                let kind = match &error {
                    kube::Error::Api(status) => Kind::Status(status.code),
                    _ => Kind::Other,
                };
                Err(Trouble::Other(kind, advised(&error)))
            }
            Err(_) => {
                let given = human_duration(most.min(left));
                Err(Trouble::Other(
                    Kind::Silence,
                    format!("the API server did not answer within {given}"),
                ))
            }
        }
    }

    /// Until the next turn. Those that wait are not to come all at once.
    fn pause(&self) -> Duration {
        let Times { retry_period, .. } = self.times;
        let now = Moment::now();
        match self.election.term(now) {
            // The end of a term is noticed when it comes.
            Some(term) => retry_period.min(term.renew_by.since(now)),
            None => retry_period.mul_f64(0.8 + 0.4 * fastrand::f64()),
        }
    }

    /// Says what went wrong, once and then now and again, and what goes on.
    fn note(&mut self, turn: &Result<(), Trouble>) {
        let now = Moment::now();
        match turn {
            // Somebody else was quicker, which says nothing of what is wrong.
            Err(Trouble::Conflict) => {}
            Err(Trouble::Other(kind, why)) => {
                let told = self
                    .trouble
                    .filter(|(before, at)| before == kind && now.since(*at) < REMINDER);
                if told.is_some() {
                    return;
                }
                let then = match self.election.term(now) {
                    Some(term) => format!(
                        "; this replica leads for {} more",
                        human_duration(term.renew_by.since(now))
                    ),
                    None => "; this replica stands by".to_owned(),
                };
                tracing::warn!(
                    lease = self.shown,
                    "the Lease {} cannot be kept up: {why}{then}",
                    self.shown
                );
                self.trouble = Some((*kind, now));
            }
            Ok(()) => {
                if self.trouble.take().is_some() {
                    tracing::info!(
                        lease = self.shown,
                        "the Lease {} is kept up again",
                        self.shown
                    );
                }
            }
        }
    }

    /// Tells everybody who leads, where that is news.
    fn tell(&mut self, events: Option<&Events>) {
        let now = Moment::now();
        let term = self.election.term(now);
        // Who does not renew leads no more, as far as anybody can tell.
        let alive = term.is_some() || self.election.step(now) == Step::Wait;
        let holder = self.election.holder().filter(|_| alive);
        self.leadership.set_term(term, holder.map(shown).as_deref());
        {
            let mut held = self.shards.held();
            match holder {
                Some(holder) => drop(held.holders.insert(self.name.clone(), holder.to_owned())),
                None => drop(held.holders.remove(&self.name)),
            }
        }
        let lead = if term.is_some() {
            ReplicaRole::Leader
        } else {
            ReplicaRole::Standby
        };
        let news = (lead, holder.map(shown));
        let before = self.told.replace(news.clone());
        if before.as_ref() == Some(&news) {
            return;
        }
        self.loops
            .iter()
            .for_each(|one| one.publisher().publish_leadership());
        let (lease, led) = (
            &self.shown,
            before.is_some_and(|(lead, _)| lead == ReplicaRole::Leader),
        );
        match (lead, led, news.1) {
            (ReplicaRole::Leader, false, _) => {
                tracing::info!(lease, "leads by the Lease {lease}");
                self.loops
                    .iter()
                    .for_each(|one| one.request(Trigger::Leadership));
                if let Some(events) = events {
                    events.leads(lease);
                }
            }
            (ReplicaRole::Leader, true, _) => {}
            (ReplicaRole::Standby, true, holder) => {
                let by = holder
                    .filter(|_| !self.election.holds())
                    .map(|by| format!(": {by} holds it now"))
                    .unwrap_or_default();
                tracing::warn!(
                    lease,
                    "no longer leads by the Lease {lease}{by}; nothing is written"
                );
                if let Some(events) = events {
                    events.stands_by(lease);
                }
            }
            (ReplicaRole::Standby, false, Some(holder)) => {
                tracing::info!(lease, holder, "stands by: {holder} holds the Lease {lease}");
            }
            (ReplicaRole::Standby, false, None) => {
                tracing::info!(
                    lease,
                    "stands by: nobody is known to hold the Lease {lease}"
                );
            }
        }
    }
}

impl Trouble {
    fn sentence(&self) -> String {
        match self {
            Self::Conflict => "somebody else writes it all the time".to_owned(),
            Self::Other(_, why) => why.clone(),
        }
    }
}

/// What the API server says, and what to do about it where that is known.
fn advised(error: &kube::Error) -> String {
    let told = said(error);
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "{told}; its service account needs `create` on leases, and `get` and `update` on this one, as the Role of \
             deploy/kubernetes/base has it"
        ),
        kube::Error::Api(status) if status.code == 401 => {
            format!(
                "{told}; its token is not accepted: see that the one of its service account is mounted, and of this cluster"
            )
        }
        kube::Error::Api(status) if status.code == 404 => {
            format!(
                "{told}; see that the namespace is there (POD_NAMESPACE), and that the address is that of an API server"
            )
        }
        kube::Error::SerdeError(_) => {
            format!("the answer is no Lease, so the address is not that of an API server ({told})")
        }
        _ => told,
    }
}

/// A Lease that can be written again. Without a version, the API server would let anything be written over.
fn versioned(lease: coordination::Lease) -> Result<coordination::Lease, Trouble> {
    match lease.resource_version() {
        Some(version) if !version.is_empty() => Ok(lease),
        _ => Err(Trouble::Other(
            Kind::Other,
            "the API server's answer has no resourceVersion".to_owned(),
        )),
    }
}

/// A name that somebody wrote into a Lease, fit to be shown.
fn shown(name: &str) -> String {
    ellipsize(&printable(name), MAX_HOLDER)
}

/// What counts of a Lease.
fn record(lease: &coordination::Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    let annotations = lease.annotations();
    Record {
        version: lease.resource_version().unwrap_or_default(),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        renewed: spec.renew_time.map(|MicroTime(time)| time),
        duration: seconds.map(Duration::from_secs),
        wanted_by: annotations.get(WANTED_BY).cloned(),
        offered: annotations.contains_key(OFFERED),
    }
}
