//! Rates of exports, exactly: a world has one clock, and nothing else takes time in it.

use std::time::Duration;

use ringnbd::internal::backend::ExportId;
use ringnbd::internal::config::RateLimits;
use ringnbd::internal::ring::sim::{Faults, SocketId};
use ringnbd::internal::shard::Removal;

use super::neighbours::Scene;
use super::wire::{FLUSH, READ, WRITE};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
/// A reply without data.
const HEADER: usize = 16;
const ESHUTDOWN: [u8; 4] = [0, 0, 0, 108];

fn rates(text: &str) -> RateLimits {
    serde_json::from_str(text).expect("rates")
}

fn scene(limits: &str) -> Scene {
    let scene = Scene::new(1, Faults::none());
    scene.rates[0].set_alone(&rates(limits));
    scene
}

/// Clients that always have so many requests on their way.
struct Load {
    clients: Vec<(SocketId, usize)>,
    command: u16,
    length: u64,
    answered: u64,
}

impl Load {
    fn begin(scene: &mut Scene, clients: usize, depth: usize, command: u16, length: u64) -> Self {
        let clients: Vec<_> = (0..clients).map(|_| (scene.connect(0), 0)).collect();
        for (socket, _) in &clients {
            (0..depth).for_each(|_| scene.send(*socket, command, 0, length));
        }
        Self { clients, command, length, answered: 0 }
    }

    /// Whole replies are counted, and each is followed by one more request.
    fn go_on(&mut self, scene: &Scene) {
        let whole = HEADER + if self.command == READ { self.length as usize } else { 0 };
        for (socket, received) in &mut self.clients {
            *received += scene.world.client_receive(*socket, 1 << 20).len();
            while *received >= whole {
                *received -= whole;
                self.answered += 1;
                scene.send(*socket, self.command, 0, self.length);
            }
        }
    }

    /// What is answered within a time.
    fn answered_in(&mut self, scene: &mut Scene, time: Duration) -> u64 {
        let (end, before) = (scene.world.now() + time, self.answered);
        while scene.world.now() < end {
            scene.wait(MS / 4).unwrap();
            self.go_on(scene);
        }
        self.answered - before
    }
}

fn assert_near(found: u64, wanted: u64, what: &str) {
    assert!(found.abs_diff(wanted) * 50 <= wanted, "{what}: {found}, not {wanted}");
}

