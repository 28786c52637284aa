//! The queue of one target: bounded, in order, with limited retries. A full queue drops the oldest notification.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::commit::CommitStatus;
use super::config::{Channel, ForgeKind, Target, WebhookUrl};
use super::message::{self, Notification};
use super::post::{Credentials, Reply, post_document};
use crate::http::{Http, HttpUrl, SecretFile, UnusableSecret};
use crate::model::human_duration;
use crate::report::json;

pub(super) const CAPACITY: usize = 1024;

/// The time limit of one attempt, and of reading its secrets from a file system that may hang.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one notification is retried, not counting the pauses that the server asks for.
const RETRY_TIME: Duration = Duration::from_secs(600);

/// The longest pause that the server may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(3600);

/// The longest sum of the pauses that the server may ask for with one notification.
const MAX_TOTAL_PAUSE: Duration = Duration::from_secs(2 * 3600);

/// The number of commits with a lost status that are remembered.
const MAX_LOST: usize = 64;

/// The shortest and longest pause before a lost status is posted again.
const FIRST_REPOST: Duration = Duration::from_secs(30);
const LAST_REPOST: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub(super) enum Job {
    Message(Box<Notification>),
    /// The status of a commit, for the workspace of this name.
    Commit(CommitStatus, Option<String>),
}

impl Job {
    /// Whether this job makes `other` obsolete.
    fn replaces(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Commit(a, name), Self::Commit(b, other)) => a.sha == b.sha && name == other,
            _ => false,
        }
    }
}

pub(super) struct Queue {
    pub(super) target: Target,
    http: Http,
    jobs: Mutex<VecDeque<Job>>,
    wake: Notify,
    stop: CancellationToken,
    /// The jobs that were neither delivered, given up nor replaced yet.
    pending: AtomicUsize,
    lost: Mutex<LostStatuses>,
    pub(super) sent: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) dropped: AtomicU64,
}

/// The commit statuses that the git host did not receive.
#[derive(Default)]
struct LostStatuses {
    /// The workspace's name and the commit.
    commits: BTreeSet<(Option<String>, String)>,
    /// Consecutive lost statuses.
    failures: u32,
    /// When they may be posted again, so that a rejected secret does not cause a request in each reconciliation.
    retry_at: Option<Instant>,
}

struct DeliveryError {
    reason: String,
    transient: bool,
    retry_after: Option<Duration>,
}

impl DeliveryError {
    fn permanent(reason: impl ToString) -> Self {
        Self {
            reason: reason.to_string(),
            transient: false,
            retry_after: None,
        }
    }

