//! T2, T10 to T12, T33, T38 and T40: cookies, FUA, odd, empty and long requests, CACHE, DISC.

use std::time::Duration;

use super::super::examiner::Examiner;
use super::super::probe::{ProbeResult, not_met};
use super::super::statement::{Statement, statement};
use super::super::transmit::{ProbeMessage, judge, same};
use super::super::wire::*;
use super::refusals::unit;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

const TYPES: &str = "Request types";
/// What is served of a READ beyond the maximum is taken up to here.
const LONGEST_READ: u64 = 64 << 20;
/// Some READs of this length, which servers have to take, are more than a socket holds.
const LONG_READ: u64 = 1 << 20;
/// A server has come to a DISC that is there for so long.
const UNTIL_DISC_IS_SEEN: Duration = Duration::from_millis(50);
const SIZES: &str = "Size constraints";

pub(super) const STATEMENTS: fn() -> Vec<Statement> = || {
    vec![
        statement("T2", "The cookie comes back as it was, whatever it is", "Transmission", cookies),
        statement("T2a", "Requests with the same cookie are each answered", "Transmission", same_cookies),
        statement("T10", "FUA is taken with READ, FLUSH and BLOCK_STATUS", "Command flags", fua),
        statement("T11", "A READ that is not aligned is EINVAL or right", SIZES, unaligned),
        statement("T12", "Requests of no bytes do not end the connection", TYPES, zero_length),
        statement(
            "T33",
            "DISC is answered by the end of the connection alone",
            "Terminating the transmission phase",
            disconnect,
        ),
        statement("T33b", "Requests before DISC are answered", "Request types", answered_before_disc)
            .should(),
        statement(
            "T38",
            "A READ longer than the maximum is an error or served, and the connection lives",
            SIZES,
            oversize,
        ),
        statement("T40", "CACHE has no flag but FUA, and changes nothing", TYPES, cache).should(),
    ]
};

fn cookies(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        let unit = unit(probe);
        for cookie in [0, u64::MAX, 1, 1 << 63, 0x0102_0304_0506_0708, u64::from(NBD_REQUEST_MAGIC) << 32] {
            for request in [ProbeRequest::read(0, unit), ProbeRequest::new(99, 0, 0)] {
                probe.call(&request.cookie(cookie))?;
            }
        }
        Ok(())
    })
}

fn same_cookies(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let mut probe = examiner.attach(ReplyMode::Simple)?;
    let unit = unit(&probe);
    let request = ProbeRequest::read(0, unit).cookie(7);
    let bytes = request.encode(ReplyMode::Simple).repeat(8);
    probe.send(&bytes)?;
    let mut in_flight = vec![request; 8];
    while !in_flight.is_empty() {
        let (request, reply) = probe.next_reply(&mut in_flight)?;
        judge(&request, reply.error, &[0])?;
    }
    probe.expect_alive()
}

fn fua(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_flag(NBD_FLAG_SEND_FUA, "SEND_FUA")?;
    examiner.each(|probe| {
        let mut requests = vec![ProbeRequest::read(0, unit(probe))];
        if probe.export.has(NBD_FLAG_SEND_FLUSH) {
            requests.push(ProbeRequest::flush());
        }
        if !probe.export.contexts.is_empty() {
            requests.push(ProbeRequest::status(0, unit(probe)));
        }
        requests.into_iter().try_for_each(|request| probe.succeed(&request.flags(NBD_CMD_FLAG_FUA)).map(drop))
    })
}

fn unaligned(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_size(16384)?;
    examiner.each(|probe| {
        let whole = probe.read(0, 16384)?;
        for (offset, length) in [(1, 1), (511, 2), (4095, 4098), (100, 5000), (8191, 1)] {
            let request = ProbeRequest::read(offset, length);
            let reply = probe.call(&request)?;
            judge(&request, reply.error, &[0, NBD_EINVAL])?;
            if reply.error == 0 {
                same(&reply.data, &whole[offset as usize..][..length as usize], offset, "an odd READ")?;
            } else if probe.export.minimum() == 1 && probe.export.block_sizes.is_some() {
                return not_met(format!("{request} is EINVAL, though the minimum block size is 1"));
            }
            probe.expect_alive()?;
        }
        Ok(())
    })
}

