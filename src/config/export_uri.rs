//! Where an export's bytes live: `PATH`, `file:`, `store:`, `overlay:`, `mem:`, `null:`, `nbd:`, `exec:`,
//! `fault:`.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{percent_decode_str, percent_encode};

use super::command_uri::CommandUri;
use super::fault_options::FaultOptions;
use super::image_uri::{BasePlace, ImagePlace, ImageUri};
use super::remote_uri::RemoteUri;
use super::size::Size;
pub(crate) use super::uri_parts::ExportUriError;
use super::uri_parts::{ESCAPED, boolean, escaped_path, export_size, path_from};

/// Where an export's bytes live.
///
/// * `PATH`: a file or block device, taken as it stands (no parameters, no `%` escapes)
/// * `file:PATH?direct=true&description=TEXT`: the same with parameters, `%XX` decoded; the others are
///   `mapped`, `readonly`, `lock`, `shared` and `rotational`
/// * `store:STORE/NAME`, `overlay:DIRECTORY?base=PATH` and `overlay:temp?base=PATH`: see [`ImageUri`]
/// * `mem:SIZE`: sparse memory, lost at exit
/// * `null:SIZE`: reads zeroes, forgets writes
/// * `nbd://HOST/NAME`, `nbd+unix:///NAME?socket=PATH`: an export of another server, see [`RemoteUri`]
/// * `exec:COMMAND`: what a program serves on its standard input, see [`CommandUri`]
/// * `fault:OPTIONS:URI`: any of these made late or faulty, see [`FaultOptions`]
///
/// A path with a colon before its first slash needs `./` or `file:` in front, since it would be taken for a
/// kind.
#[derive(Debug, Clone, PartialEq)]
pub enum ExportUri {
    /// A file or block device.
    File {
        path: PathBuf,
        /// O_DIRECT, without the page cache.
        direct: bool,
        /// What is in the page cache may be sent from there, without a copy.
        mapped: bool,
        /// Writes are refused.
        read_only: bool,
        /// Whether others are kept out.
        locking: Locking,
        /// Others may write too, if they say the same.
        shared: bool,
        /// What to tell clients; `None` asks the device.
        rotational: Option<bool>,
        description: Option<String>,
    },
    /// Sparse memory.
    Memory {
        /// Bytes.
        size: u64,
    },
    /// No storage: reads zeroes, forgets writes.
    Null {
        /// Bytes.
        size: u64,
    },
    /// Layers of what was written, and a base that is never written.
    Image(Box<ImageUri>),
    /// An export of another server.
    Remote(Box<RemoteUri>),
    /// What a program serves on its standard input.
    Command(Box<CommandUri>),
    /// A device of the application around the server, by its number there. It has no text that could be read.
    Application {
        /// Which.
        number: usize,
    },
    /// Another one with faults in front.
    Fault { options: Box<FaultOptions>, inner: Box<ExportUri> },
}

/// Whether a file is locked against others that lock it as QEMU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locking {
    /// Where the file system can; elsewhere a warning.
    #[default]
    Auto,
    /// Or it is not served.
    On,
    Off,
}

/// The most `fault:` in front of each other.
const MAXIMUM_DEPTH: usize = 8;

impl FromStr for ExportUri {
    type Err = ExportUriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, 0)
    }
}

impl ExportUri {
    /// A file as it stands, buffered and writable.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File {
            path: path.into(),
            direct: false,
            mapped: true,
            read_only: false,
            locking: Locking::Auto,
            shared: false,
            rotational: None,
            description: None,
        }
    }

    /// Makes a relative path one that begins in a directory.
    pub(super) fn make_relative_to(&mut self, directory: &Path) {
        match self {
            Self::File { path, .. } => *path = directory.join(&*path),
            Self::Fault { inner, .. } => inner.make_relative_to(directory),
            Self::Image(image) => image.make_relative_to(directory),
            Self::Remote(remote) => remote.make_relative_to(directory),
            Self::Command(command) => command.make_relative_to(directory),
            Self::Memory { .. } | Self::Null { .. } | Self::Application { .. } => {}
        }
    }

    /// Files and block devices that its bytes live in, at most; each takes descriptors.
    pub(crate) fn files(&self) -> usize {
        match self {
            Self::File { .. } => 1,
            // A head, eight layers below it, one more that takes the place of two, maps, a base.
            Self::Image(image) => {
                15 + match &image.base {
                    Some(BasePlace::Remote(remote)) => remote.connections,
                    _ => 0,
                }
            }
            Self::Fault { inner, .. } => inner.files(),
            // Each connection takes a place of a ring.
            Self::Remote(remote) => remote.connections,
            // Its connection, and the channel by which it is started again.
            Self::Command(_) => 2,
            Self::Memory { .. } | Self::Null { .. } | Self::Application { .. } => 0,
        }
    }

    /// Whether it stands on another server, so that this one connects to something.
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Remote(_) => true,
            Self::Image(image) => image.is_on_remote(),
            Self::Fault { inner, .. } => inner.is_remote(),
            _ => false,
        }
    }

    /// Whether another server that is started later with the same URI has other bytes.
    pub fn is_volatile(&self) -> bool {
        match self {
            Self::Memory { .. } | Self::Null { .. } | Self::Application { .. } => true,
            Self::Image(image) => image.place == ImagePlace::Temporary,
            Self::Fault { inner, .. } => inner.is_volatile(),
            Self::File { .. } | Self::Remote(_) | Self::Command(_) => false,
        }
    }

    /// The command that serves it, if one does.
    pub fn command(&self) -> Option<&CommandUri> {
        match self {
            Self::Command(command) => Some(command),
            Self::Fault { inner, .. } => inner.command(),
            _ => None,
        }
    }

    /// The text for people that the URI carries.
    pub fn description(&self) -> Option<&str> {
        match self {
            Self::File { description, .. } => description.as_deref(),
            Self::Fault { inner, .. } => inner.description(),
            Self::Image(image) => image.description.as_deref(),
            Self::Remote(remote) => remote.description.as_deref(),
            Self::Command(command) => command.description.as_deref(),
            Self::Memory { .. } | Self::Null { .. } | Self::Application { .. } => None,
        }
    }
}

