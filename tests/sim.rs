//! Nothing lost: the data plane on a simulated ring, thousands of worlds, each from one seed.
//!
//!     cargo test --features sim --test sim                      a few hundred worlds, and every planted bug is found
//!     SEED=123 cargo test --features sim --test sim worlds      that world again, exactly
//!     SEEDS=100000 cargo test --features sim --test sim worlds  many (FIRST_SEED=n: other ones)

#[path = "sim/application.rs"]
mod application;
#[path = "sim/client.rs"]
mod client;
#[path = "sim/image.rs"]
mod image;
#[path = "sim/media.rs"]
mod media;
#[path = "sim/neighbours.rs"]
mod neighbours;
#[path = "sim/oracle.rs"]
mod oracle;
#[path = "sim/pinned.rs"]
mod pinned;
#[path = "sim/plan.rs"]
mod plan;
#[path = "sim/remote.rs"]
mod remote;
#[path = "sim/remote_client.rs"]
mod remote_client;
#[path = "sim/request.rs"]
mod request;
#[path = "sim/run.rs"]
mod run;
#[path = "sim/secure.rs"]
mod secure;
#[path = "sim/throttled.rs"]
mod throttled;
#[path = "sim/unreadable.rs"]
mod unreadable;
#[path = "sim/weighed.rs"]
mod weighed;
#[path = "sim/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ringnbd::internal::canary::{self, Canary};
use run::Report;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs a seed; a panic of the server is a failure like any other.
fn attempt(seed: u64) -> Result<Report, String> {
    attempt_in(run::run, seed)
}

/// The same in worlds of one kind.
fn attempt_in(run: fn(u64) -> Result<Report, String>, seed: u64) -> Result<Report, String> {
    let caught = catch_unwind(AssertUnwindSafe(|| run(seed)));
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

#[test]
fn worlds() {
    run_worlds(run::run);
}

/// As the others, but most exports are devices of an application.
#[test]
fn worlds_of_applications() {
    run_worlds(application::worlds);
}

/// As the others, but most exports are images: D1 to D3, D5 and D8 with cuts, kills and faults at any step, S3, C1 and C2.
#[test]
fn worlds_of_images() {
    run_worlds(image::worlds);
}

/// As the others, but most clients have TLS.
#[test]
fn worlds_of_tls() {
    run_worlds(secure::worlds);
}

/// A device of one server is an export of another one, which crashes, behind a network that delays, reorders and cuts.
#[test]
fn worlds_of_remotes() {
    run_worlds(remote::worlds);
}

fn run_worlds(run: fn(u64) -> Result<Report, String>) {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("FIRST_SEED").unwrap_or(1);
            first..first + number("SEEDS").unwrap_or(300)
        }
    };
    let (mut answered, mut cuts, mut restarts, mut failed) = (0, 0, 0, Vec::new());
    let (mut snapshots, mut growths, mut weighings) = (0, 0, 0);
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds.clone() {
        match attempt_in(run, seed) {
            Ok(report) => {
                answered += report.answered;
                cuts += u64::from(report.power_cut);
                restarts += report.restarts;
                snapshots += report.snapshots;
                growths += report.growths;
                weighings += report.weighings;
                for (name, count) in report.outcomes {
                    *outcomes.entry(name).or_default() += count;
                }
            }
            Err(error) => {
                println!("SEED={seed}: {error}");
                failed.push(seed);
            }
        }
    }
    println!(
        "{} worlds, {answered} answers, {cuts} power cuts under load, {restarts} restarts, {snapshots} snapshots, {growths} growths, \
         {weighings} changes of weights; \
         operations: {outcomes:?}",
        seeds.count()
    );
    assert!(failed.is_empty(), "run again with SEED=n for n in {failed:?}");
}

#[test]
fn a_seed_always_gives_the_same_world() {
    for seed in 1000..1020 {
        assert_eq!(attempt(seed), attempt(seed), "SEED={seed}");
        let application = || attempt_in(application::worlds, seed);
        assert_eq!(application(), application(), "SEED={seed} of applications");
        let image = || attempt_in(image::worlds, seed);
        assert_eq!(image(), image(), "SEED={seed} of images");
        let secure = || attempt_in(secure::worlds, seed);
        assert_eq!(secure(), secure(), "SEED={seed} of TLS");
        let remote = || attempt_in(remote::worlds, seed);
        assert_eq!(remote(), remote(), "SEED={seed} of remotes");
    }
}

