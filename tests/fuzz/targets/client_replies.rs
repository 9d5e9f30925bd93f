//! What a hostile server may send to the client: its half of the handshake, then replies. Whole and in pieces, which must come to
//! the same.
//!
//! Input: a byte for what is fed and a byte for the pieces, then the server's bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringnbd_proto::client::handshake::{ClientHandshake, Event as HandshakeEvent, Goal};
use ringnbd_proto::client::replies::{Event, ReplyParser};
use ringnbd_proto::client::request::ClientRequest;
use ringnbd_proto::session::ReplyMode;

/// Everything the client sent, and how it ended.
fn handshake(goal: Goal, secured: bool, data: &[u8], piece: usize) -> (Vec<u8>, String) {
    let mut client = ClientHandshake::new(goal).expect("the names are fine");
    if secured {
        client = client.secured();
    }
    let mut sent = Vec::new();
    let (mut at, mut end) = (0, 0);
    loop {
        let mut input = &data[at..end];
        let event = client.feed(&mut input);
        at = end - input.len();
        match event {
            Ok(Some(HandshakeEvent::Output)) => {
                assert!(!client.output().is_empty());
                sent.extend(client.take_output());
            }
            // What follows is as if it had been decrypted.
            Ok(Some(HandshakeEvent::StartTls)) => assert!(secured, "it was asked for"),
            Ok(None) => {
                assert!((1..=16 << 10).contains(&client.needed()), "a bound before anything is received");
                assert_eq!(at, end);
                if end == data.len() {
                    return (sent, client.closed().to_string());
                }
                end = data.len().min(end + piece);
            }
            Ok(Some(HandshakeEvent::Done(outcome))) => return (sent, format!("{outcome:?}")),
            Err(error) => {
                let text = error.to_string();
                assert!(!text.chars().any(char::is_control), "{text:?}");
                return (sent, text);
            }
        }
    }
}

const fn request(cookie: u64, command: u16, flags: u16, offset: u64, length: u64) -> ClientRequest {
    ClientRequest { command, flags, cookie, offset, length }
}

/// READ, READ with DF, WRITE, FLUSH, BLOCK_STATUS, with REQ_ONE, READ of nothing, and a large READ.
const REQUESTS: [ClientRequest; 8] = [
    request(1, 0, 0, 4096, 4096),
    request(2, 0, 4, 0, 512),
    request(3, 1, 0, 0, 512),
    request(4, 3, 0, 0, 0),
    request(5, 7, 0, 0, 65_536),
    request(6, 7, 8, 512, 512),
    request(7, 0, 0, 0, 0),
    request(8, 0, 0, 1 << 40, 32 << 20),
];

/// How often each byte of the first READ came: once, when its reply ends well.
struct Seen([u8; REQUESTS[0].length as usize]);

impl Seen {
    fn note(&mut self, event: &Event<'_>) {
        let (cookie, offset, length) = match *event {
            Event::Data { cookie, offset, data } => (cookie, offset, data.len()),
            Event::Hole { cookie, offset, length } => (cookie, offset, length as usize),
            Event::Done { cookie: 1, result: Ok(()) } => {
                return assert!(self.0.iter().all(|count| *count == 1));
            }
            _ => return,
        };
        if cookie == 1 {
            let start = (offset - REQUESTS[0].offset) as usize;
            self.0[start..start + length].iter_mut().for_each(|count| *count += 1);
            assert!(self.0[start..start + length].iter().all(|count| *count == 1), "no byte comes twice");
        }
    }
}

/// All events, data of neighbouring events joined.
fn replies(mode: ReplyMode, data: &[u8], piece: usize) -> Vec<String> {
    let mut parser = ReplyParser::new(mode, vec![1, 2]);
    REQUESTS.iter().for_each(|request| parser.expect(*request));
    let mut events = Vec::new();
    let mut seen = Seen([0; REQUESTS[0].length as usize]);
    let mut joined: Option<(u64, u64, Vec<u8>)> = None;
    for mut input in data.chunks(piece) {
        loop {
            let event = parser.feed(&mut input);
            if let Ok(Some(event)) = &event {
                seen.note(event);
            }
            match (&event, &mut joined) {
                (Ok(Some(Event::Data { cookie, offset, data })), Some((same, start, all)))
                    if same == cookie && *start + all.len() as u64 == *offset =>
                {
                    all.extend_from_slice(data);
                    continue;
                }
                (Ok(None), _) => break,
                _ => {}
            }
            // Data that was followed by anything but more of itself.
            if let Some(data) = joined.take() {
                events.push(format!("{data:?}"));
            }
            match event {
                Ok(Some(Event::Data { cookie, offset, data })) => {
                    joined = Some((cookie, offset, data.to_vec()))
                }
                Ok(Some(other)) => {
                    check(&other);
                    events.push(format!("{other:?}"));
                }
                Ok(None) => unreachable!("it left the loop"),
                Err(error) => {
                    events.push(error.to_string());
                    return events;
                }
            }
        }
        assert!(input.is_empty());
    }
    events.extend(joined.map(|data| format!("{data:?}")));
    events
}

/// What the caller relies on.
fn check(event: &Event<'_>) {
    match *event {
        Event::Hole { cookie, offset, length } => {
            let request = REQUESTS[cookie as usize - 1];
            assert!(
                length > 0 && offset >= request.offset && offset + length <= request.offset + request.length
            );
        }
        Event::Extent { context, length, .. } => assert!(length > 0 && [1, 2].contains(&context)),
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let [kind, piece, data @ ..] = data else { return };
    let piece = usize::from(*piece) + 1;
    let whole = data.len().max(1);
    if let Some(mode) =
        [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended].get(usize::from(kind % 6))
    {
        assert_eq!(replies(*mode, data, whole), replies(*mode, data, piece));
        return;
    }
    let goal = || match kind % 6 {
        3 => Goal::Info { export: "x".into() },
        4 => Goal::List,
        _ => Goal::Go { export: String::new(), contexts: vec!["base:allocation".into()] },
    };
    let secured = *kind >= 128;
    assert_eq!(handshake(goal(), secured, data, whole), handshake(goal(), secured, data, piece));
});
