//! A fleet of hosts before one object store, in simulated time: what becomes of the arithmetic of
//! `perf/tier-model` when requests meet.
//!
//! Hosts push by the code of the tier, with its widths and its pauses; a collection goes through the tier
//! meanwhile, by its code; guests start, with the attempts that reads have. The object store promises so many
//! requests a second for a prefix, and refuses more. All follows from a seed. What was there before is made
//! up.
//!
//! Oracle: `perf/tier-model`, for what has no limit in its way.
//!
//! ```text
//! RINGNBD_FLEET=100,1000,10000 cargo test --lib fleets_of -- --ignored --nocapture
//! ```

mod bucket;
mod hosts;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bucket::{AskedCounts, AskedFor, Fleet, FleetWorld};
use hosts::{DueSnapshot, GuestStart, pushes, reads};

use crate::random::Random;
use crate::store::foreign::TierLimits;
use crate::tier::collect::{CollectOptions, collect_tier};
use crate::tier::made_up::MadeUpTier;

const DAY_US: u64 = 86_400_000_000;
const MINUTE_US: u64 = 60_000_000;
const SEED: u64 = 20;
/// Reads that a guest has under way at once.
const READS_AT_ONCE: usize = 4;
/// What a first start reads, in requests of this size: as `perf/tier-model` has it.
const BOOT_BYTES: u64 = 200 << 20;
const PART_BYTES: u64 = 256 << 10;
/// A push has so much that is new, and an image is pushed so often a day.
const PUSHED_BYTES: u64 = 11_258_999;

/// A fleet, and what it does.
#[derive(Debug, Clone, Copy)]
struct FleetShape {
    hosts: u64,
    per_host: u64,
    /// Of each image.
    pushes_a_day: u64,
    is_split: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
struct FleetFigures {
    asked: AskedCounts,
    collection: AskedCounts,
    seconds: f64,
    /// How late snapshots were on the tier, or how long guests took to start; in order.
    took_us: Vec<u64>,
    /// Guests that had an error.
    failed: u64,
}

impl FleetShape {
    const fn contents(&self) -> MadeUpTier {
        MadeUpTier { images: self.hosts * self.per_host, per_host: self.per_host }
    }

    fn fleet(&self) -> Fleet {
        Fleet::new(FleetWorld::new(SEED, self.contents(), self.is_split))
    }

    /// For so long each image is pushed as often as is said, at times of its own; with a collection
    /// meanwhile if that is wanted.
    fn a_day_goes_on(&self, for_us: u64, collects: bool) -> FleetFigures {
        let (mut fleet, mut random) = (self.fleet(), Random::new(SEED));
        let between_us = DAY_US / self.pushes_a_day;
        let lags_us = Arc::new(Mutex::new(Vec::new()));
        for host in 0..self.hosts {
            let mut due = Vec::new();
            for image in host * self.per_host..(host + 1) * self.per_host {
                let first = random.below(between_us);
                let times = (0..).map(|number| (number, first + number * between_us));
                let times = times.take_while(|(_, due_us)| *due_us < for_us);
                due.extend(times.map(|(number, due_us)| DueSnapshot {
                    due_us,
                    image,
                    number,
                    bytes: PUSHED_BYTES,
                }));
            }
            due.sort_by_key(|due| due.due_us);
            let (contents, lags_us) = (self.contents(), Arc::clone(&lags_us));
            fleet.add(AskedFor::Push, |objects| pushes(objects, contents, due, lags_us));
        }
        if collects {
            fleet.add(AskedFor::Collection, |objects| async move {
                let options = CollectOptions { grace_s: 24 * 3600, expiry_s: 7 * 24 * 3600 };
                let collected = collect_tier(&objects, options).await.unwrap();
                assert_eq!(collected.packs_marked, 0, "all is needed");
            });
        }
        let seconds = fleet.run();
        figures(&fleet, seconds, AskedFor::Push, lags_us.lock().unwrap().clone(), 0)
    }

    /// Every host pushes an image within a second.
    fn all_push_at_once(&self) -> FleetFigures {
        let (mut fleet, mut random) = (self.fleet(), Random::new(SEED));
        let lags_us = Arc::new(Mutex::new(Vec::new()));
        for host in 0..self.hosts {
            let (image, due_us) = (host * self.per_host, random.below(1_000_000));
            let due = vec![DueSnapshot { due_us, image, number: 0, bytes: PUSHED_BYTES }];
            let (contents, lags_us) = (self.contents(), Arc::clone(&lags_us));
            fleet.add(AskedFor::Push, |objects| pushes(objects, contents, due, lags_us));
        }
        let seconds = fleet.run();
        figures(&fleet, seconds, AskedFor::Push, lags_us.lock().unwrap().clone(), 0)
    }

