//! Replies of the transmission phase, read header by header.

use super::check;
use super::peer::Peer;
use super::raw::{Connection, Mode, Request};
use super::wire::*;

/// A structured or extended reply chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) flags: u16,
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    /// The request's offset, echoed; extended headers only.
    pub(crate) offset: Option<u64>,
    pub(crate) payload: Vec<u8>,
}

impl Chunk {
    pub(crate) fn is_done(&self) -> bool {
        self.flags & NBD_REPLY_FLAG_DONE != 0
    }
    pub(crate) fn is_error(&self) -> bool {
        self.kind & (1 << 15) != 0
    }
    pub(crate) fn is_content(&self) -> bool {
        matches!(self.kind, NBD_REPLY_TYPE_OFFSET_DATA | NBD_REPLY_TYPE_OFFSET_HOLE)
    }
}

/// One message of the server, without the data of a simple reply (its header does not tell whether there is any).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Simple { error: u32, cookie: u64 },
    Chunk(Chunk),
}

impl Message {
    pub(crate) fn cookie(&self) -> u64 {
        match self {
            Self::Simple { cookie, .. } => *cookie,
            Self::Chunk(chunk) => chunk.cookie,
        }
    }
}

/// The whole answer to one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    /// 0, or an NBD error number.
    pub(crate) error: u32,
    /// Where ERROR_OFFSET says the error is.
    pub(crate) error_offset: Option<u64>,
    /// What a successful READ returned, reassembled.
    pub(crate) data: Vec<u8>,
    /// The chunks as they came; none for a simple reply.
    pub(crate) chunks: Vec<Chunk>,
}

