//! T32 and T43: many requests at once, and their replies whole.

use super::super::examiner::Examiner;
use super::super::probe::{ProbeResult, not_met};
use super::super::statement::{Statement, statement};
use super::super::transmit::{judge, same};
use super::super::wire::*;
use super::refusals::unit;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

pub(super) const STATEMENTS: fn() -> Vec<Statement> = || {
    vec![
        statement("T32", "128 requests in flight are all answered", "Transmission", many),
        statement(
            "T32a",
            "A client that does not fetch its replies delays no other",
            "Transmission",
            slow_reader,
        ),
        statement("T43", "Replies do not cut into each other", "Transmission", burst),
        statement("T43a", "A request may come byte by byte", "Request message", in_pieces),
    ]
};

fn many(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        let unit = unit(probe);
        let blocks = (probe.export.size / unit).min(128);
        let expected = probe.read(0, blocks * unit)?;
        let mut in_flight: Vec<ProbeRequest> =
            (0..128).map(|cookie| ProbeRequest::read(cookie % blocks * unit, unit).cookie(cookie)).collect();
        let bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(probe.mode)).collect();
        probe.send(&bytes)?;
        while !in_flight.is_empty() {
            let (request, reply) = probe.next_reply(&mut in_flight)?;
            judge(&request, reply.error, &[0])?;
            let part = &expected[request.offset as usize..][..unit as usize];
            same(&reply.data, part, request.offset, "a READ among 128")?;
        }
        Ok(())
    })
}

fn slow_reader(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let mut slow = examiner.attach(ReplyMode::Simple)?;
    let length = slow.export.size.min(slow.export.maximum()).min(1 << 20);
    let length = length - length % unit(&slow);
    let requests: Vec<ProbeRequest> =
        (0..32).map(|cookie| ProbeRequest::read(0, length).cookie(cookie)).collect();
    let bytes: Vec<u8> = requests.iter().flat_map(|request| request.encode(ReplyMode::Simple)).collect();
    slow.send(&bytes)?;
    // The server has come to them, and finds no room for all that they ask for.
    if slow.closes_before_a_byte("a reply to one of 32 READs")? {
        return not_met("the server closed; a reply to one of 32 READs was to come");
    }
    examiner.each(|probe| (0..4).try_for_each(|_| probe.expect_alive()))?;
    let mut in_flight = requests;
    while !in_flight.is_empty() {
        slow.next_reply(&mut in_flight)?;
    }
    Ok(())
}

fn burst(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        let unit = unit(probe);
        let blocks = (probe.export.size / unit).min(256);
        let expected = probe.read(0, blocks * unit)?;
        let mut in_flight: Vec<ProbeRequest> = (0..200u64)
            .map(|cookie| {
                let block = cookie * 37 % blocks;
                let request = match cookie % 5 {
                    0 | 1 => ProbeRequest::new(88, 0, 0),
                    2 if !probe.export.contexts.is_empty() => ProbeRequest::status(block * unit, unit),
                    _ => ProbeRequest::read(block * unit, (blocks - block).min(1 + cookie % 16) * unit),
                };
                request.cookie(cookie)
            })
            .collect();
        let bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(probe.mode)).collect();
        probe.send(&bytes)?;
        while !in_flight.is_empty() {
            let (request, reply) = probe.next_reply(&mut in_flight)?;
            let has_to_fail = request.command == 88;
            if has_to_fail != (reply.error != 0) {
                return not_met(format!("{request} gives error {}", reply.error));
            }
            if request.command == NBD_CMD_READ && !has_to_fail {
                let part = &expected[request.offset as usize..][..request.length as usize];
                same(&reply.data, part, request.offset, "a READ in a burst")?;
            }
        }
        probe.expect_alive()
    })
}

fn in_pieces(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        let request = ProbeRequest::read(0, unit(probe)).cookie(4);
        let bytes = request.encode(probe.mode);
        for split in 1..bytes.len() {
            probe.send(&bytes[..split])?;
            std::thread::yield_now();
            probe.send(&bytes[split..])?;
            let error = probe.reply_to(&request)?.error;
            judge(&request, error, &[0])?;
        }
        probe.send_in_pieces(&bytes, 1)?;
        probe.reply_to(&request).map(drop)
    })
}
