//! A guest whose disks lie on dm-log-writes, with the server in it; and the line on which it is told to put marks into the logs.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::guest::Guest;
use crate::support::image::Image;
use crate::support::raw::Connection;

/// How long it may take until it serves, and until it answers.
const PATIENCE: Duration = Duration::from_secs(120);

/// After so many marks a snapshot is removed.
pub(crate) const KEPT: usize = 8;

/// What the guest does: it serves a device, two files, a clone of an image and an overlay, and puts marks into both logs until it is told
/// to end. Behind every second mark it takes a snapshot of the clone. One that is given up because changes do not end in time, as they may
/// not in an emulated guest, is tried again.
const SCRIPT: &str = "
ip link set lo up; ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0
exec 3<>/dev/ttyS1; stty -F /dev/ttyS1 raw -echo
dm() { /bin/dmsetup \"$@\" --noudevsync || echo guest: FAILED dmsetup \"$@\"; }
dm create raw --table \"0 $(blockdev --getsz /dev/vda) log-writes /dev/vda /dev/vdb\"
dm create files --table \"0 $(blockdev --getsz /dev/vdc) log-writes /dev/vdc /dev/vdd\"
dm mknodes
mount -t ext4 -o errors=panic /dev/mapper/files /mnt || echo guest: FAILED to mount
truncate -s SIZE /mnt/buffered.img; truncate -s SIZE /mnt/direct.img; sync
store() { /bin/SERVER \"$@\" || echo guest: FAILED \"$@\"; }
store store init /mnt/store
store image create /mnt/store/golden --from /mnt/golden.raw
store image snapshot /mnt/store/golden@v1
store image clone /mnt/store/golden@v1 /mnt/store/vm
ulimit -n 1024
/bin/SERVER serve --shards 1 --memory 48M --unpinned --tcp 0.0.0.0:10809 --pidfile /pid raw=file:/dev/mapper/raw?direct=true \\
  --control unix:/control buffered=file:/mnt/buffered.img direct=file:/mnt/direct.img?direct=true image=store:/mnt/store/vm \\
  'overlay=overlay:/mnt/over.d?base=/mnt/golden.raw' &
while [ ! -s /pid ]; do sleep 0.1; done
echo serving >&3
snapshot() {
  for try in 1 2 3 4 5; do /bin/SERVER image snapshot /mnt/store/vm@s$1 && return; done
  false
}
while read -r command label <&3; do
  [ \"$command\" = mark ] || break
  dm message raw 0 mark $label; dm message files 0 mark $label
  answer=\"marked $label\"
  if [ $((label % 2)) = 1 ]; then
    snapshot $label && answer=\"$answer and taken\"
    [ $label -lt KEPT ] || /bin/SERVER image rm /mnt/store/vm@s$((label - KEPT)) || echo guest: nothing to remove
  fi
  echo $answer >&3
done
echo guest: done
poweroff -f
";

/// The disks of the guest, on this side.
pub(crate) struct Disks {
    pub(crate) raw: Image,
    pub(crate) raw_log: Image,
    pub(crate) files: Image,
    pub(crate) files_log: Image,
}

/// How the machine is reached.
pub(crate) struct Line {
    directory: TempDir,
    port: u16,
}

/// A guest for these disks, which has so much time, and the line to it. Each export has `size` bytes.
pub(crate) fn machine(disks: &Disks, size: u64, deadline: Duration) -> (Guest, Line) {
    let server =
        std::env::var("RINGNBD_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ringnbd").into());
    let name = Path::new(&server).file_name().expect("a program").to_str().expect("a UTF-8 name").to_owned();
    let script = SCRIPT.replace("SIZE", &size.to_string()).replace("SERVER", &name);
    let script = script.replace("KEPT", &KEPT.to_string());
    // Not beside the images: the path of a socket holds 107 bytes at most.
    let directory = tempfile::Builder::new().prefix("ringnbd").tempdir().expect("make a directory");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("find a free port");
    let port = listener.local_addr().expect("its address").port();
    drop(listener);
    let mut guest = Guest::new(&script)
        .modules(&["virtio_pci", "virtio_blk", "virtio_net", "dm-log-writes", "crc32c_generic", "ext4"])
        .program("usr/sbin/dmsetup")
        .program(&server)
        .memory(512)
        .deadline(deadline)
        .reachable(port, 10809)
        .control(&directory.path().join("control"));
    for image in [&disks.raw, &disks.raw_log, &disks.files, &disks.files_log] {
        let file = format!("file.driver=file,file.filename={}", image.path.display());
        guest = guest.disk(&format!("driver=raw,{file},discard=unmap,cache.no-flush=on"));
    }
    (guest, Line { directory, port })
}

/// The machine as it runs.
pub(crate) struct Machine {
    port: u16,
    answers: BufReader<UnixStream>,
}

impl Machine {
    /// Waits until it serves; `None` when it ended first.
    pub(crate) fn wait(line: Line, is_over: impl Fn() -> bool) -> Option<Self> {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            assert!(Instant::now() < deadline, "no guest within {PATIENCE:?}");
            if is_over() {
                return None;
            }
            match UnixStream::connect(line.directory.path().join("control")) {
                Ok(stream) => break stream,
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        let mut machine = Self { port: line.port, answers: BufReader::new(stream) };
        assert_eq!(machine.answer(), "serving", "what the guest says");
        Some(machine)
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the guest answers");
        line.trim().to_owned()
    }

    /// A connection to the server in it.
    pub(crate) fn connect(&self) -> Connection {
        let mut client =
            Connection::over_tcp(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("connect"));
        client.patience(PATIENCE);
        client
    }

    /// Puts a mark into both logs. Whether a snapshot was taken then, which has the name `s` and the mark's.
    pub(crate) fn mark(&mut self, label: usize) -> bool {
        writeln!(self.answers.get_mut(), "mark {label}").expect("tell the guest");
        let answer = self.answer();
        let rest = answer.strip_prefix(&format!("marked {label}"));
        match rest {
            Some("") => false,
            Some(" and taken") => true,
            _ => panic!("the guest says {answer:?} to mark {label}"),
        }
    }
}

impl Drop for Machine {
    /// It powers off.
    fn drop(&mut self) {
        let _gone = writeln!(self.answers.get_mut(), "end");
    }
}