fn parse(text: &str, depth: usize) -> Result<ExportUri, ExportUriError> {
    if text.is_empty() {
        return Err(ExportUriError::Empty);
    }
    let Some((kind, rest)) = split_kind(text) else {
        return path_from(text.as_bytes().to_vec()).map(ExportUri::file);
    };
    match kind {
        "file" => parse_file(rest),
        "overlay" => Ok(ExportUri::Image(Box::new(ImageUri::parse_overlay(rest)?))),
        "nbd" | "nbd+unix" => Ok(ExportUri::Remote(Box::new(RemoteUri::parse(text)?))),
        "exec" => Ok(ExportUri::Command(Box::new(CommandUri::parse(rest)?))),
        "store" => Ok(ExportUri::Image(Box::new(ImageUri::parse_store(rest)?))),
        "mem" => Ok(ExportUri::Memory { size: export_size(rest)? }),
        "null" => Ok(ExportUri::Null { size: export_size(rest)? }),
        "fault" if depth == MAXIMUM_DEPTH => Err(ExportUriError::TooDeep),
        "fault" => {
            let (options, inner) =
                rest.split_once(':').ok_or_else(|| ExportUriError::NoInner(text.to_owned()))?;
            Ok(ExportUri::Fault {
                options: Box::new(options.parse()?),
                inner: Box::new(parse(inner, depth + 1)?),
            })
        }
        _ => Err(ExportUriError::UnknownKind { kind: kind.to_owned(), text: text.to_owned() }),
    }
}

/// What stands before the first colon, if it can be a kind rather than the beginning of a path.
fn split_kind(text: &str) -> Option<(&str, &str)> {
    let (kind, rest) = text.split_once(':')?;
    (!kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-_".contains(&byte)))
        .then_some((kind, rest))
}

fn parse_file(text: &str) -> Result<ExportUri, ExportUriError> {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let path = match path.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => return Err(ExportUriError::Host(format!("file:{path}"))),
        None => path,
    };
    let (mut direct, mut mapped, mut read_only) = (false, true, false);
    let (mut locking, mut shared) = (Locking::Auto, false);
    let (mut rotational, mut description) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "direct" => direct = boolean(name, value)?,
            "mapped" => mapped = boolean(name, value)?,
            "readonly" => read_only = boolean(name, value)?,
            "lock" if value == "auto" => locking = Locking::Auto,
            "lock" => locking = if boolean(name, value)? { Locking::On } else { Locking::Off },
            "shared" => shared = boolean(name, value)?,
            "rotational" => rotational = Some(boolean(name, value)?),
            "description" => {
                let text = percent_decode_str(value)
                    .decode_utf8()
                    .map_err(|_| ExportUriError::DescriptionNotText)?;
                description = Some(text.into_owned());
            }
            _ => return Err(ExportUriError::UnknownParameter(pair.to_owned())),
        }
    }
    let path = path_from(percent_decode_str(path).collect())?;
    Ok(ExportUri::File { path, direct, mapped, read_only, locking, shared, rotational, description })
}

