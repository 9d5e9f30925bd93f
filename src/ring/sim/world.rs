//! The state of a world: clock, events, operations in flight, and what completes them.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{BorrowedFd, RawFd};

use super::faults::Faults;
use super::files::SimFile;
use super::names::SimDirectories;
use super::parts::{Mapped, RingState, SimSocket};
use super::shared_words::SimSharedWords;
use super::work::{Completed, Event, InFlight, Object, SimNames, SimWork};
use crate::random::{Random, mixed};
use crate::ring::operation::SendMode;

pub(super) struct WorldState {
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) now: u64,
    /// Numbers everything that happens.
    order: u64,
    pub(super) events: BTreeMap<(u64, u64), (u64, Event)>,
    pub(super) operations: BTreeMap<u64, InFlight>,
    pub(super) rings: Vec<RingState>,
    pub(super) files: Vec<SimFile>,
    pub(super) directories: SimDirectories,
    /// Memory that outlives a process, by the file that it belongs to.
    pub(super) shared_words: BTreeMap<usize, SimSharedWords>,
    pub(super) sockets: Vec<SimSocket>,
    pub(super) tokens: HashMap<RawFd, Object>,
    /// Files that sends read from, by the address that stands for their start.
    pub(super) mapped: BTreeMap<usize, Mapped>,
    /// Files with an allocation under way, and until when it holds their lock.
    pub(super) locked: BTreeMap<usize, u64>,
    /// Files whose disk does not answer before some moment.
    pub(super) hung: BTreeMap<usize, u64>,
    /// How often a shard slept in the kernel.
    pub(super) sleeps: u64,
    /// When operations that change files completed.
    pub(super) completed: BTreeMap<u64, u64>,
    /// See [`World::slept_in_vain`](super::World::slept_in_vain).
    pub(super) slept_in_vain: bool,
    pub(super) trace: u64,
    pub(super) outcomes: BTreeMap<&'static str, u64>,
}

impl WorldState {
    pub(super) fn new(random: Random, faults: Faults) -> Self {
        Self {
            random,
            faults,
            now: 0,
            order: 0,
            events: BTreeMap::new(),
            operations: BTreeMap::new(),
            rings: Vec::new(),
            files: Vec::new(),
            directories: SimDirectories::default(),
            shared_words: BTreeMap::new(),
            sockets: Vec::new(),
            tokens: HashMap::new(),
            mapped: BTreeMap::new(),
            locked: BTreeMap::new(),
            hung: BTreeMap::new(),
            sleeps: 0,
            completed: BTreeMap::new(),
            slept_in_vain: false,
            trace: 0,
            outcomes: BTreeMap::new(),
        }
    }

    pub(super) fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// Adds to the trace.
    pub(super) fn note(&mut self, what: u64) {
        self.trace = mixed(self.trace ^ what);
    }

