//! `diff`, `map` and `export` of snapshots while a server has the store.
//!
//! Oracles: what the same commands say when the server is gone; what the server tells its clients; bytes that
//! the test wrote.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Store;
use super::online::{AtLast, Online, client, golden, online, read};
use crate::peers;
use crate::support::image::pattern;
use crate::support::wait_until;

const BLOCK: u64 = 4096;

/// Snapshots are exported while their image is written, and each later one as a delta.
#[test]
fn snapshots_of_an_image_that_is_written_are_backed_up() {
    let (store, _) = golden();
    let other = Store::init();
    let online = online(&store);
    let Online { server, .. } = &online;
    let (written, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut writer = client(server, "vm1");
    let mut exported: Vec<Vec<u8>> = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let at = number * 37 % 900 * BLOCK;
                match number % 5 {
                    0 => writer.write_at(at, &[0; 3 * BLOCK as usize]).unwrap(),
                    _ => writer.write_at(at + 512, &pattern(number, at, 6000)).unwrap(),
                }
                written.store(number, Ordering::SeqCst);
            }
        });
        let _end = AtLast(&stop);
        for number in 0..4 {
            let before = written.load(Ordering::SeqCst);
            wait_until("some writes", || written.load(Ordering::SeqCst) > before + 20);
            store.run(&format!("image snapshot STORE/vm1@s{number}")).ok();
            let file = store.dir.path().join(format!("s{number}.raw"));
            store.run(&format!("image export STORE/vm1@s{number} DIR/s{number}.raw")).ok();
            exported.push(std::fs::read(file).unwrap());
            let range = if number == 0 { "..s0".to_owned() } else { format!("s{}..s{number}", number - 1) };
            let delta = store.command(&format!("image export STORE/vm1 - --delta {range}")).output().unwrap();
            assert!(delta.status.success(), "{}", String::from_utf8_lossy(&delta.stderr));
            peers::run_with_input(&mut other.command("image import STORE/vm1 - --delta"), &delta.stdout).ok();
        }
    });
    for (number, bytes) in exported.iter().enumerate() {
        assert!(read(server, &format!("vm1@s{number}")) == *bytes, "s{number} is another for clients");
        other.run(&format!("image export STORE/vm1@s{number} DIR/out.raw --force")).ok();
        assert!(
            std::fs::read(other.dir.path().join("out.raw")).unwrap() == *bytes,
            "s{number} was restored otherwise"
        );
    }
    assert!(exported.windows(2).all(|pair| pair[0] != pair[1]), "the writer changed something");
    // What differs is told, and what the commands say they say without the server too.
    let lines = [
        "image diff STORE/vm1@s0 STORE/vm1@s3 --json",
        "image diff STORE/vm1@s3 STORE/vm1@s1",
        "image diff STORE/golden@v1 STORE/vm1@s2 --json",
        "image map STORE/vm1@s2 --json",
        "image map STORE/golden@v1",
    ];
    let said = lines.map(|line| store.run(line).ok());
    let parts: serde_json::Value = serde_json::from_str(&said[0]).unwrap();
    let mut told = vec![false; exported[0].len()];
    for part in parts["extents"].as_array().unwrap() {
        let number = |key: &str| part[key].as_u64().unwrap() as usize;
        told[number("start")..number("start") + number("length")].fill(true);
    }
    let differs = exported[0].iter().zip(&exported[3]).map(|(a, b)| a != b);
    assert!(differs.zip(&told).all(|(differs, told)| *told || !differs), "all that differs is told");
    assert!(told.iter().any(|told| !told));
    assert_eq!(server.complaints(), [""; 0]);
    drop((writer, online));
    assert_eq!(said, lines.map(|line| store.run(line).ok()));
    assert_eq!(other.run("store check STORE").ok(), "Nothing is wrong.\n");
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// An image that may be written has no contents that could be read behind its server's back.
#[test]
fn images_themselves_are_refused_while_a_server_has_them() {
    let (store, golden) = golden();
    let online = online(&store);
    let what_to_do = "take a snapshot of it";
    for (line, words) in [
        ("image export STORE/vm1 DIR/out.raw", what_to_do),
        ("image export STORE/vm1 -", what_to_do),
        ("image diff STORE/golden@v1 STORE/vm1", what_to_do),
        ("image map STORE/vm1", what_to_do),
        ("image map STORE/vm9", "no image"),
        ("image export STORE/vm1@x -", "no snapshot"),
        ("image export STORE/golden - --delta v1..v2", "no snapshot"),
        ("image export STORE/golden@v1 DIR/golden.raw", "exists already"),
    ] {
        store.refused(line, &[words]);
    }
    assert!(!store.dir.path().join("out.raw").exists(), "nothing is left of what was refused");
    let address = format!("unix:{}", online.socket.display());
    store.run(&format!("image export STORE/golden@v1 DIR/out.raw --control {address}")).ok();
    assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == golden);
    assert_eq!(online.server.complaints(), [""; 0]);
    drop(online);
    // Without it they have what their last client left.
    store.run("image export STORE/vm1 DIR/out.raw --force").ok();
    assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == golden);
}

