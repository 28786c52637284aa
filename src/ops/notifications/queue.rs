//! The queue of one target: bounded, in order, tried again within bounds, and never waited for.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::commit::CommitStatus;
use super::config::{Channel, ForgeKind, Target, WebhookUrl};
use super::message::{self, Notification};
use super::post::{Proof, Reply};
use crate::http::{Http, HttpUrl, SecretFile, UnusableSecret};
use crate::model::human_duration;
use crate::report::json;

/// How many notifications wait for one target. What is older is dropped for what is newer.
pub(super) const LENGTH: usize = 1024;

/// How long one attempt may take, and reading its secrets from a file system that may hang.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How long one notification is tried, beside the waits that the other side asks for.
const PATIENCE: Duration = Duration::from_secs(600);

/// The longest wish to be left alone that is granted.
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// How long the other side may ask one notification to wait, all in all.
const LONGEST_WAIT: Duration = Duration::from_secs(2 * 3600);

/// How many commits whose status was lost are remembered.
const LOST: usize = 64;

/// How long after a status was lost it is made up for, at first and at last.
const FIRST_MAKE_UP: Duration = Duration::from_secs(30);
const LAST_MAKE_UP: Duration = Duration::from_secs(3600);

/// Something to send.
#[derive(Clone, Debug)]
pub(super) enum Job {
    Message(Box<Notification>),
    /// The status of a commit, for a workspace of this name.
    Commit(CommitStatus, Option<String>),
}

impl Job {
    /// Whether this one says what is to be said in the other one's place.
    fn replaces(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Commit(a, name), Self::Commit(b, other)) => a.sha == b.sha && name == other,
            _ => false,
        }
    }
}

/// The queue of one target.
pub(super) struct Queue {
    pub(super) target: Target,
    http: Http,
    jobs: Mutex<VecDeque<Job>>,
    wake: Notify,
    stop: CancellationToken,
    /// What was pushed, and neither delivered, given up nor replaced yet.
    unsettled: AtomicUsize,
    lost: Mutex<Lost>,
    pub(super) sent: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) dropped: AtomicU64,
}

/// Statuses of commits that the forge did not get.
#[derive(Default)]
struct Lost {
    /// Which commits, each for the workspace of this name.
    commits: BTreeSet<(Option<String>, String)>,
    /// Statuses lost in a row.
    failures: u32,
    /// When they may be made up for: a secret that is not accepted is no reason to ask again with each reconciliation.
    until: Option<Instant>,
}

/// Why something was not sent.
struct Fault {
    why: String,
    /// Whether a second attempt may help.
    passing: bool,
    retry_after: Option<Duration>,
}

impl Fault {
    fn lasting(why: impl ToString) -> Self {
        Self {
            why: why.to_string(),
            passing: false,
            retry_after: None,
        }
    }
}

