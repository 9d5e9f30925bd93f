//! TLS of any client: its handshake, its records, and what may be inside of them.
//!
//! Input: a byte for which of them and for how they are cut, then the bytes. Or both sides are ours, and the input says how what they say is
//! cut and changed on the way.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ringnbd::internal::tls::use_arbitrary(data));
