//! Statements H20 to H22, T24 to T26 and T39 on images of a store, which have contexts of their own:
//! `qemu:allocation-depth`, and `qemu:dirty-bitmap:` with each snapshot's name.
//!
//! The oracle has for each block what the test wrote, and between which snapshots.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::requests::Dice;
use crate::support::check;
use crate::support::handshake::contexts;
use crate::support::image::{disk_dir, pattern};
use crate::support::peer::Peer;
use crate::support::raw::{CHUNKED, Connection, Mode, Request, spoken};
use crate::support::server::{Options, Server};
use crate::support::wire::*;

const SIZE: u64 = 4 * MIB;
const BLOCK: u64 = 4096;
const BLOCKS: usize = (SIZE / BLOCK) as usize;
const ALLOCATION: &str = "base:allocation";
const DEPTH: &str = "qemu:allocation-depth";
const SINCE_A: &str = "qemu:dirty-bitmap:a";
const SINCE_B: &str = "qemu:dirty-bitmap:b";
const ALL: [&str; 4] = [ALLOCATION, DEPTH, SINCE_A, SINCE_B];
/// A hole that reads as zeroes.
const HOLE: u64 = NBD_STATE_HOLE | NBD_STATE_ZERO;

/// An image with the snapshots `a` and `b`, beside a disk in memory, `raw`.
struct Images {
    server: Server,
    dir: TempDir,
    truth: Truth,
}

/// What each context has to say of each block.
#[derive(Clone)]
struct Truth(BTreeMap<&'static str, Vec<u64>>);

impl Truth {
    fn new() -> Self {
        let empty = |name| if name == ALLOCATION { HOLE } else { 0 };
        Self(ALL.into_iter().map(|name| (name, vec![empty(name); BLOCKS])).collect())
    }

    /// Blocks were written to the head.
    fn written(&mut self, offset: u64, length: u64) {
        let blocks = (offset / BLOCK) as usize..(offset + length).div_ceil(BLOCK) as usize;
        for (name, value) in [(ALLOCATION, 0), (DEPTH, 1), (SINCE_A, 1), (SINCE_B, 1)] {
            self.0.get_mut(name).unwrap()[blocks.clone()].fill(value);
        }
    }

    /// The head became a layer below the next one.
    fn snapshotted(&mut self, context: &str) {
        self.0.get_mut(context).unwrap().fill(0);
        self.0.get_mut(DEPTH).unwrap().iter_mut().filter(|depth| **depth > 0).for_each(|depth| *depth += 1);
    }

    /// (length, status) of a range, equal neighbours merged.
    fn pieces(&self, context: &str, from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        let mut at = from;
        while at < to {
            let end = (at / BLOCK * BLOCK + BLOCK).min(to);
            let value = self.0[context][(at / BLOCK) as usize];
            match pieces.last_mut() {
                Some(last) if last.1 == value => last.0 += end - at,
                _ => pieces.push((end - at, value)),
            }
            at = end;
        }
        pieces
    }
}

impl Images {
    /// None for a server that has no images.
    fn serve() -> Option<Self> {
        if Peer::from_env() != Peer::Ringnbd {
            return None;
        }
        let dir = disk_dir();
        ringnbd(&["store", "init", dir.path().join("store").to_str().unwrap()]);
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        ringnbd(&["image", "create", &path("store/vm"), &SIZE.to_string()]);
        let server = Options::new().export(format!("store:{}", path("store"))).export("raw=mem:1M");
        let server = server.args(["--control".to_owned(), format!("unix:{}", path("control"))]).start();
        let mut images = Self { server, dir, truth: Truth::new() };
        let mut writer = Connection::attach(&images.server, "vm", Mode::Structured);
        for (context, offset, length) in [
            (SINCE_A, 64 << 10, 8192),
            (SINCE_B, MIB, 4096),
            ("", 2 * MIB, 512),
            ("", 2 * MIB + 12_288, 8192),
        ] {
            writer.write(offset, &pattern(1, 0, length));
            images.truth.written(offset, length as u64);
            if let Some(snapshot) = context.strip_prefix("qemu:dirty-bitmap:") {
                ringnbd(&["image", "snapshot", &images.node(&format!("vm@{snapshot}"))]);
                images.truth.snapshotted(context);
            }
        }
        Some(images)
    }

    fn node(&self, name: &str) -> String {
        let path: PathBuf = self.dir.path().join("store").join(name);
        path.to_str().unwrap().to_owned()
    }

    /// A connection to the image with these contexts.
    #[track_caller]
    fn attach(&self, mode: Mode, contexts: &[&str]) -> Connection {
        let mut client = Connection::haggling(&self.server);
        client.choose(mode);
        select(&mut client, "vm", contexts);
        client.go("vm");
        client
    }
}

fn ringnbd(arguments: &[&str]) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_ringnbd")).args(arguments).output().expect("run the program");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn select(client: &mut Connection, export: &str, names: &[&str]) -> Vec<(u32, String)> {
    client.select(export, &names.iter().map(|name| name.as_bytes()).collect::<Vec<_>>())
}

