//! Images on an object store: what lies there, and how hosts change it side by side.
//!
//! ```text
//! PREFIX/tier.json                          what the tier is, and how its chunks are named
//! PREFIX/packs/<store>/<number>.pack        a pack of a store, as its file is; never changed
//! PREFIX/images/<name>/owner.json           who may write the name, and its snapshots
//! PREFIX/images/<name>/records/<id>.json    one push: the contents of a snapshot, and their packs
//! PREFIX/holds/<store>/<name>.json          packs that an image of a store reads, which was not pushed
//! PREFIX/publish/<name>.json                a name for everybody, of one snapshot
//! PREFIX/trash/<store>/<number>.json        how far a pack is on its way to deletion
//! PREFIX/boot-traces/<snapshot>.json        what boots of a snapshot have read: a hint
//! ```
//!
//! Objects are either never changed, or small and changed by conditional PUTs alone: [`Objects`] has no other
//! ones. Whoever gets no answer to a PUT does not know whether it took place, so nothing is decided by
//! answers: each change reads the object, decides what is still to be done, and tries again
//! ([`change`]).
//!
//! # Why no snapshot loses a pack
//!
//! A push writes its record *first*, then looks at the trash marks of the packs it names, then makes sure
//! that they are there, and commits: it puts the record's id into `owner.json`. A collector marks a pack that
//! no record names, waits for the grace time, looks at all records again, and only then takes the mark from
//! *marked* to *deleting*, which is for ever. If the collector's second look does not see a record, the
//! record was written after the mark (a listing may lag, by less than the grace time). Then the push finds
//! the mark, and takes it to *rescued*; or it finds *deleting*, and uploads the pack under a further name.
//! Both change the mark by a conditional PUT, so one of them loses and looks again. No clock takes part.
//!
//! # Why a name has one writer
//!
//! Taking a name over and committing a snapshot are both conditional PUTs of `owner.json`. A push that was
//! begun under an older owner fails at its commit, whatever it was told before.
#![forbid(unsafe_code)]

pub mod begin;
#[cfg(feature = "tier")]
mod bucket;
mod bug;
mod change;
mod client;
pub mod collect;
mod counted;
mod directory;
mod error;
pub mod keys;
#[cfg(feature = "tier")]
mod known_hosts;
#[cfg(test)]
pub(crate) mod made_up;
mod marks;
mod names;
mod objects;
mod opening;
pub mod own;
pub mod pin;
pub mod push;
pub mod records;
#[cfg(feature = "tier")]
mod remote;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod sim;
mod together;
pub mod uri;
pub mod verify;
mod waiting;
pub mod withdraw;

#[cfg(all(test, feature = "tier"))]
pub(crate) use bucket::tries_of_the_crate;
pub use client::TierClient;
pub use counted::{CountedObjects, ObjectCounts};
pub use directory::DirectoryObjects;
pub use error::TierError;
pub use objects::{
    ObjectError, ObjectFuture, ObjectMeta, ObjectVersion, Objects, PackBytes, PackUpload, PutIf, Sent,
    TierObject,
};
pub use waiting::{TierWaiting, run, spread, spread_by};
