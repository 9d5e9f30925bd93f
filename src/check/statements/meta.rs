//! H16 to H23: structured replies, extended headers, meta contexts.

use super::super::examiner::{ALLOCATION, Examiner};
use super::super::haggle::{contexts, kind_name};
use super::super::probe::{Probe, ProbeResult, not_applicable, not_met};
use super::super::statement::{Statement, statement};
use super::super::wire::*;
use super::export::unknown_name;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

const QUERYING: &str = "Metadata querying";
const OPTIONS: &str = "Option types";

pub(super) const STATEMENTS: fn() -> Vec<Statement> = || {
    vec![
        statement("H16", "A second negotiation of replies is ERR_INVALID", OPTIONS, second).should(),
        statement("H16a", "Data of STRUCTURED_REPLY is ERR_INVALID and changes nothing", OPTIONS, with_data)
            .should(),
        statement(
            "H17",
            "After EXTENDED_HEADERS: no STRUCTURED_REPLY, no EXPORT_NAME",
            OPTIONS,
            after_extended,
        ),
        statement("H18", "SET_META_CONTEXT needs structured replies", QUERYING, needs_structured),
        // What shows it is EINVAL for a BLOCK_STATUS without contexts, which is a "SHOULD".
        statement("H19", "A SET_META_CONTEXT that fails leaves nothing selected", QUERYING, failing_set)
            .should(),
        statement("H19a", "SET_META_CONTEXT replaces what was selected", QUERYING, replaced).should(),
        statement("H20", "Contexts belong to the export that they were selected for", QUERYING, other_export)
            .should(),
        statement("H21", "LIST_META_CONTEXT lists, and selects nothing", QUERYING, list),
        statement("H22", "SET_META_CONTEXT selects what is named, and no more", QUERYING, set),
        statement("H23", "Lengths beyond the option are ERR_INVALID", OPTIONS, bad_lengths),
        // "Such as" a length beyond the option, says the document of what is invalid.
        statement("H23a", "Data behind the last query is ERR_INVALID", OPTIONS, trailing_data).should(),
        // Whatever the server makes of such data: the header says how long it is.
        statement("H23b", "Data behind the last query is not taken for an option", OPTIONS, stays_in_step),
    ]
};

fn second(examiner: &Examiner<'_>) -> ProbeResult<()> {
    for mode in examiner.chunked()? {
        let number = match mode {
            ReplyMode::Extended => NBD_OPT_EXTENDED_HEADERS,
            _ => NBD_OPT_STRUCTURED_REPLY,
        };
        let mut probe = examiner.haggling()?;
        probe.choose(mode)?;
        probe.expect_only(number, b"", NBD_REP_ERR_INVALID, "the same before it")?;
        probe.expect_in_step("a second negotiation")?;
        probe.go(examiner.export())?;
        probe.expect_alive()?;
    }
    Ok(())
}

fn with_data(examiner: &Examiner<'_>) -> ProbeResult<()> {
    for mode in examiner.chunked()? {
        let number = match mode {
            ReplyMode::Extended => NBD_OPT_EXTENDED_HEADERS,
            _ => NBD_OPT_STRUCTURED_REPLY,
        };
        let mut probe = examiner.haggling()?;
        probe.expect_only(number, b"x", NBD_REP_ERR_INVALID, "data")?;
        probe.expect_in_step("data where none belongs")?;
        probe.go(examiner.export())?;
        probe.expect_alive()?;
    }
    Ok(())
}

fn after_extended(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.has(ReplyMode::Extended)?;
    let mut probe = examiner.haggling()?;
    probe.choose(ReplyMode::Extended)?;
    let why = "extended headers before it";
    probe.expect_only(NBD_OPT_STRUCTURED_REPLY, b"", NBD_REP_ERR_EXT_HEADER_REQD, why)?;
    probe.go(examiner.export())?;
    probe.expect_alive()?;
    let mut probe = examiner.haggling()?;
    probe.choose(ReplyMode::Extended)?;
    probe.send(&option(NBD_OPT_EXPORT_NAME, examiner.export().as_bytes()))?;
    probe.expect_close("EXPORT_NAME after EXTENDED_HEADERS")
}

