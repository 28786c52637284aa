//! Acquires and renews one Lease as [`Election`] decides, by GET and PUT. A PUT names the `resourceVersion` that was read, so
//! that only one of several concurrent writers succeeds.
//!
//! With several Leases, one for each shard of the workspaces, the replicas balance them: a replica with at least two fewer
//! than another one requests a Lease by an annotation, and gets it when all running updates have ended.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::election::{Election, LeaseRecord, Step, Times};
use super::event_writer::Events;
use super::{Cluster, describe_error};
use crate::daemon::{Handle, Leadership, Moment};
use crate::machine;
use crate::model::{ellipsize, human_duration, printable};
use crate::report::status::{ReconciliationOutcome, ReconciliationRecord, Trigger};

/// The annotation of the replica that requests the Lease from its holder.
const WANTED_BY: &str = "calry-gitops/wanted-by";

/// The annotation of a holder that hands the Lease to any replica that requests it.
const OFFERED: &str = "calry-gitops/offered";

/// The annotation with the address of the holder's HTTP server, to which standbys pass push hooks on. Only a hint: each
/// client that may write the Lease can set it.
const ADDRESS: &str = "calry-gitops/address";

/// After this many failed reconciliations in a row a replica offers its Lease to others.
const MAX_FAILURES: u64 = 3;

/// The same error is logged again after this time.
const REMINDER: Duration = Duration::from_secs(5 * 60);

/// The longest shown name of a holder, in characters.
const MAX_HOLDER: usize = 253;

/// How long the release at the end may take.
const RELEASE: Duration = Duration::from_secs(3);

pub struct Lease {
    cluster: Cluster,
    api: Api<coordination::Lease>,
    name: String,
    /// `namespace/name`.
    shown: String,
    me: String,
    /// Where other replicas reach this one.
    address: Option<SocketAddr>,
    times: Times,
    election: Election,
    /// As read or written last.
    object: Option<coordination::Lease>,
    /// Whether the answer to a claim never came.
    unanswered: bool,
    leadership: Leadership,
    shards: Shards,
    loops: Vec<Handle>,
    /// Whether it leads, and the holder, as published last.
    published: Option<(bool, Option<String>)>,
    /// The last error, and when it was logged.
    last_error: Option<(ErrorKind, Moment)>,
}

/// The holder of each Lease, as far as this process knows.
#[derive(Clone, Debug, Default)]
pub struct Shards(Arc<Mutex<Holders>>);

#[derive(Debug, Default)]
struct Holders {
    by_lease: BTreeMap<String, String>,
    /// When a Lease was requested last.
    requested: Option<Moment>,
}

impl Holders {
    /// Whether the first replica has enough more Leases than the second for the second to get one.
    fn is_uneven(&self, from: &str, to: &str) -> bool {
        let count = |who: &str| {
            self.by_lease
                .values()
                .filter(|holder| *holder == who)
                .count()
        };
        count(from) >= count(to) + 2
    }
}

/// Why a Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    /// Another writer was faster.
    #[error("another writer keeps changing it")]
    Conflict,
    #[error("{1}")]
    Other(ErrorKind, String),
}

