//! One ring of a world: it takes the operations that the kernel would, and knows no more of them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

use super::files::FileDescription;
use super::handle::World;
use super::mapped::MappedFile;
use super::parts::RingState;
use super::work::{Object, OperationMemory, SendPiece, SimNames, SimWork, Transfer};
use crate::ring::SharedMapping;
use crate::ring::buffer::BufferPool;
use crate::ring::key::{OpKey, Owner};
use crate::ring::mapped::SimulatedFile;
use crate::ring::names::{Directory, NameKind, NameWork};
use crate::ring::op::OpTable;
use crate::ring::operation::{FileIndex, Operation};
use crate::ring::receive::ReceiveRing;
use crate::ring::uring::{Event, RingError, RingOptions, Wait, deliver};

pub(in crate::ring) struct SimEngine {
    pub(in crate::ring) table: OpTable,
    world: World,
    /// Its number in the world.
    ring: usize,
    /// Pushed and not submitted.
    queue: Vec<OpKey>,
    files: Vec<Option<Object>>,
    free_files: Vec<u32>,
    receive: ReceiveRing,
    _pool: BufferPool,
}

impl SimEngine {
    pub(in crate::ring) fn new(world: World, options: &RingOptions) -> Result<(Self, BufferPool), RingError> {
        let memory = |error| RingError::Memory(options.lease_memory >> 20, error);
        let pool = BufferPool::with_reserve(options.lease_memory, options.longest_lease, options.reserve)
            .map_err(memory)?;
        let receive = ReceiveRing::new(options.receive_buffers, options.receive_buffer).map_err(memory)?;
        let ring = world.state().rings.len();
        world.state().rings.push(RingState::new(receive.clone(), options.workers));
        let engine = Self {
            table: OpTable::with_capacity(64),
            world,
            ring,
            queue: Vec::new(),
            files: vec![None; options.files as usize],
            free_files: (0..options.files).rev().collect(),
            receive,
            _pool: pool.another_handle(),
        };
        Ok((engine, pool))
    }

    pub(in crate::ring) fn now(&self) -> Duration {
        self.world.now()
    }

    pub(in crate::ring) fn world(&self) -> &World {
        &self.world
    }

    pub(in crate::ring) fn push(&mut self, operation: Operation, owner: Owner) -> OpKey {
        let key = self.table.insert(operation, owner);
        if self.queue.len() >= self.world.state().faults.submission_entries {
            self.submit();
        }
        self.queue.push(key);
        key
    }

    fn submit(&mut self) {
        for key in std::mem::take(&mut self.queue) {
            let work = self.work(key);
            self.world.state().start(self.ring, key.0, work);
        }
    }

    fn file(&self, index: FileIndex) -> (usize, FileDescription) {
        match self.files[index.0 as usize] {
            Some(Object::File { file, description }) => (file, description),
            other => panic!("a file operation on {other:?}"),
        }
    }

    /// A file, and whether it is accessed directly.
    fn file_and_way(&self, index: FileIndex) -> (usize, bool) {
        let (file, description) = self.file(index);
        (file, description.direct)
    }

    fn socket(&self, index: FileIndex) -> usize {
        match self.files[index.0 as usize] {
            Some(Object::Socket(socket)) => socket,
            other => panic!("a socket operation on {other:?}"),
        }
    }

    /// What an SQE would say.
    fn work(&mut self, key: OpKey) -> SimWork {
        // Taken out for a moment only to have both halves of `self`.
        let mut table = std::mem::replace(&mut self.table, OpTable::with_capacity(0));
        let work = self.describe(table.operation_mut(key));
        self.table = table;
        work
    }

    fn describe(&self, operation: &mut Operation) -> SimWork {
        let memory = |address: *mut u8, capacity: usize, start: u32, length: u32| {
            assert!(start as usize + length as usize <= capacity);
            OperationMemory::new(address.wrapping_add(start as usize), length as usize)
        };
        match operation {
            Operation::Read { file, offset, lease, start, length, in_worker } => {
                let (file, direct) = self.file_and_way(*file);
                if !*in_worker && !direct {
                    self.world.state().sleep_for(self.ring, file);
                }
                let memory = memory(lease.address(), lease.capacity(), *start, *length);
                let (offset, write, durable, began) = (*offset, false, false, false);
                SimWork::Transfer(Transfer { file, direct, write, durable, offset, memory, began })
            }
            Operation::Write { file, offset, lease, start, length, durable } => {
                let (file, direct) = self.file_and_way(*file);
                let memory = memory(lease.address().cast_mut(), lease.capacity(), *start, *length);
                let (offset, write, durable, began) = (*offset, true, *durable, false);
                SimWork::Transfer(Transfer { file, direct, write, durable, offset, memory, began })
            }
            Operation::Sync { file, range } => {
                let (file, description) = self.file(*file);
                SimWork::Sync { file, description, range: *range, order: 0, written_back: false }
            }
            Operation::Allocate { file, mode, range } => {
                SimWork::Allocate { file: self.file(*file).0, range: *range, mode: *mode }
            }
            Operation::Name(work) => SimWork::Names(self.describe_names(work)),
            Operation::Prefetch { range, .. } => SimWork::Prefetch { range: *range },
            Operation::Receive { socket, .. } => {
                SimWork::Receive { socket: self.socket(*socket), fault: None }
            }
            Operation::ReceiveInto { socket, lease, start, length, whole } => {
                let memory = memory(lease.address(), lease.capacity(), *start, *length);
                SimWork::ReceiveInto { socket: self.socket(*socket), memory, moved: 0, whole: *whole }
            }
            Operation::Send { socket, mode, batch } => {
                let state = self.world.state();
                let pieces: Rc<[SendPiece]> =
                    batch.pieces().map(|(address, length)| state.piece(address, length)).collect();
                let total = batch.length();
                SimWork::Send { socket: self.socket(*socket), pieces, moved: 0, total, mode: *mode }
            }
            Operation::AwaitRoom { socket } => SimWork::AwaitRoom { socket: self.socket(*socket) },
            // A simulated socket has no descriptor: what comes of it is an errno.
            Operation::Install { .. } => SimWork::Sleep { nanoseconds: 0 },
            Operation::Populate { mapped } => {
                let pages = mapped.pages();
                match self.world.state().piece(pages.iov_base.cast(), pages.iov_len) {
                    SendPiece::File { file, .. } => SimWork::Populate { file, range: mapped.range() },
                    SendPiece::Memory(_) => panic!("only a mapped file is brought in"),
                }
            }
            Operation::AwaitHangUp { socket } => SimWork::AwaitHangUp { socket: self.socket(*socket) },
            Operation::Shutdown { socket, how } => {
                SimWork::Shutdown { socket: self.socket(*socket), how: *how }
            }
            Operation::Watch { eventfd, .. } => SimWork::Watch { eventfd: *eventfd },
            Operation::Sleep { duration } => {
                // SAFETY: the type is transparent over the kernel's `struct __kernel_timespec`, two integers
                // of 64 bits.
                let [seconds, rest] = unsafe { (&raw const **duration).cast::<[u64; 2]>().read() };
                SimWork::Sleep { nanoseconds: seconds.saturating_mul(1_000_000_000).saturating_add(rest) }
            }
            Operation::Cancel { target } => SimWork::Cancel { target: Some(target.0) },
            Operation::CancelAll => SimWork::Cancel { target: None },
        }
    }

