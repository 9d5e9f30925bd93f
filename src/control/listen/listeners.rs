//! Listening sockets: TCP, unix, abstract, and those that systemd hands over.

use std::cell::Cell;
use std::fs::Permissions;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::endpoint::Endpoint;
use crate::config::ListenAddress;
use crate::config::listen::{TcpAddress, UnixAccess, UnixAddress};
use crate::control::keeper::is_kept;
use crate::control::ownership;
use crate::sys::take_passed_descriptor;

/// A socket that listens, not blocking.
#[derive(Debug)]
pub struct Listener {
    pub(in crate::control) socket: Socket,
    pub(in crate::control) endpoint: Endpoint,
    /// The file of a unix socket that is ours.
    pub(in crate::control) file: Option<SocketFile>,
    /// The service manager made it.
    pub(in crate::control) is_inherited: bool,
}

/// Why there is no listener; each a sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// No such host.
    #[error("cannot find the host {0}: write an address such as 127.0.0.1:10809 ({1})")]
    Host(String, io::Error),
    /// The port is taken.
    #[error(
        "{0} is in use: stop what listens there, or choose another port with --tcp (port 0 takes any free one)"
    )]
    PortInUse(SocketAddr),
    /// Another machine's address.
    #[error("{0} is not an address of this machine: choose one that is, or 0.0.0.0 for all")]
    NotLocal(SocketAddr),
    /// A port below 1024, mostly.
    #[error("no permission to listen on {0}: choose a port above 1023, or grant CAP_NET_BIND_SERVICE")]
    Privileged(SocketAddr),
    /// A live server has the socket.
    #[error("{0} is in use by a running server: stop it, or choose another --unix path")]
    Live(String),
    /// Something else has the path.
    #[error("{} exists and is not a socket: remove it, or choose another --unix path", .0.display())]
    NotASocket(PathBuf),
    /// No directory.
    #[error("the directory of {} does not exist: create it, or choose another --unix path", .0.display())]
    NoDirectory(PathBuf),
    /// No permission.
    #[error("no permission to create the socket {}: choose another --unix path", .0.display())]
    Permission(PathBuf),
    /// The group of `--unix-group` does not exist.
    #[error("there is no group {0}: create it (groupadd --system {0}), or choose another --unix-group")]
    NoGroup(String),
    /// The name services.
    #[error("cannot look up the group {0}: {1}; give a number, as in --unix-group 107")]
    LookUp(String, io::Error),
    /// Not a member of the group.
    #[error("no permission to give {path} to the group {group}: start as a member of it, or as root", path = .0.display(), group = .1)]
    GiveToGroup(PathBuf, String),
    /// systemd handed over something else.
    #[error(
        "the socket number {0} that was handed over is not a listening stream socket: use ListenStream= and Accept=no"
    )]
    Inherited(usize),
    /// Anything else.
    #[error("cannot listen on {0}: {1}")]
    Other(String, io::Error),
    /// Any of these, of the admin server.
    #[error("{}", of_admin(.0))]
    Admin(Box<ListenError>),
    /// Any of these, of the control socket.
    #[error("{}", of_control(.0))]
    Control(Box<ListenError>),
}

/// The sentence with the flag that it is about.
fn of_admin(error: &ListenError) -> String {
    error.to_string().replace("--tcp", "--admin").replace("--unix path", "path with --admin unix:PATH")
}

fn of_control(error: &ListenError) -> String {
    error.to_string().replace("--unix path", "path with --control unix:PATH")
}

/// Connections that may wait for being accepted, as far as net.core.somaxconn lets them.
const BACKLOG: i32 = 4096;

