//! What the texts of exports have in common: paths, sizes, truth values, and what can be wrong with them.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::fault_options::FaultOptionsError;
use super::size::{QuantityError, parse_size};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportUriError {
    #[error("an export needs a path, or file:PATH, mem:SIZE or null:SIZE")]
    Empty,
    #[error(
        "there is no kind of export called \"{kind}:\": use file:, store:, overlay:, mem:, null:, nbd:, exec: or fault:, \
         or ./{text} for a file whose name has a colon"
    )]
    UnknownKind {
        /// Before the colon.
        kind: String,
        /// All of it.
        text: String,
    },
    #[error(transparent)]
    Size(#[from] QuantityError),
    #[error("\"{0}\" is too large: an export is less than 8E")]
    TooLarge(String),
    #[error("an export of 0 bytes holds nothing: give it a size, such as 1G")]
    NoBytes,
    #[error(
        "\"{0}\" is not a parameter of file: use direct=, mapped=, readonly=, lock=, shared=, rotational= or description="
    )]
    UnknownParameter(String),
    #[error("parameter {name}: \"{value}\" is neither true nor false")]
    NotABoolean { name: String, value: String },
    #[error(
        "\"{0}\" is not a parameter of images: use direct=, mapped=, verify=first or verify=always, readonly= or description=, base= or size= of overlays, and ingest=, ingest-rate=, push= or push-rate= of stores"
    )]
    UnknownImageParameter(String),
    #[error("name the directory of the store and an image in it, as in store:/srv/store/vm1")]
    NoImage,
    #[error("an overlay needs a directory for what is written, or temp: write overlay:DIRECTORY?base=PATH")]
    NoDirectory,
    #[error(
        "an overlay that is thrown away needs something below it, or a size: write overlay:temp?base=PATH"
    )]
    NothingBelow,
    #[error("\"{0}\" names no server: write nbd://HOST/NAME or nbd+unix:///NAME?socket=PATH")]
    NoServer(String),
    #[error("connections: \"{0}\" is not a number from 1 to 16")]
    Connections(String),
    #[error("exec: needs a program that serves on its standard input, as in exec:nbdkit -s memory 1G")]
    NoCommand,
    #[error("a word of the command contains a zero byte (%00)")]
    NulInCommand,
    #[error("the command is longer than 4000 bytes: put it into a script")]
    LongCommand,
    #[error("the name of the command's export is at most 4096 bytes of UTF-8 without a zero byte")]
    ExportOfCommand,
    #[error("user: \"{0}\" names no user: write NAME or NAME:GROUP")]
    UserOfCommand(String),
    #[error(
        "\"{0}\" is not a parameter of exec: use export=, user=, reconnect=, open-timeout=, readonly= or description=; \
         a question mark in the command is %3f"
    )]
    UnknownCommandParameter(String),
    #[error("the description is not UTF-8 text")]
    DescriptionNotText,
    #[error("\"{0}\" names a host: a file is on this machine, write file:/PATH or file:///PATH")]
    Host(String),
    #[error("the path contains a zero byte (%00)")]
    NulInPath,
    #[error(
        "\"{0}\" has no export behind its faults: write fault:OPTIONS:URI, such as fault:delay=5ms:mem:1G"
    )]
    NoInner(String),
    #[error("faults are nested too deeply: at most 8")]
    TooDeep,
    #[error(transparent)]
    Fault(#[from] FaultOptionsError),
}

/// A size that `off_t`, and with it every system call, can express.
pub(super) fn export_size(text: &str) -> Result<u64, ExportUriError> {
    match parse_size(text)? {
        0 => Err(ExportUriError::NoBytes),
        size if size <= i64::MAX as u64 => Ok(size),
        _ => Err(ExportUriError::TooLarge(text.to_owned())),
    }
}

pub(super) fn path_from(bytes: Vec<u8>) -> Result<PathBuf, ExportUriError> {
    match bytes.as_slice() {
        [] => Err(ExportUriError::Empty),
        bytes if bytes.contains(&0) => Err(ExportUriError::NulInPath),
        _ => Ok(PathBuf::from(OsString::from_vec(bytes))),
    }
}

pub(super) fn boolean(name: &str, value: &str) -> Result<bool, ExportUriError> {
    match value {
        "true" | "on" | "1" | "yes" => Ok(true),
        "false" | "off" | "0" | "no" => Ok(false),
        _ => Err(ExportUriError::NotABoolean { name: name.to_owned(), value: value.to_owned() }),
    }
}

/// What a path or a description cannot contain as it stands.
pub(super) const ESCAPED: &AsciiSet =
    &CONTROLS.add(b'%').add(b'?').add(b'&').add(b'#').add(b' ').add(b'"').add(b'<').add(b'>').add(b'`');

/// The path with its specials escaped, also a second slash at its start, which would read as a host.
pub fn escaped_path(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let escaped = percent_encode(bytes, ESCAPED).to_string();
    if bytes.starts_with(b"//") { format!("//{escaped}") } else { escaped }
}
