//! QEMU's `reconnect-delay`: the server is restarted under a running client, which must not see an error.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::peers;
use crate::support::image::Image;
use crate::support::server::{Options, Server};
use crate::support::wait_until;

const SIZE: u64 = 64 << 20;
const WRITES: u64 = 60_000;
const PATTERN: u8 = 0xa5;

fn serve(image: &Image, socket: &Path) -> Server {
    let arguments = ["--unix", socket.to_str().unwrap()];
    Options::new().export(image.path.display().to_string()).without_unix().args(arguments).start()
}

/// `RINGNBD_RESTARTS` makes it a campaign.
#[test]
fn qemu_sees_no_error_when_the_server_is_restarted() {
    let rounds = std::env::var("RINGNBD_RESTARTS").map_or(5, |rounds| rounds.parse().expect("a number"));
    let Some(mut bench): Option<Command> = peers::command("qemu-img") else { return };
    let image = Image::sparse(SIZE);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("nbd.sock");
    let mut server = serve(&image, &socket);
    let disk = format!("driver=nbd,server.type=unix,server.path={},reconnect-delay=60", socket.display());
    // Writes one block after the other, and from the start again.
    let writes = (WRITES * rounds / 5).to_string();
    bench.args([
        "bench",
        "-w",
        "-q",
        "-d",
        "16",
        "-s",
        "4096",
        "-c",
        &writes,
        "--pattern",
        &PATTERN.to_string(),
    ]);
    bench.args(["--image-opts", &disk]);
    let ended = AtomicBool::new(false);
    let mut restarts = 0;
    let finished = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let finished = peers::run_within(peers::CLIENT_DEADLINE * 10, &mut bench, b"");
            ended.store(true, SeqCst);
            finished
        });
        while restarts < rounds {
            wait_until("QEMU", || ended.load(SeqCst) || server.stderr().contains("\"negotiated\""));
            if ended.load(SeqCst) {
                break;
            }
            server.stop();
            server = serve(&image, &socket);
            restarts += 1;
        }
        client.join().unwrap()
    });
    finished.ok();
    println!("{restarts} restarts");
    assert!(restarts >= 2, "the client ended after {restarts} restarts: it has too little to do");
    server.stop();
    let written = image.read(0, SIZE.min(WRITES * 4096) as usize);
    assert!(written.iter().all(|&byte| byte == PATTERN), "every write that QEMU believes done is there");
}