    fn transient(reason: impl ToString) -> Self {
        Self {
            transient: true,
            ..Self::permanent(reason)
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
            pending: AtomicUsize::new(0),
            lost: Mutex::default(),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.jobs.lock().len()
    }

    /// Whether every job was delivered, given up or replaced.
    pub(super) fn is_drained(&self) -> bool {
        self.pending.load(Relaxed) == 0
    }

    /// Takes the commits whose last status was lost, for the workspace of this name.
    pub(super) fn take_lost(&self, name: Option<&str>) -> Vec<String> {
        let mut lost = self.lost.lock();
        if lost.retry_at.is_some_and(|at| Instant::now() < at) {
            return Vec::new();
        }
        let mine = lost.commits.extract_if(.., |(of, _)| of.as_deref() == name);
        mine.map(|(_, sha)| sha).collect()
    }

    /// Remembers a commit whose status was given up.
    fn record_loss(&self, job: &Job) {
        let Job::Commit(status, name) = job else {
            return;
        };
        let mut lost = self.lost.lock();
        lost.commits.insert((name.clone(), status.sha.clone()));
        if lost.commits.len() > MAX_LOST {
            lost.commits.pop_first();
        }
        let pause = FIRST_REPOST
            .saturating_mul(2_u32.saturating_pow(lost.failures.min(16)))
            .min(LAST_REPOST);
        lost.failures = lost.failures.saturating_add(1);
        lost.retry_at = Some(Instant::now() + pause);
    }

    fn record_success(&self) {
        let mut lost = self.lost.lock();
        (lost.failures, lost.retry_at) = (0, None);
    }

    /// Adds a job to the end, without waiting.
    pub(super) fn push(&self, job: Job) {
        let oldest = {
            let mut jobs = self.jobs.lock();
            let before = jobs.len();
            jobs.retain(|waiting| !job.replaces(waiting));
            self.pending.fetch_sub(before - jobs.len(), Relaxed);
            let oldest = if jobs.len() >= CAPACITY {
                jobs.pop_front()
            } else {
                None
            };
            jobs.push_back(job);
            self.pending.fetch_add(1, Relaxed);
            oldest
        };
        if let Some(oldest) = oldest {
            self.pending.fetch_sub(1, Relaxed);
            self.record_loss(&oldest);
            let dropped = self.dropped.fetch_add(1, Relaxed) + 1;
            // Do not log one line for each.
            if dropped.is_power_of_two() {
                let name = &self.target.name;
                tracing::warn!(
                    notified = name,
                    dropped,
                    "the notification queue of {name} is full: {dropped} old notifications were dropped so far"
                );
            }
        }
        self.wake.notify_one();
    }

    /// Sends jobs until the stop, and then the rest of the queue.
    pub(super) async fn run(&self) {
        // Report an unusable file now, and not only when a notification is given up.
        if let Err(DeliveryError { reason, .. }) = self.read_secrets(String::new()).await {
            let (name, kind) = (&self.target.name, self.target.channel.as_str());
            tracing::warn!(
                notified = name,
                kind,
                "cannot notify {name} until this is fixed: {reason}"
            );
        }
        loop {
            let job = self.jobs.lock().pop_front();
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
            let paused_until = self.deliver(&job).await;
            self.pending.fetch_sub(1, Relaxed);
            if let Some(end) = paused_until {
                tokio::select! {
                    () = sleep_until(end) => {}
                    // The server asked for a pause, so the rest of the queue is lost.
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
                            "{waiting} notifications to {name} were not sent before the shutdown, because it asked for a pause"
                        );
                    }
                    return;
                }
            }
        }
    }

    /// Sends a job, with retries. Returns the end of the pause that the server asked for, if it is not over.
    async fn deliver(&self, job: &Job) -> Option<Instant> {
        let (name, kind) = (&self.target.name, self.target.channel.as_str());
        let began = Instant::now();
        let mut waited = Duration::ZERO;
        let pauses = ExponentialBuilder::new()
            .with_min_delay(Duration::from_secs(1))
            .with_max_delay(Duration::from_secs(60));
        let mut pauses = pauses.without_max_times().build();
        for attempt in 1_u32.. {
            let error = match self.send(job).await {
                Ok(()) => {
                    self.sent.fetch_add(1, Relaxed);
                    self.record_success();
                    tracing::debug!(notified = name, kind, attempt, "notified {name}");
                    return None;
                }
                Err(error) => error,
            };
            let give_up = || {
                self.failed.fetch_add(1, Relaxed);
                self.record_loss(job);
                let reason = &error.reason;
                tracing::warn!(
                    notified = name,
                    kind,
                    attempts = attempt,
                    "notification to {name} failed: {reason}"
                );
            };
            let jittered = pauses
                .next()
                .unwrap_or(ATTEMPT_TIMEOUT)
                .mul_f64(0.5 + 0.5 * fastrand::f64());
            let requested = error.retry_after.map(|pause| pause.min(MAX_PAUSE));
            let pause = requested.unwrap_or_default().max(jittered);
            let paused_until = requested.map(|pause| Instant::now() + pause);
            // A pause that the server asks for does not shorten the time for retries.
            waited += requested.unwrap_or_default();
            let late =
                Instant::now() + pause >= began + RETRY_TIME + waited || waited > MAX_TOTAL_PAUSE;
            if !error.transient || late || self.stop.is_cancelled() {
                give_up();
                return paused_until;
            }
            tracing::debug!(
                notified = name,
                kind,
                attempt,
                "retrying the notification to {name} in {}: {}",
                human_duration(pause),
                error.reason
            );
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stop.cancelled() => {
                    // Make one last attempt, unless the server asked for a pause.
                    if paused_until.is_some() {
                        give_up();
                        return paused_until;
                    }
                }
            }
            if self.jobs.lock().iter().any(|newer| newer.replaces(job)) {
                return None;
            }
        }
        None
    }

    async fn read_secrets(&self, id: String) -> Result<(HttpUrl, Credentials), DeliveryError> {
        let target = self.target.clone();
        // The file system may hang.
        let reading = tokio::task::spawn_blocking(move || read_secrets(&target, id));
        match tokio::time::timeout(ATTEMPT_TIMEOUT, reading).await {
            Ok(Ok(read)) => read.map_err(DeliveryError::transient),
            Ok(Err(_)) => Err(DeliveryError::permanent("reading its secrets panicked")),
            Err(_) => Err(DeliveryError::transient("reading its secrets timed out")),
        }
    }

    async fn send(&self, job: &Job) -> Result<(), DeliveryError> {
        let id = match job {
            Job::Message(notification) => notification.id.clone(),
            Job::Commit(..) => String::new(),
        };
        let (url, credentials) = self.read_secrets(id).await?;
        let (url, document) = match (job, &self.target.channel) {
            (Job::Message(notification), Channel::Slack { .. }) => {
                (url, json::line(&notification.slack()))
            }
            (Job::Message(notification), _) => (url, json::line(notification)),
            (Job::Commit(status, name), Channel::Commit(forge)) => {
                let (path, document) = message::commit_status(forge, status, name.as_deref());
                (url.below(&path), json::line(&document))
            }
            (Job::Commit(..), _) => {
                return Err(DeliveryError::permanent("it has no commit statuses"));
            }
        };
        let accept = match &self.target.channel {
            Channel::Commit(forge) if forge.kind == ForgeKind::GitHub => {
                "application/vnd.github+json"
            }
            _ => "*/*",
        };
        let reply = post_document(
            &self.http,
            &url,
            &credentials,
            accept,
            document.into_bytes(),
            ATTEMPT_TIMEOUT,
        )
        .await;
        self.check_reply(&reply.map_err(DeliveryError::transient)?)
    }

    fn check_reply(&self, reply: &Reply) -> Result<(), DeliveryError> {
        let Reply {
            status,
            retry_after,
            body,
        } = reply;
        let gitlab = matches!(&self.target.channel, Channel::Commit(forge) if forge.kind == ForgeKind::GitLab);
        // GitLab refuses a status that the commit already has.
        let known = gitlab
            && *status == 400
            && String::from_utf8_lossy(body).contains("Cannot transition status");
        if known || (200..300).contains(status) {
            return Ok(());
        }
        let reason = match status {
            _ if reply.is_rate_limited() => {
                format!("the server answered {status}: too many requests")
            }
            300..=399 => format!("the server answered {status}, and redirects are not followed"),
            401 | 403 => format!("the server answered {status} and rejected the secret"),
            404 => "the server answered 404: the URL does not exist, or the secret gives no access to it"
                .to_owned(),
            status => format!("the server answered {status}"),
        };
        let transient = matches!(status, 408 | 425 | 429 | 500..) || reply.is_rate_limited();
        Err(DeliveryError {
            reason,
            transient,
            retry_after: *retry_after,
        })
    }
}