/// Listens on every address, with these permissions of unix sockets. Without an address, and without a
/// listener from elsewhere, it listens on the default TCP address. `passed` gives those that another process
/// has for an address.
///
/// # Errors
/// [`ListenError`] of the first that fails.
pub(in crate::control) fn listen(
    addresses: &[ListenAddress],
    access: &UnixAccess,
    mut passed: impl FnMut(&ListenAddress) -> Vec<Listener>,
    listeners: &mut Vec<Listener>,
) -> Result<(), ListenError> {
    let default = [ListenAddress::Tcp(TcpAddress::default())];
    let addresses = if addresses.is_empty() && listeners.is_empty() { &default } else { addresses };
    for address in addresses {
        let mut known = passed(address);
        if !known.is_empty() {
            let group = access.group.as_deref().map(find_group).transpose()?;
            known
                .iter_mut()
                .filter_map(|listener| listener.file.as_mut())
                .for_each(|file| file.group = group);
            listeners.append(&mut known);
            continue;
        }
        match address {
            ListenAddress::Tcp(address) => listen_tcp(address, listeners)?,
            ListenAddress::Unix(UnixAddress::Path(path)) => listeners.push(listen_unix(path, access)?),
            ListenAddress::Unix(UnixAddress::Abstract(name)) => listeners.push(listen_abstract(name)?),
        }
    }
    Ok(())
}

/// What a process was started with.
#[derive(Debug, Default)]
pub struct InheritedDescriptors {
    /// The sockets of systemd's activation.
    pub(in crate::control) listeners: Vec<Listener>,
    /// What the server before this one had kept, by names.
    pub(in crate::control) kept: Vec<(String, OwnedFd)>,
}

impl InheritedDescriptors {
    /// Whether there is something that was kept.
    pub fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }
}

/// The sockets of systemd's activation, and the descriptors of its store (`LISTEN_FDS`). Their variables
/// leave the environment, which is safe only before there are other threads.
///
/// # Errors
/// A descriptor that is no listening socket, and was not kept.
pub fn inherited() -> Result<InheritedDescriptors, ListenError> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut handed_over = listenfd::ListenFd::from_env();
    let (mut listeners, mut kept) = (Vec::new(), Vec::new());
    for index in 0..handed_over.len() {
        let name = names.next().unwrap_or_default();
        if is_kept(name) {
            let number = handed_over.take_raw_fd(index).ok().flatten();
            // One that is not there is missed later.
            let taken = number.and_then(|number| take_passed_descriptor(number).ok());
            kept.extend(taken.map(|descriptor| (name.to_owned(), descriptor)));
            continue;
        }
        let tcp = handed_over.take_tcp_listener(index).ok().flatten().map(Socket::from);
        let unix = || handed_over.take_unix_listener(index).ok().flatten().map(Socket::from);
        let socket = tcp.or_else(unix).ok_or(ListenError::Inherited(index))?;
        let listens = rustix::net::sockopt::socket_acceptconn(&socket).unwrap_or(false);
        let address = socket.local_addr().ok().filter(|_| listens).ok_or(ListenError::Inherited(index))?;
        let endpoint = endpoint_of(&address).ok_or(ListenError::Inherited(index))?;
        socket.set_nonblocking(true).map_err(|error| ListenError::Other(format!("{endpoint:?}"), error))?;
        // The file of a unix socket is systemd's: it listens there when we are gone.
        listeners.push(Listener { socket, endpoint, file: None, is_inherited: true });
    }
    Ok(InheritedDescriptors { listeners, kept })
}

/// A listener that another process has made; none if it does not listen. Its file stays until it is
/// [said to be ours](SocketFile::is_ours).
pub(in crate::control) fn passed(socket: OwnedFd, is_inherited: bool) -> Option<Listener> {
    let socket = Socket::from(socket);
    if !rustix::net::sockopt::socket_acceptconn(&socket).unwrap_or(false) {
        return None;
    }
    let mut endpoint = endpoint_of(&socket.local_addr().ok()?)?;
    socket.set_nonblocking(true).ok()?;
    let mut file = None;
    if let Endpoint::Unix(path) = &mut endpoint {
        *path = std::path::absolute(&path).ok()?;
        file = SocketFile::of(path.clone()).ok().filter(|_| !is_inherited);
        file.iter().for_each(|file| file.is_ours(false));
    }
    Some(Listener { socket, endpoint, file, is_inherited })
}

