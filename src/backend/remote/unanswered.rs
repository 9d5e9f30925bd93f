//! The requests that the remote has not answered, and which of them have to be sent.

use std::collections::VecDeque;

use slab::Slab;

use crate::block::{ByteRange, CommandKind, IoFlags};

/// Bits of a cookie that say where the request stands; above them is its number.
const PLACE_BITS: u32 = 20;

/// One connection to the remote. No two connections of a device have the same number, ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionNumber(pub(super) u64);

/// What is asked of the remote. Its payload stays with whoever asked until the answer, since it may be sent
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RemoteRequest {
    pub(super) command: CommandKind,
    pub(super) range: ByteRange,
    pub(super) flags: IoFlags,
}

/// A reply whose cookie no request on that connection has: the remote cannot be followed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the remote answered a request that it was not sent (cookie {0:#x})")]
pub(super) struct StrayReply(pub(super) u64);

/// Whose request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RemoteEnding {
    /// Of somebody who waits.
    Awaited(RemoteRequest),
    /// Of somebody who has gone. The remote has done it all the same.
    Withdrawn(RemoteRequest),
}

#[derive(Debug)]
struct Place {
    cookie: u64,
    request: RemoteRequest,
    sent_on: Option<ConnectionNumber>,
    /// How many requests had been sent before it, the last time.
    sent_at: u64,
    is_withdrawn: bool,
}

/// Requests by cookie. Each is unsent, or under way on one connection.
#[derive(Debug)]
pub(super) struct Unanswered {
    places: Slab<Place>,
    /// Cookies of those to send, in the order in which they were asked.
    unsent: VecDeque<u64>,
    next: u64,
    sends: u64,
    limit: usize,
}

