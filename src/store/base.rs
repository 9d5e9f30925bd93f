//! What a base is known by, so that another file in its place is noticed, and a change of it mostly too.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstatvfs, open};
use serde::{Deserialize, Serialize};

use super::catalog::{BaseIdentity, BaseKind, BaseRow};
use super::error::StoreError;

/// Places of a base that are read for its identity, and bytes of each.
const SAMPLES: u64 = 64;
const SAMPLE: usize = 4096;
const LONGEST_WWID: u64 = 200;

/// What a file or device is, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundBase {
    pub kind: BaseKind,
    /// Absolute, without links.
    pub path: String,
    pub identity: BaseIdentity,
}

impl FoundBase {
    /// An export of another server: where it is, how many bytes it has, its own name, and what samples of it
    /// are.
    pub fn remote(uri: String, size: u64, name: Option<&str>, sample: [u8; 32]) -> Self {
        let wwid = name.unwrap_or_default();
        let mut end = wwid.len().min(LONGEST_WWID as usize);
        while !wwid.is_char_boundary(end) {
            end -= 1;
        }
        let (inode, file_system, device, ctime_s, ctime_ns) = Default::default();
        let wwid = wwid[..end].to_owned();
        let identity = BaseIdentity { size, inode, file_system, device, ctime_s, ctime_ns, wwid, sample };
        Self { kind: BaseKind::Remote, path: uri, identity }
    }

    /// What is different of an export of another server; none if it is what it was.
    pub fn differs_from(&self, row: &BaseRow) -> Option<String> {
        let (old, new) = (&row.identity, &self.identity);
        // Not every server gives its exports a name.
        let has_names = !old.wwid.is_empty() && !new.wwid.is_empty();
        let all = [
            ("size", old.size != new.size),
            ("name", has_names && old.wwid != new.wwid),
            ("contents", old.sample != new.sample),
        ];
        let differs: Vec<&str> =
            all.into_iter().filter_map(|(what, is_other)| is_other.then_some(what)).collect();
        (!differs.is_empty()).then(|| differs.join(", "))
    }
}

/// Looks at a file or device that is to be a base. The user names it, so links are followed.
///
/// # Errors
/// A sentence.
pub fn look_at_base(path: &Path) -> Result<FoundBase, StoreError> {
    let real = std::fs::canonicalize(path).map_err(StoreError::named("find", path))?;
    let text = real.to_str().ok_or_else(|| StoreError::Path(real.clone()))?.to_owned();
    // Nothing that waits for somebody is waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = File::from(open(&real, flags, Mode::empty()).map_err(StoreError::named("open", path))?);
    let metadata = file.metadata().map_err(StoreError::named("look at", path))?;
    let kind = match FileType::from_raw_mode(metadata.mode()) {
        FileType::RegularFile => BaseKind::File,
        FileType::BlockDevice => BaseKind::Device,
        _ => return Err(StoreError::NotABase(path.to_owned())),
    };
    let size = file.seek(SeekFrom::End(0)).map_err(StoreError::named("look at", path))?;
    if size == 0 {
        return Err(StoreError::EmptyBase(path.to_owned()));
    }
    let device = if kind == BaseKind::Device { metadata.rdev() } else { metadata.dev() };
    let identity = BaseIdentity {
        size,
        inode: metadata.ino(),
        // It has no other way to tell that without a privilege; most file systems make it of their uuid.
        file_system: fstatvfs(&file).map_or(0, |status| status.f_fsid),
        device,
        // Whoever opens a device changes nothing of it, but its node's times change.
        ctime_s: if kind == BaseKind::File { metadata.ctime() } else { 0 },
        ctime_ns: if kind == BaseKind::File { metadata.ctime_nsec().cast_unsigned() as u32 } else { 0 },
        wwid: if kind == BaseKind::Device { wwid(device) } else { String::new() },
        sample: sample(&file, size).map_err(StoreError::named("read", path))?,
    };
    Ok(FoundBase { kind, path: text, identity })
}

/// BLAKE3 of some blocks, spread evenly from the first to the last.
fn sample(file: &File, size: u64) -> io::Result<[u8; 32]> {
    sample_of(size, |offset, block| file.read_exact_at(block, offset))
}

