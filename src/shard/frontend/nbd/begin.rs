//! How a request begins: it is answered at once, or takes memory, receives its payload, and goes to its backend.

use std::rc::Rc;

use crate::nbd::server::request::{Cookie, Request};
use crate::ring::Lease;
use crate::shard::frontend::nbd::connection::{Connection, Fed, Feeding, Receiving};
use crate::shard::request::serve::Work;
use crate::shard::request::table::{Record, RequestId};
use crate::stats::Timing;

impl Connection {
    /// Takes memory for a request; it is admitted at once, or when its payload is here.
    pub(crate) fn begin(&mut self, request: Request, arrived: u64, feeding: &mut Feeding<'_>) -> Option<Fed> {
        if self.read_at_once(&request, arrived, feeding) || self.write_at_once(&request, arrived, feeding) {
            return None;
        }
        let payload = request.payload_length();
        let memory = self.memory_for(&request, feeding);
        let mut lease = None;
        if memory > 0 {
            match self.lend(memory as usize, feeding) {
                Ok(lent) => lease = Some(lent),
                Err(need) => {
                    self.waiting = Some((request, arrived));
                    return Some(Fed::WaitsForShard(need));
                }
            }
        }
        let held = lease.as_ref().map_or(0, |lease| lease.capacity() as u32);
        let id = self.note(request.cookie, held, None, feeding);
        if payload > 0 {
            self.inbound.expect_payload(u64::from(payload));
            self.receiving = Some(Receiving { id, request, lease, filled: 0, held });
        } else {
            let timing = feeding.recorder.admitted(self.peer.export, &request, arrived);
            self.admit(id, &request, lease, timing, feeding);
        }
        None
    }

    /// A request that holds so many bytes of memory is in flight from now on.
    #[inline]
    pub(crate) fn note(
        &mut self,
        cookie: Cookie,
        held: u32,
        timing: Option<Timing>,
        feeding: &mut Feeding<'_>,
    ) -> RequestId {
        self.in_flight += 1;
        self.held += held as usize;
        feeding.requests.insert(Record { connection: feeding.key, held, cookie, timing })
    }

    pub(crate) fn copy_payload(&mut self, bytes: &[u8]) {
        let receiving = self.receiving.as_mut().expect("a payload belongs to a request");
        let start = receiving.filled as usize;
        let lease =
            receiving.lease.as_mut().expect("the kernel receives into it only when nothing is unparsed");
        lease.bytes_mut(start..start + bytes.len()).copy_from_slice(bytes);
        receiving.filled += bytes.len() as u32;
        self.progress.inbound.moved(bytes.len() as u64);
    }

    /// Admits the request whose payload is complete, if there is one.
    pub(crate) fn finish_payload(&mut self, feeding: &mut Feeding<'_>) {
        let complete = self.receiving.as_ref().is_some_and(|receiving| {
            receiving.lease.is_some() && receiving.filled == receiving.request.payload_length()
        });
        if !complete {
            return;
        }
        let Receiving { id, request, lease, .. } = self.receiving.take().expect("it is complete");
        let timing = feeding.recorder.admitted(self.peer.export, &request, feeding.now);
        self.admit(id, &request, lease, timing, feeding);
    }

    /// Gives a request to its backend. One that had waited for memory or for its payload may come when no slot is free any more: the
    /// table has one more for each connection.
    #[inline]
    pub(crate) fn admit(
        &mut self,
        id: RequestId,
        request: &Request,
        lease: Option<Lease>,
        timing: Timing,
        feeding: &mut Feeding<'_>,
    ) {
        self.tasks += 1;
        self.progress.admitted = true;
        feeding.requests.admitted(id, timing);
        feeding.started.push(id);
        if let Err(lease) = self.read_alone(id, request, lease, feeding) {
            feeding.admitted.push((id, Work { request: *request, lease, peer: Rc::clone(&self.peer) }));
        }
    }

    /// The payload that was being received will not come, or is of no use any more.
    pub(crate) fn forget_payload(&mut self) {
        self.forgotten.extend(self.receiving.take().map(|receiving| receiving.id));
    }
}
