//! The transmission phase: requests are sent as they are, and each reply is checked against the rules.

use super::probe::{Probe, ProbeResult, not_met};
use super::rules::{self, ProbeChunk, ProbeReply, Statuses};
use super::wire::*;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

/// No chunk is longer: the longest request that a statement makes, and what a chunk has besides.
const LONGEST_CHUNK: u64 = 65 << 20;

/// One message of the server; the data of a simple reply comes behind it.
pub(super) enum ProbeMessage {
    Simple { error: u32, cookie: u64 },
    Chunk(ProbeChunk),
}

impl Probe {
    /// Reads one message.
    pub(super) fn hear(&mut self) -> ProbeResult<ProbeMessage> {
        let magic = be32(&self.receive(4, "a reply")?, 0);
        match (magic, self.mode) {
            (NBD_SIMPLE_REPLY_MAGIC, ReplyMode::Simple | ReplyMode::Structured) => {
                let rest = self.receive(12, "a simple reply")?;
                rules::legal_error(be32(&rest, 0))?;
                Ok(ProbeMessage::Simple { error: be32(&rest, 0), cookie: be64(&rest, 4) })
            }
            (NBD_STRUCTURED_REPLY_MAGIC, ReplyMode::Structured) => {
                let rest = self.receive(16, "a structured reply chunk")?;
                self.hear_chunk(&rest, None, u64::from(be32(&rest, 12)))
            }
            (NBD_EXTENDED_REPLY_MAGIC, ReplyMode::Extended) => {
                let rest = self.receive(28, "an extended reply chunk")?;
                self.hear_chunk(&rest, Some(be64(&rest, 12)), be64(&rest, 20))
            }
            (magic, mode) => {
                not_met(format!("a reply begins with {magic:#010x}, no magic of {mode:?} replies"))
            }
        }
    }

    fn hear_chunk(&mut self, rest: &[u8], echo: Option<u64>, length: u64) -> ProbeResult<ProbeMessage> {
        if length > LONGEST_CHUNK {
            return not_met(format!("a chunk of {length} bytes"));
        }
        let chunk = ProbeChunk {
            flags: be16(rest, 0),
            kind: be16(rest, 2),
            cookie: be64(rest, 4),
            echo,
            payload: self.receive(length as usize, "the payload of a chunk")?,
        };
        rules::chunk_obeys(&chunk)?;
        Ok(ProbeMessage::Chunk(chunk))
    }

    pub(super) fn send_request(&mut self, request: &ProbeRequest) -> ProbeResult<()> {
        let bytes = request.encode(self.mode);
        self.send(&bytes)
    }

    /// Sends a request; nothing else is in flight.
    pub(super) fn call(&mut self, request: &ProbeRequest) -> ProbeResult<ProbeReply> {
        self.send_request(request)?;
        self.reply_to(request)
    }

    /// Sends a request with exactly these flags.
    pub(super) fn call_with(&mut self, request: &ProbeRequest, flags: u16) -> ProbeResult<ProbeReply> {
        let bytes = request.encode_with(self.mode, flags);
        self.send(&bytes)?;
        self.reply_to(request)
    }

    /// The reply to the only request in flight.
    pub(super) fn reply_to(&mut self, request: &ProbeRequest) -> ProbeResult<ProbeReply> {
        Ok(self.next_reply(&mut vec![request.clone()])?.1)
    }

    /// Reads until one of the requests in flight is answered.
    pub(super) fn next_reply(
        &mut self,
        in_flight: &mut Vec<ProbeRequest>,
    ) -> ProbeResult<(ProbeRequest, ProbeReply)> {
        loop {
            let heard = self.hear()?;
            let cookie = match &heard {
                ProbeMessage::Simple { cookie, .. } => *cookie,
                ProbeMessage::Chunk(chunk) => chunk.cookie,
            };
            let Some(at) = in_flight.iter().position(|request| request.cookie == cookie) else {
                return not_met(format!("a reply has the cookie {cookie:#018x}, which no request has"));
            };
            if let Some(reply) = self.take(&in_flight[at], heard)? {
                return Ok((in_flight.remove(at), reply));
            }
        }
    }

    fn take(&mut self, request: &ProbeRequest, heard: ProbeMessage) -> ProbeResult<Option<ProbeReply>> {
        let chunk = match heard {
            ProbeMessage::Simple { error, .. } => {
                let is_read = request.command == NBD_CMD_READ;
                let is_excused = error != 0 && self.is_lenient;
                if is_read && self.mode != ReplyMode::Simple && !is_excused {
                    return not_met(format!("{request}: a simple reply, though others were negotiated"));
                }
                if request.command == NBD_CMD_BLOCK_STATUS && error == 0 {
                    return not_met(format!("{request}: success by a simple reply"));
                }
                let length = if is_read && error == 0 { request.length as usize } else { 0 };
                let data = self.receive(length, "the data of a READ")?;
                return Ok(Some(ProbeReply { error, data, chunks: Vec::new() }));
            }
            ProbeMessage::Chunk(chunk) => chunk,
        };
        if chunk.echo.is_some_and(|echo| echo != request.offset) {
            let echo = chunk.echo.unwrap_or(0);
            return not_met(format!("{request}: a chunk repeats the offset {echo:#x}, which it is not"));
        }
        let is_done = chunk.is_done();
        self.unfinished.push(chunk);
        if !is_done {
            return Ok(None);
        }
        let all = std::mem::take(&mut self.unfinished);
        let (mine, rest) = all.into_iter().partition(|chunk| chunk.cookie == request.cookie);
        self.unfinished = rest;
        Ok(Some(rules::assemble(request, mine)?))
    }