impl Queue {
    pub(super) fn new(target: Target, http: Http, stop: CancellationToken) -> Self {
        Self {
            target,
            http,
            jobs: Mutex::default(),
            wake: Notify::new(),
            stop,
            unsettled: AtomicUsize::new(0),
            lost: Mutex::default(),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn jobs(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.jobs().len()
    }

    /// Whether everything that was pushed has been delivered, given up or replaced.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled.load(Relaxed) == 0
    }

    /// The commits whose last status was lost, for the workspace of this name; each is answered once.
    pub(super) fn take_lost(&self, name: Option<&str>) -> Vec<String> {
        let mut lost = self.lost.lock();
        if lost.until.is_some_and(|until| Instant::now() < until) {
            return Vec::new();
        }
        let (mine, others) = std::mem::take(&mut lost.commits)
            .into_iter()
            .partition(|(of, _)| of.as_deref() == name);
        lost.commits = others;
        let mine: BTreeSet<(Option<String>, String)> = mine;
        mine.into_iter().map(|(_, sha)| sha).collect()
    }

    /// Notes that something was not delivered and is not tried any more.
    fn lose(&self, job: &Job) {
        let Job::Commit(status, name) = job else {
            return;
        };
        let mut lost = self.lost.lock();
        lost.commits.insert((name.clone(), status.sha.clone()));
        if lost.commits.len() > LOST {
            lost.commits.pop_first();
        }
        let pause = FIRST_MAKE_UP
            .saturating_mul(2_u32.saturating_pow(lost.failures.min(16)))
            .min(LAST_MAKE_UP);
        lost.failures = lost.failures.saturating_add(1);
        lost.until = Some(Instant::now() + pause);
    }

    /// Notes that the other side takes what it gets.
    fn got_through(&self) {
        let mut lost = self.lost.lock();
        (lost.failures, lost.until) = (0, None);
    }

    /// Puts something at the end, without ever waiting.
    pub(super) fn push(&self, job: Job) {
        let oldest = {
            let mut jobs = self.jobs();
            let before = jobs.len();
            jobs.retain(|waiting| !job.replaces(waiting));
            self.unsettled.fetch_sub(before - jobs.len(), Relaxed);
            let oldest = if jobs.len() >= LENGTH {
                jobs.pop_front()
            } else {
                None
            };
            jobs.push_back(job);
            self.unsettled.fetch_add(1, Relaxed);
            oldest
        };
        if let Some(oldest) = oldest {
            self.unsettled.fetch_sub(1, Relaxed);
            self.lose(&oldest);
            let dropped = self.dropped.fetch_add(1, Relaxed) + 1;
            // Not one line each.
            if dropped.is_power_of_two() {
                let name = &self.target.name;
                tracing::warn!(
                    notified = name,
                    dropped,
                    "the notifications for {name} do not get through fast enough: {dropped} of the oldest were dropped so far"
                );
            }
        }
        self.wake.notify_one();
    }

    /// Sends what comes, until the stop and the end of the queue.
    pub(super) async fn work(&self) {
        // What is wrong with a file is told now, and not when a notification was given up.
        if let Err(Fault { why, .. }) = self.secrets(String::new()).await {
            let (name, kind) = (&self.target.name, self.target.channel.as_str());
            tracing::warn!(
                notified = name,
                kind,
                "{name} cannot be notified until this is mended: {why}"
            );
        }
        loop {
            let job = self.jobs().pop_front();
            let Some(job) = job else {
                tokio::select! {
                    () = self.wake.notified() => continue,
                    () = self.stop.cancelled() => {}
                }
                if self.waiting() == 0 {
                    return;
                }
                continue;
            };
            let rest = self.deliver(&job).await;
            self.unsettled.fetch_sub(1, Relaxed);
            if let Some(rest) = rest {
                tokio::select! {
                    () = sleep_until(rest) => {}
                    // The other side asked to be left alone: what waits is lost.
                    () = self.stop.cancelled() => {}
                }
                if self.stop.is_cancelled() {
                    let (name, waiting) = (&self.target.name, self.waiting());
                    if waiting > 0 {
                        self.failed
                            .fetch_add(u64::try_from(waiting).unwrap_or(u64::MAX), Relaxed);
                        tracing::warn!(
                            notified = name,
                            waiting,
                            "{name} asked to wait until after the end: {waiting} were not sent"
                        );
                    }
                    return;
                }
            }
        }
    }

    /// Sends one, again and again if that makes sense. Answers with when the other side wants to hear from us again, if what
    /// it asked for is not over.
    async fn deliver(&self, job: &Job) -> Option<Instant> {
        let (name, kind) = (&self.target.name, self.target.channel.as_str());
        let began = Instant::now();
        let mut waited = Duration::ZERO;
        let pauses = ExponentialBuilder::new()
            .with_min_delay(Duration::from_secs(1))
            .with_max_delay(Duration::from_secs(60));
        let mut pauses = pauses.without_max_times().build();
        for attempt in 1_u32.. {
            let fault = match self.send(job).await {
                Ok(()) => {
                    self.sent.fetch_add(1, Relaxed);
                    self.got_through();
                    tracing::debug!(notified = name, kind, attempt, "{name} was notified");
                    return None;
                }
                Err(fault) => fault,
            };
            let give_up = || {
                self.failed.fetch_add(1, Relaxed);
                self.lose(job);
                let why = &fault.why;
                tracing::warn!(
                    notified = name,
                    kind,
                    attempts = attempt,
                    "{name} was not notified: {why}"
                );
            };
            let jittered = pauses
                .next()
                .unwrap_or(ATTEMPT)
                .mul_f64(0.5 + 0.5 * fastrand::f64());
            let wish = fault.retry_after.map(|wish| wish.min(LONGEST_REST));
            let pause = wish.unwrap_or_default().max(jittered);
            let rest = wish.map(|wish| Instant::now() + wish);
            // A wait that the other side asks for is not held against the notification.
            waited += wish.unwrap_or_default();
            let late = Instant::now() + pause >= began + PATIENCE + waited || waited > LONGEST_WAIT;
            if !fault.passing || late || self.stop.is_cancelled() {
                give_up();
                return rest;
            }
            tracing::debug!(
                notified = name,
                kind,
                attempt,
                "{name} is notified again in {}: {}",
                human_duration(pause),
                fault.why
            );
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stop.cancelled() => {
                    // One more attempt is made at the end, unless that was asked not to be.
                    if rest.is_some() {
                        give_up();
                        return rest;
                    }
                }
            }
            if self.jobs().iter().any(|newer| newer.replaces(job)) {
                return None;
            }
        }
        None
    }

