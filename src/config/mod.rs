//! What the server is asked to do: exports and limits. A leaf; no I/O.

pub mod limits;

pub use limits::Limits;
