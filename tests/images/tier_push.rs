//! Snapshots that come to the tier without being asked for, while a confined server has the store.
//!
//! Oracles: the objects and the requests that arrive; what another store reads of them.

use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use serde_json::Value;

use super::Store;
use super::bucket::{Bucket, CREDENTIALS, FaultProxy, run};
use super::online::{Online, SIZE, client, golden, online_in, read};
use crate::http::Address;
use crate::support::image::pattern;
use crate::support::wait_until;

fn state(store: &Store) -> Value {
    store.json("store push STORE")
}

fn of(store: &Store, name: &str) -> Value {
    let list = store.json("image ls STORE");
    let mut nodes = list["nodes"].as_array().unwrap().iter();
    nodes.find(|node| node["name"] == name).unwrap_or_else(|| panic!("{name} in {list}")).clone()
}

fn is_pushed(store: &Store, name: &str) -> bool {
    of(store, name)["pushed"].is_u64()
}

/// The sum of all samples of a metric that have these words.
fn metric(online: &Online, name: &str, words: &str) -> u64 {
    let page = Address::Unix(online.admin.clone()).get("/metrics").body;
    let lines = page.lines().filter(|line| line.starts_with(name) && line.contains(words));
    let values: Vec<u64> = lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(!values.is_empty(), "{name} {words}: {page}");
    values.iter().sum()
}

/// What a new store reads of a snapshot on the tier.
fn read_elsewhere(from: &str) -> Vec<u8> {
    let other = Store::init();
    run(&other, &format!("image clone {from} STORE/x")).ok();
    run(&other, "image export STORE/x DIR/out.raw").ok();
    std::fs::read(other.directory().join("out.raw")).unwrap()
}

fn tiered(store: &Store, tier: &Path) {
    store.run(&format!("store tier STORE file:{}", tier.display())).ok();
}

/// Writes new bytes to an image, and has them in packs.
fn checkpointed(store: &Store, online: &Online, node: &str, bytes: &mut [u8], at: usize) {
    let new = pattern(at as u64, 0, 300_000);
    bytes[at..at + new.len()].copy_from_slice(&new);
    let mut writer = client(&online.server, node.split('@').next().unwrap());
    writer.write_at(at as u64, &new).unwrap();
    writer.flush().unwrap();
    store.run(&format!("image checkpoint STORE/{node}")).ok();
}

#[test]
fn snapshots_come_to_the_tier_by_themselves() {
    let (store, golden) = golden();
    let tier = store.directory().join("tier");
    tiered(&store, &tier);
    store.refused("store push STORE", &["server"]);
    let online = online_in(&store, "?ingest=0s&push=0s", &[]);
    wait_until("it is pushed", || is_pushed(&store, "golden@v1"));
    let state_of = || state(&store);
    wait_until("it is told", || state_of()["snapshots"] == 1);
    let told = state_of();
    assert_eq!(
        (&told["after_seconds"], &told["failures"], &told["queue"]),
        (&0.into(), &0.into(), &0.into())
    );
    assert!(told["packs"].as_u64() > Some(0) && told["bytes"] == told["bytes_sent"], "{told}");
    assert!(read_elsewhere(&format!("file://{}/golden@v1", tier.display())) == golden);
    assert_eq!(metric(&online, "ringnbd_tier_pushes_total", "pushed"), 1);
    assert_eq!(metric(&online, "ringnbd_tier_pushed_bytes_total", ""), told["bytes"].as_u64().unwrap());
    assert!(metric(&online, "ringnbd_tier_push_last_success_timestamp_seconds", "") > 1_700_000_000);

    // While it is paused, what is asked for goes on.
    assert_eq!(store.json("store push STORE --pause")["paused"], true);
    let mut bytes = golden.clone();
    checkpointed(&store, &online, "vm1@a", &mut bytes, 1 << 20);
    checkpointed(&store, &online, "vm1@b", &mut bytes, 2 << 20);
    wait_until("they wait", || state_of()["queue"] == 2);
    store.run("image push STORE/vm1@b").ok();
    wait_until("one waits", || state_of()["queue"] == 1);
    assert!(!is_pushed(&store, "vm1@a") && metric(&online, "ringnbd_tier_push_paused", "") == 1);
    assert_eq!(store.json("store push STORE --resume --rate 5M")["rate"], 5 << 20);
    wait_until("the other one comes", || is_pushed(&store, "vm1@a"));
    assert!(read_elsewhere(&format!("file://{}/vm1@b", tier.display())) == bytes);
    assert_eq!(online.server.complaints(), [""; 0]);
    drop(online);
    assert_eq!(store.run("store check STORE --tier").status.code(), Some(0));
}

