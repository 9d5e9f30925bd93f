//! The one place that turns an [`Operation`] into an SQE.

use io_uring::{opcode, squeue, types};

use super::operation::{AllocateMode, FileIndex, Operation, SendMode};
use super::receive::GROUP;

/// `IORING_RECVSEND_POLL_FIRST`: do not try, wait for the socket to become ready.
const POLL_FIRST: u16 = 1;
/// The registered buffer that is the whole arena.
const ARENA: u16 = 0;

fn fixed(file: FileIndex) -> types::Fixed {
    types::Fixed(file.0)
}

/// The SQE for an operation that stays where it is until its terminal CQE.
///
/// `registered` says whether the arena is a registered buffer. The addresses point into leases, boxes and
/// batches that `operation` owns. They stay valid as long as the operation is kept, moved or not, because all
/// of them are behind a pointer.
pub(super) fn build_entry(operation: &mut Operation, registered: bool) -> squeue::Entry {
    match operation {
        Operation::Read { file, offset, lease, start, length, in_worker } => {
            assert!(*start as usize + *length as usize <= lease.capacity());
            let address = lease.address().wrapping_add(*start as usize);
            let flags = if *in_worker { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
            if registered {
                opcode::ReadFixed::new(fixed(*file), address, *length, ARENA)
                    .offset(*offset)
                    .build()
                    .flags(flags)
            } else {
                opcode::Read::new(fixed(*file), address, *length).offset(*offset).build().flags(flags)
            }
        }
        Operation::Write { file, offset, lease, start, length, durable } => {
            assert!(*start as usize + *length as usize <= lease.capacity());
            let address = lease.address().wrapping_add(*start as usize);
            let flags = if *durable { libc::RWF_DSYNC } else { 0 };
            if registered {
                opcode::WriteFixed::new(fixed(*file), address, *length, ARENA)
                    .offset(*offset)
                    .rw_flags(flags)
                    .build()
            } else {
                opcode::Write::new(fixed(*file), address, *length).offset(*offset).rw_flags(flags).build()
            }
        }
        Operation::Sync { file, range } => {
            // No length means the whole file.
            let (offset, length) = range.map_or((0, 0), |range| (range.offset(), range.length() as u32));
            let sync = opcode::Fsync::new(fixed(*file)).flags(types::FsyncFlags::DATASYNC);
            sync.offset(offset).len(length).build()
        }
        Operation::Allocate { file, mode, range } => {
            let mode = match mode {
                AllocateMode::PunchHole => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                AllocateMode::ZeroRange => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
                AllocateMode::Grow => 0,
            };
            opcode::Fallocate::new(fixed(*file), range.length()).offset(range.offset()).mode(mode).build()
        }
        Operation::Prefetch { file, range } => {
            // The kernel reads 32 bits of length here; a longer range is asked for again.
            let length = range.length().min(1 << 30) as libc::off_t;
            opcode::Fadvise::new(fixed(*file), length, libc::POSIX_FADV_WILLNEED)
                .offset(range.offset())
                .build()
        }
        Operation::Name(work) => work.build_entry(),
        Operation::Watch { eventfd, counter } => {
            opcode::Read::new(types::Fd(*eventfd), (&raw mut **counter).cast(), 8).build()
        }
        Operation::Populate { mapped } => {
            let pages = mapped.pages();
            opcode::Madvise::new(pages.iov_base, pages.iov_len as libc::off_t, libc::MADV_POPULATE_READ)
                .build()
        }
        Operation::Sleep { duration } => opcode::Timeout::new(&raw const **duration).build(),
        Operation::CancelAll => opcode::AsyncCancel2::new(types::CancelBuilder::any()).build(),
        Operation::Cancel { target } => opcode::AsyncCancel::new(u64::from(target.0)).build(),
        Operation::Receive { .. }
        | Operation::ReceiveInto { .. }
        | Operation::Send { .. }
        | Operation::AwaitHangUp { .. }
        | Operation::AwaitRoom { .. }
        | Operation::Install { .. }
        | Operation::Shutdown { .. } => build_socket_entry(operation),
    }
}

/// The same for an operation on a socket.
fn build_socket_entry(operation: &mut Operation) -> squeue::Entry {
    match operation {
        Operation::Receive { socket, poll_first } => {
            opcode::Recv::new(fixed(*socket), std::ptr::null_mut(), 0)
                .buf_group(GROUP)
                .ioprio(if *poll_first { POLL_FIRST } else { 0 })
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        }
        Operation::ReceiveInto { socket, lease, start, length, whole } => {
            assert!(*start as usize + *length as usize <= lease.capacity());
            let address = lease.address().wrapping_add(*start as usize);
            let flags = if *whole { libc::MSG_WAITALL } else { 0 };
            opcode::Recv::new(fixed(*socket), address, *length).flags(flags).build()
        }
        Operation::Send { socket, mode, batch } => {
            let mode = match mode {
                SendMode::Whole => libc::MSG_WAITALL,
                SendMode::Some => 0,
                SendMode::Now => libc::MSG_DONTWAIT,
            };
            let flags = (mode | libc::MSG_NOSIGNAL) as u32;
            opcode::SendMsg::new(fixed(*socket), batch.message()).flags(flags).build()
        }
        // Both are always told of; nothing else is asked for.
        Operation::AwaitHangUp { socket } => {
            opcode::PollAdd::new(fixed(*socket), (libc::POLLHUP | libc::POLLERR) as u32).build()
        }
        Operation::AwaitRoom { socket } => opcode::PollAdd::new(fixed(*socket), libc::POLLOUT as u32).build(),
        Operation::Install { socket } => opcode::FixedFdInstall::new(fixed(*socket), 0).build(),
        Operation::Shutdown { socket, how } => {
            let how = if *how == std::net::Shutdown::Write { libc::SHUT_WR } else { libc::SHUT_RDWR };
            opcode::Shutdown::new(fixed(*socket), how).build()
        }
        _ => unreachable!("it is no operation on a socket"),
    }
}
