//! What a connection does in another way when it has TLS.

use std::cell::Cell;
use std::rc::Rc;

use crate::nbd::server::reply::HeaderBytes;
use crate::ring::{Payload, Received};
use crate::shard::frontend::nbd::batches::Batches;
use crate::shard::frontend::nbd::closing::Reason;
use crate::shard::frontend::nbd::connection::{Connection, Fed, Feeding};
use crate::shard::frontend::nbd::hold::CannotLeave;
use crate::shard::frontend::nbd::records::{NextRecord, Records};
use crate::shard::frontend::nbd::reply::Reply;
use crate::shard::frontend::nbd::secure::{LeavingSecure, Secure, Secured};
use crate::shard::frontend::nbd::unparsed::Unparsed;
use crate::shard::request::table::RequestId;
use crate::shard::takes_tls::ConnectionTls;
use crate::tls::{RecordError, TlsVersion};

impl Connection {
    /// Makes it one with TLS. `held`: bytes of partial records on the whole shard.
    pub(crate) fn secure(&mut self, secured: Option<Box<Secured>>, held: &Rc<Cell<usize>>) {
        let Some(secured) = secured else { return };
        let mut secure = Secure::new(*secured, held);
        if self.unparsed.is_none() {
            self.unparsed = secure.take_first().map(Unparsed::records);
        }
        self.secure = Some(Box::new(secure));
    }

    /// What a receive brought.
    pub(crate) fn unparsed_of(&self, received: Received) -> Unparsed {
        match self.secure {
            None => Unparsed::buffer(received),
            Some(_) => Unparsed::records(Records::buffer(received)),
        }
    }

    /// What was opened is parsed: opens the next record. Why it stopped, if there is none.
    pub(crate) fn open_next_record(
        &mut self,
        unparsed: &mut Option<Unparsed>,
        feeding: &mut Feeding<'_>,
    ) -> Option<Fed> {
        let secure = self.secure.as_mut().expect("the caller asks");
        let Some(records) = unparsed.as_mut().and_then(Unparsed::as_records) else {
            *unparsed = secure.take_first().map(Unparsed::records);
            return unparsed.is_none().then_some(Fed::NeedsBytes);
        };
        let before = secure.key_updates_by_client();
        let opened = secure.open_next(records, feeding.now);
        feeding.recorder.tls().key_updates_by_clients += secure.key_updates_by_client() - before;
        match opened {
            Ok(NextRecord::Opened) => return None,
            Ok(NextRecord::Nothing) => {
                *unparsed = None;
                return Some(Fed::NeedsBytes);
            }
            Ok(NextRecord::Closed) => self.stream_ended(),
            Err(error) => self.lost_records(error, feeding),
        }
        *unparsed = None;
        Some(Fed::Ended)
    }

    /// The records of the client cannot be followed any further, or should not. What has begun is answered,
    /// then the client is told.
    #[cold]
    fn lost_records(&mut self, error: RecordError, feeding: &mut Feeding<'_>) {
        let is_worn = error == RecordError::WornKey;
        let secure = self.secure.as_mut().expect("its records were opened");
        secure.set_farewell(error.alert());
        secure.forget_received();
        let reason = if is_worn {
            Reason::WornKey
        } else {
            tracing::info!(connection = self.number, peer = %self.name, %error, "wrong TLS, disconnecting");
            feeding.recorder.tls().record_errors += 1;
            Reason::Insecure
        };
        self.because(reason).stop(feeding.now);
    }

    /// What another process needs beside what it needs of any connection; an error if it cannot go on from
    /// here.
    pub(crate) fn leaving_secure(&self) -> Result<Option<LeavingSecure>, CannotLeave> {
        let Some(secure) = &self.secure else { return Ok(None) };
        let behind = self.unparsed.as_ref().map_or(&[][..], |unparsed| unparsed.unopened());
        secure.leaving(behind).map(Some).ok_or(CannotLeave)
    }

    /// Whether it has TLS, and which.
    pub(crate) fn tls(&self) -> ConnectionTls {
        match self.secure.as_ref().map(|secure| secure.version()) {
            None => ConnectionTls::None,
            Some(TlsVersion::Tls13) => ConnectionTls::Tls13,
            Some(TlsVersion::Tls12) => ConnectionTls::Tls12,
        }
    }

    /// Another process seals what is sent from now on.
    pub(crate) fn seal_no_more(&mut self) {
        if let Some(secure) = &mut self.secure {
            secure.set_farewell(None);
        }
    }

    /// Whether the stream is within a record.
    pub(crate) fn is_within_record(&self) -> bool {
        self.secure.as_ref().is_some_and(|secure| !secure.is_at_boundary())
    }

    /// No more records will be opened.
    pub(crate) fn forget_records(&mut self) {
        if let Some(secure) = &mut self.secure {
            secure.forget_received();
        }
    }

    /// Since when it keeps the front of a record.
    pub(crate) fn partial_since(&self) -> Option<u64> {
        self.secure.as_ref()?.partial_since()
    }

    /// Queues a sealed reply.
    pub(crate) fn push_sealed(&mut self, reply: Reply, request: RequestId) {
        let secure = self.secure.as_mut().expect("the caller asks");
        secure.seal_reply(reply, request, &mut |chunk, ends| self.outbound.push_later(chunk, ends));
    }

    /// The same for a header and its payload, at once if possible.
    pub(crate) fn push_sealed_data(
        &mut self,
        header: HeaderBytes,
        payload: Payload,
        request: RequestId,
        batches: &mut Batches,
    ) {
        let secure = self.secure.as_mut().expect("the caller asks");
        secure.seal_chunk(header.as_bytes(), payload, Some(request), &mut |chunk, ends| {
            self.outbound.push_part(chunk, ends, batches);
        });
    }

    /// No reply more comes into the last record before a send.
    pub(crate) fn seal_tail(&mut self, batches: &mut Batches) {
        if let Some(secure) = &mut self.secure {
            secure.seal_tail(&mut |chunk, ends| self.outbound.push_part(chunk, ends, batches));
        }
    }

    /// Forgets what is not sealed yet, because the client is gone: the request that it would have ended.
    pub(crate) fn forget_tail(&mut self) -> Option<RequestId> {
        self.secure.as_mut()?.forget_tail()
    }

    /// The connection ends in good order: the last thing that the client is told.
    pub(crate) fn say_farewell(&mut self) {
        let is_last = self.ledger.working() == 0 && self.outbound.is_empty();
        if is_last && let Some(secure) = &mut self.secure {
            secure.say_farewell(&mut |chunk, _| self.outbound.push_later(chunk, None));
        }
    }

    /// How often our key was renewed since this was asked last.
    pub(crate) fn take_key_updates(&mut self) -> u64 {
        self.secure.as_mut().map_or(0, |secure| secure.take_key_updates())
    }
}
