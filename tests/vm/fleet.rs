//! The page on fleets of microVMs: every command of it is run, around a guest that boots from a clone and writes while snapshots of it
//! are taken.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::document::{Document, command_lines};
use crate::guest::Guest;
use crate::peers;
use crate::support::image::disk_dir;
use crate::support::wait_until;

const PAGE: &str = "src/doc/fleet.md";

/// /sbin/init of the golden image. A disk that was never booted gets files and their sums, then it is written until the host says stop. Any
/// other one is verified.
const INIT: &str = "
end() { sync; mount -o remount,ro / || echo guest: FAILED to end; poweroff -f; }
if [ -e /data/SUMS ]; then
  cd /data
  for sums in SUMS*; do sha256sum -c $sums >/dev/null || echo guest: FAILED $sums; done
  echo guest: verified $(ls | grep -c SUMS) sums
  cd /; end
fi
write() {
  for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/data/$1$i bs=64k count=$((i * 4)) 2>/dev/null; done
  (cd /data; sha256sum $1* > SUMS$2)
  sync
}
mkdir /data
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
write file ''
# Ended by a file, because what it runs would outlive it if it were killed, and hold the disk.
(until [ -e /dev/enough ]; do dd if=/dev/urandom of=/busy bs=16k count=16 conv=fsync 2>/dev/null; done) &
echo first >&3
read go <&3
write more .more
echo second >&3
read go <&3
touch /dev/enough
wait
echo guest: written
end
";

/// Where the page's paths are.
struct House {
    disks: TempDir,
    run: TempDir,
    /// How QEMU reaches `vm1`.
    blockdev: String,
}

impl House {
    fn new(page: &[String]) -> Self {
        // The path of a socket is short.
        let run = tempfile::Builder::new().prefix("ringnbd").tempdir().unwrap();
        Self { disks: disk_dir(), run, blockdev: blockdev_of(page) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disks.path().join(name)
    }

    fn run_path(&self, name: &str) -> PathBuf {
        self.run.path().join(name)
    }

    /// Text of the page, with its paths in here.
    fn text(&self, line: &str) -> String {
        let (disks, run) = (self.disks.path().to_str().unwrap(), self.run.path().to_str().unwrap());
        line.replace("/srv/", &format!("{disks}/")).replace("/run/ringnbd/", &format!("{run}/"))
    }

    /// A command of the page, given to a shell as it stands.
    fn command(&self, line: &str) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_ringnbd")).parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = [program, peers::home().join("bin")].into_iter().chain(std::env::split_paths(&path));
        let mut command = Command::new("sh");
        command.env("PATH", std::env::join_paths(places).unwrap());
        command.args(["-c", &format!("exec {}", self.text(line))]).current_dir(self.disks.path());
        command
    }

    /// A guest on an image, which its QEMU reaches as the page says for `vm1`.
    fn guest(&self, export: &str) -> Guest {
        let disk = self.text(&self.blockdev).replace("export=vm1", &format!("export={export}"));
        Guest::new(super::SWITCH_ROOT)
            .modules(&["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"])
            .disk(&disk)
    }

    fn run(&self, line: &str) -> String {
        peers::run(&mut self.command(line)).ok()
    }

    /// All bytes of an image or a snapshot, as a file.
    fn exported(&self, node: &str) -> PathBuf {
        self.run(&format!("ringnbd image export {node} check.raw --force"));
        self.path("check.raw")
    }
}

/// What follows `-blockdev` in the page's command of QEMU, but for the name of the node, which is the guest's.
fn blockdev_of(page: &[String]) -> String {
    let line = page.iter().find(|line| line.starts_with("qemu-system-x86_64")).expect("a guest is started");
    let (_, rest) = line.split_once("-blockdev ").expect("it has a disk");
    let disk = rest.split_whitespace().next().unwrap();
    assert!(disk.contains("node-name=d,") && line.contains("-device virtio-blk-pci,drive=d "), "{line}");
    disk.replace("node-name=d,", "")
}

/// A server, as long as this is there.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _it_may_be_gone = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let status = self.0.wait().unwrap();
        assert!(status.success() || std::thread::panicking(), "the server ended with {status}");
    }
}

fn serve(mut command: Command, socket: &Path) -> Running {
    let server = Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    wait_until("the server", || UnixStream::connect(socket).is_ok());
    server
}

/// The line between the host and a guest that runs.
struct Wire(BufReader<UnixStream>);

impl Wire {
    fn open(path: &Path, guest_is_gone: impl Fn() -> bool) -> Option<Self> {
        let mut stream = None;
        wait_until("the guest's line", || {
            stream = UnixStream::connect(path).ok();
            stream.is_some() || guest_is_gone()
        });
        stream.map(|stream| Self(BufReader::new(stream)))
    }

    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word, "what the guest says");
    }

    fn go_on(&mut self) {
        self.0.get_mut().write_all(b"go\n").unwrap();
    }
}

