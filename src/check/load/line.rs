//! One connection under load: many requests under way, and each answer looked at.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use hdrhistogram::Histogram;
use socket2::Socket;

use super::super::probe::{Finding, Probe, ProbeResult};
use super::super::wire::ProbeRequest;
use super::territory::{Move, Offered, Territory};
use crate::random::Random;

/// Latencies are told with this many digits.
const DIGITS: u8 = 3;
/// And up to here: a minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// What a connection has done.
#[derive(Debug, Clone)]
pub(super) struct Deeds {
    /// Requests and bytes by the number of the command; the last is for what is no command.
    pub(super) commands: [(u64, u64); 9],
    pub(super) latency: Histogram<u64>,
    /// Bytes that were compared with what must be there.
    pub(super) compared: u64,
}

impl Deeds {
    pub(super) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).expect("the bounds are in order");
        Self { commands: Default::default(), latency, compared: 0 }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in self.commands.iter_mut().zip(&other.commands) {
            *sum = (sum.0 + more.0, sum.1 + more.1);
        }
        self.latency.add(&other.latency).expect("both have the same bounds");
        self.compared += other.compared;
    }

    fn count(&mut self, request: &ProbeRequest, took_ns: u64) {
        let (requests, bytes) = &mut self.commands[usize::from(request.command).min(8)];
        *requests += 1;
        *bytes += request.length;
        self.latency.saturating_record(took_ns.max(1));
    }
}

/// See the module.
pub(super) struct Line {
    probe: Probe,
    offered: Offered,
    depth: usize,
    outgoing: SyncSender<Vec<u8>>,
    in_flight: Vec<ProbeRequest>,
    moves: HashMap<u64, (Move, Instant)>,
    pub(super) deeds: Deeds,
}

/// Sends what comes until the line is gone or the server takes no more.
pub(super) fn send_all(socket: &Socket, parcels: &Receiver<Vec<u8>>) {
    let mut socket: &Socket = socket;
    while let Ok(bytes) = parcels.recv() {
        if socket.write_all(&bytes).is_err() {
            // The line waits for an answer, and its time ends.
            return;
        }
    }
}

impl Line {
    /// A line, and what its sender needs for [`send_all`]. A client that only sends while the server does so
    /// too would wait for ever.
    pub(super) fn new(mut probe: Probe, depth: usize) -> ProbeResult<(Self, Socket, Receiver<Vec<u8>>)> {
        // An error of a READ may have the form that it should not have: that is a matter of a statement.
        probe.is_lenient = true;
        let half = probe.sending_half();
        let half = half.map_err(|error| Finding::Unreachable(format!("the connection fails: {error}")))?;
        let (outgoing, parcels) = sync_channel(depth);
        let offered = Offered { export: probe.export.clone(), mode: probe.mode };
        let line = Self {
            probe,
            offered,
            depth,
            outgoing,
            in_flight: Vec::new(),
            moves: HashMap::new(),
            deeds: Deeds::new(),
        };
        Ok((line, half, parcels))
    }

    /// The sender of this line has nobody to wait for.
    pub(super) fn hang_up(&self) {
        self.probe.hang_up();
    }

    /// Reads all of a territory.
    pub(super) fn survey(&mut self, territory: &mut Territory) -> ProbeResult<()> {
        for step in territory.survey(self.offered.export.maximum()) {
            self.send(territory, step)?;
            while self.in_flight.len() >= self.depth {
                self.receive(territory)?;
            }
        }
        self.finish(territory)
    }

    /// Asks at random until `until`, and waits for all answers.
    pub(super) fn storm(
        &mut self,
        territory: &mut Territory,
        chance: &mut Random,
        until: Instant,
    ) -> ProbeResult<()> {
        while Instant::now() < until {
            // What is drawn may have to wait for something under way.
            let tries = self.depth.saturating_sub(self.in_flight.len());
            for _ in 0..tries {
                if let Some(step) = territory.draw(chance, &self.offered) {
                    self.send(territory, step)?;
                }
            }
            // Waves as well as a steady depth: at times all answers are waited for.
            if chance.chance(0.01) {
                self.finish(territory)?;
            } else if !self.in_flight.is_empty() {
                self.receive(territory)?;
            }
        }
        self.finish(territory)
    }

    fn finish(&mut self, territory: &mut Territory) -> ProbeResult<()> {
        while !self.in_flight.is_empty() {
            self.receive(territory)?;
        }
        Ok(())
    }

    fn send(&mut self, territory: &mut Territory, step: Move) -> ProbeResult<()> {
        territory.begin(&step);
        let bytes = step.request.encode(self.probe.mode);
        self.probe.note_sent(&bytes);
        let step = step.without_payload();
        self.in_flight.push(step.request.clone());
        self.moves.insert(step.request.cookie, (step, Instant::now()));
        // Its end is noticed by the answer that does not come.
        let _the_sender_has_ended = self.outgoing.send(bytes);
        Ok(())
    }

    fn receive(&mut self, territory: &mut Territory) -> ProbeResult<()> {
        self.probe.renew();
        let (request, reply) = self.probe.next_reply(&mut self.in_flight)?;
        let Some((step, since)) = self.moves.remove(&request.cookie) else { return Ok(()) };
        self.deeds.count(&request, since.elapsed().as_nanos() as u64);
        self.deeds.compared += territory.end(&step, &reply, &self.offered.export)?;
        Ok(())
    }
}
