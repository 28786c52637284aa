//! calry-gitops keeps the integration definitions of a Calry workspace equal to a directory of YAML files in git.
//!
//! # A reconciliation, in the order in which the code reads
//!
//! 1. [`desired`] loads the files to desired state, with every problem at its line.
//! 2. [`live`] fetches the workspace and its definitions over [`http`]: two requests, whatever the number of providers.
//! 3. [`plan`] compares the two, without I/O, and guards the result, with the operator's [`policies`]: only an approved plan can
//!    be applied.
//! 4. [`reconcile::apply`] sends one update for each changed provider and verifies each answer.
//! 5. [`report`] makes documents of the result, and [`render`] prints them.
//!
//! [`reconcile`] holds that order. [`cli`] runs it once, [`daemon`] again and again, and [`ops`] shows the daemon to
//! operators. [`pull`] is the way back, from live state to files. [`model`] is the vocabulary of all modules, and [`sandbox`]
//! a local Calry.
//!
//! [`threat_model`] says what a hostile pull request can do, and what it cannot.
//!
//! # Imports
//!
//! Data flows one way; only `desired::definitions` and `desired::secrets` use each other. A module may import itself and:
//!
//! | module | may import |
//! | --- | --- |
//! | `machine`, `model` | nothing |
//! | `http` | `machine`, `model` |
//! | `plan`, `sandbox` | `model` |
//! | `desired::encrypted` | `model` |
//! | `desired::secrets` | `model`, `desired::definitions`, `desired::encrypted` |
//! | `desired::watch` | `model`, `desired::definitions`, `desired::encrypted` |
//! | `desired::definitions` | `model`, `desired::secrets`, `desired::encrypted` |
//! | `desired::git` | `model`, `http`, `desired::definitions`, `desired::encrypted` |
//! | `live` | `model`, `http` |
//! | `policies` | `model`, `desired::definitions`, `plan` |
//! | `reconcile` | `machine`, `model`, `http`, `desired`, `live`, `plan`, `policies` |
//! | `pull` | `model`, `desired`, `plan` |
//! | `report` | `model`, `plan`, `reconcile` |
//! | `render` | `model`, `plan`, `pull`, `reconcile`, `report` |
//! | `daemon` | `machine`, `model`, `http`, `desired`, `live`, `plan`, `reconcile`, `report` |
//! | `ops::telemetry` | `model`, `http` |
//! | `ops::notifications` | `model`, `http`, `desired`, `plan`, `reconcile`, `report`, `daemon` |
//! | `ops::history` | `machine`, `model`, `plan`, `reconcile`, `report`, `daemon`, `ops::notifications` |
//! | `ops::metrics` | `model`, `desired`, `live`, `plan`, `reconcile`, `report`, `daemon`, `ops::notifications` |
//! | `ops::kubernetes` | `machine`, `model`, `reconcile`, `report`, `daemon`, `ops::notifications` |
//! | `ops::admin` | `model`, `http`, `plan`, `report`, `daemon`, `ops::metrics` |
//! | `cli` | everything; nothing imports it |
//!
//! `tests/it/architecture.rs` checks the code against this table.

pub mod cli;
pub mod daemon;
pub mod desired;
pub mod http;
pub mod live;
pub mod machine;
pub mod model;
pub mod ops;
pub mod plan;
pub mod policies;
pub mod pull;
pub mod reconcile;
pub mod render;
pub mod report;
pub mod sandbox;
#[doc = include_str!("threat_model.md")]
pub mod threat_model {}
