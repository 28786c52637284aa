//! The definitions directory: from YAML files to desired state, with every problem at its line.
//!
//! The steps for a file, in the order of the code: `directory` reads its bytes, `yaml` parses them to a tree, `definition`
//! makes [`Desired`](crate::model::Desired) of the tree with `reader`, `workspace` reads `workspace.yaml`, and `load` combines the
//! files. `names` compares them
//! with the known names (`catalogue` reads those from the schema beside the files), and `resolve` fills in secrets.
//! [`Loader`] takes these steps in their order. A problem becomes a [`Diagnostic`](crate::model::Diagnostic) in `source`,
//! where `mask` hides what the quoted line must not show.
//!
//! For `pull`, `edit` changes the text of a file in place, `format` makes the text of a new file (and the JSON Schema of
//! any file), and `write` writes either atomically.
//!
//! Never: open a socket, let a file name the source of a secret, or write outside `write`.

mod catalogue;
pub(crate) mod definition;
pub(crate) mod directory;
mod edit;
mod format;
pub(crate) mod load;
mod loader;
pub(crate) mod mask;
mod memory;
mod names;
pub(crate) mod reader;
mod resolve;
pub(crate) mod shared;
pub(crate) mod source;
mod workspace;
mod write;
pub(crate) mod yaml;

pub use definition::{MAX_PARAMETERS, Subject, is_field_name, is_group_name, is_parameter_name};
pub use directory::DirectoryError;
pub use edit::{Edit, NewValue};
pub use format::{DEFINITION_SCHEMA, WORKSPACE_SCHEMA, definition_schema, workspace_schema};
pub use load::{
    DefinitionFile, Loaded, MissingSecrets, Pin, SharedDirectory, draft, draft_pin, load,
    load_or_empty, load_texts,
};
pub use loader::{LoadError, Loader, NoFile, Purpose};
pub use memory::{MemoryDefinitions, MemoryDirectory};
pub use shared::SharedPath;
pub use write::{FileWrite, WriteEffect, WriteError};