    /// Every host starts a guest from one image within so long. Reads that are refused wait as long as
    /// `refused_wait`.
    fn all_start_one_image(&self, within_us: u64, refused_wait: Duration) -> FleetFigures {
        let (mut fleet, mut random) = (self.fleet(), Random::new(SEED));
        let mut guests = Vec::new();
        for _ in 0..self.hosts {
            let guest = Arc::new(GuestStart {
                begins_us: random.below(within_us),
                left: AtomicU64::new(BOOT_BYTES / PART_BYTES),
                part_bytes: PART_BYTES,
                limits: TierLimits { refused_wait, ..TierLimits::default() },
                outage: Mutex::default(),
                has_failed: AtomicBool::new(false),
                ended_us: AtomicU64::new(0),
            });
            for _ in 0..READS_AT_ONCE {
                let guest = Arc::clone(&guest);
                fleet.add(AskedFor::Boot, |objects| reads(objects, guest));
            }
            guests.push(guest);
        }
        let seconds = fleet.run();
        let (failed, started): (Vec<_>, Vec<_>) =
            guests.iter().partition(|guest| guest.has_failed.load(Ordering::SeqCst));
        let took = started.iter().map(|guest| guest.ended_us.load(Ordering::SeqCst) - guest.begins_us);
        figures(&fleet, seconds, AskedFor::Boot, took.collect(), failed.len() as u64)
    }
}

fn figures(fleet: &Fleet, seconds: f64, of: AskedFor, mut took_us: Vec<u64>, failed: u64) -> FleetFigures {
    let world = fleet.world.lock().unwrap();
    took_us.sort_unstable();
    let (asked, collection) = (*world.counts(of), *world.counts(AskedFor::Collection));
    FleetFigures { asked, collection, seconds, took_us, failed }
}

impl FleetFigures {
    fn refused(&self) -> String {
        format!("{:.1} %", self.asked.refused as f64 * 100.0 / self.asked.all().max(1) as f64)
    }

    /// In seconds.
    fn percentile(&self, percent: usize) -> f64 {
        let index = (self.took_us.len() * percent / 100).min(self.took_us.len().saturating_sub(1));
        self.took_us.get(index).map_or(0.0, |took_us| *took_us as f64 / 1e6)
    }

