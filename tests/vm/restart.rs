//! The server is restarted under a guest whose kernel is the client: the guest must not see an error, and read what it wrote.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::guest::Guest;
use crate::netlink::{KernelClient, connect};
use crate::support::image::Image;
use crate::support::server::{Options, Server};

/// Tells this program, as a process of the guest, where the server is.
const INSIDE: &str = "RINGNBD_TEST_SERVER";
const CONNECTIONS: usize = 4;
/// Seconds of load for each restart.
const SECONDS_PER_ROUND: u64 = 6;

/// The whole life of the guest: attaches, writes and verifies, detaches. Outside of a guest there is nothing to do.
#[test]
fn inside_the_guest() {
    let Ok(address) = std::env::var(INSIDE) else { return };
    let seconds = std::env::var("SECONDS").unwrap();
    let first: Vec<_> = (0..CONNECTIONS).map(|_| connect(&address).expect("connect")).collect();
    let (size, flags) = (first[0].1, first[0].2);
    let mut streams: Vec<TcpStream> = first.into_iter().map(|(stream, _, _)| stream).collect();
    let client =
        KernelClient::attach(&streams.iter().collect::<Vec<_>>(), size, flags, 2, 120).expect("attach");
    let mut fio = Command::new("/bin/fio");
    fio.args([
        "--name=restart",
        "--filename=/dev/nbd0",
        "--rw=randwrite",
        "--bs=4k",
        "--direct=1",
        "--thread",
    ]);
    fio.args(["--ioengine=libaio", "--iodepth=16", "--size=16m", "--verify=crc32c", "--verify_fatal=1"]);
    fio.args([
        "--verify_backlog=64",
        "--verify_state_save=0",
        "--time_based",
        &format!("--runtime={seconds}"),
    ]);
    let mut fio = fio.spawn().expect("fio");
    let mut replaced = 0;
    let status = loop {
        if let Some(status) = fio.try_wait().unwrap() {
            break status;
        }
        for stream in &mut streams {
            if !has_ended(stream) {
                continue;
            }
            // The server may be on its way, and the kernel may not have noticed yet.
            if let Ok((fresh, _, _)) = connect(&address)
                && client.replace(&fresh).is_ok()
            {
                *stream = fresh;
                replaced += 1;
            }
        }
    };
    println!("guest: fio {status}, {replaced} connections replaced");
    client.detach().expect("detach");
}

/// Waits a moment for the end of a connection; nothing is read, because that is the kernel's.
fn has_ended(stream: &TcpStream) -> bool {
    let mut ends = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 })).expect("poll") > 0
}

fn serve(image: &Image, address: &str) -> Server {
    Options::new()
        .shards(2)
        .memory("160M")
        .export(image.path.display().to_string())
        .without_unix()
        .tcp(address)
        .start()
}

/// `RINGNBD_RESTARTS` makes it a campaign.
#[test]
fn a_kernel_sees_no_error_when_the_server_is_restarted() {
    let rounds: u64 = std::env::var("RINGNBD_RESTARTS").map_or(4, |rounds| rounds.parse().expect("a number"));
    let image = Image::sparse(64 << 20);
    let mut server = serve(&image, "127.0.0.1:0");
    let address = server.tcp_address().to_string();
    let port = server.tcp_address().port();
    let program = std::env::current_exe().unwrap();
    let name = program.file_name().unwrap().to_str().unwrap();
    let script = format!(
        "ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0\n\
         export {INSIDE}=10.0.2.2:{port} SECONDS={}\n\
         /bin/{name} restart::inside_the_guest --exact --nocapture || echo guest: FAILED\npoweroff -f",
        rounds * SECONDS_PER_ROUND
    );
    let guest = Guest::new(&script)
        .modules(&["virtio_pci", "virtio_net", "nbd", "crc32c_generic"])
        .program(program.to_str().unwrap())
        .program("usr/bin/fio")
        .memory(512)
        .network();
    let mut restarts = 0;
    let finished = std::thread::scope(|scope| {
        let guest = scope.spawn(|| guest.run());
        while !guest.is_finished() && restarts < rounds {
            // All connections of the guest are there.
            let connected = server.stderr().matches("\"negotiated\"").count() >= CONNECTIONS;
            std::thread::sleep(Duration::from_millis(100));
            if connected && !guest.is_finished() {
                server.stop();
                server = serve(&image, &address);
                restarts += 1;
            }
        }
        guest.join().unwrap()
    });
    let Some(finished) = finished else { return };
    let console = finished.ok();
    let told = console.lines().find(|line| line.contains("guest: fio")).unwrap_or_default();
    println!("{restarts} restarts; {told}");
    assert!(told.contains("exit status: 0"), "{console}");
    assert!(!console.contains("FAILED") && !console.contains("I/O error"), "{console}");
    assert!(restarts >= 2, "the guest ended after {restarts} restarts: {console}");
}