fn needs_structured(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    let mut probe = examiner.haggling()?;
    let data = meta_data(examiner.export().as_bytes(), &[ALLOCATION]);
    probe.expect_only(NBD_OPT_SET_META_CONTEXT, &data, NBD_REP_ERR_INVALID, "simple replies")?;
    probe.expect_in_step("SET_META_CONTEXT without structured replies")?;
    probe.go(examiner.export())?;
    probe.fail(&ProbeRequest::status(0, unit(&probe)), &[NBD_EINVAL])?;
    probe.expect_alive()
}

fn unit(probe: &Probe) -> u64 {
    probe.export.minimum().max(512)
}

/// Data of SET_META_CONTEXT that is malformed, and what is wrong with it.
fn malformed(name: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let good = meta_data(name, &[ALLOCATION]);
    let count = 4 + name.len();
    let with = |at: usize, value: u32| {
        let mut data = good.clone();
        data[at..at + 4].copy_from_slice(&value.to_be_bytes());
        data
    };
    vec![
        ("no data", Vec::new()),
        ("half a length", good[..2].to_vec()),
        ("half a count", good[..count + 2].to_vec()),
        ("a name beyond the option", with(0, 10_000)),
        ("a name of 2^32-1 bytes", with(0, u32::MAX)),
        ("fewer queries than counted", with(count, 2)),
        ("2^32-1 queries counted", with(count, u32::MAX)),
        ("a query beyond the option", with(count + 4, 16)),
        ("a query of 2^32-1 bytes", with(count + 4, u32::MAX)),
        ("a query cut short", good[..good.len() - 1].to_vec()),
    ]
}

/// Data of SET_META_CONTEXT that has more than it says.
fn too_long(name: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let good = meta_data(name, &[ALLOCATION]);
    let mut uncounted = good.clone();
    uncounted[4 + name.len()..8 + name.len()].fill(0);
    vec![("a trailing byte", [&good[..], b"x"].concat()), ("more queries than counted", uncounted)]
}

fn failing_set(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    let mut all = malformed(examiner.export().as_bytes());
    all.extend(too_long(examiner.export().as_bytes()));
    all.push(("an unknown export", meta_data(unknown_name().as_bytes(), &[ALLOCATION])));
    for mode in examiner.chunked()? {
        for (what, data) in &all {
            let mut probe = examiner.haggling()?;
            probe.choose(mode)?;
            probe.select(examiner.export(), &[ALLOCATION])?;
            if !probe.ask_last(NBD_OPT_SET_META_CONTEXT, data)?.is_error() {
                // A matter of other statements; a server may have any name.
                continue;
            }
            probe.go(examiner.export())?;
            let reply = probe.call(&ProbeRequest::status(0, unit(&probe)))?;
            if reply.error != NBD_EINVAL {
                return not_met(format!(
                    "SET_META_CONTEXT with {what} failed, and BLOCK_STATUS works with the contexts from before"
                ));
            }
            probe.expect_alive()?;
        }
    }
    Ok(())
}

fn replaced(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    for mode in examiner.chunked()? {
        for queries in [&[][..], &[&b"x-ringnbd-check:leaf"[..]]] {
            let mut probe = examiner.haggling()?;
            probe.choose(mode)?;
            probe.select(examiner.export(), &[ALLOCATION])?;
            let selected = probe.select(examiner.export(), queries)?;
            if !selected.is_empty() {
                return not_met(format!("SET_META_CONTEXT of {queries:?} selects {selected:?}"));
            }
            probe.go(examiner.export())?;
            probe.fail(&ProbeRequest::status(0, unit(&probe)), &[NBD_EINVAL])?;
        }
    }
    Ok(())
}

fn other_export(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    let listed = examiner.listed()?;
    let Some(other) = listed.iter().find(|name| *name != examiner.export()) else {
        return not_applicable("the server lists no second export");
    };
    for mode in examiner.chunked()? {
        let mut probe = examiner.haggling()?;
        probe.choose(mode)?;
        probe.select(other, &[ALLOCATION])?;
        probe.export.contexts.clear();
        probe.go(examiner.export())?;
        probe.fail(&ProbeRequest::status(0, unit(&probe)), &[NBD_EINVAL])?;
        probe.expect_alive()?;
    }
    Ok(())
}

