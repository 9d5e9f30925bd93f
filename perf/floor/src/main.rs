//! The floor: the least that a server can do which copies reads from the page cache to a socket through io_uring.
//!
//! `floor FILE SOCKET` serves FILE read-only over NBD on a unix socket, on one thread with one ring: registered files, a registered
//! buffer, one receive for as many requests as there are, a READ_FIXED for each, one SENDMSG for as many replies as there are. It has no limits, no
//! fairness, no timeouts, no errors beyond EIO, no other command, and no read above 4 KiB. It is measured and nothing else: never give it
//! to a client that is not trusted.

mod connection;
mod handshake;

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;
use std::{fs::File, io, ptr};

use io_uring::{IoUring, opcode, squeue, types};

use connection::{Connection, HEADER, LONGEST_READ};

/// Reads in flight, and replies that are not out.
const SLOTS: usize = 8192;
/// Sockets; the file is registered before them.
const CONNECTIONS: usize = 2048;
const FILE: types::Fixed = types::Fixed(0);

/// What a completion is about, in the upper half of its `user_data`; the lower half says which.
const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1;
const READ: u64 = 2;
const SEND: u64 = 3;

/// A read, from its request to the end of the send that has its data.
#[derive(Clone, Copy, Default)]
pub struct Slot {
    connection: usize,
    cookie: [u8; 8],
    length: usize,
}

struct Server {
    ring: IoUring,
    listener: UnixListener,
    size: u64,
    memory: *mut u8,
    slots: Vec<Slot>,
    free: Vec<usize>,
    connections: Vec<Option<Box<Connection>>>,
    /// Connections that have replies.
    to_send: Vec<usize>,
    to_receive: Vec<usize>,
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, socket] = arguments.as_slice() else {
        eprintln!("usage: floor FILE SOCKET");
        std::process::exit(2);
    };
    let file = File::open(file)?;
    let size = file.metadata()?.len();
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(4 * SLOTS as u32)
        .build(4096)?;
    let length = SLOTS * LONGEST_READ;
    // SAFETY: a new mapping, which lives until the process ends.
    let memory = unsafe {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0)
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping outlives the ring.
    unsafe { ring.submitter().register_buffers(&[libc::iovec { iov_base: memory, iov_len: length }])? };
    ring.submitter().register_files_sparse(1 + CONNECTIONS as u32)?;
    ring.submitter().register_files_update(0, &[file.as_raw_fd()])?;
    let server = Server {
        ring,
        listener: UnixListener::bind(socket)?,
        size,
        memory: memory.cast(),
        slots: vec![Slot::default(); SLOTS],
        free: (0..SLOTS).rev().collect(),
        connections: (0..CONNECTIONS).map(|_| None).collect(),
        to_send: Vec::new(),
        to_receive: Vec::new(),
    };
    server.run()
}

fn user_data(kind: u64, index: usize) -> u64 {
    kind << 32 | index as u64
}

fn socket(index: usize) -> types::Fixed {
    types::Fixed(1 + index as u32)
}

