//! T19 and T20: structured and extended READs.

use super::super::examiner::Examiner;
use super::super::probe::{ProbeResult, not_applicable, not_met};
use super::super::statement::{Statement, statement};
use super::super::transmit::{judge, same};
use super::super::wire::*;
use super::refusals::unit;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

const READ: &str = "Request types";

pub(super) const STATEMENTS: fn() -> Vec<Statement> = || {
    vec![
        statement("T19", "The chunks of a READ lie inside of it, once each, and cover it", READ, chunks),
        statement("T19a", "All forms of replies give the same bytes", READ, same_in_all_modes),
        statement("T20", "DF gives one content chunk; 64 KiB have to be possible", "Command flags", df),
        statement("T20a", "DF is not offered with simple replies", "Transmission flags", df_needs_structured),
    ]
};

/// The longest READ that statements make here: 1 MiB, or what there is.
fn long(size: u64, unit: u64, maximum: u64) -> u64 {
    let longest = size.min(maximum).min(1 << 20);
    longest - longest % unit
}

fn chunks(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each_chunked(|probe| {
        let unit = unit(probe);
        let length = long(probe.export.size, unit, probe.export.maximum());
        // The rules are checked on each reply.
        for (offset, length) in [(0, unit), (0, length), (probe.export.size - unit, unit)] {
            if offset.is_multiple_of(probe.export.minimum()) {
                probe.read(offset, length)?;
            }
        }
        Ok(())
    })
}

fn same_in_all_modes(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.chunked()?;
    let mut simple = examiner.attach(ReplyMode::Simple)?;
    let length = long(simple.export.size, unit(&simple), simple.export.maximum());
    let expected = simple.read(0, length)?;
    examiner.each_chunked(|probe| probe.expect_data(0, &expected, "a READ, compared with simple replies"))
}

fn df(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.each_chunked(|probe| {
        if !probe.export.has(NBD_FLAG_SEND_DF) {
            return not_applicable("the export has not the flag SEND_DF");
        }
        let unit = unit(probe);
        let size = probe.export.size - probe.export.size % unit;
        for length in [unit, size.min(65536 / unit * unit).max(unit)] {
            let request = ProbeRequest::read(0, length).flags(NBD_CMD_FLAG_DF);
            let data = probe.succeed(&request)?.data;
            same(&data, &probe.read(0, length)?, 0, "a READ with DF, compared with one without")?;
        }
        let length = long(size, unit, probe.export.maximum());
        let request = ProbeRequest::read(0, length).flags(NBD_CMD_FLAG_DF);
        let reply = probe.call(&request)?;
        judge(&request, reply.error, &[0, NBD_EOVERFLOW])?;
        probe.expect_alive()
    })
}

fn df_needs_structured(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let probe = examiner.attach(ReplyMode::Simple)?;
    match probe.export.has(NBD_FLAG_SEND_DF) {
        true => not_met(format!("the flags {:#x} have SEND_DF with simple replies", probe.export.flags)),
        false => Ok(()),
    }
}
