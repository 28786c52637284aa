//! Whether an update may be sent at this moment: asked of somebody else, right before each one. This room does not know why
//! somebody may forbid it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Says whether an update may be sent now. It is asked in the middle of the work: it must not wait.
pub trait Permission: fmt::Debug + Send + Sync {
    /// An update is about to be sent. How long it may take; then an [`end`](Self::end) follows.
    ///
    /// # Errors
    /// Why none may be sent now, as a part of a sentence.
    fn begin(&self) -> Result<Duration, String>;
    /// Nobody waits for that update any more. It is over where it was answered or never sent, and may else be carried out at
    /// any later time.
    fn end(&self, over: bool);
}

/// Nobody forbids it.
impl Permission for () {
    fn begin(&self) -> Result<Duration, String> {
        Ok(Duration::MAX)
    }
    fn end(&self, _: bool) {}
}

/// An update that may be under way for as long as this lives.
pub(super) struct Permit {
    permission: Arc<dyn Permission>,
    pub(super) at_most: Duration,
    over: bool,
}

impl Permit {
    pub(super) fn ask(permission: &Arc<dyn Permission>) -> Result<Self, String> {
        Ok(Self {
            at_most: permission.begin()?,
            permission: Arc::clone(permission),
            over: false,
        })
    }

    /// The update is over.
    pub(super) fn over(mut self) {
        self.over = true;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permission.end(self.over);
    }
}