impl Server {
    fn run(mut self) -> io::Result<()> {
        self.accept_next()?;
        let mut completions = Vec::new();
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            completions.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result())));
            for (about, result) in completions.drain(..) {
                let index = about as u32 as usize;
                match about >> 32 {
                    ACCEPT => self.accepted(result)?,
                    RECEIVE => self.received(index, result)?,
                    READ => self.read(index, result),
                    _ => self.sent(index, result),
                }
            }
            self.start_sends()?;
            self.start_receives()?;
        }
    }

    fn push(&mut self, entry: &squeue::Entry, about: u64) -> io::Result<()> {
        let entry = entry.clone().user_data(about);
        // SAFETY: slots and connections stay where they are until the completion of what uses them was seen.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }

    fn accept_next(&mut self) -> io::Result<()> {
        let listener = types::Fd(self.listener.as_raw_fd());
        self.push(&opcode::PollAdd::new(listener, libc::POLLIN as u32).build(), user_data(ACCEPT, 0))
    }

    /// A client waits. Its handshake is done here and now, everybody else waits for it: it is no part of the measurement.
    fn accepted(&mut self, result: i32) -> io::Result<()> {
        if result > 0 {
            let (stream, _) = self.listener.accept()?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            match handshake::negotiate(&stream, self.size) {
                Ok(true) => self.connect(stream)?,
                Ok(false) => {}
                Err(error) => eprintln!("floor: handshake: {error}"),
            }
        }
        self.accept_next()
    }

    fn connect(&mut self, stream: UnixStream) -> io::Result<()> {
        let Some(index) = self.connections.iter().position(Option::is_none) else {
            eprintln!("floor: more than {CONNECTIONS} connections");
            return Ok(());
        };
        stream.set_read_timeout(None)?;
        self.ring.submitter().register_files_update(1 + index as u32, &[stream.as_raw_fd()])?;
        self.connections[index] = Some(Box::new(Connection::new(stream)));
        self.to_receive.push(index);
        Ok(())
    }

    /// Requests came: a read is started for each.
    fn received(&mut self, index: usize, result: i32) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        connection.receiving = false;
        if result <= 0 {
            return Ok(self.close(index));
        }
        connection.received(result as usize);
        while let Some(request) = self.connections[index].as_mut().and_then(|connection| connection.next()) {
            let fits = request.offset.checked_add(request.length as u64).is_some_and(|end| end <= self.size);
            let slot = if request.is_read && fits && request.length <= LONGEST_READ {
                self.free.pop()
            } else {
                None
            };
            let Some(slot) = slot else {
                if !request.is_disconnect {
                    eprintln!(
                        "floor: it has only reads of up to {LONGEST_READ} bytes, at most {SLOTS} at once"
                    );
                }
                return Ok(self.close(index));
            };
            self.slots[slot] = Slot { connection: index, cookie: request.cookie, length: request.length };
            let address = self.memory.wrapping_add(slot * LONGEST_READ);
            let entry = opcode::ReadFixed::new(FILE, address, request.length as u32, 0)
                .offset(request.offset)
                .build();
            if let Some(connection) = &mut self.connections[index] {
                connection.reading += 1;
            }
            self.push(&entry, user_data(READ, slot))?;
        }
        self.to_receive.push(index);
        Ok(())
    }

    /// A read is done: its reply is queued.
    fn read(&mut self, slot: usize, result: i32) {
        let Slot { connection: index, cookie, length } = self.slots[slot];
        let Some(connection) = &mut self.connections[index] else { return };
        connection.reading -= 1;
        let whole = usize::try_from(result) == Ok(length);
        let data = self.memory.wrapping_add(slot * LONGEST_READ);
        connection.reply(slot, cookie, data, if whole { length } else { 0 });
        if !std::mem::replace(&mut connection.listed, true) {
            self.to_send.push(index);
        }
    }

    /// A send has ended: the slots of its replies are free.
    fn sent(&mut self, index: usize, result: i32) {
        let Some(connection) = &mut self.connections[index] else { return };
        self.free.append(&mut connection.sending);
        connection.is_sending = false;
        if result <= 0 {
            self.close(index);
        } else if !connection.queued.is_empty() && !std::mem::replace(&mut connection.listed, true) {
            self.to_send.push(index);
        }
    }

    fn start_sends(&mut self) -> io::Result<()> {
        let mut list = std::mem::take(&mut self.to_send);
        for index in list.drain(..) {
            let Some(connection) = &mut self.connections[index] else { continue };
            connection.listed = false;
            if connection.closing {
                self.close(index);
                continue;
            }
            // Whoever is being sent to comes back on the list when that has ended.
            if connection.is_sending {
                continue;
            }
            let message = connection.message();
            let flags = (libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32;
            let entry = opcode::SendMsg::new(socket(index), message).flags(flags).build();
            self.push(&entry, user_data(SEND, index))?;
        }
        self.to_send = list;
        Ok(())
    }

    fn start_receives(&mut self) -> io::Result<()> {
        let mut list = std::mem::take(&mut self.to_receive);
        for index in list.drain(..) {
            let Some(connection) = &mut self.connections[index] else { continue };
            if connection.closing {
                continue;
            }
            let (address, length) = connection.room();
            connection.receiving = true;
            let entry = opcode::Recv::new(socket(index), address, length as u32).build();
            self.push(&entry, user_data(RECEIVE, index))?;
        }
        self.to_receive = list;
        Ok(())
    }

    /// Shuts a connection down, and forgets it when nothing of it is in flight any more.
    fn close(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        if std::mem::replace(&mut connection.closing, true) && connection.is_busy() {
            return;
        }
        connection.shut_down();
        if !connection.is_busy() {
            self.free.append(&mut connection.queued);
            let released = self.ring.submitter().register_files_update(1 + index as u32, &[-1]);
            assert!(released.is_ok(), "a registered socket can be released");
            self.connections[index] = None;
        }
    }
}

const _: () = assert!(HEADER == 16);
