//! Snapshots that are pushed to a bucket, in a server of S3 from Python's registry.
//!
//! Oracle: the objects of the bucket, asked for by plain HTTP, beside the files of the store.

use std::sync::atomic::Ordering::SeqCst;

use serde_json::Value;

use super::Store;
use super::bucket::{Bucket, CREDENTIALS, FaultProxy, run};
use super::online::{Online, SIZE, client, golden, online_in, read};
use crate::support::image::pattern;
use crate::support::wait_until;

fn refused(store: &Store, line: &str, words: &str) {
    let finished = run(store, line);
    assert!(!finished.status.success() && finished.stderr.contains(words), "{finished}");
}

#[test]
fn a_bucket_takes_pushes_of_one_writer() {
    let Some(bucket) = Bucket::start() else { return };
    let ((one, _), (other, _)) = (golden(), golden());
    for store in [&one, &other] {
        run(store, &format!("store tier STORE {}", bucket.uri())).ok();
        store.run("image checkpoint STORE/golden@v1").ok();
    }
    run(&one, "image push STORE/golden@v1").ok();
    let again: serde_json::Value =
        serde_json::from_str(&run(&one, "image push STORE/golden@v1 --json").ok()).unwrap();
    assert_eq!((&again["was_there"], &again["bytes_sent"]), (&true.into(), &0.into()));
    let uuid = one.json("store info STORE")["uuid"].as_str().unwrap().replace('-', "");
    let pack = std::fs::read(one.path().join("packs/1.pack")).unwrap();
    assert!(bucket.object(&format!("some/where/packs/{uuid}/1.pack")) == pack);

    refused(&other, "image push STORE/golden@v1", "belongs to the store");
    run(&other, "image own STORE/golden --force").ok();
    one.run("image checkpoint STORE/golden@v2").ok();
    refused(&one, "image push STORE/golden@v2", "belongs to the store");
    other.run("image rename STORE/golden@v1 STORE/golden@mine").ok();
    run(&other, "image push STORE/golden@mine").ok();
    run(&one, "store check STORE --tier").ok();
    // Nothing goes that a snapshot needs.
    run(&one, "store gc STORE --tier --grace 0s").ok();
    run(&one, "store gc STORE --tier --grace 0s").ok();
    assert!(bucket.object(&format!("some/where/packs/{uuid}/1.pack")) == pack);
}

/// A store whose snapshot `golden@v1` is in a bucket, with its bytes.
fn pushed(bucket: &Bucket) -> (Store, Vec<u8>) {
    let (one, golden) = golden();
    run(&one, &format!("store tier STORE {}", bucket.uri())).ok();
    one.run("image checkpoint STORE/golden@v1").ok();
    run(&one, "image push STORE/golden@v1").ok();
    (one, golden)
}

/// A confined server of a store, whose tier may be in a bucket.
fn serve(store: &Store) -> Online {
    online_in(store, "", &CREDENTIALS)
}

/// How long reads of a store wait for its tier.
fn wait_s(store: &Store, seconds: u64) {
    let file = store.path().join("tiers");
    let mut tiers: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    tiers["wait_s"] = seconds.into();
    std::fs::write(&file, tiers.to_string()).unwrap();
}

/// The server looks up the name of the endpoint and connects in its sandbox. What many read is fetched once.
#[test]
fn another_host_starts_an_image_of_a_bucket() {
    let Some(bucket) = Bucket::start() else { return };
    let (one, golden) = pushed(&bucket);
    let proxy = FaultProxy::start(&bucket, 1);
    let other = Store::init();
    let from = proxy.uri("/golden@v1");
    assert_eq!(run(&other, &format!("image clone {from} STORE/vm8 STORE/vm9")).ok(), "Made: vm8, vm9.\n");
    let online = serve(&other);
    let server = &online.server;
    assert_eq!(proxy.counts().pack_bytes.load(SeqCst), 0, "nothing is fetched before it is read");
    std::thread::scope(|scope| {
        for image in ["vm8", "vm9", "vm8@v1", "vm9"] {
            let (mut reader, golden) = (client(server, image), &golden);
            scope.spawn(move || {
                let mut found = vec![0; SIZE];
                reader.read_at(0, &mut found).unwrap();
                assert!(found == *golden);
            });
        }
    });
    let fetched = proxy.counts().pack_bytes.load(SeqCst);
    let packs = std::fs::metadata(one.path().join("packs/1.pack")).unwrap().len();
    assert!(fetched * 10 <= packs * 13, "{fetched} bytes of a pack of {packs} were fetched");
    drop(online);
    // All of it is here now.
    drop((proxy, bucket));
    run(&other, "image export STORE/vm9 DIR/out.raw").ok();
    assert!(std::fs::read(other.directory().join("out.raw")).unwrap() == golden);
    assert_eq!(run(&other, "store check STORE").ok(), "Nothing is wrong.\n");
}

