//! NBD on a socket: received bytes become requests, answers become replies.

mod answer;
pub(crate) mod batches;
mod begin;
mod close;
pub(crate) mod closing;
pub(crate) mod connection;
mod gated;
pub(crate) mod hang_up;
pub(crate) mod hold;
mod immediate;
pub(crate) mod leaving;
pub(crate) mod linger;
#[cfg(not(feature = "tls"))]
pub(crate) mod no_tls;
pub(crate) mod outbound;
#[cfg(feature = "tls")]
mod records;
pub(crate) mod reply;
#[cfg(feature = "tls")]
pub(crate) mod secure;
pub(crate) mod single;
pub(crate) mod slow_send;
pub(crate) mod throttled;
#[cfg(feature = "tls")]
pub(crate) mod tls_stage;
mod unparsed;

#[cfg(not(feature = "tls"))]
pub(crate) use no_tls::LeavingSecure;
#[cfg(not(feature = "tls"))]
pub(crate) use no_tls::Secure;
#[cfg(not(feature = "tls"))]
pub use no_tls::Secured;
#[cfg(feature = "tls")]
pub(crate) use secure::LeavingSecure;
#[cfg(feature = "tls")]
pub(crate) use secure::Secure;
#[cfg(feature = "tls")]
pub use secure::Secured;
