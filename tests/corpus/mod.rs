//! The kept inputs of the fuzzer's targets that need the whole server, without the fuzzer: `tests/fuzz/run` builds all that the server
//! stands on a second time.

use std::fs;
use std::path::Path;

#[path = "../fuzz/inputs/server_socket.rs"]
mod server_socket;

/// Feeds each kept input of a target; how many there are.
fn replay(target: &str, run: impl Fn(&[u8])) -> usize {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let inputs = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let inputs = inputs.map(|input| input.unwrap().path()).inspect(|input| {
        // The last line before a panic says which.
        println!("{}", input.display());
        run(&fs::read(input).unwrap());
    });
    inputs.count()
}

#[test]
fn kept_sessions_are_answered() {
    assert!(replay("server_socket", server_socket::run) > 50);
}

#[test]
fn kept_layers_are_read_without_a_panic() {
    assert!(replay("layer_map", ringnbd::internal::store::use_arbitrary) > 20);
}

#[test]
fn kept_messages_of_hand_overs_are_read_without_a_panic() {
    assert!(replay("handover", ringnbd::internal::control::read_arbitrary) > 10);
}

#[test]
fn kept_handshakes_and_records_of_tls_are_read_without_a_panic() {
    assert!(replay("tls", ringnbd::internal::tls::use_arbitrary) > 20);
}