/// The same of whatever `read` reads, which is given offsets and memory to fill.
///
/// # Errors
/// Those of `read`.
pub(crate) fn sample_of<E>(
    size: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<[u8; 32], E> {
    let mut hasher = blake3::Hasher::new();
    let mut block = [0; SAMPLE];
    let last = size.saturating_sub(SAMPLE as u64);
    for number in 0..SAMPLES {
        let offset = u64::try_from(u128::from(last) * u128::from(number) / u128::from(SAMPLES - 1))
            .expect("below the last one");
        let length = SAMPLE.min(usize::try_from(size - offset).unwrap_or(SAMPLE));
        read(offset, &mut block[..length])?;
        hasher.update(&block[..length]);
    }
    Ok(*hasher.finalize().as_bytes())
}

/// A disk's own name, which stays the same wherever it is plugged in; empty if it has none.
fn wwid(device: u64) -> String {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let places = ["wwid", "device/wwid", "../device/wwid", "dm/uuid"];
    let read = |place: &&str| {
        let file = File::open(format!("/sys/dev/block/{major}:{minor}/{place}")).ok()?;
        let mut text = String::new();
        file.take(LONGEST_WWID).read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    places.iter().find_map(read).unwrap_or_default()
}

/// What is different of a base; none if it is what it was.
///
/// # Errors
/// It cannot be read, or is on another server.
pub fn base_differs(row: &BaseRow) -> Result<Option<String>, StoreError> {
    if row.kind == BaseKind::Remote {
        return Err(StoreError::RemoteBase(row.path.clone()));
    }
    let found = look_at_base(&PathBuf::from(&row.path))?;
    let (old, new) = (&row.identity, &found.identity);
    let mut text = String::new();
    let mut differs = |what: &str, is_other: bool| {
        if is_other {
            let _ = write!(text, "{}{what}", if text.is_empty() { "" } else { ", " });
        }
    };
    differs("kind", found.kind != row.kind);
    differs("size", old.size != new.size);
    match row.kind {
        // A number of a device changes from one start of the machine to the next.
        BaseKind::File if old.file_system != 0 => differs("file system", old.file_system != new.file_system),
        BaseKind::File => differs("file system", old.device != new.device),
        BaseKind::Device | BaseKind::Remote => differs("WWID", old.wwid != new.wwid),
    }
    differs("inode", row.kind == BaseKind::File && old.inode != new.inode);
    differs("time of change", (old.ctime_s, old.ctime_ns) != (new.ctime_s, new.ctime_ns));
    differs("contents", old.sample != new.sample);
    Ok((!text.is_empty()).then_some(text))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::store::catalog::BaseId;

    fn row(found: FoundBase) -> BaseRow {
        let FoundBase { kind, path, identity } = found;
        BaseRow { id: BaseId(Uuid::nil()), kind, path, identity, created_s: 0 }
    }

    /// S4: a base that was changed is noticed.
    #[test]
    fn another_file_in_its_place_is_noticed() {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("golden.raw");
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        let base = row(look_at_base(&path).unwrap());
        assert_eq!(base.identity.size, 1 << 20);
        assert_eq!(base_differs(&base).unwrap(), None);
        std::fs::write(&path, vec![8; 1 << 20]).unwrap();
        let differs = base_differs(&base).unwrap().unwrap();
        assert!(differs.contains("contents"), "{differs}");
        let copy = house.path().join("copy");
        std::fs::write(&copy, vec![7; 1 << 20]).unwrap();
        std::fs::rename(&copy, &path).unwrap();
        let differs = base_differs(&base).unwrap().unwrap();
        assert!(differs.contains("inode") && !differs.contains("contents"), "{differs}");
        std::fs::write(&path, "short").unwrap();
        assert!(base_differs(&base).unwrap().unwrap().contains("size"));
        std::fs::remove_file(&path).unwrap();
        base_differs(&base).unwrap_err();
    }

    #[test]
    fn what_can_be_no_base_is_refused() {
        let house = tempfile::tempdir().unwrap();
        assert!(matches!(look_at_base(house.path()), Err(StoreError::NotABase(_))));
        assert!(matches!(look_at_base(Path::new("/dev/null")), Err(StoreError::NotABase(_))));
        let empty = house.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        assert!(matches!(look_at_base(&empty), Err(StoreError::EmptyBase(_))));
        assert!(
            look_at_base(&house.path().join("missing")).unwrap_err().to_string().contains("No such file")
        );
    }

    #[test]
    fn another_export_in_its_place_is_noticed() {
        let found = |size, name, byte| FoundBase::remote("nbd://h/x".into(), size, name, [byte; 32]);
        let base = row(found(512, Some("x"), 1));
        for (other, differs) in [
            (found(512, Some("x"), 1), None),
            (found(512, None, 1), None),
            (found(1024, Some("y"), 2), Some("size, name, contents")),
            (found(512, Some("x"), 2), Some("contents")),
        ] {
            assert_eq!(other.differs_from(&base).as_deref(), differs);
        }
        assert!(matches!(base_differs(&base), Err(StoreError::RemoteBase(_))));
        let long = found(1, Some(&"ü".repeat(300)), 0).identity.wwid;
        assert_eq!(long, "ü".repeat(100));
    }

    /// The least of files: samples overlap, and all of it is in them.
    #[test]
    fn each_byte_of_a_small_file_counts() {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("small");
        std::fs::write(&path, "abc").unwrap();
        let first = look_at_base(&path).unwrap().identity.sample;
        std::fs::write(&path, "abd").unwrap();
        assert_ne!(look_at_base(&path).unwrap().identity.sample, first);
    }
}
