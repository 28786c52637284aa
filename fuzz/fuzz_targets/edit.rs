#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| calry_gitops_fuzz::run("edit", input));
