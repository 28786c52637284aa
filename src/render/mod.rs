//! Plans, reports and problems to text and JSON. Data in, string out: nothing here prints, reads or decides.
//!
//! What it never does: see a secret. It is given types that hold none, or that have no way to show one; masking is by
//! position, before rendering.

mod diagnostics;
pub mod github;
pub mod json;
pub mod markdown;
pub mod text;
mod view;

pub use diagnostics::diagnostics;
