//! Weights of exports, by what is answered and not by any clock but the world's.

use std::time::Duration;

use ringnbd::internal::backend::ExportId;
use ringnbd::internal::config::Weight;
use ringnbd::internal::ring::sim::{Faults, SocketId};
use ringnbd::internal::shard::Removal;

use super::neighbours::{DEVICE_DEPTH, Scene};
use super::wire::{READ, WRITE};

const MS: Duration = Duration::from_millis(1);
const BLOCK: u64 = 512;
const SIZE: u64 = 64 << 10;
/// A reply with its block.
const WHOLE: usize = 16 + BLOCK as usize;
const DEPTH: u64 = DEVICE_DEPTH as u64;

fn weight(number: u64) -> Option<Weight> {
    Some(serde_json::from_value(number.into()).expect("a weight"))
}

/// Two exports on one disk, 0: without a weight. With `is_cached` they are answered from the page cache.
fn scene(weights: [u64; 2], is_cached: bool) -> Scene {
    let scene = Scene::of_disks(1, Faults::none(), [SIZE, SIZE], (!is_cached).then_some(512));
    for (rates, number) in scene.rates.iter().zip(weights) {
        rates.weigh_alone(if number == 0 { None } else { weight(number) });
    }
    scene
}

/// Clients of an export that always have so many reads on their way.
struct Load {
    clients: Vec<(SocketId, usize)>,
    answered: u64,
}

impl Load {
    fn begin(scene: &mut Scene, export: usize, clients: usize, depth: usize) -> Self {
        let clients: Vec<_> = (0..clients).map(|_| (scene.connect(export), 0)).collect();
        for (socket, _) in &clients {
            (0..depth).for_each(|_| scene.send(*socket, READ, 0, BLOCK));
        }
        Self { clients, answered: 0 }
    }

    /// Whole replies are counted, and each is followed by one more request.
    fn go_on(&mut self, scene: &Scene) {
        for (socket, received) in &mut self.clients {
            *received += scene.world.client_receive(*socket, 1 << 20).len();
            while *received >= WHOLE {
                *received -= WHOLE;
                self.answered += 1;
                scene.send(*socket, READ, 0, BLOCK);
            }
        }
    }
}

/// What each is answered within a time.
fn answered_in(scene: &mut Scene, loads: &mut [Load], time: Duration) -> Vec<u64> {
    let before: Vec<_> = loads.iter().map(|load| load.answered).collect();
    let end = scene.world.now() + time;
    while scene.world.now() < end {
        scene.step().unwrap();
        loads.iter_mut().for_each(|load| load.go_on(scene));
    }
    loads.iter().zip(before).map(|(load, before)| load.answered - before).collect()
}

#[track_caller]
fn assert_ratio(answered: &[u64], wanted: f64, what: &str) {
    let ratio = answered[0] as f64 / answered[1] as f64;
    assert!((wanted * 0.9..=wanted * 1.1).contains(&ratio), "{what}: {answered:?}, {ratio:.3} to 1");
}

#[test]
fn two_that_want_all_get_what_their_weights_say() {
    for (weights, clients, depth, wanted) in [
        ([3, 1], [1, 1], 256, 3.0),
        ([3, 1], [8, 8], 32, 3.0),
        ([3, 1], [2, 16], 128, 3.0),
        ([30, 10], [16, 2], 128, 3.0),
        ([1, 1], [16, 1], 128, 1.0),
        ([4, 0], [4, 4], 64, 4.0),
    ] {
        let mut scene = scene(weights, false);
        let mut loads = [0, 1].map(|export| Load::begin(&mut scene, export, clients[export], depth));
        answered_in(&mut scene, &mut loads, 2 * MS);
        let answered = answered_in(&mut scene, &mut loads, 10 * MS);
        assert_ratio(&answered, wanted, &format!("{weights:?} of {clients:?} x {depth}"));
    }
}

