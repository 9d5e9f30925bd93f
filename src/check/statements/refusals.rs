//! T1, T4, T5, T8, T9, T16, T17 and T22: requests that have to be refused, and how.

use super::super::examiner::Examiner;
use super::super::probe::{Probe, ProbeResult, not_met};
use super::super::rules::error_of;
use super::super::statement::{Statement, statement};
use super::super::transmit::{error_name, judge};
use super::super::wire::*;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

const REQUEST: &str = "Request message";
const ERRORS: &str = "Error values";

pub(super) const STATEMENTS: fn() -> Vec<Statement> = || {
    vec![
        statement("T1", "A request with a wrong magic ends the connection, unanswered", REQUEST, bad_magic)
            .should(),
        statement("T4", "READ, CACHE and BLOCK_STATUS past the end are EINVAL", ERRORS, past_the_end)
            .should(),
        statement("T5", "Offset and length together never wrap", ERRORS, wrapping),
        statement("T8", "An unknown command is EINVAL, and the connection lives", ERRORS, unknown_command)
            .should(),
        statement(
            "T9",
            "An unknown or misplaced flag of READ, FLUSH or BLOCK_STATUS is EINVAL",
            "Command flags",
            flags,
        )
        .should(),
        statement("T16", "Errors have one of the eight values", ERRORS, legal_values),
        statement("T17", "No data follows the error of a simple READ", "Simple reply message", no_payload),
        statement(
            "T18",
            "A failing READ has a structured reply, too",
            "Simple reply message",
            structured_errors,
        ),
        statement("T22", "Error chunks are well-formed", "Structured reply types", error_chunks),
    ]
};

fn bad_magic(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|first| {
        let mode = first.mode;
        let right = if mode == ReplyMode::Extended { NBD_EXTENDED_REQUEST_MAGIC } else { NBD_REQUEST_MAGIC };
        for magic in [0, u32::MAX, right ^ 1, right.swap_bytes(), NBD_SIMPLE_REPLY_MAGIC] {
            let mut probe = examiner.attach(mode)?;
            probe.expect_alive()?;
            let good = ProbeRequest::read(0, unit(&probe)).encode(mode);
            let mut bytes = good.clone();
            bytes[..4].copy_from_slice(&magic.to_be_bytes());
            // The good one behind it is not to be found by guessing.
            bytes.extend(good);
            probe.send(&bytes)?;
            probe.expect_close(&format!("a request with the magic {magic:#010x}"))?;
        }
        Ok(())
    })
}

/// What offsets and lengths are made of.
pub(super) fn unit(probe: &Probe) -> u64 {
    probe.export.minimum().max(512)
}

/// Ranges that are beyond the end, aligned.
pub(super) fn beyond(probe: &Probe) -> Vec<(u64, u64)> {
    let (size, unit) = (probe.export.size, unit(probe));
    let mut ranges = vec![(size, unit), (size + 8 * unit, unit), (1 << 40 | size, unit), (1 << 62, unit)];
    if size >= unit {
        ranges.push((size - unit, 2 * unit));
    }
    ranges
}

/// The commands, without those that write, that the export offers.
fn harmless(probe: &Probe) -> Vec<u16> {
    let mut commands = vec![NBD_CMD_READ];
    if probe.export.has(NBD_FLAG_SEND_CACHE) {
        commands.push(NBD_CMD_CACHE);
    }
    if !probe.export.contexts.is_empty() {
        commands.push(NBD_CMD_BLOCK_STATUS);
    }
    commands
}

fn past_the_end(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        probe.is_lenient = true;
        for (offset, length) in beyond(probe) {
            for command in harmless(probe) {
                probe.fail(&ProbeRequest::new(command, offset, length), &[NBD_EINVAL])?;
            }
        }
        probe.expect_alive()
    })
}

fn wrapping(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        probe.is_lenient = true;
        let unit = unit(probe);
        let last = u64::MAX - unit + 1;
        let mut ranges = vec![(last, unit), (last, 2 * unit), (1 << 63, 1 << 20)];
        if probe.export.minimum() == 1 {
            ranges.extend([(u64::MAX, 1), (u64::MAX, 512)]);
        }
        for (offset, length) in ranges {
            for command in harmless(probe) {
                let request = ProbeRequest::new(command, offset, length);
                if probe.call(&request)?.error == 0 {
                    return not_met(format!("{request} succeeds"));
                }
                probe.expect_alive()?;
            }
        }
        Ok(())
    })
}

fn unknown_command(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        for command in [9, 10, 0x00ff, 0x7fff, u16::MAX] {
            for (offset, length) in [(0, 0), (0, unit(probe)), (u64::MAX, 0xffff_ffff)] {
                probe.fail(&ProbeRequest::new(command, offset, length), &[NBD_EINVAL])?;
            }
            probe.expect_alive()?;
        }
        Ok(())
    })
}