/// Errors of one kind are logged as one, whatever their texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorKind {
    /// By the status of the answer.
    Status(u16),
    Timeout,
    Panic,
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
            address: None,
            times,
            object: None,
            unanswered: false,
            shards,
            loops: Vec::new(),
            published: None,
            last_error: None,
        }
    }

    /// Writes this address into the Lease while this replica holds it.
    #[must_use]
    pub fn with_address(self, address: Option<SocketAddr>) -> Self {
        Self { address, ..self }
    }

    /// Whether this process may write to the workspaces of this Lease.
    #[must_use]
    pub const fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// Acquires and renews the Lease until `stop` is cancelled, and then releases it; the loops must have ended before. The
    /// publishers of the loops show the leader. When this process becomes the leader, it requests a reconciliation of each.
    pub async fn keep(
        mut self,
        loops: Vec<Handle>,
        events: Option<Events>,
        stop: CancellationToken,
    ) {
        self.loops = loops;
        loop {
            if self.published.is_some() {
                // A term may have ended during the pause.
                self.publish(events.as_ref());
            }
            let turn = tokio::select! {
                biased;
                // After a panic the candidate must go on: otherwise it would be a standby for ever.
                turn = AssertUnwindSafe(self.turn()).catch_unwind() => turn.unwrap_or_else(|_| {
                    Err(LeaseError::Other(ErrorKind::Panic, "an internal error; its cause is logged above".to_owned()))
                }),
                () = stop.cancelled() => break,
            };
            if matches!(turn, Err(LeaseError::Other(ErrorKind::Status(401), _))) {
                self.reconnect().await;
            }
            self.log_result(&turn);
            self.publish(events.as_ref());
            let pause = self.pause();
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => break,
            }
        }
        let leaving = tokio::time::timeout(RELEASE, async {
            if self.unanswered {
                self.read_lease().await?;
            }
            if !self.election.holds() {
                return Ok(false);
            }
            if self.leadership.is_in_doubt() {
                let why = "an update was given up that may still be under way";
                return Err(LeaseError::Other(ErrorKind::Other, why.to_owned()));
            }
            self.release().await
        });
        let left = leaving.await;
        let lease = &self.shown;
        match left {
            Ok(Ok(true)) => tracing::info!(lease, "the Lease {lease} is released"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(
                lease,
                "the Lease {lease} was not released and expires by itself: {error}"
            ),
            Err(_) => tracing::warn!(
                lease,
                "the Lease {lease} was not released and expires by itself: no answer in time"
            ),
        }
    }

    /// Reads the credentials again: kube decides by the wall clock when to read a token file again, and it may be set back.
    async fn reconnect(&mut self) {
        if let Ok(cluster) = Cluster::find(self.cluster.pod.clone()).await {
            self.api = Api::namespaced(cluster.client.clone(), &cluster.namespace);
            self.cluster = cluster;
        }
    }

    /// One step of the election.
    async fn turn(&mut self) -> Result<(), LeaseError> {
        // The leader renews without reading first: if another writer changed the Lease, that fails.
        if self.election.term(Moment::now()).is_some() {
            match self.hold().await {
                Err(LeaseError::Conflict) => {}
                done => return done,
            }
        }
        self.read_lease().await?;
        match self.election.step(Moment::now()) {
            Step::Create => self.create().await,
            Step::Hold if self.is_to_be_handed_over() => self.hand_over().await,
            Step::Hold if self.election.holds() || self.is_fit() => self.hold().await,
            Step::Hold => Ok(()),
            Step::Wait => self.request_hand_over().await,
        }
    }

    /// Whether this replica can use the Lease: one of its workspaces was read and does not fail all the time.
    fn is_fit(&self) -> bool {
        self.loops.iter().any(|one| {
            let status = one.publisher().published();
            let failing = |pass: &ReconciliationRecord| {
                matches!(pass.result, ReconciliationOutcome::Failed) && pass.times >= MAX_FAILURES
            };
            status.ready && !status.last_pass.as_ref().is_some_and(failing)
        })
    }

    async fn read_lease(&mut self) -> Result<(), LeaseError> {
        let found = self.within(self.api.get_opt(&self.name)).await?;
        self.observe(found)?;
        self.unanswered = false;
        self.leadership.mark_observed();
        Ok(())
    }

    fn observe(&mut self, lease: Option<coordination::Lease>) -> Result<(), LeaseError> {
        let lease = lease.map(require_version).transpose()?;
        self.election
            .observe(lease.as_ref().map(record), Moment::now());
        self.object = lease;
        self.publish_term();
        Ok(())
    }

    fn publish_term(&self) {
        let holder = self.election.holder().map(printable_name);
        self.leadership
            .set_term(self.election.term(Moment::now()), holder.as_deref());
        self.leadership.set_leader_address(self.leader_address());
    }

    /// The address that the holder wrote into the Lease, if a Pod can have it.
    fn leader_address(&self) -> Option<SocketAddr> {
        self.election.holder()?;
        let address = self.object.as_ref()?.annotations().get(ADDRESS)?;
        address.parse().ok().filter(is_of_pod)
    }

    async fn create(&mut self) -> Result<(), LeaseError> {
        let mut lease = coordination::Lease::default();
        lease.metadata.name = Some(self.name.clone());
        let made = self
            .within(self.api.create(&PostParams::default(), &lease))
            .await?;
        let (lease, wait) = (&self.shown, human_duration(self.times.duration));
        tracing::info!(
            lease,
            "created the Lease {lease}, which did not exist; no replica takes it for {wait}, because another one may still \
             lead by a deleted Lease"
        );
        self.observe(Some(made))
    }

    /// Writes this candidate into the Lease as its holder.
    async fn hold(&mut self) -> Result<(), LeaseError> {
        let Some(mut lease) = self.object.clone() else {
            return Err(LeaseError::Conflict);
        };
        let sent = Moment::now();
        let now = MicroTime(self.election.claim(machine::now(), sent));
        let spec = lease.spec.get_or_insert_default();
        if !self.election.holds() {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(self.me.clone());
        spec.renew_time = Some(now);
        spec.lease_duration_seconds =
            i32::try_from(self.times.duration.as_millis().div_ceil(1000)).ok();
        let annotations = lease.annotations_mut();
        annotations.remove(WANTED_BY);
        match self.is_fit() {
            true => annotations.remove(OFFERED),
            false => annotations.insert(OFFERED.to_owned(), "true".to_owned()),
        };
        // Without an address of its own it removes that of another holder.
        match self.address {
            Some(address) => annotations.insert(ADDRESS.to_owned(), address.to_string()),
            None => annotations.remove(ADDRESS),
        };
        self.unanswered = true;
        let lease = self.write(lease).await?;
        self.unanswered = false;
        self.election.confirm_claim(record(&lease), sent);
        self.object = Some(lease);
        self.publish_term();
        Ok(())
    }

    /// Releases the Lease; `false` if another replica holds it.
    async fn release(&mut self) -> Result<bool, LeaseError> {
        while self.election.holds() {
            let Some(mut lease) = self.object.clone() else {
                break;
            };
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds =
                Some(i32::try_from(self.election.release().as_secs()).unwrap_or(1));
            spec.renew_time = Some(MicroTime(machine::now()));
            lease.annotations_mut().remove(OFFERED);
            lease.annotations_mut().remove(ADDRESS);
            match self.write(lease).await {
                Ok(lease) => {
                    self.observe(Some(lease))?;
                    return Ok(true);
                }
                Err(LeaseError::Conflict) => {
                    self.election.release_refused();
                    self.read_lease().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The replica that requested the Lease.
    fn wanted_by(&self) -> Option<&str> {
        self.election.record()?.wanted_by.as_deref()
    }

    /// Whether to hand the Lease to the replica that requested it: that one has fewer Leases, or this one cannot use it.
    fn is_to_be_handed_over(&self) -> bool {
        let is_better = |by| !self.is_fit() || self.shards.0.lock().is_uneven(&self.me, by);
        self.election.holds() && self.wanted_by().is_some_and(is_better)
    }

    async fn hand_over(&mut self) -> Result<(), LeaseError> {
        let by = self.wanted_by().map(printable_name).unwrap_or_default();
        let lease = &self.shown;
        tracing::info!(
            lease,
            to = by,
            "this replica hands the Lease {lease} over to {by}, which requested it"
        );
        self.election.give_up();
        self.publish_term();
        // This ends within the term that was given up, because each update is bounded by it.
        self.leadership.idle().await;
        if self.leadership.is_in_doubt() {
            return Ok(());
        }
        self.release().await.map(drop)
    }

    /// Requests the Lease from a holder that has more than its share or cannot use it.
    async fn request_hand_over(&mut self) -> Result<(), LeaseError> {
        let now = Moment::now();
        let (None, Some(record), true) = (self.wanted_by(), self.election.record(), self.is_fit())
        else {
            return Ok(());
        };
        let Some(holder) = record.holder.as_deref() else {
            return Ok(());
        };
        {
            let mut holders = self.shards.0.lock();
            let waits = holders
                .requested
                .is_some_and(|sent| now.since(sent) < self.times.duration);
            if waits || !(record.offered || holders.is_uneven(holder, &self.me)) {
                return Ok(());
            }
            holders.requested = Some(now);
        }
        let Some(mut lease) = self.object.clone() else {
            return Ok(());
        };
        lease
            .annotations_mut()
            .insert(WANTED_BY.to_owned(), self.me.clone());
        let lease = self.write(lease).await?;
        self.election.update_record(self::record(&lease));
        self.object = Some(lease);
        Ok(())
    }

    /// Replaces exactly the version that was read.
    async fn write(&self, lease: coordination::Lease) -> Result<coordination::Lease, LeaseError> {
        require_version(
            self.within(self.api.replace(&self.name, &PostParams::default(), &lease))
                .await?,
        )
    }

    /// Waits for an answer. The time limit allows a second attempt within the term of this replica.
    async fn within<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, LeaseError> {
        let now = Moment::now();
        let most = self.times.renew_deadline / 2;
        let left = self
            .election
            .term(now)
            .map_or(most, |term| term.renew_by.since(now));
        match tokio::time::timeout(most.min(left), request).await {
            Ok(Ok(answer)) => Ok(answer),
            // The Lease was deleted, or another writer was faster: it is read again.
            Ok(Err(kube::Error::Api(status)))
                if status.code == 409 || (status.code == 404 && self.object.is_some()) =>
            {
                Err(LeaseError::Conflict)
            }
            Ok(Err(error)) => {
                let kind = match &error {
                    kube::Error::Api(status) => ErrorKind::Status(status.code),
                    _ => ErrorKind::Other,
                };
                Err(LeaseError::Other(kind, explain(&error)))
            }
            Err(_) => {
                let given = human_duration(most.min(left));
                Err(LeaseError::Other(
                    ErrorKind::Timeout,
                    format!("the API server did not answer within {given}"),
                ))
            }
        }
    }

    /// The pause before the next turn. Standbys get jitter, so that they do not all come at once.
    fn pause(&self) -> Duration {
        let (now, retry_period) = (Moment::now(), self.times.retry_period);
        match self.election.term(now) {
            // The end of the term must be noticed at once.
            Some(term) => retry_period.min(term.renew_by.since(now)),
            None => retry_period.mul_f64(0.8 + 0.4 * fastrand::f64()),
        }
    }

    /// Logs an error once and then at intervals, and the recovery.
    fn log_result(&mut self, turn: &Result<(), LeaseError>) {
        let now = Moment::now();
        match turn {
            // Another writer was faster; that is no error.
            Err(LeaseError::Conflict) => {}
            Err(LeaseError::Other(kind, why)) => {
                if self
                    .last_error
                    .is_some_and(|(before, at)| before == *kind && now.since(at) < REMINDER)
                {
                    return;
                }
                let then = match self.election.term(now) {
                    Some(term) => {
                        let left = human_duration(term.renew_by.since(now));
                        format!("this replica leads for {left} more")
                    }
                    None => "this replica is a standby".to_owned(),
                };
                let lease = &self.shown;
                tracing::warn!(
                    lease,
                    "cannot read or renew the Lease {lease}: {why}; {then}"
                );
                self.last_error = Some((*kind, now));
            }
            Ok(()) if self.last_error.take().is_some() => {
                let lease = &self.shown;
                tracing::info!(lease, "the Lease {lease} can be read and renewed again");
            }
            Ok(()) => {}
        }
    }

    /// Publishes the role and the holder if they changed.
    fn publish(&mut self, events: Option<&Events>) {
        let now = Moment::now();
        let term = self.election.term(now);
        // A holder that does not renew is not shown as the leader.
        let alive = term.is_some() || self.election.step(now) == Step::Wait;
        let holder = self.election.holder().filter(|_| alive);
        self.leadership
            .set_term(term, holder.map(printable_name).as_deref());
        self.leadership
            .set_leader_address(self.leader_address().filter(|_| alive));
        let mut holders = self.shards.0.lock();
        match holder {
            Some(holder) => holders
                .by_lease
                .insert(self.name.clone(), holder.to_owned()),
            None => holders.by_lease.remove(&self.name),
        };
        drop(holders);
        let leads = term.is_some();
        let role = (leads, holder.map(printable_name));
        let before = self.published.replace(role.clone());
        if before.as_ref() == Some(&role) {
            return;
        }
        self.loops
            .iter()
            .for_each(|one| one.publisher().publish_leadership());
        let (lease, led) = (&self.shown, before.is_some_and(|(led, _)| led));
        match (leads, led, role.1) {
            (true, false, _) => {
                tracing::info!(lease, "this replica leads by the Lease {lease}");
                self.loops
                    .iter()
                    .for_each(|one| one.request(Trigger::Leadership));
                if let Some(events) = events {
                    events.leads(lease);
                }
            }
            (true, true, _) => {}
            (false, true, holder) => {
                let by = holder
                    .filter(|_| !self.election.holds())
                    .map(|by| format!(": {by} holds it now"))
                    .unwrap_or_default();
                tracing::warn!(
                    lease,
                    "this replica no longer leads by the Lease {lease}{by}; it writes nothing"
                );
                if let Some(events) = events {
                    events.stands_by(lease);
                }
            }
            (false, false, Some(holder)) => {
                tracing::info!(
                    lease,
                    holder,
                    "this replica is a standby: {holder} holds the Lease {lease}"
                );
            }
            (false, false, None) => {
                tracing::info!(
                    lease,
                    "this replica is a standby: the Lease {lease} has no known holder"
                );
            }
        }
    }
}

/// The error of the API server, with advice if there is any.
fn explain(error: &kube::Error) -> String {
    let error_text = describe_error(error);
    let status = match error {
        kube::Error::Api(status) => status.code,
        kube::Error::SerdeError(_) => {
            return format!(
                "the answer is not a Lease, so the URL is not that of an API server ({error_text})"
            );
        }
        _ => return error_text,
    };
    let advice = match status {
        401 => {
            "its token is not accepted; check that the token of its service account is mounted and belongs to this cluster"
        }
        403 => {
            "its service account needs `create` on leases, and `get` and `update` on this one, as the Role of deploy/kubernetes/base has it"
        }
        404 => {
            "check that the namespace exists (POD_NAMESPACE) and that the URL is that of an API server"
        }
        _ => return error_text,
    };
    format!("{error_text}; {advice}")
}

/// Refuses a Lease without a version: a PUT of it would overwrite any other write.
fn require_version(lease: coordination::Lease) -> Result<coordination::Lease, LeaseError> {
    match lease.resource_version() {
        Some(version) if !version.is_empty() => Ok(lease),
        _ => Err(LeaseError::Other(
            ErrorKind::Other,
            "the API server's answer has no resourceVersion".to_owned(),
        )),
    }
}

/// Whether a Pod can have this address. Whoever may write the Lease must not make a replica send to the metadata service of a
/// cloud, or to many machines at once. Loopback is for replicas on one machine.
fn is_of_pod(address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let is_special = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_special
}

/// A foreign name from a Lease, safe to print.
fn printable_name(name: &str) -> String {
    ellipsize(&printable(name), MAX_HOLDER)
}

fn record(lease: &coordination::Lease) -> LeaseRecord {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    let annotations = lease.annotations();
    LeaseRecord {
        version: lease.resource_version().unwrap_or_default(),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        renewed: spec.renew_time.map(|MicroTime(time)| time),
        duration: seconds.map(Duration::from_secs),
        wanted_by: annotations.get(WANTED_BY).cloned(),
        offered: annotations.contains_key(OFFERED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_a_pod_can_have_is_used() {
        for (address, is_used) in [
            ("10.1.2.3:8080", true),
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("[fd00::1]:8080", true),
            ("[2001:db8::1]:8080", true),
            ("0.0.0.0:8080", false),
            ("[::]:8080", false),
            ("169.254.169.254:80", false),
            ("[::ffff:169.254.169.254]:80", false),
            ("[fe80::1]:8080", false),
            ("[febf::1]:8080", false),
            ("224.0.0.1:8080", false),
            ("[ff02::1]:8080", false),
            ("255.255.255.255:8080", false),
            ("10.1.2.3:0", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(is_of_pod(&address), is_used, "{address}");
        }
    }
}
