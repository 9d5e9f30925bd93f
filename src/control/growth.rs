//! Clients hear that their export has become larger.
//!
//! A session keeps the size that it was told. Supervisors of `/dev/nbdN` ask for their sessions to end when
//! there is more ([`NBD_INFO_X_END_ON_GROWTH`](crate::nbd::wire::NBD_INFO_X_END_ON_GROWTH)): they connect
//! again, and have the kernel take the new size when all connections of the device have it. So the server
//! knows nothing of kernels, and the resize, which may freeze the queue of the device until requests are
//! answered that this server answers, is waited for in another process.

use std::rc::Rc;

use super::catalogue::Entry;
use super::enforce::see_off;
use super::plane::Plane;
use crate::shard::Dismissal;

/// Ends the sessions of an export, and of those that it follows, whose clients want to hear of its size.
/// Gives their number; they end in the background, and what has begun is answered.
pub(super) fn tell_clients(plane: &Rc<Plane>, entry: &Entry) -> usize {
    let (ids, size) = (entry.with_former(), entry.size());
    let wants = |told: Option<u64>| told.is_some_and(|told| told < size);
    let of_it = plane.sessions.pick(|session| {
        let running = &session.running;
        wants(running.ends_beyond) && ids.contains(&running.id) && !session.is_counted.get()
    });
    let mut numbers: Vec<u64> = of_it.into_values().flatten().collect();
    numbers.sort_unstable();
    end(plane, numbers)
}

/// The same for one session that has just begun: its size may be one of before.
pub(super) fn tell_client(plane: &Rc<Plane>, number: u64, size: u64) {
    let told = plane.sessions.known.borrow().get(&number).and_then(|session| session.running.ends_beyond);
    if told.is_some_and(|told| told < size) {
        end(plane, vec![number]);
    }
}

fn end(plane: &Rc<Plane>, numbers: Vec<u64>) -> usize {
    let count = plane.sessions.count_new(&numbers);
    plane.count_ended(Dismissal::Grown, count);
    if count > 0 {
        tokio_uring::spawn(see_off(Rc::clone(plane), numbers, Dismissal::Grown));
    }
    count
}
