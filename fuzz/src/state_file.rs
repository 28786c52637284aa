//! The daemon's state file: what is read is written as the same state, and an error quotes nothing of it.

use calry_gitops::daemon::StateStore;
use serde_json::Value;

use super::sections::{assert_printable, fingerprint_key, workspace};

pub(crate) fn check(input: &[u8]) {
    // A directory that cannot exist: only the key is used.
    let store = StateStore::open("/dev/null/none".as_ref(), Some(fingerprint_key()));
    let store = store.expect("random numbers");
    let workspace = workspace().id;
    let first = match store.rewrite(&workspace, input) {
        Ok(first) => first,
        Err(why) => {
            assert_printable(&why);
            assert!(why.len() < 200, "{why}");
            return;
        }
    };
    let second = store
        .rewrite(&workspace, &first)
        .expect("what it wrote itself");
    assert!(first == second, "{}", String::from_utf8_lossy(&first));
    assert!(store.rewrite("another", &first).is_err());

    // What is ignored may be something that no text can hold.
    let (Some(read), Some(written)) = (parse(input), parse(&first)) else {
        return;
    };
    for (provider, item) in written["providers"].as_object().expect("providers") {
        let before = &read["providers"][provider];
        let value = |item: &Value, key| {
            let value = item.get(key).filter(|value| !value.is_null());
            value.map_or(String::new(), Value::to_string)
        };
        assert_eq!(value(before, "parts").to_lowercase(), value(item, "parts"));
        for key in ["headers", "queryParams", "updatedAt"] {
            assert_eq!(value(before, key), value(item, key));
        }
        let fields = |item: &Value| item["notConverged"].as_array().map_or(0, Vec::len);
        assert_eq!(fields(before), fields(item));
    }
}

fn parse(text: &[u8]) -> Option<Value> {
    serde_json::from_slice(text).ok()
}
