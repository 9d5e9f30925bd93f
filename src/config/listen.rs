//! Addresses to listen on.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The port registered for NBD.
const DEFAULT_PORT: u16 = 10809;

/// A TCP address as given, its host perhaps a name: `HOST`, `HOST:PORT`, `[V6]:PORT`, or `PORT` of localhost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpAddress {
    /// A name or an address without brackets.
    pub host: String,
    /// 0 means any that is free.
    pub port: u16,
}

/// Where a unix socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnixAddress {
    Path(PathBuf),
    /// A name of Linux's abstract namespace, given as `@NAME`.
    Abstract(String),
}

/// The permissions of a socket file, in octal: `0660`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

/// Who may connect to the files of unix sockets. Without a mode the umask decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnixAccess {
    /// Their permissions.
    pub mode: Option<FileMode>,
    /// Their group, by name or by number.
    pub group: Option<String>,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `--tcp`.
    Tcp(TcpAddress),
    /// `--unix`.
    Unix(UnixAddress),
}

/// Where the admin server listens: `HOST:PORT`, `unix:PATH` or `unix:@NAME`. There is no default port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminAddress(pub ListenAddress);

/// The address of the control socket: `unix:PATH`, or `off`. It must be a file, because abstract names have
/// no permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlAddress {
    /// There is none, not even where it would be without being asked for.
    Off,
    /// A file.
    Path(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error(
        "\"{0}\" names no host: write HOST:PORT, such as 127.0.0.1:10809, PORT alone for localhost, or 0.0.0.0:PORT and \
         [::]:PORT for all addresses"
    )]
    NoHost(String),
    #[error("\"{0}\" has no valid port: write HOST:PORT with a port from 0 (any free one) to 65535")]
    BadPort(String),
    /// The admin server has no default port.
    #[error("\"{0}\" has no port: write HOST:PORT, such as 127.0.0.1:9800, or unix:PATH")]
    NoPort(String),
    /// The control socket is a file.
    #[error("\"{0}\" is not a control socket: write unix:PATH with at most 107 bytes of PATH, or off")]
    NoControl(String),
    #[error("\"{0}\" looks like an IPv6 address: write it in brackets, such as [::1]:10809")]
    NoBrackets(String),
    #[error(
        "\"{0}\" is not a socket path: write a path of at most 107 bytes, or @NAME for an abstract socket"
    )]
    BadPath(String),
    #[error("\"{0}\" is not a mode of a socket file: write it in octal, such as 0660")]
    BadMode(String),
}

/// Room for a path in `sockaddr_un`, without the zero byte behind it.
const LONGEST_PATH: usize = 107;

impl Default for TcpAddress {
    fn default() -> Self {
        Self { host: "127.0.0.1".to_owned(), port: DEFAULT_PORT }
    }
}

impl FromStr for TcpAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad_port = || AddressError::BadPort(text.to_owned());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(bad_port)?;
                let port = port.strip_prefix(':').or(port.is_empty().then_some("")).ok_or_else(bad_port)?;
                (host, port)
            }
            None if is_number(text) => ("localhost", text),
            None => text.rsplit_once(':').unwrap_or((text, "")),
        };
        if host.is_empty() {
            return Err(AddressError::NoHost(text.to_owned()));
        }
        if host.contains(':') && !text.starts_with('[') {
            return Err(AddressError::NoBrackets(text.to_owned()));
        }
        let port = match port {
            "" if !text.ends_with(':') => DEFAULT_PORT,
            port if is_number(port) => port.parse().map_err(|_| bad_port())?,
            _ => return Err(bad_port()),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl FromStr for FileMode {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mode = u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok();
        let mode = mode.filter(|&mode| mode <= 0o777 && !text.starts_with('+'));
        mode.map(Self).ok_or_else(|| AddressError::BadMode(text.to_owned()))
    }
}

impl Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl UnixAccess {
    /// The mode to set: the one that was asked for, or one that lets the group in that was asked for.
    pub fn effective_mode(&self) -> Option<u32> {
        self.mode.map(|mode| mode.0).or(self.group.as_ref().map(|_| 0o660))
    }
}

impl UnixAddress {
    /// What stands for a socket that only the command of `--run` knows.
    pub const PRIVATE: &str = "-";

    /// Whether it is that one.
    pub fn is_private(&self) -> bool {
        *self == Self::Path(Self::PRIVATE.into())
    }
}

impl FromStr for UnixAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix('@');
        if name.unwrap_or(text).is_empty() || text.len() > LONGEST_PATH || text.contains('\0') {
            return Err(AddressError::BadPath(text.to_owned()));
        }
        Ok(match name {
            Some(name) => Self::Abstract(name.to_owned()),
            None => Self::Path(Path::new(text).to_owned()),
        })
    }
}

impl FromStr for AdminAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self(ListenAddress::Unix(path.parse()?)));
        }
        let address: TcpAddress = text.parse()?;
        match is_number(text.rsplit_once(':').map_or(text, |(_, port)| port)) {
            true => Ok(Self(ListenAddress::Tcp(address))),
            false => Err(AddressError::NoPort(text.to_owned())),
        }
    }
}

