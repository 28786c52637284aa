//! `snapshot`: prints the live state for plans without an API key. It has no value below `partnerKey`.

use clap::Args;
use tokio::time::Instant;

use super::options::{FingerprintArgs, LiveArgs};
use super::{Exit, Output};
use crate::desired::definitions::{self, MissingSecrets, Pin};
use crate::{live, reconcile};

#[derive(Args)]
pub(super) struct SnapshotArgs {
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    fingerprints: FingerprintArgs,
}

pub(super) async fn run(args: &SnapshotArgs, output: &Output) -> anyhow::Result<Exit> {
    let setup = args
        .live
        .set_up(MissingSecrets::Unavailable, output)
        .await?;
    let key = args.fingerprints.key()?;
    let only = &setup.source.only;
    // Only workspace.yaml counts, and only if it exists: the workspace must be the one that it names.
    let pin =
        definitions::load(&args.live.files.definitions).map_or(Pin::None, |loaded| loaded.pin);
    let deadline = Instant::now() + setup.timeout;
    let reader = setup.api.reader(&setup.key.read()?, deadline);
    let (workspace, mut listing, _) =
        match reconcile::fetch(&reader, setup.source.pins(&pin), None).await {
            Ok(fetched) => fetched,
            Err(failure) => {
                output.error(&failure.to_string());
                return Ok(Exit::from(&failure));
            }
        };
    if !only.is_empty() {
        listing.live.retain(|live| only.contains(&live.provider));
        listing.unreadable.retain(|u| {
            u.provider
                .as_ref()
                .is_none_or(|provider| only.contains(provider))
        });
    }
    if key.is_none() {
        tracing::warn!(
            "without a fingerprint key, plans against this snapshot do not compare partner keys: pass one with \
             --fingerprint-key-file"
        );
    }
    let taken_at = format!("{:.0}", jiff::Timestamp::now());
    output.result(&live::write_snapshot(
        &workspace,
        &listing,
        key.as_ref(),
        &taken_at,
    ));
    Ok(Exit::Done)
}
