//! Every limit of the server, named, with its default, checked against the others.

use std::time::Duration;

/// Whether buffer memory is locked (pinned) and registered with the rings, which saves a little time for each
/// request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Pinning {
    /// As far as the locked memory limit (`ulimit -l`) allows; a warning says when it does not.
    #[default]
    Auto,
    /// All of it, and the server does not start when the limit is too low.
    On,
    /// None of it.
    Off,
}

/// How requests are treated that had not begun when the server was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Shutdown {
    /// No answer, and the connection closes: a client that reconnects sends them again
    #[default]
    Close,
    /// ESHUTDOWN, until all that had begun is finished: for clients that do not reconnect
    Errors,
}

/// The limits a server runs with. Nothing grows past them; a test reaches each.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections of the whole server, in handshake or after it.
    pub connections: usize,
    /// Requests in flight on one connection; more stay in the socket.
    pub requests_per_connection: usize,
    /// Requests in flight on one shard.
    pub requests_per_shard: usize,
    /// Bytes of buffer memory of one shard: payloads and receive buffers; taken at start.
    pub memory_per_shard: usize,
    /// Bytes of it for records of TLS that have not come as a whole; nothing without TLS.
    pub partial_records: usize,
    /// Bytes of the longest READ or WRITE; advertised, and no more than there is memory for.
    pub longest_request: u32,
    /// Bytes of one receive buffer.
    pub receive_buffer: usize,
    /// Bytes of data of one option; a longer one is refused with `NBD_REP_ERR_TOO_BIG` and skipped.
    pub option_length: u32,
    /// Handshakes at once. Each keeps two descriptors open; a connection keeps none once its shard has
    /// registered the socket.
    pub handshakes: usize,
    /// Bytes of all options that come in and of all answers to them; further handshakes wait.
    pub handshake_memory: usize,
    /// Options in one handshake.
    pub options: u32,
    /// Bytes of one handshake, those of refused options among them.
    pub handshake_bytes: u64,
    pub handshake_timeout: Duration,
    /// Negotiated connections waiting for a shard to take them.
    pub mailbox: usize,
    /// Completions handled in one turn of a shard's loop.
    pub completions_per_turn: usize,
    /// Connections fed in one turn.
    pub connections_per_turn: usize,
    /// Pieces (headers and payloads) of one vectored send; the kernel's UIO_MAXIOV.
    pub pieces_per_send: usize,
    /// The longest shutdown: what is not finished by then is cut off.
    pub shutdown_timeout: Duration,
    /// How requests are treated that had not begun at shutdown.
    pub shutdown: Shutdown,
    /// While others wait for memory, a connection that holds some and finishes nothing for so long is
    /// disconnected.
    pub stall_timeout: Duration,
    /// While an image is being sealed its changes wait for so long at most. Then the snapshot is given up.
    pub seal_timeout: Duration,
    /// Extents in one block status chunk.
    pub extents_per_reply: usize,
    /// Whether buffer memory is pinned and registered with the ring.
    pub pinned: Pinning,
    /// Devices that a shard has open at the same time; idle ones are closed for new ones.
    pub open_devices: usize,
    /// Requests that one device is given at the same time by a shard, once there are weights; a long one
    /// counts as several.
    pub device_depth: usize,
    /// Worker threads of a shard's ring that one export may keep busy with what blocks. One more may write to
    /// its page cache, and one allocate or punch; see [`Limits::workers`].
    pub workers_per_export: usize,
    /// Helper threads of a shard for calls that io_uring does not have (allocation queries), for each export.
    pub helper_threads_per_export: usize,
    /// Helper threads of a shard for all exports together.
    pub helper_threads: usize,
}

impl Limits {
    /// The least `--memory` for each shard, its part for handshakes included: one request of 32 MiB, and the
    /// receive buffers beside it.
    pub const MINIMUM_MEMORY_PER_SHARD: usize = 48 << 20;
    /// The default for a shard, its part for handshakes included.
    pub const DEFAULT_MEMORY_PER_SHARD: usize = 128 << 20;

    /// Which part of a shard's memory is for records of TLS that have not come as a whole.
    pub const PARTIAL_RECORDS_PART: usize = 32;
    /// Bytes of a shard's memory that devices need for themselves.
    pub const DEVICE_MEMORY: usize = 512 << 10;

    /// What all shards together give one device, once there are weights.
    const DEVICE_DEPTH: usize = 64;
    /// What each of them gives at least: less would leave disks idle that one shard alone serves.
    const LEAST_DEVICE_DEPTH: usize = 16;

    /// What each of so many shards gives one device, if all together are to give it `asked`; by default
    /// enough for a disk.
    pub fn device_depth(asked: Option<usize>, shards: usize) -> usize {
        let shards = shards.max(1);
        match asked {
            Some(asked) => (asked / shards).max(1),
            None => (Self::DEVICE_DEPTH / shards).max(Self::LEAST_DEVICE_DEPTH),
        }
    }

