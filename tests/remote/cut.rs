//! Connections that are lost one by one, while the other server lives and after it was killed.

use super::far::{Far, Kind};
use super::proxy::Proxy;
use super::{SIZE, client, error_of};
use crate::http::Address;
use crate::support::image::{Image, pattern};
use crate::support::server::{Options, Server};
use crate::support::wait_until;
use ringnbd::internal::client::{Client, Timeouts};

pub(super) fn near(proxy: &Proxy, parameters: &str) -> Server {
    let export = format!("x={}&{parameters}", proxy.uri());
    Options::new().export(export).args(["--admin", "127.0.0.1:0"]).start()
}

pub(super) fn metric(near: &Server, name: &str) -> u64 {
    let line = format!("ringnbd_remote_{name}{{export=\"x\"}} ");
    let page = Address::of(near).get("/metrics").body;
    let value = page.lines().find_map(|told| told.strip_prefix(&line)).unwrap_or_else(|| panic!("{page}"));
    value.parse().expect("a number")
}

/// One of three connections is cut, again and again. The others stand, no request fails, and no FLUSH: the other
/// server has lost nothing.
#[test]
fn a_cut_connection_costs_what_was_under_way_on_it() {
    let image = Image::sparse(SIZE);
    let far = Far::start(Kind::Ringnbd, &image).unwrap();
    let proxy = Proxy::to(far.socket());
    let near = near(&proxy, "connections=3&reconnect=60s");
    let uri = near.uri("x").parse().unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let work = |thread: u64| {
        let mut client = Client::open(&uri, &[], Timeouts::default()).expect("connect");
        let (base, mut round) = (thread * (SIZE / 4), 0);
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            let at = base + round % 8 * (64 << 10);
            let bytes = pattern(thread << 32 | round, at, 64 << 10);
            client.write_at(at, &bytes).expect("a write is sent again");
            let mut read = vec![0; 64 << 10];
            client.read_at(at, &mut read).expect("a read is sent again");
            assert!(read == bytes, "round {round} at {at}");
            client.flush().expect("nothing is lost");
            round += 1;
        }
        (base, thread, round)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u64).map(|thread| scope.spawn(move || work(thread))).collect();
        let cuts = 3;
        for number in 0..cuts {
            wait_until("all connections", || metric(&near, "connections") == 3);
            proxy.cut(number);
            wait_until("its loss", || metric(&near, "losses_total") == number as u64 + 1);
        }
        wait_until("all connections", || metric(&near, "connections") == 3);
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        for thread in threads {
            let (base, seed, rounds) = thread.join().expect("no error, no wrong byte");
            for round in rounds.saturating_sub(8)..rounds {
                let at = base + round % 8 * (64 << 10);
                assert!(image.read(at, 64 << 10) == pattern(seed << 32 | round, at, 64 << 10));
            }
        }
        assert_eq!(proxy.connections(), 3 + cuts, "the others stand");
        assert_eq!(metric(&near, "failed_flushes_total"), 0);
    });
}

/// The other server is killed and started again, and only one of two connections is seen to end: the one that comes
/// in its place leads to a server that has forgotten what was not flushed.
#[test]
fn a_connection_after_an_unnoticed_crash_is_not_believed() {
    let image = Image::sparse(SIZE);
    let mut far = Far::start(Kind::Ringnbd, &image).unwrap();
    let proxy = Proxy::to(far.socket());
    let near = near(&proxy, "connections=2&reconnect=60s");
    let mut writers = [client(&near), client(&near)];
    for (writer, at) in writers.iter_mut().zip([0, 4096]) {
        writer.write_at(at, &[1; 4096]).unwrap();
    }
    wait_until("both connections", || metric(&near, "connections") == 2);
    proxy.hold();
    far.restart().unwrap();
    proxy.cut(0);
    wait_until("one in its place", || proxy.connections() == 3);
    let before = proxy.asked(1);
    std::thread::scope(|scope| {
        let flushes = writers.each_mut().map(|writer| scope.spawn(|| writer.flush()));
        wait_until("a FLUSH on the old one", || proxy.asked(1) > before);
        proxy.cut(1);
        for flush in flushes {
            assert_eq!(error_of(flush.join().unwrap()), 5, "what was answered before may be lost");
        }
    });
    for writer in &mut writers {
        writer.flush().expect("it has been told");
    }
    assert_eq!(metric(&near, "failed_flushes_total"), 2);
}

/// nbdkit ends with its last client: who reconnects finds nobody, gets errors after the delay, and then the next one.
#[test]
fn a_remote_that_exits_with_its_last_client_is_missed() {
    let image = Image::sparse(SIZE);
    let Some(mut far) = Far::start_with(Kind::Nbdkit, &image, &["--filter=exitlast"]) else { return };
    let proxy = Proxy::to(far.socket());
    let near = near(&proxy, "reconnect=500ms");
    let mut client = client(&near);
    client.write_at(0, &[1; 512]).unwrap();
    proxy.cut(proxy.connections() - 1);
    assert_eq!(error_of(client.write_at(0, &[2; 512])), 5);
    // Another thread writes the log.
    wait_until("the log says so", || near.stderr().contains("requests fail"));
    far.restart().unwrap();
    let mut read = [0; 512];
    wait_until("it connects again", || client.read_at(0, &mut read).is_ok());
    assert_eq!(read, [1; 512]);
}