    fn took(&self) -> String {
        format!("{}, {}", time(self.percentile(50)), time(self.percentile(99)))
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.1} s"),
        120.0..7200.0 => format!("{:.1} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// What `perf/tier-model` says of a fleet of this shape.
fn arithmetic(shape: &FleetShape) -> serde_json::Value {
    let images = shape.hosts * shape.per_host;
    // A hundredth of an image's bytes is new.
    let bytes = images * PUSHED_BYTES * 100;
    let model = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/perf/tier-model"))
        .args(["--json", "--hosts", &shape.hosts.to_string(), "--images", &images.to_string()])
        .args(["--pushes", &shape.pushes_a_day.to_string(), "--bytes", &bytes.to_string()])
        .output()
        .expect("run perf/tier-model");
    assert!(model.status.success(), "{}", String::from_utf8_lossy(&model.stderr));
    serde_json::from_slice(&model.stdout).unwrap()
}

/// Within a fourth of what the model says.
fn is_about(what: &str, simulated: f64, model: &serde_json::Value) {
    let said = model[what].as_f64().unwrap_or_else(|| panic!("the model does not say {what}: {model}"));
    let ratio = simulated / said;
    println!("{what}: {simulated:.2} simulated, {said:.2} by the model");
    assert!((0.8..1.25).contains(&ratio), "{what}: {simulated} simulated, {said} by the model");
}

const SMALL: FleetShape = FleetShape { hosts: 100, per_host: 2, pushes_a_day: 144, is_split: false };

/// Where nothing is in the way, requests, times and rates are those of the arithmetic.
#[test]
fn a_small_fleet_is_as_the_arithmetic_says() {
    let model = arithmetic(&SMALL);
    let for_us = DAY_US / SMALL.pushes_a_day;
    let pushed = SMALL.a_day_goes_on(for_us, false);
    let pushes = pushed.took_us.len() as f64;
    assert_eq!((pushed.took_us.len() as u64, pushed.asked.refused), (SMALL.hosts * SMALL.per_host, 0));
    is_about("pushes_per_second", pushes / (for_us as f64 / 1e6), &model);
    is_about("push_reads", pushed.asked.reads as f64 / pushes, &model);
    is_about("push_writes", pushed.asked.writes as f64 / pushes, &model);
    let collected = SMALL.a_day_goes_on(0, true);
    is_about("collection_requests", collected.collection.all() as f64, &model);
    is_about("collection_seconds", collected.seconds, &model);
    // All of the limit is used, and nobody is refused for long.
    let started = SMALL.all_start_one_image(1, TierLimits::default().refused_wait);
    assert_eq!((started.failed, started.took_us.len() as u64), (0, SMALL.hosts));
    assert!(started.asked.refused > 0);
    is_about("boot_reads", (started.asked.all() - started.asked.refused) as f64 / SMALL.hosts as f64, &model);
    is_about("rush_seconds", started.seconds, &model);
}

#[test]
fn the_same_fleet_does_the_same() {
    let shape = FleetShape { hosts: 40, ..SMALL };
    let start = || shape.all_start_one_image(1_000_000, TierLimits::default().refused_wait);
    assert_eq!(start(), start());
    let push = || FleetShape { hosts: 20, ..SMALL }.all_push_at_once();
    assert_eq!(push(), push());
}

/// Prints what the guide's page about large tiers says, the longest runs last. The largest fleet takes ten
/// minutes of CPU time in a debug build.
#[test]
#[ignore = "minutes of CPU time"]
fn fleets_of_all_sizes() {
    let asked = std::env::var("RINGNBD_FLEET").unwrap_or_else(|_| "100,1000".to_owned());
    for hosts in asked.split(',').map(|hosts| hosts.parse().unwrap()) {
        let shape = FleetShape { hosts, per_host: 100, pushes_a_day: 1, is_split: false };
        println!("\n{hosts} hosts, {} images", hosts * shape.per_host);
        print_starts(&shape, MINUTE_US, TierLimits::default().refused_wait);
        print_pushes(&shape);
        print_starts(&shape, 60 * MINUTE_US, TierLimits::default().refused_wait);
        print_starts(&shape, MINUTE_US, TierLimits::default().wait);
        print_collection(&shape);
    }
}

fn print_pushes(shape: &FleetShape) {
    let day = shape.a_day_goes_on(10 * MINUTE_US, false);
    println!(
        "over the day: {:.1} requests a second, {} in the busiest; {} refused; lag {}",
        day.asked.all() as f64 / 600.0,
        day.asked.busiest,
        day.refused(),
        day.took()
    );
    for is_split in [false, true] {
        let pushed = FleetShape { is_split, ..*shape }.all_push_at_once();
        println!(
            "all push at once{}: {:.0} requests a second, {} in the busiest; {} refused; lag {}",
            if is_split { ", a prefix for each store and image" } else { "" },
            pushed.asked.all() as f64 / pushed.seconds,
            pushed.asked.busiest,
            pushed.refused(),
            pushed.took()
        );
    }
}

fn print_starts(shape: &FleetShape, within_us: u64, refused_wait: Duration) {
    let started = shape.all_start_one_image(within_us, refused_wait);
    println!(
        "all start one image within {}, refused reads wait {} s: {:.0} requests a second, {} in the busiest; {} refused; start {}; {} failed; {} in all, {} by the model",
        time(within_us as f64 / 1e6),
        refused_wait.as_secs(),
        started.asked.all() as f64 / started.seconds,
        started.asked.busiest,
        started.refused(),
        started.took(),
        started.failed,
        time(started.seconds),
        time(arithmetic(shape)["rush_seconds"].as_f64().unwrap())
    );
}

/// What a collection takes is in proportion to the images: a part of them is enough, under the pushes of all.
fn print_collection(shape: &FleetShape) {
    let per_host = (10_000 / shape.hosts).clamp(1, 10);
    let few = FleetShape { per_host, pushes_a_day: 100 / per_host, ..*shape };
    let for_us = (arithmetic(&few)["collection_seconds"].as_f64().unwrap() * 1e6) as u64;
    let collected = few.a_day_goes_on(for_us, true);
    println!(
        "a collection of {} images, with {} pushes meanwhile: {}, {} by the model; {} refused of it, {} of pushes; lag {}",
        few.hosts * few.per_host,
        collected.took_us.len(),
        time(collected.seconds),
        time(for_us as f64 / 1e6),
        collected.collection.refused,
        collected.refused(),
        collected.took()
    );
}
