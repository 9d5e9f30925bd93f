//! Requests, whatever protocol brought them.

pub(crate) mod serve;
pub(crate) mod table;
