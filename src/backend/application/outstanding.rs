//! The requests that a shard has handed to devices of the application.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use slab::Slab;

use super::request::{DeviceRequest, Ended, RequestTicket, Way};
use crate::block::{BlockError, ByteRange, CommandKind, Extent, IoFlags};
use crate::exec::{Helpers, QuietDoorbell, ReadyList, Waiter};
use crate::ring::{Lease, Loan, Ring, Wait};
use crate::sys::Doorbell;

/// So long an answer waits at most for others that are on their way. A blocking device whose verbs take
/// longer has its answers sent at once.
const MOMENT: Duration = Duration::from_micros(50);

/// The requests of a shard that wait for the application, and the queues that were handed some in this turn.
///
/// Admission bounds them: each belongs to a request of a client, and holds that one's memory.
pub(crate) struct Outstanding {
    way: Arc<Way>,
    ended: Receiver<Ended>,
    places: RefCell<Slab<RequestPlace>>,
    next: Cell<u64>,
    /// Requests that have not come back, whether somebody waits for them or not.
    elsewhere: Cell<usize>,
    /// More were waiting behind the one that was collected last: its thread has not stopped.
    expects_more: Cell<bool>,
    /// Something has ended since the shard last went to sleep.
    made_progress: Cell<bool>,
    /// Queues that hurry when nothing ends for a moment: the last sleep began with them.
    hurry_next: Cell<bool>,
    may_hurry: RefCell<Vec<Rc<dyn Committed>>>,
    uncommitted: RefCell<Vec<Rc<dyn Committed>>>,
    /// Those that are open.
    queues: RefCell<Vec<Weak<dyn Committed>>>,
    ready: ReadyList,
    ring: Ring,
}

/// A queue on this shard.
pub(in crate::backend) trait Committed {
    /// It was handed all of this turn; true if it is to [hurry](Committed::hurry) when nothing ends for a
    /// moment.
    fn commit(&self, helpers: &Helpers) -> bool;
    /// Nothing has ended for a moment.
    fn hurry(&self, helpers: &Helpers);
    /// The doorbell rang: its device may have failed on another shard.
    fn look(&self);
}

struct RequestPlace {
    number: u64,
    waiter: Option<Waiter>,
    outcome: Option<RequestEnd>,
}

/// The memory of a READ, and how the request ended.
type RequestEnd = (Option<Lease>, Result<Vec<Extent>, BlockError>);

impl Outstanding {
    pub(crate) fn new(doorbell: &Arc<Doorbell>, ready: ReadyList, ring: Ring) -> Self {
        let (sender, ended) = unbounded();
        let way = Arc::new(Way { sender, doorbell: QuietDoorbell::new(doorbell) });
        let (places, uncommitted, queues) = Default::default();
        let (next, elsewhere, expects_more, made_progress) = Default::default();
        let (hurry_next, may_hurry) = Default::default();
        Self {
            way,
            ended,
            places,
            next,
            elsewhere,
            expects_more,
            made_progress,
            hurry_next,
            may_hurry,
            uncommitted,
            queues,
            ready,
            ring,
        }
    }

    /// Requests that ended go on. In each turn: nobody rings while the shard is awake.
    #[inline]
    pub(crate) fn collect(&self) {
        if self.elsewhere.get() > 0 {
            self.way.doorbell.wake();
            self.collect_ended();
        }
    }

    fn collect_ended(&self) {
        for Ended { ticket, loan, result, more_follow } in self.ended.try_iter() {
            self.elsewhere.set(self.elsewhere.get() - 1);
            self.expects_more.set(more_follow);
            self.made_progress.set(true);
            let lease = loan.and_then(Loan::give_back);
            let mut places = self.places.borrow_mut();
            // Nobody waits for one whose task is gone.
            let Some(place) = find(&mut places, ticket) else { continue };
            place.outcome = Some((lease, result));
            let waiter = place.waiter.take();
            drop(places);
            if let Some(waiter) = waiter {
                self.ready.notify(waiter);
            }
        }
        if self.elsewhere.get() == 0 {
            self.may_hurry.take();
        }
    }

