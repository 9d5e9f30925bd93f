//! What the server is asked to do. A leaf; no I/O.
//!
//! Flags and file become [`Settings`], which say what a person asked for; [`Config::resolve`] fits them to
//! the machine.
#![forbid(unsafe_code)]

mod attach;
pub(crate) mod command_uri;
pub(crate) mod cpus;
pub(crate) mod difference;
mod error;
pub(crate) mod export;
pub(crate) mod export_change;
pub(crate) mod export_uri;
pub(crate) mod fault_options;
pub(crate) mod image_uri;
pub(crate) mod limits;
pub(crate) mod listen;
mod memory;
pub(crate) mod rate;
pub(crate) mod reload_plan;
mod remote_uri;
pub(crate) mod resolve;
mod rights;
pub(crate) mod sandbox;
pub(crate) mod settings;
pub(crate) mod size;
pub(crate) mod tls;
mod toml_words;
pub(crate) mod uri_parts;
pub(crate) mod weight;

pub use attach::AttachConfig;
pub use command_uri::CommandUri;
pub use export::ExportConfig;
pub(crate) use export::ExportDefaults;
pub use export_uri::ExportUri;
pub(crate) use export_uri::Locking;
pub(crate) use fault_options::FaultOptions;
pub(crate) use image_uri::{BasePlace, ImagePlace, ImageUri, VerifyChunks};
pub use limits::{Limits, Pinning, Shutdown};
pub use listen::{AdminAddress, ControlAddress, ListenAddress};
pub use rate::RateLimits;
pub(crate) use rate::{ExportRates, TenantConfig};
pub(crate) use rate::{RATE_NAMES, Rate, RateScope, RateUnit};
pub(crate) use remote_uri::RemoteUri;
pub use resolve::{Config, Machine};
pub use sandbox::{RunAs, SandboxMode};
pub use settings::{LogFormat, Settings};
pub use tls::{OldestTls, TlsPolicy, TlsSettings};
#[cfg(feature = "tls")]
pub(crate) use tls::{TlsConfig, TlsFile};
pub use weight::Weight;
