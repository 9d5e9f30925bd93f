//! Disk images, block devices and small file systems for the server to work on.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ringnbd::internal::random::{STEP, mixed};
use tempfile::TempDir;

use super::PATIENCE;

/// A fresh directory on the file system of the build directory: unlike `/tmp` it is no tmpfs, so O_DIRECT works.
pub(crate) fn disk_dir() -> TempDir {
    std::fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).expect("create the directory of test images");
    tempfile::Builder::new()
        .prefix("img")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("make an image directory")
}

/// Bytes that depend on their place and a seed, so that data in the wrong place never looks right.
pub(crate) fn pattern(seed: u64, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    let first = offset / 8;
    for word in first..=(offset + length as u64) / 8 {
        // A whole slice at once: byte by byte takes seconds in a debug build.
        bytes.extend_from_slice(&(mixed((seed << 40 ^ word).wrapping_add(STEP)) | 1).to_le_bytes());
    }
    let skip = (offset % 8) as usize;
    bytes[skip..skip + length].to_vec()
}

/// A raw image file in its own directory; both go when it is dropped.
pub(crate) struct Image {
    pub(crate) path: PathBuf,
    dir: TempDir,
}

impl Image {
    /// An image of `size` bytes that occupies none.
    pub(crate) fn sparse(size: u64) -> Self {
        let dir = disk_dir();
        let path = dir.path().join("disk.img");
        File::create(&path).and_then(|file| file.set_len(size)).expect("create a sparse image");
        Self { path, dir }
    }

    /// An image full of [`pattern`].
    pub(crate) fn random(size: u64, seed: u64) -> Self {
        let image = Self::sparse(size);
        image.write(0, &pattern(seed, 0, size as usize));
        image
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(&self.path).expect("open the image")
    }

    /// Writes behind the server's back.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        self.open().write_all_at(data, offset).expect("write to the image");
    }

    /// Reads behind the server's back, through the page cache.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.open().read_exact_at(&mut bytes, offset).expect("read the image");
        bytes
    }

    /// Reads what is on the disk rather than in the page cache: `dd` with O_DIRECT, whole 4 KiB blocks.
    pub(crate) fn read_direct(&self, offset: u64, length: usize) -> Vec<u8> {
        read_direct(&self.path, offset, length)
    }

    /// Bytes the file occupies.
    pub(crate) fn allocated(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(&self.path).expect("stat the image").blocks() * 512
    }
}

/// O_DIRECT read of a file or device; `offset` and `length` are multiples of 4 KiB.
pub(crate) fn read_direct(path: &Path, offset: u64, length: usize) -> Vec<u8> {
    assert!(offset.is_multiple_of(4096) && length.is_multiple_of(4096), "O_DIRECT wants whole blocks");
    let output = Command::new("dd")
        .arg(format!("if={}", path.display()))
        .args(["bs=4096", "iflag=direct", "status=none"])
        .arg(format!("skip={}", offset / 4096))
        .arg(format!("count={}", length / 4096))
        .output()
        .expect("run dd");
    assert!(output.status.success(), "dd failed: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.len(), length, "dd read less than asked");
    output.stdout
}

/// Whether a test that needs root's devices may be left out. Under `CI=true` nothing may.
fn skip_or_panic(what: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{what} is not possible here, and CI=true allows no gaps"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("skipped part of {test}: {what} (needs root and loop devices)\n");
    eprint!("{line}");
    // tests/run collects what was left out.
    if let Some(list) = std::env::var_os("RINGNBD_SKIPS")
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(list)
    {
        use std::io::Write;
        file.write_all(line.as_bytes()).ok();
    }
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    if !output.status.success() {
        eprintln!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A loop block device over an image.
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
    pub(crate) image: Image,
}

impl LoopDevice {
    /// `None` where loop devices cannot be made (not root, no module), which `CI=true` turns into a failure.
    pub(crate) fn over(image: Image) -> Option<Self> {
        Self::with_sectors(image, 512)
    }

    /// With logical sectors of this many bytes: O_DIRECT on it takes no smaller pieces.
    pub(crate) fn with_sectors(image: Image, size: u32) -> Option<Self> {
        let file = image.path.to_str().expect("a UTF-8 path").to_owned();
        match run("losetup", &["--sector-size", &size.to_string(), "--find", "--show", &file]) {
            Some(path) => Some(Self { path: path.into(), image }),
            None => {
                skip_or_panic("a loop block device");
                None
            }
        }
    }

    /// Makes it smaller or larger while it is in use.
    pub(crate) fn resize(&self, size: u64) {
        self.image.open().set_len(size).expect("resize the file below it");
        let path = self.path.to_str().expect("a UTF-8 path");
        run("losetup", &["--set-capacity", path]).expect("the device takes the size of its file");
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // A loop device that is still open detaches itself at its last close.
        run("losetup", &["--detach", self.path.to_str().expect("a UTF-8 path")]);
    }
}

/// A small ext4 file system of its own, to be filled to the brim.
pub(crate) struct SmallFileSystem {
    pub(crate) mount_point: PathBuf,
    /// The file that holds the file system.
    pub(crate) image: Image,
}

impl SmallFileSystem {
    /// Without a journal, so that nearly all of it is there to be filled.
    /// `None` where mounting is not possible, as for [`LoopDevice::over`].
    pub(crate) fn of(size: u64) -> Option<Self> {
        Self::make(size, &["-O", "^has_journal"])
    }

    /// With a journal, so that it recovers from a power cut.
    pub(crate) fn with_journal(size: u64) -> Option<Self> {
        Self::make(size, &["-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
    }

    fn make(size: u64, features: &[&str]) -> Option<Self> {
        let image = Image::sparse(size);
        let mount_point = image.dir().join("mnt");
        std::fs::create_dir(&mount_point).expect("make a mount point");
        let file = image.path.to_str().expect("a UTF-8 path").to_owned();
        let at = mount_point.to_str().expect("a UTF-8 path").to_owned();
        let made = run("mkfs.ext4", &[&["-q", "-m", "0"], features, &[&file]].concat())
            .and_then(|_| run("mount", &["-o", "loop", &file, &at]));
        if made.is_none() {
            skip_or_panic("mounting a small ext4 file system");
            return None;
        }
        Some(Self { mount_point, image })
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        unmount(&self.mount_point);
    }
}

/// Unmounts, though a server that has just ended may hold its files a moment longer: the kernel takes an io_uring apart after the
/// process is gone. What stays busy is taken out of sight and ends with its last user.
pub(crate) fn unmount(mount_point: &Path) {
    let unmounted =
        || Command::new("umount").arg(mount_point).output().is_ok_and(|output| output.status.success());
    let deadline = Instant::now() + PATIENCE;
    while !unmounted() {
        if Instant::now() > deadline {
            eprintln!("{} stays busy", mount_point.display());
            run("umount", &["--lazy", mount_point.to_str().expect("a UTF-8 path")]);
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
