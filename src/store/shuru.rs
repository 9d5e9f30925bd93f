//! A disk as shuru-store 0.2 keeps it: `chunks/` has the bytes, a file for each chunk, and an index says
//! which chunk is where.
//!
//! ```text
//! index   bytes of the disk, u64 | chunks, u64 | parent, text | flat file, text | a text for each chunk
//! text    its bytes, u32 | the bytes
//! chunk   of 64 KiB, or shorter and zeroes behind it; its name is the BLAKE3 hash of its bytes, 64 digits
//! ```
//!
//! In place of a name `ZERO` stands for what the parent has there, then the flat file, then zeroes. An index
//! that was saved as a checkpoint has neither. One that has is refused: no path is opened because contents
//! that come from elsewhere name it. All numbers are little-endian.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::catalog::LARGEST_IMAGE;
use super::pack::ChunkHash;

const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS: &str = "chunks";
const ZERO: &[u8] = b"ZERO";
const NAME_BYTES: usize = 64;
/// Bytes of a path at most.
const LONGEST_PATH: u32 = 4096;

/// Why a disk of shuru-store is not imported.
#[derive(Debug, thiserror::Error)]
pub enum ShuruError {
    #[error("{}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no index of shuru-store: {what}", .path.display())]
    Index { path: PathBuf, what: &'static str },
    #[error(
        "{} reads on in {below}, which is not opened because a file says so: save a checkpoint with shuru, which has all of \
         it, and import that", .path.display()
    )]
    Below { path: PathBuf, below: String },
    #[error("{} has no directory \"chunks\" beside it or one directory above", .0.display())]
    NoChunks(PathBuf),
    #[error("chunk {at} of the disk: {} is missing: nothing else has its bytes", .path.display())]
    Missing { at: usize, path: PathBuf },
    #[error("chunk {at} of the disk: {} has other bytes than its name says", .path.display())]
    Damaged { at: usize, path: PathBuf },
}

/// A disk that is read from its beginning on.
#[derive(Debug)]
pub struct ShuruDisk {
    chunks: PathBuf,
    size: u64,
    /// None: zeroes.
    names: Vec<Option<ChunkHash>>,
    /// The next byte of the disk.
    at: u64,
    chunk: Vec<u8>,
}

impl ShuruDisk {
    /// Opens the disk of an index.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(index: &Path) -> Result<Self, ShuruError> {
        let (size, names) = read_index(index)?;
        let beside = index.parent().unwrap_or(Path::new(""));
        let above = beside.join("..");
        let places = [beside, above.as_path()].map(|place| place.join(CHUNKS));
        let chunks = places.into_iter().find(|place| place.is_dir());
        let chunks = chunks.ok_or_else(|| ShuruError::NoChunks(index.to_owned()))?;
        Ok(Self { chunks, size, names, at: 0, chunk: Vec::new() })
    }

    /// Bytes of the disk.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Reads a chunk of the disk, and verifies it.
    fn load(&mut self, at: usize) -> Result<(), ShuruError> {
        self.chunk.clear();
        if let Some(name) = self.names[at] {
            let path = self.chunks.join(name.to_string());
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(ShuruError::Missing { at, path });
                }
                Err(source) => return Err(ShuruError::Read { path, source }),
            };
            let read = file.take(CHUNK_BYTES as u64 + 1).read_to_end(&mut self.chunk);
            if let Err(source) = read {
                return Err(ShuruError::Read { path, source });
            }
            if self.chunk.len() > CHUNK_BYTES || *blake3::hash(&self.chunk).as_bytes() != name.0 {
                return Err(ShuruError::Damaged { at, path });
            }
        }
        self.chunk.resize(CHUNK_BYTES, 0);
        Ok(())
    }
}

impl Read for ShuruDisk {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let within = (self.at % CHUNK_BYTES as u64) as usize;
        let length = bytes.len().min(left).min(CHUNK_BYTES - within);
        if length == 0 {
            return Ok(0);
        }
        if within == 0 {
            let at = (self.at / CHUNK_BYTES as u64) as usize;
            self.load(at).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
        bytes[..length].copy_from_slice(&self.chunk[within..within + length]);
        self.at += length as u64;
        Ok(length)
    }
}

/// The size of the disk, and the name of each chunk.
fn read_index(path: &Path) -> Result<(u64, Vec<Option<ChunkHash>>), ShuruError> {
    let failed = |source| ShuruError::Read { path: path.to_owned(), source };
    let wrong = |what| ShuruError::Index { path: path.to_owned(), what };
    let cut = |error: io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => wrong("it is cut"),
        _ => failed(error),
    };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut number = [0; 8];
    file.read_exact(&mut number).map_err(cut)?;
    let size = u64::from_le_bytes(number);
    file.read_exact(&mut number).map_err(cut)?;
    if size == 0 || size > LARGEST_IMAGE {
        return Err(wrong("its disk has an impossible size"));
    }
    let chunks = u64::from_le_bytes(number);
    if chunks != size.div_ceil(CHUNK_BYTES as u64) {
        return Err(wrong("it has not as many chunks as its disk"));
    }
    for _ in ["parent", "flat file"] {
        let below = text(&mut file, LONGEST_PATH).map_err(cut)?.ok_or(wrong("a path in it is too long"))?;
        if !below.is_empty() {
            let below = String::from_utf8_lossy(&below).escape_debug().to_string();
            return Err(ShuruError::Below { path: path.to_owned(), below });
        }
    }
    // They come one after the other, so a file that is cut costs no more memory than it has bytes.
    let mut names = Vec::new();
    for _ in 0..chunks {
        let name = text(&mut file, NAME_BYTES as u32).map_err(cut)?;
        names.push(match name.as_deref() {
            Some(ZERO) => None,
            Some(name) => Some(hash(name).ok_or(wrong("a chunk in it has no name of one"))?),
            None => return Err(wrong("a chunk in it has no name of one")),
        });
    }
    match file.read(&mut [0]).map_err(failed)? {
        0 => Ok((size, names)),
        _ => Err(wrong("something follows its last chunk")),
    }
}

