//! The configuration file: every problem is inside of it and safe to show, and the value of an unknown key, which may be a
//! secret, is not quoted.

use calry_gitops::cli::configuration_problems;

use super::sections::{CANARY, check_problems};

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let problems = configuration_problems("config.yaml", text.to_owned());
    let shown = check_problems(&problems, |_| Some(text.to_owned()));
    let unknown = |line: &str| line.starts_with("apiKey: ") || line.starts_with("token: ");
    let mut canaries = text.lines().filter(|line| line.contains(CANARY));
    if canaries.all(unknown) {
        for text in shown {
            assert!(
                !text.contains(CANARY),
                "the value of an unknown key in {text}"
            );
        }
    }
}
