//! What the server is asked to do. A leaf; no I/O.
//!
//! Flags and file become [`Settings`], which say what a person asked for; [`Config::resolve`] fits them to the machine.
#![forbid(unsafe_code)]

pub mod cpus;
pub mod export;
pub mod export_uri;
pub mod fault_options;
pub mod limits;
pub mod listen;
mod memory;
pub mod resolve;
pub mod sandbox;
pub mod settings;
pub mod size;
mod toml_words;

pub use export::ExportConfig;
pub use export_uri::{ExportUri, Locking};
pub use fault_options::FaultOptions;
pub use limits::{Limits, Pinning, Shutdown};
pub use listen::{AdminAddress, ListenAddress};
pub use resolve::{Config, Machine};
pub use sandbox::{RunAs, SandboxMode};
pub use settings::{LogFormat, Settings};
