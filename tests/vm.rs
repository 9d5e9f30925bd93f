//! Virtual machines on served disks: qemu boots a small Linux whose root file system is an ext4 image behind NBD.
//!
//! What the guest wrote is read back from the image by `fsck` and `debugfs`, after the server has ended.

#[path = "support/peers.rs"]
mod peers;
mod support;

#[path = "vm/attach.rs"]
mod attach;
#[path = "vm/blktests.rs"]
mod blktests;
#[path = "vm/compare.rs"]
mod compare;
#[path = "vm/cpio.rs"]
mod cpio;
#[path = "readme/document.rs"]
#[allow(dead_code, reason = "of a page only the commands are used")]
mod document;
#[path = "vm/fleet.rs"]
mod fleet;
#[path = "vm/guest.rs"]
mod guest;
#[path = "vm/handover.rs"]
mod handover;
#[path = "vm/netlink.rs"]
mod netlink;
#[path = "vm/restart.rs"]
mod restart;
#[path = "vm/traps.rs"]
mod traps;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use guest::Guest;
use support::image::{Image, LoopDevice, disk_dir};
use support::server::{Options, Server};

const SIZE: u64 = 96 << 20;
/// Files that the guest writes, of 64 KiB to 4 MiB.
const FILES: u32 = 24;

/// First process of the guest: goes over to the served disk.
const SWITCH_ROOT: &str = "
mount -t ext4 -o discard,errors=panic /dev/vda /mnt || poweroff -f
exec switch_root /mnt /sbin/init
";

/// The files of TLS in a guest.
const CERTIFICATES: [&str; 3] = ["ca-cert.pem", "client-cert.pem", "client-key.pem"];

/// First process of the guest that attaches the disk with its own kernel's client, and stays where it is.
const ATTACH: &str = "
ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0
/bin/nbd-client 10.0.2.2 PORT /dev/nbd0 -connections CONNECTIONS || poweroff -f
mount -t ext4 -o discard,errors=panic /dev/nbd0 /mnt || poweroff -f
";

/// In the directory TOP, on the served disk: writes, overwrites, removes, and tells what it wrote.
const WRITE_FILES: &str = "
echo guest: disk is $(grep ' TOP ' /proc/mounts | tail -n 1)
mkdir TOP/data
cd TOP/data
i=0
while [ $i -lt FILES ]; do
  dd if=/dev/urandom of=file$i bs=64k count=$((1 + i * i % 64)) 2>/dev/null || echo guest: FAILED
  dd if=/dev/urandom of=gone$i bs=64k count=16 2>/dev/null || echo guest: FAILED
  # In place, across block borders, and synchronously.
  dd if=/dev/urandom of=file$i bs=700 count=9 seek=5 conv=notrunc,fsync 2>/dev/null || echo guest: FAILED
  i=$((i + 1))
done
rm gone*
sync
fstrim -v TOP || echo guest: FAILED to trim
echo 3 > /proc/sys/vm/drop_caches
sha256sum file*
cd /
";

fn write_files(top: &str) -> String {
    WRITE_FILES.replace("FILES", &FILES.to_string()).replace("TOP", top)
}

/// A disk image with an ext4 root file system: busybox, and `script` as /sbin/init.
fn root_image(script: &str) -> Option<Image> {
    let root = peers::debian_root()?;
    let tree = disk_dir();
    let at = |path: &str| tree.path().join(path);
    for directory in ["bin", "sbin", "dev", "proc", "sys"] {
        fs::create_dir(at(directory)).unwrap();
    }
    fs::copy(guest::busybox(&root), at("bin/busybox")).unwrap();
    let init = format!(
        "#!/bin/busybox sh\nmount() {{ /bin/busybox mount \"$@\"; }}\n\
         mount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\n\
         /bin/busybox --install -s /bin\nexport PATH=/bin\n{script}"
    );
    fs::write(at("sbin/init"), init).unwrap();
    fs::set_permissions(at("sbin/init"), fs::Permissions::from_mode(0o755)).unwrap();
    let image = Image::sparse(SIZE);
    let (tree, path) = (tree.path().display().to_string(), image.path.display().to_string());
    peers::system("mke2fs", &["-q", "-t", "ext4", "-d", &tree, &path]);
    Some(image)
}

