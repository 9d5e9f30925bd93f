//! One connection: received bytes become requests, replies become sends.
//!
//! The worker calls in, always downwards: a completion is recorded, then the connection is fed, then flushed.
//! Nothing here waits.

use std::any::Any;
use std::net::Shutdown;
use std::rc::Rc;

use crate::config::Limits;
use crate::identity::PeerIdentity;
use crate::nbd::server::inbound::{Inbound, Piece};
use crate::nbd::server::request::{Command, Rejected, Request, header_length};
use crate::nbd::session::Session;
use crate::ring::{Completion, FileIndex, Lease, OpKey, Operation, Owner, Ring};
use crate::shard::admission::gate::{NumberedGate, SharedGate};
use crate::shard::admission::ledger::Ledger;
use crate::shard::admission::queue::{Listed, Need};
use crate::shard::admission::rate::RATES;
use crate::shard::admission::stall::{Progress, RECEIVE_STEP};
use crate::shard::admission::{Admission, Denial};
use crate::shard::fault_watch::FaultWatch;
use crate::shard::frontend::nbd::Secure;
use crate::shard::frontend::nbd::batches::Batches;
use crate::shard::frontend::nbd::closing::{Closing, Reason, Traffic};
use crate::shard::frontend::nbd::hang_up::HangUp;
use crate::shard::frontend::nbd::hold::Hold;
use crate::shard::frontend::nbd::linger::Linger;
use crate::shard::frontend::nbd::outbound::Outbound;
use crate::shard::frontend::nbd::throttled::Throttled;
use crate::shard::frontend::nbd::unparsed::Unparsed;
use crate::shard::record::Recorder;
use crate::shard::request::table::{RequestId, RequestTable};
use crate::shard::request::{Peer, ShardJob};

/// Payloads with at least so much missing are received straight into their lease.
const DIRECT_RECEIVE: u64 = 32 << 10;

/// Why feeding stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fed {
    /// More bytes are needed.
    NeedsBytes,
    /// The connection has as many requests in flight as it may: its own replies let it go on.
    WaitsForReplies,
    /// The shard's table or memory is used up: others let it go on.
    WaitsForShard(Need),
    /// A rate of its export, or a weight, lets it go on later.
    Throttled,
    /// No more requests will come.
    Ended,
}

/// What feeding a connection may use.
pub(crate) struct Feeding<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) ring: &'a Ring,
    pub(crate) batches: &'a mut Batches,
    pub(crate) admission: &'a mut Admission,
    pub(crate) requests: &'a mut RequestTable,
    /// Requests that the connection may have in flight, for its own sake and that of the others.
    pub(crate) most_in_flight: usize,
    pub(crate) shutting_down: bool,
    pub(crate) scarce_buffers: bool,
    /// Now, in nanoseconds of the shard's clock.
    pub(crate) now: u64,
    /// How far READs may be answered from mapped files.
    pub(crate) fault_watch: &'a mut FaultWatch,
    pub(crate) recorder: &'a mut Recorder,
    /// The connection's key.
    pub(crate) key: u32,
    /// Where requests go that need a task, and a note of all that go to their backend.
    pub(crate) jobs: &'a mut Vec<ShardJob>,
    pub(crate) started: &'a mut Vec<RequestId>,
}

/// A request whose payload is being received.
#[derive(Debug)]
pub(crate) struct Receiving {
    pub(crate) id: RequestId,
    pub(crate) request: Request,
    /// `None` while the kernel receives into it.
    pub(crate) lease: Option<Lease>,
    pub(crate) filled: u32,
    pub(crate) held: u32,
}

