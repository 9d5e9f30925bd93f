//! What a device that stands on another NBD server has to decide: when to connect, what to send again, what
//! may be lost.
//!
//! It knows no socket, no protocol and no clock. The time is an argument, counted from any fixed moment.
#![cfg_attr(not(test), expect(dead_code, reason = "the connections that use it are not there yet"))]

mod facts;
mod reconnect;
mod unanswered;
mod unflushed;