impl FromStr for ControlAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        match text.strip_prefix("unix:").map(str::parse) {
            Some(Ok(UnixAddress::Path(path))) => Ok(Self::Path(path)),
            _ => Err(AddressError::NoControl(text.to_owned())),
        }
    }
}

impl ControlAddress {
    /// The default control socket of a server with a pidfile: `/run/x.control` beside `/run/x.pid`. `None`
    /// when that is too long for a socket.
    pub fn beside(pidfile: &Path) -> Option<Self> {
        const EXTENSION: &str = "control";
        let mut path = pidfile.with_extension(EXTENSION);
        if path == pidfile {
            path.as_mut_os_string().push(".control");
        }
        Self::fitting(path)
    }

    /// The default control socket of a server that has a store. `None` when that is too long for a socket.
    pub fn within(store: &Path) -> Option<Self> {
        Self::fitting(store.join("control.socket"))
    }

    fn fitting(path: PathBuf) -> Option<Self> {
        (path.as_os_str().len() <= LONGEST_PATH).then_some(Self::Path(path))
    }
}

impl Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

impl Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_addresses() {
        for (text, host, port) in [
            ("127.0.0.1:10809", "127.0.0.1", 10809),
            ("[::1]:0", "::1", 0),
            ("[::]", "::", 10809),
            ("localhost", "localhost", 10809),
            ("localhost:65535", "localhost", 65535),
            ("10809", "localhost", 10809),
            ("0", "localhost", 0),
        ] {
            let address: TcpAddress = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string().parse(), Ok(address));
        }
        for text in [
            "",
            ":1",
            "[]:1",
            "a:",
            "a:65536",
            "65536",
            "a:x",
            "a:+1",
            "[::1",
            "[::1]x",
            "[::1]:",
            "::1:10809",
        ] {
            assert!(text.parse::<TcpAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn admin_addresses() {
        let tcp = |host: &str, port| {
            Ok(AdminAddress(ListenAddress::Tcp(TcpAddress { host: host.to_owned(), port })))
        };
        assert_eq!("127.0.0.1:9800".parse(), tcp("127.0.0.1", 9800));
        assert_eq!("[::1]:0".parse(), tcp("::1", 0));
        assert_eq!("9800".parse(), tcp("localhost", 9800));
        let unix = |address: &str| Ok(AdminAddress(ListenAddress::Unix(address.parse().unwrap())));
        assert_eq!("unix:/run/x".parse(), unix("/run/x"));
        assert_eq!("unix:@x".parse(), unix("@x"));
        for text in ["", "unix:", "unix:@", "localhost", "10.0.0.1", "[::1]", ":9800", "a:", "a:x"] {
            assert!(text.parse::<AdminAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn control_addresses_are_files() {
        let path = |path: &str| ControlAddress::Path(path.into());
        assert_eq!("unix:/run/x".parse(), Ok(path("/run/x")));
        assert_eq!("off".parse(), Ok(ControlAddress::Off));
        let long = format!("unix:/{}", "x".repeat(107));
        for text in ["", "/run/x", "unix:", "unix:@x", "unix:a\0", "127.0.0.1:1", "Off", &long] {
            assert_eq!(text.parse::<ControlAddress>(), Err(AddressError::NoControl(text.to_owned())));
        }
        let beside = |pidfile: &str| ControlAddress::beside(Path::new(pidfile));
        assert_eq!(beside("/run/ringnbd.pid"), Some(path("/run/ringnbd.control")));
        assert_eq!(beside("pid"), Some(path("pid.control")));
        assert_eq!(beside("a.control"), Some(path("a.control.control")), "never the pidfile itself");
        assert_eq!(beside(&format!("/{}", "x".repeat(106))), None);
        assert_eq!(ControlAddress::within(Path::new("/srv/store")), Some(path("/srv/store/control.socket")));
        assert_eq!(ControlAddress::within(Path::new(&"x".repeat(100))), None);
    }

    #[test]
    fn modes_are_octal() {
        for (text, mode) in [("0660", 0o660), ("660", 0o660), ("0o600", 0o600), ("0", 0), ("777", 0o777)] {
            assert_eq!(text.parse(), Ok(FileMode(mode)), "{text}");
        }
        for text in ["", "0o", "rw", "0888", "1777", "+660", "-1", "0x1"] {
            assert_eq!(text.parse::<FileMode>(), Err(AddressError::BadMode(text.to_owned())), "{text}");
        }
        let access = |mode, group: Option<&str>| UnixAccess { mode, group: group.map(str::to_owned) };
        assert_eq!(access(None, None).effective_mode(), None);
        assert_eq!(access(None, Some("kvm")).effective_mode(), Some(0o660));
        assert_eq!(access(Some(FileMode(0o666)), Some("kvm")).effective_mode(), Some(0o666));
    }

    #[test]
    fn unix_addresses() {
        assert_eq!("/run/x".parse(), Ok(UnixAddress::Path("/run/x".into())));
        assert_eq!("@x".parse(), Ok(UnixAddress::Abstract("x".to_owned())));
        assert!("x".repeat(107).parse::<UnixAddress>().is_ok());
        for text in ["", "@", "a\0", &"x".repeat(108)] {
            assert!(text.parse::<UnixAddress>().is_err(), "{text}");
        }
    }
}
