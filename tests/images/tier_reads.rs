//! What reads of an image in a bucket ask for, and what does not wait for the bucket at all.
//!
//! Oracles: the bytes that the test wrote; the requests that came to the proxy before the bucket, and whether it has
//! answered them. Nothing here is a matter of time: what has to be there is waited for, and then the endpoint goes.

use std::sync::atomic::Ordering::SeqCst;

use serde_json::Value;

use super::Store;
use super::bucket::{Bucket, CREDENTIALS, FaultProxy, run};
use super::online::{SIZE, client, golden, online_in};
use crate::support::image::{disk_dir, pattern};
use crate::support::raw::{Connection, Mode, Request};
use crate::support::wait_until;
use crate::support::wire::{NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_CACHE};

const CHUNK: usize = 64 << 10;

/// A store with `golden@v1` on the tier behind a proxy.
fn pushed(proxy: &FaultProxy) -> (Store, Vec<u8>) {
    let (one, golden) = golden();
    run(&one, &format!("store tier STORE {}", proxy.uri(""))).ok();
    one.run("image checkpoint STORE/golden@v1").ok();
    run(&one, "image push STORE/golden@v1").ok();
    (one, golden)
}

/// Another store with clones of it, whose reads wait for so many seconds.
fn clones(proxy: &FaultProxy, names: &[&str], wait_s: u64) -> Store {
    let other = Store::init();
    let targets = names.iter().map(|name| format!(" STORE/{name}")).collect::<String>();
    run(&other, &format!("image clone {}{targets}", proxy.uri("/golden@v1"))).ok();
    let file = other.path().join("tiers");
    let mut tiers: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    tiers["wait_s"] = wait_s.into();
    std::fs::write(&file, tiers.to_string()).unwrap();
    other
}

/// A hint: it is answered at once, what it names is fetched, and later reads ask for nothing.
#[test]
fn cache_brings_what_it_names_near() {
    const NAMED: (usize, usize) = (1 << 20, 512 << 10);
    let Some(bucket) = Bucket::start() else { return };
    let proxy = FaultProxy::start(&bucket, 31);
    let (_one, golden) = pushed(&proxy);
    let other = clones(&proxy, &["vm9"], 2);
    let online = online_in(&other, "", &CREDENTIALS);
    let mut reader = Connection::attach(&online.server, "vm9", Mode::Structured);
    assert!(reader.export.has(NBD_FLAG_SEND_CACHE));
    let counts = proxy.counts();
    let (gets, bytes) = (|| counts.pack_gets.load(SeqCst), || counts.pack_bytes.load(SeqCst));
    // Where the chunks are in their pack is known from now on.
    assert!(reader.read(0, 4096) == golden[..4096]);
    proxy.be_silent(true);
    let (gets_before, bytes_before) = (gets(), bytes());
    reader.succeed(&Request::cache(NAMED.0 as u64, NAMED.1 as u64));
    assert_eq!(gets(), gets_before, "it does not wait for the bucket");
    proxy.be_silent(false);
    wait_until("what it names comes", || bytes() >= bytes_before + NAMED.1 as u64);
    assert!(gets() > gets_before && bytes() - bytes_before < 2 * NAMED.1 as u64, "and not much more");
    proxy.go_away();
    let before = gets();
    assert!(reader.read(NAMED.0 as u64, NAMED.1) == golden[NAMED.0..NAMED.0 + NAMED.1]);
    assert_eq!(gets(), before);
    client(&online.server, "vm9").read_at(3 << 20, &mut [0; 4096]).unwrap_err();
}

/// Who reads on from where the last read ended finds what comes next here.
#[test]
fn what_lies_ahead_of_a_run_is_fetched_before_it_is_read() {
    const READ: usize = 2 << 20;
    /// Less than a quarter of what was read in a row, of which half is fetched at least.
    const AHEAD: usize = 192 << 10;
    let Some(bucket) = Bucket::start() else { return };
    let proxy = FaultProxy::start(&bucket, 32);
    let (_one, golden) = pushed(&proxy);
    let other = clones(&proxy, &["vm9"], 2);
    let online = online_in(&other, "", &CREDENTIALS);
    let mut reader = client(&online.server, "vm9");
    let bytes = || proxy.counts().pack_bytes.load(SeqCst);
    let mut found = vec![0; READ];
    // Nodes and the footer, so that they count below.
    reader.read_at(0, &mut found[..4096]).unwrap();
    let before = bytes();
    for at in (0..READ).step_by(CHUNK) {
        reader.read_at(at as u64, &mut found[at..at + CHUNK]).unwrap();
    }
    assert!(found == golden[..READ]);
    wait_until("what comes next", || bytes() >= before + (READ + AHEAD) as u64);
    proxy.go_away();
    let mut next = vec![0; AHEAD - CHUNK];
    reader.read_at(READ as u64, &mut next).unwrap();
    assert!(next == golden[READ..READ + next.len()]);
    reader.read_at((SIZE - CHUNK) as u64, &mut [0; 4096]).unwrap_err();
}

