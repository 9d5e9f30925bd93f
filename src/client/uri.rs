//! NBD URIs: where a server is and which of its exports is meant.
//!
//! Source: `doc/uri.md` of the NBD project, "NBD URI components". `nbd://HOST[:PORT]/NAME` and
//! `nbd+unix:///NAME?socket=PATH`; a socket that begins with `%00` is in the abstract namespace. With `nbds`
//! in the place of `nbd` the connection is encrypted; how is said by parameters, which have libnbd's names.

mod error;
mod tls;

use std::ffi::OsString;
use std::fmt;
use std::net::Ipv6Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use error::MAX_SOCKET_PATH;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

use crate::nbd::wire::{NBD_DEFAULT_PORT, NBD_MAX_STRING};
pub use error::UriError;
pub use tls::TlsParameters;

/// What RFC 3986 leaves unencoded in every component ("Unreserved Characters").
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// An export name and a socket path keep their slashes readable.
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// An NBD URI, parsed. `Display` gives a URI that parses to the same value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdUri {
    /// Where the server listens.
    pub address: ServerAddress,
    /// The export's name; `""` is the default export.
    pub export: String,
    /// How the connection is encrypted; `None`: not at all.
    pub tls: Option<TlsParameters>,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// A TCP port.
    Tcp {
        /// A name or an address; an IPv6 address stands without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket in the file system.
    Unix(PathBuf),
    /// A unix socket in the abstract namespace, its name without the leading NUL.
    Abstract(Vec<u8>),
}

impl FromStr for NbdUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| UriError::Scheme(text.into()))?;
        let (is_unix, is_secure) = match scheme.to_ascii_lowercase().as_str() {
            "nbd" => (false, false),
            "nbd+unix" => (true, false),
            "nbds" => (false, true),
            "nbds+unix" => (true, true),
            _ => return Err(UriError::Scheme(text.into())),
        };
        if rest.contains('#') {
            return Err(UriError::Fragment);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // Only the first slash separates: `nbd://host//disk` names the export "/disk".
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let export = export_name(path)?;
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => (Some(user_name(user)?), authority),
            None => (None, authority),
        };
        let (socket, tls) = parameters(query, is_unix, is_secure, user)?;
        let address = match (is_unix, socket) {
            (false, _) => tcp_address(authority)?,
            (true, _) if !authority.is_empty() => return Err(UriError::UnixHost(authority.into())),
            (true, None) => return Err(UriError::NoSocket),
            (true, Some(socket)) => unix_address(socket)?,
        };
        Ok(Self { address, export, tls })
    }
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let export = percent_encode(self.export.as_bytes(), RESERVED_IN_PATH);
        let socket = |bytes| percent_encode(bytes, RESERVED_IN_PATH);
        let scheme = if self.tls.is_some() { "nbds" } else { "nbd" };
        let user = self.tls.as_ref().and_then(|tls| tls.username.as_deref());
        let user =
            user.map_or(String::new(), |user| format!("{}@", percent_encode(user.as_bytes(), RESERVED)));
        match &self.address {
            ServerAddress::Tcp { host, port } => {
                write!(f, "{scheme}://{user}")?;
                write_host(f, host)?;
                if *port != NBD_DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{export}")?;
            }
            ServerAddress::Unix(path) => {
                let socket = socket(path.as_os_str().as_bytes());
                write!(f, "{scheme}+unix://{user}/{export}?socket={socket}")?;
            }
            ServerAddress::Abstract(name) => {
                write!(f, "{scheme}+unix://{user}/{export}?socket=%00{}", socket(name))?;
            }
        }
        let Some(tls) = &self.tls else { return Ok(()) };
        let mut mark = if matches!(self.address, ServerAddress::Tcp { .. }) { '?' } else { '&' };
        for (key, value) in tls.pairs() {
            write!(f, "{mark}{key}={}", percent_encode(&value, RESERVED_IN_PATH))?;
            mark = '&';
        }
        Ok(())
    }
}

impl fmt::Display for ServerAddress {
    /// For messages to people: `host:port`, the path, or `@name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
        }
    }
}

