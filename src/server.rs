//! A server inside an application: it is built, started on a thread of its own, and stopped.

use std::error::Error;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::backend::{ApplicationDevice, Export};
use crate::config::listen::{AdminAddress, ListenAddress, TcpAddress, UnixAddress};
use crate::config::{Config, ExportConfig, ExportUri, Pinning, Settings};
use crate::control::{
    self, AddExport, ChangeError, Ending, Host, HostError, HostRequest, Ready, RemoveExport, Served, Service,
    StartError,
};
use crate::shard::Removal;

/// Why a server did not start: a sentence with cause and remedy. It names settings as the command `ringnbd
/// serve` does: `--memory` is [`ServerBuilder::memory`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A setting is wrong, or does not fit the machine.
    #[error("{0}")]
    Setting(String),
    /// A file, a socket or memory cannot be had.
    #[error(transparent)]
    Start(Box<dyn Error + Send + Sync>),
    /// An export cannot come or go.
    #[error(transparent)]
    Change(ChangeError),
}

/// The settings of a server. What is not set is as `ringnbd serve` has it: one shard for each CPU that this
/// process may use, 128 MiB of buffers for each, 127.0.0.1:10809.
///
/// ```no_run
/// let server = ringnbd::ServerBuilder::new().export("disk", "file:disk.img?direct=true").unix("/run/disk.sock").start()?;
/// println!("{}", server.exports()[0].uris[0]);
/// server.wait();
/// # Ok::<(), ringnbd::ServerError>(())
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct ServerBuilder {
    settings: Settings,
    /// Devices of the application, by the numbers in their exports.
    devices: Vec<ApplicationDevice>,
    read_only: bool,
    /// The first setting that is wrong.
    wrong: Option<String>,
}

impl ServerBuilder {
    /// No export, and nowhere to listen but the default address.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves `uri` under `name`; `""` is the default export. URIs are those of `ringnbd serve`:
    /// `file:PATH?direct=true`, a path, `mem:1G`, `null:1G`.
    pub fn export(mut self, name: &str, uri: &str) -> Self {
        match export_config(name, uri) {
            Ok(export) => self.settings.exports.push(export),
            Err(error) => self.note_wrong(error),
        }
        self
    }

    /// Serves a device of the application's own under `name`; see [`device`](crate::device).
    pub fn device(mut self, name: &str, device: ApplicationDevice) -> Self {
        let number = self.devices.len();
        self.devices.push(device);
        match ExportConfig::new(name, ExportUri::Application { number }, None, false) {
            Ok(export) => self.settings.exports.push(export),
            Err(error) => self.note_wrong(format!("the export \"{name}\": {error}")),
        }
        self
    }

    /// Refuses writes to every export.
    pub fn read_only(mut self) -> Self {
        (self.read_only, self.settings.read_only) = (true, Some(true));
        self
    }

    /// Listens on a TCP address: `HOST:PORT`, `[V6]:PORT`, or a port of localhost; port 0 is any free one.
    /// Repeatable.
    pub fn tcp(mut self, address: &str) -> Self {
        if let Some(address) = self.parsed::<TcpAddress>(address) {
            self.settings.listen.push(ListenAddress::Tcp(address));
        }
        self
    }

    /// Listens on a unix socket, a file or `@NAME` of the abstract namespace. The file is removed at the end.
    /// Repeatable.
    pub fn unix(mut self, path: impl Into<PathBuf>) -> Self {
        let path: PathBuf = path.into();
        match path.to_str() {
            Some(text) => {
                if let Some(address) = self.parsed::<UnixAddress>(text) {
                    self.settings.listen.push(ListenAddress::Unix(address));
                }
            }
            None => self.settings.listen.push(ListenAddress::Unix(UnixAddress::Path(path))),
        }
        self
    }

    /// Data-plane threads, each with a ring of its own and pinned to a CPU.
    pub fn shards(mut self, shards: usize) -> Self {
        self.settings.shards = Some(shards);
        self
    }