#[test]
fn what_the_page_cache_answers_waits_for_no_device() {
    let mut scene = scene([3, 1], true);
    let mut loads = [0, 1].map(|export| Load::begin(&mut scene, export, 16, 64));
    answered_in(&mut scene, &mut loads, MS);
    let answered = answered_in(&mut scene, &mut loads, MS);
    // A turn of the world takes no time, so there is enough for both.
    assert!(answered.iter().all(|answered| *answered > 100 * DEPTH), "{answered:?}");
}

#[test]
fn one_that_is_alone_gets_all() {
    let mut shared = scene([3, 1], false);
    let mut loads = [0, 1].map(|export| Load::begin(&mut shared, export, 4, 64));
    answered_in(&mut shared, &mut loads, 2 * MS);
    let all: u64 = answered_in(&mut shared, &mut loads, 20 * MS).iter().sum();
    let mut scene = scene([1000, 1], false);
    let _idle = scene.connect(0);
    let mut loads = [Load::begin(&mut scene, 1, 4, 64)];
    answered_in(&mut scene, &mut loads, 2 * MS);
    let alone = answered_in(&mut scene, &mut loads, 20 * MS)[0];
    assert!(alone * 100 >= all * 95, "{alone} of {all}");
}

#[test]
fn the_least_beside_the_most_gets_its_part() {
    let mut scene = scene([1000, 1], false);
    let mut loads = [(0, 32), (1, 2)].map(|(export, clients)| Load::begin(&mut scene, export, clients, 16));
    answered_in(&mut scene, &mut loads, 2 * MS);
    let answered = answered_in(&mut scene, &mut loads, 100 * MS);
    // It comes to some requests at once.
    let wanted = answered[0] / 1000;
    assert!(wanted >= 10 && answered[1] > 0 && answered[1].abs_diff(wanted) <= 8, "{answered:?}");
}

#[test]
fn a_change_is_in_force_within_ten_milliseconds() {
    let mut scene = scene([0, 0], false);
    let mut loads = [0, 1].map(|export| Load::begin(&mut scene, export, 4, 64));
    let before = answered_in(&mut scene, &mut loads, 5 * MS);
    assert_ratio(&before, 1.0, "without weights");
    for (weights, wanted) in
        [([weight(3), weight(1)], 3.0), ([None, weight(3)], 1.0 / 3.0), ([None, None], 1.0)]
    {
        for (rates, weight) in scene.rates.iter().zip(weights) {
            rates.weigh_alone(weight);
        }
        scene.shard.rates_changed();
        answered_in(&mut scene, &mut loads, 2 * MS);
        let after = answered_in(&mut scene, &mut loads, 8 * MS);
        assert_ratio(&after, wanted, &format!("{weights:?}"));
    }
    // Without weights a device has as much as clients want.
    let free = answered_in(&mut scene, &mut loads, 5 * MS).iter().sum::<u64>();
    assert!(free > 2 * before.iter().sum::<u64>() / 3, "{free} {before:?}");
}

/// Of a flood of more than 1,000, how much is answered at the most while one request waits of this export, the flood's
/// being 0.
fn overtaken(weights: [u64; 2], export: usize) -> u64 {
    let mut scene = scene(weights, false);
    let mut flood = Load::begin(&mut scene, 0, 60, 17);
    let victim = scene.connect(export);
    let mut most = 0;
    for _ in 0..20 {
        answered_in(&mut scene, std::slice::from_mut(&mut flood), MS / 5);
        let before = flood.answered;
        scene.send(victim, READ, 0, BLOCK);
        let mut received = 0;
        while received < WHOLE {
            scene.step().unwrap();
            received += scene.world.client_receive(victim, WHOLE - received).len();
            flood.go_on(&scene);
        }
        most = most.max(flood.answered - before);
    }
    println!("{weights:?}, export {export}: {most} of the flood");
    most
}

