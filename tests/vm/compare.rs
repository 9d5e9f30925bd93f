//! What a guest's buffered random writes get through nbd.ko from this server and from qemu-nbd. It measures, so it is run by hand:
//!
//! ```text
//! RINGNBD_TEST_BINARY=target/release/ringnbd cargo test --test vm -- --ignored --nocapture compare
//! ```
//!
//! `ROUNDS` says how often; `SERVERS` which, with commas between them (`qemu-nbd`, or arguments of `ringnbd serve`); `CLIENT=qemu` makes
//! it QEMU's own client; `SPARSE=1` begins with an empty file.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::guest::Guest;
use crate::peers;
use crate::support::image::Image;

/// The guest writes 4 KiB blocks into its page cache, which its kernel writes back; then it waits for all of them.
const WRITE: &str = "
ATTACH
/bin/fio --name=w --filename=/dev/DISK --rw=randwrite --bs=4k --ioengine=psync --thread --size=192m --io_size=192m \
    --end_fsync=1 --norandommap --randseed=1 --minimal > /out
echo guest: result $(cut -d ';' -f 47,48,49,50 /out)
poweroff -f
";

/// The guest's kernel is the client.
const ATTACH: &str = "ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0
/bin/nbd-client 10.0.2.2 PORT /dev/nbd0 -connections 4 || poweroff -f";

/// A server as a child that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn serve(server: &str, image: &Image, port: u16) -> Option<Running> {
    let path = image.path.display().to_string();
    let mut command = match server {
        "qemu-nbd" => {
            let mut command = peers::command("qemu-nbd")?;
            command.args([
                "-f",
                "raw",
                "-x",
                "",
                "-e",
                "8",
                "-t",
                "-b",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                &path,
            ]);
            command
        }
        _ => {
            let binary = std::env::var("RINGNBD_TEST_BINARY");
            let mut command = Command::new(binary.as_deref().unwrap_or(env!("CARGO_BIN_EXE_ringnbd")));
            command.args(["serve", "--tcp", &format!("127.0.0.1:{port}"), &path]);
            command.args(server.split(' '));
            command
        }
    };
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let running = Running(child);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    while TcpStream::connect(address).is_err() {
        std::thread::yield_now();
    }
    Some(running)
}

/// A guest whose client is its kernel, or the QEMU that runs it.
fn guest(client: &str, port: u16) -> Guest {
    if client == "qemu" {
        let disk = format!(
            "driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port},export=,cache.direct=on"
        );
        let script = WRITE.replace("ATTACH\n", "").replace("DISK", "vda");
        return Guest::new(&script).modules(&["virtio_pci", "virtio_blk", "crc32c_generic"]).disk(&disk);
    }
    let script = WRITE.replace("ATTACH", ATTACH).replace("PORT", &port.to_string()).replace("DISK", "nbd0");
    let modules = ["virtio_pci", "virtio_net", "nbd", "crc32c_generic"];
    Guest::new(&script).modules(&modules).program("usr/sbin/nbd-client").network()
}

#[test]
#[ignore = "it measures"]
fn buffered_random_writes_of_a_guest() {
    let rounds: u32 = std::env::var("ROUNDS").map_or(3, |rounds| rounds.parse().expect("a number"));
    let servers = std::env::var("SERVERS").unwrap_or("qemu-nbd,--shards 1,--shards 2".to_owned());
    let client = std::env::var("CLIENT").unwrap_or("kernel".to_owned());
    for _ in 0..rounds {
        for server in servers.split(',') {
            let image = Image::sparse(256 << 20);
            if std::env::var("SPARSE").is_err() {
                std::fs::write(&image.path, vec![1; 256 << 20]).unwrap();
            }
            let port = free_port();
            let Some(running) = serve(server, &image, port) else { return };
            let before = cpu_of(&running);
            let finished = guest(&client, port).program("usr/bin/fio").memory(1024).run();
            let Some(finished) = finished else { return };
            let console = finished.ok();
            let told = console.lines().find(|line| line.contains("guest: result")).unwrap_or("nothing");
            println!(
                "{server:12} {} (KiB; KiB/s; IOPS; ms), server CPU {} ticks",
                told.trim(),
                cpu_of(&running) - before
            );
        }
    }
}

/// CPU time of a process, in ticks of the kernel.
fn cpu_of(running: &Running) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.0.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
