//! `store:` and `overlay:`: disks that are images.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{percent_decode_str, percent_encode};

use super::remote_uri::RemoteUri;
use super::size::{Size, parse_duration};
use super::uri_parts::{ESCAPED, ExportUriError, boolean, escaped_path, export_size, path_from};

/// An image: `store:STORE/NAME`, `store:STORE/NAME@SNAPSHOT`, `overlay:DIRECTORY?base=PATH` or
/// `overlay:temp?base=PATH`, where the base may also be an export of another server.
///
/// * `base` (of an overlay): a file, a block device or an export of another server (`nbd:`, with `%26` for
///   its `&`), which is read where nothing was written, and is never written itself
/// * `size` (of an overlay): bytes of the disk; by default those of the base
/// * `ingest`, `ingest-rate` (of a store as a whole): layers come into packs when they have been sealed for
///   that long, so many bytes a second. Without `ingest` or with `ingest=off` only when that is asked for
/// * `push`, `push-rate` (of a store as a whole): snapshots that are in packs come to the store's tier when
///   they are that old, so many bytes a second. Without `push` or with `push=off` only when that is asked for
/// * `direct`, `mapped`, `readonly`, `description`: as of `file:`
/// * `verify`: `first` verifies a chunk of packs as a whole once, and then the pages that are read of it;
///   `always` verifies all of it whenever it comes into memory
///
/// An overlay is a store with one image, which is made when it is not there yet. `temp` in place of its
/// directory: what is written is thrown away at the end. A directory of that name is `./temp`.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageUri {
    pub place: ImagePlace,
    /// What is read where nothing was written; `None` reads zeroes.
    pub base: Option<BasePlace>,
    /// Bytes of the disk; `None`: those of the base, or of an overlay that is there already.
    pub size: Option<u64>,
    /// O_DIRECT, without the page cache.
    pub direct: bool,
    /// What is in the page cache may be sent from there, without a copy.
    pub mapped: bool,
    /// How much of a chunk of packs is verified for a read.
    pub verify: VerifyChunks,
    /// Writes are refused.
    pub read_only: bool,
    /// Layers come into packs when they have been sealed for that long; `None`: when it is asked for.
    pub ingest: Option<Duration>,
    /// Bytes a second of that.
    pub ingest_rate: u64,
    /// Snapshots come to the store's tier when they are that old; `None`: when it is asked for.
    pub push: Option<Duration>,
    /// Bytes a second of that.
    pub push_rate: u64,
    pub description: Option<String>,
}

/// Where the base of an overlay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BasePlace {
    /// A file or block device.
    File(PathBuf),
    /// An export of another server.
    Remote(Box<RemoteUri>),
}

/// How much of a chunk of packs is verified for a read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VerifyChunks {
    /// All of it for the first read, then what is read, by its checksums.
    #[default]
    First,
    /// All of it, whenever it comes into memory.
    Always,
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImagePlace {
    /// An image or a snapshot of a store: the store's directory, and behind it the name.
    Store(PathBuf),
    /// A directory of its own.
    Overlay(PathBuf),
    /// What is written is thrown away at the end.
    Temporary,
}

/// Stands for a directory that is thrown away.
const TEMPORARY: &str = "temp";
/// How fast layers come into packs, if nothing is said.
const INGEST_RATE: u64 = 64 << 20;
/// How fast snapshots come to a tier, if nothing is said.
const PUSH_RATE: u64 = 64 << 20;
const OFF: &str = "off";