    /// How long the shard may wait in its next system call, if nothing else keeps it awake.
    #[inline]
    pub(crate) fn before_sleep(&self, helpers: &Helpers) -> Wait {
        if self.elsewhere.get() == 0 {
            return Wait::Forever;
        }
        let progress = self.made_progress.take();
        if self.hurry_next.take() && !progress {
            self.may_hurry.take().into_iter().for_each(|queue| queue.hurry(helpers));
        }
        self.hurry_next.set(!self.may_hurry.borrow().is_empty());
        let wait = if self.expects_more.take() || self.hurry_next.get() {
            self.way.doorbell.doze();
            Wait::AtMost(MOMENT)
        } else {
            self.way.doorbell.sleep();
            Wait::Forever
        };
        if self.ended.is_empty() || canary!(EndedUnseen) { wait } else { Wait::No }
    }

    /// Whether a request has ended that was not collected.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.elsewhere.get() > 0 && !self.ended.is_empty()
    }

    /// The doorbell rang: lets queues look whether their device has failed elsewhere.
    pub(crate) fn look(&self) {
        let mut queues = self.queues.take();
        queues.retain(|queue| {
            queue.upgrade().is_some_and(|queue| {
                queue.look();
                true
            })
        });
        self.queues.borrow_mut().append(&mut queues);
    }

    /// The way back of its requests.
    pub(in crate::backend) fn way(&self) -> &Arc<Way> {
        &self.way
    }

    /// A queue was opened. Rings when its device fails.
    pub(in crate::backend) fn opened(&self, queue: Weak<dyn Committed>) -> &Arc<Doorbell> {
        self.queues.borrow_mut().push(queue);
        self.way.doorbell.doorbell()
    }

    /// All that was ready has run: the queues that were handed something may start.
    pub(crate) fn commit(&self, helpers: &Helpers) {
        if self.uncommitted.borrow().is_empty() {
            return;
        }
        for queue in self.uncommitted.take() {
            if !queue.commit(helpers) {
                continue;
            }
            let mut may_hurry = self.may_hurry.borrow_mut();
            if !may_hurry.iter().any(|other| Rc::ptr_eq(other, &queue)) {
                may_hurry.push(queue);
            }
        }
    }

    /// At the end of this turn the queue is told that this was all.
    pub(in crate::backend) fn will_commit(&self, queue: Rc<dyn Committed>) {
        self.uncommitted.borrow_mut().push(queue);
    }

    /// A request for a device, and its end.
    pub(in crate::backend) fn request(
        &self,
        command: CommandKind,
        range: ByteRange,
        flags: IoFlags,
        most_extents: usize,
        loan: Option<Loan>,
    ) -> (DeviceRequest, RequestWait<'_>) {
        let number = self.next.get();
        self.next.set(number + 1);
        self.elsewhere.set(self.elsewhere.get() + 1);
        let place =
            self.places.borrow_mut().insert(RequestPlace { number, waiter: None, outcome: None }) as u32;
        let (ticket, way) = (RequestTicket { place, number }, Arc::clone(&self.way));
        let request = DeviceRequest {
            command,
            range,
            flags,
            most_extents,
            loan,
            ticket,
            way,
            ended: false,
            more_follow: false,
        };
        (request, RequestWait { outstanding: self, ticket })
    }
}

fn find(places: &mut Slab<RequestPlace>, ticket: RequestTicket) -> Option<&mut RequestPlace> {
    places.get_mut(ticket.place as usize).filter(|place| place.number == ticket.number)
}

impl Drop for Outstanding {
    /// What came back last is given back here, on the shard's thread.
    fn drop(&mut self) {
        self.ended.try_iter().for_each(drop);
    }
}

/// The end of a request, awaited.
pub(in crate::backend) struct RequestWait<'a> {
    outstanding: &'a Outstanding,
    ticket: RequestTicket,
}

