//! A whole server behind a socket pair: the handshake as the control plane drives it, then a real shard with its ring.
//!
//! Input: a byte that says how the session begins, then the client's bytes as they stand on the wire. With bit 7 they begin with the
//! handshake; without it a session is made up and they are requests, whose cookies are numbered so that every reply can be checked
//! by the client's parser: each request is answered once, in a form that the session allows, before the client says goodbye.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ringnbd::internal::backend::{Export, ExportId};
use ringnbd::internal::config::{ExportUri, Limits};
use ringnbd::internal::nbd::client::replies::{Event, ReplyParser};
use ringnbd::internal::nbd::client::request::ClientRequest;
use ringnbd::internal::nbd::meta_context::MetaContext;
use ringnbd::internal::nbd::server::handshake::{Event as HandshakeEvent, Handshake, HandshakeLimits};
use ringnbd::internal::nbd::server::request::{Rejected, Request, header_length};
use ringnbd::internal::nbd::session::{ExportInfo, ReplyMode, SelectedContext, Session};
use ringnbd::internal::nbd::wire::*;
use ringnbd::internal::shard::{NewConnection, ShardConfig, ShardHandle};

/// Longer than any answer takes, even when the machine is busy: reaching it is a hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests of one script; their replies are read after all of it was sent.
const MAX_REQUESTS: u64 = 64;
const LIMITS: HandshakeLimits = HandshakeLimits { option_length: 16 << 10, options: 64, bytes: 1 << 20 };

struct Server {
    shard: ShardHandle,
    exports: Arc<[Arc<Export>]>,
}

/// One shard for all inputs: what one leaves behind must not harm the next.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let image = std::env::temp_dir().join(format!("ringnbd-fuzz-{}", std::process::id()));
        std::fs::File::create(&image).and_then(|file| file.set_len(130_000)).expect("make an image");
        let open = |uri: &str| {
            let uri: ExportUri = uri.parse().expect("a URI of ours");
            Arc::new(Export::open(&uri, false).expect("open an export"))
        };
        let exports: Arc<[Arc<Export>]> =
            vec![open("mem:128K"), open(&format!("file:{}", image.display())), open("null:1T")].into();
        // Open files stay; the name is not needed again.
        let _ = std::fs::remove_file(&image);
        let limits = Limits { connections: 64, ..Limits::SMALLEST };
        let shard = ShardHandle::start(ShardConfig {
            index: 0,
            cpu: None,
            limits: Arc::new(limits),
            files: 1,
            busy_poll: Duration::ZERO,
            record: true,
            slow: None,
            // The panic's message stands above.
            on_exit: Box::new(|_| std::process::abort()),
        });
        Server { shard: shard.expect("a shard starts"), exports }
    })
}

fn info(export: &Export) -> ExportInfo {
    ExportInfo {
        name: String::new(),
        description: String::new(),
        facts: export.facts().clone(),
        contexts: vec![MetaContext::BaseAllocation],
        require_block_size: false,
    }
}

fn connect(export: usize, session: Session, leftover: Vec<u8>) -> UnixStream {
    let (client, socket) = UnixStream::pair().expect("a socket pair");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut negotiated = NewConnection {
        number: 1,
        socket: socket.into(),
        over_tcp: false,
        id: ExportId { index: export as u32, generation: 0 },
        export: Arc::clone(&server().exports[export]),
        limits: Arc::default(),
        session,
        leftover,
        secure: None,
        peer: Default::default(),
        permit: Box::new(()),
        socket_permit: Box::new(()),
    };
    // The connections before this one may still be on their way out.
    while let Err(back) = server().shard.connect(negotiated) {
        negotiated = *back;
        std::thread::yield_now();
    }
    client
}

/// Sends the client's half of `script` while its replies are read; `done` says that no more are wanted.
fn converse(client: &UnixStream, script: &[u8], is_end: bool, mut received: impl FnMut(&[u8]) -> bool) {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut client = client;
            // The server may have hung up on a violation.
            let _ = client.write_all(script);
            if is_end {
                let _ = client.shutdown(Shutdown::Write);
            }
        });
        let mut buffer = vec![0; 256 << 10];
        let mut stream = client;
        loop {
            match stream.read(&mut buffer) {
                // The fuzzer's own timer.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) if received(&[]) => break,
                Ok(0) => panic!("the server hung up on requests that it had to answer"),
                Ok(length) if received(&buffer[..length]) => break,
                Ok(_) => {}
                Err(error) => panic!("no reply within {PATIENCE:?}: {error}"),
            }
        }
        // Frees the writer, whatever is left to send.
        let _ = client.shutdown(Shutdown::Both);
    });
}

