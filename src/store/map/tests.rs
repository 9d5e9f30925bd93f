//! The map as a whole: what survives a cut at every step of a file whose unsynced sectors may each be lost.

mod file;
mod killed;
mod left;
mod log_memory;
mod model;
mod random;
mod shell;
mod whole;