impl Future for RequestWait<'_> {
    type Output = RequestEnd;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<RequestEnd> {
        let waiter = Waiter::new(&self.outstanding.ring, context);
        let mut places = self.outstanding.places.borrow_mut();
        let place = find(&mut places, self.ticket).expect("it is polled until it ends, and no longer");
        if let Some(outcome) = place.outcome.take() {
            places.remove(self.ticket.place as usize);
            return Poll::Ready(outcome);
        }
        let replaced = place.waiter.replace(waiter);
        drop(places);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for RequestWait<'_> {
    fn drop(&mut self) {
        let mut places = self.outstanding.places.borrow_mut();
        let left =
            find(&mut places, self.ticket).is_some().then(|| places.remove(self.ticket.place as usize));
        drop(places);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use super::*;
    use crate::backend::testing::context_with;
    use crate::ring::RingOptions;

    fn flush(outstanding: &Outstanding) -> (DeviceRequest, RequestWait<'_>) {
        let nothing = ByteRange::new(0, 0).unwrap();
        outstanding.request(CommandKind::Flush, nothing, IoFlags::default(), 0, None)
    }

    fn has_ended(waiting: RequestWait<'_>) -> bool {
        pin!(waiting).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn what_ends_while_the_shard_is_awake_costs_no_ring_and_is_seen_before_it_sleeps() {
        let context = context_with(&RingOptions::small());
        let outstanding = &context.outstanding;
        let doorbell = outstanding.way.doorbell.doorbell();
        assert_eq!(outstanding.before_sleep(&context.helpers), Wait::Forever);
        for _ in 0..3 {
            let (first, first_end) = flush(outstanding);
            let (second, second_end) = flush(outstanding);
            first.complete();
            assert!(!doorbell.was_rung(0) && outstanding.has_ended());
            assert_eq!(outstanding.before_sleep(&context.helpers), Wait::No);
            outstanding.collect();
            assert!(has_ended(first_end) && !outstanding.has_ended());
            assert_eq!(outstanding.before_sleep(&context.helpers), Wait::Forever);
            std::thread::spawn(move || second.complete()).join().unwrap();
            assert!(doorbell.was_rung(0));
            outstanding.collect();
            assert!(has_ended(second_end));
        }
    }

    #[test]
    fn while_more_are_on_their_way_the_shard_dozes_and_is_rung_for_the_last() {
        let context = context_with(&RingOptions::small());
        let outstanding = &context.outstanding;
        let doorbell = outstanding.way.doorbell.doorbell();
        let sleep = || {
            let wait = outstanding.before_sleep(&context.helpers);
            let rung_before = doorbell.was_rung(0);
            assert!(!rung_before, "nothing has ended");
            wait
        };
        let ends = |mut request: DeviceRequest, more_follow| {
            request.more_follow = more_follow;
            request.complete();
            let rung = doorbell.was_rung(0);
            outstanding.collect();
            rung
        };
        let (requests, _waiting): (Vec<_>, Vec<_>) = (0..6).map(|_| flush(outstanding)).unzip();
        let mut requests = requests.into_iter();
        let mut next = || requests.next().unwrap();
        assert_eq!(sleep(), Wait::Forever);
        assert!(ends(next(), true), "a shard that sleeps is rung for the first");
        assert_eq!(sleep(), Wait::AtMost(MOMENT));
        assert!(!ends(next(), true));
        assert_eq!(sleep(), Wait::AtMost(MOMENT));
        assert!(ends(next(), false));
        assert_eq!(sleep(), Wait::Forever, "that was all");
        assert!(ends(next(), true));
        assert_eq!(sleep(), Wait::AtMost(MOMENT));
        // The verb takes longer.
        outstanding.collect();
        assert_eq!(sleep(), Wait::Forever);
        assert!(ends(next(), true));
    }

    /// Nobody waits for it any more, but it has memory of the shard's.
    #[test]
    fn what_was_abandoned_still_comes_back() {
        let context = context_with(&RingOptions::small());
        let outstanding = &context.outstanding;
        let free = context.pool.free_bytes();
        let loan = Loan::own(context.pool.lend(4096).unwrap(), 0..4096);
        let range = ByteRange::new(0, 4096).unwrap();
        let (request, waiting) =
            outstanding.request(CommandKind::Read, range, IoFlags::default(), 0, Some(loan));
        drop(waiting);
        assert_eq!(outstanding.before_sleep(&context.helpers), Wait::Forever);
        std::thread::spawn(move || drop(request)).join().unwrap();
        assert!(outstanding.way.doorbell.doorbell().was_rung(0));
        outstanding.collect();
        assert_eq!(context.pool.free_bytes(), free);
    }
}
