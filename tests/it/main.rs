//! The black-box tests, in one binary: most run the real binary against the sandbox over HTTP.

// A panic is how a test fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod admin;
mod apply;
mod architecture;
mod ask;
mod backups;
mod branch;
mod canary;
mod catalogue;
mod cli;
mod config;
mod daemon;
mod encrypted;
mod expiry;
mod faults;
mod formats;
mod freeze;
mod fuzz;
mod git_source;
mod history;
mod hooks;
mod hostile;
mod leadership;
mod links;
mod load;
mod metrics;
mod notifications;
mod plan_properties;
mod policies;
mod pull;
mod pull_properties;
mod reference;
mod release;
mod remote;
mod review;
mod revision;
mod saved;
mod schema;
mod shared;
mod signatures;
mod snapshot;
mod soak;
mod state;
mod status;
mod stop;
mod support;
mod telemetry;
mod threats;
mod traps;
mod watch;
mod workspace;
