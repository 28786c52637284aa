//! One Lease, asked for and kept: what [`Election`] decides, carried out by GET and PUT with the `resourceVersion` that was
//! seen, so that of several who try only one gets through.
//!
//! With several Leases, one for each shard of the workspaces, replicas spread them among themselves: who has at least two
//! fewer than another asks for one, by an annotation, and is handed it as soon as the updates under way are over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, ResourceExt as _};
use tokio_util::sync::CancellationToken;

use super::election::{Election, Record, Step, Times};
use super::events::Events;
use super::{Cluster, said};
use crate::daemon::{Handle, Leadership, Moment, Trigger};
use crate::model::{printable, spoken};
use crate::render::status::Lead;

/// Who asks for a Lease that another one holds.
const WANTED_BY: &str = "calry-gitops/wanted-by";

/// How long giving a Lease up may take at the end.
const RELEASE: Duration = Duration::from_secs(3);

/// A candidate for one Lease.
pub struct Lease {
    api: Api<coordination::Lease>,
    name: String,
    /// `namespace/name`.
    shown: String,
    me: String,
    times: Times,
    election: Election,
    /// As the API server had it last.
    object: Option<coordination::Lease>,
    leadership: Leadership,
    shards: Shards,
    /// What was said last of who leads.
    told: Option<(Lead, Option<String>)>,
    /// What went wrong last, so that it is said once.
    trouble: Option<String>,
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Whether one has so many more than the other that the other should get one.
    fn is_uneven(&self, rich: &str, poor: &str) -> bool {
        let count = |who: &str| self.holders.values().filter(|holder| *holder == who).count();
        count(rich) >= count(poor) + 2
    }
}

/// Why a Lease could not be read or written.
#[derive(Debug)]
enum Trouble {
    /// Somebody else wrote it first.
    Conflict,
    /// It is not there.
    Gone,
    Other(String),
}

impl Lease {
    /// A candidate for the Lease of this name, by a name that [`Cluster::identity`] gave.
    #[must_use]
    pub fn new(cluster: &Cluster, name: String, me: String, times: Times, shards: Shards) -> Self {
        let shown = format!("{}/{name}", cluster.namespace);
        Self {
            api: Api::namespaced(cluster.client.clone(), &cluster.namespace),
            leadership: Leadership::elected_by(shown.clone()),
            election: Election::new(me.clone(), times),
            name,
            shown,
            me,
            times,
            object: None,
            shards,
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
    /// is shown on the boards of these loops, and they are asked for a pass as soon as this process does.
    pub async fn keep(mut self, loops: Vec<Handle>, events: Option<Events>, stop: CancellationToken) {
        loop {
            if self.told.is_some() {
                // A term may have ended during the pause.
                self.tell(&loops, events.as_ref());
            }
            // What is dropped here may have arrived: whoever gives the Lease up looks again.
            let turn = tokio::select! {
                turn = self.turn() => turn,
                () = stop.cancelled() => break,
            };
            self.note(&turn);
            self.tell(&loops, events.as_ref());
            let pause = self.pause();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => break,
            }
        }
        if self.holds() && self.leadership.is_in_doubt() {
            let lease = &self.shown;
            tracing::warn!(lease, "the Lease {lease} runs out: an update was given up that may still be under way");
        } else if self.holds() {
            let released = tokio::time::timeout(RELEASE, self.release()).await;
            match released {
                Ok(Ok(())) => tracing::info!(lease = self.shown, "the Lease {} is released", self.shown),
                Ok(Err(trouble)) => {
                    let why = trouble.sentence();
                    tracing::warn!(lease = self.shown, "the Lease {} runs out: {why}", self.shown);
                }
                Err(_) => tracing::warn!(lease = self.shown, "the Lease {} runs out: no answer in time", self.shown),
            }
        }
    }

    /// Looks what is to be done, and does it.
    async fn turn(&mut self) -> Result<(), Trouble> {
        // Who leads renews without looking first: whoever wrote into the Lease meanwhile makes that fail.
        if self.election.term(Moment::now()).is_some() {
            match self.hold().await {
                Err(Trouble::Conflict | Trouble::Gone) => {}
                done => return done,
            }
        }
        self.look().await?;
        match self.election.step(Moment::now()) {
            Step::Create => self.create().await,
            Step::Hold if self.is_to_be_handed_over() => self.hand_over().await,
            Step::Hold => self.hold().await,
            Step::Wait => self.ask_for_it().await,
        }
    }

    async fn look(&mut self) -> Result<(), Trouble> {
        let found = self.within(self.api.get_opt(&self.name)).await?;
        self.election.saw(found.as_ref().map(record), Moment::now());
        self.object = found;
        Ok(())
    }

    async fn create(&mut self) -> Result<(), Trouble> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let lease = coordination::Lease { metadata, spec: None };
        let made = self.within(self.api.create(&PostParams::default(), &lease)).await?;
        let wait = spoken(self.times.duration);
        tracing::info!(
            lease = self.shown,
            "there was no Lease {}, and now there is: it is taken in {wait}, in case somebody deleted it and a replica still \
             leads by it",
            self.shown
        );
        self.election.saw(Some(record(&made)), Moment::now());
        self.object = Some(made);
        Ok(())
    }

