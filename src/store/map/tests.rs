//! The map as a whole: what survives a cut at every step of a file whose unsynced sectors may each be lost.

mod cost;
mod file;
mod growth;
mod killed;
mod left;
mod log_memory;
mod model;
mod random;
mod shell;
mod whole;
