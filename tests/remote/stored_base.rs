//! Images that stay, on exports of other servers: overlays in a directory, and images of a store.
//!
//! Oracles: the file behind the other server, and a copy in memory of what the test wrote.

use std::path::Path;
use std::process::Command;

use super::far::{Far, Kind};
use super::{SIZE, client, ended, error_of};
use crate::images::Store;
use crate::peers;
use crate::support::image::{Image, pattern};
use crate::support::server::{Options, Server};

const HALF: usize = SIZE as usize / 2;

fn serve(overlay: &Path, base: Option<&Far>) -> Server {
    let base = base.map_or_else(String::new, |far| format!("?base={}%26reconnect=60s", far.uri()));
    Options::new().export(format!("x=overlay:{}{base}", overlay.display())).start()
}

/// What a server says that does not start.
#[track_caller]
fn refused(export: &str, directory: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    command.args(["serve", export, "--unix"]).arg(directory.join("refused"));
    ended(peers::run(&mut command), 2)
}

#[track_caller]
fn assert_reads(near: &Server, expected: &[u8]) {
    let mut read = vec![1; expected.len()];
    client(near).read_at(0, &mut read).unwrap();
    assert!(read == expected, "other bytes");
}

/// The overlay is killed, stopped, and served again with its base here, there, and not named at all.
fn an_overlay_of_a_directory(kind: Kind) -> Option<()> {
    let image = Image::random(SIZE / 2, 3);
    let mut expected = image.read(0, HALF);
    let mut far = Far::start(kind, &image)?;
    let directory = tempfile::tempdir().unwrap();
    let overlay = directory.path().join("vm.d");
    let mut near = serve(&overlay, Some(&far));
    for (round, at) in [(1, 700), (2, 1 << 20), (3, HALF - 9000)] {
        let bytes = pattern(round, at as u64, 9000);
        client(&near).write_at(at as u64, &bytes).unwrap();
        expected[at..at + 9000].copy_from_slice(&bytes);
        assert_reads(&near, &expected);
        near.crash();
        if round == 2 {
            far.restart()?;
        }
        // The last time the catalogue says where its base is.
        near = serve(&overlay, (round < 3).then_some(&far));
        assert_reads(&near, &expected);
    }
    far.restart()?;
    assert_reads(&near, &expected);
    near.stop();
    far.kill();
    assert!(image.read(0, HALF) != expected, "the base was written");
    // The same bytes are served elsewhere.
    let moved = Image::sparse(SIZE / 2);
    moved.write(0, &image.read(0, HALF));
    let elsewhere = Far::start(kind, &moved)?;
    let mut near = serve(&overlay, Some(&elsewhere));
    assert_reads(&near, &expected);
    near.stop();
    drop(elsewhere);
    // Others are not: another disk, or a longer one.
    for (other, what) in [(Image::random(SIZE / 2, 4), "contents"), (Image::random(SIZE, 3), "size")] {
        let wrong = Far::start(kind, &other)?;
        let told =
            refused(&format!("x=overlay:{}?base={}", overlay.display(), wrong.uri()), directory.path());
        assert!(told.contains("is not the export that it was") && told.contains(what), "{told}");
    }
    Some(())
}

#[test]
fn an_overlay_of_a_directory_on_ringnbd() {
    an_overlay_of_a_directory(Kind::Ringnbd).expect("it needs no peer");
}

#[test]
fn an_overlay_of_a_directory_on_qemu_nbd() {
    let _ = an_overlay_of_a_directory(Kind::QemuNbd);
}

#[test]
fn an_overlay_of_a_directory_on_nbd_server() {
    let _ = an_overlay_of_a_directory(Kind::NbdServer);
}

/// Images of a store share a base on another server, which a confined server finds again after a restart of it.
#[test]
fn images_of_a_store_on_a_remote_base() {
    let image = Image::random(SIZE / 2, 5);
    let golden = image.read(0, HALF);
    let mut far = Far::start(Kind::Ringnbd, &image).unwrap();
    let base = format!("{}&reconnect=60s", far.uri());
    let store = Store::init();
    store.run(&format!("image create STORE/vm1 --base {base}")).ok();
    store.run(&format!("image create STORE/vm2 {SIZE} --base {base}")).ok();
    assert_eq!(store.json("image ls STORE")["nodes"][0]["size"], SIZE / 2);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    let near = Options::new().export(format!("store:{}", store.path().display())).start();
    let open = |name: &str| {
        let uri = near.uri(name).parse().unwrap();
        ringnbd::internal::client::Client::open(&uri, &[], Default::default()).expect("connect")
    };
    let (mut one, mut two) = (open("vm1"), open("vm2"));
    one.write_at(4096, &[1; 4096]).unwrap();
    let mut read = vec![7; SIZE as usize];
    two.read_at(0, &mut read).unwrap();
    assert!(read[..HALF] == golden && read[HALF..].iter().all(|byte| *byte == 0));
    far.restart().unwrap();
    one.read_at(0, &mut read[..HALF]).expect("it connects again");
    let mut expected = golden.clone();
    expected[4096..8192].fill(1);
    assert!(read[..HALF] == expected);
    one.flush().unwrap();
    drop((one, two, near));
    // No command reads another server. A copy is as good as the base, and those can.
    let told = store.run("image export STORE/vm1 DIR/out.raw");
    assert_eq!(told.status.code(), Some(2), "{told}");
    assert!(told.stderr.contains("is an export of another server"), "{told}");
    let copy = store.directory().join("copy.raw");
    let mut wrong = golden.clone();
    wrong[..4096].fill(9);
    std::fs::write(&copy, &wrong).unwrap();
    assert_eq!(store.run("image rebase STORE/vm1 --base file:DIR/copy.raw").status.code(), Some(2));
    std::fs::write(&copy, &golden).unwrap();
    store.run("image rebase STORE/vm1 --base file:DIR/copy.raw").ok();
    store.run("image export STORE/vm1 DIR/out.raw").ok();
    assert!(std::fs::read(store.directory().join("out.raw")).unwrap() == expected);
}

/// Requests that need a base that is gone fail after the delay; the others do not notice.
#[test]
fn an_image_whose_remote_base_is_gone() {
    let image = Image::random(SIZE, 6);
    let mut far = Far::start(Kind::Ringnbd, &image).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let overlay = directory.path().join("vm.d");
    let export = format!("x=overlay:{}?base={}%26reconnect=300ms", overlay.display(), far.uri());
    let near = Options::new().export(export.clone()).start();
    let mut client = client(&near);
    client.write_at(1 << 20, &[3; 1 << 20]).unwrap();
    far.kill();
    assert_eq!(error_of(client.read_at(0, &mut [0; 4096])), 5);
    let mut read = vec![0; 1 << 20];
    client.read_at(1 << 20, &mut read).unwrap();
    assert!(read.iter().all(|byte| *byte == 3));
    client.flush().unwrap();
    drop((client, near));
    let told = refused(&export, directory.path());
    assert!(told.contains("the remote export"), "{told}");
    far.start_again().unwrap();
    let near = Options::new().export(export).start();
    let mut expected = image.read(0, SIZE as usize);
    expected[1 << 20..2 << 20].fill(3);
    assert_reads(&near, &expected);
}
