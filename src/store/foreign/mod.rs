//! Packs that other stores have written. Their bytes are on a tier, and come when they are read.
//!
//! ```text
//! reader ► PackReader ► PlacedFile ─ Whole: packs/<n>.pack
//!                                 └ Partial: packs/<n>.part, a sparse file; what is missing is a hole
//!                                      └ TierFetching: attempts, outages, counts ► RangeSource
//! ```
//!
//! * *What is here* is what the file system says: pages that are no holes. Nothing else is kept, so nothing
//!   can contradict it. After a power cut a page may read as zeroes that was here: like any other wrong
//!   bytes it does not verify.
//! * *Nothing is believed.* A reader verifies each chunk, by checksums and its name. What does not fit is
//!   fetched again, up to four times, in place of what is here, and then it is an error.
//! * *One GET.* Who needs pages that are on their way waits for them ([`PartialPack`]).
//! * *A limit.* Whoever needs bytes waits for them as long as the limit says, 30 s. When the tier has not
//!   answered anybody for that long, each further read tries once and fails: what waits in line must not
//!   wait for each other's limits. A tier that asks for less has answered, and is waited for longer, 300 s.
//! * *A cap.* The caches of all packs take at most so many bytes. The one that was used longest ago gives its
//!   chunks back ([`ForeignPacks`]).
//!
//! Hints in nodes of such a pack are numbers of the store that wrote it. They become numbers of this store
//! when a node is read. One of a pack that is not known here is none, and the chunk is looked for.

mod bucket_source;
mod clock;
mod directory_source;
mod fetching;
mod ledger;
mod outage;
mod partial;
mod placed;
mod present;
mod registry;
mod run_ahead;
mod source;
#[cfg(test)]
pub(crate) mod tests;
mod tier_sources;

pub(crate) use fetching::TierLimits;
#[cfg(test)]
pub(in crate::store) use outage::{FetchAttempts, TierOutage};
pub(crate) use partial::PartialPack;
pub(crate) use placed::{PlacedFile, PlacedPack};
pub(in crate::store) use present::present_ranges;
pub(crate) use registry::{ForeignPacks, TierFigures};
pub(crate) use source::{RangeSource, SourceError};
pub(crate) use tier_sources::{TierSources, is_of_network, open_source};