/// Names that a LIST tells, sorted; each has the id 0 and comes once.
#[track_caller]
fn listed(client: &mut Connection, export: &str, queries: &[&str]) -> Vec<String> {
    let queries: Vec<&[u8]> = queries.iter().map(|query| query.as_bytes()).collect();
    let replies = client.ask(NBD_OPT_LIST_META_CONTEXT, &meta_data(export.as_bytes(), &queries));
    let found = contexts(&replies);
    assert!(found.iter().all(|(id, _)| *id == 0), "the id is reserved in a LIST: {found:?}");
    let mut names: Vec<String> = found.into_iter().map(|(_, name)| name).collect();
    names.sort();
    names
}

/// Extents of each context by name; every context that was asked for is there.
#[track_caller]
fn statuses(client: &mut Connection, request: &Request) -> BTreeMap<String, Vec<(u64, u64)>> {
    let reply = client.succeed(request);
    let found = named(client, check::statuses(request, &reply.chunks, &client.export));
    assert_eq!(found.len(), client.export.contexts.len(), "one status chunk per selected context");
    found
}

fn named(client: &Connection, of: BTreeMap<u32, Vec<(u64, u64)>>) -> BTreeMap<String, Vec<(u64, u64)>> {
    let name =
        |id: u32| client.export.contexts.iter().find(|context| context.0 == id).expect("a selected id");
    of.into_iter().map(|(id, extents)| (name(id).1.clone(), extents)).collect()
}

/// All that was told is so, and it begins where the request does.
#[track_caller]
fn expect_truth(truth: &Truth, offset: u64, told: &BTreeMap<String, Vec<(u64, u64)>>) {
    for (name, extents) in told {
        let reach: u64 = extents.iter().map(|extent| extent.0).sum();
        assert_eq!(*extents, truth.pieces(name, offset, offset + reach), "{name} at {offset:#x}");
    }
}

#[test]
fn h21_list_meta_context_of_images() {
    let Some(images) = Images::serve() else { return };
    for mode in spoken(CHUNKED) {
        let mut client = Connection::haggling(&images.server);
        client.choose(mode);
        let lists: [(&[&str], &[&str]); 9] = [
            (&[], &ALL),
            (&["base:"], &[ALLOCATION]),
            (&["qemu:"], &[DEPTH, SINCE_A, SINCE_B]),
            (&["qemu:dirty-bitmap:"], &[SINCE_A, SINCE_B]),
            (&[SINCE_B], &[SINCE_B]),
            (&[DEPTH], &[DEPTH]),
            (&["qemu:dirty-bitmap:", SINCE_A, "qemu:", "x-none:"], &[DEPTH, SINCE_A, SINCE_B]),
            (&["base:", "qemu:dirty-bitmap:a"], &[ALLOCATION, SINCE_A]),
            (
                &[
                    "qemu:dirty-bitmap",
                    "qemu:dirty-bitmap:c",
                    "qemu:dirty-bitmap:A",
                    "qemu:dirty-bitmap:a:",
                    "qemu:dirty-bitmap:vm@a",
                    "qemu:allocation",
                    "qemu:allocation-depth:",
                    "qemu:allocation-depth2",
                    "qemux:",
                ],
                &[],
            ),
        ];
        for (queries, expected) in lists {
            assert_eq!(listed(&mut client, "vm", queries), expected, "{queries:?}");
        }
        // A snapshot differs from others, and not from itself.
        assert_eq!(listed(&mut client, "vm@a", &[]), [ALLOCATION, DEPTH, SINCE_B]);
        assert_eq!(listed(&mut client, "vm@a", &[SINCE_A]), [""; 0]);
        // What is no image has none of it.
        assert_eq!(listed(&mut client, "raw", &[]), [ALLOCATION]);
        assert_eq!(listed(&mut client, "raw", &["qemu:", DEPTH, SINCE_A, "qemu:dirty-bitmap:"]), [""; 0]);
        client.expect_only(NBD_OPT_LIST_META_CONTEXT, &meta_data(b"vm@c", &[]), NBD_REP_ERR_UNKNOWN);
        // Listing selects nothing.
        client.go("vm");
        client.fail(&Request::status(0, 512), NBD_EINVAL);
    }
}

