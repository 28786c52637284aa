//! The vocabulary of all other modules: providers, definitions (desired and live), fields, partner keys, secrets.
//!
//! Input is parsed into these types at the edges, so that their values are valid.
//!
//! Never: open a file or a socket, or read a clock.

mod bounded;
mod catalogue;
mod definition;
mod diagnostic;
mod fetch;
mod fingerprint;
mod key_expiry;
mod partner_key;
mod provider;
mod redaction;
mod revision;
mod scrubber;
mod secret;
mod shared_secret;
mod shared_source;
mod standard_webhooks;
mod template;
mod temporary;
mod text;
mod value;
mod workspace;
mod workspace_hold;

pub use bounded::{LastLink, open_without_waiting, read_at_most};
pub use catalogue::{Catalogue, KNOWN_LISTING_FIELDS, KNOWN_PROVIDERS, LiveNames, closest};
pub use definition::{
    DefinitionPart, Desired, FieldSet, Hold, Icon, InvalidIcon, Live, LiveFields, LiveProblems,
    Update, UpdateMethod,
};
pub use diagnostic::{Code, Diagnostic, Excerpt, MAX_LISTED, Severity, first_problems};
pub use fetch::FetchFailure;
pub use fingerprint::{
    Fingerprint, FingerprintContext, FingerprintKey, InvalidFingerprintKey, LiveValue,
};
pub use key_expiry::{InvalidKeyExpiry, KeyExpiry, KeyStage};
pub use partner_key::{
    DesiredPartnerKey, DesiredValue, InvalidHeaderName, KeySection, LivePartnerKey, PartnerKey,
    check_header_name,
};
pub use provider::{InvalidProvider, Provider};
pub use revision::{Revision, short_commit};
pub use scrubber::Scrubber;
pub use secret::{InvalidSecretName, Secret, SecretName, looks_like_a_key};
pub use shared_secret::{InvalidSharedSecret, SharedSecret, SignatureCheck};
pub use shared_source::SharedSource;
pub use standard_webhooks::{parse_webhook_signatures, sign_webhook};
pub use template::{InvalidTemplate, Template};
pub use temporary::{is_left_over, write_temporary};
pub use text::{ellipsize, hex, human_duration, needs_escape, printable, printable_json};
pub use value::{InvalidValue, character_name, check_value, is_quoted, trim_token, trim_value};
pub use workspace::{InvalidSlug, Slug, Workspace};
pub use workspace_hold::{ActiveHold, FreezeWindow, HoldEnd, HoldScope, WorkspaceHolds};

/// The target of every span: traced, and never logged.
pub const SPANS: &str = "otel";
