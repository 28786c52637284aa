//! Snapshots: what is read is written and read again as the same live state, and values below `partnerKey` are in neither
//! a snapshot nor an error.

use calry_gitops::live::{Listing, ReadCalry as _, Snapshot, write_snapshot};
use calry_gitops::model::{LiveValue, Workspace};
use futures_util::FutureExt as _;

use super::plan::live_of;
use super::sections::{CANARY, assert_printable, fingerprint_key, workspace};

fn content(snapshot: &Snapshot) -> (Workspace, Listing) {
    let workspace = snapshot.workspace().now_or_never().expect("at once");
    let listing = snapshot.definitions().now_or_never().expect("at once");
    (
        workspace.expect("it is there"),
        listing.expect("it is there"),
    )
}

pub(crate) fn check(input: &[u8]) {
    let key = fingerprint_key();
    // The live state of Calry as a snapshot.
    let live = live_of(input);
    for key in [None, Some(&key)] {
        let text = write_snapshot(&workspace(), &live, key, "2026-01-01T00:00:00Z");
        assert_printable(&text);
        // `Debug` shows names and masks values.
        let is_shown = text.contains(CANARY) && !format!("{live:?}").contains(CANARY);
        assert!(!is_shown, "a value below partnerKey in {text}");
        // Of a list of several thousand, the snapshot may be too large.
        let read = Snapshot::read("own", text.as_bytes(), key).expect("what it wrote itself");
        let (_, listing) = content(&read);
        assert_eq!(listing.live.len(), live.live.len());
        assert_eq!(listing.unreadable.len(), live.unreadable.len());
        for (read, live) in listing.live.iter().zip(&live.live) {
            assert_eq!(
                (&read.provider, &read.fields),
                (&live.provider, &live.fields)
            );
            assert_eq!(
                (&read.icon, &read.updated_at),
                (&live.icon, &live.updated_at)
            );
        }
    }

    // A snapshot of another writer.
    match Snapshot::read("snapshot.json", input, Some(&key)) {
        Err(error) => {
            let sentence = error.to_string();
            assert_printable(&sentence);
            assert!(sentence.len() < 4000, "{sentence}");
        }
        Ok(snapshot) => {
            let (workspace, listing) = content(&snapshot);
            let has_value = |value: &LiveValue| matches!(value, LiveValue::Value(_));
            let mut values = listing
                .live
                .iter()
                .flat_map(|live| live.partner_key.values());
            assert!(!values.any(has_value), "{listing:?}");
            for live in &listing.live {
                let problems = serde_json::to_value(&live.problems).expect("JSON");
                check_texts(&problems);
            }
            for unreadable in &listing.unreadable {
                assert_printable(&unreadable.to_string());
            }
            // Fingerprints that another process made are not written again.
            let text = write_snapshot(&workspace, &listing, None, &snapshot.taken_at);
            let again = Snapshot::read("own", text.as_bytes(), None).expect("what it wrote itself");
            let (again_workspace, again) = content(&again);
            assert_eq!(again_workspace, workspace);
            let parts = |listing: &Listing| -> Vec<_> {
                let live = listing.live.iter().cloned();
                live.map(|live| {
                    (
                        live.id,
                        live.provider,
                        live.icon,
                        live.fields,
                        live.problems,
                    )
                })
                .collect()
            };
            assert_eq!(parts(&again), parts(&listing));
            assert_eq!(again.unreadable, listing.unreadable);
        }
    }
}

/// Problems are shown as they are.
fn check_texts(problems: &serde_json::Value) {
    match problems {
        serde_json::Value::String(text) => assert_printable(text),
        serde_json::Value::Object(entries) => entries.values().for_each(check_texts),
        _ => {}
    }
}
