//! How a connection ends.

use super::connection::Connection;

/// What the connection is doing about its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Not ending.
    No,
    /// No more requests; what is in flight is answered first.
    Graceful,
    /// At once; nothing more can or may be sent.
    Abort,
}

impl Connection {
    /// Begins to end; an abort overrules a graceful end.
    pub(super) fn end(&mut self, ending: Ending) {
        if self.ending != Ending::Abort {
            self.ending = ending;
        }
        self.outbound.let_go();
        if self.ending == Ending::Abort {
            self.peer.abandon.abandon();
            for release in self.outbound.abandon() {
                self.release(release);
            }
            self.unparsed = None;
            self.waiting = None;
            if self.receive.is_none() {
                self.receiving = None;
            }
        }
    }

    /// Ends without answering what did not begin: a client that reconnects sends it again, and to one that is told of an error it is one.
    pub(super) fn stop(&mut self) {
        if self.ending != Ending::No {
            return;
        }
        self.ending = Ending::Graceful;
        self.unparsed = None;
        self.waiting = None;
        if let Some(release) = self.outbound.forget_held_back() {
            self.release(release);
        }
    }

    /// Between requests, with nothing in flight.
    pub(super) fn is_idle(&self) -> bool {
        let nothing_came = self.inbound.is_at_boundary() && self.waiting.is_none() && self.unparsed.is_none();
        nothing_came && self.in_flight == 0 && self.outbound.is_empty()
    }
}
