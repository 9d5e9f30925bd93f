//! What must not be lost while a bucket refuses, forgets, or is not there.
//!
//! Oracles: the bytes that the test wrote; the requests that came to the proxy before the bucket.

use std::sync::atomic::Ordering::SeqCst;

use serde_json::Value;

use super::Store;
use super::bucket::{Bucket, CREDENTIALS, FaultProxy, run};
use super::online::{SIZE, client, golden, online_in, read};
use crate::support::image::pattern;
use crate::support::wait_until;

/// More than two parts of an upload.
const LARGE: usize = 20 << 20;

/// Gives the tiers of a store another limit.
fn limit(store: &Store, key: &str, value: u64) {
    let file = store.path().join("tiers");
    let mut tiers: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    tiers[key] = value.into();
    std::fs::write(&file, tiers.to_string()).unwrap();
}

/// A store with `golden@v1` on the tier behind a proxy.
fn pushed(proxy: &FaultProxy) -> (Store, Vec<u8>) {
    let (one, golden) = golden();
    run(&one, &format!("store tier STORE {}", proxy.uri(""))).ok();
    one.run("image checkpoint STORE/golden@v1").ok();
    run(&one, "image push STORE/golden@v1").ok();
    (one, golden)
}

/// Readers of what is far away, which does not answer, keep nobody from what is here.
#[test]
fn what_is_here_is_read_while_others_wait() {
    const READERS: usize = 16;
    const HERE: usize = 512 << 10;
    let Some(bucket) = Bucket::start() else { return };
    let proxy = FaultProxy::start(&bucket, 21);
    let (_one, golden) = pushed(&proxy);
    let other = Store::init();
    run(&other, &format!("image clone {} STORE/vm9", proxy.uri("/golden@v1"))).ok();
    limit(&other, "wait_s", 300);
    let online = online_in(&other, "", &CREDENTIALS);
    let server = &online.server;
    let mut reader = client(server, "vm9");
    let mut found = vec![0; HERE];
    reader.read_at(0, &mut found).unwrap();
    proxy.go_away();
    std::thread::scope(|scope| {
        let far: Vec<_> = (1..=READERS)
            .map(|number| {
                let (mut reader, golden) = (client(server, "vm9"), &golden);
                let at = SIZE - number * 65_536;
                scope.spawn(move || {
                    let mut found = vec![0; 4096];
                    reader.read_at(at as u64, &mut found).unwrap();
                    assert!(found == golden[at..at + 4096]);
                })
            })
            .collect();
        wait_until("some wait", || server.stderr().contains("a tier does not give what is read"));
        for _ in 0..20 {
            found.fill(0);
            reader.read_at(0, &mut found).unwrap();
            assert!(found == golden[..HERE]);
        }
        assert!(far.iter().all(|reader| !reader.is_finished()), "they wait for the tier");
        proxy.come_back();
    });
}

/// While all is refused, reads of what is far away fail after their limit, and pushes are tried again; both
/// go on when nothing is refused any more.
#[test]
fn credentials_that_are_lost_lose_nothing() {
    let Some(bucket) = Bucket::start() else { return };
    let proxy = FaultProxy::start(&bucket, 22);
    let (one, golden) = pushed(&proxy);
    let other = Store::init();
    run(&other, &format!("image clone {} STORE/vm9", proxy.uri("/golden@v1"))).ok();
    run(&other, &format!("store tier STORE {}", proxy.uri(""))).ok();
    limit(&other, "wait_s", 2);
    let online = online_in(&other, "?ingest=0s&push=0s", &CREDENTIALS);
    let server = &online.server;
    let mut reader = client(server, "vm9");
    reader.read_at(0, &mut [0; 4096]).unwrap();
    proxy.deny(Some("ExpiredToken"));
    let (mut expected, new) = (golden.clone(), pattern(9, 0, 65_536));
    expected[..new.len()].copy_from_slice(&new);
    reader.write_at(0, &new).unwrap();
    reader.flush().unwrap();
    reader.read_at(SIZE as u64 - 4096, &mut [0; 4096]).unwrap_err();
    assert!(server.stderr().contains("look at the credentials"), "{}", server.stderr());
    other.run("image snapshot STORE/vm9@mine").ok();
    let state = || other.json("store push STORE");
    wait_until("a push is refused", || {
        state()["error"].as_str().is_some_and(|why| why.contains("credentials"))
    });
    let finished = run(&one, "image own STORE/golden");
    assert!(!finished.status.success() && finished.stderr.contains("ExpiredToken"), "{finished}");
    proxy.deny(Some("RequestTimeTooSkewed"));
    let finished = run(&one, "image own STORE/golden");
    assert!(finished.stderr.contains("set the clock of this host"), "{finished}");
    proxy.deny(None);
    other.run("store push STORE --resume").ok();
    wait_until("both are pushed", || state()["snapshots"] == 2);
    assert!(read(server, "vm9") == expected);
    let third = Store::init();
    run(&third, &format!("image clone {} STORE/x", proxy.uri("/vm9@mine"))).ok();
    run(&third, "image export STORE/x DIR/out.raw").ok();
    assert!(std::fs::read(third.directory().join("out.raw")).unwrap() == expected);
}

/// A pack that is sent in parts is there as a whole, whoever is told so.
#[test]
fn an_upload_in_parts_is_whole_though_nobody_is_told() {
    let Some(bucket) = Bucket::start() else { return };
    let proxy = FaultProxy::start(&bucket, 23);
    let one = Store::init();
    let large = pattern(11, 0, LARGE);
    std::fs::write(one.directory().join("large.raw"), &large).unwrap();
    one.run("image create STORE/large --from DIR/large.raw").ok();
    one.run("image checkpoint STORE/large@v1").ok();
    run(&one, &format!("store tier STORE {}", proxy.uri(""))).ok();
    proxy.lose_wholes(1);
    run(&one, "image push STORE/large@v1").ok();
    assert_eq!(proxy.lost_wholes(), 0, "it was lost");
    let (uuid, pack) = (one.json("store info STORE")["uuid"].as_str().unwrap().replace('-', ""), "1.pack");
    let file = std::fs::read(one.path().join("packs").join(pack)).unwrap();
    assert!(file.len() > LARGE && bucket.object(&format!("some/where/packs/{uuid}/{pack}")) == file);
    let uploads = proxy.counts().uploads.lock().unwrap().len();
    assert_eq!(uploads, 3, "each part is sent once");
    // Others meet all faults.
    let other = Store::init();
    std::fs::write(other.directory().join("large.raw"), pattern(12, 0, LARGE)).unwrap();
    other.run("image create STORE/second --from DIR/large.raw").ok();
    other.run("image checkpoint STORE/second@v1").ok();
    proxy.fail(20);
    run(&other, &format!("store tier STORE {}", proxy.uri(""))).ok();
    run(&other, "image push STORE/second@v1").ok();
    assert!(proxy.counts().requests.load(SeqCst) > 0);
    proxy.fail(0);
    let third = Store::init();
    for (name, seed) in [("large", 11), ("second", 12)] {
        run(&third, &format!("image clone {} STORE/{name}", proxy.uri(&format!("/{name}@v1")))).ok();
        run(&third, &format!("image export STORE/{name} DIR/{name}.raw")).ok();
        let found = std::fs::read(third.directory().join(format!("{name}.raw"))).unwrap();
        assert!(found == pattern(seed, 0, LARGE), "{name}");
    }
}
