//! What stores bring to their tiers without being asked for.

use super::page::Page;

/// Of one store, since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UploadStats {
    /// Snapshots by what became of their push.
    pub(crate) pushed: u64,
    pub(crate) failed: u64,
    /// Another store has the name.
    pub(crate) refused: u64,
    /// Packs that came as a whole, and their bytes.
    pub(crate) packs: u64,
    pub(crate) bytes: u64,
    /// Bytes that were sent, also of uploads that were cut.
    pub(crate) sent_bytes: u64,
    pub(crate) retries: u64,
    /// Requests by kind and outcome.
    pub(crate) requests: Vec<(&'static str, &'static str, u64)>,
    /// Snapshots that wait, and images that another store has taken over.
    pub(crate) queue: u64,
    pub(crate) lost_images: u64,
    pub(crate) is_paused: bool,
    /// In seconds since 1970; 0 before the first.
    pub(crate) last_success_s: u64,
    /// What the loss of the host would cost, as it was counted last.
    pub(crate) lag_bytes: u64,
    pub(crate) lag_s: u64,
    /// The same of single images: those that would lose most.
    pub(crate) images: Vec<ImageLagStats>,
}

/// How far the tier is behind an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageLagStats {
    pub(crate) image: String,
    pub(crate) bytes: u64,
    pub(crate) seconds: u64,
}

/// Of stores that do so, by their labels.
pub(super) fn uploads(page: &mut Page, stores: &[(&str, &UploadStats)]) {
    if stores.is_empty() {
        return;
    }
    let name = "ringnbd_tier_pushes_total";
    page.family(
        name,
        "counter",
        "Snapshots that were to come to the tier by themselves, by what became of it.",
    );
    for (store, stats) in stores {
        let UploadStats { pushed, failed, refused, .. } = stats;
        for (outcome, count) in [("pushed", pushed), ("failed", failed), ("refused", refused)] {
            page.sample(name, &[("store", store), ("outcome", outcome)], *count);
        }
    }
    let name = "ringnbd_tier_requests_total";
    page.family(name, "counter", "Requests to the tier for that, by their kind and what became of them.");
    for (store, stats) in stores {
        for (kind, outcome, count) in &stats.requests {
            let labels = [("store", *store), ("kind", kind), ("outcome", outcome)];
            page.sample(name, &labels, *count);
        }
    }
    let mut family = |name: &str, kind: &'static str, help: &str, value: fn(&UploadStats) -> u64| {
        page.values(name, kind, help, "store", stores.iter().map(|(label, stats)| (*label, value(stats))));
    };
    let help = "Requests that were made again later.";
    family("ringnbd_tier_push_retries_total", "counter", help, |stats| stats.retries);
    let help = "Packs that came to the tier.";
    family("ringnbd_tier_pushed_packs_total", "counter", help, |stats| stats.packs);
    let help = "Bytes of packs that came to the tier.";
    family("ringnbd_tier_pushed_bytes_total", "counter", help, |stats| stats.bytes);
    let help = "Bytes of packs that were sent, of uploads too that did not end.";
    family("ringnbd_tier_push_sent_bytes_total", "counter", help, |stats| stats.sent_bytes);
    let help = "Snapshots that are old enough to come to the tier, and have not.";
    family("ringnbd_tier_push_queue_snapshots", "gauge", help, |stats| stats.queue);
    let help = "Images that do not come to the tier any more, because another store has taken them over.";
    family("ringnbd_tier_push_lost_images", "gauge", help, |stats| stats.lost_images);
    let help = "1 while nothing comes to the tier without being asked for.";
    family("ringnbd_tier_push_paused", "gauge", help, |stats| u64::from(stats.is_paused));
    let help = "When a snapshot came to the tier last, in seconds since 1970; 0 before the first.";
    family("ringnbd_tier_push_last_success_timestamp_seconds", "gauge", help, |stats| stats.last_success_s);
    let help = "Bytes of all images that are not on the tier: what the loss of the host would cost.";
    family("ringnbd_tier_lag_bytes", "gauge", help, |stats| stats.lag_bytes);
    let help = "How old the oldest of these changes may be.";
    family("ringnbd_tier_lag_seconds", "gauge", help, |stats| stats.lag_s);
    let help = "Bytes of an image that are not on the tier, of the 100 images that would lose most.";
    image_lags(page, stores, "ringnbd_tier_image_lag_bytes", help, |lag| lag.bytes);
    let help = "How old the oldest of these changes of an image may be.";
    image_lags(page, stores, "ringnbd_tier_image_lag_seconds", help, |lag| lag.seconds);
}

fn image_lags(
    page: &mut Page,
    stores: &[(&str, &UploadStats)],
    name: &str,
    help: &str,
    value: fn(&ImageLagStats) -> u64,
) {
    page.family(name, "gauge", help);
    for (store, stats) in stores {
        for lag in &stats.images {
            page.sample(name, &[("store", store), ("image", &lag.image)], value(lag));
        }
    }
}