    pub(super) fn succeed(&mut self, request: &ProbeRequest) -> ProbeResult<ProbeReply> {
        let reply = self.call(request)?;
        match reply.error {
            0 => Ok(reply),
            error => not_met(format!("{request} fails with {}", error_name(error))),
        }
    }

    /// The request has to fail with one of these.
    pub(super) fn fail(&mut self, request: &ProbeRequest, errors: &[u32]) -> ProbeResult<()> {
        let flags = request.flags | self.payload_flag(request);
        self.fail_with(request, flags, errors)
    }

    /// The same with exactly these flags.
    pub(super) fn fail_with(
        &mut self,
        request: &ProbeRequest,
        flags: u16,
        errors: &[u32],
    ) -> ProbeResult<()> {
        let reply = self.call_with(request, flags)?;
        judge(&request.clone().flags(flags), reply.error, errors)
    }

    fn payload_flag(&self, request: &ProbeRequest) -> u16 {
        let carries = self.mode == ReplyMode::Extended && request.command == NBD_CMD_WRITE;
        if carries { NBD_CMD_FLAG_PAYLOAD_LEN } else { 0 }
    }

    pub(super) fn read(&mut self, offset: u64, length: u64) -> ProbeResult<Vec<u8>> {
        Ok(self.succeed(&ProbeRequest::read(offset, length))?.data)
    }

    pub(super) fn write(&mut self, offset: u64, data: Vec<u8>) -> ProbeResult<()> {
        self.succeed(&ProbeRequest::write(offset, data)).map(drop)
    }

    /// What is read has to be this.
    pub(super) fn expect_data(&mut self, offset: u64, expected: &[u8], what: &str) -> ProbeResult<()> {
        let got = self.read(offset, expected.len() as u64)?;
        same(&got, expected, offset, what)
    }

    /// The stream is in step: a READ gets its own reply.
    pub(super) fn expect_alive(&mut self) -> ProbeResult<()> {
        let length = self.export.size.min(self.export.minimum().max(512));
        self.succeed(&ProbeRequest::read(0, length).cookie(0xa11e_a11e_a11e_a11e)).map(drop)
    }

    /// The extents of each context that was selected.
    pub(super) fn statuses(&mut self, request: &ProbeRequest) -> ProbeResult<Statuses> {
        let reply = self.succeed(request)?;
        let (size, minimum) = (self.export.size, self.export.minimum());
        let statuses = rules::statuses(request, &reply.chunks, size, minimum)?;
        for (id, name) in &self.export.contexts {
            if !statuses.contains_key(id) {
                return not_met(format!("{request}: no status of the context {id}, {name}"));
            }
        }
        match statuses.keys().find(|id| !self.export.contexts.iter().any(|(known, _)| known == *id)) {
            Some(id) => not_met(format!("{request}: a status of the context {id}, which was not selected")),
            None => Ok(statuses),
        }
    }

    /// The extents of `base:allocation`.
    pub(super) fn allocation(&mut self, request: &ProbeRequest) -> ProbeResult<Vec<(u64, u64)>> {
        let id = self.export.contexts.iter().find(|(_, name)| name == "base:allocation").map(|(id, _)| *id);
        let mut statuses = self.statuses(request)?;
        Ok(id.and_then(|id| statuses.remove(&id)).unwrap_or_default())
    }
}

/// Where what was read differs first.
pub(super) fn same(got: &[u8], expected: &[u8], offset: u64, what: &str) -> ProbeResult<()> {
    if got == expected {
        return Ok(());
    }
    let at = got.iter().zip(expected).position(|(got, expected)| got != expected).unwrap_or(0);
    let show = |bytes: &[u8]| format!("{:02x?}", &bytes[at.min(bytes.len())..(at + 8).min(bytes.len())]);
    not_met(format!("{what}: at {:#x} there is {}, not {}", offset + at as u64, show(got), show(expected)))
}

pub(super) fn judge(request: &ProbeRequest, error: u32, wanted: &[u32]) -> ProbeResult<()> {
    if wanted.contains(&error) {
        return Ok(());
    }
    let wanted: Vec<String> = wanted.iter().map(|error| error_name(*error)).collect();
    not_met(format!("{request} gives {}; it must give {}", error_name(error), wanted.join(" or ")))
}

pub(super) fn error_name(error: u32) -> String {
    let name = match error {
        0 => "success",
        NBD_EPERM => "EPERM",
        NBD_EIO => "EIO",
        NBD_ENOMEM => "ENOMEM",
        NBD_EINVAL => "EINVAL",
        NBD_ENOSPC => "ENOSPC",
        NBD_EOVERFLOW => "EOVERFLOW",
        NBD_ENOTSUP => "ENOTSUP",
        NBD_ESHUTDOWN => "ESHUTDOWN",
        other => return format!("error {other}"),
    };
    name.to_owned()
}
