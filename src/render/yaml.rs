//! Writes YAML, for diffs and the printed configuration; reading is for `desired::definitions::yaml`.
//!
//! `serde_yaml` is no longer maintained. Its maintained fork `yaml_serde` has the same functions; a switch changes only this
//! file and the dependency.

use serde::Serialize;

/// A value of maps, lists, strings and booleans as YAML.
#[expect(
    clippy::expect_used,
    reason = "only maps with other keys than strings cannot be written"
)]
pub(crate) fn to_yaml(value: &(impl Serialize + ?Sized)) -> String {
    serde_yaml::to_string(value).expect("maps, lists, strings and booleans can be written")
}