    /// The defaults.
    pub const DEFAULT: Self = Self {
        connections: 16_384,
        handshakes: 16_384,
        requests_per_connection: 1024,
        requests_per_shard: 8192,
        memory_per_shard: Self::DEFAULT_MEMORY_PER_SHARD / 32 * 31,
        partial_records: 0,
        handshake_memory: Self::DEFAULT_MEMORY_PER_SHARD / 32,
        longest_request: 64 << 20,
        receive_buffer: 128 << 10,
        option_length: 64 << 10,
        options: 1024,
        handshake_bytes: 64 << 20,
        handshake_timeout: Duration::from_secs(10),
        mailbox: 1024,
        completions_per_turn: 4096,
        connections_per_turn: 1024,
        pieces_per_send: 1024,
        shutdown_timeout: Duration::from_secs(10),
        shutdown: Shutdown::Close,
        stall_timeout: Duration::from_secs(10),
        seal_timeout: Duration::from_secs(2),
        extents_per_reply: 4096,
        pinned: Pinning::Auto,
        open_devices: 16_384,
        device_depth: Self::DEVICE_DEPTH,
        workers_per_export: 32,
        helper_threads_per_export: 2,
        helper_threads: 16,
    };

    /// The least that a shard works with: its memory, and the longest request that fits it.
    pub const SMALLEST: Self = Self {
        memory_per_shard: Self::MINIMUM_MEMORY_PER_SHARD / 32 * 31,
        handshake_memory: Self::MINIMUM_MEMORY_PER_SHARD / 32,
        longest_request: crate::block::BlockSizes::ASSUMED_MAXIMUM,
        ..Self::DEFAULT
    };

    /// Replies of one shard that are not sent. All clients that do not read their replies share this room; a
    /// quarter of it is shared evenly among all connections.
    pub const fn replies_per_shard(&self) -> usize {
        8 * self.requests_per_shard
    }

    /// Helper threads of a shard, as many as all exports may use up to the limit, and how many of them one
    /// export may use: so an export whose file system hangs leaves helpers for the others.
    pub const fn helpers(&self, exports: usize) -> (usize, usize) {
        let wanted = exports.saturating_mul(self.helper_threads_per_export);
        let threads = if wanted < self.helper_threads { wanted } else { self.helper_threads };
        (if threads == 0 { 1 } else { threads }, self.helper_threads_per_export)
    }

    /// The most worker threads of a shard's ring: as many as all exports may keep busy, so that one whose
    /// disk hangs leaves workers for the others, within what a host can bear. The kernel starts a worker only
    /// when all others sleep.
    pub const fn workers(&self, exports: usize) -> usize {
        const MOST: usize = 512;
        let wanted = exports.saturating_mul(self.workers_per_export + 2).saturating_add(2);
        if wanted < MOST { wanted } else { MOST }
    }

    /// Receive buffers of a shard: an eighth of its memory, a power of two.
    pub const fn receive_buffers(&self) -> u16 {
        let wanted = self.memory_per_shard / 8 / self.receive_buffer;
        let most = if wanted > 8192 { 8192 } else { wanted };
        if most < 8 { 8 } else { 1 << most.ilog2() }
    }

    /// Bytes of a shard's memory that are lent to requests: all but the receive buffers, what devices have,
    /// and records of TLS.
    pub const fn lease_memory(&self) -> usize {
        let own = self.receive_buffers() as usize * self.receive_buffer + Self::DEVICE_MEMORY;
        self.memory_per_shard - own - self.partial_records
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Shards that a server can have.
pub(crate) const MAXIMUM_SHARDS: usize = 256;

/// The limits fit each other.
const _: () = {
    const LIMITS: Limits = Limits::DEFAULT;
    const LONGEST_STRING: u32 = 4096;
    const ASSUMED: usize = crate::block::BlockSizes::ASSUMED_MAXIMUM as usize;
    const UIO_MAXIOV: usize = 1024;
    // Beside the longest request there is room for the receive buffers.
    assert!(Limits::MINIMUM_MEMORY_PER_SHARD >= ASSUMED + ASSUMED / 4);
    assert!(LIMITS.memory_per_shard >= Limits::MINIMUM_MEMORY_PER_SHARD);
    assert!(LIMITS.lease_memory() > LIMITS.longest_request as usize);
    assert!(Limits::SMALLEST.lease_memory() > Limits::SMALLEST.longest_request as usize);
    let partial_records = LIMITS.memory_per_shard / Limits::PARTIAL_RECORDS_PART;
    assert!(LIMITS.lease_memory() > LIMITS.longest_request as usize + partial_records);
    let partial_records = Limits::SMALLEST.memory_per_shard / Limits::PARTIAL_RECORDS_PART;
    assert!(Limits::SMALLEST.lease_memory() > Limits::SMALLEST.longest_request as usize + partial_records);
    assert!(LIMITS.longest_request <= crate::block::BlockSizes::MAXIMUM_PAYLOAD);
    // One connection can fill its own share of requests, and a shard serves more than one.
    assert!(LIMITS.requests_per_connection >= 1024);
    assert!(LIMITS.requests_per_shard >= LIMITS.requests_per_connection);
    assert!(LIMITS.replies_per_shard() >= LIMITS.requests_per_shard);
    // Each connection is sure of one reply.
    assert!(LIMITS.replies_per_shard() / 4 >= LIMITS.connections);
    assert!(LIMITS.pieces_per_send <= UIO_MAXIOV);
    // More than one option at a time, and each can be read.
    assert!(LIMITS.handshake_memory >= 8 * LIMITS.option_length as usize);
    // An option holds a name and some queries, and a handshake a few such options.
    assert!(LIMITS.option_length >= 4 * LONGEST_STRING);
    assert!(LIMITS.handshake_bytes >= LIMITS.options as u64 * LIMITS.option_length as u64);
    assert!(LIMITS.connections > LIMITS.mailbox);
};
