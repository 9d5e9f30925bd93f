//! Whole requests: a shard on a real ring, spoken to by its own thread. All of the program's instructions, none of the kernel's.

use std::hint::black_box;
use std::io::Write;

use ringnbd::internal::nbd::session::ReplyMode;
use ringnbd::internal::nbd::wire::{NBD_CMD_READ, NBD_CMD_WRITE};
use ringnbd::internal::shard::bench::ShardRounds;

use super::wire::{session, stream};
use super::{ROUND, Workload};

/// Short, so that a round fits into a socket's buffer.
const BLOCK: u64 = 512;

/// A round comes in so many pieces, each of which is answered before the next one comes.
fn requests(name: &'static str, uri: &str, command: u16, record: bool, pieces: usize) -> Workload {
    let mut shard = ShardRounds::new(uri, session(ReplyMode::Structured), record);
    let stream = stream(command, ReplyMode::Structured, BLOCK);
    // A chunk with an offset and its data, or a simple reply.
    let reply = if command == NBD_CMD_READ { 20 + 8 + BLOCK as usize } else { 16 };
    Workload::new(name, move || {
        for piece in stream.chunks_exact(stream.len() / pieces) {
            black_box(shard.round(piece, ROUND as usize / pieces * reply));
        }
    })
}

/// Reads of a file in the page cache; it is gone when the shard has it open. Eight at once: so many pages a shard always takes on trust,
/// how many more depends on the time. Writes are left out: the kernel may hand them to threads
/// of its own, and how many completions a turn then finds is chance.
fn cached(name: &'static str, options: &str, pieces: usize) -> Workload {
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
    file.write_all(&vec![7; super::wire::SIZE as usize]).expect("room");
    let path = file.path().to_str().expect("a path of letters");
    requests(name, &format!("file:{path}{options}"), NBD_CMD_READ, true, pieces)
}

pub(super) fn workloads() -> Vec<Workload> {
    vec![
        requests("request/null_read", "null:64M", NBD_CMD_READ, true, 1),
        requests("request/null_read_without_histograms", "null:64M", NBD_CMD_READ, false, 1),
        requests("request/null_write", "null:64M", NBD_CMD_WRITE, true, 1),
        requests("request/memory_read", "mem:64M", NBD_CMD_READ, true, 1),
        requests("request/memory_write", "mem:64M", NBD_CMD_WRITE, true, 1),
        cached("request/cached_read", "", ROUND as usize / 8),
        cached("request/copied_read", "?mapped=false", 1),
    ]
}