    /// Writes this candidate into the Lease.
    async fn hold(&mut self) -> Result<(), Trouble> {
        let Some(mut lease) = self.object.clone() else { return Err(Trouble::Gone) };
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.me) {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(self.me.clone());
        spec.renew_time = Some(now);
        spec.lease_duration_seconds = i32::try_from(self.times.duration.as_millis().div_ceil(1000)).ok();
        lease.annotations_mut().remove(WANTED_BY);
        let asked = Moment::now();
        let lease = self.write(lease).await?;
        self.election.held(record(&lease), asked);
        self.object = Some(lease);
        Ok(())
    }

    /// Gives the Lease up.
    async fn release(&mut self) -> Result<(), Trouble> {
        loop {
            let Some(mut lease) = self.object.clone() else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            match self.write(lease).await {
                Ok(lease) => {
                    self.election.saw(Some(record(&lease)), Moment::now());
                    self.object = Some(lease);
                    return Ok(());
                }
                Err(Trouble::Conflict) => self.look().await?,
                Err(trouble) => return Err(trouble),
            }
            if !self.holds() {
                return Ok(());
            }
        }
    }

    /// Whether somebody asked for it who has so few that he is to get it.
    fn is_to_be_handed_over(&self) -> bool {
        let wanted_by = self.election.record().and_then(|record| record.wanted_by.as_deref());
        self.holds() && wanted_by.is_some_and(|by| self.shards.held().is_uneven(&self.me, by))
    }

    async fn hand_over(&mut self) -> Result<(), Trouble> {
        let by = self.election.record().and_then(|record| record.wanted_by.as_deref()).map(printable);
        let by = by.unwrap_or_default();
        tracing::info!(lease = self.shown, to = by, "hands the Lease {} over to {by}, which has fewer", self.shown);
        self.election.give_up();
        self.leadership.decided(None, self.election.holder());
        // No longer than the term lasts that was just given up: each update is bounded by that.
        self.leadership.idle().await;
        if self.leadership.is_in_doubt() {
            return Ok(());
        }
        self.release().await
    }

    /// Asks whoever holds it to hand it over, where that one has more than its share.
    async fn ask_for_it(&mut self) -> Result<(), Trouble> {
        let now = Moment::now();
        let Some(record) = self.election.record().filter(|record| record.wanted_by.is_none()) else { return Ok(()) };
        let Some(holder) = &record.holder else { return Ok(()) };
        {
            let mut held = self.shards.held();
            let waits = held.asked.is_some_and(|asked| now.since(asked) < self.times.duration);
            if waits || !held.is_uneven(holder, &self.me) {
                return Ok(());
            }
            held.asked = Some(now);
        }
        let Some(mut lease) = self.object.clone() else { return Ok(()) };
        lease.annotations_mut().insert(WANTED_BY.to_owned(), self.me.clone());
        let lease = self.write(lease).await?;
        self.election.noted(self::record(&lease));
        self.object = Some(lease);
        Ok(())
    }

    async fn write(&self, lease: coordination::Lease) -> Result<coordination::Lease, Trouble> {
        self.within(self.api.replace(&self.name, &PostParams::default(), &lease)).await
    }

