//! Where clients find the server, and the URIs that say so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// What a listener is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// With the real port.
    Tcp(SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
    /// A name of the abstract namespace, without its `@`.
    Abstract(Vec<u8>),
}

/// All but the unreserved characters of RFC 3986, and the slash.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

impl Endpoint {
    /// The address of an admin server that listens here: an HTTP URL, or `unix:PATH` as it is given to
    /// `--admin`.
    pub(in crate::control) fn admin_url(&self) -> String {
        match self {
            Self::Tcp(address) => format!("http://{}/", reachable(*address)),
            Self::Unix(path) => format!("unix:{}", path.display()),
            Self::Abstract(name) => format!("unix:@{}", String::from_utf8_lossy(name)),
        }
    }

    /// The URI of an export here, by the URI specification of the NBD project (`doc/uri.md`).
    ///
    /// An unspecified address becomes the loopback one, which works at least on this machine. An abstract
    /// socket begins with a zero byte (`%00`), "if the client supports this": ours does, QEMU and libnbd do
    /// not.
    pub(crate) fn uri(&self, export: &str, with_tls: bool) -> String {
        let name = percent_encode(export.as_bytes(), ESCAPED);
        let nbd = if with_tls { "nbds" } else { "nbd" };
        match self {
            Self::Tcp(address) => {
                format!("{nbd}://{}/{name}", reachable(*address))
            }
            Self::Unix(path) => {
                let path = percent_encode(path.as_os_str().as_bytes(), ESCAPED);
                format!("{nbd}+unix:///{name}?socket={path}")
            }
            Self::Abstract(socket) => {
                format!("{nbd}+unix:///{name}?socket=%00{}", percent_encode(socket, ESCAPED))
            }
        }
    }

    /// What names an export here for `qemu-img info`, quoted for a shell. QEMU takes no URI of an abstract
    /// socket.
    pub(in crate::control) fn qemu_arguments(&self, export: &str) -> String {
        match self {
            Self::Tcp(_) | Self::Unix(_) => format!("'{}'", self.uri(export, false)),
            Self::Abstract(socket) => {
                let escaped = |text: &str| text.replace(',', ",,").replace('\'', "'\\''");
                let (path, name) = (escaped(&String::from_utf8_lossy(socket)), escaped(export));
                format!(
                    "--image-opts 'driver=nbd,server.type=unix,server.path={path},server.abstract=on,export={name}'"
                )
            }
        }
    }
}

/// The address, or the loopback one for an unspecified one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_those_of_the_specification() {
        let tcp = |address: &str| Endpoint::Tcp(address.parse().unwrap());
        for (endpoint, export, uri) in [
            (tcp("127.0.0.1:10809"), "", "nbd://127.0.0.1:10809/"),
            (tcp("0.0.0.0:5"), "disk", "nbd://127.0.0.1:5/disk"),
            (tcp("[::]:5"), "vm/a b?", "nbd://[::1]:5/vm/a%20b%3F"),
            (tcp("[fe80::1]:5"), "ü", "nbd://[fe80::1]:5/%C3%BC"),
            (Endpoint::Unix("/run/a b.sock".into()), "x", "nbd+unix:///x?socket=/run/a%20b.sock"),
            (Endpoint::Abstract(b"nbd".to_vec()), "", "nbd+unix:///?socket=%00nbd"),
        ] {
            assert_eq!(endpoint.uri(export, false), uri);
            assert_eq!(endpoint.uri(export, true), uri.replacen("nbd", "nbds", 1));
        }
        // Quoted for the shell; QEMU wants a comma doubled.
        let qemu = Endpoint::Abstract(b"a,b".to_vec()).qemu_arguments("it's");
        let expected = r"driver=nbd,server.type=unix,server.path=a,,b,server.abstract=on,export=it'\''s";
        assert_eq!(qemu, format!("--image-opts '{expected}'"));
        assert_eq!(tcp("127.0.0.1:1").qemu_arguments(""), "'nbd://127.0.0.1:1/'");
    }
}
