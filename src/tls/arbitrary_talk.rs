//! Both sides of a connection in memory, for fuzzing: how their bytes are cut on the way makes no difference,
//! and a byte that is changed on the way never changes what is heard.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::acceptor::{TlsAcceptor, TlsMaterial};
use super::authority::{AuthorityOrder, make_authority};
use super::client::TlsClientHandshake;
use super::connector::{ServerTrust, TlsConnector};
use super::handshake::{TlsHandshake, TlsStep};
use super::record::receive::Opened;
use super::session::TlsSession;
use super::version::TlsVersion;

const KEYS: &[u8] = b"vm1:000102030405060708090a0b0c0d0e0f";

/// When certificates are made: in 2023.
const MADE: Duration = Duration::from_secs(1_700_000_000);

/// What two sides have that trust each other, and the time of their handshakes.
pub(super) struct Sides {
    pub(super) acceptor: Arc<TlsAcceptor>,
    pub(super) connector: TlsConnector,
    pub(super) now: Duration,
}

impl Sides {
    /// With a certificate of each, or with a shared key.
    pub(super) fn of(with_certificates: bool) -> &'static Self {
        static SHARED_KEY: LazyLock<Sides> = LazyLock::new(Sides::with_shared_key);
        static CERTIFICATES: LazyLock<Sides> = LazyLock::new(Sides::with_certificates);
        if with_certificates { &CERTIFICATES } else { &SHARED_KEY }
    }

    fn with_shared_key() -> Self {
        let material = TlsMaterial { shared_keys: Some(KEYS), ..TlsMaterial::default() };
        let connector = TlsConnector::with_shared_key(KEYS, None).expect("the key is one");
        Self { acceptor: acceptor(&material), connector, now: Duration::ZERO }
    }

    fn with_certificates() -> Self {
        let server = ["localhost".to_owned()];
        let order = AuthorityOrder { server: &server, client: "vm1", now: MADE, days: 30 };
        let made = make_authority(&order).expect("the names are good");
        let file = |name: &str| {
            let file = made.iter().find(|file| file.name == name);
            &file.expect("all files are made").contents[..]
        };
        let authorities = file("ca-cert.pem");
        let material = TlsMaterial {
            certificate: Some((file("server-cert.pem"), file("server-key.pem"))),
            client_authorities: Some(authorities),
            certificate_is_required: true,
            ..TlsMaterial::default()
        };
        let trust = ServerTrust::Authorities { authorities, are_of_system: false, revoked: None };
        let own = Some((file("client-cert.pem"), file("client-key.pem")));
        let connector = TlsConnector::with_certificates(trust, own, TlsVersion::Tls13);
        let connector = connector.expect("the files are good");
        Self { acceptor: acceptor(&material), connector, now: MADE + Duration::from_secs(3600) }
    }

    /// The client's side of a handshake.
    pub(super) fn connect(&self) -> TlsClientHandshake {
        TlsClientHandshake::new(&self.connector, "localhost", self.now).expect("it begins")
    }

    /// The server's.
    pub(super) fn accept(&self) -> TlsHandshake {
        TlsHandshake::new(Arc::clone(&self.acceptor), self.now)
    }
}

fn acceptor(material: &TlsMaterial<'_>) -> Arc<TlsAcceptor> {
    Arc::new(TlsAcceptor::new(material).expect("the material is good"))
}

/// Bytes on their way to one side: they come in pieces, and one of them may be changed.
#[derive(Default)]
struct OnTheWay<'a> {
    bytes: Vec<u8>,
    /// Lengths of pieces, less one, again and again.
    pieces: &'a [u8],
    turn: usize,
    /// How many have come before, and which of all is changed, and how.
    passed: usize,
    change: Option<(usize, u8)>,
    is_disturbed: bool,
}

impl OnTheWay<'_> {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What comes next.
    fn piece(&mut self) -> Vec<u8> {
        let length =
            self.pieces.get(self.turn % self.pieces.len().max(1)).map_or(1, |it| 1 + usize::from(*it));
        self.turn += 1;
        let mut piece: Vec<u8> = self.bytes.drain(..length.min(self.bytes.len())).collect();
        if let Some((place, mask)) = self.change
            && let Some(byte) = place.checked_sub(self.passed).and_then(|at| piece.get_mut(at))
        {
            *byte ^= mask;
        }
        self.passed += piece.len();
        piece
    }
}

