//! Sets up a run: connections, ring, memory, and a check that the load fits the export.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use super::connection::LoadConnection;
use super::plan::{Area, LoadKind, Plan};
use super::records::LoadRecords;
use super::tracker::Tracker;
use super::verify::Verifier;
use super::{LoadError, LoadOptions, Replies, Stop};
use crate::client::{UndrivenConnection, enter_secured};
use crate::nbd::client::handshake::{ExportDetails, Transmission};
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;
use crate::random::Random;
use crate::ring::{
    BULK_THRESHOLD, BufferPool, LARGEST_LEASE, Operation, Owner, Ring, RingOptions, SharedLease,
};

/// The longest payload where the server advertises no limit.
const DEFAULT_MAXIMUM: u32 = 32 << 20;
/// Random bytes beyond the longest write, so that writes of one payload begin at different ones.
const VARIETY: usize = 64 << 10;
/// Receive buffers: as many as one system call fills, and few enough to stay in the processor's cache. (The
/// kernel runs about twenty completions at a time; where it runs more, the receives that find no buffer are
/// armed again.)
const MOST_BUFFERS: usize = 64;
/// Payloads begin at multiples of it: a cache line, so that no copy is slower than another.
const ALIGNMENT: usize = 64;
/// Connections that share one payload: its holders are counted in 16 bits, and one send holds at most 512.
const CONNECTIONS_PER_PAYLOAD: usize = 100;

/// A load that is ready to run: all connections stand.
pub struct Load {
    pub(super) options: LoadOptions,
    pub(super) ring: Ring,
    pub(super) pool: BufferPool,
    pub(super) connections: Vec<LoadConnection>,
    pub(super) area: Area,
    pub(super) plan: Plan,
    pub(super) payloads: Payloads,
    pub(super) verifier: Option<Verifier>,
    pub(super) stop: Arc<Stop>,
    transmission: Transmission,
}

impl Load {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// [`LoadError`]; nothing was written.
    pub fn prepare(options: LoadOptions, stop: Arc<Stop>) -> Result<Self, LoadError> {
        let UndrivenConnection { socket, transmission, secure } = connect(&options)?;
        let area = fit(&options, &transmission.export).map_err(LoadError::Unfit)?;
        let (ring, pool) = Ring::new(&ring_options(&options))?;
        let mode = transmission.dialect.reply_mode;
        let mut connections = Vec::with_capacity(options.connections);
        let mut first = Some((socket, secure));
        while connections.len() < options.connections {
            let (socket, secure) = match first.take() {
                Some(first) => first,
                None => connect(&options).map(|entered| (entered.socket, entered.secure))?,
            };
            let records = secure.map(|secure| LoadRecords::new(*secure, options.tls_renewal));
            let index = ring
                .register_file(socket.as_fd())
                .map_err(|error| LoadError::System("a connection's socket", error))?;
            connections.push(LoadConnection::new(index, mode, options.depth, options.block_size, records));
        }
        let payloads = Payloads::new(&options, &pool);
        let verifier =
            options.verify.then(|| Verifier::new(options.seed, area, options.connections, options.depth));
        let plan = Plan::new(options.pattern, area, options.seed);
        let eventfd = stop.doorbell.as_fd().as_raw_fd();
        ring.push(Operation::Watch { eventfd, counter: Box::new(0) }, Owner::Shard);
        Ok(Self { options, ring, pool, connections, area, plan, payloads, verifier, stop, transmission })
    }

    /// What the handshake agreed; of the first connection.
    pub fn transmission(&self) -> &Transmission {
        &self.transmission
    }

    pub fn area(&self) -> Area {
        self.area
    }
}

fn connect(options: &LoadOptions) -> Result<UndrivenConnection, LoadError> {
    let best = match options.replies {
        Replies::Best => ReplyMode::Structured,
        Replies::Exactly(mode) => mode,
    };
    let entered = enter_secured(&options.uri, best, options.timeouts)?;
    match options.replies {
        Replies::Exactly(mode) if entered.transmission.dialect.reply_mode != mode => {
            let form = format!("{mode:?}").to_lowercase();
            Err(LoadError::Unfit(format!(
                "the server has no {form} replies; ask for another form, or for none"
            )))
        }
        _ => Ok(entered),
    }
}

