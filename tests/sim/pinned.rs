//! Worlds whose plan is written down: bugs that the simulation had found, where they are most likely.

use std::sync::Arc;

use ringnbd::internal::config::{Limits, Pinning};
use ringnbd::internal::ring::sim::{Faults, Random, World};

use super::plan::{Disk, Interruption, Plan, Restart};
use super::run::{Report, run_plan};

/// Enough for each of these bugs to show in several.
const WORLDS: u64 = 40;

/// One shard and one disk in the page cache, `clients` clients at once, and nothing that goes wrong.
pub(crate) fn crowd(clients: usize, limits: Limits) -> Plan {
    Plan {
        shards: 1,
        disks: vec![Disk {
            size: 1 << 20,
            grain: 512,
            alignment: None,
            sector: None,
            read_only: false,
            application: None,
            is_opaque: false,
            image: None,
        }],
        limits: Arc::new(limits),
        clients,
        sessions: 2 * clients,
        socket_bytes: 1 << 20,
        longest: 256 << 10,
        steady: false,
        cautious: false,
        evictions: 0.0,
        removals: 0.0,
        cuts: 0.0,
        snapshots: 0.0,
        unrecorded: 0.0,
        growths: 0.0,
        newcomers: false,
        encrypted: 0.0,
        power_cut_at: None,
        shutdown_at: None,
        restarts: Vec::new(),
        weights: None,
    }
}

pub(crate) fn small_memory() -> Limits {
    Limits {
        connections: 64,
        memory_per_shard: (37 << 20) + Limits::DEVICE_MEMORY,
        longest_request: 32 << 20,
        pinned: Pinning::Off,
        ..Limits::DEFAULT
    }
}

/// Many clients of one disk, syncs that fail now and then, and a power cut: what one of several syncs was told, the others must know.
pub(crate) fn failing_syncs(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults { lost_write_back: 0.03, latency_ns: 1_000, slow: 0.2, ..Faults::none() };
    let world = World::new(random.number(), faults.clone());
    let power_cut_at = Some(random.below(20_000));
    let plan = Plan { power_cut_at, shards: 3, cautious: true, ..crowd(14, small_memory()) };
    run_plan(random, world, faults, plan)
}

#[test]
fn a_sync_that_fails_beside_others_is_known_to_all() {
    for seed in 1..=10 * WORLDS {
        let result = failing_syncs(seed);
        assert!(result.is_ok(), "world {seed}: {}", result.unwrap_err());
    }
}

/// Reads that leave holes out, from anywhere of a file that is opened with O_DIRECT: where their data begins decides where it must lie in
/// memory.
pub(crate) fn sparse_direct_reads(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults::none();
    let world = World::new(random.number(), faults.clone());
    let disk = Disk {
        size: 1 << 20,
        grain: 64,
        alignment: Some(512),
        sector: None,
        read_only: false,
        application: None,
        is_opaque: false,
        image: None,
    };
    run_plan(random, world, faults, Plan { disks: vec![disk], ..crowd(4, small_memory()) })
}

#[test]
fn data_between_holes_is_read_wherever_it_lies() {
    for seed in 1..=WORLDS {
        let result = sparse_direct_reads(seed);
        assert!(result.is_ok(), "world {seed}: {}", result.unwrap_err());
    }
}

/// Six clients that are slow and steady, and memory for four: each goes on to its end, however long the others have to wait.
pub(crate) fn slow_and_steady(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults { latency_ns: 2_000, slow: 0.2, ..Faults::none() };
    let world = World::new(random.number(), faults.clone());
    let disks = vec![Disk {
        size: 8 << 20,
        grain: 512,
        alignment: None,
        sector: None,
        read_only: false,
        application: None,
        is_opaque: false,
        image: None,
    }];
    let plan = Plan { disks, steady: true, longest: 8 << 20, sessions: 6, ..crowd(6, small_memory()) };
    run_plan(random, world, faults, plan)
}

#[test]
fn whoever_moves_bytes_steadily_is_never_cut_off() {
    for seed in 1..=WORLDS / 4 {
        let result = slow_and_steady(seed);
        assert!(result.is_ok(), "world {seed}: {}", result.unwrap_err());
    }
}

/// A file that nobody writes is cut and made whole again while replies wait for slow clients.
pub(crate) fn cut_files(seed: u64) -> Result<Report, String> {
    cut_disks(seed, None)
}

/// The same of a block device: it gets smaller.
fn shrunk_devices(seed: u64) -> Result<Report, String> {
    cut_disks(seed, Some(512))
}

