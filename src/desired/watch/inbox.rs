//! The messages to the watch task. Hints coalesce, so a storm of events takes no memory.

use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::SettledDir;
use crate::desired::definitions::SharedDirectory;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    messages: Mutex<Messages>,
    notify: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) hint: Option<Hint>,
    pub(super) requests: Vec<oneshot::Sender<SettledDir>>,
    /// The shared directory that the definitions extend from now on.
    pub(super) shared: Option<Option<SharedDirectory>>,
    pub(super) closed: bool,
}

/// What a file event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    File,
    /// A directory or link on the path. The watched directory may be gone, even if its successor looks the same, because
    /// inode numbers are used again.
    Path,
}

impl Inbox {
    pub(super) fn post(&self, write: impl FnOnce(&mut Messages)) {
        write(&mut self.messages.lock());
        self.notify.notify_one();
    }

    /// Takes all messages as soon as there are any, or at `until`.
    pub(super) async fn wait(&self, until: Instant) -> Messages {
        loop {
            {
                let mut messages = self.messages.lock();
                if messages.hint.is_some()
                    || messages.shared.is_some()
                    || !messages.requests.is_empty()
                    || messages.closed
                    || until <= Instant::now()
                {
                    return std::mem::take(&mut messages);
                }
            }
            // `notify_one` stores a permit if no task is waiting, so no message is missed.
            let _ = tokio::time::timeout_at(until.into(), self.notify.notified()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_message_ends_the_wait_and_so_does_its_time() {
        let posts: [fn(&mut Messages); 4] = [
            |messages| messages.hint = Some(Hint::File),
            |messages| messages.shared = Some(None),
            |messages| messages.requests.push(oneshot::channel().0),
            |messages| messages.closed = true,
        ];
        let later = Instant::now() + Duration::from_secs(3600);
        let ends = async |inbox: &Inbox, until| {
            let waiting = inbox.wait(until);
            tokio::time::timeout(Duration::from_secs(1), waiting)
                .await
                .is_ok()
        };
        for (n, post) in posts.into_iter().enumerate() {
            let inbox = Inbox::default();
            assert!(!ends(&inbox, later).await, "{n}");
            inbox.post(post);
            assert!(ends(&inbox, later).await, "{n}");
            assert!(!ends(&inbox, later).await, "{n}");
        }
        assert!(ends(&Inbox::default(), Instant::now()).await);
    }
}