    /// Waits for an answer, so long that a second attempt is possible while this replica leads, and no longer than it does.
    async fn within<T>(&self, asking: impl Future<Output = kube::Result<T>>) -> Result<T, Trouble> {
        let now = Moment::now();
        let most = self.times.renew_deadline / 2;
        let left = self.election.term(now).map_or(most, |term| term.renew_by.since(now));
        match tokio::time::timeout(most.min(left), asking).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(Trouble::Conflict),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(Trouble::Gone),
            Ok(Err(error)) => Err(Trouble::Other(advised(&error))),
            Err(_) => {
                let given = spoken(most.min(left));
                Err(Trouble::Other(format!("the API server did not answer within {given}")))
            }
        }
    }

    fn holds(&self) -> bool {
        self.election.holder() == Some(&self.me)
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

    /// Says what went wrong, once, and what goes on.
    fn note(&mut self, turn: &Result<(), Trouble>) {
        let why = match turn {
            Ok(()) | Err(Trouble::Conflict) => None,
            Err(trouble) => Some(trouble.sentence()),
        };
        if why == self.trouble {
            return;
        }
        let now = Moment::now();
        match &why {
            Some(why) => {
                let then = match self.election.term(now) {
                    Some(term) => format!("; this replica leads for {} more", spoken(term.renew_by.since(now))),
                    None => String::new(),
                };
                tracing::warn!(lease = self.shown, "the Lease {} cannot be kept up: {why}{then}", self.shown);
            }
            None => tracing::info!(lease = self.shown, "the Lease {} is kept up again", self.shown),
        }
        self.trouble = why;
    }

    /// Tells everybody who leads, where that is news.
    fn tell(&mut self, loops: &[Handle], events: Option<&Events>) {
        let now = Moment::now();
        let (term, holder) = (self.election.term(now), self.election.holder());
        // Who does not renew leads no more, as far as anybody can tell.
        let waits = self.election.record().is_some_and(|_| self.election.step(now) == Step::Wait);
        let known = holder.filter(|_| term.is_some() || waits);
        self.leadership.decided(term, known);
        {
            let mut held = self.shards.held();
            match known {
                Some(holder) => drop(held.holders.insert(self.name.clone(), holder.to_owned())),
                None => drop(held.holders.remove(&self.name)),
            }
        }
        let lead = if term.is_some() { Lead::Leader } else { Lead::Standby };
        let news = (lead, known.map(printable));
        let before = self.told.replace(news.clone());
        if before.as_ref() == Some(&news) {
            return;
        }
        loops.iter().for_each(|one| one.board().led(self.leadership.status()));
        let (lease, led) = (&self.shown, before.is_some_and(|(lead, _)| lead == Lead::Leader));
        match (lead, led, news.1) {
            (Lead::Leader, false, _) => {
                tracing::info!(lease, "leads by the Lease {lease}");
                loops.iter().for_each(|one| one.ask(Trigger::Leadership));
                if let Some(events) = events {
                    events.leads(lease);
                }
            }
            (Lead::Leader, true, _) => {}
            (Lead::Standby, true, holder) => {
                let by = holder.filter(|_| !self.holds()).map(|by| format!(": {by} holds it now")).unwrap_or_default();
                tracing::warn!(lease, "no longer leads by the Lease {lease}{by}; nothing is written");
                if let Some(events) = events {
                    events.stands_by(lease);
                }
            }
            (Lead::Standby, false, Some(holder)) => {
                tracing::info!(lease, holder, "stands by: {holder} holds the Lease {lease}");
            }
            (Lead::Standby, false, None) => tracing::info!(lease, "stands by: nobody holds the Lease {lease}"),
        }
    }
}

impl Trouble {
    fn sentence(&self) -> String {
        match self {
            Self::Conflict => "somebody else writes it all the time".to_owned(),
            Self::Gone => "there is no such Lease, or no such namespace".to_owned(),
            Self::Other(why) => why.clone(),
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
        _ => told,
    }
}

/// What counts of a Lease.
fn record(lease: &coordination::Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        version: lease.resource_version().unwrap_or_default(),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: seconds.map(Duration::from_secs),
        used: spec.renew_time.is_some(),
        wanted_by: lease.annotations().get(WANTED_BY).cloned(),
    }
}
