//! Watches the inputs of a loop: the definitions, and the operator's API key and secrets.
//!
//! Never: wait for the operator's files to settle before a reconciliation. They are read as they are, and a change causes
//! another reconciliation.

use std::time::Duration;

use tokio::time::timeout;

use super::LoopSettings;
use crate::desired::watch::{WatchOptions, Watcher};
use crate::live::KeySource;

/// Without file events, the operator's files are scanned this many times less often than the definitions.
const POLL_FACTOR: u32 = 5;

/// The first reconciliation waits this long for the first scan of the operator's files.
const FIRST_SCAN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct WatchedInputs {
    definitions: Watcher,
    operator: Option<Watcher>,
    /// The files that were being written at the last scan; `None` if the scan hangs.
    unsettled: Option<Vec<String>>,
    /// Whether the definitions have settled just now. False after time has passed since their last scan.
    pub(super) fresh: bool,
    /// Whether an input changed after the last reconciliation began.
    pub(super) pending: bool,
}

impl WatchedInputs {
    pub(super) async fn watch(settings: &LoopSettings, watch_options: WatchOptions) -> Self {
        let key = match &settings.key {
            KeySource::File(path) => Some(path.clone()),
            KeySource::Variable(_) => None,
        };
        let secrets = settings.source.secrets.directory().map(ToOwned::to_owned);
        let options = WatchOptions {
            poll: watch_options.poll * POLL_FACTOR,
            counts: std::sync::Arc::default(),
            ..watch_options.clone()
        };
        let mut operator =
            (key.is_some() || secrets.is_some()).then(|| Watcher::of_files(key, secrets, options));
        let definitions = Watcher::new(settings.source.definitions.clone(), watch_options);
        if let Some(operator) = &mut operator
            && let Ok(settled) = timeout(FIRST_SCAN, operator.settle()).await
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

    /// Waits until the definitions have settled, for a reconciliation that reads them next.
    pub(super) async fn settle(&mut self, at_most: Duration) {
        self.pending = false;
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

    /// Waits until an input changes. Cancel-safe; returns once for each change.
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

    pub(super) fn unsettled(&self) -> Option<&[String]> {
        self.unsettled.as_deref()
    }
}