/// In the form that [`FromStr`] reads as the same.
impl Display for ExportUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, direct, mapped, read_only, locking, shared, rotational, description } => {
                write!(f, "file:{}", escaped_path(path))?;
                let mut parameters = Vec::new();
                if *direct {
                    parameters.push("direct=true".to_owned());
                }
                if !*mapped {
                    parameters.push("mapped=false".to_owned());
                }
                if *read_only {
                    parameters.push("readonly=true".to_owned());
                }
                match locking {
                    Locking::Auto => {}
                    Locking::On => parameters.push("lock=on".to_owned()),
                    Locking::Off => parameters.push("lock=off".to_owned()),
                }
                if *shared {
                    parameters.push("shared=true".to_owned());
                }
                if let Some(rotational) = rotational {
                    parameters.push(format!("rotational={rotational}"));
                }
                if let Some(description) = description {
                    parameters
                        .push(format!("description={}", percent_encode(description.as_bytes(), ESCAPED)));
                }
                if !parameters.is_empty() {
                    write!(f, "?{}", parameters.join("&"))?;
                }
                Ok(())
            }
            Self::Image(image) => write!(f, "{image}"),
            Self::Remote(remote) => write!(f, "{remote}"),
            Self::Command(command) => write!(f, "{command}"),
            Self::Memory { size } => write!(f, "mem:{}", Size(*size)),
            Self::Null { size } => write!(f, "null:{}", Size(*size)),
            Self::Application { .. } => f.write_str("application"),
            Self::Fault { options, inner } => write!(f, "fault:{options}:{inner}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> ExportUri {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_plain_path_is_taken_as_it_stands() {
        for text in ["disk.img", "/a/b", "./a:b", "/x/a=b?c%20d", "a/b:c", ".:x"] {
            assert_eq!(read(text), ExportUri::file(text), "{text}");
        }
    }

    #[test]
    fn file_uris_have_parameters() {
        let all = read(
            "file:/a%20b%3f?direct=true&mapped=no&readonly=on&lock=off&shared=yes&rotational=false&description=The%20disk%26more",
        );
        assert_eq!(
            all,
            ExportUri::File {
                path: "/a b?".into(),
                direct: true,
                mapped: false,
                read_only: true,
                locking: Locking::Off,
                shared: true,
                rotational: Some(false),
                description: Some("The disk&more".to_owned()),
            }
        );
        assert_eq!(read("file:///a"), ExportUri::file("/a"));
        assert_eq!(read("file:a=b:c"), ExportUri::file("a=b:c"));
    }

    #[test]
    fn sizes_and_faults() {
        assert_eq!(read("mem:1G"), ExportUri::Memory { size: 1 << 30 });
        assert_eq!(read("null:1"), ExportUri::Null { size: 1 });
        let ExportUri::Fault { options, inner } =
            read("fault:seed=3,delay.read=1s:fault::file:/x?description=d")
        else {
            panic!("not a fault");
        };
        assert_eq!(options.seed, 3);
        assert_eq!(inner.description(), Some("d"));
    }

    #[test]
    fn wrong_uris_are_refused() {
        for text in [
            "",
            "file:",
            "mem:",
            "mem:x",
            "mem:8E",
            "mem:0",
            "null:0K",
            "qcow2:a",
            "file:a?b=c",
            "file:a?direct=maybe",
            "file:a?lock=maybe",
            "file:a?direct",
            "file://h/x",
            "file:a%00b",
            "a\0b",
            "fault:mem:",
            "fault:delay=1s",
            "fault:delay=1s:",
            "mem:1G?readonly=true",
            "file:a?description=%ff",
            "fault::fault::fault::fault::fault::fault::fault::fault::fault::mem:1",
        ] {
            assert!(text.parse::<ExportUri>().is_err(), "{text}");
        }
    }

    fn any_locking() -> impl Strategy<Value = Locking> {
        prop_oneof![Just(Locking::Auto), Just(Locking::On), Just(Locking::Off)]
    }

    fn any_uri() -> impl Strategy<Value = ExportUri> {
        let path = proptest::collection::vec(1u8.., 1..40)
            .prop_map(|bytes| PathBuf::from(OsString::from_vec(bytes)));
        let file =
            (path, any::<[bool; 4]>(), any_locking(), any::<Option<bool>>(), proptest::option::of(".{0,20}"))
                .prop_map(|(path, [direct, mapped, read_only, shared], locking, rotational, description)| {
                    ExportUri::File {
                        path,
                        direct,
                        mapped,
                        read_only,
                        locking,
                        shared,
                        rotational,
                        description,
                    }
                });
        let sized = (1..=i64::MAX as u64, any::<bool>()).prop_map(|(size, null)| {
            if null { ExportUri::Null { size } } else { ExportUri::Memory { size } }
        });
        let leaf = prop_oneof![file, sized];
        (leaf, 0usize..3).prop_map(|(leaf, depth)| {
            (0..depth).fold(leaf, |inner, seed| {
                let options = FaultOptions { seed: seed as u64, ..FaultOptions::default() };
                ExportUri::Fault { options: Box::new(options), inner: Box::new(inner) }
            })
        })
    }

    proptest! {
        #[test]
        fn a_shown_uri_reads_as_itself(uri in any_uri()) {
            prop_assert_eq!(uri.to_string().parse::<ExportUri>(), Ok(uri));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = text.parse::<ExportUri>();
        }
    }
}
