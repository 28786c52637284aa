//! calry-gitops keeps the integration definitions of a Calry workspace equal to a directory of YAML files in git.
//!
//! # The pass, in the order in which the code reads
//!
//! 1. [`repo`] loads the files: desired state, with every problem at its line.
//! 2. [`remote`] fetches the workspace and the live definitions: two requests, whatever their number.
//! 3. [`plan`] compares the two, purely, and guards what it found: only an approved plan can be applied.
//! 4. [`apply`] sends one update per changed provider and verifies each answer.
//! 5. [`render`] says what happened.
//!
//! [`pass`] is that order in code; [`cli`] walks it once and [`daemon`] for ever. [`model`] is the vocabulary of all of
//! them, and [`sandbox`] a Calry of one's own to try it on.
//!
//! # Who may import whom
//!
//! | room | may import |
//! | --- | --- |
//! | `model` | nothing |
//! | `repo`, `remote`, `plan`, `sandbox` | `model` |
//! | `apply` | `model`, `remote`, `plan` |
//! | `render` | `model`, `plan`, `apply` |
//! | `pass` | `model`, `repo`, `remote`, `plan`, `apply` |
//! | `daemon` | all of these but `sandbox` |
//! | `cli` | everything; nothing imports it |
//!
//! `tests/architecture.rs` reads the code and holds it to this table.

// What input can reach must not end the process, and everything that is printed goes through one place.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::dbg_macro,
    clippy::print_stdout,
    clippy::print_stderr
)]

pub mod apply;
pub mod cli;
pub mod daemon;
pub mod model;
pub mod pass;
pub mod plan;
pub mod remote;
pub mod render;
pub mod repo;
pub mod sandbox;