fn list(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    let name = examiner.export().as_bytes();
    for mode in examiner.chunked()? {
        let mut probe = examiner.haggling()?;
        probe.choose(mode)?;
        for queries in [&[][..], &[&b"base:"[..]], &[ALLOCATION]] {
            let listed = contexts(&probe.ask(NBD_OPT_LIST_META_CONTEXT, &meta_data(name, queries))?)?;
            let found = listed.iter().filter(|(_, name)| name == "base:allocation").count();
            if found != 1 {
                return not_met(format!(
                    "a list of {queries:?} has base:allocation {found} times: {listed:?}"
                ));
            }
        }
        let nothing =
            contexts(&probe.ask(NBD_OPT_LIST_META_CONTEXT, &meta_data(name, &[b"x-ringnbd-check:"]))?)?;
        if !nothing.is_empty() {
            return not_met(format!("a list of an unknown namespace has {nothing:?}"));
        }
        probe.go(examiner.export())?;
        probe.fail(&ProbeRequest::status(0, unit(&probe)), &[NBD_EINVAL])?;
        probe.expect_alive()?;
    }
    Ok(())
}

fn set(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    let mode = examiner.chunked()?[0];
    let mut probe = examiner.haggling()?;
    probe.choose(mode)?;
    let nothing: [&[&[u8]]; 4] = [
        &[],
        &[b"base:"],
        &[b"x-ringnbd-check:leaf", b"x-ringnbd-check:"],
        &[b"base:allocatio", b"base:allocations"],
    ];
    for queries in nothing {
        let selected = probe.select(examiner.export(), queries)?;
        if !selected.is_empty() {
            return not_met(format!("{} selects {selected:?}", shown(queries)));
        }
    }
    // The last: "one for each selected metadata context, each with a unique metadata context ID".
    let one: [&[&[u8]]; 4] = [
        &[ALLOCATION],
        &[b"base:", ALLOCATION],
        &[b"x-ringnbd-check:leaf", ALLOCATION],
        &[ALLOCATION, ALLOCATION],
    ];
    for queries in one {
        let selected = probe.select(examiner.export(), queries)?;
        if selected.len() != 1 || selected[0].1 != "base:allocation" {
            return not_met(format!("{} selects {selected:?}", shown(queries)));
        }
    }
    // Without a colon it "MAY" be an error, and the stream goes on.
    for query in [&b""[..], b"base", b"\xff\xff", b":"] {
        let kind = probe
            .ask_last(NBD_OPT_SET_META_CONTEXT, &meta_data(examiner.export().as_bytes(), &[query]))?
            .kind;
        if ![NBD_REP_ACK, NBD_REP_ERR_INVALID].contains(&kind) {
            return not_met(format!("the query {:?} gets {}", shown(&[query]), kind_name(kind)));
        }
        probe.expect_in_step("a query without a colon")?;
    }
    Ok(())
}

fn shown(queries: &[&[u8]]) -> String {
    let texts: Vec<String> = queries.iter().map(|query| query.escape_ascii().to_string()).collect();
    format!("[{}]", texts.join(", "))
}

fn bad_lengths(examiner: &Examiner<'_>) -> ProbeResult<()> {
    are_invalid(examiner, malformed(examiner.export().as_bytes()))
}

fn trailing_data(examiner: &Examiner<'_>) -> ProbeResult<()> {
    are_invalid(examiner, too_long(examiner.export().as_bytes()))
}

fn stays_in_step(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    let mode = examiner.chunked()?[0];
    for (what, data) in too_long(examiner.export().as_bytes()) {
        for number in [NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT] {
            let mut probe = examiner.haggling()?;
            probe.choose(mode)?;
            // A server that takes it for a violation may end the session. One that answers has to go on.
            if !probe.try_send(&option(number, &data))? || probe.closes_before_a_byte("a reply")? {
                continue;
            }
            probe.answers(number)?;
            probe.expect_in_step(&format!("option {number} with {what}"))?;
        }
    }
    Ok(())
}

fn are_invalid(examiner: &Examiner<'_>, all: Vec<(&'static str, Vec<u8>)>) -> ProbeResult<()> {
    examiner.needs_allocation()?;
    let mode = examiner.chunked()?[0];
    for (what, data) in all {
        let mut probe = examiner.haggling()?;
        probe.choose(mode)?;
        for number in [NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT] {
            // Contexts that stood before the fault may be told first.
            let kind = probe.ask_last(number, &data)?.kind;
            if ![NBD_REP_ERR_INVALID, NBD_REP_ERR_TOO_BIG].contains(&kind) {
                return not_met(format!("option {number} with {what} ends with {}", kind_name(kind)));
            }
            probe.expect_in_step(&format!("option {number} with {what}"))?;
        }
    }
    Ok(())
}