/// No request waits for another one: all of these are under way before the first of them is answered.
#[test]
fn what_many_read_is_asked_for_at_once() {
    const IMAGES: [&str; 8] = ["vm1", "vm2", "vm3", "vm4", "vm5", "vm6", "vm7", "vm8"];
    /// So far apart that nothing is fetched ahead.
    const APART: usize = 384 << 10;
    let Some(bucket) = Bucket::start() else { return };
    let proxy = FaultProxy::start(&bucket, 33);
    let (_one, golden) = pushed(&proxy);
    let other = clones(&proxy, &IMAGES, 300);
    let online = online_in(&other, "", &CREDENTIALS);
    let mut readers = IMAGES.map(|image| client(&online.server, image));
    readers.iter_mut().for_each(|reader| reader.read_at(0, &mut [0; 4096]).unwrap());
    proxy.be_silent(true);
    std::thread::scope(|scope| {
        let (mut reading, golden) = (Vec::new(), &golden);
        for (number, mut reader) in readers.into_iter().enumerate() {
            let at = (1 + number) * APART;
            reading.push(scope.spawn(move || {
                let mut found = vec![0; 4096];
                reader.read_at(at as u64, &mut found).unwrap();
                assert!(found == golden[at..at + 4096]);
            }));
        }
        wait_until("all are under way", || proxy.waiting(".pack") >= IMAGES.len());
        assert!(reading.iter().all(|reader| !reader.is_finished()), "none is answered");
        proxy.be_silent(false);
    });
}

/// The endpoint takes requests and answers none of them. Order is what counts: a push was sent before the first
/// FLUSH, and waits for its answer behind the last.
#[test]
fn flush_and_fua_do_not_wait_for_an_endpoint_that_is_silent() {
    let Some(bucket) = Bucket::start() else { return };
    let proxy = FaultProxy::start(&bucket, 34);
    let (store, mut bytes) = golden();
    run(&store, &format!("store tier STORE {}", proxy.uri(""))).ok();
    store.run("image checkpoint STORE/golden@v1").ok();
    proxy.be_silent(true);
    let answered = || proxy.counts().requests.load(SeqCst);
    let before = answered();
    let online = online_in(&store, "?ingest=0s&push=0s", &CREDENTIALS);
    wait_until("something is asked", || proxy.waiting("HTTP/1.1") > 0);
    let mut writer = Connection::attach(&online.server, "golden", Mode::Structured);
    let mut round = |number: usize| {
        let (at, length) = (number * 3 * CHUNK, CHUNK);
        let [first, second] = [1, 2].map(|half| pattern(half * 100 + number as u64, 0, length));
        writer.write(at as u64, &first);
        writer.flush();
        writer.succeed(&Request::write((at + length) as u64, second.clone()).flags(NBD_CMD_FLAG_FUA));
        bytes[at..at + length].copy_from_slice(&first);
        bytes[at + length..at + 2 * length].copy_from_slice(&second);
    };
    (0..8).for_each(&mut round);
    // What becomes of a snapshot here does not wait either.
    store.run("image snapshot STORE/golden@v2").ok();
    (8..16).for_each(&mut round);
    store.run("image checkpoint STORE/golden@v3").ok();
    assert_eq!(answered(), before, "nothing was answered meanwhile");
    assert!(proxy.waiting("HTTP/1.1") > 0);
    assert!(
        store.json("image ls STORE")["nodes"].as_array().unwrap().iter().all(|node| node["pushed"].is_null())
    );
    proxy.be_silent(false);
    wait_until("all of it comes", || store.json("image info STORE/golden@v3")["pushed"].is_u64());
    let other = Store::init();
    run(&other, &format!("image clone {} STORE/x", proxy.uri("/golden@v3"))).ok();
    run(&other, "image export STORE/x DIR/out.raw").ok();
    assert!(std::fs::read(other.directory().join("out.raw")).unwrap() == bytes);
}

/// A store that has its tier from the beginning; one whose tier does not answer says so.
#[test]
fn stores_are_made_with_a_bucket() {
    let Some(bucket) = Bucket::start() else { return };
    let proxy = FaultProxy::start(&bucket, 35);
    let made = |uri: &str| {
        let store = Store { dir: disk_dir(), within: "store" };
        let finished = run(&store, &format!("store init STORE --tier {uri}"));
        (store, finished)
    };
    let (one, finished) = made(&proxy.uri(""));
    assert!(finished.ok().contains("s3://bucket/some/where"), "it names the tier");
    let header: Value = serde_json::from_slice(&bucket.object("some/where/tier.json")).unwrap();
    assert_eq!(header["space"]["algorithm"], "blake3");
    let contents = pattern(5, 0, SIZE);
    std::fs::write(one.directory().join("disk.raw"), &contents).unwrap();
    one.run("image create STORE/vm --from DIR/disk.raw").ok();
    one.run("image checkpoint STORE/vm@v1").ok();
    run(&one, "image push STORE/vm@v1").ok();
    // The same tier, and not another one in its place.
    let (other, finished) = made(&proxy.uri(""));
    finished.ok();
    assert_eq!(serde_json::from_slice::<Value>(&bucket.object("some/where/tier.json")).unwrap(), header);
    run(&other, &format!("image clone {} STORE/x", proxy.uri("/vm@v1"))).ok();
    run(&other, "image export STORE/x DIR/out.raw").ok();
    assert!(std::fs::read(other.directory().join("out.raw")).unwrap() == contents);
    proxy.deny(Some("AccessDenied"));
    let (_refused, finished) = made(&proxy.uri(""));
    assert!(!finished.status.success() && finished.stderr.contains("look at the credentials"), "{finished}");
}
