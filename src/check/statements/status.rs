//! T24 to T26: BLOCK_STATUS.

use super::super::examiner::Examiner;
use super::super::probe::{ProbeResult, not_met};
use super::super::statement::{Statement, statement};
use super::super::wire::*;
use super::refusals::unit;
use crate::nbd::wire::*;

const STATUS: &str = "Structured reply types";
/// A range that is mapped has no more requests than this.
const MOST_STEPS: usize = 4096;

pub(super) const STATEMENTS: fn() -> Vec<Statement> = || {
    vec![
        statement("T24", "BLOCK_STATUS without a context is EINVAL", "Metadata querying", without_context)
            .should(),
        statement("T25", "Extents are whole blocks inside the export, one chunk a context", STATUS, extents),
        statement("T25a", "Extents lead to the end of the export", STATUS, lead_to_the_end),
        statement("T25b", "Neighbours differ in their flags", STATUS, neighbours_differ).should(),
        statement(
            "T25c",
            "What is said to read as zeroes does",
            "`base:allocation` metadata context",
            zero_is_zero,
        ),
        statement("T26", "REQ_ONE gives one extent, no longer than asked", "Command flags", req_one),
    ]
};

fn without_context(examiner: &Examiner<'_>) -> ProbeResult<()> {
    for &mode in &examiner.facts.modes {
        let mut probe = examiner.haggling()?;
        probe.choose(mode)?;
        probe.go(examiner.export())?;
        let request = ProbeRequest::status(0, unit(&probe));
        probe.fail(&request, &[NBD_EINVAL])?;
        probe.fail(&request.flags(NBD_CMD_FLAG_REQ_ONE), &[NBD_EINVAL])?;
        probe.expect_alive()?;
    }
    Ok(())
}

/// The longest BLOCK_STATUS that fits 32 bits, from the start.
fn all(size: u64, unit: u64) -> u64 {
    let longest = size.min(0x8000_0000);
    longest - longest % unit
}

fn extents(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    examiner.each_chunked(|probe| {
        let (size, unit) = (probe.export.size, unit(probe));
        for (offset, length) in [(0, unit), (0, all(size, unit)), (size - unit, unit), (unit, unit)] {
            if offset + length <= size && offset.is_multiple_of(probe.export.minimum()) {
                let extents = probe.allocation(&ProbeRequest::status(offset, length))?;
                if extents.is_empty() {
                    return not_met(format!(
                        "BLOCK_STATUS of {length:#x} bytes at {offset:#x} has no extent"
                    ));
                }
            }
        }
        Ok(())
    })
}

fn lead_to_the_end(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    examiner.each_chunked(|probe| {
        let (unit, size) = (unit(probe), probe.export.size);
        let (mut at, mut steps) = (0, 0);
        while at < size && steps < MOST_STEPS {
            let length = all(size - at, unit).max(size - at).min(0x8000_0000);
            let extents = probe.allocation(&ProbeRequest::status(at, length))?;
            at += extents.iter().map(|(length, _)| length).sum::<u64>();
            steps += 1;
        }
        Ok(())
    })
}

fn neighbours_differ(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    examiner.each_chunked(|probe| {
        let length = all(probe.export.size, unit(probe));
        let extents = probe.allocation(&ProbeRequest::status(0, length))?;
        match extents.windows(2).find(|pair| pair[0].1 == pair[1].1) {
            Some(pair) => not_met(format!("two extents side by side have the same flags: {pair:x?}")),
            None => Ok(()),
        }
    })
}

fn zero_is_zero(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    examiner.each_chunked(|probe| {
        let length = all(probe.export.size, unit(probe)).min(64 << 20);
        let extents = probe.allocation(&ProbeRequest::status(0, length))?;
        let mut at = 0;
        for (length, flags) in extents.into_iter().take(64) {
            // A part of each is enough to tell.
            let some = length.min(65536);
            if flags & u64::from(NBD_STATE_ZERO) != 0 && probe.read(at, some)?.iter().any(|byte| *byte != 0) {
                return not_met(format!("the extent at {at:#x} has the flag ZERO, and data"));
            }
            at += length;
        }
        Ok(())
    })
}

fn req_one(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    examiner.each_chunked(|probe| {
        let (size, unit) = (probe.export.size, unit(probe));
        for (offset, length) in [(0, unit), (0, all(size, unit)), (unit, unit)] {
            if offset + length <= size {
                probe.statuses(&ProbeRequest::status(offset, length).flags(NBD_CMD_FLAG_REQ_ONE))?;
            }
        }
        Ok(())
    })
}
