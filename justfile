# List the commands.
default:
    @just --list

# Check formatting, lints and documentation.
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

# Run the Rust tests, for example: just test apply::
test *args:
    cargo test --locked {{args}}

# Run everything that must pass before a change lands.
gate *args:
    .ci/run {{args}}
