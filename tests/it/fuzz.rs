//! The fuzz targets with every input of their corpora, without a fuzzer.

use std::path::Path;

#[allow(unreachable_pub)]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

#[test]
fn every_input_of_the_corpora_has_the_properties() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, _) in targets::TARGETS {
        let inputs = std::fs::read_dir(corpora.join(target)).unwrap();
        let inputs: Vec<_> = inputs.map(|input| input.unwrap().path()).collect();
        assert!(!inputs.is_empty(), "{target} has no corpus");
        for input in inputs {
            // Shown if it fails.
            println!("{}", input.display());
            targets::run(target, &std::fs::read(&input).unwrap());
        }
    }
}