/// The blocks that qemu reaches through `server`.
fn nbd_blockdev(server: &Server, is_unix: bool) -> String {
    let place = if is_unix {
        format!("server.type=unix,server.path={}", server.socket().display())
    } else {
        let address = server.tcp_address();
        format!("server.type=inet,server.host={},server.port={}", address.ip(), address.port())
    };
    format!("driver=nbd,{place},export=,discard=unmap,detect-zeroes=unmap,cache.direct=on")
}

/// What the served disk lies on.
enum Backing {
    File(Image),
    Direct(Image),
    Device(LoopDevice),
}

impl Backing {
    fn path(&self) -> &Path {
        match self {
            Backing::File(image) | Backing::Direct(image) => &image.path,
            Backing::Device(device) => &device.path,
        }
    }

    fn export(&self) -> String {
        match self {
            Backing::Direct(image) => format!("file:{}?direct=true", image.path.display()),
            _ => self.path().display().to_string(),
        }
    }
}

/// A server of the disk. Its shards share the cores with qemu, which needs them more.
fn serve(backing: &Backing, is_unix: bool) -> Server {
    let options = Options::new().shards(2).memory("256M").export(backing.export());
    let options = if is_unix { options } else { options.without_unix().tcp("127.0.0.1:0") };
    options.start()
}

/// Boots a guest from the served disk. Gives its console.
fn boot(server: &Server, is_unix: bool) -> Option<String> {
    let guest = Guest::new(SWITCH_ROOT)
        .modules(&["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"])
        .disk(&nbd_blockdev(server, is_unix));
    console_of(guest, "guest: disk is /dev/vda / ext4")
}

/// Runs a guest that must say `disk` and must not complain. Gives its console.
fn console_of(guest: Guest, disk: &str) -> Option<String> {
    let console = guest.run()?.ok().replace('\r', "");
    assert!(console.contains(disk), "did not reach its disk: {console}");
    assert!(console.contains("bytes trimmed"), "no fstrim: {console}");
    assert!(!console.contains("FAILED") && !console.contains("I/O error"), "{console}");
    Some(console)
}

/// The checksums that the guest printed, by file name.
fn checksums(console: &str) -> BTreeMap<&str, &str> {
    let is_sum = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pairs = console.lines().filter_map(|line| line.split_once("  "));
    pairs.filter(|(sum, _)| is_sum(sum)).map(|(sum, name)| (name.trim(), sum)).collect()
}

/// Every file of the guest in the file system at `path` has the checksum that the guest saw.
fn assert_files(path: &Path, console: &str) {
    let sums = checksums(console);
    assert_eq!(sums.len(), FILES as usize, "checksums on the console: {console}");
    let out = disk_dir();
    peers::system(
        "debugfs",
        &["-R", &format!("rdump /data {}", out.path().display()), &path.display().to_string()],
    );
    for (name, sum) in sums {
        let file = out.path().join("data").join(name).display().to_string();
        let found = peers::system("sha256sum", &[file]);
        assert_eq!(found.split_whitespace().next(), Some(sum), "{name}; the guest said: {console}");
    }
}

/// Boots, writes and powers off; the file system is clean and the files are right.
fn boots_and_writes(lay: impl Fn(Image) -> Option<Backing>, is_unix: bool) -> Option<()> {
    let end = "sync; mount -o remount,ro / || echo guest: FAILED; poweroff -f\n";
    let backing = lay(root_image(&(write_files("/") + end))?)?;
    let mut server = serve(&backing, is_unix);
    let console = boot(&server, is_unix)?;
    server.stop();
    peers::system("fsck.ext4", &["-fn", &backing.path().display().to_string()]);
    assert_files(backing.path(), &console);
    Some(())
}

#[test]
fn boots_from_a_file_over_unix() {
    let _ = boots_and_writes(|image| Some(Backing::File(image)), true);
}

#[test]
fn boots_from_a_direct_file_over_unix() {
    let _ = boots_and_writes(|image| Some(Backing::Direct(image)), true);
}

#[test]
fn boots_from_a_block_device_over_tcp() {
    let _ = boots_and_writes(
        |image| peers::or_skip(LoopDevice::over(image), "loop device").map(Backing::Device),
        false,
    );
}

