//! A store: a directory of images that are written, their snapshots and clones.
//!
//! `map` and `catalog` decide, as values. The other files carry out what is decided, outside of any ring: for
//! the commands, and while a server starts. What a server does with an image is `backend::image`.
#![forbid(unsafe_code)]

pub(crate) mod base;
pub(crate) mod catalog;
mod chain_reader;
mod change_walk;
mod changed;
mod changed_files;
pub(crate) mod checking;
mod chunk_owners;
pub(crate) mod collect;
pub(crate) mod collected;
mod collection_bug;
pub(crate) mod collection_pins;
mod composed_layer;
pub(crate) mod contents;
pub(crate) mod contents_error;
pub(crate) mod copy;
mod crc;
mod damage_notes;
pub(crate) mod delta;
pub(crate) mod describe;
pub(crate) mod directory;
pub(crate) mod error;
pub(crate) mod export;
mod garbage;
pub(crate) mod image_path;
pub(crate) mod import;
mod index;
pub(crate) mod ingest;
pub(crate) mod ingest_counts;
pub(crate) mod layer_copy;
pub(crate) mod layer_files;
pub(crate) mod layer_place;
mod lock;
mod making;
pub(crate) mod manifest;
pub(crate) mod map;
pub(crate) mod map_files;
pub(crate) mod map_medium;
mod map_reader;
mod map_writer;
pub(crate) mod maps;
mod marking;
pub(crate) mod merging;
mod moved_chunks;
pub(crate) mod open_store;
pub(crate) mod pack;
mod pack_filling;
mod pack_life;
pub(crate) mod pack_shelf;
pub(crate) mod packed_gauges;
mod packed_space;
pub(crate) mod packs;
pub(crate) mod pending;
mod ratio;
pub(crate) mod rebasing;
pub(crate) mod rebuilding;
mod redb_errors;
pub(crate) mod request;
mod reserve_file;
pub(crate) mod scrub;
pub(crate) mod serving;
pub(crate) mod shuru;
mod space_notes;
mod structure;
#[cfg(test)]
mod tests;
pub(crate) mod tracking;
pub(crate) mod unfinished;
mod upkeep;
mod whole;
pub(crate) mod worker;