    fn directory(&self, directory: &Directory) -> usize {
        match self.world.state().tokens.get(&directory.raw()) {
            Some(Object::Directory(number)) => *number,
            other => panic!("an operation below {other:?}"),
        }
    }

    fn describe_names(&self, work: &NameWork) -> SimNames {
        let place = |directory| self.directory(directory);
        match &work.kind {
            NameKind::Open { directory, name, how, .. } => {
                SimNames::Open { directory: place(directory), name: name.bytes().to_vec(), how: *how }
            }
            NameKind::MakeDirectory { directory, name } => {
                SimNames::MakeDirectory { directory: place(directory), name: name.bytes().to_vec() }
            }
            NameKind::Rename { from, to } => {
                let (old, new) = (from.1.bytes().to_vec(), to.1.bytes().to_vec());
                SimNames::Rename { from: (place(&from.0), old), to: (place(&to.0), new) }
            }
            NameKind::Remove { directory, name, removed } => {
                let (directory, name) = (place(directory), name.bytes().to_vec());
                SimNames::Remove { directory, name, removed: *removed }
            }
            NameKind::SyncDirectory { directory } => SimNames::Sync { directory: place(directory), order: 0 },
        }
    }

    /// Never waits: the driver steps the world.
    pub(in crate::ring) fn submit_and_reap(&mut self, _wait: Wait, limit: usize, events: &mut Vec<Event>) {
        self.submit();
        self.world.state().rings[self.ring].faults.turn += 1;
        for _ in 0..limit {
            let Some(entry) = self.world.state().rings[self.ring].completions.pop_front() else { return };
            let received = entry.buffer.map(|buffer| self.receive.take(buffer, entry.result.unwrap_or(0)));
            let key = OpKey(entry.key);
            let result = entry.opened.map_or(entry.result, |opened| Ok(opened.into_raw_fd() as u32));
            events.extend(deliver(&mut self.table, key, result, received, entry.socket_nonempty));
        }
    }

    pub(in crate::ring) fn has_work(&mut self) -> bool {
        self.world.has_completions(self.ring)
    }

    pub(in crate::ring) fn available_receive_buffers(&self) -> u16 {
        self.receive.available()
    }

    pub(in crate::ring) fn register_file(&mut self, file: BorrowedFd<'_>) -> io::Result<FileIndex> {
        let index = self.free_files.pop().ok_or(io::Error::from_raw_os_error(libc::EMFILE))?;
        let mut state = self.world.state();
        let object = state.tokens.get(&file.as_raw_fd()).copied().expect("a token of this world");
        if let Object::Socket(socket) = object {
            state.sockets[socket].taken = true;
            // The descriptor is closed now; its number may come back as another token.
            state.tokens.remove(&file.as_raw_fd());
        }
        self.files[index as usize] = Some(object);
        Ok(FileIndex(index))
    }

    pub(in crate::ring) fn release_file(&mut self, file: FileIndex) {
        let object = self.files[file.0 as usize].take().expect("it was registered");
        if let Object::Socket(socket) = object {
            self.world.state().release_socket(socket);
        }
        self.free_files.push(file.0);
    }

    pub(in crate::ring) fn map_file(&self, file: BorrowedFd<'_>, length: u64) -> io::Result<SharedMapping> {
        let object = self.world.state().tokens.get(&file.as_raw_fd()).copied();
        let Some(Object::File { file, .. }) = object else { panic!("only a file is mapped") };
        // A file that grows is there up to the end of the mapping.
        let mapped = |address, whole| -> Box<dyn SimulatedFile> {
            Box::new(MappedFile::new(&self.world, file, address, whole))
        };
        SharedMapping::simulated(length, mapped)
    }

    pub(in crate::ring) fn major_faults(&self) -> u64 {
        self.world.state().major_faults(self.ring)
    }

    pub(in crate::ring) fn registered_files(&self, total: u32) -> u32 {
        total - self.free_files.len() as u32
    }
}

impl Drop for SimEngine {
    fn drop(&mut self) {
        self.world.state().forget_ring(self.ring);
    }
}
