//! Statements that write: T3, T6, T9 to T15, T30, T32, T38 and T39 of what changes the export.

use super::super::dial::Dialer;
use super::super::examiner::Examiner;
use super::super::probe::{Probe, ProbeResult, not_applicable, not_met};
use super::super::statement::{Statement, statement};
use super::super::transmit::{judge, same};
use super::super::wire::*;
use super::refusals::{beyond, unit, wrong_flags};
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

const ERRORS: &str = "Error values";
const TYPES: &str = "Request types";
/// The part of the export that most statements write to.
const ARENA: u64 = 256 << 10;

pub(super) const STATEMENTS: fn() -> Vec<Statement> = || {
    vec![
        statement("T3", "A WRITE past the end is ENOSPC, and its payload is consumed", ERRORS, write_past)
            .should()
            .writes(),
        statement("T4a", "WRITE_ZEROES past the end is ENOSPC, and TRIM EINVAL", ERRORS, zeroes_past)
            .should()
            .writes(),
        statement("T6", "A read-only export refuses changes with EPERM", ERRORS, read_only).should().writes(),
        statement(
            "T9a",
            "An unknown or misplaced flag of WRITE, TRIM or WRITE_ZEROES is EINVAL",
            "Command flags",
            flags,
        )
        .should()
        .writes(),
        statement("T10a", "FUA is taken with WRITE, TRIM and WRITE_ZEROES", "Command flags", fua).writes(),
        statement("T11a", "Odd WRITEs are EINVAL or right", "Size constraints", odd_writes).writes(),
        statement(
            "T13",
            "WRITE_ZEROES longer than a payload zeroes all of its range, and nothing else",
            TYPES,
            long_zeroes,
        )
        .writes(),
        statement("T14", "WRITE_ZEROES reads as zeroes, with NO_HOLE too", TYPES, zeroes).writes(),
        statement("T14a", "What was zeroed with NO_HOLE is not said to be a hole", "Command flags", no_hole)
            .should()
            .writes(),
        statement("T15", "FAST_ZERO is done, or ENOTSUP and changes nothing", "Command flags", fast_zero)
            .writes(),
        statement(
            "T30",
            "With MULTI_CONN, what one connection wrote another one reads",
            "Transmission flags",
            multi_conn,
        )
        .writes(),
        statement(
            "T32b",
            "A client may send 128 WRITEs before it fetches a reply",
            "Transmission",
            pipelined,
        )
        .writes(),
        statement(
            "T33a",
            "WRITEs before DISC are carried out",
            "Terminating the transmission phase",
            disc_after_writes,
        )
        .writes(),
        statement(
            "T38a",
            "A WRITE longer than the maximum is an error or the end, and changes nothing",
            TYPES,
            oversize,
        )
        .writes(),
    ]
};

/// Fills the arena; gives what it has now.
fn filled(examiner: &Examiner<'_>, probe: &mut Probe, seed: u64) -> ProbeResult<Vec<u8>> {
    examiner.needs_size(2 * ARENA)?;
    if probe.export.has(NBD_FLAG_READ_ONLY) {
        return not_applicable("the export is read-only");
    }
    let data = pattern(seed, 0, ARENA as usize);
    probe.write(0, data.clone())?;
    Ok(data)
}

fn write_past(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        let data = filled(examiner, probe, 1)?;
        for (offset, length) in beyond(probe) {
            probe.fail(&ProbeRequest::write(offset, vec![0xbb; length as usize]), &[NBD_ENOSPC])?;
            probe.expect_alive()?;
        }
        probe.expect_data(0, &data, "after WRITEs past the end")
    })
}

fn zeroes_past(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        let data = filled(examiner, probe, 2)?;
        for (offset, length) in beyond(probe) {
            if probe.export.has(NBD_FLAG_SEND_WRITE_ZEROES) {
                probe.fail(&ProbeRequest::zeroes(offset, length), &[NBD_ENOSPC])?;
            }
            if probe.export.has(NBD_FLAG_SEND_TRIM) {
                probe.fail(&ProbeRequest::trim(offset, length), &[NBD_EINVAL])?;
            }
        }
        probe.expect_data(0, &data, "after requests past the end")
    })
}

