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
//! # Who may import whom
//!
//! | room | may import |
//! | --- | --- |
//! | `model` | nothing |
//! | `http` | `model` |
//! | `desired`, `plan`, `sandbox` | `model` |
//! | `live` | `model`, `http` |
//! | `pull` | `model`, `desired`, `plan` |
//! | `report` | `model`, `plan`, `reconcile` |
//! | `render` | `model`, `plan`, `reconcile`, `pull`, `report` |
//! | `reconcile` | `model`, `desired`, `http`, `live`, `plan` |
//! | `daemon` | all of these but `sandbox` and `render` |
//! | `ops` | `model`, `desired`, `http`, `live`, `plan`, `reconcile`, `report`, `render`, `daemon` |
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
