//! Desired state: the definition files, the git commit they come from, and their secrets.

pub mod definitions;
pub mod encrypted;
pub mod git;
pub mod secrets;
pub mod watch;