/// What was not asked for comes at no time; a snapshot that is young waits.
#[test]
fn a_young_snapshot_waits_and_a_clone_is_there_already() {
    let (store, _) = golden();
    let tier = store.directory().join("tier");
    tiered(&store, &tier);
    store.run("image checkpoint STORE/golden@v1").ok();
    store.run("image push STORE/golden@v1").ok();
    let other = Store::init();
    tiered(&other, &tier);
    other.run(&format!("image clone file://{}/golden@v1 STORE/vm9", tier.display())).ok();
    assert!(is_pushed(&other, "vm9@v1"));
    assert_eq!(of(&other, "vm9")["lag"]["bytes"], 0);
    let online = online_in(&other, "?push=1h", &[]);
    let mut bytes = vec![0; SIZE];
    checkpointed(&other, &online, "vm9@mine", &mut bytes, 1 << 20);
    wait_until("the lag is told", || {
        let told = state(&other);
        told["lag_bytes"].as_u64() >= Some(300_000) && told["queue"] == 0
    });
    assert_eq!(metric(&online, "ringnbd_tier_requests_total", "kind=\"put\""), 0);
    assert!(!is_pushed(&other, "vm9@mine"));
}

/// Another store takes the name over: it stops, says so, and loses nothing.
#[test]
fn a_store_that_lost_a_name_says_so_and_loses_nothing() {
    let (one, golden) = golden();
    let tier = one.directory().join("tier");
    tiered(&one, &tier);
    let online = online_in(&one, "?ingest=0s&push=0s", &[]);
    wait_until("it is pushed", || is_pushed(&one, "golden@v1"));
    let other = Store::init();
    tiered(&other, &tier);
    other.run("image own STORE/golden --force").ok();
    let (mut bytes, mut of_clone) = (golden.clone(), golden);
    checkpointed(&one, &online, "golden@v2", &mut bytes, 1 << 20);
    wait_until("it is told", || state(&one)["lost"] == serde_json::json!(["golden"]));
    assert_eq!(metric(&online, "ringnbd_tier_push_lost_images", ""), 1);
    let log = online.server.stderr();
    assert!(
        log.contains("an image does not come to the tier any more") && log.contains("belongs to the store")
    );
    assert!(state(&one)["error"].as_str().unwrap().contains("image own --force"));
    // Other images come, and this one is served on.
    checkpointed(&one, &online, "vm1@a", &mut of_clone, 2 << 20);
    wait_until("another image comes", || is_pushed(&one, "vm1@a"));
    assert!(!is_pushed(&one, "golden@v2"));
    assert!(read(&online.server, "golden") == bytes && read(&online.server, "golden@v2") == bytes);
    one.run("image own STORE/golden --force").ok();
    one.run("store push STORE --resume").ok();
    wait_until("it has the name back", || is_pushed(&one, "golden@v2"));
    assert_eq!(metric(&online, "ringnbd_tier_push_lost_images", ""), 0);
    assert!(read_elsewhere(&format!("file://{}/golden@v2", tier.display())) == bytes);
}

/// A bucket behind a proxy, and a store whose three snapshots are in packs of their own.
fn three_packs(proxy: &FaultProxy) -> (Store, Vec<u8>) {
    let (store, mut bytes) = golden();
    run(&store, &format!("store tier STORE {}", proxy.uri(""))).ok();
    let online = online_in(&store, "", &[]);
    store.run("image checkpoint STORE/golden@v1").ok();
    checkpointed(&store, &online, "golden@v2", &mut bytes, 1 << 20);
    checkpointed(&store, &online, "golden@v3", &mut bytes, 2 << 20);
    (store, bytes)
}

