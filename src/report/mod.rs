//! The documents of plans, reports and status, and their words: for everything that prints, serves or stores them.
//!
//! Never: hold a value below `partnerKey`. The documents are made of types that have no way to show one.

pub mod catalogue;
pub mod consequences;
pub mod health;
pub mod history;
pub mod json;
pub mod links;
pub mod plan;
pub mod status;
pub mod words;