impl ImageUri {
    /// What stands behind `store:`.
    pub(super) fn parse_store(text: &str) -> Result<Self, ExportUriError> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        if path.is_empty() {
            return Err(ExportUriError::NoImage);
        }
        let image = Self::at(ImagePlace::Store(path_from(percent_decode_str(path).collect())?), query)?;
        match image.base.is_some() || image.size.is_some() {
            true => Err(ExportUriError::UnknownImageParameter(query.to_owned())),
            false => Ok(image),
        }
    }

    /// What stands behind `overlay:`.
    pub(super) fn parse_overlay(text: &str) -> Result<Self, ExportUriError> {
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let place = match place {
            "" => return Err(ExportUriError::NoDirectory),
            TEMPORARY => ImagePlace::Temporary,
            path => ImagePlace::Overlay(path_from(percent_decode_str(path).collect())?),
        };
        let overlay = Self::at(place, query)?;
        let has_nothing = overlay.base.is_none() && overlay.size.is_none();
        // What only one image has is not worth being cut into chunks, and a tier has chunks.
        if query.split('&').any(|pair| pair.starts_with("ingest") || pair.starts_with("push")) {
            return Err(ExportUriError::UnknownImageParameter(query.to_owned()));
        }
        match overlay.place == ImagePlace::Temporary && has_nothing {
            true => Err(ExportUriError::NothingBelow),
            false => Ok(overlay),
        }
    }

    fn at(place: ImagePlace, query: &str) -> Result<Self, ExportUriError> {
        let mut overlay = Self {
            place,
            base: None,
            size: None,
            direct: false,
            mapped: true,
            verify: VerifyChunks::First,
            read_only: false,
            ingest: None,
            ingest_rate: INGEST_RATE,
            push: None,
            push_rate: PUSH_RATE,
            description: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let unknown = || ExportUriError::UnknownImageParameter(pair.to_owned());
            match name {
                "base" => overlay.base = Some(base(value)?),
                "size" => overlay.size = Some(export_size(value)?),
                "direct" => overlay.direct = boolean(name, value)?,
                "mapped" => overlay.mapped = boolean(name, value)?,
                "verify" => overlay.verify = verification(value).ok_or_else(unknown)?,
                "readonly" => overlay.read_only = boolean(name, value)?,
                "ingest" => overlay.ingest = time_or_off(value)?,
                "ingest-rate" => overlay.ingest_rate = export_size(value)?,
                "push" => overlay.push = time_or_off(value)?,
                "push-rate" => overlay.push_rate = export_size(value)?,
                "description" => {
                    let text = percent_decode_str(value).decode_utf8();
                    overlay.description =
                        Some(text.map_err(|_| ExportUriError::DescriptionNotText)?.into_owned());
                }
                _ => return Err(unknown()),
            }
        }
        Ok(overlay)
    }

    /// Makes relative paths ones that begin in a directory.
    pub(super) fn make_relative_to(&mut self, directory: &Path) {
        let place = match &mut self.place {
            ImagePlace::Store(path) | ImagePlace::Overlay(path) => Some(path),
            ImagePlace::Temporary => None,
        };
        let base = match &mut self.base {
            Some(BasePlace::File(path)) => Some(path),
            Some(BasePlace::Remote(remote)) => {
                remote.make_relative_to(directory);
                None
            }
            None => None,
        };
        for path in place.into_iter().chain(base) {
            *path = directory.join(&*path);
        }
    }

    /// Whether it begins with an export of another server.
    pub(super) fn is_on_remote(&self) -> bool {
        matches!(self.base, Some(BasePlace::Remote(_)))
    }
}

fn verification(text: &str) -> Option<VerifyChunks> {
    match text {
        "first" => Some(VerifyChunks::First),
        "always" => Some(VerifyChunks::Always),
        _ => None,
    }
}

fn time_or_off(text: &str) -> Result<Option<Duration>, ExportUriError> {
    let text = percent_decode_str(text).decode_utf8_lossy();
    if text == OFF { Ok(None) } else { Ok(Some(parse_duration(&text)?)) }
}

/// A base is a path, with or without `file:` in front, or an export of another server.
fn base(text: &str) -> Result<BasePlace, ExportUriError> {
    if ["nbd://", "nbd+unix://"].iter().any(|scheme| text.starts_with(scheme)) {
        let text = percent_decode_str(text).decode_utf8().map_err(|_| ExportUriError::DescriptionNotText)?;
        return Ok(BasePlace::Remote(Box::new(RemoteUri::parse(&text)?)));
    }
    let path = path_from(percent_decode_str(text.strip_prefix("file:").unwrap_or(text)).collect())?;
    Ok(BasePlace::File(path))
}