/// What is read goes on, because the files are open.
#[test]
fn an_export_goes_on_when_its_snapshot_is_removed() {
    let (store, golden) = golden();
    let online = online(&store);
    let mut user = client(&online.server, "vm2");
    user.write_at(1 << 20, &[7; 1 << 20]).unwrap();
    drop(user);
    let mut expected = golden;
    expected[1 << 20..2 << 20].fill(7);
    store.run("image snapshot STORE/vm2@a").ok();
    let layers = store.layers().len();
    let mut command = store.command("image export STORE/vm2@a -");
    let mut export = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut found = vec![0; 1];
    let mut out = export.stdout.take().unwrap();
    // It has begun, and waits because nobody reads on.
    out.read_exact(&mut found).unwrap();
    wait_until("vm2 is removed", || store.run("image rm STORE/vm2 --snapshots").status.success());
    assert!(store.layers().len() < layers, "the files have no names any more");
    out.read_to_end(&mut found).unwrap();
    assert!(export.wait().unwrap().success());
    assert!(found == expected);
    assert_eq!(online.server.complaints(), [""; 0]);
}

/// Images on a base, and sizes that end within a block of a lower layer: what was cut off stays away.
#[test]
fn what_was_cut_off_within_a_block_does_not_come_back() {
    let store = Store::init();
    let mut expected = pattern(3, 0, 64 << 10);
    std::fs::write(store.dir.path().join("base.raw"), &expected).unwrap();
    store.run("image create STORE/vm --base file:DIR/base.raw").ok();
    let online = online(&store);
    let Online { server, .. } = &online;
    let resize = |size: u64| {
        let line = format!("image resize --shrink STORE/vm {size}");
        wait_until(&line, || store.run(&line).status.success());
    };
    let check = |expected: &[u8]| {
        let mut found = vec![1; expected.len()];
        client(server, "vm").read_at(0, &mut found).unwrap();
        assert!(found == expected, "old bytes are seen");
    };
    for (number, end) in [(0, 33_280), (1, 25_088), (2, 10_240)] {
        store.run(&format!("image snapshot STORE/vm@full{number}")).ok();
        resize(end);
        if number % 2 == 0 {
            store.run(&format!("image snapshot STORE/vm@cut{number}")).ok();
        } else {
            client(server, "vm").write_at(0, &[number; 512]).unwrap();
            expected[..512].fill(number);
        }
        resize(64 << 10);
        let before = expected.clone();
        expected[end as usize..].fill(0);
        check(&expected);
        store.run(&format!("image snapshot STORE/vm@grown{number}")).ok();
        assert!(
            store.run(&format!("image export STORE/vm@grown{number} DIR/grown.raw --force")).status.success()
        );
        assert!(
            std::fs::read(store.dir.path().join("grown.raw")).unwrap() == expected,
            "an export has old bytes"
        );
        let line = format!("image diff STORE/vm@full{number} STORE/vm@grown{number}");
        let diff = store.json(&line);
        let told = |at: u64| {
            diff["extents"].as_array().unwrap().iter().any(|part| {
                let start = part["start"].as_u64().unwrap();
                (start..start + part["length"].as_u64().unwrap()).contains(&at)
            })
        };
        let changed = (0..before.len()).filter(|at| before[*at] != expected[*at]);
        let untold: Vec<usize> = changed.filter(|at| !told(*at as u64)).take(4).collect();
        assert!(untold.is_empty(), "{line}: {untold:?} have changed");
    }
    assert_eq!(server.complaints(), [""; 0]);
    drop(online);
    store.run("image export STORE/vm DIR/vm.raw").ok();
    assert!(std::fs::read(store.dir.path().join("vm.raw")).unwrap() == expected);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// What was answered and not flushed is in a log that the server has left, which every command takes over.
#[test]
fn commands_that_read_have_what_was_answered_before_a_kill() {
    let (store, mut expected) = golden();
    for (number, (line, file)) in [
        ("image export STORE/vm1 DIR/out.raw --force", "out.raw"),
        ("image diff STORE/golden@v1 STORE/vm1 --json", ""),
        ("image map STORE/vm1 --json", ""),
        ("image export STORE/vm1 DIR/last.raw", "last.raw"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut online = online(&store);
        let at = (number + 1) * 700_000;
        let mut user = client(&online.server, "vm1");
        user.write_at(at as u64, &pattern(number as u64, 0, 30_000)).unwrap();
        expected[at..at + 30_000].copy_from_slice(&pattern(number as u64, 0, 30_000));
        online.server.crash();
        let said = store.run(line).ok();
        if !file.is_empty() {
            assert!(
                std::fs::read(store.dir.path().join(file)).unwrap() == expected,
                "{line}: something is lost"
            );
            continue;
        }
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        let parts = said.as_array().or(said["extents"].as_array()).unwrap();
        let of_head = parts.iter().filter(|part| part.get("depth").is_none_or(|depth| depth == 0));
        let number = |part: &serde_json::Value, key: &str| part[key].as_u64().unwrap() as usize;
        let has = of_head.clone().any(|part| {
            let start = number(part, "start");
            start <= at && at + 30_000 <= start + number(part, "length")
        });
        assert!(has, "{line}: {said}");
    }
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// What is not written any more is checked while images are written, snapshotted and merged.
#[test]
fn a_store_is_checked_while_a_server_has_it() {
    let (store, _) = golden();
    let of_golden = store.layers();
    let online = online(&store);
    let stop = AtomicBool::new(false);
    let mut writer = client(&online.server, "vm1");
    let well = "Nothing is wrong.\nWhat is written now was not looked at: stop the server that has the store for that.\n";
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                writer.write_at(number * 37 % 900 * BLOCK, &pattern(number, 0, 6144)).unwrap();
            }
        });
        let _end = AtLast(&stop);
        for number in 0..5 {
            store.run(&format!("image snapshot STORE/vm1@s{number}")).ok();
            assert_eq!(store.run("store check STORE").ok(), well);
            if number > 1 {
                store.run(&format!("image rm STORE/vm1@s{}", number - 2)).ok();
                assert_eq!(store.run("store check STORE").ok(), well);
            }
        }
    });
    let json = store.json("store check STORE");
    assert_eq!((&json["ok"], &json["complete"]), (&true.into(), &false.into()), "{json}");
    // The one layer of golden is not written any more.
    let file = File::options().read(true).write(true).open(of_golden[0].join("map")).unwrap();
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let node = (0..bytes.len()).step_by(4096).find(|at| bytes[*at..].starts_with(b"rnbmNODE")).unwrap();
    file.write_all_at(&[bytes[node + 200] ^ 1], node as u64 + 200).unwrap();
    let finished = store.run("store check STORE");
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    let layer = of_golden[0].file_name().unwrap().to_str().unwrap();
    assert!(finished.stdout.contains(layer) && finished.stdout.contains("is damaged"), "{finished}");
    file.write_all_at(&[bytes[node + 200]], node as u64 + 200).unwrap();
    assert_eq!(store.run("store check STORE").ok(), well);
    drop((writer, online));
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}