    /// Bytes of buffer memory of the whole server, a hard cap.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.settings.memory = Some(bytes);
        self
    }

    /// Bytes of the longest READ or WRITE that clients may send.
    pub fn max_request(mut self, bytes: u64) -> Self {
        self.settings.max_request = Some(bytes);
        self
    }

    /// Buffer memory is not locked, which costs a little speed; otherwise it is, as far as RLIMIT_MEMLOCK
    /// allows.
    pub fn unpinned(mut self) -> Self {
        self.settings.pinned = Some(Pinning::Off);
        self
    }

    /// Connections at the same time; further clients wait.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = Some(connections);
        self
    }

    /// How long a client may take to choose an export.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handshake_timeout = Some(timeout);
        self
    }

    /// Shards spin up to this long before they sleep, while that pays: less latency, more CPU.
    pub fn busy_poll(mut self, time: Duration) -> Self {
        self.settings.busy_poll = Some(time);
        self
    }

    /// Serves metrics, a JSON API and a dashboard over HTTP: `HOST:PORT` or `unix:PATH`. There is no
    /// authentication.
    pub fn admin(mut self, address: &str) -> Self {
        if let Some(address) = self.parsed::<AdminAddress>(address) {
            self.settings.admin = Some(address);
        }
        self
    }

    /// Logs requests that take longer, by `tracing`.
    pub fn slow(mut self, threshold: Duration) -> Self {
        self.settings.slow = Some(threshold);
        self
    }

    /// Writes latencies by second as an HdrHistogram log.
    pub fn latency_log(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.latency_log = Some(path.into());
        self
    }

    /// Starts the server on threads of its own; returns when clients can connect.
    ///
    /// # Errors
    /// [`ServerError`]; nothing is left behind then.
    pub fn start(self) -> Result<ServerHandle, ServerError> {
        if let Some(wrong) = self.wrong {
            return Err(ServerError::Setting(wrong));
        }
        if self.settings.exports.is_empty() {
            return Err(ServerError::Setting(
                "a server without exports serves nobody: give it one".to_owned(),
            ));
        }
        let machine = control::machine::survey().map_err(|error| ServerError::Start(error.into()))?;
        let resolved = Config::resolve(self.settings, &machine);
        let config = resolved.map_err(|error| ServerError::Setting(error.to_string()))?;
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let (ready, started) = sync_channel(1);
        let read_only = self.read_only;
        let (wish, wishes) = unbounded_channel();
        let devices = self.devices.into_iter().map(Some).collect();
        let run = move || control::run(&config, Service::Listeners, &mut Embedded { ready, wishes, devices });
        let thread = std::thread::Builder::new().name("ringnbd".into()).spawn(run);
        let thread = thread.map_err(|error| ServerError::Start(error.into()))?;
        match started.recv() {
            Ok(Started { exports, admin }) => {
                Ok(ServerHandle { exports, admin, read_only, wish, thread: Some(thread) })
            }
            Err(_never_ready) => Err(match thread.join() {
                Ok(Err(error)) => ServerError::Start(Box::new(error)),
                Ok(Ok(_)) => ServerError::Start("the server ended before it was ready".into()),
                Err(panic) => std::panic::resume_unwind(panic),
            }),
        }
    }

    fn parsed<T: FromStr<Err: Display>>(&mut self, text: &str) -> Option<T> {
        text.parse().map_err(|error: T::Err| self.note_wrong(error.to_string())).ok()
    }

    fn note_wrong(&mut self, sentence: String) {
        self.wrong.get_or_insert(sentence);
    }
}

fn export_config(name: &str, uri: &str) -> Result<ExportConfig, String> {
    let of = |error: &dyn Display| format!("the export \"{name}\": {error}");
    let uri = uri.parse().map_err(|error: <crate::config::ExportUri as FromStr>::Err| of(&error))?;
    ExportConfig::new(name, uri, None, false).map_err(|error| of(&error))
}

