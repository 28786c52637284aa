//! A saved plan: it is written as it was read, and it equals the current plan only if it names the same digest.

use std::path::Path;

use calry_gitops::desired::definitions::{MissingSecrets, load_texts};
use calry_gitops::desired::secrets::SecretSources;
use calry_gitops::model::UpdateMethod;
use calry_gitops::plan::Plan;
use calry_gitops::reconcile::plan_file::PlanFile;

use super::plan::{live_of, make};
use super::sections::{assert_printable, fingerprint_key};

const FILE: &str = "provider: GUESTY\nicon: https://e.com/x.png\npartnerKey:\n  headers:\n    x-api-key: one\n\
    fieldsToSync:\n  listing: [name, rooms]\n";
const LIVE: &str = r#"[{"id": "1", "provider": "GUESTY", "name": "Guesty", "icon": null, "updatedAt": "2026",
    "partnerKey": {"headers": {"x-api-key": "two"}}, "fieldsToSync": {"listing": {"name": true, "rooms": false}}}]"#;

/// The current plan.
fn current() -> Plan {
    let mut loaded = load_texts([("guesty.yaml", FILE.into())]);
    loaded.resolve(&SecretSources::new(None), MissingSecrets::Error);
    make(&loaded, &live_of(LIVE.as_bytes()).live, UpdateMethod::Patch)
}

pub(crate) fn check(input: &[u8]) {
    let saved = match PlanFile::parse("plan.json", input) {
        Ok(saved) => saved,
        Err(error) => {
            assert_printable(&error.to_string());
            return;
        }
    };
    let path = Path::new("plan.json");
    let text = saved.to_json();
    assert_printable(&text);
    let again = PlanFile::parse("plan.json", text.as_bytes()).expect("what it wrote itself");
    assert_eq!(again.to_json(), text);
    if let Err(error) = saved.only(path) {
        assert_printable(&error.to_string());
    }

    let (plan, key) = (current(), fingerprint_key());
    for key in [None, Some(&key)] {
        let mut plan = plan.clone();
        if let Some(key) = key {
            plan.seal(key);
        }
        let Ok(differences) = saved.differences(path, &plan, UpdateMethod::Patch, key) else {
            continue;
        };
        assert!(
            !differences.is_empty() || saved.digest() == plan.digest,
            "{text}"
        );
        for difference in differences {
            assert_printable(&difference);
            assert!(difference.chars().count() < 4000, "{difference}");
        }
    }
}
