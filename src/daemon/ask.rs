//! How a loop is asked for a pass, and how a plan that it refused is let through.
//!
//! Whoever asks never waits, and never makes the loop wait: a request is noted, and many of them are as good as one. What it
//! never does: let a plan through that nobody named by its digest.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::Board;
use crate::plan::Digest;
use crate::report::status::Trigger;

/// A loop as others meet it: its board, and how it is asked.
#[derive(Clone, Debug)]
pub struct Handle {
    board: Arc<Board>,
    asked: Arc<Asked>,
}

/// Why a digest cannot be approved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPending {
    #[error("no plan is refused, so there is nothing to approve")]
    Nothing,
    #[error(
        "the plan that is refused is {0}: files or live state have changed since; look at it, and approve that"
    )]
    Another(Digest),
}

/// What somebody asked of a loop and the loop did not do yet.
#[derive(Debug, Default)]
pub(super) struct Asked {
    notes: Mutex<Notes>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Notes {
    trigger: Option<Trigger>,
    /// The plan that the guard refused last, until another one was made.
    refused: Option<Digest>,
    approved: Option<Digest>,
}

impl Handle {
    /// A loop that is about to start.
    #[must_use]
    pub fn new(board: Board) -> Self {
        Self {
            board: Arc::new(board),
            asked: Arc::default(),
        }
    }

    /// What the loop publishes.
    #[must_use]
    pub const fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Asks for a pass; one that is under way is followed by one more.
    pub fn ask(&self, trigger: Trigger) {
        self.asked.ask(trigger);
    }

    /// Lets the plan through that was refused, whatever the limit says, and asks for a pass: the next one that makes exactly
    /// this plan carries it out, once.
    ///
    /// # Errors
    /// [`NotPending`] where another plan is refused, or none.
    pub fn approve(&self, digest: &Digest) -> Result<(), NotPending> {
        let mut notes = self.asked.notes();
        match &notes.refused {
            Some(refused) if refused == digest => notes.approved = Some(digest.clone()),
            Some(refused) => return Err(NotPending::Another(refused.clone())),
            None => return Err(NotPending::Nothing),
        }
        drop(notes);
        self.ask(Trigger::Request);
        Ok(())
    }

    pub(super) fn asked(&self) -> &Asked {
        &self.asked
    }
}

impl Asked {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock()
    }

    fn ask(&self, trigger: Trigger) {
        let waiting = &mut self.notes().trigger;
        // A person's request also tries those again that rest, and a hook does not.
        if *waiting != Some(Trigger::Request) {
            *waiting = Some(trigger);
        }
        self.bell.notify_one();
    }

    /// Takes what was asked for, where something was.
    pub(super) fn take(&self) -> Option<Trigger> {
        self.notes().trigger.take()
    }

    /// Waits until something is asked for. Cancel-safe: it takes only what it returns.
    pub(super) async fn next(&self) -> Trigger {
        loop {
            if let Some(trigger) = self.take() {
                return trigger;
            }
            self.bell.notified().await;
        }
    }

    /// Takes the approval that waits; whatever plan was made, it is used up.
    pub(super) fn take_approval(&self) -> Option<Digest> {
        self.notes().approved.take()
    }

    /// Notes the plan that a pass made: the one that was refused, or `None` for one that was not.
    pub(super) fn planned(&self, refused: Option<Digest>) {
        self.notes().refused = refused;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::daemon::status::for_tests;

    fn digest(digit: &str) -> Digest {
        Digest::parse(&format!("sha256:{}", digit.repeat(64))).unwrap()
    }

    #[test]
    fn many_requests_are_one_and_a_persons_goes_before_a_hooks() {
        let handle = Handle::new(for_tests());
        let asked = handle.asked();
        for trigger in [Trigger::Hook, Trigger::Request, Trigger::Hook] {
            handle.ask(trigger);
        }
        assert_eq!(asked.next().now_or_never(), Some(Trigger::Request));
        assert_eq!(asked.next().now_or_never(), None);
        // The bell that rang for what was taken already wakes nobody for nothing.
        handle.ask(Trigger::Hook);
        assert_eq!(asked.take(), Some(Trigger::Hook));
        assert_eq!(asked.next().now_or_never(), None);
    }

    #[test]
    fn only_the_plan_that_is_refused_can_be_approved_and_only_once() {
        let handle = Handle::new(for_tests());
        assert_eq!(handle.approve(&digest("a")), Err(NotPending::Nothing));
        handle.asked().planned(Some(digest("a")));
        assert_eq!(
            handle.approve(&digest("b")),
            Err(NotPending::Another(digest("a")))
        );
        assert_eq!(
            (handle.asked().take(), handle.asked().take_approval()),
            (None, None)
        );
        assert_eq!(handle.approve(&digest("a")), Ok(()));
        assert_eq!(handle.asked().take(), Some(Trigger::Request));
        assert_eq!(handle.asked().take_approval(), Some(digest("a")));
        assert_eq!(handle.asked().take_approval(), None);
        handle.asked().planned(None);
        assert_eq!(handle.approve(&digest("a")), Err(NotPending::Nothing));
    }
}