    /// What the files of the target hold at this moment.
    async fn secrets(&self, id: String) -> Result<(HttpUrl, Proof), Fault> {
        let target = self.target.clone();
        // Files may be on a file system that hangs.
        let reading = tokio::task::spawn_blocking(move || secrets(&target, id));
        match tokio::time::timeout(ATTEMPT, reading).await {
            Ok(Ok(read)) => read.map_err(|error| Fault {
                passing: true,
                ..Fault::lasting(error)
            }),
            Ok(Err(_)) => Err(Fault::lasting("reading its secrets ended by a fault")),
            Err(_) => Err(Fault {
                passing: true,
                ..Fault::lasting("reading its secrets takes too long")
            }),
        }
    }

    async fn send(&self, job: &Job) -> Result<(), Fault> {
        let id = match job {
            Job::Message(notification) => notification.id.clone(),
            Job::Commit(..) => String::new(),
        };
        let (address, proof) = self.secrets(id).await?;
        let (address, document) = match (job, &self.target.channel) {
            (Job::Message(notification), Channel::Slack { .. }) => {
                (address, json::line(&notification.slack()))
            }
            (Job::Message(notification), _) => (address, json::line(notification)),
            (Job::Commit(status, name), Channel::Commit(forge)) => {
                let (path, document) = message::commit(forge, status, name.as_deref());
                (address.below(&path), json::line(&document))
            }
            (Job::Commit(..), _) => return Err(Fault::lasting("it shows no commits")),
        };
        let accept = match &self.target.channel {
            Channel::Commit(forge) if forge.kind == ForgeKind::GitHub => {
                "application/vnd.github+json"
            }
            _ => "*/*",
        };
        let reply = self
            .http
            .post(&address, &proof, accept, document.into_bytes(), ATTEMPT)
            .await;
        self.judge(&reply.map_err(|why| Fault {
            why,
            passing: true,
            retry_after: None,
        })?)
    }

    fn judge(&self, reply: &Reply) -> Result<(), Fault> {
        let Reply {
            status,
            retry_after,
            body,
        } = reply;
        let gitlab = matches!(&self.target.channel, Channel::Commit(forge) if forge.kind == ForgeKind::GitLab);
        // GitLab refuses to be told what it knows.
        let known = gitlab
            && *status == 400
            && String::from_utf8_lossy(body).contains("Cannot transition status");
        if known || (200..300).contains(status) {
            return Ok(());
        }
        let why = match status {
            _ if reply.is_rate_limited() => {
                format!("it answers with {status}: too many requests")
            }
            300..=399 => format!("it answers with {status}, and redirects are not followed"),
            401 | 403 => format!("it answers with {status}: its secret is not accepted"),
            404 => "it answers with 404: there is no such place, or its secret may not see it"
                .to_owned(),
            status => format!("it answers with {status}"),
        };
        let passing = matches!(status, 408 | 425 | 429 | 500..) || reply.is_rate_limited();
        Err(Fault {
            why,
            passing,
            retry_after: *retry_after,
        })
    }
}

