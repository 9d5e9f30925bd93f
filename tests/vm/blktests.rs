//! The nbd group of blktests, in a guest whose disk `tests/blktests/run` has made.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::guest::Guest;
use crate::peers;

/// Emulated, with thousands of mounts.
const DEADLINE: Duration = Duration::from_secs(3000);

/// The first process: what is written is kept in memory, so that each guest begins with the same disk.
const BEGIN: &str = "
ip link set lo up
mkdir /below /over
mount -t ext4 -o ro /dev/vda /below || poweroff -f
mount -t tmpfs -o size=1500m over /over
mkdir /over/upper /over/work
mount -t overlay -o lowerdir=/below,upperdir=/over/upper,workdir=/over/work over /mnt || poweroff -f
exec switch_root /mnt /opt/init WHO TESTS
";

/// Tests and what became of them, as the guest's console tells it.
fn outcomes(console: &str) -> BTreeMap<String, String> {
    let lines = console.lines().filter(|line| line.starts_with("nbd/"));
    lines
        .filter_map(|line| {
            let (words, outcome) = line.trim_end().strip_suffix(']')?.rsplit_once('[')?;
            Some((words.split_whitespace().next()?.to_owned(), outcome.to_owned()))
        })
        .collect()
}

fn run(who: &str, disk: &str, tests: &str) -> Option<BTreeMap<String, String>> {
    let blocks = format!("driver=raw,read-only=on,file.driver=file,file.read-only=on,file.filename={disk}");
    let guest = Guest::new(&BEGIN.replace("WHO", who).replace("TESTS", tests))
        .modules(&["virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "overlay"])
        .disk(&blocks)
        .memory(2048)
        .deadline(DEADLINE);
    let console = guest.run()?.ok().replace('\r', "");
    println!("{console}");
    assert!(console.contains(&format!("guest: end of {who}")), "the guest of {who} ended early");
    Some(outcomes(&console))
}

/// What passes with nbd-server and nbd-client passes with ringnbd in the place of one, and of both.
#[test]
#[ignore = "tests/blktests/run"]
fn the_nbd_group_passes_as_with_nbd_server_and_nbd_client() {
    let Ok(disk) = std::env::var("RINGNBD_BLKTESTS_DISK") else {
        peers::skip("disk with blktests", "tests/blktests/run makes one");
        return;
    };
    let tests = std::env::var("RINGNBD_BLKTESTS_TESTS").unwrap_or_else(|_| "nbd".into());
    let Some(reference) = run("reference", &disk, &tests) else { return };
    let Some(server) = run("server", &disk, &tests) else { return };
    let Some(both) = run("both", &disk, &tests) else { return };
    println!("{:<10} {:<12} {:<12} {:<12}", "test", "reference", "server", "both");
    let mut worse = Vec::new();
    for (test, outcome) in &reference {
        let of = |found: &BTreeMap<String, String>| found.get(test).map_or("none", |it| it).to_owned();
        let (server, both) = (of(&server), of(&both));
        println!("{test:<10} {outcome:<12} {server:<12} {both:<12}");
        if outcome == "passed" && (server != "passed" || both != "passed") {
            worse.push(test.as_str());
        }
    }
    assert!(!reference.is_empty(), "no test was run");
    assert!(worse.is_empty(), "worse than nbd-server and nbd-client: {worse:?}");
}
