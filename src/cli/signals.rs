//! Handles SIGTERM and SIGINT: the first one stops the program in order, the second one at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first signal cancels.
pub(super) fn stop_token() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        stop.cancel();
        // Standard error may be a pipe without a reader: neither this task nor the second signal waits for it.
        tokio::task::spawn_blocking(|| {
            tracing::info!(
                "stopping: updates in progress are finished, no new one starts; a second signal stops at once"
            );
        });
        either(&mut terminate, &mut interrupt).await;
        std::process::exit(1);
    });
    Ok(token)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
