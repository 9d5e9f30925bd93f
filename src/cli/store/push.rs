//! `ringnbd store push`: what comes to the tier without being asked for.

use std::num::NonZeroU64;
use std::time::Duration;

use super::of_store::OfStore;
use crate::cli::text::{exact_and_human, table};
use crate::config::size::parse_size;
use crate::store::{PushState, StoreRequest};

#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub of: OfStore,
    /// Until the server ends or --resume, nothing comes to the tier without being asked for
    #[arg(long)]
    pub pause: bool,
    /// Go on, and try at once what was refused or has failed
    #[arg(long, conflicts_with = "pause")]
    pub resume: bool,
    /// From now on until the server ends, send so many bytes a second at most
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    pub rate: Option<NonZeroU64>,
}

fn rate(text: &str) -> Result<NonZeroU64, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    NonZeroU64::new(bytes).ok_or_else(|| "nothing would come: write --pause".to_owned())
}

impl PushArgs {
    pub(super) fn request(&self) -> StoreRequest {
        let pause = (self.pause || self.resume).then_some(self.pause);
        StoreRequest::Push { pause, rate: self.rate }
    }
}

/// For people.
pub(super) fn pushed(of: &PushState) -> String {
    let seconds = |seconds: u64| humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let state = match of.after_seconds {
        None => "off: only what is asked for (`image push`)".to_owned(),
        Some(_) if of.paused => "paused".to_owned(),
        Some(age) => format!("snapshots that were taken {} ago", seconds(age)),
    };
    let mut rows = vec![
        ("push", state),
        ("rate", format!("{} a second", exact_and_human(of.rate))),
        ("waiting", of.queue.to_string()),
        ("pushing", of.pushing.clone().unwrap_or_else(|| "-".to_owned())),
        ("snapshots", of.snapshots.to_string()),
        ("packs", of.packs.to_string()),
        ("bytes", exact_and_human(of.bytes)),
        ("failed", of.failures.to_string()),
        ("last success", of.last_success.map_or_else(|| "-".to_owned(), super::time)),
        ("not on the tier", format!("{}, {}", exact_and_human(of.lag_bytes), seconds(of.lag_seconds))),
    ];
    if !of.lost.is_empty() {
        rows.push(("lost", of.lost.join(", ")));
    }
    rows.extend(of.error.clone().map(|error| ("error", error)));
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table(&rows, &[false, false])
}
