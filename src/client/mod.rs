//! The NBD client: URIs, connections, and what a server tells about its exports.

pub mod uri;
