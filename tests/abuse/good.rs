//! The good client: it keeps a few requests in flight, reads every answer, and checks it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::image::pattern;
use crate::support::raw::{Connection, Request};
use crate::support::wire::*;

/// Requests that it keeps in flight.
const DEPTH: u64 = 8;
/// Bytes of a request.
const LENGTH: u64 = 4096;
/// It works on the first bytes of the disk.
pub(crate) const REGION: u64 = MIB;
/// What is there.
pub(crate) const SEED: u64 = 77;

/// What it tells while it works.
#[derive(Default)]
pub(crate) struct Good {
    pub(crate) done: AtomicU64,
    pub(crate) stop: AtomicBool,
}

impl Good {
    /// Works until it is told to stop; then waits for the answers that are missing. One in eight requests is a write.
    pub(crate) fn work(&self, mut client: Connection) {
        let disk = pattern(SEED, 0, REGION as usize);
        let mut in_flight: Vec<Request> = Vec::new();
        let mut number = 0;
        loop {
            while in_flight.len() < DEPTH as usize && !self.stop.load(Ordering::Relaxed) {
                number += 1;
                let offset = number * 37 % (REGION / LENGTH) * LENGTH;
                let request = match number % 8 {
                    0 => Request::write(offset, disk[offset as usize..(offset + LENGTH) as usize].to_vec()),
                    _ => Request::read(offset, LENGTH),
                };
                let request = request.cookie(number);
                client.send_request(&request);
                in_flight.push(request);
            }
            if in_flight.is_empty() {
                client.disconnect();
                return;
            }
            let (request, reply) = client.next_reply(&mut in_flight);
            assert_eq!(reply.error, 0, "the good client's request failed");
            if request.kind == NBD_CMD_READ {
                let expected = &disk[request.offset as usize..(request.offset + LENGTH) as usize];
                assert!(reply.data == expected, "the good client read something else at {}", request.offset);
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}