/// What a read needs is asked for at once, and what lies side by side is one request.
#[test]
fn a_long_read_is_few_requests() {
    let Some(bucket) = Bucket::start() else { return };
    let (_one, golden) = pushed(&bucket);
    let proxy = FaultProxy::start(&bucket, 2);
    let other = Store::init();
    run(&other, &format!("image clone {} STORE/vm9", proxy.uri("/golden@v1"))).ok();
    proxy.be_far(20);
    let online = serve(&other);
    let mut reader = client(&online.server, "vm9");
    reader.read_at(0, &mut [0; 4096]).unwrap();
    let before = proxy.counts().pack_gets.load(SeqCst);
    let mut found = vec![0; 1 << 20];
    reader.read_at(1 << 20, &mut found).unwrap();
    assert!(found == golden[1 << 20..2 << 20]);
    let gets = proxy.counts().pack_gets.load(SeqCst) - before;
    assert!(gets <= 5, "{gets} requests for 16 chunks that lie side by side");
}

/// Latency, 503, throttling, halves, wrong bytes and lost answers cost time and no byte.
#[test]
fn faults_on_the_way_to_a_bucket_cost_no_byte() {
    let Some(bucket) = Bucket::start() else { return };
    let (one, golden) = golden();
    let proxy = FaultProxy::start(&bucket, 20);
    proxy.fail(30);
    run(&one, &format!("store tier STORE {}", proxy.uri(""))).ok();
    one.run("image checkpoint STORE/golden@v1").ok();
    run(&one, "image push STORE/golden@v1").ok();
    let uuid = one.json("store info STORE")["uuid"].as_str().unwrap().replace('-', "");
    let pack = std::fs::read(one.path().join("packs/1.pack")).unwrap();
    assert!(bucket.object(&format!("some/where/packs/{uuid}/1.pack")) == pack);
    let checked: Value = serde_json::from_str(&run(&one, "store check STORE --tier --json").ok()).unwrap();
    assert_eq!((&checked["snapshots"], &checked["problems"]), (&1.into(), &serde_json::json!([])));

    let other = Store::init();
    run(&other, &format!("image clone {} STORE/vm9", proxy.uri("/golden@v1"))).ok();
    let online = serve(&other);
    let server = &online.server;
    let mut reader = client(server, "vm9");
    // Many small requests, from the end to the beginning, so that nothing is fetched ahead.
    for at in (0..SIZE).step_by(65_536).rev() {
        let mut found = vec![0; 65_536];
        reader.read_at(at as u64, &mut found).unwrap();
        assert!(found == golden[at..at + 65_536], "at {at}");
    }
    proxy.all_happened();
    drop((reader, online));
    assert_eq!(run(&other, "store check STORE --deep").status.code(), Some(0));
}

/// Reads wait for an endpoint that is gone, and fail after the limit; what is here is read on; then all is
/// well again.
#[test]
fn an_endpoint_that_is_gone_costs_reads_their_limit() {
    let Some(bucket) = Bucket::start() else { return };
    let (_one, golden) = pushed(&bucket);
    let proxy = FaultProxy::start(&bucket, 3);
    let other = Store::init();
    run(&other, &format!("image clone {} STORE/vm9", proxy.uri("/golden@v1"))).ok();
    wait_s(&other, 3);
    let online = serve(&other);
    let server = &online.server;
    let mut reader = client(server, "vm9");
    let mut found = vec![0; 4096];
    reader.read_at(0, &mut found).unwrap();
    assert!(found == golden[..4096]);
    proxy.go_away();
    let far = SIZE - 4096;
    reader.read_at(far as u64, &mut found).unwrap_err();
    assert!(server.stderr().contains("a tier does not give what is read"), "{}", server.stderr());
    reader.read_at(0, &mut found).unwrap();
    assert!(found == golden[..4096], "what is here is read on");
    // Whole blocks: a part of one would need the rest, which is not here.
    reader.write_at(73_728, &pattern(9, 0, 8192)).unwrap();
    reader.flush().unwrap();
    proxy.come_back();
    let mut expected = golden.clone();
    expected[73_728..81_920].copy_from_slice(&pattern(9, 0, 8192));
    wait_until("the tier is back", || reader.read_at(far as u64, &mut vec![0; 4096]).is_ok());
    assert!(read(server, "vm9") == expected);
    drop((reader, online));
    // One that starts while nobody answers serves what is here.
    proxy.go_away();
    let online = serve(&other);
    let server = &online.server;
    assert!(read(server, "vm9") == expected);
    assert!(server.stderr().contains("cannot be read for now"), "{}", server.stderr());
}