fn write_host(f: &mut fmt::Formatter<'_>, host: &str) -> fmt::Result {
    match host.split_once('%') {
        Some((address, zone)) if host.contains(':') => {
            write!(f, "[{address}%25{}]", percent_encode(zone.as_bytes(), RESERVED))
        }
        _ if host.contains(':') => write!(f, "[{host}]"),
        _ => write!(f, "{}", percent_encode(host.as_bytes(), RESERVED)),
    }
}

/// "the path part of the URI except for the leading `/` character" ("NBD URI export name").
fn export_name(path: &str) -> Result<String, UriError> {
    let name = String::from_utf8(decode(path)?).map_err(|_| UriError::ExportName)?;
    if name.len() > NBD_MAX_STRING || name.contains('\0') {
        return Err(UriError::ExportName);
    }
    Ok(name)
}

/// The `socket` parameter, and those of TLS; others are diagnosed ("Other NBD URI query parameters").
fn parameters(
    query: &str,
    is_unix: bool,
    is_secure: bool,
    user: Option<String>,
) -> Result<(Option<Vec<u8>>, Option<TlsParameters>), UriError> {
    // To ignore a wish for encryption would be a silent downgrade.
    if user.is_some() && !is_secure {
        return Err(UriError::NotTls("a user name".into()));
    }
    let (mut socket, mut tls) = (None, TlsParameters { username: user, ..TlsParameters::default() });
    let mut seen = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if seen.contains(&key) {
            return Err(UriError::Parameter(key.into()));
        }
        seen.push(key);
        match key {
            "socket" if is_unix => socket = Some(decode(value)?),
            _ if key.starts_with("tls-") && !is_secure => return Err(UriError::NotTls(key.into())),
            _ if tls.set(key, decode(value)?)? => {}
            _ => return Err(UriError::Parameter(key.into())),
        }
    }
    tls.check()?;
    Ok((socket, is_secure.then_some(tls)))
}

fn user_name(encoded: &str) -> Result<String, UriError> {
    let wrong = || UriError::Authority(encoded.into());
    let text = String::from_utf8(decode(encoded)?).map_err(|_| wrong())?;
    if text.is_empty() || text.contains('\0') { Err(wrong()) } else { Ok(text) }
}

fn unix_address(socket: Vec<u8>) -> Result<ServerAddress, UriError> {
    let length = socket.len();
    let (is_abstract, name) = match socket.strip_prefix(b"\0") {
        Some(name) => (true, name.to_vec()),
        None => (false, socket),
    };
    if name.is_empty() || name.len() > MAX_SOCKET_PATH || name.contains(&0) {
        return Err(UriError::Socket(length));
    }
    Ok(match is_abstract {
        true => ServerAddress::Abstract(name),
        false => ServerAddress::Unix(PathBuf::from(OsString::from_vec(name))),
    })
}

/// `HOST[:PORT]`; without a host, this machine ("It is up to the NBD client what should happen").
fn tcp_address(authority: &str) -> Result<ServerAddress, UriError> {
    let wrong = || UriError::Authority(authority.into());
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (literal, port) = rest.split_once(']').ok_or_else(wrong)?;
            let host = String::from_utf8(decode(literal)?).map_err(|_| wrong())?;
            let (address, zone) = host.split_once('%').unwrap_or((&host, "0"));
            if address.parse::<Ipv6Addr>().is_err() || zone.is_empty() || zone.contains('\0') {
                return Err(wrong());
            }
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) };
            (host, port)
        }
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            let host = String::from_utf8(decode(host)?).map_err(|_| wrong())?;
            if host
                .contains(|c: char| c == ':' || c == '[' || c == '@' || c.is_control() || c.is_whitespace())
            {
                return Err(wrong());
            }
            (if host.is_empty() { "localhost".into() } else { host }, port)
        }
    };
    let port = match port {
        // RFC 3986 allows an empty port: the default.
        None | Some("") => NBD_DEFAULT_PORT,
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
    };
    Ok(ServerAddress::Tcp { host, port })
}

