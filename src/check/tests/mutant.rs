//! A small server that is right but for one bug. It shares no code with the statements but the protocol's
//! numbers.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::net::{RecvFlags, recv};

use super::bugs::Bug;
use super::dying::Unsynced;
use crate::client::uri::ServerAddress;
use crate::nbd::wire::*;

pub(super) const SIZE: u64 = 70 << 20;
pub(super) const MAXIMUM: u32 = 2 << 20;

/// What all connections share.
pub(super) struct World {
    pub(super) bug: Option<Bug>,
    pub(super) disk: Mutex<Vec<u8>>,
    /// No connection is accepted any more.
    pub(super) is_dead: AtomicBool,
    /// Held over a whole request by the server that serves one client at a time.
    pub(super) turn: Mutex<()>,
    /// The export is read-only.
    pub(super) is_read_only: bool,
    /// What a kill takes back.
    pub(super) unsynced: Mutex<Unsynced>,
    /// Connections of this life.
    pub(super) streams: Mutex<Vec<UnixStream>>,
    /// How often it was killed.
    pub(super) deaths: AtomicU32,
}

/// One client.
pub(super) struct Client {
    pub(super) world: Arc<World>,
    pub(super) stream: UnixStream,
    pub(super) is_structured: bool,
    pub(super) is_extended: bool,
    pub(super) asked_for_sizes: bool,
    /// `base:allocation` is selected for the export of this name.
    pub(super) selected: Option<Vec<u8>>,
    pub(super) flags: u16,
    /// Of all clients of the world.
    pub(super) number: u32,
    /// The life of the server that it came in.
    pub(super) life: u32,
    /// What its last READ gave.
    pub(super) last_read: Vec<u8>,
    /// What this client sees, when it does not see what the others do.
    pub(super) own_disk: Option<Vec<u8>>,
}

/// Starts a server; it ends with the process, or when it is killed by its bug.
pub(super) fn start(bug: Option<Bug>, is_read_only: bool) -> ServerAddress {
    listen(&world(bug, is_read_only))
}

/// A server that nobody can reach yet.
pub(super) fn world(bug: Option<Bug>, is_read_only: bool) -> Arc<World> {
    let mut disk: Vec<u8> = (0..SIZE).map(|at| (at / 3 % 251) as u8).take(1 << 20).collect();
    disk.resize(SIZE as usize, 0);
    Arc::new(World {
        bug,
        disk: Mutex::new(disk),
        is_dead: AtomicBool::new(false),
        turn: Mutex::new(()),
        is_read_only,
        unsynced: Mutex::default(),
        streams: Mutex::default(),
        deaths: AtomicU32::new(0),
    })
}

/// It can be reached at an address of its own.
pub(super) fn listen(world: &Arc<World>) -> ServerAddress {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("ringnbd-mutant-{}-{number}", std::process::id()).into_bytes();
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let world = Arc::clone(world);
    std::thread::spawn(move || {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept() else { return };
            if world.is_dead.load(Ordering::SeqCst) {
                return;
            }
            let world = Arc::clone(&world);
            world.streams.lock().unwrap().push(stream.try_clone().unwrap());
            std::thread::spawn(move || {
                let mut client = Client {
                    own_disk: (world.bug == Some(Bug::PrivateCopies))
                        .then(|| world.disk.lock().unwrap().clone()),
                    number,
                    life: world.deaths.load(Ordering::SeqCst),
                    last_read: Vec::new(),
                    world,
                    stream,
                    is_structured: false,
                    is_extended: false,
                    asked_for_sizes: false,
                    selected: None,
                    flags: 0,
                };
                let _the_client_left = client.serve();
                let _the_other_half_is_kept = client.stream.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    ServerAddress::Abstract(name)
}

pub(super) fn end<T>() -> io::Result<T> {
    Err(io::ErrorKind::ConnectionAborted.into())
}

impl Client {
    pub(super) fn has(&self, bug: Bug) -> bool {
        self.world.bug == Some(bug)
    }

    pub(super) fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.has(Bug::DiscCutsReplies) {
            true => self.say_until_disc(bytes),
            false => self.stream.write_all(bytes),
        }
    }

    /// Where there is no room for a reply it looks at what has come, and leaves when the last of it is DISC.
    fn say_until_disc(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            self.stream.set_nonblocking(true)?;
            let said = self.stream.write(rest);
            let mut ahead = [0; 1024];
            let come = recv(&self.stream, &mut ahead, RecvFlags::PEEK).map_or(0, |(length, _)| length);
            self.stream.set_nonblocking(false)?;
            let header = if self.is_extended { 32 } else { 28 };
            match said {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if come >= header => {
                    let last = &ahead[come / header * header - header..];
                    if last[6..8] == NBD_CMD_DISC.to_be_bytes() {
                        return end();
                    }
                    std::thread::yield_now();
                }
                Err(_) => std::thread::yield_now(),
            }
        }
        Ok(())
    }

    fn serve(&mut self) -> io::Result<()> {
        self.say(b"NBDMAGICIHAVEOPT\0\x03")?;
        let client = u32::from_be_bytes(self.take(4)?.try_into().unwrap());
        if client > 3 && !self.has(Bug::ClientFlagsIgnored) {
            return end();
        }
        let mut keeps_zeroes = client & 2 == 0;
        if self.has(Bug::NoZeroesIgnored) {
            keeps_zeroes = true;
        }
        let export = self.haggle(client & 1 != 0, keeps_zeroes)?;
        self.transmit(&export)
    }

    /// The flags of the transmission phase, as things stand.
    pub(super) fn transmission_flags(&self) -> u16 {
        let mut flags = NBD_FLAG_HAS_FLAGS
            | NBD_FLAG_SEND_FLUSH
            | NBD_FLAG_SEND_FUA
            | NBD_FLAG_SEND_TRIM
            | NBD_FLAG_SEND_WRITE_ZEROES
            | NBD_FLAG_CAN_MULTI_CONN
            | NBD_FLAG_SEND_CACHE;
        if self.is_structured || self.is_extended || self.has(Bug::DfWithSimple) {
            flags |= NBD_FLAG_SEND_DF;
        }
        if self.is_extended || self.has(Bug::PayloadFlagAlways) {
            flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
        }
        if self.world.is_read_only {
            flags |= NBD_FLAG_READ_ONLY;
        }
        flags
    }
}
