//! `snapshot`: the live state for those who have no API key, without any value below `partnerKey`.

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
    // The files are not looked at, and need not be there; where they say which workspace they are for, it must be that one.
    let pin = definitions::load(&setup.source.definitions).map_or(Pin::None, |loaded| loaded.pin);
    let deadline = Instant::now() + setup.timeout;
    let reader = setup.api.reader(&setup.key.read()?, deadline);
    let (workspace, mut listing) =
        match reconcile::fetch(&reader, setup.source.pins(&pin), None).await {
            Ok(fetched) => fetched,
            Err(failure) => {
                output.error(&failure.to_string());
                return Ok(if failure.is_invalid_definitions() {
                    Exit::Invalid
                } else {
                    Exit::Failed
                });
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
            "no fingerprint key is available, so the snapshot omits the values below partnerKey; set --fingerprint-key-file to \
             let plans detect their changes"
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