/// Bytes with their length before them; none if there are more than `most`.
fn text(file: &mut impl Read, most: u32) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    file.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > most {
        return Ok(None);
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

fn hash(name: &[u8]) -> Option<ChunkHash> {
    let is_name = name.len() == NAME_BYTES && name.iter().all(|digit| digit.is_ascii_hexdigit());
    let hash = blake3::Hash::from_hex(name).ok().filter(|_| is_name)?;
    Some(ChunkHash(*hash.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An index, written after its description.
    fn index(size: u64, below: [&str; 2], names: &[String]) -> Vec<u8> {
        let mut bytes = size.to_le_bytes().to_vec();
        bytes.extend((names.len() as u64).to_le_bytes());
        for text in below.into_iter().chain(names.iter().map(String::as_str)) {
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    /// A directory with chunks; their names, `ZERO` for those that are none.
    fn chunks(house: &Path, contents: &[Option<Vec<u8>>]) -> Vec<String> {
        std::fs::create_dir_all(house.join("chunks")).unwrap();
        let put = |bytes: &Vec<u8>| {
            let name = blake3::hash(bytes).to_hex().to_string();
            std::fs::write(house.join("chunks").join(&name), bytes).unwrap();
            name
        };
        contents.iter().map(|chunk| chunk.as_ref().map_or("ZERO".to_owned(), put)).collect()
    }

    fn all(index: &Path) -> Result<Vec<u8>, String> {
        let mut disk = ShuruDisk::open(index).map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        disk.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// A7, beside the index and one directory above it. Oracle: the bytes of the disk.
    #[test]
    fn a_disk_is_read_as_it_was_written() {
        let house = tempfile::tempdir().unwrap();
        let size = 3 * CHUNK_BYTES + 1000;
        let full: Vec<u8> = (0..CHUNK_BYTES).map(|at| (at / 7 % 251) as u8).collect();
        let contents = [Some(full.clone()), None, Some(vec![5; 300]), Some(full.clone())];
        let names = chunks(house.path(), &contents);
        let mut expected = full.clone();
        expected.resize(2 * CHUNK_BYTES, 0);
        expected.extend([5; 300]);
        expected.resize(3 * CHUNK_BYTES, 0);
        expected.extend(&full[..1000]);
        for place in ["vm.idx", "indexes/vm.idx"] {
            let path = house.path().join(place);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, index(size as u64, ["", ""], &names)).unwrap();
            assert!(all(&path).unwrap() == expected, "{place}");
        }
        let path = house.path().join("vm.idx");
        let chunk = house.path().join("chunks").join(&names[2]);
        std::fs::write(&chunk, vec![6; 300]).unwrap();
        assert!(all(&path).unwrap_err().contains("chunk 2 of the disk"));
        std::fs::write(&chunk, vec![5; CHUNK_BYTES + 1]).unwrap();
        assert!(all(&path).unwrap_err().contains("other bytes"));
        std::fs::remove_file(&chunk).unwrap();
        assert!(all(&path).unwrap_err().contains("is missing"), "never zeroes");
    }

    #[test]
    fn paths_in_an_index_are_not_followed() {
        let house = tempfile::tempdir().unwrap();
        let names = chunks(house.path(), &[None]);
        let path = house.path().join("vm.idx");
        let digits = "../".repeat(21) + "x";
        for (bytes, why) in [
            (index(512, ["/etc/passwd", ""], &names), "/etc/passwd"),
            (index(512, ["", "/dev/zero"], &names), "/dev/zero"),
            (index(512, ["", ""], &[digits]), "no name of one"),
            (index(512, ["", ""], &["zero".to_owned()]), "no name of one"),
            (index(0, ["", ""], &[]), "impossible size"),
            (index(u64::MAX, ["", ""], &names), "impossible size"),
            (index(1 << 40, ["", ""], &names), "not as many chunks"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let told = all(&path).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
        std::fs::remove_dir(house.path().join("chunks")).unwrap();
        std::fs::write(&path, index(512, ["", ""], &names)).unwrap();
        assert!(all(&path).unwrap_err().contains("no directory \"chunks\""));
    }

    proptest! {
        /// L3: whatever an index has, it is a disk of its size or a sentence.
        #[test]
        fn any_bytes_are_a_disk_or_a_sentence(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            keeps in 0..160usize,
        ) {
            let house = tempfile::tempdir().unwrap();
            let names = chunks(house.path(), &[Some(vec![1; 9]), None]);
            let whole = index(70_000, ["", ""], &names);
            let mut mixed = whole[..keeps.min(whole.len())].to_vec();
            mixed.append(&mut bytes);
            let path = house.path().join("vm.idx");
            std::fs::write(&path, &mixed).unwrap();
            if let Ok(disk) = all(&path) {
                prop_assert_eq!(disk.len() as u64, u64::from_le_bytes(mixed[..8].try_into().unwrap()));
            }
        }
    }
}