/// A start does not wait for an endpoint that takes a request and never answers.
#[test]
fn a_start_does_not_wait_for_an_endpoint_that_is_silent() {
    let Some(bucket) = Bucket::start() else { return };
    let (_one, golden) = pushed(&bucket);
    let proxy = FaultProxy::start(&bucket, 9);
    let other = Store::init();
    run(&other, &format!("image clone {} STORE/vm9", proxy.uri("/golden@v1"))).ok();
    run(&other, &format!("store tier STORE {}", proxy.uri(""))).ok();
    proxy.be_silent(true);
    let online = online_in(&other, "?push=1h", &CREDENTIALS);
    let log = online.server.stderr();
    assert!(!log.contains("for now"), "nobody knows yet that there is no answer: {log}");
    proxy.be_silent(false);
    assert!(read(&online.server, "vm9") == golden);
}

/// Reads wait while the endpoint is away for less than the limit.
#[test]
fn reads_wait_for_an_endpoint_that_comes_back() {
    let Some(bucket) = Bucket::start() else { return };
    let (_one, golden) = pushed(&bucket);
    let proxy = FaultProxy::start(&bucket, 4);
    let other = Store::init();
    run(&other, &format!("image clone {} STORE/vm9", proxy.uri("/golden@v1"))).ok();
    let online = serve(&other);
    let server = &online.server;
    proxy.go_away();
    std::thread::scope(|scope| {
        let mut reader = client(server, "vm9");
        let reading = scope.spawn(move || {
            let mut found = vec![0; SIZE];
            reader.read_at(0, &mut found).unwrap();
            found
        });
        wait_until("a read has failed once", || server.stderr().contains("a tier does not give"));
        assert!(!reading.is_finished());
        proxy.come_back();
        assert!(reading.join().unwrap() == golden);
    });
}

/// What is asked for is there or refused, and nothing is made.
#[test]
fn what_is_no_snapshot_of_a_bucket_is_refused() {
    let Some(bucket) = Bucket::start() else { return };
    let (_one, _) = pushed(&bucket);
    let proxy = FaultProxy::start(&bucket, 5);
    let other = Store::init();
    let endpoint = proxy.uri("").split_once('?').unwrap().1.to_owned();
    for (from, words) in [
        (proxy.uri("/golden@v2"), "no snapshot \"v2\""),
        (proxy.uri("/golden"), "golden"),
        (proxy.uri("/none@v1"), "images/none/owner.json"),
        (format!("s3://bucket/else/golden@v1?{endpoint}"), "tier.json"),
        (format!("s3://golden@v1?{endpoint}"), "name"),
        (format!("s3://bucket/some/where/golden@v1?{endpoint}&secret=x"), "secret"),
    ] {
        refused(&other, &format!("image clone {from} STORE/vm9"), words);
    }
    assert_eq!(other.names(), Vec::<String>::new());
}

/// A host writes to a clone and pushes it: only what it wrote is sent, and a third host reads both.
#[test]
fn a_clone_is_pushed_by_the_host_that_wrote_to_it() {
    let Some(bucket) = Bucket::start() else { return };
    let (_one, golden) = pushed(&bucket);
    let proxy = FaultProxy::start(&bucket, 6);
    let (other, third) = (Store::init(), Store::init());
    // Numbers of packs differ between the stores.
    std::fs::write(other.directory().join("own.raw"), pattern(8, 0, 1 << 20)).unwrap();
    other.run("image create STORE/own --from DIR/own.raw").ok();
    other.run("image checkpoint STORE/own@a").ok();
    run(&other, &format!("store tier STORE {}", proxy.uri(""))).ok();
    run(&other, &format!("image clone {} STORE/vm9", proxy.uri("/golden@v1"))).ok();
    let online = serve(&other);
    let server = &online.server;
    let mut expected = golden.clone();
    let new = pattern(9, 0, 300_000);
    expected[1_000_000..1_300_000].copy_from_slice(&new);
    client(server, "vm9").write_at(1_000_000, &new).unwrap();
    drop(online);
    run(&other, "image checkpoint STORE/vm9@mine").ok();
    let sent: Value = serde_json::from_str(&run(&other, "image push STORE/vm9@mine --json").ok()).unwrap();
    let (sent, all) = (sent["bytes_sent"].as_u64().unwrap(), sent["bytes"].as_u64().unwrap());
    assert!(sent > 0 && sent + (2 << 20) < all, "{sent} of {all} bytes were sent");
    run(&other, "store gc STORE --tier --grace 0s").ok();
    run(&other, "store gc STORE --tier --grace 0s").ok();
    run(&third, &format!("image clone {} STORE/vm10", proxy.uri("/vm9@mine"))).ok();
    assert!(read(&serve(&third).server, "vm10") == expected);
    let checked: Value = serde_json::from_str(&run(&other, "store check STORE --tier --json").ok()).unwrap();
    assert_eq!((&checked["snapshots"], &checked["problems"]), (&2.into(), &serde_json::json!([])));
}