    pub(super) fn note_bytes(&mut self, bytes: &[u8]) {
        let mut hash = bytes.len() as u64;
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            hash = (hash.rotate_left(5) ^ u64::from_le_bytes(padded)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        self.note(hash);
    }

    pub(super) fn latency(&mut self) -> u64 {
        self.faults.latency(&mut self.random)
    }

    pub(super) fn shortened(&mut self, length: usize) -> usize {
        let short = length > 1 && self.random.chance(self.faults.short);
        if short { 1 + self.random.below(length as u64 - 1) as usize } else { length }
    }

    pub(super) fn at(&mut self, moment: u64, serial: u64, event: Event) {
        let order = self.next_order();
        self.events.insert((moment, order), (serial, event));
    }

    pub(super) fn try_later(&mut self, serial: u64) {
        let moment = self.now + self.latency();
        self.at(moment, serial, Event::Try);
    }

    /// The work of an operation in flight, to change it.
    pub(super) fn work(&mut self, serial: u64) -> Option<&mut SimWork> {
        self.operations.get_mut(&serial).map(|operation| &mut operation.work)
    }

    /// An operation was submitted.
    pub(super) fn start(&mut self, ring: usize, key: u32, mut work: SimWork) {
        let serial = self.next_order();
        let mut first = self.now + self.latency();
        match &mut work {
            SimWork::Transfer(transfer) => {
                let transfer = transfer.clone();
                self.operations.insert(serial, InFlight { ring, key, work });
                return self.start_transfer(serial, &transfer);
            }
            SimWork::Sync { order, .. } | SimWork::Names(SimNames::Sync { order, .. }) => *order = serial,
            SimWork::Receive { fault, .. } => {
                let no_buffers = self.random.chance(self.faults.no_buffers).then_some(libc::ENOBUFS);
                *fault = self.small_fault().or(no_buffers);
            }
            // What does not wait is done when it is submitted.
            SimWork::Send { mode: SendMode::Now, .. } => {
                self.operations.insert(serial, InFlight { ring, key, work });
                return self.try_send(serial);
            }
            // A poll looks when it is submitted.
            SimWork::AwaitHangUp { socket } => {
                let socket = *socket;
                self.operations.insert(serial, InFlight { ring, key, work });
                return self.try_hang_up(serial, socket);
            }
            SimWork::Sleep { nanoseconds } => first = self.now + *nanoseconds,
            SimWork::Watch { eventfd } => {
                let eventfd = *eventfd;
                self.operations.insert(serial, InFlight { ring, key, work });
                return self.look_at(serial, eventfd);
            }
            _ => {}
        }
        let needs_worker = matches!(
            work,
            SimWork::Sync { .. } | SimWork::Allocate { .. } | SimWork::Names(_) | SimWork::Prefetch { .. }
        );
        self.operations.insert(serial, InFlight { ring, key, work });
        match needs_worker {
            true => self.queue_for_worker(ring, serial),
            false => self.at(first, serial, Event::Try),
        }
    }

    pub(super) fn next_event(&self) -> Option<u64> {
        self.events.first_key_value().map(|((moment, _), _)| *moment)
    }

    pub(super) fn step(&mut self) -> bool {
        let Some(((moment, _), (serial, event))) = self.events.pop_first() else { return false };
        self.now = self.now.max(moment);
        // An operation that was cancelled leaves its events behind.
        if !self.operations.contains_key(&serial) {
            return true;
        }
        match event {
            Event::Begin => self.begin_page_write(serial),
            Event::Part { start, end } => self.transfer_part(serial, start, end),
            Event::Complete(result) => self.complete(serial, result),
            Event::Try => self.attempt(serial),
        }
        true
    }

    fn attempt(&mut self, serial: u64) {
        match &self.operations[&serial].work {
            SimWork::Receive { socket, fault } => self.try_receive(serial, *socket, *fault),
            SimWork::ReceiveInto { .. } => self.try_receive_into(serial),
            SimWork::Send { .. } => self.try_send(serial),
            SimWork::AwaitHangUp { socket } => self.try_hang_up(serial, *socket),
            SimWork::AwaitRoom { socket } => self.try_await_room(serial, *socket),
            SimWork::Populate { file, range } => self.populate(serial, *file, *range),
            SimWork::Shutdown { socket, how } => {
                let (socket, how) = (*socket, *how);
                self.shut_down(socket, how);
                self.complete(serial, Ok(0));
            }
            SimWork::Sleep { .. } => self.complete(serial, Err(libc::ETIME)),
            SimWork::Cancel { target } => {
                let target = *target;
                self.cancel(serial, target);
            }
            SimWork::Prefetch { .. } => self.complete(serial, Ok(0)),
            SimWork::Sync { .. } => self.sync_file(serial),
            SimWork::Allocate { .. } => self.change_file(serial),
            SimWork::Names(work) => {
                let work = work.clone();
                self.work_on_names(serial, &work);
            }
            SimWork::Transfer(_) | SimWork::Watch { .. } => unreachable!("they have events of their own"),
        }
    }

    pub(super) fn complete(&mut self, serial: u64, result: Result<u32, i32>) {
        self.complete_with(serial, result, None, false);
    }

    /// An operation has opened something.
    pub(super) fn complete_open(&mut self, serial: u64, object: Object) {
        let opened = self.token(object);
        let ring = self.operations[&serial].ring;
        self.complete(serial, Ok(0));
        let completed = self.rings[ring].completions.back_mut().expect("it was just completed");
        completed.opened = Some(opened);
    }

    pub(super) fn complete_with(
        &mut self,
        serial: u64,
        result: Result<u32, i32>,
        buffer: Option<u16>,
        socket_nonempty: bool,
    ) {
        let InFlight { ring, key, work } = self.operations.remove(&serial).expect("it is in flight");
        self.leave_worker(ring, serial);
        let order = self.next_order();
        self.finish_file_work(serial, order, &work, result);
        self.count(&work, result);
        self.note(self.now);
        self.note((ring as u64) << 32 | u64::from(key));
        self.note(result.map_or_else(|errno| errno as u64 + (1 << 32), u64::from));
        self.rings[ring].completions.push_back(Completed {
            key,
            result,
            buffer,
            socket_nonempty,
            opened: None,
        });
    }

    fn count(&mut self, work: &SimWork, result: Result<u32, i32>) {
        let whole = match work {
            SimWork::Transfer(transfer) => Some(transfer.memory.length),
            SimWork::ReceiveInto { memory, .. } => Some(memory.length),
            SimWork::Send { total, .. } => Some(*total),
            _ => None,
        };
        let what = match result {
            Ok(moved) if whole.is_some_and(|whole| whole != moved as usize) => "short",
            Ok(_) => "ok",
            Err(libc::EINTR) => "EINTR",
            Err(libc::EAGAIN) => "EAGAIN",
            Err(libc::EIO) => "EIO",
            Err(libc::ENOSPC) => "ENOSPC",
            Err(libc::ECANCELED) => "ECANCELED",
            Err(libc::ENOBUFS) => "ENOBUFS",
            Err(libc::ECONNRESET | libc::EPIPE) => "reset",
            Err(libc::EOPNOTSUPP) => "EOPNOTSUPP",
            Err(_) => "other",
        };
        *self.outcomes.entry(what).or_default() += 1;
    }

    /// A shard asks to end an operation early, or all of them.
    fn cancel(&mut self, serial: u64, target: Option<u32>) {
        let ring = self.operations[&serial].ring;
        let wanted = |operation: &InFlight| {
            let cancel = matches!(operation.work, SimWork::Cancel { .. });
            operation.ring == ring && target.map_or(!cancel, |key| operation.key == key && !cancel)
        };
        // Only what was submitted before it.
        let earlier = self.operations.range(..serial);
        let found: Vec<u64> = earlier.filter(|(_, other)| wanted(other)).map(|(serial, _)| *serial).collect();
        let mut result = Err(libc::ENOENT);
        for target in found {
            result = match &self.operations[&target].work {
                SimWork::ReceiveInto { moved, .. } | SimWork::Send { moved, .. } if *moved > 0 => {
                    let moved = *moved as u32;
                    self.complete(target, Ok(moved));
                    Ok(0)
                }
                SimWork::Shutdown { .. } | SimWork::Sync { written_back: true, .. } => Err(libc::EALREADY),
                SimWork::Transfer(transfer) if transfer.began || self.random.chance(0.5) => {
                    Err(libc::EALREADY)
                }
                _ => {
                    self.complete(target, Err(libc::ECANCELED));
                    Ok(0)
                }
            };
        }
        self.complete(serial, result);
    }

    fn look_at(&mut self, serial: u64, eventfd: RawFd) {
        // SAFETY: the shard that watches it keeps its doorbell open.
        let doorbell = unsafe { BorrowedFd::borrow_raw(eventfd) };
        let mut waited = [rustix::event::PollFd::from_borrowed_fd(doorbell, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut waited, Some(&now)).is_ok_and(|ready| ready > 0) {
            let read = rustix::io::read(doorbell, &mut [0; 8][..]);
            assert_eq!(read, Ok(8), "it was rung");
            let moment = self.now + self.latency();
            self.at(moment, serial, Event::Complete(Ok(8)));
        }
    }

    pub(super) fn look_at_doorbells(&mut self) {
        let watched = self.operations.iter().filter_map(|(serial, operation)| {
            let SimWork::Watch { eventfd } = operation.work else { return None };
            Some((*serial, eventfd))
        });
        for (serial, eventfd) in watched.collect::<Vec<_>>() {
            self.look_at(serial, eventfd);
        }
    }
}
