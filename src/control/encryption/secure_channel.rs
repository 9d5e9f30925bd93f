//! A client's handshake of TLS, and what it sends and gets until a shard takes it.

use std::sync::Arc;
use std::time::SystemTime;

use tokio_uring::net::TcpStream;

use super::Encryption;
use crate::control::client_stream::{Failure, read_some, send};
use crate::control::handshake_memory::Claim;
use crate::identity::TlsIdentity;
use crate::shard::Secured;
use crate::stats::TlsFailure;
use crate::tls::{CipherSuite, Opened, TlsError, TlsHandshake, TlsProof, TlsSession, TlsStep, TlsVersion};

/// Memory of a handshake whose ClientHello is there, in bytes; a claim is for twice as much. It is mostly
/// what rustls has: 11,000 bytes when it was measured (`tests/abuse/tls.rs`), beside what the client sent.
const HANDSHAKE_CLAIM: usize = 8 << 10;
/// How often the bytes of a client are kept at most: as records, and as messages.
const COPIES: usize = 2;

/// A client with TLS.
#[derive(Debug)]
pub(in crate::control) struct SecureChannel {
    session: Box<TlsSession>,
    /// What the client was believed for.
    proof: TlsProof,
    /// What came, and how much of it is opened.
    received: Vec<u8>,
    opened: usize,
}

/// What a worker thread is given and gives back.
struct HandshakeStage {
    handshake: TlsHandshake,
    received: Vec<u8>,
    output: Vec<u8>,
    step: Result<TlsStep, TlsError>,
}

/// One step of a handshake.
fn step(mut handshake: TlsHandshake, mut received: Vec<u8>) -> HandshakeStage {
    let mut input = received.as_slice();
    let step = handshake.feed(&mut input);
    let taken = received.len() - input.len();
    received.drain(..taken);
    let output = handshake.take_output();
    HandshakeStage { handshake, received, output, step }
}

impl SecureChannel {
    /// Goes through the handshake of a client that was told to begin it.
    ///
    /// # Errors
    /// [`Failure`]; the client was told.
    pub(in crate::control) async fn begin(
        encryption: &Encryption,
        stream: &TcpStream,
        claim: &mut Claim,
    ) -> Result<Self, Failure> {
        let workers = encryption.workers.as_ref().expect("threads are started before listening");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let acceptor = Arc::clone(&encryption.acceptor.borrow());
        let mut handshake = TlsHandshake::new(Arc::clone(&acceptor), now);
        let (mut received, mut heard, mut fed) = (Vec::new(), false, 0);
        loop {
            let stage = workers.run(move || step(handshake, received)).await;
            let Some(stage) = stage else {
                return Err(Failure::Tls(TlsFailure::Internal, "the handshake failed badly".to_owned()));
            };
            (handshake, received) = (stage.handshake, stage.received);
            if !stage.output.is_empty() {
                let sent = send(stream, stage.output).await;
                // A client that is told of an error may be gone.
                if stage.step.is_ok() {
                    sent?;
                }
            }
            match stage.step {
                Ok(TlsStep::Send) => {}
                // Before there is anything to be paid for.
                Ok(TlsStep::Heard) => {
                    heard = true;
                    claim.hold(COPIES * fed + HANDSHAKE_CLAIM).await;
                }
                Ok(TlsStep::Need) => {
                    let more = read_some(stream).await?;
                    fed += more.len();
                    claim.hold(COPIES * fed + if heard { HANDSHAKE_CLAIM } else { 0 }).await;
                    received.extend_from_slice(&more);
                }
                Ok(TlsStep::Done(mut session)) => {
                    session.set_renewal(encryption.config.renew_after);
                    let proof = acceptor.proof_of(&session);
                    return Ok(Self { session, proof, received, opened: 0 });
                }
                Err(error) => return Err(Failure::Tls(class_of(&error), error.to_string())),
            }
        }
    }

    /// The client.
    pub(in crate::control) fn identity(&self) -> TlsIdentity {
        self.session.identity.clone()
    }

    /// What it was believed for.
    pub(in crate::control) fn proof(&self) -> TlsProof {
        self.proof.clone()
    }

    /// The places of its version among [`TLS_VERSIONS`](crate::stats::TLS_VERSIONS), and of its cipher suite
    /// among [`TLS_CIPHERS`](crate::stats::TLS_CIPHERS).
    pub(in crate::control) fn kind(&self) -> (usize, usize) {
        let version = TlsVersion::ALL.iter().position(|version| *version == self.session.version);
        let suite = CipherSuite::ALL.iter().position(|suite| *suite == self.session.suite);
        version.zip(suite).expect("they are some of them")
    }

    /// The next data of the client. `others`: bytes that are kept of it already.
    ///
    /// # Errors
    /// [`Failure`].
    pub(in crate::control) async fn receive(
        &mut self,
        stream: &TcpStream,
        claim: &mut Claim,
        others: usize,
    ) -> Result<Vec<u8>, Failure> {
        loop {
            let front = &mut self.received[self.opened..];
            match self.session.open(front) {
                Ok(Opened::Record { length, data }) => {
                    let data = front[data].to_vec();
                    self.opened += length;
                    if !data.is_empty() {
                        return Ok(data);
                    }
                }
                Ok(Opened::Need(whole)) => {
                    self.received.drain(..self.opened);
                    self.opened = 0;
                    claim.hold(others + whole).await;
                    self.received.extend_from_slice(&read_some(stream).await?);
                }
                Ok(Opened::Closed { .. }) => return Err(Failure::Gone),
                Err(error) => {
                    if let Some(alert) = error.alert() {
                        let mut output = Vec::new();
                        self.session.sealer.alert(alert, &mut output);
                        let _gone = send(stream, output).await;
                    }
                    return Err(Failure::Tls(TlsFailure::Malformed, error.to_string()));
                }
            }
        }
    }

    /// Records for the client.
    pub(in crate::control) fn seal(&mut self, data: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        self.session.append(data, &mut output);
        output
    }

    /// What a shard goes on with.
    pub(in crate::control) fn into_secured(mut self) -> Secured {
        self.received.drain(..self.opened);
        Secured { session: *self.session, received: self.received }
    }
}

fn class_of(error: &TlsError) -> TlsFailure {
    match error {
        TlsError::NotTls => TlsFailure::NotTls,
        error if error.is_of_version() => TlsFailure::OldVersion,
        error if error.is_of_offers() => TlsFailure::NothingInCommon,
        TlsError::OldVersion => TlsFailure::OldVersion,
        TlsError::NothingInCommon(_) => TlsFailure::NothingInCommon,
        TlsError::NoSharedKey | TlsError::WrongSharedKey(_) => TlsFailure::SharedKey,
        TlsError::TooMuch(_) | TlsError::Malformed(_) | TlsError::Record(_) | TlsError::WrongFinish => {
            TlsFailure::Malformed
        }
        TlsError::Certificates(_) => TlsFailure::Certificate,
        TlsError::PeerAlert(_) => TlsFailure::Client,
        TlsError::Internal(_) => TlsFailure::Internal,
    }
}