/// The client's bytes from the greeting on, through the handshake machine and behind it.
fn raw(data: &[u8]) {
    let infos: Vec<ExportInfo> = server().exports.iter().map(|export| info(export)).collect();
    let name_of = |index: usize| ["", "file", "null"][index];
    let mut handshake = Handshake::new(LIMITS);
    let mut input = data;
    loop {
        match handshake.feed(&mut input) {
            Ok(Some(HandshakeEvent::Output)) => drop(handshake.take_output()),
            Ok(Some(HandshakeEvent::Lookup(name))) => {
                let found = (0..infos.len()).find(|index| name_of(*index) == name);
                handshake.found(found.map(|index| (index, &infos[index])));
            }
            Ok(Some(HandshakeEvent::List)) => handshake.listed(&infos),
            Ok(Some(HandshakeEvent::StartTls)) => unreachable!("this server has no TLS"),
            Ok(None) | Err(_) => return,
            Ok(Some(HandshakeEvent::Done(negotiated))) => {
                let client = connect(negotiated.export, negotiated.session, input.to_vec());
                // The server ends when it has answered what came whole; an error of the socket is as good.
                let mut total = 0;
                converse(&client, &[], true, |bytes| {
                    total += bytes.len();
                    bytes.is_empty() || total > 64 << 20
                });
                return;
            }
        }
    }
}

/// The script that is sent, and what is known of its requests.
struct Script {
    bytes: Vec<u8>,
    requests: Vec<ClientRequest>,
    /// The last request, whose payload never comes whole: it is refused at once, or never answered.
    cut_off: Option<ClientRequest>,
    /// The server may hang up: a violation, or the client's goodbye.
    has_end: bool,
}

/// Walks the stream by the spec ("Request message"), numbers the cookies, and remembers what must be answered.
fn script(data: &[u8], session: &Session) -> Script {
    let mode = session.reply_mode;
    let header_length = header_length(mode);
    let mut script = Script { bytes: Vec::new(), requests: Vec::new(), cut_off: None, has_end: false };
    let mut rest = data;
    for number in 1..=MAX_REQUESTS {
        let Some((header, behind)) = rest.split_at_checked(header_length) else { break };
        let mut header = header.to_vec();
        header[8..16].copy_from_slice(&number.to_be_bytes());
        let flags = u16::from_be_bytes([header[4], header[5]]);
        let command = u16::from_be_bytes([header[6], header[7]]);
        let number_at = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let offset = number_at(16);
        let mut length = match mode {
            ReplyMode::Extended => number_at(24),
            _ => u32::from_be_bytes(header[24..28].try_into().expect("four bytes")).into(),
        };
        // A WRITE has its payload in any case: clients exist that leave out the flag.
        let is_announced = mode == ReplyMode::Extended && flags & NBD_CMD_FLAG_PAYLOAD_LEN != 0;
        let has_payload = is_announced || command == NBD_CMD_WRITE;
        let payload_length = if has_payload { length } else { 0 };
        let is_violation = matches!(Request::parse(&header, session, false), Err(Rejected::Violation(_)));
        script.bytes.extend(&header);
        if is_violation || command == NBD_CMD_DISC {
            script.has_end = true;
            break;
        }
        if payload_length > behind.len() as u64 {
            // The server waits for the rest, and gets the end of the stream.
            script.bytes.extend(behind);
            script.cut_off = Some(ClientRequest { command, flags, cookie: number, offset, length });
            break;
        }
        let (payload, behind) = behind.split_at(payload_length as usize);
        script.bytes.extend(payload);
        rest = behind;
        if command == NBD_CMD_BLOCK_STATUS && is_announced {
            // The payload names the range.
            length = payload.first_chunk().map_or(0, |length| u64::from_be_bytes(*length));
        }
        script.requests.push(ClientRequest { command, flags, cookie: number, offset, length });
    }
    script
}

fn numbered(kind: u8, data: &[u8]) {
    let reply_mode = [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended][usize::from(kind % 3)];
    let export = usize::from(kind / 3 % 3);
    let info = info(&server().exports[export]);
    let has_context = kind & 0x40 != 0 && reply_mode != ReplyMode::Simple;
    let context = SelectedContext { id: 1, context: MetaContext::BaseAllocation };
    let session = Session {
        reply_mode,
        transmission_flags: info.transmission_flags(reply_mode),
        size: info.facts.size,
        block_sizes: info.facts.block_sizes,
        enforce_alignment: kind & 0x20 != 0,
        contexts: if has_context { vec![context] } else { vec![] },
    };
    let script = script(data, &session);
    let mut parser =
        ReplyParser::new(reply_mode, session.contexts.iter().map(|context| context.id).collect());
    script.requests.iter().chain(&script.cut_off).for_each(|request| parser.expect(*request));
    let mut missing = script.requests.len();
    if missing == 0 && !script.has_end {
        return;
    }
    let client = connect(export, session, Vec::new());
    converse(&client, &script.bytes, false, |mut bytes| {
        if bytes.is_empty() {
            return script.has_end;
        }
        while let Some(event) = parser.feed(&mut bytes).expect("the reply keeps every rule") {
            if let Event::Done { cookie, .. } = event {
                missing -= usize::from(script.cut_off.is_none_or(|request| request.cookie != cookie));
            }
        }
        missing == 0 && !script.has_end
    });
}

/// Feeds it to the server.
pub(crate) fn run(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else { return };
    match kind & 0x80 {
        0 => numbered(kind & 0x7f, data),
        _ => raw(data),
    }
}