fn read_only(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_flag(NBD_FLAG_READ_ONLY, "READ_ONLY")?;
    examiner.each(|probe| {
        let unit = unit(probe);
        let before = probe.read(0, unit)?;
        for request in [
            ProbeRequest::write(0, vec![0xcc; unit as usize]),
            ProbeRequest::trim(0, unit),
            ProbeRequest::zeroes(0, unit),
        ] {
            probe.fail(&request, &[NBD_EPERM])?;
            probe.expect_alive()?;
        }
        probe.expect_data(0, &before, "a read-only export after changes")
    })
}

fn changing(probe: &Probe) -> Vec<u16> {
    let mut commands = vec![NBD_CMD_WRITE];
    if probe.export.has(NBD_FLAG_SEND_TRIM) {
        commands.push(NBD_CMD_TRIM);
    }
    if probe.export.has(NBD_FLAG_SEND_WRITE_ZEROES) {
        commands.push(NBD_CMD_WRITE_ZEROES);
    }
    commands
}

fn flags(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        let data = filled(examiner, probe, 3)?;
        changing(probe).into_iter().try_for_each(|command| wrong_flags(probe, command))?;
        probe.expect_data(0, &data, "after requests with wrong flags")
    })
}

fn fua(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_flag(NBD_FLAG_SEND_FUA, "SEND_FUA")?;
    examiner.each(|probe| {
        let mut data = filled(examiner, probe, 4)?;
        let unit = unit(probe);
        let commands = changing(probe);
        let write = ProbeRequest::write(0, vec![0x11; unit as usize]).flags(NBD_CMD_FLAG_FUA);
        probe.succeed(&write)?;
        data[..unit as usize].fill(0x11);
        if commands.contains(&NBD_CMD_WRITE_ZEROES) {
            probe.succeed(&ProbeRequest::zeroes(unit, unit).flags(NBD_CMD_FLAG_FUA))?;
            data[unit as usize..2 * unit as usize].fill(0);
        }
        probe.expect_data(0, &data, "after requests with FUA")?;
        if commands.contains(&NBD_CMD_TRIM) {
            probe.succeed(&ProbeRequest::trim(2 * unit, unit).flags(NBD_CMD_FLAG_FUA))?;
        }
        Ok(())
    })
}

fn odd_writes(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        let mut data = filled(examiner, probe, 5)?;
        for (index, (offset, length)) in
            [(1, 1), (511, 2), (4095, 4098), (100, 5000), (8191, 1)].into_iter().enumerate()
        {
            for command in changing(probe).into_iter().filter(|command| *command != NBD_CMD_TRIM) {
                let bytes = pattern(60 + index as u64, offset, length as usize);
                let request = match command {
                    NBD_CMD_WRITE => ProbeRequest::write(offset, bytes.clone()),
                    _ => ProbeRequest::zeroes(offset, length),
                };
                let error = probe.call(&request)?.error;
                judge(&request, error, &[0, NBD_EINVAL])?;
                if error == 0 {
                    let range = offset as usize..(offset + length) as usize;
                    match command {
                        NBD_CMD_WRITE => data[range].copy_from_slice(&bytes),
                        _ => data[range].fill(0),
                    }
                }
                probe.expect_data(0, &data, &format!("after {request}"))?;
            }
        }
        Ok(())
    })
}

/// Ranges of zeroes that are tried, as long as the export has room.
const LONG: [u64; 3] = [65 << 20, 1 << 30, (4 << 30) - 65536];

