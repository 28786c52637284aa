//! Requests a reconciliation from a loop, and approves a refused plan.
//!
//! A request is stored and returns at once; several requests count as one.
//!
//! Never: approve a plan that was not named by its digest.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Push, Repository, StatusPublisher};
use crate::plan::Digest;
use crate::report::status::Trigger;

/// Access to a running loop: its status and its triggers.
#[derive(Clone, Debug)]
pub struct Handle {
    publisher: Arc<StatusPublisher>,
    triggers: Arc<TriggerQueue>,
    repository: Option<Arc<Repository>>,
}

/// Why a digest cannot be approved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPending {
    #[error("no refused plan to approve")]
    Nothing,
    /// The workspace is on hold, as the sentence says.
    #[error(
        "{0}; in an emergency, send the reason of the approval as well: {{\"digest\": \"…\", \"reason\": \"…\"}}"
    )]
    NeedsReason(String),
    #[error(
        "the refused plan is now {0}, because files or live state have changed; review it, then approve that digest"
    )]
    Another(Digest),
}

/// Requests that the loop has not handled yet.
#[derive(Debug, Default)]
pub(super) struct TriggerQueue {
    pending: Mutex<Pending>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    trigger: Option<Trigger>,
    /// The last push that a hook reported.
    push: Option<Push>,
    /// The plan that the guard refused last, or that the workspace's hold suspends, until the next plan.
    refused: Option<Approvable>,
    approved: Option<ApprovedDigest>,
}

/// A plan that waits for an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Approvable {
    pub(super) digest: Digest,
    /// The hold that suspends it, as a sentence.
    pub(super) hold: Option<String>,
}

/// An approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApprovedDigest {
    pub(super) digest: Digest,
    /// Why the plan is applied although the workspace is on hold.
    pub(super) reason: Option<String>,
}

impl Handle {
    #[must_use]
    pub fn new(publisher: StatusPublisher) -> Self {
        Self {
            publisher: Arc::new(publisher),
            triggers: Arc::default(),
            repository: None,
        }
    }

    /// The loop reads what this repository fetches.
    #[must_use]
    pub fn with_repository(self, repository: Option<Arc<Repository>>) -> Self {
        Self { repository, ..self }
    }

    /// `None` if the definitions are in a directory.
    #[must_use]
    pub const fn repository(&self) -> Option<&Arc<Repository>> {
        self.repository.as_ref()
    }

    #[must_use]
    pub const fn publisher(&self) -> &Arc<StatusPublisher> {
        &self.publisher
    }

    /// Requests a reconciliation. If one is running, another one follows.
    pub fn request(&self, trigger: Trigger) {
        self.triggers.request(trigger);
    }

    /// Requests a reconciliation after a push that a hook reported.
    pub fn request_after(&self, push: Push) {
        self.triggers.pending.lock().push = Some(push);
        self.triggers.request(Trigger::Hook);
    }

    /// Approves the refused plan in spite of the limit, and with a reason in spite of the workspace's hold. Requests a
    /// reconciliation, which applies it once if it makes exactly this plan.
    ///
    /// # Errors
    /// [`NotPending`] if another plan was refused, or none, and if there is no reason and the workspace is on hold.
    pub fn approve(&self, digest: &Digest, reason: Option<&str>) -> Result<(), NotPending> {
        let mut pending = self.triggers.pending.lock();
        match &pending.refused {
            Some(refused) if refused.digest != *digest => {
                return Err(NotPending::Another(refused.digest.clone()));
            }
            Some(Approvable {
                hold: Some(hold), ..
            }) if reason.is_none() => return Err(NotPending::NeedsReason(hold.clone())),
            Some(_) => {
                pending.approved = Some(ApprovedDigest {
                    digest: digest.clone(),
                    reason: reason.map(str::to_owned),
                });
            }
            None => return Err(NotPending::Nothing),
        }
        drop(pending);
        self.request(Trigger::Request);
        Ok(())
    }

    pub(super) fn triggers(&self) -> &TriggerQueue {
        &self.triggers
    }
}

impl TriggerQueue {
    fn request(&self, trigger: Trigger) {
        let waiting = &mut self.pending.lock().trigger;
        // Unlike a hook, a user's request also retries providers that are backed off.
        if *waiting != Some(Trigger::Request) {
            *waiting = Some(trigger);
        }
        self.notify.notify_one();
    }

    /// Takes the pending request, if there is one.
    pub(super) fn take(&self) -> Option<Trigger> {
        self.pending.lock().trigger.take()
    }

    /// Takes the last push that a hook reported.
    pub(super) fn take_push(&self) -> Option<Push> {
        self.pending.lock().push.take()
    }

