//! Images that become larger while clients use them.
//!
//! Oracles: the bytes that the test wrote; sizes that clients were told; the protocol's errors.

use std::process::Stdio;

use ringnbd::internal::random::Random;

use super::Store;
use super::online::{Online, client, golden, online, online_with};
use crate::support::image::pattern;
use crate::support::raw::{Connection, Mode, Request};
use crate::support::server::Options;
use crate::support::wire::*;

const MIB: u64 = 1 << 20;

/// As the supervisor of a kernel's device, whose session ends because it asked for that.
#[test]
fn a_device_hears_that_its_image_is_larger() {
    let (store, golden) = golden();
    let online = online(&store);
    let attach = || {
        let mut device = Connection::haggling(&online.server);
        device.go_with("vm1", &[NBD_INFO_BLOCK_SIZE, 0xf17b]);
        device
    };
    let mut device = attach();
    let mut other = Connection::attach(&online.server, "vm1", Mode::Simple);
    assert_eq!(device.export.size, golden.len() as u64);
    store.run("image resize STORE/vm1 8M").ok();
    device.expect_close("there is more");
    other.expect_alive();
    let mut device = attach();
    assert_eq!(device.export.size, 8 * MIB);
    device.write(8 * MIB - 4096, &[3; 4096]);
    device.expect_alive();
}

#[test]
fn an_image_becomes_larger_under_its_clients() {
    let (store, golden) = golden();
    let online = online(&store);
    let server = &online.server;
    let small = golden.len() as u64;
    let mut old = Connection::attach(server, "vm1", Mode::Structured);
    old.write(0, &[5; 10_000]);
    store.run("image resize STORE/vm1 8M").ok();
    let mut new = Connection::attach(server, "vm1", Mode::Extended);
    assert_eq!((old.export.size, new.export.size), (small, 8 * MIB));
    assert!(new.read(small, MIB as usize).iter().all(|byte| *byte == 0), "what is new is zeroes");
    new.write(small - 3000, &pattern(4, 0, 9000));
    new.write(8 * MIB - 5000, &[6; 5000]);
    new.flush();
    let mut expected = golden;
    expected.resize(8 << 20, 0);
    expected[..10_000].fill(5);
    expected[small as usize - 3000..small as usize + 6000].copy_from_slice(&pattern(4, 0, 9000));
    expected[(8 << 20) - 5000..].fill(6);

    // The old one keeps the size that it was told, and sees what is within it.
    assert!(old.read(small - 3000, 3000) == expected[small as usize - 3000..small as usize]);
    old.fail(&Request::read(small, 512), NBD_EINVAL);
    old.fail(&Request::read(small - 512, 1024), NBD_EINVAL);
    old.fail(&Request::write(small, vec![1; 512]), NBD_ENOSPC);
    old.fail(&Request::trim(small - 512, 1024), NBD_EINVAL);
    old.expect_alive();
    old.write(small - 100, &[7; 100]);
    expected[small as usize - 100..small as usize].fill(7);

    // Snapshots, and what is told elsewhere, have the new size.
    store.run("image snapshot STORE/vm1@large").ok();
    new.write(small + 4096, &[8; 4096]);
    for (node, size) in [("vm1", 8 * MIB), ("vm1@large", 8 * MIB), ("vm2", small)] {
        assert_eq!(store.json(&format!("image info STORE/{node}"))["size"], size, "{node}");
    }
    assert!(Connection::attach(server, "vm1@large", Mode::Simple).read(0, 8 << 20) == expected);
    expected[small as usize + 4096..small as usize + 8192].fill(8);
    assert!(new.read(0, 8 << 20) == expected);
    // Once more, and nothing at all.
    store.run("image resize STORE/vm1 8M").ok();
    store.run("image resize STORE/vm1 1G").ok();
    assert_eq!(client(server, "vm1").transmission().export.size, 1 << 30);
    store.refused("image resize --shrink STORE/vm1 1M", &["has clients (2)", "it can become larger"]);
    store.refused("image resize STORE/vm1 1073741825", &["multiple of 512"]);
    drop((old, new));
    assert_eq!(server.complaints(), [""; 0]);
    drop(online);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    store.run("image export STORE/vm1 DIR/out.raw").ok();
    let found = std::fs::read(store.dir.path().join("out.raw")).unwrap();
    assert_eq!(found.len(), 1 << 30);
    assert!(found[..8 << 20] == expected && found[8 << 20..].iter().all(|byte| *byte == 0));
}