/// Whether an address asks for what listens at an endpoint.
pub(in crate::control) fn is_asked_for(endpoint: &Endpoint, address: &ListenAddress) -> bool {
    match (endpoint, address) {
        (Endpoint::Tcp(real), ListenAddress::Tcp(address)) => {
            let is_port = address.port == 0 || address.port == real.port();
            is_port && addresses_of(address).is_ok_and(|found| found.iter().any(|one| one.ip() == real.ip()))
        }
        (Endpoint::Unix(real), ListenAddress::Unix(UnixAddress::Path(path))) => {
            std::path::absolute(path).is_ok_and(|path| path == *real)
        }
        (Endpoint::Abstract(real), ListenAddress::Unix(UnixAddress::Abstract(name))) => {
            real == name.as_bytes()
        }
        _ => false,
    }
}

fn endpoint_of(address: &SockAddr) -> Option<Endpoint> {
    let tcp = address.as_socket().map(Endpoint::Tcp);
    let unix = || address.as_pathname().map(|path| Endpoint::Unix(path.to_owned()));
    let named = || address.as_abstract_namespace().map(|name| Endpoint::Abstract(name.to_vec()));
    tcp.or_else(unix).or_else(named)
}

/// All addresses of a host, each once. "localhost" is this machine, whatever a resolver says (RFC 6761, 6.3).
fn addresses_of(TcpAddress { host, port }: &TcpAddress) -> io::Result<Vec<SocketAddr>> {
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![(Ipv4Addr::LOCALHOST, *port).into(), (Ipv6Addr::LOCALHOST, *port).into()]);
    }
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in (host.as_str(), *port).to_socket_addrs()? {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    Ok(found)
}

/// Listens on all addresses of a host. Those that this machine does not have (`::1` without IPv6) may be
/// missing if there is another one.
fn listen_tcp(address: &TcpAddress, listeners: &mut Vec<Listener>) -> Result<(), ListenError> {
    let found = addresses_of(address).map_err(|error| ListenError::Host(address.host.clone(), error))?;
    let mut port = address.port;
    let mut failure = ListenError::Host(address.host.clone(), io::Error::other("no address"));
    let mut bound = 0;
    for mut one in found {
        // With port 0, the port that the first one got.
        one.set_port(port);
        match bind_tcp(one) {
            Ok(listener) => {
                if let Endpoint::Tcp(real) = listener.endpoint {
                    port = real.port();
                }
                listeners.push(listener);
                bound += 1;
            }
            Err(error @ ListenError::NotLocal(_)) => failure = error,
            Err(error) => return Err(error),
        }
    }
    if bound == 0 { Err(failure) } else { Ok(()) }
}

fn bind_tcp(address: SocketAddr) -> Result<Listener, ListenError> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // A restart need not wait for the connections of its predecessor to time out.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // `[::]` is all addresses of IPv6, so that 0.0.0.0 can have the same port.
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let real = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Listener { socket, endpoint: Endpoint::Tcp(real), file: None, is_inherited: false })
    };
    bound().map_err(|error: io::Error| match error.raw_os_error() {
        Some(libc::EADDRINUSE) => ListenError::PortInUse(address),
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT) => ListenError::NotLocal(address),
        Some(libc::EACCES | libc::EPERM) => ListenError::Privileged(address),
        _ => ListenError::Other(address.to_string(), error),
    })
}

/// No client can connect before the permissions are right. Without a mode the file is made as the umask says.
/// With one it is made without permissions, then gets its group, then its mode; the socket listens only after
/// that.
fn listen_unix(path: &Path, access: &UnixAccess) -> Result<Listener, ListenError> {
    let explain = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => ListenError::NoDirectory(path.to_owned()),
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => ListenError::Permission(path.to_owned()),
        Some(libc::EADDRINUSE) => ListenError::Live(path.display().to_string()),
        _ => ListenError::Other(path.display().to_string(), error),
    };
    let group = access.group.as_deref().map(find_group).transpose()?;
    let mode = access.effective_mode();
    remove_stale(path)?;
    let address = SockAddr::unix(path).map_err(explain)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(explain)?;
    if mode.is_some() {
        // The permissions of an unbound socket are the most that its file is made with.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::empty()).map_err(|error| explain(error.into()))?;
    }
    socket.bind(&address).map_err(explain)?;
    let path = std::path::absolute(path).map_err(explain)?;
    let mut file = SocketFile::of(path.clone()).map_err(explain)?;
    if let (Some(group), Some(name)) = (group, &access.group) {
        file.give_to_group(group).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => ListenError::GiveToGroup(path.clone(), name.clone()),
            _ => explain(error),
        })?;
    }
    if let Some(mode) = mode {
        file.set_mode(mode).map_err(explain)?;
    }
    socket.listen(BACKLOG).and_then(|()| socket.set_nonblocking(true)).map_err(explain)?;
    Ok(Listener { socket, endpoint: Endpoint::Unix(path), file: Some(file), is_inherited: false })
}