impl Unanswered {
    /// At most `limit` requests at a time.
    pub(super) fn new(limit: usize) -> Self {
        assert!(limit <= 1 << PLACE_BITS, "a place fits into a cookie");
        let (places, unsent) = (Slab::with_capacity(limit), VecDeque::with_capacity(limit));
        Self { places, unsent, next: 0, sends: 0, limit }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether something has to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether a request has a place: it is to be sent, or under way.
    pub(super) fn has(&self, cookie: u64) -> bool {
        self.places.get(index(cookie)).is_some_and(|place| place.cookie == cookie)
    }

    /// Takes a request, to be sent; nothing while as many as may be are unanswered.
    pub(super) fn ask(&mut self, request: RemoteRequest) -> Option<u64> {
        if self.places.len() >= self.limit {
            return None;
        }
        let vacant = self.places.vacant_entry();
        let cookie = self.next << PLACE_BITS | vacant.key() as u64;
        vacant.insert(Place { cookie, request, sent_on: None, sent_at: 0, is_withdrawn: false });
        self.next += u64::from(!canary!(CookieReused));
        self.unsent.push_back(cookie);
        Some(cookie)
    }

    /// The oldest request that has to be sent. It is under way on `connection` from now on.
    pub(super) fn send(&mut self, connection: ConnectionNumber) -> Option<(u64, RemoteRequest)> {
        let cookie = self.unsent.pop_front()?;
        let place = self.places.get_mut(index(cookie)).expect("unsent requests have a place");
        (place.sent_on, place.sent_at) = (Some(connection), self.sends);
        self.sends += 1;
        Some((cookie, place.request))
    }

    /// How many requests were sent so far, those that were sent again included.
    pub(super) fn sends(&self) -> u64 {
        self.sends
    }

    /// Whether a request is under way that was sent when so many had been sent already.
    pub(super) fn is_sent_after(&self, cookie: u64, sends: u64) -> bool {
        let place = self.places.get(index(cookie)).filter(|place| place.cookie == cookie);
        place.is_some_and(|place| place.sent_on.is_some() && place.sent_at >= sends)
    }

    /// The last part of a reply came on `connection`.
    ///
    /// # Errors
    /// The cookie is of no request that is under way there. Nothing changed.
    pub(super) fn answered(
        &mut self,
        cookie: u64,
        connection: ConnectionNumber,
    ) -> Result<RemoteEnding, StrayReply> {
        match self.find(cookie) {
            Some(place) if place.sent_on == Some(connection) => {
                let place = self.places.remove(index(cookie));
                Ok(match place.is_withdrawn {
                    true => RemoteEnding::Withdrawn(place.request),
                    false => RemoteEnding::Awaited(place.request),
                })
            }
            _ => Err(StrayReply(cookie)),
        }
    }

    /// Nobody waits any more. What is under way keeps its place until the remote answers it, or is lost.
    pub(super) fn withdraw(&mut self, cookie: u64) {
        let Some(place) = self.find(cookie) else { return };
        if place.sent_on.is_some() && !canary!(CookieReused) {
            place.is_withdrawn = true;
            return;
        }
        self.places.remove(index(cookie));
        if let Ok(at) = self.unsent.binary_search(&cookie) {
            self.unsent.remove(at);
        }
    }

    /// The connection is gone: what was under way there is unsent again, before all that was asked later.
    /// Gives the cookies of those.
    pub(super) fn lost(&mut self, connection: ConnectionNumber) -> Vec<u64> {
        let (unsent, mut sent_again) = (&mut self.unsent, Vec::new());
        self.places.retain(|_, place| {
            if place.sent_on != Some(connection) {
                return true;
            }
            place.sent_on = None;
            if !place.is_withdrawn && !canary!(ResendForgotten) {
                sent_again.push(place.cookie);
            }
            !place.is_withdrawn
        });
        unsent.extend(&sent_again);
        unsent.make_contiguous().sort_unstable();
        sent_again
    }

    /// Gives up all requests that have to be sent, and calls `failed` with the cookie of each.
    pub(super) fn fail_unsent(&mut self, mut failed: impl FnMut(u64)) {
        for cookie in self.unsent.drain(..) {
            self.places.remove(index(cookie));
            failed(cookie);
        }
    }

    fn find(&mut self, cookie: u64) -> Option<&mut Place> {
        self.places.get_mut(index(cookie)).filter(|place| place.cookie == cookie)
    }
}

fn index(cookie: u64) -> usize {
    (cookie & ((1 << PLACE_BITS) - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(offset: u64) -> RemoteRequest {
        let range = ByteRange::new(offset, 512).unwrap();
        RemoteRequest { command: CommandKind::Read, range, flags: IoFlags::default() }
    }

    #[test]
    fn what_was_under_way_is_sent_again_before_later_requests() {
        let (first, second) = (ConnectionNumber(1), ConnectionNumber(2));
        let mut unanswered = Unanswered::new(4);
        let cookies: Vec<_> = (0..4).map(|at| unanswered.ask(read(at)).unwrap()).collect();
        assert_eq!(unanswered.ask(read(9)), None, "the limit");
        for cookie in &cookies[..3] {
            assert_eq!(unanswered.send(first).unwrap().0, *cookie);
        }
        assert_eq!(unanswered.answered(cookies[1], first), Ok(RemoteEnding::Awaited(read(1))));
        assert_eq!(unanswered.lost(first), [cookies[0], cookies[2]]);
        assert_eq!(unanswered.answered(cookies[0], first), Err(StrayReply(cookies[0])));
        let order: Vec<_> = std::iter::from_fn(|| unanswered.send(second)).map(|sent| sent.0).collect();
        assert_eq!(order, [cookies[0], cookies[2], cookies[3]]);
    }

    #[test]
    fn a_withdrawn_request_is_answered_but_not_sent_again() {
        let connection = ConnectionNumber(1);
        let mut unanswered = Unanswered::new(4);
        let cookies: Vec<_> = (0..3).map(|at| unanswered.ask(read(at)).unwrap()).collect();
        unanswered.send(connection);
        unanswered.send(connection);
        cookies.iter().for_each(|cookie| unanswered.withdraw(*cookie));
        assert_eq!(unanswered.len(), 2, "the unsent one is gone");
        assert_eq!(unanswered.answered(cookies[0], connection), Ok(RemoteEnding::Withdrawn(read(0))));
        unanswered.lost(connection);
        assert_eq!((unanswered.len(), unanswered.send(connection)), (0, None));
    }

    proptest! {
        /// The oracle is a list of (offset, connection) in the order of asking. Offsets are unique.
        #[test]
        fn no_request_is_lost_or_answered_twice(
            steps in prop::collection::vec((0_u8..6, 0_usize..8, 0_u64..3), 0..200),
        ) {
            let mut unanswered = Unanswered::new(6);
            let mut model: Vec<(u64, u64, Option<u64>, bool)> = Vec::new();
            for (at, (step, pick, connection)) in steps.into_iter().enumerate() {
                let number = ConnectionNumber(connection);
                match step {
                    0 | 1 => match unanswered.ask(read(at as u64)) {
                        Some(cookie) => model.push((cookie, at as u64, None, false)),
                        None => prop_assert_eq!(model.len(), 6),
                    },
                    2 => {
                        let oldest = model.iter_mut().find(|row| row.2.is_none());
                        let expected = oldest.map(|row| { row.2 = Some(connection); (row.0, read(row.1)) });
                        prop_assert_eq!(unanswered.send(number), expected);
                    }
                    3 if pick < model.len() => {
                        let (cookie, offset, sent_on, is_withdrawn) = model[pick];
                        let expected = match (sent_on == Some(connection), is_withdrawn) {
                            (false, _) => Err(StrayReply(cookie)),
                            (true, false) => Ok(RemoteEnding::Awaited(read(offset))),
                            (true, true) => Ok(RemoteEnding::Withdrawn(read(offset))),
                        };
                        prop_assert_eq!(unanswered.answered(cookie, number), expected);
                        if expected.is_ok() {
                            model.remove(pick);
                            prop_assert_eq!(unanswered.answered(cookie, number), Err(StrayReply(cookie)));
                        }
                    }
                    4 if pick < model.len() => {
                        unanswered.withdraw(model[pick].0);
                        model[pick].3 = true;
                        model.retain(|row| row.2.is_some() || !row.3);
                    }
                    5 if pick == 0 => {
                        let mut failed = Vec::new();
                        unanswered.fail_unsent(|cookie| failed.push(cookie));
                        let unsent = model.iter().filter(|row| row.2.is_none()).map(|row| row.0);
                        prop_assert_eq!(failed, unsent.collect::<Vec<_>>());
                        model.retain(|row| row.2.is_some());
                    }
                    5 => {
                        unanswered.lost(number);
                        model.retain(|row| row.2 != Some(connection) || !row.3);
                        for row in model.iter_mut().filter(|row| row.2 == Some(connection)) {
                            row.2 = None;
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(unanswered.len(), model.len());
            }
        }
    }
}
