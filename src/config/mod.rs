//! What the server is asked to do: exports and limits. A leaf; no I/O.

mod errno;
pub mod export_uri;
pub mod fault_options;
pub mod limits;
pub mod size;

pub use export_uri::ExportUri;
pub use fault_options::{FaultCommand, FaultOptions};
pub use limits::Limits;
