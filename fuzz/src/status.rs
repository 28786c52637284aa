//! The answer of a daemon to `status`: whatever it says, the text is safe to show, and the document is kept as it is.

use calry_gitops::render;
use calry_gitops::report::json;
use calry_gitops::report::status::Status;

use super::sections::{assert_printable, assert_printable_with_colours};

pub(crate) fn check(input: &[u8]) {
    let Ok(status) = serde_json::from_slice::<Status>(input) else {
        return;
    };
    let document = json::pretty(&status);
    assert_printable(&document);
    let again: Status = serde_json::from_str(&document).expect("what it wrote itself");
    assert_eq!(json::pretty(&again), document);
    for seconds in [0, 1_767_225_600, -377_705_023_201, 253_402_207_200] {
        let now = jiff::Timestamp::from_second(seconds).expect("a time");
        assert_printable_with_colours(&render::status::text(&status, now));
    }
}
