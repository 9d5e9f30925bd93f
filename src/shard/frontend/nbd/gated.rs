//! How a request waits for a rate of its export, or for its turn at the device, between parse and begin.
//!
//! It holds no lease, no slot and no receive buffer, and nothing behind it is parsed. So the socket is the
//! backpressure, as for one that waits for memory. It is neither starving nor stalled: eviction does not know
//! it.

use crate::block::BlockError;
use crate::nbd::server::request::{Command, Refusal, Request};
use crate::shard::admission::rate::RATES;
use crate::shard::frontend::nbd::begin::operation;
use crate::shard::frontend::nbd::connection::{Connection, Fed, Feeding};
use crate::shard::frontend::nbd::throttled::{HeldAt, Throttled, cost, load};
use crate::shard::request::table::Record;

impl Connection {
    /// Begins a request, or has it wait.
    #[cold]
    pub(crate) fn pass_gate(&mut self, request: Request, feeding: &mut Feeding<'_>) -> Option<Fed> {
        let cost = cost(&request, feeding.limits.longest_request);
        let (key, now) = (feeding.key, feeding.now);
        let place = {
            let mut gate = self.gate.borrow_mut();
            match gate.enter(key, cost, now) {
                Some(place) => Some(HeldAt::Rate(place)),
                None => gate.line_up(key, cost, now).map(HeldAt::Device),
            }
        };
        if let Some(place) = place {
            self.throttled = Some(Throttled { request, since: now, cost, place });
            return Some(Fed::Throttled);
        }
        self.begin_late(request, now, feeding)
    }

    /// Begins a request that has waited, or could have.
    #[cold]
    pub(crate) fn begin_late(
        &mut self,
        request: Request,
        arrived: u64,
        feeding: &mut Feeding<'_>,
    ) -> Option<Fed> {
        let before = feeding.started.len();
        let stopped = self.begin::<true>(request, arrived, feeding);
        self.weigh_on_device(before, feeding);
        stopped
    }

    /// What has begun counts at its device, where requests go by weight. Only then: a client that keeps the
    /// payload of a write to itself must keep nobody else from the device.
    #[cold]
    pub(crate) fn weigh_on_device(&mut self, before: usize, feeding: &mut Feeding<'_>) {
        if feeding.started.len() == before || !self.gate.borrow().is_weighed() {
            return;
        }
        for id in &feeding.started[before..] {
            let Record { timing, grant, .. } = feeding.requests.record(*id);
            let Some(timing) = timing else { continue };
            grant.weigh_on_device(load(timing.operation(), timing.length, feeding.limits.longest_request));
        }
    }

    /// A rate holds its request back no more. Whether it may begin with the next feeding; otherwise it waits
    /// for its turn at the device.
    pub(crate) fn has_passed_rate(&mut self, key: u32, now: u64) -> bool {
        let throttled = self.throttled.as_mut().expect("it waited");
        let place = self.gate.borrow_mut().line_up(key, throttled.cost, now);
        match place {
            Some(place) => throttled.place = HeldAt::Device(place),
            None => self.let_through(now),
        }
        place.is_none()
    }

    /// Whether a rate holds a request of it back.
    pub(crate) fn waits_for_rate(&self) -> bool {
        self.throttled.as_ref().is_some_and(|throttled| matches!(throttled.place, HeldAt::Rate(_)))
    }

    /// The request may begin with the next feeding.
    pub(crate) fn let_through(&mut self, now: u64) {
        let Throttled { request, since, .. } = self.throttled.take().expect("it waited");
        self.held_ns = now.saturating_sub(since);
        self.waiting = Some((request, now));
    }

    /// A request that waited will not begin.
    pub(crate) fn leave_gate(&mut self) {
        if let Some(throttled) = self.throttled.take() {
            throttled.place.leave(&mut self.gate.borrow_mut());
        }
    }

    /// Whether rates or weights are to be asked about its requests.
    #[inline]
    pub(crate) fn may_be_limited(&self) -> bool {
        RATES && self.is_limited
    }

    /// Looks whether anything may hold its requests back now.
    pub(crate) fn look_at_gate(&mut self) {
        // What was held back has its time to tell when it begins.
        let was_held = self.throttled.is_some() || self.held_ns > 0;
        self.is_limited = was_held || self.gate.borrow().is_limited();
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
        place.leave(&mut self.gate.borrow_mut());
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
    /// rate keeps none at all. Its turn at a device comes soon.
    pub(crate) fn give_up_buffer(&mut self, feeding: &Feeding<'_>) {
        let Some(unparsed) = &mut self.unparsed else { return };
        let is_throttled = self.throttled.is_some();
        let waits_long =
            self.throttled.as_ref().is_some_and(|throttled| matches!(throttled.place, HeldAt::Rate(_)));
        if !(feeding.scarce_buffers || waits_long) || !unparsed.keeps_buffer() {
            return;
        }
        match feeding.admission.lend_stash(unparsed.left()) {
            Some(lease) => unparsed.stash(lease),
            // It may wait for as long as its rate or weight says, and nobody is evicted for that.
            None if is_throttled => unparsed.copy_out(),
            None => {}
        }
    }
}