/// A server that runs. Dropping it is [`ServerHandle::stop`].
#[derive(Debug)]
pub struct ServerHandle {
    exports: Vec<Served>,
    admin: Vec<String>,
    read_only: bool,
    wish: UnboundedSender<HostRequest>,
    thread: Option<JoinHandle<Result<Ending, StartError>>>,
}

impl ServerHandle {
    /// Serves one more export from now on; says where.
    ///
    /// A file that another process has locked is waited for some seconds, as at the start.
    ///
    /// # Errors
    /// [`ServerError::Setting`] for a URI that is none, [`ServerError::Change`] when the name is taken,
    /// [`ServerError::Start`] when the export cannot be opened. What is served stays as it is.
    pub fn add_export(&self, name: &str, uri: &str) -> Result<Served, ServerError> {
        let wanted = export_config(name, uri).map_err(ServerError::Setting)?;
        // Here, because it may take its time.
        let export = Export::open(&wanted.uri, self.read_only || wanted.read_only);
        let export = export.map_err(|error| ServerError::Start(Box::new(error)))?;
        self.add(wanted, export)
    }

    fn add(&self, wanted: ExportConfig, export: Export) -> Result<Served, ServerError> {
        let (name, description, source) = (wanted.name, wanted.description, wanted.uri.to_string());
        self.change(|answer| {
            HostRequest::Add(Box::new(AddExport {
                name,
                description,
                source,
                export,
                answer: Box::new(answer),
            }))
        })
    }

    /// Serves one more device of the application's own from now on; says where. See
    /// [`device`](crate::device).
    ///
    /// # Errors
    /// As [`ServerHandle::add_export`].
    pub fn add_device(&self, name: &str, device: ApplicationDevice) -> Result<Served, ServerError> {
        let uri = ExportUri::Application { number: 0 };
        let wrong = |error: &dyn Display| format!("the export \"{name}\": {error}");
        let wanted =
            ExportConfig::new(name, uri, None, false).map_err(|error| ServerError::Setting(wrong(&error)))?;
        let export = Export::of_device(&device, self.read_only);
        let export = export.map_err(|error| ServerError::Start(Box::new(error)))?;
        self.add(wanted, export)
    }

    /// Serves an export no more. New clients do not find it. With [`Removal::AtOnce`] and
    /// [`Removal::CutOff`] its connections end, and it is closed when this returns; with
    /// [`Removal::WhenUnused`] they go on, with [`Removal::WithErrors`] they end when nothing of them is
    /// under way, and it is closed when the last one is gone.
    ///
    /// # Errors
    /// [`ServerError::Change`]: there is none of that name.
    pub fn remove_export(&self, name: &str, how: Removal) -> Result<(), ServerError> {
        let name = name.to_owned();
        self.change(|answer| {
            HostRequest::Remove(Box::new(RemoveExport { name, how, answer: Box::new(answer) }))
        })
    }

    fn change<T: Send + 'static>(
        &self,
        wish: impl FnOnce(ChangeAnswer<T>) -> HostRequest,
    ) -> Result<T, ServerError> {
        let (answer, answered) = sync_channel(1);
        let wish = wish(Box::new(move |result| drop(answer.send(result))));
        let sent = self.wish.send(wish).is_ok();
        let answer = if sent { answered.recv().ok() } else { None };
        answer.unwrap_or(Err(ChangeError::Stopping)).map_err(ServerError::Change)
    }

    /// What was served at the start, in the order in which it was given.
    pub fn exports(&self) -> &[Served] {
        &self.exports
    }

    /// Where the admin server is: HTTP URLs, or `unix:PATH`.
    pub fn admin(&self) -> &[String] {
        &self.admin
    }

    /// Stops: no new clients, what was begun is finished and answered, then connections close. Blocks until
    /// that is done, ten seconds at most.
    pub fn stop(mut self) -> Ending {
        self.ask_to_stop();
        self.join()
    }

    /// Stops at once: what is in flight is lost.
    pub fn kill(mut self) -> Ending {
        self.ask_to_stop();
        self.ask_to_stop();
        self.join()
    }

    /// Waits until the server ends by itself, which it does when its last shard has failed.
    pub fn wait(mut self) -> Ending {
        self.join()
    }

    fn ask_to_stop(&self) {
        // An error means that it has ended.
        let _ended = self.wish.send(HostRequest::Stop("stop"));
    }

    fn join(&mut self) -> Ending {
        let Some(thread) = self.thread.take() else { return Ending::Stopped };
        match thread.join() {
            Ok(ending) => ending.unwrap_or(Ending::Failed),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.ask_to_stop();
            // A panic was reported where it happened; a second one here would end the process.
            let _reported = thread.join();
        }
    }
}

