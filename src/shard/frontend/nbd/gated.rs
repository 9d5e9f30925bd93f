//! How a request waits for a rate of its export, between parse and begin.
//!
//! It holds no lease, no slot and no receive buffer, and nothing behind it is parsed. So the socket is the
//! backpressure, as for one that waits for memory. It is neither starving nor stalled: eviction does not know
//! it.

use crate::block::BlockError;
use crate::nbd::server::request::{Command, Refusal, Request};
use crate::shard::frontend::nbd::begin::operation;
use crate::shard::frontend::nbd::connection::{Connection, Fed, Feeding};
use crate::shard::frontend::nbd::throttled::{Throttled, cost};

impl Connection {
    /// Begins a request, or has it wait.
    #[cold]
    pub(crate) fn pass_gate(&mut self, request: Request, feeding: &mut Feeding<'_>) -> Option<Fed> {
        let cost = cost(&request, feeding.limits.longest_request);
        match self.gate.borrow_mut().enter(feeding.key, cost, feeding.now) {
            None => {}
            Some(place) => {
                self.throttled = Some(Throttled { request, since: feeding.now, place });
                return Some(Fed::Throttled);
            }
        }
        self.begin(request, feeding.now, feeding)
    }

    /// The request may begin with the next feeding.
    pub(crate) fn let_through(&mut self, now: u64) {
        let Throttled { request, since, .. } = self.throttled.take().expect("it waited");
        self.throttled_us = u32::try_from(now.saturating_sub(since) / 1000).unwrap_or(u32::MAX);
        self.waiting = Some((request, now));
    }

    /// A request that waited will not begin.
    pub(crate) fn leave_gate(&mut self) {
        if let Some(throttled) = self.throttled.take() {
            self.gate.borrow_mut().leave(throttled.place);
        }
    }

    /// What a connection with a request that waits can do meanwhile; none if it waits no more, since such
    /// requests are refused now.
    #[cold]
    pub(crate) fn feed_throttled(&mut self, feeding: &mut Feeding<'_>) -> Option<Fed> {
        if !feeding.shutting_down && self.refuses.is_none() {
            return Some(self.read_lost(feeding).unwrap_or(Fed::Throttled));
        }
        if let Some(stopped) = self.is_held_up(feeding) {
            return Some(stopped);
        }
        let Throttled { request, place, .. } = self.throttled.take().expect("the caller has looked");
        self.gate.borrow_mut().leave(place);
        let refusal = Refusal {
            cookie: request.cookie,
            offset: request.offset,
            command: Some(operation(request.command)),
            error: BlockError::Shutdown,
            reason: "the server is shutting down",
            chunked: matches!(request.command, Command::Read { .. } | Command::BlockStatus { .. }),
            discard: request.payload_length().into(),
        };
        self.refuse(&refusal, feeding);
        None
    }

    /// A connection that waits keeps no receive buffer when they are scarce, and one that is held back by a
    /// rate keeps none at all.
    pub(crate) fn give_up_buffer(&mut self, feeding: &Feeding<'_>) {
        let Some(unparsed) = &mut self.unparsed else { return };
        let is_throttled = self.throttled.is_some();
        if !(feeding.scarce_buffers || is_throttled) || !unparsed.keeps_buffer() {
            return;
        }
        match feeding.admission.lend_stash(unparsed.left()) {
            Some(lease) => unparsed.stash(lease),
            // It may wait for as long as its rate says, and nobody is evicted for that.
            None if is_throttled => unparsed.copy_out(),
            None => {}
        }
    }
}
