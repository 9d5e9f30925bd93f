//! `nbd://HOST/NAME` and `nbd+unix:///NAME?socket=PATH`: disks that stand on another NBD server.

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use percent_encoding::{percent_decode_str, percent_encode};

use super::size::parse_duration;
use super::uri_parts::{ESCAPED, ExportUriError, boolean};

/// An export of another server.
///
/// * `reconnect`: how long requests wait for a lost connection; 30 s by default. After that they fail until
///   there is a connection again
/// * `connections`: at most so many, where the remote allows more than one; one by default
/// * `open-timeout`: how long the start of the server waits for the remote; not at all by default
/// * `readonly`, `description`: as of `file:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteUri {
    /// The address as clients write it, without the parameters above.
    pub address: String,
    /// How long requests wait for a lost connection.
    pub reconnect: Duration,
    /// At most so many.
    pub connections: usize,
    /// How long the start of the server waits for the remote.
    pub open_timeout: Duration,
    /// Writes are refused.
    pub read_only: bool,
    pub description: Option<String>,
}

impl RemoteUri {
    const RECONNECT: Duration = Duration::from_secs(30);
    /// The most connections that a device can be told to have.
    pub(crate) const MOST_CONNECTIONS: usize = 16;

    /// All of the text.
    pub(crate) fn parse(text: &str) -> Result<Self, ExportUriError> {
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        if !place.contains("://") {
            return Err(ExportUriError::NoServer(text.to_owned()));
        }
        let mut uri = Self {
            address: String::new(),
            reconnect: Self::RECONNECT,
            connections: 1,
            open_timeout: Duration::ZERO,
            read_only: false,
            description: None,
        };
        let mut others = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "reconnect" => uri.reconnect = parse_duration(value)?,
                "open-timeout" => uri.open_timeout = parse_duration(value)?,
                "connections" => {
                    let number =
                        value.parse().ok().filter(|most| (1..=Self::MOST_CONNECTIONS).contains(most));
                    uri.connections = number.ok_or_else(|| ExportUriError::Connections(value.to_owned()))?;
                }
                "readonly" => uri.read_only = boolean(name, value)?,
                "description" => {
                    let text = percent_decode_str(value).decode_utf8();
                    let text = text.map_err(|_| ExportUriError::DescriptionNotText)?;
                    uri.description = Some(text.into_owned());
                }
                // What is left is of the address, which says itself what it does not know.
                _ => others.push(pair),
            }
        }
        uri.address = place.to_owned();
        if !others.is_empty() {
            uri.address = format!("{place}?{}", others.join("&"));
        }
        Ok(uri)
    }

    /// Makes a socket with a relative path one in a directory.
    pub(crate) fn make_relative_to(&mut self, directory: &Path) {
        let Some((place, query)) = self.address.split_once('?') else { return };
        let joined = |pair: &str| {
            let path = pair.strip_prefix("socket=").map(|path| percent_decode_str(path).collect::<Vec<u8>>());
            match path {
                // A name of the abstract namespace begins with a zero byte.
                Some(path) if !path.is_empty() && !b"/\0".contains(&path[0]) => {
                    let path = directory.join(OsStr::from_bytes(&path));
                    format!("socket={}", percent_encode(path.as_os_str().as_bytes(), ESCAPED))
                }
                _ => pair.to_owned(),
            }
        };
        let pairs: Vec<_> = query.split('&').map(joined).collect();
        self.address = format!("{place}?{}", pairs.join("&"));
    }
}

/// In the form that is read as the same.
impl Display for RemoteUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parameters = Vec::new();
        let duration = |name: &str, value| {
            format!("{name}={}", humantime::format_duration(value).to_string().replace(' ', ""))
        };
        if self.reconnect != Self::RECONNECT {
            parameters.push(duration("reconnect", self.reconnect));
        }
        if self.connections != 1 {
            parameters.push(format!("connections={}", self.connections));
        }
        if self.open_timeout != Duration::ZERO {
            parameters.push(duration("open-timeout", self.open_timeout));
        }
        if self.read_only {
            parameters.push("readonly=true".to_owned());
        }
        if let Some(description) = &self.description {
            parameters.push(format!("description={}", percent_encode(description.as_bytes(), ESCAPED)));
        }
        f.write_str(&self.address)?;
        if parameters.is_empty() {
            return Ok(());
        }
        let separator = if self.address.contains('?') { '&' } else { '?' };
        write!(f, "{separator}{}", parameters.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_device_are_told_from_those_of_the_address() {
        let text = "nbd+unix:///a%20b?reconnect=1m&socket=/run/x.sock&connections=4&open-timeout=500ms&readonly=yes&description=a%26b";
        let uri = RemoteUri::parse(text).unwrap();
        assert_eq!(uri.address, "nbd+unix:///a%20b?socket=/run/x.sock");
        assert_eq!((uri.reconnect, uri.open_timeout), (Duration::from_secs(60), Duration::from_millis(500)));
        assert_eq!((uri.connections, uri.read_only, uri.description.as_deref()), (4, true, Some("a&b")));
        assert_eq!(RemoteUri::parse(&uri.to_string()), Ok(uri));
        let plain = RemoteUri::parse("nbd://host:1/disk").unwrap();
        assert_eq!((plain.to_string().as_str(), plain.reconnect.as_secs()), ("nbd://host:1/disk", 30));
        let long = RemoteUri::parse("nbd://h/?reconnect=90s&open-timeout=0").unwrap();
        assert_eq!(RemoteUri::parse(&long.to_string()), Ok(long));
    }

    #[test]
    fn a_socket_is_relative_to_the_configuration() {
        for (text, absolute) in [
            ("nbd+unix:///a?socket=b%20c&tls-hostname=d", "nbd+unix:///a?socket=/etc/b%20c&tls-hostname=d"),
            ("nbd+unix:///a?socket=/b", "nbd+unix:///a?socket=/b"),
            ("nbd+unix:///a?socket=%00b", "nbd+unix:///a?socket=%00b"),
            ("nbd://b/a", "nbd://b/a"),
        ] {
            let mut uri = RemoteUri::parse(text).unwrap();
            uri.make_relative_to(Path::new("/etc"));
            assert_eq!(uri.to_string(), absolute);
        }
    }

    #[test]
    fn wrong_ones_are_refused() {
        for text in [
            "nbd:host",
            "nbd://h/?connections=0",
            "nbd://h/?connections=17",
            "nbd://h/?connections=many",
            "nbd://h/?reconnect=long",
            "nbd://h/?readonly=perhaps",
            "nbd://h/?description=%ff",
        ] {
            assert!(RemoteUri::parse(text).is_err(), "{text}");
        }
    }
}