fn cut_disks(seed: u64, sector: Option<u32>) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults::none();
    let world = World::new(random.number(), faults.clone());
    let disk = Disk {
        size: 64 << 10,
        grain: 64,
        alignment: None,
        sector,
        read_only: true,
        application: None,
        is_opaque: false,
        image: None,
    };
    let plan = Plan {
        disks: vec![disk],
        cuts: 0.01,
        socket_bytes: 4096,
        longest: 16 << 10,
        ..crowd(6, small_memory())
    };
    run_plan(random, world, faults, plan)
}

#[test]
fn what_is_cut_off_is_never_sent() {
    for (seed, world) in
        (1..=WORLDS).flat_map(|seed| [(seed, cut_files as fn(u64) -> _), (seed, shrunk_devices)])
    {
        let result = world(seed);
        assert!(result.is_ok(), "world {seed}: {}", result.unwrap_err());
    }
}

/// An export is removed while long payloads come in and replies that were to leave from the page cache lost their pages: the memory that
/// these need is what the payloads have.
pub(crate) fn late_payloads(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults { latency_ns: 2_000, slow: 0.2, ..Faults::none() };
    let world = World::new(random.number(), faults.clone());
    let plan = Plan {
        evictions: 0.003,
        removals: 0.01,
        socket_bytes: 16_384,
        sessions: 60,
        ..crowd(2, small_memory())
    };
    run_plan(random, world, faults, plan)
}

#[test]
fn a_payload_that_comes_too_late_keeps_nobody_waiting() {
    for seed in 1..=WORLDS {
        let result = late_payloads(seed);
        assert!(result.is_ok(), "world {seed}: {}", result.unwrap_err());
    }
}

/// A server that is killed under load, one that has little time, and a power cut: what the first one answered and nobody synced is in the
/// page cache only, and a FLUSH of the second one covers it.
pub(crate) fn killed_servers(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults { latency_ns: 1_000, slow: 0.2, ..Faults::none() };
    let world = World::new(random.number(), faults.clone());
    let mut restart = |interruption, most| {
        let (after, is_read) = (random.below(most), random.chance(0.5));
        Restart { after, interruption, is_read, sessions: 3 }
    };
    let restarts = vec![restart(Interruption::ProcessDeath, 2_000), restart(Interruption::PowerCut, 500)];
    let plan = Plan { restarts, cautious: true, ..crowd(3, small_memory()) };
    run_plan(random, world, faults, plan)
}

#[test]
fn what_a_killed_server_has_answered_is_kept() {
    for seed in 1..=WORLDS {
        let result = killed_servers(seed);
        assert!(result.is_ok(), "world {seed}: {}", result.unwrap_err());
    }
}

/// Disks of which only a server can tell what they hold, as images are.
#[test]
fn what_is_left_can_be_read_through_the_next_server() {
    for seed in 1..=WORLDS {
        let mut random = Random::new(seed);
        let faults = Faults::any(&mut random);
        let world = World::new(random.number(), faults.clone());
        let mut plan = crowd(3, small_memory());
        plan.disks[0].is_opaque = true;
        plan.restarts = (0..2).map(|_| Restart::random(&mut random)).collect();
        plan.power_cut_at = random.chance(0.5).then(|| random.below(2_000));
        let result = run_plan(random, world, faults, plan);
        assert!(result.is_ok(), "world {seed}: {}", result.unwrap_err());
    }
}

fn run_all(plan: impl Fn() -> Plan, faults: &Faults) {
    for seed in 1..=WORLDS {
        let mut random = Random::new(seed);
        let world = World::new(random.number(), faults.clone());
        let result = run_plan(random, world, faults.clone(), plan());
        assert!(result.is_ok(), "world {seed}: {}", result.unwrap_err());
    }
}

/// Those who waited for memory kept what they had received in that same memory, until nobody could go on.
#[test]
fn waiting_for_memory_takes_none_of_it() {
    let limits = || Limits { receive_buffer: 512 << 10, ..small_memory() };
    let slow = Faults { latency_ns: 2_000, slow: 0.5, ..Faults::none() };
    run_all(|| crowd(14, limits()), &Faults { short: 0.5, ..slow });
}

/// A request that had waited for memory came when the table was full.
#[test]
fn memory_comes_when_the_table_is_full() {
    let limits = || Limits { requests_per_shard: 2, ..small_memory() };
    run_all(|| crowd(14, limits()), &Faults::none());
}

/// A sync that was told to try again is tried again.
#[test]
fn operations_that_should_be_tried_again_are() {
    let again = Faults { again: 0.5, interrupted: 0.3, ..Faults::none() };
    run_all(|| crowd(3, small_memory()), &again);
}