fn long_zeroes(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_flag(NBD_FLAG_SEND_WRITE_ZEROES, "SEND_WRITE_ZEROES")?;
    let start = 65536;
    examiner.needs_size(LONG[0] + 2 * start)?;
    if examiner.facts.flags & NBD_FLAG_READ_ONLY != 0 {
        return not_applicable("the export is read-only");
    }
    let mut probe = examiner.attach(*examiner.facts.modes.last().unwrap_or(&ReplyMode::Simple))?;
    let size = probe.export.size;
    for length in LONG.into_iter().filter(|length| length + 2 * start <= size) {
        let end = start + length;
        let mut places =
            vec![start, start + (32 << 20), start + (64 << 20), start + length / 2 / start * start];
        places.push(end - start);
        for &place in &places {
            probe.write(place, pattern(7, place, start as usize))?;
        }
        let edges = [0, end];
        for place in edges {
            probe.write(place, pattern(8, place, start as usize))?;
        }
        let request = ProbeRequest::zeroes(start, length);
        let error = probe.call(&request)?.error;
        judge(&request, error, &[0, NBD_EINVAL, NBD_EOVERFLOW])?;
        if error == 0 {
            for &place in &places {
                probe.expect_data(place, &vec![0; start as usize], &format!("inside of {request}"))?;
            }
        }
        for place in edges {
            let kept = pattern(8, place, start as usize);
            probe.expect_data(place, &kept, &format!("beside {request}"))?;
        }
    }
    Ok(())
}

fn zeroes(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_flag(NBD_FLAG_SEND_WRITE_ZEROES, "SEND_WRITE_ZEROES")?;
    examiner.each(|probe| {
        let mut data = filled(examiner, probe, 9)?;
        probe.succeed(&ProbeRequest::zeroes(65536, 65536))?;
        data[65536..131_072].fill(0);
        probe.expect_data(0, &data, "after WRITE_ZEROES")?;
        probe.succeed(&ProbeRequest::zeroes(131_072, 65536).flags(NBD_CMD_FLAG_NO_HOLE))?;
        data[131_072..196_608].fill(0);
        probe.expect_data(0, &data, "after WRITE_ZEROES with NO_HOLE")
    })
}

fn no_hole(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_flag(NBD_FLAG_SEND_WRITE_ZEROES, "SEND_WRITE_ZEROES")?;
    examiner.needs_allocation()?;
    examiner.each_chunked(|probe| {
        filled(examiner, probe, 17)?;
        probe.succeed(&ProbeRequest::zeroes(131_072, 65536).flags(NBD_CMD_FLAG_NO_HOLE))?;
        let mut left = 65536u64;
        for (length, flags) in probe.allocation(&ProbeRequest::status(131_072, 65536))? {
            if left > 0 && flags & u64::from(NBD_STATE_HOLE) != 0 {
                return not_met("what was zeroed with NO_HOLE is said to be a hole");
            }
            left = left.saturating_sub(length);
        }
        Ok(())
    })
}

fn fast_zero(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_flag(NBD_FLAG_SEND_WRITE_ZEROES, "SEND_WRITE_ZEROES")?;
    examiner.each(|probe| {
        let mut data = filled(examiner, probe, 10)?;
        let is_offered = probe.export.has(NBD_FLAG_SEND_FAST_ZERO);
        let wanted: &[u32] = if is_offered { &[0, NBD_ENOTSUP] } else { &[NBD_EINVAL] };
        let request = ProbeRequest::zeroes(65536, 65536);
        let fast = request.clone().flags(NBD_CMD_FLAG_FAST_ZERO);
        let error = probe.call(&fast)?.error;
        judge(&fast, error, wanted)?;
        if error == 0 {
            data[65536..131_072].fill(0);
        }
        probe.expect_data(0, &data, "after FAST_ZERO")?;
        probe.succeed(&request).map(drop)
    })
}

