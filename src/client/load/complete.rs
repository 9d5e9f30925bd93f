//! The half of a turn that takes in what completed.

use super::LoadFailure;
use super::connection::{Heed, StreamError};
use super::pattern::Mismatch;
use super::results::LoadRecorder;
use super::run::{Run, RunPhase};
use super::slots::RequestSlot;
use super::verify::Verifier;
use crate::nbd::error::from_wire;
use crate::ring::{Completion, Operation, Owner, Received};

/// What replies count towards.
struct Tally<'a> {
    recorder: &'a mut LoadRecorder,
    verifier: Option<&'a mut Verifier>,
    connection: usize,
    now: u64,
    done: usize,
    /// Results count; else blocks are read back.
    is_counted: bool,
    /// The first request that failed.
    failed: Option<RequestSlot>,
}

impl Heed for Tally<'_> {
    #[inline]
    fn data(&mut self, slot: u32, start: u64, bytes: &[u8]) {
        if let Some(verifier) = &mut self.verifier {
            verifier.content(self.connection, slot, start)[..bytes.len()].copy_from_slice(bytes);
        }
    }

    fn hole(&mut self, slot: u32, start: u64, length: u64) {
        if let Some(verifier) = &mut self.verifier {
            verifier.content(self.connection, slot, start)[..length as usize].fill(0);
        }
    }

    #[inline]
    fn done(&mut self, slot: u32, request: &RequestSlot) {
        self.done += 1;
        match request.error {
            0 if !self.is_counted => {}
            0 => self.recorder.success(request.kind, self.now.saturating_sub(request.start)),
            error => {
                if self.is_counted {
                    self.recorder.error(request.kind, error);
                }
                self.failed.get_or_insert(*request);
            }
        }
        if let Some(verifier) = &mut self.verifier {
            verifier.done(self.connection, slot, request);
        }
    }
}

impl Run<'_> {
    /// Arms the receive of a connection.
    #[inline]
    pub(super) fn receive(&mut self, key: u32, poll_first: bool) {
        let socket = self.load.connections[key as usize].socket;
        self.load.ring.push(Operation::Receive { socket, poll_first }, Owner::Connection(key));
    }

    #[inline]
    pub(super) fn completed(
        &mut self,
        key: u32,
        completion: Completion,
        now: u64,
    ) -> Result<(), LoadFailure> {
        match (completion.operation, completion.result) {
            (Operation::Receive { .. }, Ok(1..)) => {
                let mut received = completion.received.expect("bytes come in a buffer");
                self.feed(key as usize, &mut received, now)?;
                drop(received);
                self.receive(key, !completion.socket_nonempty);
            }
            // All buffers were taken by others; they are back when this turn is over.
            (Operation::Receive { .. }, Err(libc::ENOBUFS)) => self.receive(key, false),
            (Operation::Send { batch, .. }, Ok(sent)) if sent as usize == batch.length() => {
                self.load.connections[key as usize].sent(batch);
            }
            (Operation::Receive { .. } | Operation::Send { .. }, result) => {
                return Err(self.lost(key as usize, result.err()));
            }
            _ => {}
        }
        self.list(key);
        Ok(())
    }

    #[inline]
    fn feed(&mut self, key: usize, received: &mut Received, now: u64) -> Result<(), LoadFailure> {
        let is_reading_back = matches!(self.phase, RunPhase::ReadBack(_));
        let load = &mut *self.load;
        let mut tally = Tally {
            recorder: &mut self.recorder,
            verifier: load.verifier.as_mut(),
            connection: key,
            now,
            done: 0,
            is_counted: !is_reading_back,
            failed: None,
        };
        let fed = load.connections[key].feed(received, &mut tally);
        let Tally { done, failed, .. } = tally;
        self.in_flight -= done;
        if done > 0 && !is_reading_back {
            self.last_completion = now;
        }
        fed.map_err(|error| self.broken(key, error))?;
        let load = &*self.load;
        if let Some(mismatch) = load.verifier.as_ref().and_then(|verifier| verifier.found.mismatches.first())
        {
            return Err(LoadFailure::Content(Mismatch::to_string(mismatch)));
        }
        match failed {
            Some(slot) if is_reading_back => {
                Err(LoadFailure::ReadBack { offset: slot.offset, error: from_wire(slot.error) })
            }
            _ => Ok(()),
        }
    }

    #[cold]
    fn broken(&self, connection: usize, error: StreamError) -> LoadFailure {
        match error {
            StreamError::Reply(error) => LoadFailure::Protocol { connection, error },
            StreamError::Record(error) => LoadFailure::Tls { connection, sentence: error.to_string() },
            StreamError::Closed => self.lost(connection, None),
        }
    }

    #[cold]
    fn lost(&self, connection: usize, errno: Option<i32>) -> LoadFailure {
        let in_flight = self.load.connections[connection].slots.in_flight();
        match errno {
            None | Some(libc::ECONNRESET | libc::EPIPE) => LoadFailure::Closed { connection, in_flight },
            Some(errno) => LoadFailure::Socket { connection, in_flight, errno },
        }
    }
}