/// What is known when clients can connect.
struct Started {
    exports: Vec<Served>,
    admin: Vec<String>,
}

/// An application around a server: nothing of it is changed.
struct Embedded {
    ready: SyncSender<Started>,
    wishes: UnboundedReceiver<HostRequest>,
    /// Those that were not handed over yet.
    devices: Vec<Option<ApplicationDevice>>,
}

/// Files that an application may add while its server runs and that may all block at the same time: a shard
/// has threads for so many.
const EXPORTS_LATER: usize = 16;

/// Takes the answer to a change.
type ChangeAnswer<T> = Box<dyn FnOnce(Result<T, ChangeError>) + Send>;

impl Host for Embedded {
    fn before_accept(&mut self, ready: Ready<'_>) -> Result<(), HostError> {
        let started = Started { exports: ready.exports.to_vec(), admin: ready.admin.to_vec() };
        self.ready.send(started).map_err(|_| HostError::from("nobody waits for the server to start"))
    }

    async fn next(&mut self) -> HostRequest {
        match self.wishes.recv().await {
            Some(wish) => wish,
            // The handle asks before it goes. Without it nobody can ask again.
            None => std::future::pending().await,
        }
    }

    fn device(&mut self, number: usize) -> Option<ApplicationDevice> {
        self.devices.get_mut(number)?.take()
    }

    fn exports_later(&self) -> usize {
        EXPORTS_LATER
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::backend::{ApplicationDevice, DeviceQueue, DeviceRequest, FastDevice};
    use crate::block::DeviceFacts;
    use crate::client::{Client, Timeouts, enter};
    use crate::nbd::session::ReplyMode;
    use crate::nbd::wire::{NBD_CMD_FLUSH, NBD_CMD_READ, NBD_REQUEST_MAGIC};

    fn small() -> ServerBuilder {
        ServerBuilder::new().shards(1).memory(64 << 20).unpinned()
    }

    fn client(server: &ServerHandle, export: usize) -> Client {
        let uri = server.exports()[export].uris[0].parse().unwrap();
        Client::open(&uri, &[], Timeouts::default()).unwrap()
    }

    /// What of this process a server might change: signals, groups, privileges, limits, its environment.
    fn process() -> BTreeMap<String, String> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let kept = ["Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "SigIgn", "SigCgt", "CapEff"];
        let fields = status.lines().filter_map(|line| line.split_once(':'));
        let mut found: BTreeMap<_, _> = fields
            .filter(|(name, _)| kept.contains(name))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        found.insert("limits".to_owned(), std::fs::read_to_string("/proc/self/limits").unwrap());
        found.insert("directory".to_owned(), std::env::current_dir().unwrap().display().to_string());
        found
    }

    #[test]
    fn servers_live_in_a_process_and_leave_it_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("a.sock");
        let before = process();
        let first = small().export("a", "mem:1M").unix(&socket).start().unwrap();
        let second = small().export("b", "mem:2M").export("c", "null:1G").tcp("127.0.0.1:0").start().unwrap();
        assert_eq!(process(), before);
        let (mut a, mut b) = (client(&first, 0), client(&second, 0));
        a.write_at(512, b"first").unwrap();
        b.write_at(512, b"other").unwrap();
        let mut bytes = [0; 5];
        a.read_at(512, &mut bytes).unwrap();
        assert_eq!(&bytes, b"first");
        assert!(socket.exists());
        drop((a, b));
        assert_eq!(first.stop(), Ending::Stopped);
        assert!(!socket.exists(), "its file is gone with it");
        client(&second, 1).write_at(0, b"still there").unwrap();
        drop(second);
        assert_eq!(process(), before);
    }