/// The guest is reset amid its writes and the server is killed: what the guest had synced is there, and the journal
/// makes the rest whole.
#[test]
fn keeps_what_was_synced_through_a_crash() {
    let end = "while :; do dd if=/dev/urandom of=/lost bs=64k count=64 2>/dev/null; done & \n\
               sync; sleep 1; echo b > /proc/sysrq-trigger\n";
    let Some(image) = root_image(&(write_files("/") + end)) else { return };
    let backing = Backing::File(image);
    let mut server = serve(&backing, true);
    let Some(console) = boot(&server, true) else { return };
    server.crash();
    let path = backing.path().display().to_string();
    // Replays the journal, as the next boot would. 1 means that it changed something, which it may.
    let fsck = peers::run(std::process::Command::new("fsck.ext4").args(["-fp", &path]));
    assert!(matches!(fsck.status.code(), Some(0 | 1)), "{fsck}");
    peers::system("fsck.ext4", &["-fn", &path]);
    assert_files(backing.path(), &console);
}

/// The guest's kernel is the client: nbd.ko, attached by nbd-client over TCP, with several connections.
#[test]
fn a_kernel_attaches_over_tcp() {
    let Some(image) = root_image("") else { return };
    let backing = Backing::File(image);
    let mut server = serve(&backing, false);
    let attach = ATTACH.replace("PORT", &server.tcp_address().port().to_string());
    let attach = attach.replace("CONNECTIONS", "4");
    let end =
        "umount /mnt || echo guest: FAILED; /bin/nbd-client -d /dev/nbd0 || echo guest: FAILED; poweroff -f";
    let guest = Guest::new(&(attach + &write_files("/mnt") + end))
        .modules(&["virtio_pci", "virtio_net", "nbd", "crc32c_generic", "ext4"])
        .program("usr/sbin/nbd-client")
        .network();
    let Some(console) = console_of(guest, "guest: disk is /dev/nbd0 /mnt ext4") else { return };
    let connections = server.stderr().matches("\"message\":\"negotiated\"").count();
    assert_eq!(connections, 4, "{}", server.stderr());
    server.stop();
    peers::system("fsck.ext4", &["-fn", &backing.path().display().to_string()]);
    assert_files(backing.path(), &console);
}

/// The same over TLS, which nbd-client puts between the kernel and the server.
#[test]
fn a_kernel_attaches_over_tls() {
    let Some(image) = root_image("") else { return };
    let (backing, files) = (Backing::File(image), disk_dir());
    support::tls::write_files(files.path());
    let directory = files.path().display().to_string();
    let options = Options::new().shards(2).memory("256M").export(backing.export());
    let options = options.args(["--tls", &directory, "--tls-mode", "required"]);
    let mut server = options.without_unix().tcp("127.0.0.1:0").start();
    let mut attach = String::new();
    for name in CERTIFICATES {
        let text = fs::read_to_string(files.path().join(name)).unwrap();
        attach += &format!("cat >/{name} <<'END'\n{text}END\n");
    }
    // Of its own accord it offers TLS 1.2 alone.
    let credentials = "-x -A /ca-cert.pem -F /client-cert.pem -K /client-key.pem -H localhost -y NORMAL";
    let port = server.log().iter().find_map(|line| {
        let (_, rest) = line["uri"].as_str()?.split_once("://127.0.0.1:")?;
        Some(rest.split('/').next()?.to_owned())
    });
    let line = ATTACH.replace("PORT", &port.expect("a URI of TCP"));
    attach += &line.replace("-connections CONNECTIONS", credentials);
    let end =
        "umount /mnt || echo guest: FAILED; /bin/nbd-client -d /dev/nbd0 || echo guest: FAILED; poweroff -f";
    let guest = Guest::new(&(attach + &write_files("/mnt") + end))
        .modules(&["virtio_pci", "virtio_net", "nbd", "crc32c_generic", "ext4"])
        .program("usr/sbin/nbd-client")
        .network();
    let Some(console) = console_of(guest, "guest: disk is /dev/nbd0 /mnt ext4") else { return };
    let is_secure =
        |line: &serde_json::Value| line["tls"].as_str().is_some_and(|it| it.starts_with("Certificate("));
    assert!(server.log().iter().any(is_secure), "{}", server.stderr());
    server.stop();
    peers::system("fsck.ext4", &["-fn", &backing.path().display().to_string()]);
    assert_files(backing.path(), &console);
}