fn multi_conn(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_flag(NBD_FLAG_CAN_MULTI_CONN, "CAN_MULTI_CONN")?;
    one_server(examiner)?;
    let mut first = examiner.attach(ReplyMode::Simple)?;
    let data = filled(examiner, &mut first, 11)?;
    let mut others = Vec::new();
    for &mode in &examiner.facts.modes {
        others.push(examiner.attach(mode)?);
    }
    for probe in &mut others {
        probe.expect_data(0, &data, "what another connection wrote")?;
    }
    for round in 0..16u64 {
        let unit = unit(&first);
        let bytes = pattern(100 + round, 0, unit as usize);
        first.write(0, bytes.clone())?;
        for probe in &mut others {
            probe.expect_data(0, &bytes, "what another connection has just written")?;
        }
    }
    Ok(())
}

fn pipelined(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|probe| {
        filled(examiner, probe, 12)?;
        let unit = unit(probe);
        let blocks = ARENA / unit;
        let mut in_flight: Vec<ProbeRequest> = (0..128u64.min(blocks))
            .map(|block| {
                ProbeRequest::write(block * unit, pattern(13, block * unit, unit as usize)).cookie(block)
            })
            .collect();
        let count = in_flight.len() as u64;
        let bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(probe.mode)).collect();
        probe.send(&bytes)?;
        while !in_flight.is_empty() {
            let (request, reply) = probe.next_reply(&mut in_flight)?;
            judge(&request, reply.error, &[0])?;
        }
        probe.expect_data(0, &pattern(13, 0, (count * unit) as usize), "after 128 WRITEs")
    })
}

/// All connections reach the same server.
fn one_server(examiner: &Examiner<'_>) -> ProbeResult<()> {
    match examiner.subject.dialer {
        Dialer::Command(_) => not_applicable("each connection is a server of its own"),
        Dialer::Address(_) | Dialer::Secure(_) => Ok(()),
    }
}

fn disc_after_writes(examiner: &Examiner<'_>) -> ProbeResult<()> {
    one_server(examiner)?;
    examiner.each(|first| {
        filled(examiner, first, 14)?;
        let mut probe = examiner.attach(first.mode)?;
        let unit = unit(&probe);
        let requests: Vec<ProbeRequest> = (0..16u64)
            .map(|block| {
                ProbeRequest::write(block * unit, pattern(15, block * unit, unit as usize)).cookie(block)
            })
            .collect();
        let mut bytes: Vec<u8> = requests.iter().flat_map(|request| request.encode(probe.mode)).collect();
        bytes.extend(ProbeRequest::new(NBD_CMD_DISC, 0, 0).encode(probe.mode));
        probe.send(&bytes)?;
        probe.drain("DISC behind WRITEs")?;
        let mut later = examiner.attach(first.mode)?;
        later.expect_data(0, &pattern(15, 0, (16 * unit) as usize), "WRITEs before DISC")
    })
}

fn oversize(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each(|first| {
        let data = filled(examiner, first, 16)?;
        let mut probe = examiner.attach(first.mode)?;
        let (maximum, unit) = (probe.export.maximum(), unit(&probe));
        if maximum > 64 << 20 {
            return not_applicable(format!("the maximum payload is {maximum} bytes: too many to try"));
        }
        if probe.export.block_sizes.is_none_or(|sizes| sizes[2] == u32::MAX) {
            return not_applicable("the server tells no maximum payload");
        }
        let request = ProbeRequest::write(0, vec![0x55; (maximum + unit) as usize]);
        let bytes = request.encode(probe.mode);
        if probe.try_send(&bytes)? && !probe.closes_before_a_byte("a reply to a WRITE that is too long")? {
            let reply = probe.reply_to(&request)?;
            if reply.error == 0 {
                return not_met(format!("{request} succeeds; the maximum payload is {maximum}"));
            }
            probe.expect_alive()?;
        }
        let got = examiner.attach(first.mode)?.read(0, ARENA)?;
        match one_server(examiner) {
            Ok(()) => same(&got, &data, 0, "after a WRITE that is too long"),
            Err(_) => Ok(()),
        }
    })
}