/// Boots a disk that was written by another guest.
fn verify(house: &House, export: &str, sums: usize) {
    let console = house.guest(export).run().expect("it ran before").ok();
    assert!(console.contains(&format!("guest: verified {sums} sums")), "{console}");
    assert!(!console.contains("FAILED") && !console.contains("I/O error"), "{console}");
}

/// Commands in order, up to one that begins like this, which is not among them.
struct Page(std::vec::IntoIter<String>);

impl Page {
    fn run_until(&mut self, house: &House, end: &str) -> Option<String> {
        for line in self.0.by_ref() {
            if line.starts_with(end) {
                return Some(line);
            }
            house.run(&line);
        }
        assert!(end.is_empty(), "{PAGE} has no more {end}");
        None
    }
}

/// Names of the images of the page's store.
fn images(house: &House) -> BTreeSet<String> {
    let listed: serde_json::Value =
        serde_json::from_str(&house.run("ringnbd image ls /srv/store --json")).unwrap();
    let images = listed["nodes"].as_array().unwrap().iter().filter(|node| node["kind"] == "image");
    images.map(|image| image["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_page_on_fleets_works_with_real_guests() {
    let Some(golden) = super::root_image(INIT) else { return };
    let document = Document::read_page(PAGE);
    let lines: Vec<String> =
        document.of("").flat_map(|block| command_lines(&block.text)).map(String::from).collect();
    let house = House::new(&lines);
    std::fs::rename(&golden.path, house.path("golden.raw")).unwrap();
    let mut page = Page(lines.into_iter());

    let start = page.run_until(&house, "ringnbd serve").unwrap();
    let fifty = (1..=50).map(|number| format!("vm{number}"));
    assert_eq!(images(&house), fifty.chain(["golden".to_owned()]).collect());
    let server = serve(house.command(&start), &house.run_path("vms.sock"));
    page.run_until(&house, "qemu-system-x86_64");
    let line = house.run_path("line");
    let guest = house.guest("vm1").control(&line);
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| guest.run());
        let Some(mut wire) = Wire::open(&line, || guest.is_finished()) else { return };
        wire.expect("first");
        // Monday, while it writes; and its clone boots beside it.
        let tuesday = page.run_until(&house, "ringnbd image snapshot /srv/store/vm1@tuesday").unwrap();
        verify(&house, "vm1-copy", 1);
        wire.go_on();
        wire.expect("second");
        house.run(&tuesday);
        let export = page.run_until(&house, "ringnbd image export").unwrap();
        wire.go_on();
        let console = guest.join().unwrap().expect("it has begun").ok();
        assert!(console.contains("guest: written") && !console.contains("FAILED"), "{console}");
        drop(server);
        house.run(&export);
        let rollback = page.run_until(&house, "ringnbd image rollback").unwrap();
        finish(&house, &mut page, &rollback);
    });
}

/// Everything that the page made boots, and its file systems are clean.
fn finish(house: &House, page: &mut Page, rollback: &str) {
    let server = |store: &str| {
        let line = format!("ringnbd serve store:{store} --unix /run/ringnbd/vms.sock");
        serve(house.command(&line), &house.run_path("vms.sock"))
    };
    let equal = |node: &str, file: &Path| {
        assert!(std::fs::read(house.exported(node)).unwrap() == std::fs::read(file).unwrap(), "{node}");
    };
    // What a tool of others copied, and what was restored of deltas, are the snapshots, byte for byte.
    equal("/srv/store/vm1@monday", &house.path("monday.raw"));
    std::fs::rename(house.exported("/srv/store/vm1@tuesday"), house.path("tuesday.raw")).unwrap();
    equal("/srv/restored/vm1@tuesday", &house.path("tuesday.raw"));
    for store in ["/srv/store", "/srv/restored"] {
        house.run(&format!("ringnbd image clone {store}/vm1@tuesday {store}/vm1-tuesday"));
    }
    let first = server("/srv/store");
    verify(house, "vm1", 2);
    verify(house, "vm1-tuesday", 2);
    drop(first);
    let restored = server("/srv/restored");
    verify(house, "vm1-tuesday", 2);
    drop(restored);
    house.run(rollback);
    page.run_until(house, "");
    let rolled_back = server("/srv/store");
    verify(house, "vm1", 1);
    drop(rolled_back);
    for image in
        ["/srv/store/vm1", "/srv/store/vm1-tuesday", "/srv/store/vm1-copy", "/srv/restored/vm1-tuesday"]
    {
        peers::system("fsck.ext4", &["-fn", house.exported(image).to_str().unwrap()]);
    }
    // The journal of a disk that was cut off is replayed first, as its next boot would do it.
    let monday =
        peers::run(Command::new("fsck.ext4").args(["-fp", house.path("monday.raw").to_str().unwrap()]));
    assert!(matches!(monday.status.code(), Some(0 | 1)), "{monday}");
    peers::system("fsck.ext4", &["-fn", house.path("monday.raw").to_str().unwrap()]);
}
