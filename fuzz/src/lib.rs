//! What the fuzz targets check. Each target is a function that panics if a property does not hold for an input.
//!
//! `fuzz_targets` gives them to libFuzzer, and `tests/it/fuzz.rs` runs them with every input in `corpus`.

mod configuration;
mod definitions;
mod edit;
mod hooks;
mod plan;
mod render;
mod saved_plan;
mod sections;
mod signatures;
mod snapshot;
mod state_file;
mod status;

/// Checks one input.
pub type Target = fn(&[u8]);

/// Every target, by its name.
pub const TARGETS: [(&str, Target); 11] = [
    ("configuration", configuration::check),
    ("definitions", definitions::check),
    ("edit", edit::check),
    ("hooks", hooks::check),
    ("plan", plan::check),
    ("render", render::check),
    ("saved_plan", saved_plan::check),
    ("signatures", signatures::check),
    ("snapshot", snapshot::check),
    ("state_file", state_file::check),
    ("status", status::check),
];

/// Runs one target.
pub fn run(name: &str, input: &[u8]) {
    let (_, target) = TARGETS
        .iter()
        .find(|(target, _)| *target == name)
        .expect("a target of that name");
    target(input);
}