/// The flags that a command may have, by what the server offers.
pub(super) fn allowed(command: u16, probe: &Probe) -> u16 {
    let when = |condition: bool, flag: u16| if condition { flag } else { 0 };
    let (export, is_extended) = (&probe.export, probe.mode == ReplyMode::Extended);
    let own = match command {
        NBD_CMD_READ => when(export.has(NBD_FLAG_SEND_DF), NBD_CMD_FLAG_DF),
        NBD_CMD_WRITE => when(is_extended, NBD_CMD_FLAG_PAYLOAD_LEN),
        NBD_CMD_WRITE_ZEROES => {
            NBD_CMD_FLAG_NO_HOLE | when(export.has(NBD_FLAG_SEND_FAST_ZERO), NBD_CMD_FLAG_FAST_ZERO)
        }
        NBD_CMD_BLOCK_STATUS => NBD_CMD_FLAG_REQ_ONE | when(is_extended, NBD_CMD_FLAG_PAYLOAD_LEN),
        _ => 0,
    };
    own | when(export.has(NBD_FLAG_SEND_FUA), NBD_CMD_FLAG_FUA)
}

/// Asks `command` with each flag that it may not have.
pub(super) fn wrong_flags(probe: &mut Probe, command: u16) -> ProbeResult<()> {
    let length = if command == NBD_CMD_FLUSH { 0 } else { unit(probe) };
    for bit in (0..16).map(|shift| 1u16 << shift) {
        // Without SEND_FUA a client "MUST NOT" set it: servers may ignore it.
        if allowed(command, probe) & bit != 0 || bit == NBD_CMD_FLAG_FUA {
            continue;
        }
        let mut request = ProbeRequest::new(command, 0, length);
        let mut flags = bit;
        let is_extended = probe.mode == ReplyMode::Extended;
        // With extended headers PAYLOAD_LEN says that `length` bytes follow, whatever the command.
        if command == NBD_CMD_WRITE || (bit == NBD_CMD_FLAG_PAYLOAD_LEN && is_extended) {
            request.payload = vec![0xdd; length as usize];
            flags |= if is_extended { NBD_CMD_FLAG_PAYLOAD_LEN } else { 0 };
        }
        let reply = probe.call_with(&request, flags)?;
        judge(&request.flags(flags), reply.error, &[NBD_EINVAL])?;
        probe.expect_alive()?;
    }
    Ok(())
}

fn flags(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        probe.is_lenient = true;
        let mut commands = harmless(probe);
        if probe.export.has(NBD_FLAG_SEND_FLUSH) {
            commands.push(NBD_CMD_FLUSH);
        }
        commands
            .into_iter()
            .filter(|command| *command != NBD_CMD_CACHE)
            .try_for_each(|command| wrong_flags(probe, command))
    })
}

/// Requests that fail, none of which writes.
fn failing(probe: &Probe) -> Vec<ProbeRequest> {
    let (size, unit) = (probe.export.size, unit(probe));
    let mut requests = vec![
        ProbeRequest::read(size, unit),
        ProbeRequest::read(1 << 62, unit),
        ProbeRequest::new(77, 0, 0),
        ProbeRequest::read(0, unit).flags(1 << 15),
    ];
    if !probe.export.contexts.is_empty() {
        requests.push(ProbeRequest::status(size, unit));
    }
    requests
}

fn legal_values(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        let is_simple = probe.mode == ReplyMode::Simple;
        // A READ may get the wrong form of reply, which is a matter of T18.
        for request in failing(probe).into_iter().filter(|one| is_simple || one.command != NBD_CMD_READ) {
            // Whatever is no legal value is a finding of `hear` already.
            let error = probe.call(&request)?.error;
            if [NBD_ENOTSUP, NBD_EOVERFLOW, NBD_ENOMEM].contains(&error) {
                return not_met(format!(
                    "{request} gives {}, which stands for something else",
                    error_name(error)
                ));
            }
        }
        probe.expect_alive()
    })
}

fn no_payload(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let mut probe = examiner.attach(ReplyMode::Simple)?;
    let mut in_flight: Vec<ProbeRequest> = Vec::new();
    let (size, unit) = (probe.export.size, unit(&probe));
    // Data behind an error would put the stream out of step.
    for cookie in 0..16u64 {
        let offset = if cookie % 2 == 0 { size } else { 0 };
        in_flight.push(ProbeRequest::read(offset, unit).cookie(cookie));
    }
    let bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(ReplyMode::Simple)).collect();
    probe.send(&bytes)?;
    while !in_flight.is_empty() {
        let (request, reply) = probe.next_reply(&mut in_flight)?;
        if (request.offset == 0) != (reply.error == 0) {
            return not_met(format!("{request} gives {}", error_name(reply.error)));
        }
    }
    probe.expect_alive()
}

fn structured_errors(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each_chunked(|probe| {
        for request in failing(probe).into_iter().filter(|request| request.command == NBD_CMD_READ) {
            if probe.call(&request)?.error == 0 {
                return not_met(format!("{request} succeeds"));
            }
            probe.expect_alive()?;
        }
        Ok(())
    })
}

fn error_chunks(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each_chunked(|probe| {
        probe.is_lenient = true;
        for request in failing(probe) {
            for chunk in probe.call(&request)?.chunks.iter().filter(|chunk| chunk.is_error()) {
                error_of(chunk)?;
            }
        }
        Ok(())
    })
}
