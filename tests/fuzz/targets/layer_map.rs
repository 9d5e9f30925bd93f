//! The map of a layer out of any bytes: no panic, no allocation without a bound.
//!
//! Input: a byte for what is made right (checksums, superblocks), then the file's bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ringnbd::internal::store::use_arbitrary(data));
