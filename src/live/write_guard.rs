//! The guard that is asked right before each update whether it may be sent, such as leadership among replicas.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Decides whether an update may be sent now. Neither method may block.
pub trait WriteGuard: fmt::Debug + Send + Sync {
    /// An update is about to be sent. Returns how long it may take; a call of [`end`](Self::end) follows.
    ///
    /// # Errors
    /// Why no update may be sent now, as a part of a sentence.
    fn begin(&self) -> Result<Duration, String>;
    /// The caller no longer waits for the update. If `finished`, it was answered or never sent; otherwise Calry may still
    /// carry it out at any later time.
    fn end(&self, finished: bool);
}

/// Allows every update.
impl WriteGuard for () {
    fn begin(&self) -> Result<Duration, String> {
        Ok(Duration::MAX)
    }
    fn end(&self, _: bool) {}
}

/// An update that may be under way as long as this value exists.
pub(super) struct WritePermit {
    guard: Arc<dyn WriteGuard>,
    pub(super) at_most: Duration,
    finished: bool,
}

impl WritePermit {
    pub(super) fn request(guard: &Arc<dyn WriteGuard>) -> Result<Self, String> {
        Ok(Self {
            at_most: guard.begin()?,
            guard: Arc::clone(guard),
            finished: false,
        })
    }

    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for WritePermit {
    fn drop(&mut self) {
        self.guard.end(self.finished);
    }
}
