//! Content: what `--verify` lets pass, and what it catches.

use std::sync::atomic::{AtomicBool, Ordering};

use super::liar::{Liar, Lie};
use super::support::image::Image;
use super::support::server::{Options, Server};
use super::{bench, json_of, parse, peers};

#[test]
fn verification_is_content_with_an_honest_server_in_every_form_of_replies() {
    for form in ["simple", "structured", "extended"] {
        // Sparse: structured and extended replies have holes.
        let image = Image::sparse(8 << 20);
        let server = Server::serve(&[image.path.display().to_string()]);
        for rw in ["randrw", "randwrite", "write"] {
            let arguments =
                format!("--rw {rw} --verify --ops 3000 --connections 4 --depth 8 --bs 8K --replies {form}");
            let json = json_of(&server.uri(""), &arguments);
            let found = &json["verification"];
            assert_eq!((&found["wrong"], &json["replies"]), (&0.into(), &form.into()), "{json:#}");
            assert!(found["read_back"].as_u64().unwrap() > 500, "{json:#}");
            assert_eq!(found["checked"].as_u64().unwrap() > 300, rw == "randrw", "{json:#}");
            assert_eq!(json["total"]["operations"], 3000, "what is read back does not count");
        }
        // What it wrote is in the file: each block begins with the magic and has its offset.
        let bytes = image.read(0, 8 << 20);
        for (index, unit) in bytes.chunks(512).enumerate().filter(|(_, unit)| unit[0] != 0) {
            assert_eq!(&unit[..8], b"rnbdload");
            assert_eq!(unit[16..24], (index as u64 * 512).to_le_bytes());
        }
    }
}

#[test]
fn blocks_that_the_run_did_not_write_are_not_judged() {
    let image = Image::random(16 << 20, 5);
    let server = Server::serve(&[image.path.display().to_string()]);
    let json =
        json_of(&server.uri(""), "--rw randrw --mix 95 --verify --ops 2000 --depth 16 --connections 2");
    assert_eq!(json["verification"]["wrong"], 0);
}

/// The kind of the first mismatch that a run reports.
#[track_caller]
fn caught(liar: &Liar, rw: &str) -> String {
    let run = bench(&liar.uri(), &format!("--rw {rw} --verify --ops 4000 --size 64K --seed 77 --json"));
    assert!(liar.has_lied(), "there was nothing to catch: {run}");
    assert_eq!(run.status.code(), Some(1), "{run}");
    assert!(
        run.stderr.contains("verification failed") && run.stderr.contains("expected generation"),
        "{run}"
    );
    let json = parse(&run.stdout);
    assert!(json["verification"]["wrong"].as_u64().unwrap() > 0, "{run}");
    json["verification"]["mismatches"][0]["kind"].as_str().unwrap().to_owned()
}

#[test]
fn verification_catches_what_a_lying_server_does() {
    for (lie, rw, kind) in [
        (Lie::LosesWrite, "write", "lost"),
        (Lie::LosesWrite, "randrw", "lost"),
        (Lie::KeepsOldContent, "randrw", "stale"),
        (Lie::TearsWrite, "randrw", "torn"),
        (Lie::SwapsBlock, "randrw", "swapped"),
        (Lie::FlipsBit, "randrw", "torn"),
    ] {
        // In a stream of writes only reading back can notice, and later writes of the same run repair: there, one round.
        let liar = Liar::serve(lie);
        let found = match rw {
            "write" => {
                let run = bench(&liar.uri(), "--rw write --verify --ops 16 --size 64K --json");
                assert!(liar.has_lied() && run.status.code() == Some(1), "{run}");
                parse(&run.stdout)["verification"]["mismatches"][0]["kind"].as_str().unwrap().to_owned()
            }
            _ => caught(&liar, rw),
        };
        assert_eq!(found, kind, "{lie:?}, {rw}");
    }
    let liar = Liar::serve(Lie::Nothing);
    json_of(&liar.uri(), "--rw write --verify --ops 16 --size 64K --seed 76");
    liar.lie(Lie::KeepsForeignContent);
    assert_eq!(caught(&liar, "randrw"), "foreign");
}

#[test]
fn verification_catches_corruption_under_the_server() {
    let image = Image::sparse(256 << 10);
    let server = Server::serve(&[image.path.display().to_string()]);
    let is_over = AtomicBool::new(false);
    let run = std::thread::scope(|scope| {
        scope.spawn(|| {
            for offset in (0..256 << 10).step_by(4096).cycle() {
                image.write(offset + 1024, &[0x5a; 16]);
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let run = bench(&server.uri(""), "--rw randrw --verify --depth 4 --duration 60s --json");
        is_over.store(true, Ordering::Relaxed);
        run
    });
    assert_eq!(run.status.code(), Some(1), "{run}");
    let json = parse(&run.stdout);
    assert_eq!(json["verification"]["mismatches"][0]["kind"], "torn", "{run}");
    let offset = json["verification"]["mismatches"][0]["offset"].as_u64().unwrap();
    assert_eq!(offset % 4096, 1024, "the unit that was hit is named: {run}");
    assert!(json["failure"].as_str().unwrap().contains("verification failed"), "{run}");
}

#[test]
fn a_failed_write_leaves_its_block_unknown() {
    let liar = Liar::serve(Lie::Fails(5));
    let run = bench(&liar.uri(), "--rw randrw --verify --ops 4000 --size 64K --json");
    // Reading back fails as well sometimes, which is told; but no block is called wrong.
    let json = parse(&run.stdout);
    assert_eq!(json["verification"]["wrong"], 0, "{run}");
    assert!(json["failure"].as_str().is_none_or(|text| text.contains("could not be read back")), "{run}");
}

/// Clients in the wild send up to 48 MiB, nbdkit takes 64: so do we, from our own client and from libnbd.
#[test]
fn the_longest_requests_of_clients_are_served() {
    let server = Options::new().export("mem:160M").shards(1).memory("128M").start();
    for length in ["48M", "64M"] {
        let arguments = format!("--rw randwrite --verify --ops 3 --bs {length}");
        let json = json_of(&server.uri(""), &arguments);
        assert_eq!((&json["total"]["operations"], &json["verification"]["wrong"]), (&3.into(), &0.into()));
        assert!(json["verification"]["read_back"].as_u64().unwrap() > 0, "{json:#}");
    }
    let refused = bench(&server.uri(""), "--bs 65M --ops 1");
    assert!(!refused.status.success() && refused.stderr.contains("67108864"), "{refused}");
    const SCRIPT: &str = r"
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 64 << 20
for length in (48 << 20, 64 << 20):
    data = bytes(range(251)) * (length // 251) + bytes(length % 251)
    h.pwrite(data, 512)
    assert h.pread(length, 512) == data
";
    let Some(mut shell) = peers::command("nbdsh") else { return };
    peers::run(shell.args(["-u", &server.uri(""), "-c", SCRIPT])).ok();
}