#[test]
fn one_request_waits_for_no_flood() {
    // For its part, for a place at the device, and then as long as it works on what it was given before. The rest is the way there and back, on which the flood goes on.
    for weights in [[1, 1], [1000, 1], [1, 1000]] {
        let overtaken = overtaken(weights, 1);
        let part = weights[0] / weights[1];
        assert!(overtaken <= part + 6 * DEPTH, "{weights:?}: {overtaken} of a flood were answered first");
    }
    let behind = overtaken([1, 1], 0);
    assert!(behind > 8 * DEPTH, "one of the same export waits for its other connections: {behind}");
}

#[test]
fn a_rate_and_a_weight_hold_both() {
    let mut scene = scene([3, 1], false);
    scene.rates[0].set_alone(&serde_json::from_str(r#"{"iops": 20000}"#).unwrap());
    let mut loads = [0, 1].map(|export| Load::begin(&mut scene, export, 4, 64));
    answered_in(&mut scene, &mut loads, 5 * MS);
    let answered = answered_in(&mut scene, &mut loads, 20 * MS);
    assert!(answered[0].abs_diff(400) <= 12, "{answered:?}");
    assert!(answered[1] > 5 * answered[0], "what it leaves is for the other: {answered:?}");
}

#[test]
fn a_write_whose_payload_never_comes_keeps_nobody_from_the_device() {
    let mut scene = scene([1, 1], false);
    for _ in 0..40 {
        let stuck = scene.connect(0);
        let mut header = super::wire::request(super::wire::Form::Simple, 0, WRITE, 1, 0, 32 << 10);
        header.extend([1; 100]);
        assert_eq!(scene.world.client_send(stuck, &header), header.len());
    }
    scene.wait(MS).unwrap();
    let other = scene.connect(1);
    for _ in 0..100 {
        let time = scene.ask(other, READ, 0, BLOCK).unwrap();
        assert!(time < MS, "{time:?}");
    }
}

#[test]
fn connections_end_that_wait_for_their_turn() {
    for how in [None, Some(Removal::WithErrors), Some(Removal::AtOnce), Some(Removal::CutOff)] {
        let mut scene = scene([1, 1000], false);
        let mut loads = [0, 1].map(|export| Load::begin(&mut scene, export, 8, 64));
        answered_in(&mut scene, &mut loads, MS);
        match how {
            None => loads[0].clients.iter().for_each(|(client, _)| scene.world.client_reset(*client)),
            Some(how) => {
                assert!(scene.shard.remove(ExportId { index: 0, generation: 0 }, how, || {}));
                scene.wait(5 * MS).unwrap();
                loads[0].clients.iter().for_each(|(client, _)| scene.world.client_close(*client));
            }
        }
        while !loads[0].clients.iter().all(|(client, _)| scene.world.is_released(*client)) {
            scene.step().unwrap();
            loads[1].go_on(&scene);
        }
        let rest = answered_in(&mut scene, &mut loads[1..], MS)[0];
        assert!(rest > DEPTH, "{how:?}: the other goes on: {rest}");
        loads[1].clients.iter().for_each(|(client, _)| scene.world.client_close(*client));
        while !loads[1].clients.iter().all(|(client, _)| scene.world.is_released(*client)) {
            scene.step().unwrap();
        }
        let left = scene.shard.holdings();
        assert_eq!((left.requests, left.unsent, left.connections), (0, 0, 0), "{how:?}");
    }
}

#[test]
fn what_waits_when_weights_go_is_answered() {
    let mut scene = scene([1, 1], false);
    let clients: Vec<_> = (0..4).map(|client| scene.connect(client % 2)).collect();
    for client in &clients {
        (0..64).for_each(|_| scene.send(*client, READ, 0, BLOCK));
    }
    scene.step().unwrap();
    scene.step().unwrap();
    scene.rates.iter().for_each(|rates| rates.weigh_alone(None));
    scene.shard.rates_changed();
    for client in clients {
        scene.replies(client, 64, 64 * BLOCK as usize).unwrap();
    }
    scene.wait(MS).unwrap();
    let left = scene.shard.holdings();
    assert_eq!((left.requests, left.unsent), (0, 0));
}
