//! Why an export cannot be served.

use std::io;
use std::path::PathBuf;

use crate::client::ClientError;
use crate::client::uri::UriError;
use crate::store::catalog::LayerId;
use crate::store::error::StoreError;
use crate::store::image_path::ImagePathError;
use crate::store::map::LayerMapError;
use crate::store::map_medium::MapFileError;
use crate::sys::{Holder, PATIENCE};

/// Why an export could not be opened: the cause, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such file.
    #[error("{0} does not exist; create it first (truncate -s 10G {0}) or correct the path")]
    Missing(PathBuf),
    /// No such file, and what looks like parameters.
    #[error("there is no file of the name {name}: parameters need file: before the path, as in 'file:{name}'", name = .0.display())]
    Parameters(PathBuf),
    /// No permission.
    #[error(
        "no permission to open {path} for {access}; change its owner or mode, or serve it with --read-only"
    )]
    Permission {
        /// Which file.
        path: PathBuf,
        /// Reading or writing.
        access: &'static str,
    },
    /// A read-only file system or device.
    #[error("{0} can only be read; serve it with --read-only or ?readonly=true")]
    ReadOnly(PathBuf),
    /// Neither file nor block device.
    #[error("{0} is neither a regular file nor a block device")]
    Kind(PathBuf),
    /// The file system has no O_DIRECT.
    #[error("the file system of {0} does not support direct I/O; leave out ?direct=true")]
    NoDirect(PathBuf),
    /// Too many open files.
    #[error("too many open files for {0}; raise the limit (ulimit -n, or LimitNOFILE= in systemd)")]
    OpenFiles(PathBuf),
    /// Somebody put another file into its place.
    #[error("{0} was replaced by another file while it was being opened; start again")]
    Replaced(PathBuf),
    /// Somebody else uses the file.
    #[error(
        "{path} is in use by {}, and still was after {PATIENCE} s; stop that one, or give ?shared=true to both if they may write \
         at the same time, or ?lock=off to serve it all the same",
        name_of(*holder)
    )]
    InUse {
        /// Which file.
        path: PathBuf,
        /// By whom.
        holder: Holder,
    },
    /// No locks, and they were asked for, or their failure says nothing about the file system.
    #[error("{0} cannot be locked against other processes: {1}; ?lock=off serves it all the same")]
    NoLocks(PathBuf, io::Error),
    /// Memory that cannot be had.
    #[error("cannot reserve {0} bytes of memory: {1}; use a smaller mem: export or a file")]
    Memory(u64, io::Error),
    /// An image that cannot be served.
    #[error("the image {0}")]
    Image(&'static str),
    /// A store that cannot be used.
    #[error("{0}")]
    Store(StoreError),
    /// What does not name an image of a store.
    #[error("{0}")]
    ImagePath(ImagePathError),
    /// One image, two exports.
    #[error(
        "the image {0} is served already: each is one export, which many clients can use at the same time"
    )]
    ServedTwice(String),
    /// A layer that cannot be used.
    #[error("the layer {0} cannot be used: {1}")]
    Layer(LayerId, MapFileError),
    /// A map that cannot be made.
    #[error("the image cannot be made: {0}")]
    Map(LayerMapError),
    /// No room for what is thrown away at the end.
    #[error(
        "cannot make a file in {0} for what is written and thrown away: {1}; set TMPDIR to a directory on a file system that has O_TMPFILE"
    )]
    Temporary(PathBuf, io::Error),
    /// An address of another server that is none.
    #[error("{0}: {1}")]
    RemoteAddress(String, UriError),
    /// Another server that cannot be asked, or not for this export.
    #[error("the remote export {0}: {1}")]
    Remote(String, ClientError),
    /// What another server said of its export.
    #[error("the remote export {0} {1}, which this server cannot pass on")]
    RemoteFacts(String, &'static str),
    #[error("the base {0} cannot be asked for: {1}")]
    BaseUri(String, String),
    #[error(
        "{uri} is not the export that it was when the image began with it ({how} differs): serve what it was, or \
         name where that is now with base="
    )]
    RemoteBaseDiffers { uri: String, how: String },
    /// A command that nobody starts here.
    #[error("{0}: only `ringnbd serve` starts commands, when it starts itself; restart it to serve this one")]
    NoLauncher(String),
    /// A command that cannot be started.
    #[error("{0}: {1}")]
    Command(String, String),
    /// A device of the application that cannot be served.
    #[error("the device of the application {0}")]
    Device(&'static str),
    /// Anything else.
    #[error("cannot open {0}: {1}")]
    Other(PathBuf, io::Error),
}

fn name_of(holder: Holder) -> String {
    match holder {
        Holder::Description => "another process".to_owned(),
        Holder::Process(id) => format!("process {id}"),
    }
}
