//! What stores have fetched of packs that are on tiers.

use super::page::Page;

/// Of one store, since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TierStats {
    /// Requests that were answered, and their bytes.
    pub(crate) fetches: u64,
    pub(crate) fetched_bytes: u64,
    /// Attempts that were not answered as they should be.
    pub(crate) failed: u64,
    /// Reads that failed because of it.
    pub(crate) gave_up: u64,
    /// Ranges that came again because they did not verify.
    pub(crate) wrong: u64,
    /// Reads that waited, and for how long.
    pub(crate) waits: u64,
    pub(crate) waited_ns: u64,
    pub(crate) evicted_bytes: u64,
    /// What the caches take now.
    pub(crate) cached_bytes: u64,
}

/// Of stores that have packs on tiers, by their labels.
pub(super) fn tiers(page: &mut Page, stores: &[(&str, TierStats)]) {
    if stores.is_empty() {
        return;
    }
    let mut family = |name: &str, kind: &'static str, help: &str, value: fn(&TierStats) -> u64| {
        page.values(name, kind, help, "store", stores.iter().map(|(label, stats)| (*label, value(stats))));
    };
    let help = "Requests for parts of packs that a tier has answered.";
    family("ringnbd_tier_fetches_total", "counter", help, |stats| stats.fetches);
    let help = "Bytes of packs that came from a tier.";
    family("ringnbd_tier_fetched_bytes_total", "counter", help, |stats| stats.fetched_bytes);
    let help = "Requests that a tier has not answered, or with another number of bytes.";
    family("ringnbd_tier_failed_fetches_total", "counter", help, |stats| stats.failed);
    let help = "Reads that failed because a tier did not answer in time.";
    family("ringnbd_tier_failed_reads_total", "counter", help, |stats| stats.gave_up);
    let help = "Parts of packs that did not verify and were fetched again.";
    family("ringnbd_tier_wrong_bytes_total", "counter", help, |stats| stats.wrong);
    let help = "Reads that waited for a tier.";
    family("ringnbd_tier_waits_total", "counter", help, |stats| stats.waits);
    let help = "Nanoseconds that reads waited for a tier.";
    family("ringnbd_tier_waited_nanoseconds_total", "counter", help, |stats| stats.waited_ns);
    let help = "Bytes of caches that were given back, because all together took too much.";
    family("ringnbd_tier_evicted_bytes_total", "counter", help, |stats| stats.evicted_bytes);
    let help = "Bytes that the caches of packs take on the disk.";
    family("ringnbd_tier_cached_bytes", "gauge", help, |stats| stats.cached_bytes);
}
