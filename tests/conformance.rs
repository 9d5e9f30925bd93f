//! Byte-by-byte conformance: every statement of what a correct NBD server does is a test whose name begins with the
//! statement's id. The tests speak to the real binary over a socket and share no code with it.

mod support;

#[path = "conformance/common.rs"]
mod common;
#[path = "conformance/concurrency.rs"]
mod concurrency;
#[path = "conformance/crowd.rs"]
mod crowd;
#[path = "conformance/durability.rs"]
mod durability;
#[path = "conformance/export.rs"]
mod export;
#[path = "conformance/extended.rs"]
mod extended;
#[path = "conformance/faults.rs"]
mod faults;
#[path = "conformance/haggling.rs"]
mod haggling;
#[path = "conformance/handshake.rs"]
mod handshake;
#[path = "conformance/images.rs"]
mod images;
#[path = "conformance/meta.rs"]
mod meta;
#[path = "conformance/refusal.rs"]
mod refusal;
#[path = "conformance/requests.rs"]
mod requests;
#[path = "conformance/shutdown.rs"]
mod shutdown;
#[path = "conformance/status.rs"]
mod status;
#[path = "conformance/structured.rs"]
mod structured;
#[path = "conformance/zeroes.rs"]
mod zeroes;

/// The list of statements and the tests named after them agree; `tests/coverage` prints the count.
#[test]
fn every_statement_has_a_test() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/coverage");
    let output = std::process::Command::new(script).output().expect("run tests/coverage");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
