//! See the module.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../inputs/server_socket.rs"]
mod server_socket;

fuzz_target!(|data: &[u8]| server_socket::run(data));
