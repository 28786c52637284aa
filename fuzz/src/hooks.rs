//! What a push hook reads of its request.

use calry_gitops::model::{Secret, SharedSecret, parse_webhook_signatures};
use calry_gitops::ops::admin::PushEvent;

/// The largest message to another replica, in bytes.
const MAX_MESSAGE: usize = 64 << 10;

pub(crate) fn check(input: &[u8]) {
    let event = PushEvent::parse(input, Some("delivery".to_owned()));
    assert!(event.addresses.len() <= 16, "{event:?}");
    for address in &event.addresses {
        assert!(
            address.len() <= 1024 && address.contains('/'),
            "{address:?}"
        );
        assert_eq!(*address, address.to_lowercase());
    }
    let references = event.references.as_deref().unwrap_or_default();
    assert!(references.len() <= 64, "{event:?}");
    for pushed in references {
        let is_name = pushed.name.starts_with("refs/") && pushed.name.len() <= 250;
        assert!(
            is_name && !pushed.name.contains(char::is_control),
            "{pushed:?}"
        );
        if let Some(commit) = &pushed.commit {
            let is_digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
            assert!(matches!(commit.len(), 40 | 64), "{pushed:?}");
            assert!(commit.chars().all(is_digit), "{pushed:?}");
        }
    }

    // Another replica reads the same event, from a message that is not too large.
    let message = serde_json::to_vec(&event).expect("an event is JSON");
    assert!(
        message.len() <= MAX_MESSAGE - 4096,
        "{} bytes",
        message.len()
    );
    assert_eq!(
        serde_json::from_slice::<PushEvent>(&message).expect("the same"),
        event
    );

    // An event of another repository of the same host never concerns this one.
    let own = "https://git.example.com/acme/definitions.git";
    if event.names(own) {
        assert!(event.may_be_of(own), "{event:?}");
    }
    let names_the_host = event
        .addresses
        .iter()
        .any(|it| it.starts_with("git.example.com/"));
    if names_the_host && !event.names(own) {
        assert!(!event.may_be_of(own), "{event:?}");
    }
    if event.references.is_some() {
        assert!(event.push_for(|_| false).is_none());
    }

    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let signatures = parse_webhook_signatures(text);
    assert!(signatures.len() <= 8, "{}", signatures.len());
    if let Ok(secret) = SharedSecret::new(&Secret::new(text)) {
        assert!(secret.is(text.trim_start_matches('\u{feff}').trim().as_bytes()));
        assert!(!secret.check_signature().is_one_of(&signatures));
    }
}
