//! Worlds with a simulated object store: hosts that push, take names over, clone, are killed and started
//! again, and collectors.

mod store;
mod world;
mod worlds;
