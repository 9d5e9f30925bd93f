//! Abuse: clients that stall, flood, lie and leave. Memory stays under its cap, a good client beside them is served, nothing leaks.
//!
//!     cargo test --test abuse -- --nocapture                          prints the figures too
//!     RINGNBD_ABUSE_FIGURES=1 cargo test --test abuse -- --nocapture --test-threads=1
//!                                                                     longer, and asserts 0.8 of the good client's speed

mod support;

#[path = "abuse/floods.rs"]
mod floods;
#[path = "abuse/good.rs"]
mod good;
#[path = "abuse/handshakes.rs"]
mod handshakes;
#[path = "abuse/hoards.rs"]
mod hoards;
#[allow(dead_code, reason = "it is shared with tests/admin.rs")]
#[path = "admin/http.rs"]
mod http;
#[path = "abuse/siege.rs"]
mod siege;
#[path = "abuse/slow.rs"]
mod slow;
#[path = "abuse/tls.rs"]
mod tls;