impl Connection {
    /// Reads one message and checks what its header alone can tell: the kinds of reply the mode allows.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Message {
        let magic_bytes = self.receive(4, "the magic of a reply");
        let magic = be32(&magic_bytes, 0);
        match (magic, self.mode) {
            (NBD_SIMPLE_REPLY_MAGIC, Mode::Simple | Mode::Structured) => {
                let rest = self.receive(12, "a simple reply");
                let error = be32(&rest, 0);
                check::legal_error(error);
                Message::Simple { error, cookie: be64(&rest, 4) }
            }
            (NBD_STRUCTURED_REPLY_MAGIC, Mode::Structured) => {
                let rest = self.receive(16, "a structured reply chunk");
                let length = u64::from(be32(&rest, 12));
                self.chunk(&rest, None, length)
            }
            (NBD_EXTENDED_REPLY_MAGIC, Mode::Extended) => {
                let rest = self.receive(28, "an extended reply chunk");
                let length = be64(&rest, 20);
                self.chunk(&rest, Some(be64(&rest, 12)), length)
            }
            (magic, mode) => {
                panic!("a reply with magic {magic:#010x} in {mode:?} mode (stream out of step?)")
            }
        }
    }

    #[track_caller]
    fn chunk(&mut self, rest: &[u8], offset: Option<u64>, length: u64) -> Message {
        assert!(length <= 65 * MIB, "a chunk of {length} bytes");
        let chunk = Chunk {
            flags: be16(rest, 0),
            kind: be16(rest, 2),
            cookie: be64(rest, 4),
            offset,
            payload: self.receive(length as usize, "the payload of a chunk"),
        };
        check::chunk(&chunk);
        Message::Chunk(chunk)
    }

    #[track_caller]
    pub(crate) fn send_request(&mut self, request: &Request) {
        let bytes = request.encode(self.mode);
        self.send(&bytes);
    }

    /// Sends one request and reads its reply; nothing else may be in flight.
    #[track_caller]
    pub(crate) fn call(&mut self, request: &Request) -> Reply {
        self.send_request(request);
        self.reply_to(request)
    }

    /// Reads the reply to the only request in flight.
    #[track_caller]
    pub(crate) fn reply_to(&mut self, request: &Request) -> Reply {
        self.next_reply(&mut vec![request.clone()]).1
    }

    /// Reads until one of the requests in flight is answered, and takes it out of the list. Of several requests
    /// with the same cookie the first counts as answered.
    #[track_caller]
    pub(crate) fn next_reply(&mut self, in_flight: &mut Vec<Request>) -> (Request, Reply) {
        loop {
            let message = self.message();
            let cookie = message.cookie();
            let Some(at) = in_flight.iter().position(|request| request.cookie == cookie) else {
                panic!("a reply with cookie {cookie:#018x}, which is not in flight: {}", brief(&message));
            };
            if let Some(reply) = self.take_message(&in_flight[at], message) {
                return (in_flight.remove(at), reply);
            }
        }
    }

    #[track_caller]
    fn take_message(&mut self, request: &Request, message: Message) -> Option<Reply> {
        match message {
            Message::Simple { error, .. } => {
                let is_read = request.kind == NBD_CMD_READ;
                assert!(
                    self.mode == Mode::Simple || !is_read,
                    "a READ is answered by a simple reply in {:?}",
                    self.mode
                );
                let status = request.kind == NBD_CMD_BLOCK_STATUS;
                assert!(!status || error != 0, "BLOCK_STATUS succeeds by a simple reply");
                let data = match is_read && error == 0 {
                    true => self.receive(request.length as usize, "the data of a simple reply"),
                    false => Vec::new(),
                };
                Some(Reply { error, data, ..Reply::default() })
            }
            Message::Chunk(chunk) => {
                if let Some(offset) = chunk.offset {
                    assert_eq!(offset, request.offset, "an extended reply echoes the offset of its request");
                }
                let done = chunk.is_done();
                self.unfinished.push(chunk);
                done.then(|| self.finish(request))
            }
        }
    }

    #[track_caller]
    fn finish(&mut self, request: &Request) -> Reply {
        let (chunks, rest) =
            std::mem::take(&mut self.unfinished).into_iter().partition(|c| c.cookie == request.cookie);
        self.unfinished = rest;
        check::reply(request, chunks)
    }

    /// Sends a request and asserts success.
    #[track_caller]
    pub(crate) fn succeed(&mut self, request: &Request) -> Reply {
        let reply = self.call(request);
        assert_eq!(reply.error, 0, "the error of {}", describe(request));
        reply
    }

    /// Sends a request and asserts this error.
    #[track_caller]
    pub(crate) fn fail(&mut self, request: &Request, error: u32) -> Reply {
        let reply = self.call(request);
        assert_eq!(reply.error, error, "the error of {}", describe(request));
        reply
    }

    /// Sends a WRITE or WRITE_ZEROES past the end and asserts that it is refused. Which error it has to be is a
    /// matter of T3 and T4; of another server EINVAL will do here.
    #[track_caller]
    pub(crate) fn fail_past_the_end(&mut self, request: &Request) {
        let error = self.call(request).error;
        assert!(is_past_the_end(error), "the error {error} of {}", describe(request));
    }

    #[track_caller]
    pub(crate) fn read(&mut self, offset: u64, length: usize) -> Vec<u8> {
        self.succeed(&Request::read(offset, length as u64)).data
    }

    #[track_caller]
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        self.succeed(&Request::write(offset, data.to_vec()));
    }

    #[track_caller]
    pub(crate) fn flush(&mut self) {
        self.succeed(&Request::flush());
    }

    /// Asserts that the request stream is in step and the connection alive: a read gets its own, successful reply.
    #[track_caller]
    pub(crate) fn expect_alive(&mut self) {
        let length = self.export.size.min(512);
        self.succeed(&Request::read(0, length).cookie(0xa11e_a11e_a11e_a11e));
    }

    /// NBD_CMD_DISC, and the close that answers it.
    #[track_caller]
    pub(crate) fn disconnect(&mut self) {
        self.send_request(&Request::disconnect());
        self.expect_close("NBD_CMD_DISC");
    }

    /// BLOCK_STATUS: the extents of `base:allocation` as (length, flags).
    #[track_caller]
    pub(crate) fn extents(&mut self, request: &Request) -> Vec<(u64, u64)> {
        assert!(Peer::from_env().has_contexts(), "PEER CANNOT: tell what is allocated");
        let reply = self.succeed(request);
        let id = self.export.allocation_id();
        let mut contexts = check::statuses(request, &reply.chunks, &self.export);
        assert_eq!(contexts.len(), self.export.contexts.len(), "one status chunk per selected context");
        contexts.remove(&id).expect("a status chunk for base:allocation")
    }
}

/// Whether `error` may refuse a WRITE or WRITE_ZEROES past the end, where the statement is not T3 or T4.
pub(crate) fn is_past_the_end(error: u32) -> bool {
    error == NBD_ENOSPC || (error == NBD_EINVAL && Peer::from_env() != Peer::Ringnbd)
}

/// A request for a message to a person.
pub(crate) fn describe(request: &Request) -> String {
    let Request { flags, kind, offset, length, payload, .. } = request;
    format!(
        "command {kind} flags {flags:#x} at {offset:#x}+{length:#x} with {} bytes of payload",
        payload.len()
    )
}

fn brief(message: &Message) -> String {
    match message {
        Message::Simple { error, .. } => format!("simple reply, error {error}"),
        Message::Chunk(chunk) => {
            let Chunk { flags, kind, payload, .. } = chunk;
            format!(
                "chunk type {kind} flags {flags:#x}, {} bytes {:02x?}",
                payload.len(),
                super::raw::head(payload)
            )
        }
    }
}
