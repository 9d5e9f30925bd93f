//! TLS under a simulated client: its requests leave as records of any size, keys are renewed all the time, and what comes is opened.
//! Handshakes are not simulated.

use std::sync::Arc;

use ringnbd::internal::ring::sim::{Faults, Random, World};
use ringnbd::internal::shard::Secured;
use ringnbd::internal::tls::{Alert, CipherSuite, Opened, TlsSession, TlsVersion};

use super::plan::{Plan, Restart};
use super::run::weighing::WeightPlan;
use super::run::{self, Report};
use super::wire::Stream;

/// Where a request ends that is not sealed.
pub(crate) const NOT_SEALED: u64 = u64::MAX;

/// The client's end of a connection with TLS.
pub(crate) struct SecureEnd {
    session: TlsSession,
    random: Random,
    /// Requests that are not sealed, and where each of them ends in there, by cookie.
    plain: Vec<u8>,
    ends: Vec<(usize, u64)>,
    /// No more will come.
    is_leaving: bool,
    /// Records that are not opened.
    received: Vec<u8>,
    /// The server has said goodbye.
    is_over: bool,
}

/// What both agreed on in the handshake, if the world decides all of it.
pub(crate) fn pair(random: &mut Random) -> (SecureEnd, Secured) {
    let mut secret = || {
        let mut bytes = [0; 48];
        bytes.chunks_mut(8).for_each(|word| word.copy_from_slice(&random.number().to_le_bytes()));
        bytes
    };
    let (client, server) = (secret(), secret());
    // Of its own accord, so that all else that a seed decides stays the same.
    let version = if client[0] % 4 == 0 { TlsVersion::Tls12 } else { TlsVersion::Tls13 };
    let kind = (version, random.pick(&CipherSuite::ALL));
    let (mut client, mut server) = TlsSession::simulated(kind, client, server);
    for session in [&mut client, &mut server] {
        let records = random.pick(&[1, 7, 100, 1 << 10]);
        // With TLS 1.2 the session would end.
        if version == TlsVersion::Tls13 {
            session.sealer.set_renewal(records);
        }
    }
    let end = SecureEnd {
        session: client,
        random: Random::new(random.number()),
        plain: Vec::new(),
        ends: Vec::new(),
        is_leaving: false,
        received: Vec::new(),
        is_over: false,
    };
    (end, Secured { session: server, received: Vec::new() })
}

impl SecureEnd {
    /// A request that is to leave.
    pub(crate) fn queue(&mut self, request: &[u8], cookie: u64) {
        self.plain.extend_from_slice(request);
        self.ends.push((self.plain.len(), cookie));
    }

    /// Bytes of a record that says goodbye.
    pub(crate) fn goodbye_bytes(&self) -> usize {
        let sealer = &self.session.sealer;
        sealer.front_bytes() + 2 + sealer.trailer_bytes()
    }

    /// It leaves when everything else has.
    pub(crate) fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// Seals what is queued, or a part of it. `ends` hears where requests end among the bytes of `outgoing`.
    pub(crate) fn seal(&mut self, outgoing: &mut Stream, mut ends: impl FnMut(u64, u64)) {
        let most = if self.random.chance(0.2) { self.random.below(40_000) as usize } else { usize::MAX };
        let (mut sealed, mut at, mut records) = (0, 0, Vec::new());
        let size = self.random.pick(&[1, 16, 100, 4096, 16_384, 16_384]);
        while sealed < self.plain.len().min(most) {
            // Records of single bytes only where few bytes are left.
            let left = self.plain.len() - sealed;
            let length = self.random.between(1, size.max(left as u64 / 50)).min(16_384).min(left as u64);
            let piece = &self.plain[sealed..sealed + length as usize];
            self.session.append(piece, &mut records);
            sealed += piece.len();
            while let Some((end, cookie)) = self.ends.get(at).filter(|(end, _)| *end <= sealed) {
                debug_assert!(*end > 0);
                ends(*cookie, records.len() as u64);
                at += 1;
            }
        }
        self.plain.drain(..sealed);
        self.ends.drain(..at);
        self.ends.iter_mut().for_each(|(end, _)| *end -= sealed);
        if self.is_leaving && self.plain.is_empty() {
            self.is_leaving = false;
            self.session.sealer.alert(Alert::CLOSE_NOTIFY, &mut records);
        }
        outgoing.push(&records);
    }

    /// Opens what came.
    pub(crate) fn open(&mut self, bytes: &[u8], incoming: &mut Stream) -> Result<(), String> {
        self.received.extend_from_slice(bytes);
        let mut opened = 0;
        loop {
            let step = self.session.open(&mut self.received[opened..]);
            match step.map_err(|error| format!("a record of the server: {error}"))? {
                Opened::Need(_) => break,
                Opened::Record { length, data } => {
                    incoming.push(&self.received[opened + data.start..opened + data.end]);
                    opened += length;
                }
                Opened::Closed { length } => {
                    opened += length;
                    self.is_over = true;
                    if opened == self.received.len() {
                        break;
                    }
                }
            }
        }
        self.received.drain(..opened);
        Ok(())
    }

    /// What is wrong with the end of the server's stream, if it ends here.
    pub(crate) fn check_end(&self) -> Result<(), String> {
        match (self.received.len(), self.is_over) {
            (0, true) => Ok(()),
            (0, false) => Err("the stream ends without a goodbye".into()),
            (bytes, _) => Err(format!("the stream ends {bytes} bytes within a record")),
        }
    }
}

/// Runs a seed in a world whose clients have TLS for the most part.
pub(crate) fn worlds(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed ^ 0x715);
    let faults = if random.chance(0.3) { Faults::none() } else { Faults::any(&mut random) };
    let world = World::new(random.number(), faults.clone());
    let mut plan = Plan { restarts: Restart::some(seed), ..Plan::random(&mut random) };
    plan.encrypted = random.pick(&[0.5, 1.0, 1.0]);
    // Whoever keeps too many partial records is seen off: more than any client of a world has.
    let limits = Arc::make_mut(&mut plan.limits);
    limits.partial_records = 1 << 20;
    limits.memory_per_shard += limits.partial_records;
    run::run_plan(random, world, faults, WeightPlan::added_to(WeightPlan::some(seed), plan))
}
