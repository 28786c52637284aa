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
    /// The plan that the guard refused last, until the next plan.
    refused: Option<Digest>,
    approved: Option<Digest>,
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

    /// Approves the refused plan in spite of the limit and requests a reconciliation, which applies it once if it makes
    /// exactly this plan.
    ///
    /// # Errors
    /// [`NotPending`] if another plan was refused, or none.
    pub fn approve(&self, digest: &Digest) -> Result<(), NotPending> {
        let mut pending = self.triggers.pending.lock();
        match &pending.refused {
            Some(refused) if refused == digest => pending.approved = Some(digest.clone()),
            Some(refused) => return Err(NotPending::Another(refused.clone())),
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
    pub(super) fn take_approval(&self) -> Option<Digest> {
        self.pending.lock().approved.take()
    }

    /// Whether an approval is pending.
    pub(super) fn has_approval(&self) -> bool {
        self.pending.lock().approved.is_some()
    }

    /// Sets the refused plan; `None` after a plan that was not refused.
    pub(super) fn set_refused(&self, refused: Option<Digest>) {
        self.pending.lock().refused = refused;
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
    fn only_the_refused_plan_can_be_approved_and_only_once() {
        let handle = Handle::new(for_tests());
        assert_eq!(handle.approve(&digest("a")), Err(NotPending::Nothing));
        handle.triggers().set_refused(Some(digest("a")));
        assert_eq!(
            handle.approve(&digest("b")),
            Err(NotPending::Another(digest("a")))
        );
        assert_eq!(
            (handle.triggers().take(), handle.triggers().take_approval()),
            (None, None)
        );
        assert!(!handle.triggers().has_approval());
        assert_eq!(handle.approve(&digest("a")), Ok(()));
        assert!(handle.triggers().has_approval());
        assert_eq!(handle.triggers().take(), Some(Trigger::Request));
        assert_eq!(handle.triggers().take_approval(), Some(digest("a")));
        assert_eq!(handle.triggers().take_approval(), None);
        handle.triggers().set_refused(None);
        assert_eq!(handle.approve(&digest("a")), Err(NotPending::Nothing));
    }
}
