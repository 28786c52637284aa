//! Watches what a loop reads: the definitions, and the operator's API key and secrets.
//!
//! Never: wait for the operator's files to come to rest before a reconciliation. They are read as they are, and a change is
//! a reason for another one.

use std::time::Duration;

use tokio::time::timeout;

use super::LoopSettings;
use crate::desired::watch::{WatchOptions, Watcher};
use crate::live::KeySource;

/// How often the operator's files are looked at without a file event, compared with the definitions.
const LESS_OFTEN: u32 = 5;

/// How long the first look at the operator's files may take before the first reconciliation goes on without it.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// What is watched, and what of it no reconciliation has read yet.
#[derive(Debug)]
pub(super) struct WatchedInputs {
    definitions: Watcher,
    operator: Option<Watcher>,
    /// Files that were being written when the definitions were looked at; `None` where looking hangs.
    unsettled: Option<Vec<String>>,
    /// Whether that is how the definitions are at this moment.
    fresh: bool,
    /// Whether something changed after a reconciliation began.
    pending: bool,
}

impl WatchedInputs {
    /// Starts watching.
    pub(super) async fn watch(settings: &LoopSettings, watching: WatchOptions) -> Self {
        let key = match &settings.key {
            KeySource::File(path) => Some(path.clone()),
            KeySource::Variable(_) => None,
        };
        let secrets = settings.source.secrets.directory().map(ToOwned::to_owned);
        let options = WatchOptions {
            poll: watching.poll * LESS_OFTEN,
            counts: std::sync::Arc::default(),
            ..watching.clone()
        };
        let mut operator =
            (key.is_some() || secrets.is_some()).then(|| Watcher::of_files(key, secrets, options));
        let definitions = Watcher::new(settings.source.definitions.clone(), watching);
        if let Some(operator) = &mut operator
            && let Ok(settled) = timeout(FIRST_LOOK, operator.settle()).await
        {
            operator.mark_seen(settled.state);
        }
        Self {
            definitions,
            operator,
            unsettled: None,
            fresh: false,
            pending: false,
        }
    }

    /// Waits until nobody is writing the definitions, for a reconciliation that reads them right after this.
    pub(super) async fn settle(&mut self, at_most: Duration) {
        self.pending = false;
        // They have just been found at rest.
        if std::mem::take(&mut self.fresh) {
            return;
        }
        self.unsettled = match timeout(at_most, self.definitions.settle()).await {
            Ok(settled) => {
                self.definitions.mark_seen(settled.state);
                Some(settled.unsettled)
            }
            Err(_) => None,
        };
    }

    /// Time has passed since the definitions were looked at.
    pub(super) const fn stale(&mut self) {
        self.fresh = false;
    }

    /// Waits until something of it is another than it was. Cancel-safe; each change ends it once.
    pub(super) async fn changed(&mut self) {
        let Self {
            definitions,
            operator,
            ..
        } = self;
        let of_operator = async {
            match operator {
                Some(operator) => operator.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            settled = definitions.changed() => {
                definitions.mark_seen(settled.state);
                (self.unsettled, self.fresh) = (Some(settled.unsettled), true);
            }
            settled = of_operator => operator.iter_mut().for_each(|operator| operator.mark_seen(settled.state.clone())),
        }
        self.pending = true;
    }

    /// The files that were being written when the definitions were looked at last; `None` where looking hangs.
    pub(super) fn unsettled(&self) -> Option<&[String]> {
        self.unsettled.as_deref()
    }

    /// Whether something changed after the reconciliation began.
    pub(super) const fn is_pending(&self) -> bool {
        self.pending
    }
}