/// A bug that so many worlds do not show would not be found by the usual run either.
const WORLDS_PER_CANARY: u64 = 300;

/// The first seed of the search for a planted bug. Where worlds take long and most of them do not show the bug, it is close to one that does.
fn first_world(canary: Canary) -> u64 {
    match canary {
        Canary::LatePayloadKept => 195,
        Canary::GrowthWithoutDrain => 72,
        Canary::SealedOneByOne | Canary::HeadBeforeCatalog => 52,
        Canary::FailedSyncForgotten => 120,
        _ => 1,
    }
}

#[test]
fn every_planted_bug_is_found() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_canary = std::thread::current().name() == Some("canary");
        if !is_canary {
            usual(panic);
        }
    }));
    let hunt = |canary: Canary| {
        canary::switch(Some(canary));
        let run = match canary {
            // In one of thousands of worlds: looked for where it is most likely.
            Canary::SyncBesideIgnored => pinned::failing_syncs,
            Canary::MisalignedMemory => pinned::sparse_direct_reads,
            Canary::SizeNotAskedAgain => pinned::cut_files,
            Canary::LatePayloadKept => pinned::late_payloads,
            Canary::WorkersUnbounded => neighbours::hung_disk,
            Canary::PrefetchUnbounded => neighbours::cache_flood,
            Canary::PunchWhole | Canary::ReadsBesidePunch => neighbours::reads_beside_trim,
            Canary::AbandonedZeroingGoesOn | Canary::HangUpUnseen => neighbours::abandoned_zeroing,
            Canary::TrustUnbounded => neighbours::burst_after_eviction,
            Canary::FaultIsTheEnd => unreadable::failing_medium,
            Canary::HalfCloseIsEnd => neighbours::patient_zeroing,
            Canary::LongestOvertaken => neighbours::long_request_beside_steady_ones,
            Canary::MergeSkipsBase
            | Canary::MergeLosesNeighbour
            | Canary::StateBeforeWrite
            | Canary::TrimRevealsBase
            | Canary::JournalBeforeData
            | Canary::FuaNeighbours => image::crowds,
            Canary::BaseShownByGrowth | Canary::RestShownByGrowth => image::growing,
            Canary::ZeroingBesideWrites => image::zeroed,
            Canary::GrowthWithoutDrain => image::growing_beside_zeroes,
            Canary::SealedOneByOne => image::groups,
            Canary::SealWithoutDrain | Canary::FlushBeforeCommit => image::snapshots,
            Canary::HeadBeforeCatalog | Canary::TentativeDropped => image::killed_snapshots,
            Canary::RecoveryWithoutSync | Canary::PendingAfterAnswer | Canary::PendingDroppedEarly => {
                image::killed_servers
            }
            Canary::RecordNumberRepeated
            | Canary::RecordsReordered
            | Canary::PayloadUnsealed
            | Canary::KeyUpdateForgotten
            | Canary::PartialRecordLost
            | Canary::FarewellForgotten => secure::worlds,
            Canary::LossForgotten | Canary::ResendForgotten | Canary::CookieReused => remote::worlds,
            Canary::NewcomerBelieved => remote::newcomers,
            Canary::CleanFlushSkipped => pinned::killed_servers,
            Canary::EndedUnseen => application::worlds,
            // Nobody else is slow for so long.
            Canary::ProgressCountsReplies => pinned::slow_and_steady,
            _ => run::run,
        };
        let first = first_world(canary);
        let worlds = first..first + WORLDS_PER_CANARY;
        let found = worlds.enumerate().find_map(|(at, seed)| Some((at + 1, attempt_in(run, seed).err()?)));
        canary::switch(None);
        found
    };
    let mut missed = Vec::new();
    let only = std::env::var("CANARY").ok();
    let is_wanted = |canary: &&Canary| only.as_ref().is_none_or(|name| *name == format!("{canary:?}"));
    for canary in canary::ALL.iter().filter(is_wanted) {
        let thread = std::thread::Builder::new().name("canary".into());
        let found = thread.spawn(move || hunt(*canary)).unwrap().join().unwrap();
        match found {
            Some((seed, error)) => println!("{canary:?}: found after {seed} worlds: {error:.150}"),
            None => missed.push(canary),
        }
    }
    assert!(missed.is_empty(), "not found within {WORLDS_PER_CANARY} worlds: {missed:?}");
}