pub(crate) struct Connection {
    pub(crate) socket: FileIndex,
    pub(crate) peer: Rc<Peer>,
    pub(crate) session: Session,
    pub(crate) name: PeerIdentity,
    /// With TLS.
    pub(crate) secure: Option<Box<Secure>>,
    pub(crate) inbound: Inbound,
    pub(crate) unparsed: Option<Unparsed>,
    /// Parsed, but there was no memory for it; since when.
    pub(crate) waiting: Option<(Request, u64)>,
    /// Parsed, but a rate holds it back.
    pub(crate) throttled: Option<Throttled>,
    /// How long the request that begins next was held back, in nanoseconds.
    pub(crate) held_ns: u64,
    /// Its export has rates, or requests go by weight; or a request of it was held back, and has not begun.
    pub(crate) is_limited: bool,
    pub(crate) gate: SharedGate,
    /// The gate's number.
    pub(crate) gate_number: usize,
    pub(crate) receiving: Option<Receiving>,
    pub(crate) outbound: Outbound,
    /// The receive in flight.
    pub(crate) receive: Option<OpKey>,
    /// The last receive emptied the socket.
    drained: bool,
    pub(crate) hang_up: HangUp,
    pub(crate) over_tcp: bool,
    pub(crate) linger: Linger,
    /// Ends it; and whether it was cancelled.
    pub(crate) linger_timer: Option<OpKey>,
    pub(crate) timer_cancelled: bool,
    /// What it holds of the shard.
    pub(crate) ledger: Rc<Ledger>,
    /// Requests that will not be answered, until the shard removes them from its table.
    pub(crate) forgotten: Vec<RequestId>,
    /// Ring operations of this connection in flight.
    pub(crate) operations: usize,
    pub(crate) closing: Closing,
    /// Its next request is refused, and then it ends: why. Of a removed export all are refused until it ends.
    pub(crate) refuses: Option<Reason>,
    /// A request was refused for that.
    pub(crate) has_refused: bool,
    /// How often it was looked at since its export was removed.
    pub(crate) last_looks: u16,
    /// Why it ends.
    pub(crate) reason: Option<Reason>,
    pub(crate) traffic: Traffic,
    /// Its number in the log.
    pub(crate) number: u64,
    /// How far the socket was shut down; the receive was cancelled, which is done once.
    pub(crate) shut: Option<Shutdown>,
    pub(crate) cancelled: bool,
    pub(crate) listed: Listed,
    pub(crate) flushing: bool,
    /// Another process may be about to get it.
    pub(crate) hold: Hold,
    pub(crate) progress: Progress,
    /// When the shard took it, in nanoseconds of its clock.
    pub(crate) since: u64,
    /// Requests whose reply is out, and the bytes that they named.
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    _permit: Box<dyn Any + Send>,
}

impl Connection {
    pub(crate) fn new(
        socket: FileIndex,
        (ledger, gate): (Rc<Ledger>, NumberedGate),
        peer: Rc<Peer>,
        session: Session,
        name: PeerIdentity,
        leftover: Vec<u8>,
        permit: Box<dyn Any + Send>,
    ) -> Self {
        let NumberedGate { gate, number: gate_number } = gate;
        let is_limited = gate.borrow().is_limited();
        let inbound = Inbound::new(header_length(session.reply_mode));
        let unparsed = (!leftover.is_empty()).then(|| Unparsed::leftover(leftover));
        Self {
            socket,
            peer,
            session,
            name,
            secure: None,
            inbound,
            unparsed,
            waiting: None,
            throttled: None,
            held_ns: 0,
            is_limited,
            gate,
            gate_number,
            receiving: None,
            outbound: Outbound::default(),
            receive: None,
            drained: false,
            hang_up: HangUp::default(),
            over_tcp: false,
            linger: Linger::default(),
            linger_timer: None,
            timer_cancelled: false,
            ledger,
            forgotten: Vec::new(),
            operations: 0,
            closing: Closing::No,
            refuses: None,
            has_refused: false,
            last_looks: 0,
            reason: None,
            traffic: Traffic::default(),
            number: 0,
            shut: None,
            cancelled: false,
            listed: Listed::No,
            flushing: false,
            hold: Hold::default(),
            progress: Progress::default(),
            since: 0,
            requests: 0,
            bytes: 0,
            _permit: permit,
        }
    }