#[test]
fn a_rate_holds_within_two_percent_over_a_second() {
    for (limits, clients, depth, command, length, wanted) in [
        (r#"{"iops": 1000}"#, 1, 16, READ, 512, 1000),
        (r#"{"iops": 1000}"#, 8, 4, READ, 4096, 1000),
        (r#"{"iops": 5000}"#, 3, 1, FLUSH, 0, 5000),
        (r#"{"bytes": "4M"}"#, 3, 4, READ, 4096, 1024),
        (r#"{"write_bytes": "4M"}"#, 3, 4, WRITE, 4096, 1024),
        (r#"{"iops": 500, "read_bytes": "1G"}"#, 2, 4, READ, 4096, 500),
        (r#"{"iops": 10000, "read_bytes": "2M", "read_bytes_burst": 65536}"#, 2, 4, READ, 4096, 512),
    ] {
        let mut scene = scene(limits);
        let mut load = Load::begin(&mut scene, clients, depth, command, length);
        load.answered_in(&mut scene, SECOND / 10);
        let found = load.answered_in(&mut scene, SECOND);
        assert_near(found, wanted, limits);
    }
}

#[test]
fn connections_of_an_export_get_about_the_same() {
    let mut scene = scene(r#"{"iops": 1000}"#);
    let mut deep = Load::begin(&mut scene, 1, 64, READ, 512);
    let mut shallow = Load::begin(&mut scene, 1, 1, READ, 512);
    let (end, mut last) = (scene.world.now() + SECOND, [0, 0]);
    while scene.world.now() < end {
        scene.wait(MS / 4).unwrap();
        deep.go_on(&scene);
        shallow.go_on(&scene);
        last = [deep.answered, shallow.answered];
    }
    assert!(last[1] * 3 > last[0], "{last:?}");
}

#[test]
fn a_change_takes_effect_within_ten_milliseconds() {
    let mut scene = scene(r#"{"iops": 1}"#);
    let mut load = Load::begin(&mut scene, 4, 8, READ, 512);
    assert!(load.answered_in(&mut scene, SECOND / 2) <= 2);
    scene.rates[0].set_alone(&rates(r#"{"iops": 2000}"#));
    scene.shard.rates_changed();
    let first = load.answered_in(&mut scene, 10 * MS);
    assert!((10..=25).contains(&first), "{first}");
    assert_near(load.answered_in(&mut scene, SECOND), 2000, "after the change");
    scene.rates[0].set_alone(&rates(r#"{"iops": 1}"#));
    scene.shard.rates_changed();
    load.answered_in(&mut scene, 10 * MS);
    assert!(load.answered_in(&mut scene, SECOND / 2) <= 1);
    scene.rates[0].set_alone(&rates("{}"));
    scene.shard.rates_changed();
    assert!(load.answered_in(&mut scene, 10 * MS) > 100, "no limit");
}

#[test]
fn a_rate_of_one_export_delays_no_other_and_one_of_writes_no_read() {
    let mut scene = scene(r#"{"write_iops": 1}"#);
    // Each has sent more than a receive buffer holds.
    for _ in 0..32 {
        let writer = scene.connect(0);
        (0..4).for_each(|_| scene.send(writer, WRITE, 0, 64 << 10));
        (0..1000).for_each(|_| scene.send(writer, READ, 0, 512));
    }
    scene.wait(100 * MS).unwrap();
    let (reader, other) = (scene.connect(0), scene.connect(1));
    for _ in 0..100 {
        for (client, command) in [(reader, READ), (other, READ), (other, WRITE)] {
            let time = scene.ask(client, command, 0, 4096).unwrap();
            assert!(time < MS, "{time:?}");
        }
    }
}

/// Clients with a write and reads that wait for a rate, and one whose stream is between two requests.
fn parked(scene: &mut Scene) -> Vec<SocketId> {
    let clients: Vec<_> = (0..3).map(|_| scene.connect(0)).collect();
    for client in &clients {
        scene.ask(*client, FLUSH, 0, 0).unwrap();
    }
    for client in &clients {
        scene.send(*client, WRITE, 0, 4096);
        (0..5).for_each(|_| scene.send(*client, READ, 0, 512));
    }
    scene.wait(20 * MS).unwrap();
    clients
}

#[test]
fn a_removed_export_answers_what_is_held_back_at_once() {
    for (how, answers) in [(Removal::WithErrors, true), (Removal::AtOnce, false), (Removal::CutOff, false)] {
        // The first three requests are answered, and the fourth is far away.
        let mut scene = scene(r#"{"iops": 1, "iops_burst": 2}"#);
        let clients = parked(&mut scene);
        let since = scene.world.now();
        assert!(scene.shard.remove(ExportId { index: 0, generation: 0 }, how, || {}));
        scene.wait(5 * MS).unwrap();
        for client in &clients {
            let bytes = scene.world.client_receive(*client, 1 << 20);
            assert_eq!(bytes.len(), if answers { 6 * HEADER } else { 0 }, "{how:?}");
            assert!(bytes.chunks(HEADER).all(|reply| reply[4..8] == ESHUTDOWN), "{how:?}");
            scene.world.client_close(*client);
        }
        while !clients.iter().all(|client| scene.world.is_released(*client)) {
            scene.step().unwrap();
        }
        assert!(scene.world.now() - since < 50 * MS, "{how:?}");
    }
}

#[test]
fn a_shard_ends_at_once_with_requests_that_are_held_back() {
    let mut scene = scene(r#"{"iops": 1, "iops_burst": 2}"#);
    let clients = parked(&mut scene);
    let since = scene.world.now();
    scene.shard.shutdown();
    scene.wait(5 * MS).unwrap();
    clients.iter().for_each(|client| scene.world.client_close(*client));
    while !clients.iter().all(|client| scene.world.is_released(*client)) {
        scene.step().unwrap();
    }
    assert!(scene.world.now() - since < 50 * MS);
}

#[test]
fn a_client_that_is_gone_does_not_wait_for_its_turn() {
    for reset in [true, false] {
        let mut scene = scene(r#"{"bytes": 1}"#);
        let (first, second) = (scene.connect(0), scene.connect(0));
        scene.ask(first, WRITE, 0, 64 << 10).unwrap();
        scene.send(second, READ, 0, 512);
        scene.wait(10 * MS).unwrap();
        let since = scene.world.now();
        match reset {
            true => scene.world.client_reset(second),
            false => scene.world.client_close(second),
        }
        while !scene.world.is_released(second) {
            scene.step().unwrap();
        }
        assert!(scene.world.now() - since < 3 * SECOND);
    }
}

#[test]
fn what_waits_for_a_rate_holds_nothing() {
    let mut scene = scene(r#"{"iops": 1}"#);
    let client = scene.connect(0);
    scene.ask(client, FLUSH, 0, 0).unwrap();
    scene.wait(MS).unwrap();
    let before = scene.shard.holdings();
    for _ in 0..20 {
        let client = scene.connect(0);
        scene.send(client, WRITE, 0, 64 << 10);
    }
    scene.wait(10 * MS).unwrap();
    let after = scene.shard.holdings();
    assert_eq!((after.requests, after.unsent), (before.requests, before.unsent));
    // The one that is first asks for a buffer once more.
    assert!(after.receive_buffers + 1 >= before.receive_buffers, "{before:?} {after:?}");
}