#[test]
fn h22_what_set_meta_context_selects_of_images() {
    let Some(images) = Images::serve() else { return };
    let mut client = Connection::haggling(&images.server);
    client.choose(Mode::Structured);
    for nothing in
        ["qemu:", "qemu:dirty-bitmap:", "qemu:dirty-bitmap:c", "qemu:dirty-bitmap:A", "qemu:dirty-bitmap:a "]
    {
        assert_eq!(select(&mut client, "vm", &[nothing]), [], "{nothing}");
    }
    let all =
        [SINCE_B, "qemu:", SINCE_A, "x-unknown:leaf", DEPTH, ALLOCATION, SINCE_A, "qemu:dirty-bitmap:c"];
    let selected = select(&mut client, "vm", &all);
    let mut names: Vec<&str> = selected.iter().map(|(_, name)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ALL, "each once");
    let mut ids: Vec<u32> = selected.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), ALL.len(), "ids are those of one context each: {selected:?}");
    for none in [&[DEPTH][..], &[SINCE_A, SINCE_B]] {
        assert_eq!(select(&mut client, "raw", none), [], "a disk in memory has no snapshots");
    }
    client.go("raw");
    client.fail(&Request::status(0, 512), NBD_EINVAL);
    client.expect_alive();
}

#[test]
fn h20_contexts_belong_to_their_image() {
    let Some(images) = Images::serve() else { return };
    for mode in spoken(CHUNKED) {
        let mut client = Connection::haggling(&images.server);
        client.choose(mode);
        select(&mut client, "vm", &ALL);
        client.go("vm@a");
        client.fail(&Request::status(0, 512), NBD_EINVAL);
        client.expect_alive();
    }
}

#[test]
fn t25_contexts_of_images_tell_the_truth() {
    let Some(images) = Images::serve() else { return };
    for mode in spoken(CHUNKED) {
        let mut client = images.attach(mode, &ALL);
        let minimum = u64::from(client.block_sizes()[0]);
        let mut dice = Dice(23);
        let mut ranges = vec![(0, SIZE), (0, minimum), (SIZE - minimum, minimum), (2 * MIB, BLOCK)];
        for _ in 0..40 {
            let offset = dice.below(SIZE / minimum) * minimum;
            ranges.push((offset, (1 + dice.below(2 * MIB) / minimum) * minimum));
        }
        for (offset, length) in ranges {
            let request = Request::status(offset, length.min(SIZE - offset));
            expect_truth(&images.truth, offset, &statuses(&mut client, &request));
        }
        let whole = statuses(&mut client, &Request::status(0, SIZE));
        let reach = |extents: &Vec<(u64, u64)>| extents.iter().map(|extent| extent.0).sum::<u64>();
        assert!(whole.values().all(|extents| reach(extents) == SIZE), "few extents come at once: {whole:?}");
    }
    // Of one context alone, and in another order.
    for names in [&[SINCE_B][..], &[DEPTH, ALLOCATION], &[SINCE_A, DEPTH]] {
        let mut client = images.attach(Mode::Extended, names);
        expect_truth(&images.truth, 0, &statuses(&mut client, &Request::status(0, SIZE)));
    }
}

#[test]
fn t25_contexts_of_images_follow_writes_and_trims() {
    let Some(images) = Images::serve() else { return };
    let mut truth = images.truth.clone();
    let mut at = 3 * MIB;
    for mode in spoken(CHUNKED) {
        let mut client = images.attach(mode, &ALL);
        client.write(at, &pattern(2, 0, 4096));
        truth.written(at, 4096);
        expect_truth(&truth, 0, &statuses(&mut client, &Request::status(0, SIZE)));
        // Zeroes that hide what is below are the head's, and a change.
        client.succeed(&Request::trim(MIB, 4096));
        truth.written(MIB, 4096);
        truth.0.get_mut(ALLOCATION).unwrap()[(MIB / BLOCK) as usize] = HOLE;
        expect_truth(&truth, 0, &statuses(&mut client, &Request::status(0, SIZE)));
        at += 64 << 10;
    }
}

#[test]
fn t26_req_one_of_images() {
    let Some(images) = Images::serve() else { return };
    for mode in spoken(CHUNKED) {
        let mut client = images.attach(mode, &ALL);
        for (offset, length) in
            [(0, SIZE), (64 << 10, SIZE - (64 << 10)), (MIB, MIB), (2 * MIB, 512), (2 * MIB + 512, MIB)]
        {
            let request = Request::status(offset, length).flags(NBD_CMD_FLAG_REQ_ONE);
            let told = statuses(&mut client, &request);
            expect_truth(&images.truth, offset, &told);
            for (name, extents) in told {
                let whole = images.truth.pieces(&name, offset, offset + length)[0];
                assert_eq!(extents, [whole], "{name} {offset:#x}+{length:#x}");
            }
        }
    }
}

