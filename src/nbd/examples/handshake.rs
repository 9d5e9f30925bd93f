//! A whole session in memory: the handshake of both sides, then one READ with extended headers.
//!
//! Nothing is sent: each side has a buffer of the other's bytes, as a socket would have.

use std::error::Error;

use ringnbd_proto::client::handshake::{
    self as client_handshake, ClientHandshake, Goal, HandshakeError, HandshakeOutcome, Transmission,
};
use ringnbd_proto::client::replies::{self, ReplyParser};
use ringnbd_proto::client::request::ClientRequest;
use ringnbd_proto::meta_context::MetaContext;
use ringnbd_proto::server::handshake::{
    self as server_handshake, CloseReason, Handshake, HandshakeLimits, Negotiated,
};
use ringnbd_proto::server::reply::ReplyTo;
use ringnbd_proto::server::request::Command;
use ringnbd_proto::server::requests::{self, RequestParser};
use ringnbd_proto::session::{ExportInfo, ReplyMode};
use ringnbd_proto::vocabulary::{BlockSizes, DeviceFacts};
use ringnbd_proto::wire::NBD_CMD_READ;

/// The content of the only export.
const CONTENT: &[u8] = b"A whole disk of sixty-four bytes, in memory, for one READ of it.";

/// What each side has received and not yet taken.
#[derive(Default)]
struct Wires {
    to_client: Vec<u8>,
    to_server: Vec<u8>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let exports = [ExportInfo {
        name: "disk".into(),
        description: "sixty-four bytes".into(),
        facts: DeviceFacts {
            size: CONTENT.len() as u64,
            read_only: true,
            rotational: false,
            fast_zero: false,
            block_sizes: BlockSizes::default(),
        },
        contexts: vec![MetaContext::BaseAllocation],
        require_block_size: false,
    }];
    let mut wires = Wires::default();
    let (transmission, negotiated) = shake_hands(&exports, &mut wires)?;
    let mode = transmission.dialect.reply_mode;
    assert_eq!((mode, negotiated.session.reply_mode), (ReplyMode::Extended, ReplyMode::Extended));
    println!("{:?} has {} bytes; replies are {mode:?}", transmission.export.name, transmission.export.size);

    let (offset, data) = (2, "whole disk");
    let request =
        ClientRequest { command: NBD_CMD_READ, flags: 0, cookie: 1, offset, length: data.len() as u64 };
    let mut client = ReplyParser::new(mode, transmission.contexts.iter().map(|context| context.id).collect());
    request.encode(mode, &mut wires.to_server);
    client.expect(request);
    let mut server = RequestParser::new(negotiated.session);
    serve(&mut server, &mut wires)?;
    let read = receive(&mut client, &wires, request)?;
    assert_eq!(read, data.as_bytes());
    println!("{} bytes at {offset}: {:?}", read.len(), String::from_utf8_lossy(&read));
    Ok(())
}

/// Lets the two sides talk until both say that the handshake is over.
fn shake_hands(
    exports: &[ExportInfo],
    wires: &mut Wires,
) -> Result<(Transmission, Negotiated), Box<dyn Error>> {
    let goal = Goal::Go { export: "disk".into(), contexts: vec!["base:allocation".into()] };
    let mut client = ClientHandshake::new(goal)?;
    let mut server = Handshake::new(HandshakeLimits { option_length: 64 << 10, options: 64, bytes: 1 << 20 });
    let (mut negotiated, mut outcome) = (None, None);
    // The last bytes of client and server cross each other: either may be done first.
    while negotiated.is_none() || outcome.is_none() {
        if negotiated.is_none() {
            negotiated = step_of_server(&mut server, exports, wires)?;
        }
        if outcome.is_none() {
            outcome = step_of_client(&mut client, wires)?;
        }
    }
    match (outcome, negotiated) {
        (Some(HandshakeOutcome::Transmission(transmission)), Some(negotiated)) => {
            Ok((transmission, negotiated))
        }
        other => Err(format!("the two sides disagree: {other:?}").into()),
    }
}

/// One event of the server's handshake; gives the session once it stands.
fn step_of_server(
    server: &mut Handshake,
    exports: &[ExportInfo],
    wires: &mut Wires,
) -> Result<Option<Negotiated>, CloseReason> {
    let mut input = &wires.to_server[..];
    let event = server.feed(&mut input)?;
    wires.to_server = input.to_vec();
    match event {
        // It waits for the client.
        None => {}
        Some(server_handshake::Event::Output) => wires.to_client.extend(server.take_output()),
        Some(server_handshake::Event::Lookup(name)) => {
            server.found(exports.iter().enumerate().find(|(_, export)| export.name == name));
        }
        Some(server_handshake::Event::List) => server.listed(exports),
        Some(server_handshake::Event::StartTls) => unreachable!("this server has no TLS"),
        Some(server_handshake::Event::Done(negotiated)) => return Ok(Some(negotiated)),
    }
    Ok(None)
}

/// One event of the client's handshake; gives how it ended.
fn step_of_client(
    client: &mut ClientHandshake,
    wires: &mut Wires,
) -> Result<Option<HandshakeOutcome>, HandshakeError> {
    let mut input = &wires.to_client[..];
    let event = client.feed(&mut input)?;
    wires.to_client = input.to_vec();
    match event {
        // It waits for the server.
        None => {}
        Some(client_handshake::Event::Output) => wires.to_server.extend(client.take_output()),
        Some(client_handshake::Event::StartTls) => unreachable!("it was not asked for"),
        Some(client_handshake::Event::Done(outcome)) => return Ok(Some(outcome)),
    }
    Ok(None)
}

/// The server's side of the transmission phase, as far as the client has asked.
fn serve(server: &mut RequestParser, wires: &mut Wires) -> Result<(), Box<dyn Error>> {
    let mode = server.session().reply_mode;
    let mut input = &wires.to_server[..];
    while let Some(event) = server.feed(&mut input)? {
        match event {
            requests::Event::Request(request) if matches!(request.command, Command::Read { .. }) => {
                // The range was checked: it is within the export, and no longer than a request may be.
                let (start, end) = (request.range.offset() as usize, request.range.end() as usize);
                let length = (end - start) as u32;
                let header = ReplyTo::request(&request, mode).data(request.range.offset(), length, true);
                wires.to_client.extend(header.as_bytes());
                wires.to_client.extend(&CONTENT[start..end]);
            }
            requests::Event::Refused(refusal) => {
                let (header, text) =
                    ReplyTo::refusal(&refusal, mode).error(refusal.error, refusal.reason, None);
                wires.to_client.extend(header.as_bytes());
                wires.to_client.extend(text);
            }
            other => return Err(format!("this client only reads: {other:?}").into()),
        }
    }
    wires.to_server.clear();
    Ok(())
}

/// The client's side: the data of its request.
fn receive(
    client: &mut ReplyParser,
    wires: &Wires,
    request: ClientRequest,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut content = vec![0; request.length as usize];
    let mut input = &wires.to_client[..];
    while let Some(event) = client.feed(&mut input)? {
        // The parser vouches for the ranges.
        match event {
            replies::Event::Data { offset, data, .. } => {
                content[(offset - request.offset) as usize..][..data.len()].copy_from_slice(data);
            }
            replies::Event::Hole { offset, length, .. } => {
                content[(offset - request.offset) as usize..][..length as usize].fill(0);
            }
            replies::Event::Done { result, .. } => {
                result?;
                return Ok(content);
            }
            other => return Err(format!("no answer to a READ: {other:?}").into()),
        }
    }
    Err("the reply is not complete".into())
}