    /// Waits for a request. Cancel-safe: it takes only what it returns.
    pub(super) async fn next(&self) -> Trigger {
        loop {
            if let Some(trigger) = self.take() {
                return trigger;
            }
            self.notify.notified().await;
        }
    }

    /// Takes the pending approval. It is used up by the next plan, whichever that is.
    pub(super) fn take_approval(&self) -> Option<ApprovedDigest> {
        self.pending.lock().approved.take()
    }

    /// Whether an approval is pending.
    pub(super) fn has_approval(&self) -> bool {
        self.pending.lock().approved.is_some()
    }

    /// Sets the refused plan; `None` after a plan that was not refused.
    pub(super) fn set_refused(&self, refused: Option<Digest>) {
        let refused = refused.map(|digest| Approvable { digest, hold: None });
        self.pending.lock().refused = refused;
    }

    /// Sets the plan that the workspace's hold suspends.
    pub(super) fn set_on_hold(&self, digest: Digest, hold: String) {
        let hold = Some(hold);
        self.pending.lock().refused = Some(Approvable { digest, hold });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::daemon::publisher::for_tests;

    fn digest(digit: &str) -> Digest {
        Digest::parse(&format!("sha256:{}", digit.repeat(64))).unwrap()
    }

    #[test]
    fn many_requests_count_as_one_and_a_users_precedes_a_hooks() {
        let handle = Handle::new(for_tests());
        let triggers = handle.triggers();
        for trigger in [Trigger::Hook, Trigger::Request, Trigger::Hook] {
            handle.request(trigger);
        }
        assert_eq!(triggers.next().now_or_never(), Some(Trigger::Request));
        assert_eq!(triggers.next().now_or_never(), None);
        // A notification for a request that was taken already does not end the next wait.
        handle.request(Trigger::Hook);
        assert_eq!(triggers.take(), Some(Trigger::Hook));
        assert_eq!(triggers.next().now_or_never(), None);
    }

    #[test]
    fn a_push_requests_a_reconciliation_which_takes_it_once() {
        let handle = Handle::new(for_tests());
        let push = Push {
            commit: None,
            delivery: Some("7".to_owned()),
        };
        handle.request_after(push.clone());
        let triggers = handle.triggers();
        assert_eq!(triggers.take(), Some(Trigger::Hook));
        assert_eq!(
            [triggers.take_push(), triggers.take_push()],
            [Some(push), None]
        );
    }

    #[test]
    fn only_the_refused_plan_can_be_approved_and_only_once() {
        let handle = Handle::new(for_tests());
        assert_eq!(handle.approve(&digest("a"), None), Err(NotPending::Nothing));
        handle.triggers().set_refused(Some(digest("a")));
        assert_eq!(
            handle.approve(&digest("b"), None),
            Err(NotPending::Another(digest("a")))
        );
        assert_eq!(
            (handle.triggers().take(), handle.triggers().take_approval()),
            (None, None)
        );
        assert!(!handle.triggers().has_approval());
        assert_eq!(handle.approve(&digest("a"), None), Ok(()));
        assert!(handle.triggers().has_approval());
        assert_eq!(handle.triggers().take(), Some(Trigger::Request));
        let approved = handle.triggers().take_approval().unwrap();
        assert_eq!((approved.digest, approved.reason), (digest("a"), None));
        assert_eq!(handle.triggers().take_approval(), None);
        handle.triggers().set_refused(None);
        assert_eq!(handle.approve(&digest("a"), None), Err(NotPending::Nothing));
    }

    #[test]
    fn a_plan_on_hold_is_approved_only_with_a_reason() {
        let handle = Handle::new(for_tests());
        let hold = "the workspace is frozen until tomorrow: sales".to_owned();
        handle.triggers().set_on_hold(digest("a"), hold.clone());
        assert_eq!(
            handle.approve(&digest("a"), None),
            Err(NotPending::NeedsReason(hold))
        );
        assert!(!handle.triggers().has_approval());
        assert_eq!(
            handle.approve(&digest("b"), Some("why")),
            Err(NotPending::Another(digest("a")))
        );
        assert_eq!(handle.approve(&digest("a"), Some("OPS-1")), Ok(()));
        let approved = handle.triggers().take_approval().unwrap();
        assert_eq!(approved.reason.as_deref(), Some("OPS-1"));
    }

    #[test]
    fn a_hook_finds_the_repository_of_the_loop() {
        let repository = crate::daemon::fixtures::repository("https://e.com/a.git", None);
        let handle = Handle::new(for_tests());
        assert!(handle.repository().is_none());
        let handle = handle.with_repository(Some(Arc::clone(&repository)));
        assert!(
            handle
                .repository()
                .is_some_and(|known| Arc::ptr_eq(known, &repository))
        );
    }
}