/// BLOCK_STATUS of `0..SIZE` with a payload that names contexts.
fn filtered(client: &mut Connection, ids: &[u32], flags: u16) -> Request {
    let mut payload = SIZE.to_be_bytes().to_vec();
    ids.iter().for_each(|id| payload.extend(id.to_be_bytes()));
    let request = Request { payload: payload.clone(), ..Request::status(0, payload.len() as u64) };
    client.send(&request.encode_with_flags(Mode::Extended, flags | NBD_CMD_FLAG_PAYLOAD_LEN));
    request
}

#[test]
fn t39_filters_choose_among_the_contexts_of_images() {
    let Some(images) = Images::serve() else { return };
    let mut client = images.attach(Mode::Extended, &ALL);
    let id = |client: &Connection, name: &str| {
        client.export.contexts.iter().find(|context| context.1 == name).expect("it is selected").0
    };
    for names in [&[SINCE_A][..], &[DEPTH], &[SINCE_B, ALLOCATION], &[SINCE_B, SINCE_A, DEPTH, ALLOCATION]] {
        for flags in [0, NBD_CMD_FLAG_REQ_ONE] {
            let ids: Vec<u32> = names.iter().map(|name| id(&client, name)).collect();
            let request = filtered(&mut client, &ids, flags);
            let reply = client.reply_to(&request);
            assert_eq!(reply.error, 0, "{names:?}");
            let asked = Request::status(0, SIZE).flags(flags);
            let told = named(&client, check::statuses(&asked, &reply.chunks, &client.export));
            let mut expected = names.to_vec();
            expected.sort_unstable();
            assert_eq!(told.keys().collect::<Vec<_>>(), expected, "those that were chosen, and no others");
            expect_truth(&images.truth, 0, &told);
        }
    }
    let (a, depth) = (id(&client, SINCE_A), id(&client, DEPTH));
    let unknown = (0..).find(|id| client.export.contexts.iter().all(|context| context.0 != *id)).unwrap();
    for bad in [&[a, a][..], &[a, depth, a], &[a, unknown], &[unknown]] {
        let request = filtered(&mut client, bad, 0);
        assert_eq!(client.reply_to(&request).error, NBD_EINVAL, "{bad:?}");
        client.expect_alive();
    }
}

#[test]
fn t24_a_snapshot_that_was_removed_is_none_to_differ_from() {
    let Some(images) = Images::serve() else { return };
    let mut clients = CHUNKED.map(|mode| images.attach(mode, &ALL));
    let mut others = CHUNKED.map(|mode| images.attach(mode, &[ALLOCATION, SINCE_B]));
    for client in &mut clients {
        expect_truth(&images.truth, 0, &statuses(client, &Request::status(0, SIZE)));
    }
    ringnbd(&["image", "rm", &images.node("vm@a")]);
    for client in &mut clients {
        client.fail(&Request::status(0, SIZE), NBD_EINVAL);
        client.fail(&Request::status(0, 512).flags(NBD_CMD_FLAG_REQ_ONE), NBD_EINVAL);
        // The session goes on.
        client.expect_alive();
        client.write(3 * MIB, &[0x5a; 512]);
        assert_eq!(client.read(3 * MIB, 512), [0x5a; 512]);
    }
    let mut truth = images.truth.clone();
    truth.written(3 * MIB, 512);
    // Those that are left can be chosen, and are told as ever.
    let left =
        clients[1].export.contexts.iter().filter(|context| [ALLOCATION, SINCE_B].contains(&&*context.1));
    let left: Vec<u32> = left.map(|context| context.0).collect();
    let request = filtered(&mut clients[1], &left, 0);
    let reply = clients[1].reply_to(&request);
    assert_eq!(reply.error, 0);
    let asked = Request::status(0, SIZE);
    expect_truth(&truth, 0, &named(&clients[1], check::statuses(&asked, &reply.chunks, &clients[1].export)));
    for client in &mut others {
        expect_truth(&truth, 0, &statuses(client, &Request::status(0, SIZE)));
    }
    let mut client = Connection::haggling(&images.server);
    client.choose(Mode::Structured);
    assert_eq!(listed(&mut client, "vm", &[]), [ALLOCATION, DEPTH, SINCE_B]);
    assert_eq!(select(&mut client, "vm", &[SINCE_A]), []);
}