/// What a pull beside a server brings is there for the server, which has not been told.
#[test]
fn a_pulled_image_needs_its_bucket_no_more() {
    let Some(bucket) = Bucket::start() else { return };
    let (one, golden) = pushed(&bucket);
    let proxy = FaultProxy::start(&bucket, 7);
    let other = Store::init();
    run(&other, &format!("image clone {} STORE/vm9", proxy.uri("/golden@v1"))).ok();
    let online = serve(&other);
    let mut reader = client(&online.server, "vm9");
    // The pack is open in the server from now on.
    reader.read_at(0, &mut [0; 4096]).unwrap();
    proxy.fail(10);
    let pulled: Value = serde_json::from_str(&run(&other, "image pull STORE/vm9 --json").ok()).unwrap();
    let (bytes, fetched) = (pulled["bytes"].as_u64().unwrap(), pulled["fetched_bytes"].as_u64().unwrap());
    assert_eq!(bytes, SIZE as u64);
    let packs = std::fs::metadata(one.path().join("packs/1.pack")).unwrap().len();
    assert!(fetched > packs / 2 && fetched * 10 <= packs * 13, "{fetched} of {packs}");
    proxy.go_away();
    let mut found = vec![0; SIZE];
    reader.read_at(0, &mut found).unwrap();
    assert!(found == golden);
    drop((reader, online));
    let again: Value = serde_json::from_str(&run(&other, "image pull STORE/vm9@v1 --json").ok()).unwrap();
    assert_eq!((&again["bytes"], &again["fetched_bytes"]), (&bytes.into(), &0.into()));
    // What the caches may not take cannot all be here.
    let file = other.path().join("tiers");
    let mut tiers: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    tiers["cache_bytes"] = (1 << 20).into();
    std::fs::write(&file, tiers.to_string()).unwrap();
    proxy.come_back();
    proxy.fail(0);
    let finished = run(&other, "image pull STORE/vm9");
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(finished.stderr.contains("raise cache_bytes"), "{finished}");
}

/// What one host has read at its first boot is at the next one before anybody reads it.
#[test]
fn what_a_boot_has_read_is_fetched_before_the_next_one() {
    let Some(bucket) = Bucket::start() else { return };
    let (_one, golden) = pushed(&bucket);
    let proxy = FaultProxy::start(&bucket, 8);
    let (first, next) = (Store::init(), Store::init());
    run(&first, &format!("image clone {} STORE/vm9", proxy.uri("/golden@v1"))).ok();
    let parts = [(65_536_usize, 200_000_usize), (3 << 20, 70_000)];
    {
        let online = serve(&first);
        let mut reader = client(&online.server, "vm9");
        for (at, length) in parts {
            reader.read_at(at as u64, &mut vec![0; length]).unwrap();
        }
    }
    refused(&first, "image trace STORE/vm9", "snapshot");
    let traced: Value = serde_json::from_str(&run(&first, "image trace STORE/vm9@v1 --json").ok()).unwrap();
    let ranges = traced["packs"][0]["ranges"].as_array().unwrap();
    let bytes: u64 = ranges.iter().map(|range| range[1].as_u64().unwrap() - range[0].as_u64().unwrap()).sum();
    assert!((270_000..2 << 20).contains(&bytes), "{bytes} bytes in {ranges:?}");

    run(&next, &format!("image clone {} STORE/vm9", proxy.uri("/golden@v1"))).ok();
    wait_s(&next, 10);
    let before = proxy.counts().pack_bytes.load(SeqCst);
    let online = serve(&next);
    wait_until("the boot's parts come", || proxy.counts().pack_bytes.load(SeqCst) >= before + bytes);
    proxy.go_away();
    let mut reader = client(&online.server, "vm9");
    for (at, length) in parts {
        let mut found = vec![0; length];
        reader.read_at(at as u64, &mut found).unwrap();
        assert!(found == golden[at..at + length]);
    }
    reader.read_at(2 << 20, &mut [0; 4096]).unwrap_err();
}