/// A server that is killed in the middle of an upload goes on with what is not there.
#[test]
fn an_upload_that_was_cut_goes_on_after_a_restart() {
    let Some(bucket) = Bucket::start() else { return };
    let proxy = FaultProxy::start(&bucket, 11);
    let (store, mut bytes) = golden();
    run(&store, &format!("store tier STORE {}", proxy.uri(""))).ok();
    let uploads = || proxy.counts().uploads.lock().unwrap().clone();
    {
        let mut online = online_in(&store, "?ingest=0s&push=0s", &CREDENTIALS);
        wait_until("a pack is there", || is_pushed(&store, "golden@v1"));
        // It would take minutes.
        store.run("store push STORE --rate 1K").ok();
        checkpointed(&store, &online, "golden@v2", &mut bytes, 1 << 20);
        checkpointed(&store, &online, "golden@v3", &mut bytes, 2 << 20);
        wait_until("another one is on its way", || {
            let told = state(&store);
            told["pushing"] == "golden@v2" && told["bytes_sent"].as_u64() > told["bytes"].as_u64()
        });
        online.server.crash();
    }
    assert_eq!(uploads().len(), 1);
    let online = online_in(&store, "?push=0s", &CREDENTIALS);
    wait_until("all is there", || is_pushed(&store, "golden@v3"));
    let all = uploads();
    let distinct: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (3, 3), "each pack is sent once: {all:?}");
    assert!(read(&online.server, "golden") == bytes);
    assert!(read_elsewhere(&proxy.uri("/golden@v3")) == bytes);
}

/// The rate holds, and another one counts at once.
#[test]
fn a_rate_is_changed_while_an_upload_waits() {
    let Some(bucket) = Bucket::start() else { return };
    let proxy = FaultProxy::start(&bucket, 12);
    let (store, _) = three_packs(&proxy);
    let online = online_in(&store, "?push=0s&push-rate=1K", &CREDENTIALS);
    // It would take hours.
    wait_until("one is on its way", || state(&store)["bytes_sent"].as_u64() > Some(0));
    client(&online.server, "golden").flush().unwrap();
    assert!(proxy.counts().uploads.lock().unwrap().is_empty() && !is_pushed(&store, "golden@v1"));
    store.run("store push STORE --rate 1G").ok();
    wait_until("all is there", || is_pushed(&store, "golden@v3"));
}

/// An upload into a directory that is paused in its middle is no failure, and goes on.
#[test]
fn a_pause_ends_an_upload_that_is_under_way() {
    let (store, golden) = golden();
    let tier = store.directory().join("tier");
    tiered(&store, &tier);
    let online = online_in(&store, "?ingest=0s&push=0s&push-rate=1K", &[]);
    wait_until("it is on its way", || state(&store)["bytes_sent"].as_u64() > Some(0));
    store.run("store push STORE --pause").ok();
    wait_until("it has ended", || state(&store)["pushing"].is_null());
    let told = state(&store);
    assert_eq!((&told["failures"], &told["error"]), (&0.into(), &Value::Null), "{told}");
    store.run("store push STORE --resume --rate 1G").ok();
    wait_until("it is pushed", || is_pushed(&store, "golden@v1"));
    assert!(read_elsewhere(&format!("file://{}/golden@v1", tier.display())) == golden);
    assert_eq!(online.server.complaints(), [""; 0]);
}

/// While nobody answers, it is asked again and again, and nobody else waits.
#[test]
fn an_endpoint_that_was_away_gets_what_it_missed() {
    let Some(bucket) = Bucket::start() else { return };
    let proxy = FaultProxy::start(&bucket, 13);
    let (store, mut bytes) = three_packs(&proxy);
    proxy.go_away();
    let online = online_in(&store, "?push=0s", &CREDENTIALS);
    assert!(online.server.stderr().contains("snapshots do not come to the tier for now"));
    checkpointed(&store, &online, "golden@v4", &mut bytes, 3 << 20);
    wait_until("it is asked again", || metric(&online, "ringnbd_tier_push_retries_total", "") > 0);
    assert!(metric(&online, "ringnbd_tier_requests_total", "unreachable") > 0);
    let requests = proxy.counts().requests.load(SeqCst);
    proxy.come_back();
    proxy.fail(20);
    wait_until("all is there", || is_pushed(&store, "golden@v4"));
    assert!(proxy.counts().requests.load(SeqCst) > requests);
    proxy.fail(0);
    assert!(read_elsewhere(&proxy.uri("/golden@v4")) == bytes);
}
