//! What the other process of a hand-over says, out of any bytes: no panic, no allocation without a bound, and what is understood says
//! the same when it is written again.
//!
//! Input: messages, one after the other.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ringnbd::internal::control::read_arbitrary(data));