/// Uses `data`: where a byte is changed and how, then the lengths of pieces, which are also what is said.
pub(super) fn use_talk(sides: &Sides, data: &[u8]) {
    let Some((&[high, low, mask, side], pieces)) = data.split_first_chunk::<4>() else { return };
    let mut ways = [(); 2].map(|()| OnTheWay { pieces, ..OnTheWay::default() });
    let change = (usize::from(u16::from_be_bytes([high, low])), mask);
    let way = &mut ways[usize::from(side & 1)];
    (way.change, way.is_disturbed) = ((mask != 0).then_some(change), mask != 0);
    match shake_hands(sides, &mut ways) {
        Some((client, server)) => talk(client, server, &mut ways, pieces),
        None => assert!(mask != 0, "a handshake fails that nobody disturbed"),
    }
}

/// The sessions of client and server; none if one of them refused.
fn shake_hands(sides: &Sides, ways: &mut [OnTheWay<'_>; 2]) -> Option<(TlsSession, TlsSession)> {
    let (mut client, mut server) = (sides.connect(), sides.accept());
    let [to_server, to_client] = ways;
    let (mut of_client, mut of_server) = (None, None);
    loop {
        to_server.push(&client.take_output());
        if of_server.is_none() {
            let (ended, output) = advance(&to_server.piece(), to_server, |input| {
                let step = server.feed(input).map_err(drop);
                (step, server.take_output())
            })?;
            of_server = ended;
            to_client.push(&output);
        }
        if of_client.is_none() {
            let (ended, output) = advance(&to_client.piece(), to_client, |input| {
                let step = client.feed(input).map_err(drop);
                (step, client.take_output())
            })?;
            of_client = ended;
            to_server.push(&output);
        }
        if of_client.is_some() && of_server.is_some() {
            return of_client.zip(of_server);
        }
        if to_server.bytes.is_empty() && to_client.bytes.is_empty() {
            // A length was changed, and the rest never comes.
            return None;
        }
    }
}

/// Feeds a side with a piece: its session, if that ends the handshake, and what it says. None if it refuses.
fn advance(
    piece: &[u8],
    way: &mut OnTheWay<'_>,
    mut feed: impl FnMut(&mut &[u8]) -> (Result<TlsStep, ()>, Vec<u8>),
) -> Option<(Option<TlsSession>, Vec<u8>)> {
    let (mut input, mut said) = (piece, Vec::new());
    loop {
        let (step, output) = feed(&mut input);
        said.extend(output);
        match step.ok()? {
            TlsStep::Need => return Some((None, said)),
            TlsStep::Send | TlsStep::Heard => {}
            TlsStep::Done(session) => {
                // Records came with it.
                way.bytes.splice(..0, input.iter().copied());
                way.passed -= input.len();
                // They were changed, if that was due.
                way.change = way.change.filter(|(place, _)| *place >= way.passed + input.len());
                return Some((Some(*session), said));
            }
        }
    }
}

/// Each tells the other something, with keys that are renewed on the way.
fn talk(
    mut client: TlsSession,
    mut server: TlsSession,
    [to_server, to_client]: &mut [OnTheWay<'_>; 2],
    data: &[u8],
) {
    let renewal = 1 + u64::from(data.first().copied().unwrap_or(0) % 5);
    client.sealer.set_renewal(renewal);
    server.sealer.set_renewal(renewal);
    for round in 0..3 {
        let words = data.repeat(1 + round * 7);
        say(&mut client, &mut server, to_server, &words);
        say(&mut server, &mut client, to_client, &words);
    }
}

fn say(from: &mut TlsSession, to: &mut TlsSession, way: &mut OnTheWay<'_>, words: &[u8]) {
    let mut records = Vec::new();
    from.append(words, &mut records);
    way.push(&records);
    let is_changed = way.is_disturbed;
    let (mut held, mut heard) = (Vec::new(), Vec::new());
    while !way.bytes.is_empty() {
        held.extend(way.piece());
        loop {
            match to.open(&mut held) {
                Ok(Opened::Record { length, data }) => {
                    heard.extend_from_slice(&held[data]);
                    held.drain(..length);
                }
                Ok(Opened::Need(_)) => break,
                Ok(Opened::Closed { .. }) => panic!("nobody said goodbye"),
                Err(error) => {
                    assert!(is_changed, "{error}");
                    way.bytes.clear();
                    held.clear();
                    break;
                }
            }
        }
    }
    assert!(words.starts_with(&heard), "something else was heard");
    assert!(is_changed || heard.len() == words.len(), "not all was heard");
}