impl Display for ImageUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            ImagePlace::Temporary => write!(f, "overlay:{TEMPORARY}")?,
            ImagePlace::Overlay(path) if path.as_os_str() == TEMPORARY => write!(f, "overlay:./{TEMPORARY}")?,
            ImagePlace::Overlay(path) => write!(f, "overlay:{}", escaped_path(path))?,
            ImagePlace::Store(path) => write!(f, "store:{}", escaped_path(path))?,
        }
        let mut parameters = Vec::new();
        match &self.base {
            Some(BasePlace::File(path)) => {
                let path = escaped_path(path);
                // One that begins so would be taken for something else.
                let is_plain =
                    ["file:", "nbd://", "nbd+unix://"].iter().all(|start| !path.starts_with(start));
                parameters.push(format!("base={}{path}", if is_plain { "" } else { "file:" }));
            }
            Some(BasePlace::Remote(remote)) => {
                let text = remote.to_string();
                parameters.push(format!("base={}", percent_encode(text.as_bytes(), ESCAPED)));
            }
            None => {}
        }
        if let Some(size) = self.size {
            parameters.push(format!("size={}", Size(size)));
        }
        let verifies_always = self.verify == VerifyChunks::Always;
        for (name, is_set) in [
            ("direct=true", self.direct),
            ("mapped=false", !self.mapped),
            ("verify=always", verifies_always),
            ("readonly=true", self.read_only),
        ] {
            if is_set {
                parameters.push(name.to_owned());
            }
        }
        for (name, time, rate, usual_rate) in [
            ("ingest", self.ingest, self.ingest_rate, INGEST_RATE),
            ("push", self.push, self.push_rate, PUSH_RATE),
        ] {
            if let Some(time) = time {
                let time = humantime::format_duration(time).to_string().replace(' ', "");
                parameters.push(format!("{name}={time}"));
            }
            if rate != usual_rate {
                parameters.push(format!("{name}-rate={}", Size(rate)));
            }
        }
        if let Some(description) = &self.description {
            parameters.push(format!("description={}", percent_encode(description.as_bytes(), ESCAPED)));
        }
        match parameters.is_empty() {
            true => Ok(()),
            false => write!(f, "?{}", parameters.join("&")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ExportUri;

    fn read(text: &str) -> ImageUri {
        match text.parse() {
            Ok(ExportUri::Image(image)) => *image,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn overlays_are_read_and_written_back() {
        for text in [
            "overlay:temp?base=golden.raw",
            "overlay:./temp?base=golden.raw",
            "overlay:/var/vm%201.d?base=/a%26b&size=20G&direct=true&readonly=true&description=my%20disk",
            "overlay:temp?size=1M&mapped=false",
            "overlay:/var/vm1.d",
            "overlay:/var/vm1.d?base=nbd://host/a",
            "overlay:/var/vm1.d?base=file:file:x",
            "overlay:temp?base=file:nbd://x",
            "overlay:temp?base=nbd://host/a%2520b%3Freconnect=5s%26connections=4&size=1G",
            "store:/srv/store/vm1",
            "store:vm1@monday?direct=true",
            "store:/srv/store?verify=always&readonly=true",
            "store:/srv/store?ingest=1m30s&ingest-rate=10M",
            "store:/srv/store?ingest=1h&push=1h&push-rate=10M",
            "store:/srv/store?push=0s",
        ] {
            let overlay = read(text);
            assert_eq!(ExportUri::Image(Box::new(overlay)).to_string(), text);
        }
        let mut relative = read("overlay:temp?base=nbd+unix:///a?socket=b");
        relative.make_relative_to(Path::new("/etc"));
        assert_eq!(relative, read("overlay:temp?base=nbd+unix:///a%3Fsocket=/etc/b"));
        assert_eq!(read("store:a?ingest=off&push=off"), read("store:a"));
        assert_eq!(read("overlay:temp?base=file:a").base.unwrap(), BasePlace::File("a".into()));
        assert_eq!(read("store:a/b?verify=first").verify, VerifyChunks::First);
        assert_eq!(read("overlay:temp?base=a&size=1M").size, Some(1 << 20));
        assert_eq!(read("overlay:temp?base=a").place, ImagePlace::Temporary);
    }

    #[test]
    fn wrong_overlays_are_refused() {
        for text in [
            "overlay:",
            "overlay:temp",
            "overlay:x?base=",
            "overlay:x?base=a&cow=yes",
            "overlay:temp?base=nbd://host/a%3Fconnections=0",
            "overlay:temp?size=0",
            "store:",
            "store:a/b?size=1G",
            "store:a/b?base=c",
            "store:a/b?verify=never",
            "store:a/b?verify",
            "store:a?ingest=soon",
            "store:a?ingest-rate=0",
            "store:a?push=soon",
            "store:a?push-rate=0",
            "overlay:x?size=1M&push=1h",
            "overlay:x?size=1M&ingest=1h",
        ] {
            assert!(text.parse::<ExportUri>().is_err(), "{text}");
        }
    }
}
