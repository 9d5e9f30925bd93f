//! T39: extended headers.

use super::super::examiner::Examiner;
use super::super::probe::{ProbeResult, not_met};
use super::super::statement::{Statement, statement};
use super::super::transmit::{ProbeMessage, error_name};
use super::super::wire::*;
use super::refusals::unit;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

const EXTENDED: &str = "Extended request message";

pub(super) const STATEMENTS: fn() -> Vec<Statement> = || {
    vec![
        statement(
            "T39",
            "All replies are extended, and repeat the request's offset",
            "Extended reply chunk message",
            echo,
        ),
        statement("T39a", "A compact request ends the connection", EXTENDED, compact).should(),
        statement(
            "T39b",
            "The payload of a command that has none is consumed, then EINVAL",
            EXTENDED,
            stray_payload,
        )
        .should(),
        statement(
            "T39c",
            "BLOCK_STATUS_PAYLOAD is offered with extended headers only",
            "Transmission flags",
            payload_flag,
        ),
        statement(
            "T39d",
            "BLOCK_STATUS may name its contexts; unknown and doubled ones are EINVAL",
            "Request types",
            filter,
        ),
        statement("T39e", "A length of more than 32 bits is not cut", EXTENDED, long_lengths),
    ]
};

fn echo(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let mut probe = examiner.attach(ReplyMode::Extended)?;
    let unit = unit(&probe);
    // `take` compares the offsets, and `hear` takes no reply but extended ones.
    for offset in [0, unit, 1 << 62, u64::MAX - unit + 1] {
        for command in [NBD_CMD_READ, 66] {
            probe.call(&ProbeRequest::new(command, offset, unit))?;
        }
        if !probe.export.contexts.is_empty() {
            probe.call(&ProbeRequest::status(offset, unit))?;
        }
    }
    probe.expect_alive()
}

fn compact(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let mut probe = examiner.attach(ReplyMode::Extended)?;
    let mut bytes = ProbeRequest::read(0, unit(&probe)).encode(ReplyMode::Simple);
    bytes.extend([0; 4]);
    probe.send(&bytes)?;
    probe.expect_close("a compact request after extended headers")
}

fn stray_payload(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let mut probe = examiner.attach(ReplyMode::Extended)?;
    for command in [NBD_CMD_READ, NBD_CMD_FLUSH, 66] {
        for length in [1, 512, 4096, 65536] {
            // Made of good requests, which must not be found in it.
            let mut payload = ProbeRequest::read(0, 512).encode(ReplyMode::Extended).repeat(length / 32 + 1);
            payload.truncate(length);
            let request = ProbeRequest { payload, ..ProbeRequest::new(command, 0, length as u64) };
            probe.fail_with(&request, NBD_CMD_FLAG_PAYLOAD_LEN, &[NBD_EINVAL])?;
            probe.expect_alive()?;
        }
    }
    Ok(())
}

fn payload_flag(examiner: &Examiner<'_>) -> ProbeResult<()> {
    for &mode in examiner.facts.modes.iter().filter(|mode| **mode != ReplyMode::Extended) {
        let probe = examiner.attach(mode)?;
        if probe.export.has(NBD_FLAG_BLOCK_STATUS_PAYLOAD) {
            return not_met(format!("the flags {:#x} have BLOCK_STATUS_PAYLOAD", probe.export.flags));
        }
    }
    Ok(())
}

fn filter(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    let mut probe = examiner.attach(ReplyMode::Extended)?;
    examiner.needs_flag(NBD_FLAG_BLOCK_STATUS_PAYLOAD, "BLOCK_STATUS_PAYLOAD")?;
    let (id, unit) = (probe.export.contexts[0].0, unit(&probe));
    let with = |ids: &[u32]| {
        let mut payload = unit.to_be_bytes().to_vec();
        ids.iter().for_each(|id| payload.extend(id.to_be_bytes()));
        ProbeRequest { payload: payload.clone(), ..ProbeRequest::status(0, payload.len() as u64) }
    };
    for (what, ids, wanted) in [
        ("the context that was selected", &[id][..], 0),
        ("the same context twice", &[id, id], NBD_EINVAL),
        ("an unknown context", &[id ^ 0x5555], NBD_EINVAL),
        ("the context that was selected, once more", &[id], 0),
    ] {
        let bytes = with(ids).encode_with(ReplyMode::Extended, NBD_CMD_FLAG_PAYLOAD_LEN);
        probe.send(&bytes)?;
        let error = loop {
            match probe.hear()? {
                ProbeMessage::Chunk(chunk) if chunk.is_error() => break be32(&chunk.payload, 0),
                ProbeMessage::Chunk(chunk) if chunk.is_done() => break 0,
                _ => {}
            }
        };
        if error != wanted {
            let (got, wanted) = (error_name(error), error_name(wanted));
            return not_met(format!("BLOCK_STATUS of {what} gives {got}; it must give {wanted}"));
        }
        probe.expect_alive()?;
    }
    Ok(())
}

fn long_lengths(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let mut probe = examiner.attach(ReplyMode::Extended)?;
    for length in [1 << 32, (1 << 33) + unit(&probe), 1 << 62] {
        if length <= probe.export.size {
            continue;
        }
        // Cut to 32 bits it would be inside the export.
        let request = ProbeRequest::read(0, length).cookie(9);
        probe.send_request(&request)?;
        match probe.hear()? {
            ProbeMessage::Chunk(chunk) if chunk.is_error() && chunk.is_done() => {}
            _ => return not_met(format!("{request} is not refused")),
        }
        probe.expect_alive()?;
        if !probe.export.contexts.is_empty() {
            probe.fail(&ProbeRequest::status(0, length), &[NBD_EINVAL])?;
        }
    }
    Ok(())
}