/// The working area, if the load fits the export.
fn fit(options: &LoadOptions, export: &ExportDetails) -> Result<Area, String> {
    let LoadOptions { block_size, offset, .. } = *options;
    let writes = options.pattern.read_percent < 100;
    if writes && export.transmission_flags & NBD_FLAG_READ_ONLY != 0 {
        return Err("the export is read-only; choose --rw read or randread".into());
    }
    for (kind, flag, remedy) in [
        (LoadKind::Trim, NBD_FLAG_SEND_TRIM, "choose another --rw"),
        (LoadKind::Flush, NBD_FLAG_SEND_FLUSH, "leave out --fsync"),
    ] {
        if options.pattern.has(kind) && export.transmission_flags & flag == 0 {
            return Err(format!("the export has no {}; {remedy}", kind.name()));
        }
    }
    let (minimum, maximum) =
        export.block_sizes.map_or((1, DEFAULT_MAXIMUM), |sizes| (sizes.minimum, sizes.maximum));
    let maximum = maximum.min(LARGEST_LEASE as u32);
    if !block_size.is_multiple_of(minimum) || !offset.is_multiple_of(minimum.into()) {
        return Err(format!(
            "--bs and --offset must be multiples of the export's minimum block size, {minimum}"
        ));
    }
    if block_size > maximum {
        return Err(format!("the longest payload of this export is {maximum} bytes; choose a smaller --bs"));
    }
    let end = match options.size {
        Some(size) => offset.checked_add(size).filter(|end| *end <= export.size),
        None => Some(export.size),
    };
    let size = export.size;
    let Some(end) = end else {
        return Err(format!("the export ends at {size} bytes; choose a smaller --size or --offset"));
    };
    let blocks = end.saturating_sub(offset) / u64::from(block_size);
    if blocks == 0 {
        return Err(format!(
            "no block of {block_size} bytes fits from offset {offset} (the export has {size} bytes)"
        ));
    }
    if options.verify {
        fit_verification(options, blocks, export)?;
    }
    Ok(Area { offset, block_size, blocks })
}

fn fit_verification(options: &LoadOptions, blocks: u64, export: &ExportDetails) -> Result<(), String> {
    let most = Tracker::MOST_BLOCKS;
    if blocks > most {
        return Err(format!(
            "--verify tracks at most {most} blocks, this area has {blocks}; choose a smaller --size"
        ));
    }
    let content = options.connections as u64 * options.depth as u64 * u64::from(options.block_size);
    if content > Verifier::MOST_CONTENT {
        return Err(format!(
            "--verify would keep {} MiB in flight; choose less --depth or --bs",
            content >> 20
        ));
    }
    if options.connections > 1 && export.transmission_flags & NBD_FLAG_CAN_MULTI_CONN == 0 {
        return Err(
            "the server does not promise that connections see each other's writes (CAN_MULTI_CONN): \
                    verify with one connection"
                .into(),
        );
    }
    Ok(())
}

/// Receive buffers small enough to stay in the processor's cache, large enough for all replies of a
/// connection.
fn ring_options(options: &LoadOptions) -> RingOptions {
    let reply = options.block_size as usize + 64;
    let replies = (reply * options.depth).next_multiple_of(4096);
    let in_flight = options.connections * options.depth;
    let payloads = match options.verify {
        true => in_flight * (options.block_size as usize).next_power_of_two().max(4096),
        false => {
            (options.block_size as usize + VARIETY)
                * 2
                * options.connections.div_ceil(CONNECTIONS_PER_PAYLOAD)
        }
    };
    let longest = (options.block_size as usize + VARIETY).min(LARGEST_LEASE);
    RingOptions {
        reserve: 0,
        lease_memory: longest.next_power_of_two() + BULK_THRESHOLD + 3 * payloads + (64 << 20),
        longest_lease: longest,
        receive_buffers: options.connections.next_power_of_two().clamp(4, MOST_BUFFERS) as u16,
        receive_buffer: replies.clamp(16 << 10, 1 << 20) as u32,
        files: options.connections as u32,
        registered: false,
        // Sockets only.
        workers: 0,
    }
}

/// Content for writes without verification: random, so that it cannot be compressed.
#[derive(Debug)]
pub(super) struct Payloads {
    leases: Vec<SharedLease>,
    /// Places in a lease where a payload can begin.
    places: u64,
    random: Random,
}

impl Payloads {
    fn new(options: &LoadOptions, pool: &BufferPool) -> Self {
        let mut random = Random::new(options.seed ^ 1);
        let block_size = options.block_size as usize;
        let length = (block_size + VARIETY).min(LARGEST_LEASE);
        let count = match options.verify || !options.pattern.has(LoadKind::Write) {
            true => 0,
            false => options.connections.div_ceil(CONNECTIONS_PER_PAYLOAD),
        };
        let mut fresh = || {
            let mut lease = pool.lend(length).expect("the pool was made for them");
            random.fill(lease.bytes_mut(0..length));
            lease.freeze()
        };
        let leases = (0..count).map(|_| fresh()).collect();
        Self { leases, places: ((length - block_size) / ALIGNMENT) as u64 + 1, random }
    }

    /// A payload for a write of a connection, and where it begins.
    #[inline]
    pub(super) fn next(&mut self, connection: usize) -> (SharedLease, u32) {
        let lease = self.leases[connection % self.leases.len()].clone();
        (lease, self.random.below(self.places) as u32 * ALIGNMENT as u32)
    }
}