    /// A device that counts how often it is opened.
    struct Counted(Arc<AtomicUsize>);

    impl FastDevice for Counted {
        fn facts(&self) -> DeviceFacts {
            DeviceFacts::new(1 << 20)
        }

        fn open(&self, _shard: usize) -> std::io::Result<Box<dyn DeviceQueue>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(Discarding))
        }
    }

    struct Discarding;

    impl DeviceQueue for Discarding {
        fn submit(&mut self, request: DeviceRequest) {
            request.complete();
        }
    }

    #[test]
    fn a_device_has_a_home_when_it_wants_one() {
        for (one_shard, expected) in [(false, 2), (true, 1)] {
            let opened = Arc::new(AtomicUsize::new(0));
            let device = ApplicationDevice::fast(Counted(Arc::clone(&opened)));
            let device = if one_shard { device.on_one_shard() } else { device };
            let server = small().shards(2).memory(128 << 20).device("", device).tcp("127.0.0.1:0");
            let server = server.start().unwrap();
            let mut clients: Vec<_> = (0..4).map(|_| client(&server, 0)).collect();
            for client in &mut clients {
                client.write_at(0, &[1; 512]).unwrap();
            }
            assert_eq!(opened.load(Ordering::Relaxed), expected);
        }
    }

    #[test]
    fn a_server_that_is_killed_waits_for_nobody() {
        let server = small().export("", "fault:delay.read=1h:mem:1M").tcp("127.0.0.1:0").start().unwrap();
        let uri = server.exports()[0].uris[0].parse().unwrap();
        let (socket, _) = enter(&uri, ReplyMode::Simple, Timeouts::default()).unwrap();
        let mut socket = std::fs::File::from(socket);
        let request = |command: u16, length: u32| {
            let mut bytes = NBD_REQUEST_MAGIC.to_be_bytes().to_vec();
            bytes.extend([0, 0]);
            bytes.extend(command.to_be_bytes());
            bytes.extend([0; 16]);
            bytes.extend(length.to_be_bytes());
            bytes
        };
        // The FLUSH behind it is answered, so that the READ has begun.
        socket.write_all(&[request(NBD_CMD_READ, 512), request(NBD_CMD_FLUSH, 0)].concat()).unwrap();
        socket.read_exact(&mut [0; 16]).unwrap();
        assert_eq!(server.kill(), Ending::CutOff);
    }

    #[test]
    fn a_client_that_says_nothing_holds_no_server_up() {
        for end in [ServerHandle::stop, ServerHandle::kill] {
            let socket = tempfile::tempdir().unwrap();
            let path = socket.path().join("socket");
            let server = small().export("", "mem:1M").unix(&path).start().unwrap();
            let mut silent = std::os::unix::net::UnixStream::connect(&path).unwrap();
            // The greeting: its handshake has begun.
            silent.read_exact(&mut [0; 18]).unwrap();
            end(server);
            assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0, "it was closed");
        }
    }

    #[test]
    fn ten_thousand_exports_are_not_too_many() {
        let builder =
            (0..10_000).fold(small(), |builder, number| builder.export(&number.to_string(), "mem:1G"));
        let server = builder.tcp("127.0.0.1:0").start().unwrap();
        let (mut first, mut last) = (client(&server, 0), client(&server, 9_999));
        let (mut here, mut there) = ([0; 4], [0; 4]);
        last.write_at(0, b"last").unwrap();
        first.read_at(0, &mut here).unwrap();
        last.read_at(0, &mut there).unwrap();
        assert_eq!((&here, &there), (&[0; 4], b"last"));
    }

    /// Descriptors and mappings of this process that lead below a directory.
    fn held_below(directory: &std::path::Path) -> usize {
        let names = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let files = names.filter_map(|name| std::fs::read_link(name.path()).ok());
        let files = files.filter(|file| file.starts_with(directory)).count();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        files + maps.lines().filter(|line| line.contains(directory.to_str().unwrap())).count()
    }

    #[test]
    fn a_thousand_exports_come_and_go_under_load_and_leave_nothing() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let directory = tempfile::tempdir().unwrap();
        let builder = small().shards(2).memory(128 << 20).admin("127.0.0.1:0");
        // Over TCP a client that was served just now has a second to close its end.
        let socket = tempfile::tempdir().unwrap();
        let builder = builder.export("steady", "mem:1M").unix(socket.path().join("socket"));
        let server = builder.start().unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (mut client, stop) = (client(&server, 0), &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        client.write_at(0, &[7; 4096]).unwrap();
                        client.read_at(0, &mut [0; 4096]).unwrap();
                    }
                });
            }
            for number in 0..1000_u32 {
                let (path, name) = (directory.path().join(number.to_string()), format!("e{number}"));
                std::fs::write(&path, [number as u8; 8192]).unwrap();
                let served = server.add_export(&name, &format!("file:{}", path.display())).unwrap();
                let uri = served.uris[0].parse().unwrap();
                let mut client = Client::open(&uri, &[], Timeouts::default()).unwrap();
                let mut bytes = [0; 512];
                client.read_at(4096, &mut bytes).unwrap();
                assert_eq!(bytes, [number as u8; 512]);
                client.write_at(0, &number.to_le_bytes()).unwrap();
                match number % 3 {
                    0 => {
                        server.remove_export(&name, Removal::AtOnce).unwrap();
                        client.read_at(0, &mut bytes).unwrap_err();
                    }
                    1 => {
                        drop(client);
                        server.remove_export(&name, Removal::AtOnce).unwrap();
                    }
                    _ => {
                        server.remove_export(&name, Removal::WhenUnused).unwrap();
                        client.read_at(0, &mut bytes).unwrap();
                        assert_eq!(bytes[..4], number.to_le_bytes(), "its client goes on");
                    }
                }
                Client::open(&uri, &[], Timeouts::default()).unwrap_err();
                assert_eq!(std::fs::read(&path).unwrap()[..4], number.to_le_bytes());
                std::fs::remove_file(&path).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        let begun = std::time::Instant::now();
        while held_below(directory.path()) > 0 {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} files or mappings are left",
                held_below(directory.path())
            );
            std::thread::yield_now();
        }
        assert!(matches!(
            server.remove_export("e1", Removal::AtOnce),
            Err(ServerError::Change(ChangeError::NoSuchExport(_)))
        ));
        assert!(matches!(
            server.add_export("steady", "null:1M"),
            Err(ServerError::Change(ChangeError::NameTaken(_)))
        ));
        assert_eq!(server.stop(), Ending::Stopped);
    }

    #[test]
    fn what_is_wrong_is_a_sentence() {
        let failed = |builder: ServerBuilder| builder.start().unwrap_err().to_string();
        assert!(failed(small()).contains("without exports"));
        assert!(failed(small().export("a", "mem:10GB")).contains("\"a\""));
        assert!(failed(small().export("a", "mem:1M").export("a", "mem:1M")).contains("two exports"));
        assert!(failed(small().export("a", "mem:1M").tcp("[")).contains("HOST:PORT"));
        assert!(failed(small().export("a", "/nonexistent/disk.img")).contains("/nonexistent/disk.img"));
        assert!(failed(small().export("a", "mem:1M").unix("/nonexistent/socket")).contains("/nonexistent"));
        assert!(failed(small().export("a", "mem:1M").shards(0)).contains("shard"));
    }
}