    /// Records what a receive brought.
    pub(crate) fn received(&mut self, completion: Completion) {
        self.receive = None;
        let was_held = std::mem::take(&mut self.hold.cancelling);
        if self.closing == Closing::Abort {
            self.forget_payload();
            return;
        }
        let Completion { result, operation, received, socket_nonempty } = completion;
        if let Operation::ReceiveInto { lease, .. } = operation {
            let receiving = self.receiving.as_mut().expect("a payload was being received");
            receiving.lease = Some(lease);
            if let Ok(length) = result {
                receiving.filled += length;
                self.inbound.received_elsewhere(u64::from(length));
                self.progress.inbound.moved(u64::from(length));
            }
        }
        if self.closing == Closing::Graceful {
            self.forget_late_payload();
        }
        if self.closing == Closing::Graceful && (result.is_ok() || self.discards()) {
            // It came too late, or is the client's own end, which is under way.
            self.linger.received(result);
            return;
        }
        match result {
            Ok(0) if self.receiving.is_some() && canary!(TruncatedPayloadWritten) => {
                let receiving = self.receiving.as_mut().expect("it is there");
                receiving.filled = receiving.request.payload_length();
                self.inbound.received_elsewhere(self.inbound.wanted());
            }
            Ok(0) => self.stream_ended(),
            Ok(_) => {
                self.drained = !socket_nonempty;
                if let Some(received) = received {
                    self.unparsed = Some(self.unparsed_of(received));
                }
            }
            // No receive buffer was left: tried again when one is.
            Err(libc::ENOBUFS | libc::EINTR | libc::EAGAIN) => self.drained = false,
            Err(libc::ECANCELED) if was_held || self.closing == Closing::Graceful => {}
            Err(errno) => {
                tracing::debug!(peer = %self.name, errno, "receiving failed");
                self.because(Reason::Broken(errno)).end(Closing::Abort);
            }
        }
    }

    /// Turns received bytes into requests until something is missing.
    pub(crate) fn feed(&mut self, feeding: &mut Feeding<'_>) -> Fed {
        if self.discards() {
            return Fed::NeedsBytes;
        }
        if (self.closing == Closing::Graceful || self.hold.is_held)
            && let Some(stopped) = self.read_lost(feeding)
        {
            return stopped;
        }
        if self.closing != Closing::No || self.hold.is_held {
            return Fed::Ended;
        }
        if self.may_be_limited()
            && self.throttled.is_some()
            && let Some(stopped) = self.feed_throttled(feeding)
        {
            return stopped;
        }
        // While it waited for memory others may have taken the last slot.
        if self.waiting.is_some()
            && let Some(stopped) = self.is_held_up(feeding)
        {
            return stopped;
        }
        if let Some((request, since)) = self.waiting.take()
            && let Some(stopped) = self.begin_late(request, since, feeding)
        {
            return stopped;
        }
        let mut unparsed = self.unparsed.take();
        // What may be held back goes a way of its own, so that all others are asked this once a receive.
        let stopped = match self.may_be_limited() {
            true => self.parse_limited(&mut unparsed, feeding),
            false => self.parse::<false>(&mut unparsed, feeding),
        };
        if self.closing == Closing::No {
            self.unparsed = unparsed;
            self.give_up_buffer(feeding);
        }
        stopped
    }

    /// Not built into its caller, where it would be in the way of those that nothing holds back.
    #[cold]
    #[inline(never)]
    fn parse_limited(&mut self, unparsed: &mut Option<Unparsed>, feeding: &mut Feeding<'_>) -> Fed {
        let stopped = self.parse::<true>(unparsed, feeding);
        self.look_at_gate();
        stopped
    }

