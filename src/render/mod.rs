//! Plans, reports and problems to text and JSON. Data in, string out: nothing here prints, reads or decides.
//!
//! What it never does: see a secret. It is given types that hold none, or that have no way to show one; masking is by
//! position, before rendering.

mod diagnostics;
pub mod github;
pub mod markdown;
pub mod pull;
pub mod sarif;
pub mod status;
pub mod text;
mod view;
pub(crate) mod yaml;

pub use diagnostics::diagnostics;

/// A file for a forge, which knows it by its path from the root of the repository, as the directory is given.
fn path_from_root(directory: &str, file: &str) -> String {
    if directory.is_empty() {
        file.to_owned()
    } else {
        format!("{directory}/{file}")
    }
}