/// Whether there is the group that sockets are to have.
pub(in crate::control) fn check(access: &UnixAccess) -> Result<(), ListenError> {
    access.group.as_deref().map(find_group).transpose().map(|_found| ())
}

fn find_group(name: &str) -> Result<u32, ListenError> {
    let found = ownership::find_group(name).map_err(|error| ListenError::LookUp(name.to_owned(), error))?;
    found.ok_or_else(|| ListenError::NoGroup(name.to_owned()))
}

/// Removes the socket of a server that is gone. It is an error if that server runs, or if the file is no
/// socket.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    let other = |error| ListenError::Other(path.display().to_string(), error);
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(other)?;
    // A live server with a full backlog must not hold us up.
    probe.set_nonblocking(true).map_err(other)?;
    match probe.connect(&SockAddr::unix(path).map_err(other)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|_| ListenError::Permission(path.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(ListenError::Permission(path.to_owned()))
        }
        Ok(()) | Err(_) => Err(ListenError::Live(path.display().to_string())),
    }
}

fn listen_abstract(name: &str) -> Result<Listener, ListenError> {
    let bound = || {
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        let socket = Socket::from(UnixListener::bind_addr(&address)?);
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Listener { socket, endpoint: Endpoint::Abstract(name.into()), file: None, is_inherited: false })
    };
    bound().map_err(|error: io::Error| match error.raw_os_error() {
        Some(libc::EADDRINUSE) => ListenError::Live(format!("@{name}")),
        _ => ListenError::Other(format!("@{name}"), error),
    })
}

/// The file of a unix socket, removed when dropped, unless another server has put its own there.
#[derive(Debug)]
pub(in crate::control) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    /// The group that was asked for, which it keeps when its owner changes.
    group: Option<u32>,
    /// It is another process's, which may still need it.
    stays: Cell<bool>,
}

impl SocketFile {
    fn of(path: PathBuf) -> io::Result<Self> {
        let identity = identity(&path)?;
        Ok(Self { path, identity, group: None, stays: Cell::new(false) })
    }

    fn give_to_group(&mut self, group: u32) -> io::Result<()> {
        self.group = Some(group);
        ownership::hand_over(self.open()?, (None, group))
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        // A descriptor that is only a path cannot be asked itself before Linux 6.6.
        let file = self.open()?;
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::fs::set_permissions(name, Permissions::from_mode(mode))
    }