fn decode(text: &str) -> Result<Vec<u8>, UriError> {
    let well_formed = text.split('%').skip(1).all(|after| {
        let digits = after.as_bytes();
        digits.len() >= 2 && digits[0].is_ascii_hexdigit() && digits[1].is_ascii_hexdigit()
    });
    match well_formed {
        true => Ok(percent_decode(text.as_bytes()).collect()),
        false => Err(UriError::Percent(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<NbdUri, UriError> {
        text.parse()
    }

    fn tcp(host: &str, port: u16, export: &str) -> NbdUri {
        NbdUri { address: ServerAddress::Tcp { host: host.into(), port }, export: export.into(), tls: None }
    }

    #[test]
    fn the_table_of_the_spec() {
        let host = "example.com";
        for (uri, export) in [
            ("nbd://example.com/disk", "disk"),
            ("nbd://example.com/", ""),
            ("nbd://example.com", ""),
            ("nbd://example.com//disk", "/disk"),
            ("nbd://example.com/hello%20world", "hello world"),
            ("NBD://example.com/a/b", "a/b"),
        ] {
            assert_eq!(parse(uri), Ok(tcp(host, 10809, export)), "{uri}");
        }
        let unix = parse("nbd+unix:///disk?socket=sock").unwrap();
        let address = ServerAddress::Unix("sock".into());
        assert_eq!(unix, NbdUri { address, export: "disk".into(), tls: None });
        let hidden = parse("nbd+unix:///?socket=%00/abstract").unwrap();
        assert_eq!(hidden.address, ServerAddress::Abstract(b"/abstract".to_vec()));
        assert_eq!(hidden.to_string(), "nbd+unix:///?socket=%00/abstract");
    }

    #[test]
    fn hosts_and_ports() {
        assert_eq!(parse("nbd://h:1234/x"), Ok(tcp("h", 1234, "x")));
        assert_eq!(parse("nbd://h:/x"), Ok(tcp("h", 10809, "x")));
        assert_eq!(parse("nbd:///x"), Ok(tcp("localhost", 10809, "x")));
        assert_eq!(parse("nbd://[::1]:9/x"), Ok(tcp("::1", 9, "x")));
        assert_eq!(parse("nbd://[fe80::1%25eth0]"), Ok(tcp("fe80::1%eth0", 10809, "")));
        assert_eq!(tcp("::1", 9, "x").to_string(), "nbd://[::1]:9/x");
        for wrong in ["h:70000", "h:0", "h:+1", "h:x", "[::1", "[::1]9", "[h]", "::1", "a b"] {
            assert_eq!(parse(&format!("nbd://{wrong}/x")), Err(UriError::Authority(wrong.into())));
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        for (uri, part) in [
            ("nbd://h/x?tls-psk-file=f", "write nbds://"),
            ("nbd://user@h/x", "write nbds://"),
            ("nbds://user@h/x", "add tls-psk-file=FILE"),
            ("nbds://h/x?tls-username=user", "add tls-psk-file=FILE"),
            ("nbds://@h/x?tls-psk-file=f", "is not a host and port"),
            ("nbds://h/x?tls-psk-file=f&tls-certificates=d", "leave out tls-certificates"),
            ("nbds://h/x?tls-psk-file=f&tls-verify-peer=no", "leave out tls-verify-peer"),
            ("nbds://a@h/x?tls-psk-file=f&tls-username=b", "stands twice"),
            ("nbds://h/x?tls-hostname=a&tls-hostname=a", "stands twice"),
            ("nbds://h/x?tls-hostname=", "cannot be"),
            ("nbds://h/x?tls-hostname=%ff", "cannot be"),
            ("nbds://h/x?tls-certificates=a%00", "cannot be"),
            ("nbds://h/x?tls-verify-peer=perhaps", "cannot be"),
            ("nbds://h/x?tls-priority=NORMAL", "unknown"),
            ("nbds+unix:///x", "add ?socket=PATH"),
            ("h:10809", "write nbd://"),
            ("http://h/x", "write nbd://"),
            ("nbd:unix:/tmp/s", "write nbd://"),
            ("nbd+unix:///x", "add ?socket=PATH"),
            ("nbd+unix://x?socket=s", "three slashes"),
            ("nbd+unix:///x?socket=", "1 to 107"),
            ("nbd+unix:///x?socket=a%00b", "1 to 107"),
            ("nbd+unix:///x?socket=a&socket=b", "stands twice"),
            ("nbd://h/x?socket=s", "unknown"),
            ("nbd://h/x?sock=s", "unknown"),
            ("nbd://h/100%", "%25"),
            ("nbd://h/%zz", "%25"),
            ("nbd://h/a%00b", "without NUL"),
            ("nbd://h/%ff", "UTF-8"),
            ("nbd://h/a#b", "%23"),
        ] {
            let message = parse(uri).unwrap_err().to_string();
            assert!(message.contains(part), "{uri}: {message}");
        }
        assert_eq!(parse(&format!("nbd://h/{}", "x".repeat(4097))), Err(UriError::ExportName));
        assert!(parse(&format!("nbd://h/{}", "x".repeat(4096))).is_ok());
    }

    #[test]
    fn what_tls_is_told() {
        let plain = TlsParameters::default();
        assert_eq!(parse("nbds://h/x"), Ok(NbdUri { tls: Some(plain.clone()), ..tcp("h", 10809, "x") }));
        let uri = parse("NBDS+Unix:///?socket=s&tls-certificates=%7e/d&tls-hostname=a.b&tls-verify-peer=no");
        let expected = TlsParameters {
            certificates: Some("~/d".into()),
            hostname: Some("a.b".into()),
            verify_peer: false,
            ..plain.clone()
        };
        assert_eq!(uri.unwrap().tls, Some(expected));
        let psk = TlsParameters { username: Some("a:b".into()), psk_file: Some("k".into()), ..plain };
        for uri in ["nbds://a%3Ab@h?tls-psk-file=k", "nbds://h?tls-psk-file=k&tls-username=a:b"] {
            let uri = parse(uri).unwrap();
            assert_eq!(uri, NbdUri { tls: Some(psk.clone()), ..tcp("h", 10809, "") });
            assert_eq!(uri.to_string(), "nbds://a%3Ab@h/?tls-psk-file=k");
        }
    }

    fn any_tls() -> impl Strategy<Value = Option<TlsParameters>> {
        let path = || {
            prop::option::of(prop::collection::vec(1..=255u8, 1..40))
                .prop_map(|path| path.map(|path| PathBuf::from(OsString::from_vec(path))))
        };
        let name = || prop::option::of("[^\0]{1,20}");
        let with_certificates = (path(), name(), any::<[bool; 2]>()).prop_map(
            |(certificates, hostname, [verify_peer, allows_tls_12])| TlsParameters {
                allows_tls_12,
                certificates,
                hostname,
                verify_peer,
                ..TlsParameters::default()
            },
        );
        let with_key = (prop::collection::vec(1..=255u8, 1..40), name()).prop_map(|(path, username)| {
            let psk_file = Some(OsString::from_vec(path).into());
            TlsParameters { psk_file, username, ..TlsParameters::default() }
        });
        prop::option::of(prop_oneof![with_certificates, with_key])
    }

    fn any_address() -> impl Strategy<Value = ServerAddress> {
        let socket = || prop::collection::vec(1..=255u8, 1..=MAX_SOCKET_PATH);
        let host = prop_oneof![
            "[a-z][a-z0-9.-]{0,30}",
            any::<[u16; 8]>().prop_map(|words| Ipv6Addr::from(words).to_string()),
            any::<[u8; 4]>().prop_map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            ("fe80::[0-9a-f]{1,4}%[a-z0-9]{1,8}"),
        ];
        prop_oneof![
            (host, 1..=u16::MAX).prop_map(|(host, port)| ServerAddress::Tcp { host, port }),
            socket().prop_map(|path| ServerAddress::Unix(OsString::from_vec(path).into())),
            socket().prop_map(ServerAddress::Abstract),
        ]
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same(
            address in any_address(),
            export in "[^\0]{0,60}",
            tls in any_tls(),
        ) {
            let uri = NbdUri { address, export, tls };
            let shown = uri.to_string();
            prop_assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()), "{}", shown);
            prop_assert_eq!(shown.parse(), Ok(uri));
        }

        #[test]
        fn no_text_panics(text in "(nbd|nbds|nbds?\\+unix)?(://)?.{0,20}(\\?tls-[a-z-]{0,12}=)?.{0,40}") {
            let _ = parse(&text);
        }
    }
}
