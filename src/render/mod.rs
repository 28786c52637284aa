//! Plans, reports and problems to text and JSON. Data in, string out: nothing here prints, reads or decides.
//!
//! What it never does: see a secret. It is given types that hold none, or that have no way to show one; masking is by
//! position, before rendering.

mod diagnostics;
pub mod github;
pub mod json;
pub mod markdown;
pub mod page;
pub mod pull;
pub mod sarif;
pub mod status;
pub mod text;
mod view;

pub use diagnostics::diagnostics;

/// Where a file is for a forge, which knows no `./`: from the root of the repository, in which commands run there.
fn path_from_root(directory: &str, file: &str) -> String {
    match directory.trim_end_matches('/').trim_start_matches("./") {
        "" | "." => file.to_owned(),
        directory => format!("{directory}/{file}"),
    }
}
