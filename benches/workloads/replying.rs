//! The request table, and replies becoming one vectored send.

use std::hint::black_box;
use std::os::fd::AsFd;
use std::rc::Rc;

use ringnbd::internal::nbd::session::ReplyMode;
use ringnbd::internal::ring::{BufferPool, FileMapping};
use ringnbd::internal::shard::bench::{Content, OutboundRounds, TableRounds};

use super::wire::reply_to;
use super::{ROUND, Workload, ring};

/// The default of `Limits::pieces_per_send`.
const PIECES: usize = 1024;

fn outbound(name: &'static str, mode: ReplyMode, content: Content, pieces: usize) -> Workload {
    let mut rounds = OutboundRounds::new(pieces);
    let to = reply_to(mode);
    Workload::new(name, move || {
        black_box(rounds.round(ROUND, black_box(&to), black_box(&content)));
    })
}

fn table(name: &'static str, in_flight: usize) -> Workload {
    let mut rounds = TableRounds::new(in_flight);
    Workload::new(name, move || {
        black_box(rounds.round(ROUND));
    })
}

/// Leases that are taken, then all given back, as a turn does it.
fn leases(name: &'static str, length: usize) -> Workload {
    let pool = BufferPool::new(48 << 20, 32 << 20).expect("48 MiB of memory");
    let mut held = Vec::with_capacity(ROUND as usize);
    Workload::new(name, move || {
        held.extend((0..ROUND).map(|_| pool.lend(black_box(length)).expect("there is room")));
        held.clear();
    })
}

fn mapping() -> Rc<FileMapping> {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(1 << 20).expect("room");
    ring().map_file(file.as_fd(), 1 << 20).expect("files can be mapped").handle()
}

pub(super) fn workloads() -> Vec<Workload> {
    use ReplyMode::{Extended, Simple, Structured};
    vec![
        table("table/128_in_flight", 128),
        table("table/8192_in_flight", 8192),
        leases("lease/4k", 4096),
        leases("lease/128k", 128 << 10),
        outbound("outbound/reads_simple", Simple, Content::Leased(4096), PIECES),
        outbound("outbound/reads_structured", Structured, Content::Leased(4096), PIECES),
        outbound("outbound/reads_extended", Extended, Content::Leased(4096), PIECES),
        outbound("outbound/mapped_reads", Structured, Content::Mapped(mapping(), 4096), PIECES),
        outbound("outbound/writes", Structured, Content::Nothing, PIECES),
        outbound("outbound/null_reads", Structured, Content::Zeroes(4096), PIECES),
        outbound("outbound/reads_in_small_sends", Structured, Content::Leased(4096), 16),
    ]
}