/// Reads the URL and the credentials of a target from its files.
fn read_secrets(target: &Target, id: String) -> Result<(HttpUrl, Credentials), UnusableSecret> {
    let read_url = |file: &SecretFile| file.url(target.insecure_http);
    match &target.channel {
        Channel::Slack { url } => Ok((read_url(url)?, Credentials::None)),
        Channel::Webhook { url, secret } => {
            let url = match url {
                WebhookUrl::Public(url) => url.clone(),
                WebhookUrl::Secret(file) => read_url(file)?,
            };
            let credentials = match secret {
                Some(secret) => Credentials::Signature {
                    secret: secret.read()?,
                    id,
                },
                None => Credentials::None,
            };
            Ok((url, credentials))
        }
        Channel::Commit(forge) => {
            let token = forge.token.read()?;
            let credentials = match forge.kind {
                ForgeKind::GitHub => Credentials::Bearer(token),
                ForgeKind::GitLab => Credentials::PrivateToken(token),
            };
            Ok((forge.api.clone(), credentials))
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
    fn only_the_newest_status_of_a_commit_and_context_waits() {
        let queue = queue();
        for state in [CommitState::Pending, CommitState::Success] {
            queue.push(job(1, state, "eu"));
            queue.push(job(1, state, "us"));
            queue.push(job(2, state, "eu"));
        }
        assert_eq!((queue.waiting(), queue.dropped.load(Relaxed)), (3, 0));
        let all_newest = queue
            .jobs
            .lock()
            .iter()
            .all(|job| matches!(job, Job::Commit(s, _) if s.state == CommitState::Success));
        assert!(all_newest);
    }

    #[test]
    fn the_queue_is_bounded_and_the_oldest_is_dropped_and_counted() {
        let queue = queue();
        (0..CAPACITY + 7).for_each(|sha| queue.push(job(sha, CommitState::Success, "eu")));
        assert_eq!(
            (queue.waiting(), queue.dropped.load(Relaxed)),
            (CAPACITY, 7)
        );
        assert!(
            matches!(queue.jobs.lock().front(), Some(Job::Commit(status, _)) if status.sha == "7")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_status_is_posted_again_once_and_less_and_less_often() {
        let queue = queue();
        let lost = || queue.take_lost(Some("eu"));
        for pause in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
            queue.record_loss(&job(1, CommitState::Success, "eu"));
            assert_eq!(lost(), [""; 0], "not at once");
            tokio::time::advance(Duration::from_secs(pause - 1)).await;
            assert_eq!(lost(), [""; 0]);
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(lost(), ["1"]);
            assert_eq!(lost(), [""; 0], "once");
        }
        queue.record_success();
        queue.record_loss(&job(1, CommitState::Success, "us"));
        tokio::time::advance(FIRST_REPOST).await;
        assert_eq!(
            (lost(), queue.take_lost(Some("us"))),
            (Vec::new(), vec!["1".to_owned()])
        );
    }

    #[test]
    fn dropped_and_replaced_jobs_are_not_pending_and_a_dropped_status_is_lost() {
        let queue = queue();
        for sha in 0..=CAPACITY {
            queue.push(job(sha, CommitState::Pending, "eu"));
            queue.push(job(sha, CommitState::Success, "eu"));
        }
        assert_eq!(
            (queue.pending.load(Relaxed), queue.is_drained()),
            (CAPACITY, false)
        );
        queue.lost.lock().retry_at = None;
        assert_eq!(queue.take_lost(Some("eu")), ["0"]);
    }
}
