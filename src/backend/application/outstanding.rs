//! The requests that a shard has handed to devices of the application.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

use crossbeam_channel::{Receiver, unbounded};
use slab::Slab;

use super::request::{DeviceRequest, Ended, RequestTicket, Way};
use crate::block::{BlockError, ByteRange, CommandKind, Extent, IoFlags};
use crate::exec::{Helpers, ReadyList, Waiter};
use crate::ring::{Lease, Loan, Ring};
use crate::sys::Doorbell;

/// The requests of a shard that wait for the application, and the queues that were handed some in this turn.
///
/// Admission bounds them: each belongs to a request of a client, and holds that one's memory.
pub(crate) struct Outstanding {
    way: Arc<Way>,
    ended: Receiver<Ended>,
    places: RefCell<Slab<RequestPlace>>,
    next: Cell<u64>,
    uncommitted: RefCell<Vec<Rc<dyn Committed>>>,
    /// Those that are open.
    queues: RefCell<Vec<Weak<dyn Committed>>>,
    ready: ReadyList,
    ring: Ring,
}

/// A queue on this shard.
pub(in crate::backend) trait Committed {
    /// It was handed all of this turn.
    fn commit(&self, helpers: &Helpers);
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
        let way = Arc::new(Way { sender, doorbell: Arc::clone(doorbell) });
        let (places, uncommitted, queues) = Default::default();
        Self { way, ended, places, next: Cell::new(0), uncommitted, queues, ready, ring }
    }

    /// The doorbell rang: requests that ended go on.
    pub(crate) fn collect(&self) {
        self.look();
        for Ended { ticket, loan, result } in self.ended.try_iter() {
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
    }

    /// Lets queues look whether their device has failed elsewhere.
    fn look(&self) {
        let mut queues = self.queues.take();
        queues.retain(|queue| {
            queue.upgrade().is_some_and(|queue| {
                queue.look();
                true
            })
        });
        self.queues.borrow_mut().append(&mut queues);
    }

    /// A queue was opened. Rings when its device fails.
    pub(in crate::backend) fn opened(&self, queue: Weak<dyn Committed>) -> &Arc<Doorbell> {
        self.queues.borrow_mut().push(queue);
        &self.way.doorbell
    }

    /// All that was ready has run: the queues that were handed something may start.
    pub(crate) fn commit(&self, helpers: &Helpers) {
        if self.uncommitted.borrow().is_empty() {
            return;
        }
        for queue in self.uncommitted.take() {
            queue.commit(helpers);
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
        let place =
            self.places.borrow_mut().insert(RequestPlace { number, waiter: None, outcome: None }) as u32;
        let (ticket, way) = (RequestTicket { place, number }, Arc::clone(&self.way));
        let request = DeviceRequest { command, range, flags, most_extents, loan, ticket, way, ended: false };
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
