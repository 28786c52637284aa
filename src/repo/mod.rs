//! The definitions directory: from files to what git wants, with every problem at its line.
//!
//! The way of a file, in the order in which the code reads: `directory` reads its bytes, `yaml` makes a tree of them,
//! `definition` makes [`Desired`](crate::model::Desired) of the tree, and `load` puts the files together, compares them
//! with what is known and fills secrets in from `secrets`. What goes wrong on the way becomes a
//! [`Diagnostic`](crate::model::Diagnostic) in `source`, where `mask` takes out of the quoted line what may not be shown.
//! `watch` notices that the directory is another one than it was, and `revision` says which commit it holds.
//!
//! This room never writes, never opens a socket, and lets a file name a secret but never a place to find one in.

mod definition;
mod directory;
mod load;
mod mask;
mod revision;
mod secrets;
mod source;
mod watch;
mod yaml;

pub use directory::DirectoryError;
pub use load::{DefinitionFile, Loaded, MissingSecrets, Pin, load};
pub use revision::revision;
pub use secrets::{SecretError, SecretSources};
pub use watch::{Fingerprint, FoundBy, Settled, WatchOptions, Watcher};
