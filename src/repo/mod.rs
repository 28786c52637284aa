//! The definitions directory: from files to what git wants, with every problem at its line.
//!
//! The way of a file, in the order in which the code reads: `directory` reads its bytes, `yaml` makes a tree of them,
//! `definition` makes [`Desired`](crate::model::Desired) of the tree, and `load` puts the files together, compares them
//! with what is known (`catalogue` reads the names out of the schema beside the files) and fills secrets in from `secrets`. What goes wrong on the way becomes a
//! [`Diagnostic`](crate::model::Diagnostic) in `source`, where `mask` takes out of the quoted line what may not be shown.
//! `watch` notices that the directory is another one than it was, and `revision` says which commit it holds, and what another
//! one held. Where only signed commits count, `trusted` reads the files of the commit in place of those of the directory, and
//! judges it by its `signature` and the list of `signers`.
//!
//! The way back, for `pull`: `edit` changes a file's text in place, `format` says what a new file looks like (and, as a JSON
//! Schema, any file), and `write` puts either into the directory, whole or not at all.
//!
//! `settings` reads the operator's configuration file by the same way, with keys that its caller knows.
//!
//! Nothing here writes but `write`, and only where `pull` asks for it. This room never opens a socket, and lets a file name a
//! secret but never a place to find one in.

mod catalogue;
mod definition;
mod directory;
mod edit;
mod format;
mod load;
mod mask;
mod revision;
mod secrets;
mod settings;
mod signature;
mod signers;
mod source;
mod trusted;
mod watch;
mod write;
mod yaml;

pub use definition::{MAX_PARAMETERS, Subject, is_field_name, is_group_name, is_parameter_name};
pub use directory::DirectoryError;
pub use edit::{Edit, NewValue};
pub use format::{DEFINITION_SCHEMA, WORKSPACE_SCHEMA, definition_schema, workspace_schema};
pub use load::{
    DefinitionFile, Loaded, MissingSecrets, Pin, draft, draft_pin, load, load_or_begin,
};
pub use revision::{Base, BaseError, base, path_in_checkout, revision};
pub use secrets::{SecretError, SecretSources};
pub use settings::{
    Kind, MAX_WORKSPACE_NAME, Place, Section, Setting, Settings, SettingsError, WORKSPACE_NAME,
    WorkspaceSection,
};
pub use signature::Distrust;
pub use signers::SignersError;
pub use trusted::{CommitId, Refused, Trust, TrustError, Trusted, trusted};
pub use watch::{Fingerprint, FoundBy, Settled, WatchCounts, WatchOptions, Watcher};
pub use write::{WriteError, Writing, Written};
