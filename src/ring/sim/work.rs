//! Operations in flight: what they work on, and what will happen to them.

use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

use super::files::FileDescription;
use crate::block::ByteRange;
use crate::ring::names::{OpenAs, Removed};
use crate::ring::operation::{AllocateMode, SendMode};

/// What a descriptor or a registered index names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    File { file: usize, description: FileDescription },
    Directory(usize),
    Socket(usize),
}

/// Memory that an operation in flight owns. Like the kernel, the world has only its address.
#[derive(Debug, Clone, Copy)]
pub(super) struct OperationMemory {
    address: *mut u8,
    pub(super) length: usize,
}

impl OperationMemory {
    pub(super) fn new(address: *mut u8, length: usize) -> Self {
        Self { address, length }
    }

    /// Whether O_DIRECT takes it on a disk with sectors of so many bytes.
    pub(super) fn is_aligned(&self, unit: usize) -> bool {
        self.address.addr().is_multiple_of(unit)
    }

    /// The bytes as they are now.
    pub(super) fn get(&self, start: usize, length: usize) -> &[u8] {
        assert!(start + length <= self.length);
        // SAFETY: the operation's entry in its table keeps the memory mapped until the completion is reaped,
        // and a world touches it only before that; `SimEngine` removes its operations when it goes. All is
        // one thread, and no reference is held across a step.
        unsafe { std::slice::from_raw_parts(self.address.add(start), length) }
    }

    pub(super) fn put(&self, start: usize, bytes: &[u8]) {
        assert!(start + bytes.len() <= self.length);
        // SAFETY: as in `get`; a copy, since a planted bug may have given the buffer to another owner.
        unsafe { std::ptr::copy(bytes.as_ptr(), self.address.add(start), bytes.len()) };
    }
}

/// A read or a write.
#[derive(Debug, Clone)]
pub(super) struct Transfer {
    pub(super) file: usize,
    pub(super) direct: bool,
    pub(super) write: bool,
    /// Durable when it completes.
    pub(super) durable: bool,
    pub(super) offset: u64,
    pub(super) memory: OperationMemory,
    /// It has had an effect already.
    pub(super) began: bool,
}

/// Bytes of a send: of memory, or of a file as they are when they are sent.
pub(super) enum SendPiece {
    Memory(OperationMemory),
    File { file: usize, offset: usize, length: usize },
}

impl SendPiece {
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Memory(memory) => memory.length,
            Self::File { length, .. } => *length,
        }
    }
}

/// What is being done.
pub(super) enum SimWork {
    Transfer(Transfer),
    /// `order`: what completed before is made durable.
    Sync {
        file: usize,
        description: FileDescription,
        range: Option<ByteRange>,
        order: u64,
        /// What should be durable is, or is lost; it has not looked yet which of both.
        written_back: bool,
    },
    Allocate {
        file: usize,
        range: ByteRange,
        mode: AllocateMode,
    },
    Names(SimNames),
    Prefetch {
        range: ByteRange,
    },
    Receive {
        socket: usize,
        fault: Option<i32>,
    },
    ReceiveInto {
        socket: usize,
        memory: OperationMemory,
        moved: usize,
        whole: bool,
    },
    Send {
        socket: usize,
        pieces: Rc<[SendPiece]>,
        moved: usize,
        total: usize,
        mode: SendMode,
    },
    AwaitRoom {
        socket: usize,
    },
    Populate {
        file: usize,
        range: ByteRange,
    },
    AwaitHangUp {
        socket: usize,
    },
    Shutdown {
        socket: usize,
        how: std::net::Shutdown,
    },
    Sleep {
        nanoseconds: u64,
    },
    Watch {
        eventfd: RawFd,
    },
    Cancel {
        target: Option<u32>,
    },
}

/// What is being done with names. Directories are numbers.
#[derive(Debug, Clone)]
pub(super) enum SimNames {
    Open {
        directory: usize,
        name: Vec<u8>,
        how: OpenAs,
    },
    MakeDirectory {
        directory: usize,
        name: Vec<u8>,
    },
    Rename {
        from: (usize, Vec<u8>),
        to: (usize, Vec<u8>),
    },
    Remove {
        directory: usize,
        name: Vec<u8>,
        removed: Removed,
    },
    /// `order`: what completed before is made durable.
    Sync {
        directory: usize,
        order: u64,
    },
}

pub(super) struct InFlight {
    pub(super) ring: usize,
    pub(super) key: u32,
    pub(super) work: SimWork,
}

/// Something that will happen to an operation.
pub(super) enum Event {
    /// Its pages are read.
    Begin,
    /// Part of a transfer moves.
    Part {
        start: usize,
        end: usize,
    },
    /// It takes effect all at once, or tries what it waits for.
    Try,
    Complete(Result<u32, i32>),
}

pub(super) struct Completed {
    pub(super) key: u32,
    pub(super) result: Result<u32, i32>,
    pub(super) buffer: Option<u16>,
    pub(super) socket_nonempty: bool,
    /// What was opened: the number of the descriptor is the result.
    pub(super) opened: Option<OwnedFd>,
}