/// The old end cuts a block: nobody who has the old size reaches what lies behind it.
#[test]
fn the_rest_of_a_block_that_the_old_end_cut_is_not_the_old_clients() {
    let store = Store::init();
    store.run("image create STORE/vm 1049088").ok();
    let online = online(&store);
    let server = &online.server;
    let end = MIB + 512;
    let mut old = Connection::attach(server, "vm", Mode::Extended);
    old.write(MIB, &[1; 512]);
    store.run("image resize STORE/vm 2M").ok();
    let mut new = Connection::attach(server, "vm", Mode::Extended);
    let read = |new: &mut Connection| new.read(MIB, 4096);
    assert!(read(&mut new)[..512] == [1; 512] && read(&mut new)[512..].iter().all(|byte| *byte == 0));
    new.write(end, &[2; 4096]);
    for request in [Request::trim(0, end), Request::zeroes(MIB, 512), Request::trim(MIB, 512)] {
        old.write(MIB, &[3; 512]);
        old.succeed(&request);
        let found = read(&mut new);
        assert!(found[..512] == [0; 512] && found[512..] == [2; 3584], "{request:?}");
    }
    old.write(MIB - 100, &[4; 612]);
    drop((old, new));
    let mut found = vec![0; 4096];
    client(server, "vm").read_at(MIB, &mut found).unwrap();
    assert!(found[..512] == [4; 512] && found[512..] == [2; 3584]);
    drop(online);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// A shrink leaves the bytes of blocks that it cuts off in the head's file. A write up to an end that cuts one of them leaves its rest as it
/// is, and no later growth shows that.
#[test]
fn what_a_shrink_has_cut_off_does_not_come_back() {
    const BLOCK: u64 = 4096;
    const LARGE: u64 = 10 * BLOCK;
    const SMALL: u64 = 4 * BLOCK + 512;
    const MIDDLE: u64 = 7 * BLOCK + 2048;
    for (parameters, is_online) in [("", true), ("", false), ("?direct=true", true), ("?direct=true", false)]
    {
        let what = format!("{parameters:?}, it grows while it is served: {is_online}");
        let store = Store::init();
        store.run(&format!("image create STORE/vm {LARGE}")).ok();
        let serve = || online_with(&store, parameters);
        let write = |online: &Online, offset: u64, byte: u8, length: u64| {
            let mut user = client(&online.server, "vm");
            user.write_at(offset, &vec![byte; length as usize]).unwrap();
            user.flush().unwrap();
        };
        let first = serve();
        write(&first, 0, 1, LARGE);
        drop(first);
        for size in [SMALL, MIDDLE] {
            store.run(&format!("image resize --shrink STORE/vm {size}")).ok();
        }
        let second = serve();
        write(&second, 7 * BLOCK, 2, 2048);
        let grow = || store.run(&format!("image resize STORE/vm {LARGE}")).ok();
        let third = if is_online {
            grow();
            second
        } else {
            drop(second);
            grow();
            serve()
        };
        let mut found = vec![0; LARGE as usize];
        client(&third.server, "vm").read_at(0, &mut found).unwrap();
        let mut expected = vec![0; LARGE as usize];
        expected[..SMALL as usize].fill(1);
        expected[7 * BLOCK as usize..MIDDLE as usize].fill(2);
        let differs = found.iter().zip(&expected).position(|(one, other)| one != other);
        assert_eq!(differs, None, "{what}: the first byte that is wrong");
        drop(third);
        store.run("image export STORE/vm DIR/out.raw").ok();
        assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == expected, "{what}");
        assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n", "{what}");
    }
}

/// An export of one image becomes larger as well; what is only read does not.
#[test]
fn exports_of_single_images_become_larger() {
    let (store, golden) = golden();
    let socket = store.dir.path().join("control");
    let path = store.path();
    let options = Options::new()
        .export(format!("a=store:{}/vm1", path.display()))
        .export(format!("b=store:{}/vm2?readonly=true", path.display()))
        .args(["--control", &format!("unix:{}", socket.display())]);
    let server = options.start();
    store.run("image resize STORE/vm1 6M").ok();
    store.refused("image resize STORE/vm2 6M", &["is the export \"b\""]);
    store.refused("image resize --shrink STORE/vm1 1M", &["is the export \"a\""]);
    let mut one = client(&server, "a");
    assert_eq!(one.transmission().export.size, 6 * MIB);
    one.write_at(5 * MIB, &[1; 4096]).unwrap();
    let mut found = vec![0; golden.len()];
    one.read_at(0, &mut found).unwrap();
    assert!(found == golden);
}

/// A server that is killed while an image grows: its size is one that was asked for, and never less than a
/// client was told.
#[test]
fn a_kill_takes_no_size_back() {
    let seed = std::env::var("RINGNBD_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("RINGNBD_SEED={seed}");
    let mut random = Random::new(seed);
    let (store, mut expected) = golden();
    let (mut size, mut outcomes) = (expected.len() as u64, [0; 2]);
    for round in 0..12_u8 {
        let mut online = online(&store);
        let mut user = client(&online.server, "vm1");
        assert_eq!(user.transmission().export.size, size);
        // Answered, and not flushed.
        let place = random.below(size / 4096 - 1) * 4096 + 100;
        user.write_at(place, &[round + 1; 5000]).unwrap();
        expected[place as usize..place as usize + 5000].fill(round + 1);
        let larger = size + (1 + random.below(4000)) * 512;
        let mut command = store.command(&format!("image resize STORE/vm1 {larger}"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut told = size;
        for _ in 0..random.below(12) {
            told = told.max(client(&online.server, "vm1").transmission().export.size);
        }
        online.server.crash();
        child.wait().unwrap();
        drop((user, online));
        assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
        let found = store.json("image info STORE/vm1")["size"].as_u64().unwrap();
        assert!(found == size || found == larger, "round {round}: {found} of {size} and {larger}");
        assert!(found >= told, "round {round}: {found} after {told} was told");
        outcomes[usize::from(found == larger)] += 1;
        size = found;
        expected.resize(size as usize, 0);
        store.run("image export STORE/vm1 DIR/out.raw --force").ok();
        assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == expected, "round {round}");
    }
    println!("old and new sizes: {outcomes:?}");
}
