//! ringnbd
#![deny(unsafe_code)]