/// What the files of a target hold at this moment.
fn secrets(target: &Target, id: String) -> Result<(HttpUrl, Proof), UnusableSecret> {
    let address = |file: &SecretFile| file.url(target.insecure_http);
    match &target.channel {
        Channel::Slack { url } => Ok((address(url)?, Proof::None)),
        Channel::Webhook { url, secret } => {
            let address = match url {
                WebhookUrl::Written(address) => address.clone(),
                WebhookUrl::File(file) => address(file)?,
            };
            let proof = match secret {
                Some(secret) => Proof::Signature {
                    secret: secret.read()?,
                    id,
                },
                None => Proof::None,
            };
            Ok((address, proof))
        }
        Channel::Commit(forge) => {
            let token = forge.token.read()?;
            let proof = match forge.kind {
                ForgeKind::GitHub => Proof::Bearer(token),
                ForgeKind::GitLab => Proof::PrivateToken(token),
            };
            Ok((forge.api.clone(), proof))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::commit::CommitState;
    use super::*;

    fn queue() -> Queue {
        crate::http::install_tls();
        let github = serde_json::json!({"repository": "a/b", "tokenFile": "t"});
        let target =
            serde_json::from_value(serde_json::json!({"name": "x", "github": github})).unwrap();
        Queue::new(
            target,
            Http::new(crate::http::HttpTimeouts::default()).unwrap(),
            CancellationToken::new(),
        )
    }

    fn job(sha: usize, state: CommitState, workspace: &str) -> Job {
        let status = CommitStatus {
            sha: sha.to_string(),
            state,
            description: String::new(),
        };
        Job::Commit(status, Some(workspace.to_owned()))
    }

    #[test]
    fn of_a_commit_and_context_only_the_newest_status_waits() {
        let queue = queue();
        for state in [CommitState::Pending, CommitState::Success] {
            queue.push(job(1, state, "eu"));
            queue.push(job(1, state, "us"));
            queue.push(job(2, state, "eu"));
        }
        assert_eq!((queue.waiting(), queue.dropped.load(Relaxed)), (3, 0));
        let all_newest = queue
            .jobs()
            .iter()
            .all(|job| matches!(job, Job::Commit(s, _) if s.state == CommitState::Success));
        assert!(all_newest);
    }

    #[test]
    fn what_waits_is_bounded_and_the_oldest_is_dropped_and_counted() {
        let queue = queue();
        (0..LENGTH + 7).for_each(|sha| queue.push(job(sha, CommitState::Success, "eu")));
        assert_eq!((queue.waiting(), queue.dropped.load(Relaxed)), (LENGTH, 7));
        assert!(matches!(queue.jobs().front(), Some(Job::Commit(status, _)) if status.sha == "7"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_that_was_lost_is_made_up_for_once_and_less_and_less_often() {
        let queue = queue();
        let lost = || queue.take_lost(Some("eu"));
        for pause in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
            queue.lose(&job(1, CommitState::Success, "eu"));
            assert_eq!(lost(), [""; 0], "not at once");
            tokio::time::advance(Duration::from_secs(pause - 1)).await;
            assert_eq!(lost(), [""; 0]);
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(lost(), ["1"]);
            assert_eq!(lost(), [""; 0], "once");
        }
        queue.got_through();
        queue.lose(&job(1, CommitState::Success, "us"));
        tokio::time::advance(FIRST_MAKE_UP).await;
        assert_eq!(
            (lost(), queue.take_lost(Some("us"))),
            (Vec::new(), vec!["1".to_owned()])
        );
    }

    #[test]
    fn what_was_dropped_or_replaced_is_settled_and_a_status_that_was_dropped_is_lost() {
        let queue = queue();
        for sha in 0..=LENGTH {
            queue.push(job(sha, CommitState::Pending, "eu"));
            queue.push(job(sha, CommitState::Success, "eu"));
        }
        assert_eq!(
            (queue.unsettled.load(Relaxed), queue.is_settled()),
            (LENGTH, false)
        );
        queue.lost.lock().until = None;
        assert_eq!(queue.take_lost(Some("eu")), ["0"]);
    }
}