    /// Opens the file that was made here, if it has no other name. A process that may write to the directory
    /// could have put a link to another file there.
    fn open(&self) -> io::Result<OwnedFd> {
        use rustix::fs::{Mode, OFlags};
        let file =
            rustix::fs::open(&self.path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let status = rustix::fs::fstat(&file)?;
        if (status.st_dev, status.st_ino) != self.identity || status.st_nlink != 1 {
            return Err(io::Error::other("another file is in its place"));
        }
        Ok(file)
    }

    /// Whether it is removed at the end: not while another process has it too.
    pub(in crate::control) fn is_ours(&self, is_ours: bool) {
        self.stays.set(!is_ours);
    }

    pub(in crate::control) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it belong to a user, who may connect to it and remove it then.
    pub(in crate::control) fn hand_over(&self, (user, group): (u32, u32)) -> io::Result<()> {
        ownership::hand_over(self.open()?, (Some(user), self.group.unwrap_or(group)))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.stays.get() && identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _gone_already = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    path.symlink_metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(address: ListenAddress) -> Result<Vec<Listener>, ListenError> {
        let mut listeners = Vec::new();
        listen(&[address], &UnixAccess::default(), |_| Vec::new(), &mut listeners).map(|()| listeners)
    }

    fn tcp(text: &str) -> Result<Vec<Listener>, ListenError> {
        on(ListenAddress::Tcp(text.parse().unwrap()))
    }

    fn unix(path: &Path) -> Result<Vec<Listener>, ListenError> {
        on(ListenAddress::Unix(UnixAddress::Path(path.to_owned())))
    }

    #[test]
    fn a_busy_port_is_an_error() {
        let first = tcp("127.0.0.1:0").unwrap();
        let Endpoint::Tcp(address) = first[0].endpoint else { panic!() };
        assert_ne!(address.port(), 0);
        assert!(matches!(tcp(&address.to_string()), Err(ListenError::PortInUse(taken)) if taken == address));
        assert!(matches!(tcp("192.0.2.1:0"), Err(ListenError::NotLocal(_))));
        assert!(matches!(tcp("host.invalid:0"), Err(ListenError::Host(..))));
    }

    #[test]
    fn all_addresses_of_a_name_share_the_port() {
        let ports: std::collections::HashSet<_> = tcp("localhost:0")
            .unwrap()
            .iter()
            .map(|listener| match listener.endpoint {
                Endpoint::Tcp(address) => address.port(),
                _ => 0,
            })
            .collect();
        assert_eq!(ports.len(), 1);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        // A listener of the standard library leaves its file behind.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let live = unix(&path).unwrap();
        assert!(matches!(unix(&path), Err(ListenError::Live(_))));
        assert!(path.exists(), "the live one is left alone");
        drop(live);
        assert!(!path.exists(), "ours is removed");
    }

    #[test]
    fn the_socket_of_a_successor_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let ours = unix(&path).unwrap();
        std::fs::rename(&path, directory.path().join("aside")).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    }

    #[test]
    fn an_error_of_the_admin_server_names_its_flag() {
        let first = tcp("127.0.0.1:0").unwrap();
        let Endpoint::Tcp(address) = first[0].endpoint else { panic!() };
        let error = ListenError::Admin(Box::new(tcp(&address.to_string()).unwrap_err())).to_string();
        assert!(error.contains("--admin") && !error.contains("--tcp"), "{error}");
        let error = ListenError::Admin(Box::new(ListenError::Live("/s".into()))).to_string();
        assert!(error.ends_with("choose another path with --admin unix:PATH"), "{error}");
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(unix(&path), Err(ListenError::NotASocket(_))));
        assert!(matches!(unix(&directory.path().join("no/s")), Err(ListenError::NoDirectory(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn all_addresses_of_both_families_share_a_port() {
        let v4 = tcp("0.0.0.0:0").unwrap();
        let Endpoint::Tcp(address) = v4[0].endpoint else { panic!() };
        match tcp(&format!("[::]:{}", address.port())) {
            Ok(v6) => assert!(v6[0].socket.only_v6().unwrap()),
            Err(error) => assert!(matches!(error, ListenError::NotLocal(_)), "no IPv6 here: {error}"),
        }
    }

    #[test]
    fn a_socket_file_has_the_mode_and_the_group_that_were_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let own_group = rustix::process::getegid().as_raw();
        for (mode, group, expected) in [
            (Some(0o600), None, 0o600),
            // More than the umask leaves.
            (Some(0o666), None, 0o666),
            (None, Some(own_group), 0o660),
            (Some(0o640), Some(own_group), 0o640),
        ] {
            let mode = mode.map(crate::config::listen::FileMode);
            let access = UnixAccess { mode, group: group.map(|group| group.to_string()) };
            let _listener = listen_unix(&path, &access).unwrap();
            assert_eq!(path.symlink_metadata().unwrap().mode() & 0o777, expected, "{access:?}");
            assert_eq!(path.symlink_metadata().unwrap().gid(), own_group);
        }
        let access = UnixAccess { mode: None, group: Some("no-such-group".to_owned()) };
        assert!(matches!(listen_unix(&path, &access), Err(ListenError::NoGroup(_))));
        assert!(!path.exists());
    }

    #[test]
    fn abstract_names_are_taken_once() {
        let name = format!("ringnbd-test-{}", std::process::id());
        let address = ListenAddress::Unix(UnixAddress::Abstract(name));
        let _first = on(address.clone()).unwrap();
        assert!(matches!(on(address), Err(ListenError::Live(_))));
    }
}
