//! Backends: what carries out requests. An asserting gate stands in front of each.
//!
//! No protocol here: ranges, flags and leases come in, leases and errors go out.
#![forbid(unsafe_code)]

mod abandon;
mod allocation;
mod application;
mod application_kind;
mod at_once;
mod cache;
mod changes;
mod context;
mod device;
mod durability;
mod export;
mod export_id;
mod fault;
mod file;
mod file_store;
mod image;
mod inode;
mod kind;
mod known_data;
mod launch;
mod lock;
mod memory;
mod open_error;
mod page_cache;
mod passed;
mod prefetch;
mod prepared;
mod registered;
mod remote;
#[cfg(feature = "sim")]
pub use remote::SimulatedWay;
mod resizing;
mod shared_parts;
mod single_read;
mod steps;
#[cfg(test)]
pub(crate) mod testing;
mod trust;
mod unaligned;
mod workers;
mod zeroing;

pub(crate) use abandon::Abandon;
pub(crate) use application::Outstanding;
pub use application::{
    ApplicationDevice, BlockingDevice, DeviceQueue, DeviceRequest, FastDevice, Immediate, Preview,
};
pub(crate) use at_once::{AtOnce, Glance};
pub(crate) use context::ShardContext;
pub(crate) use device::Device;
pub(crate) use export::Backing;
pub use export::Export;
pub use export_id::ExportId;
pub(crate) use export_id::FILES_PER_EXPORT;
pub(crate) use image::ServedStore;
pub use image::{
    GrowOutcome, GrowTask, HomeTask, ImageHandle, NextHead, RecordOutcome, SealFailure, SealMember, SealTask,
    ShortenOutcome, ShortenTask, ShorterChain, SnapshotError, SnapshotRecord, look_at_remote_base,
    seal_group, sealing,
};
#[cfg(feature = "sim")]
pub use image::{SimulatedBlock, SimulatedImage, SimulatedLayer};
pub use launch::LaunchCommand;
pub(crate) use open_error::OpenError;
pub(crate) use page_cache::Standing;
pub(crate) use passed::PassedExport;
pub(crate) use prepared::{FilePurpose, PreparedFile, WantedFile};
pub(crate) use resizing::ResizeError;
pub(crate) use shared_parts::SharedParts;
pub(crate) use single_read::SingleRead;
pub(crate) use trust::Trust;
