//! calry-gitops keeps the integration definitions of a Calry workspace equal to a directory of YAML files in git.
//!
//! # The pass, in the order in which the code reads
//!
//! 1. [`desired`] loads the files: desired state, with every problem at its line.
//! 2. [`http`, `live`] fetches the workspace and the live definitions: two requests, whatever their number.
//! 3. [`plan`] compares the two, purely, and guards what it found: only an approved plan can be applied.
//! 4. [`reconcile::apply`] sends one update per changed provider and verifies each answer.
//! 5. [`report`] makes documents of what happened, and [`render`] prints them.
//!
//! [`pull`] goes the other way: live state to files, for who begins with this, or adopts a drift.
//!
//! [`reconcile`] is that order in code; [`cli`] walks it once and [`daemon`] for ever, which [`ops`] shows to operators. [`model`] is
//! the vocabulary of all of them, [`http`] is what all of them call others by, [`reconcile::plan_file`] is a plan that was reviewed,
//! and [`sandbox`] a Calry of one's own to try it on.
//!
//! What a hostile pull request may do, and what not, is told in [`threat_model`].
//!
//! # Imports
//!
//! Data flows one way. A module may import itself and:
//!
//! | module | may import |
//! | --- | --- |
//! | `model` | nothing |
//! | `http`, `plan`, `sandbox` | `model` |
//! | `desired::secrets`, `desired::watch` | `model`, `desired::definitions` |
//! | `desired::definitions` | `model`, `desired::secrets` |
//! | `desired::git` | `model`, `desired::definitions` |
//! | `live` | `model`, `http` |
//! | `reconcile` | `model`, `http`, `desired`, `live`, `plan` |
//! | `pull` | `model`, `desired`, `plan` |
//! | `report` | `model`, `plan`, `reconcile` |
//! | `render` | `model`, `plan`, `pull`, `reconcile`, `report` |
//! | `daemon` | `model`, `http`, `desired`, `live`, `plan`, `reconcile`, `report` |
//! | `ops::telemetry` | `model`, `http` |
//! | `ops::notifications` | `model`, `http`, `desired`, `live`, `plan`, `reconcile`, `report`, `daemon` |
//! | `ops::metrics` | `model`, `http`, `desired`, `live`, `plan`, `reconcile`, `report`, `daemon`, `ops::notifications` |
//! | `ops::kubernetes` | `model`, `reconcile`, `report`, `daemon`, `ops::notifications` |
//! | `ops::admin` | `model`, `http`, `live`, `plan`, `report`, `daemon`, `ops::metrics` |
//! | `cli` | everything; nothing imports it |
//!
//! `tests/architecture.rs` checks the code against this table.

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

pub mod cli;
pub mod daemon;
pub mod desired;
pub mod http;
pub mod live;
pub mod model;
pub mod ops;
pub mod plan;
pub mod pull;
pub mod reconcile;
pub mod render;
pub mod report;
pub mod sandbox;
#[doc = include_str!("threat_model.md")]
pub mod threat_model {}
