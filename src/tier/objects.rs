//! What a tier needs of an object store.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::time::Duration;

/// What is asked of an object store, under way.
pub type ObjectFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ObjectError>> + Send + 'a>>;

/// Why an object store did not do what it was asked. After all but the first two a change may have taken
/// place nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("{0} is not there")]
    Missing(String),
    /// It is there already, or was changed by somebody else.
    #[error("{0} was changed meanwhile")]
    Precondition(String),
    #[error("{key}: the object store asks for less: {why}")]
    Throttled { key: String, why: String },
    #[error("{key}: the object store does not answer: {why}")]
    Unreachable { key: String, why: String },
    #[error("{key}: access is denied: {why}; look at the credentials and the rights of the bucket")]
    Denied { key: String, why: String },
    #[error(
        "{key}: the object store refuses a request of another time than its own: {why}; set the clock of this host"
    )]
    Skewed { key: String, why: String },
    #[error("{key}: {why}")]
    Other { key: String, why: String },
}

impl ObjectError {
    /// Whether the same may succeed a little later.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Unreachable { .. })
    }
}

/// What an object store calls one version of an object, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    pub etag: Option<String>,
    pub version: Option<String>,
}

/// An object and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierObject {
    pub bytes: Vec<u8>,
    pub version: ObjectVersion,
}

/// An object without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    pub key: String,
    pub bytes: u64,
}

/// When a small object is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutIf {
    /// If there is none.
    Absent,
    /// If it is still this one.
    Version(ObjectVersion),
}

/// Bytes that are uploaded.
pub trait PackBytes: Send + Sync {
    fn length(&self) -> u64;

    /// # Errors
    /// The file's; there are fewer.
    fn read(&self, at: u64, to: &mut [u8]) -> io::Result<()>;
}

/// A pack that is open. It does not change.
#[derive(Debug)]
pub struct PackUpload {
    file: File,
    length: u64,
}

impl PackUpload {
    /// # Errors
    /// The file's.
    pub fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }
}

impl PackBytes for PackUpload {
    fn length(&self) -> u64 {
        self.length
    }

    fn read(&self, at: u64, to: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(to, at)
    }
}

/// An object store, below a prefix. Keys have no slash in front, and parts of `[A-Za-z0-9._-]`.
///
/// A read sees each change that was answered before it began; a listing may be late.
pub trait Objects: Send + Sync {
    fn get<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, TierObject>;

    /// Exactly these bytes of an object.
    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Vec<u8>>;

    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectMeta>;

    /// Writes a small object as a whole, on a condition.
    fn put<'a>(&'a self, key: &'a str, bytes: Vec<u8>, when: PutIf) -> ObjectFuture<'a, ()>;

    /// Writes an object that never has other bytes, in parts if it is large. It is there as a whole or not.
    /// Each piece is told of as it is taken: `sent` may wait, and ends the upload by its error.
    fn upload<'a>(
        &'a self,
        key: &'a str,
        from: &'a dyn PackBytes,
        sent: &'a dyn Sent,
    ) -> ObjectFuture<'a, ()>;

    /// Removes an object; one that is not there is no error.
    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()>;

    /// All objects below a folder, which ends with a slash, in the order of their keys.
    fn list<'a>(&'a self, folder: &'a str) -> ObjectFuture<'a, Vec<ObjectMeta>>;

    /// The clock goes with the store, so that a simulated one has simulated time.
    fn wait<'a>(&'a self, time: Duration) -> ObjectFuture<'a, ()>;

    /// Seconds since 1970.
    fn now_s(&self) -> u64;
}

/// Who is told of bytes that are uploaded.
pub trait Sent: Send + Sync {
    /// So many bytes of the object are on their way now. The pause is before the next ones.
    ///
    /// # Errors
    /// The upload is to end.
    fn sent(&self, bytes: u64) -> Result<Duration, ObjectError>;
}

/// Nobody is told.
impl Sent for () {
    fn sent(&self, _bytes: u64) -> Result<Duration, ObjectError> {
        Ok(Duration::ZERO)
    }
}