    /// Parses what there is until something is missing. `LIMITED`: rates or weights are asked about what
    /// begins.
    fn parse<const LIMITED: bool>(
        &mut self,
        unparsed: &mut Option<Unparsed>,
        feeding: &mut Feeding<'_>,
    ) -> Fed {
        self.finish_payload::<LIMITED>(feeding);
        loop {
            if let Some(reason) = self.refuses
                && self.has_told()
            {
                self.because(reason).stop(feeding.now);
                return Fed::Ended;
            }
            if let Some(stopped) = self.is_held_up(feeding) {
                return stopped;
            }
            let Some(received) = unparsed else { return Fed::NeedsBytes };
            let mut rest = received.rest();
            let before = rest.len();
            let header = match self.inbound.feed(&mut rest) {
                None if self.secure.is_some() => match self.open_next_record(unparsed, feeding) {
                    Some(stopped) => return stopped,
                    None => continue,
                },
                None => {
                    *unparsed = None;
                    return Fed::NeedsBytes;
                }
                Some(Piece::Payload { bytes, .. }) => {
                    self.copy_payload(bytes);
                    None
                }
                Some(Piece::Skipped) => {
                    self.let_go();
                    None
                }
                Some(Piece::Header(header)) => {
                    let refuses = feeding.shutting_down || self.refuses.is_some();
                    Some(Request::parse(header, &self.session, refuses))
                }
            };
            let parsed = before - rest.len();
            received.parsed(parsed);
            match header {
                Some(request) => {
                    if let Some(stopped) = self.parsed::<LIMITED>(request, feeding) {
                        return stopped;
                    }
                }
                None => self.finish_payload::<LIMITED>(feeding),
            }
        }
    }

    /// Whether a further request must wait. A payload that has begun is always received.
    #[inline]
    pub(crate) fn is_held_up(&mut self, feeding: &mut Feeding<'_>) -> Option<Fed> {
        if self.receiving.is_some() || self.outbound.holds_back() {
            return None;
        }
        if let Some(stopped) = self.read_lost(feeding) {
            return Some(stopped);
        }
        match feeding.admission.check(&self.ledger, feeding.most_in_flight) {
            Ok(()) => None,
            Err(Denial::OwnReplies) => Some(Fed::WaitsForReplies),
            Err(Denial::Shared(need)) => Some(Fed::WaitsForShard(need)),
        }
    }

    /// Acts on a header.
    #[inline]
    fn parsed<const LIMITED: bool>(
        &mut self,
        request: Result<Request, Rejected>,
        feeding: &mut Feeding<'_>,
    ) -> Option<Fed> {
        match request {
            Ok(request) if request.command == Command::Disconnect => {
                self.because(Reason::Disconnected).end(Closing::Graceful);
                Some(Fed::Ended)
            }
            Ok(request) if LIMITED => self.pass_gate(request, feeding),
            Ok(request) => self.begin::<false>(request, feeding.now, feeding),
            Err(Rejected::Refusal(refusal)) => {
                self.refuse(&refusal, feeding);
                None
            }
            Err(Rejected::Violation(violation)) => {
                tracing::info!(connection = self.number, peer = %self.name, %violation, "protocol violation, disconnecting");
                self.because(Reason::Violation).end(Closing::Abort);
                Some(Fed::Ended)
            }
        }
    }

    /// Whether it can do without a shared buffer: connections that wait for its memory may be keeping them
    /// all.
    pub(crate) fn receives_payload(&self) -> bool {
        self.receiving.is_some() && self.secure.is_none()
    }

    /// The receive that should be started now, if any; `buffers`: there is a shared one.
    pub(crate) fn next_receive(&mut self, shutting_down: bool, buffers: bool) -> Option<Operation> {
        if self.discards() && self.receive.is_none() {
            return Some(Operation::Receive { socket: self.socket, poll_first: true });
        }
        let waits = self.hold.is_held || self.waiting.is_some() || (RATES && self.throttled.is_some());
        let busy = self.receive.is_some() || self.unparsed.is_some() || waits;
        if self.closing != Closing::No || busy || (shutting_down && self.is_idle()) {
            return None;
        }
        let socket = self.socket;
        if let Some(receiving) = &mut self.receiving
            && (self.inbound.wanted() >= DIRECT_RECEIVE || !buffers)
            && self.secure.is_none()
        {
            let lease = receiving.lease.take().expect("no other receive is in flight");
            let (start, length) = (receiving.filled, self.inbound.wanted().min(RECEIVE_STEP.into()) as u32);
            return Some(Operation::ReceiveInto { socket, lease, start, length, whole: true });
        }
        Some(Operation::Receive { socket, poll_first: self.drained })
    }

    /// Starts an operation of this connection.
    pub(crate) fn push(&mut self, ring: &Ring, key: u32, operation: Operation) -> OpKey {
        self.operations += 1;
        ring.push(operation, Owner::Connection(key))
    }
}
