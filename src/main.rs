//! The command line of calry-gitops.

fn main() {}
