//! The command line of calry-gitops. Everything is in the library; this returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    calry_gitops::cli::main()
}
