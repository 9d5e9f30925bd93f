//! Front-ends: how requests come and how their answers leave. There is one, NBD on a socket.

pub(super) mod nbd;