fn zero_length(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        for offset in [0, unit(probe), probe.export.size, u64::MAX] {
            // What it answers is "unspecified"; only the connection counts.
            for command in [NBD_CMD_READ, NBD_CMD_CACHE, NBD_CMD_BLOCK_STATUS] {
                probe.send_request(&ProbeRequest::new(command, offset, 0).cookie(12))?;
                while matches!(probe.hear()?, ProbeMessage::Chunk(chunk) if !chunk.is_done()) {}
                probe.expect_alive()?;
            }
        }
        Ok(())
    })
}

fn disconnect(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|first| {
        let mut probe = examiner.attach(first.mode)?;
        probe.expect_alive()?;
        probe.send_request(&ProbeRequest::new(NBD_CMD_DISC, 0, 0))?;
        probe.expect_close("DISC")
    })
}

fn answered_before_disc(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|first| {
        let mut probe = examiner.attach(first.mode)?;
        let longest = probe.export.size.min(probe.export.maximum()).min(LONG_READ);
        let length = (longest - longest % unit(&probe)).max(unit(&probe));
        let mut in_flight: Vec<ProbeRequest> =
            (0..8).map(|cookie| ProbeRequest::read(0, length).cookie(cookie)).collect();
        let mut bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(first.mode)).collect();
        bytes.extend(ProbeRequest::new(NBD_CMD_DISC, 0, 0).cookie(99).encode(first.mode));
        probe.send(&bytes)?;
        // The replies are more than sockets hold, so some of them wait while the server comes to DISC.
        std::thread::sleep(UNTIL_DISC_IS_SEEN);
        while !in_flight.is_empty() {
            probe.next_reply(&mut in_flight)?;
        }
        Ok(())
    })
}

fn oversize(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        let maximum = probe.export.maximum();
        for length in [maximum + unit(probe), 0xffff_0000] {
            // A server may serve what it can; more than 32 bits need extended headers.
            let can_be_served = length <= probe.export.size;
            if (can_be_served && length > LONGEST_READ) || length > 0xffff_ffff {
                continue;
            }
            let request = ProbeRequest::read(0, length).cookie(3);
            probe.send_request(&request)?;
            let mut received = 0;
            loop {
                match probe.hear()? {
                    ProbeMessage::Simple { error: 0, .. } if can_be_served => {
                        probe.receive(length as usize, "the data of a READ")?;
                        break;
                    }
                    ProbeMessage::Simple { error: 0, .. } => {
                        return not_met(format!("{request} succeeds; the export is shorter"));
                    }
                    ProbeMessage::Simple { .. } => break,
                    ProbeMessage::Chunk(chunk) if chunk.is_done() => break,
                    ProbeMessage::Chunk(chunk) => received += chunk.payload.len() as u64,
                }
                if received > length + (1 << 20) {
                    return not_met(format!("{request} gets more than its length"));
                }
            }
            probe.expect_alive()?;
        }
        Ok(())
    })
}

fn cache(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_flag(NBD_FLAG_SEND_CACHE, "SEND_CACHE")?;
    examiner.each(|probe| {
        let unit = unit(probe);
        let before = probe.read(0, unit)?;
        let request = ProbeRequest::cache(0, unit);
        let error = probe.call(&request)?.error;
        judge(&request, error, &[0, NBD_EINVAL, NBD_ENOTSUP])?;
        super::refusals::wrong_flags(probe, NBD_CMD_CACHE)?;
        if probe.export.has(NBD_FLAG_SEND_FUA) {
            let request = request.flags(NBD_CMD_FLAG_FUA);
            let with_fua = probe.call(&request)?.error;
            judge(&request, with_fua, &[error])?;
        }
        probe.expect_data(0, &before, "after CACHE")
    })
}
