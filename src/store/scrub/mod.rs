//! All packs of a store are read past the page cache and verified: each payload by its checksums and its
//! name, headers and footers, and that nothing is where nobody has anything. So each bit of a pack counts.
//!
//! It changes nothing, so it needs no lock: what a server has is looked at beside it. It goes on where an
//! earlier one was interrupted: the [notes](super::damage_notes) say where, and which chunks were damaged.
//!
//! What is damaged is told with the images and snapshots that need it, and where on their disks
//! ([`uses`]). A chunk of which a good copy is found somewhere is written again ([`repair`]).

mod copies;
mod repair;
mod report;
mod scan;
#[cfg(test)]
mod tests;
mod uses;

pub use report::{ChunkUse, DamagedChunk, ScrubReport, UnusablePack};
pub use scan::ScrubOptions;
