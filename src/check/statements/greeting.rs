//! H1 to H5, H32 and H34: the greeting, unknown options, ABORT, old clients.

use super::super::examiner::Examiner;
use super::super::haggle::kind_names;
use super::super::probe::{ProbeResult, not_applicable, not_met};
use super::super::statement::{Statement, statement};
use super::super::wire::*;
use crate::nbd::wire::*;

const FIXED: &str = "Fixed newstyle negotiation";

pub(super) const STATEMENTS: fn() -> Vec<Statement> = || {
    vec![
        statement("H1", "Unknown client flags: the server closes", "Newstyle negotiation", unknown_flags),
        statement("H2", "An unknown option is ERR_UNSUP, and its data is consumed", FIXED, unknown_option),
        statement("H2a", "An option without its magic ends the session", FIXED, wrong_magic).should(),
        statement("H3", "ABORT is acknowledged, and nothing else follows", "Option types", abort),
        statement("H3a", "Data of ABORT is ignored", "Option types", abort_with_data).should(),
        statement("H5", "A client that aborts and leaves does no harm", "Option types", abort_and_leave),
        statement("H32", "An option of 4 GiB is no harm to others", FIXED, giant_option),
        statement(
            "H34",
            "An old client's other option is an error, and its data is consumed",
            FIXED,
            old_client,
        )
        // Such a client may send one option only, says the document.
        .should(),
    ]
};

fn unknown_flags(examiner: &Examiner<'_>) -> ProbeResult<()> {
    for flags in [MODERN | 1 << 2, MODERN | 1 << 31, u32::MAX] {
        let mut probe = examiner.open()?;
        probe.greet(flags)?;
        // A server that goes on answers this one.
        probe.try_send(&option(NBD_OPT_LIST, b""))?;
        probe.expect_close(&format!("the client flags {flags:#x}"))?;
    }
    Ok(())
}

fn unknown_option(examiner: &Examiner<'_>) -> ProbeResult<()> {
    for number in [UNKNOWN_OPTION, 0, 0x7fff_ffff, 0x8000_0001, u32::MAX] {
        let mut probe = examiner.haggling()?;
        for length in [0, 1, 4, 4096] {
            let why = format!("unknown number and {length} bytes");
            probe.expect_only(number, &vec![0x4e; length], NBD_REP_ERR_UNSUP, &why)?;
        }
    }
    // Data that looks like an option is not obeyed.
    let mut probe = examiner.haggling()?;
    let why = "an ABORT in its data";
    probe.expect_only(UNKNOWN_OPTION, &option(NBD_OPT_ABORT, b""), NBD_REP_ERR_UNSUP, why)?;
    let bytes = option(UNKNOWN_OPTION, b"in pieces");
    probe.send_in_pieces(&bytes, 1)?;
    probe.answers(UNKNOWN_OPTION)?;
    probe.expect_in_step("unknown options")
}

fn wrong_magic(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let mut probe = examiner.haggling()?;
    let mut bytes = option(NBD_OPT_LIST, b"");
    bytes[0] ^= 1;
    probe.send(&bytes)?;
    probe.expect_close("an option whose magic is wrong")
}

fn aborted(examiner: &Examiner<'_>, data: &[u8]) -> ProbeResult<()> {
    let mut probe = examiner.haggling()?;
    if !probe.try_send(&option(NBD_OPT_ABORT, data))? || probe.closes_before_a_byte("a reply to ABORT")? {
        return not_met(format!("the server closes without a reply to ABORT with {} bytes", data.len()));
    }
    match probe.answers(NBD_OPT_ABORT)?[..] {
        [ref answer] if answer.kind == NBD_REP_ACK => {
            // It is the client that drops the connection; the server may have done so.
            probe.end_sending();
            probe.expect_close("ABORT")
        }
        ref answers => not_met(format!("ABORT gets {}; it must get one REP_ACK", kind_names(answers))),
    }
}

fn abort(examiner: &Examiner<'_>) -> ProbeResult<()> {
    aborted(examiner, b"")?;
    let mut probe = examiner.haggling()?;
    probe.ask(NBD_OPT_LIST, b"")?;
    probe.expect_only(NBD_OPT_ABORT, b"", NBD_REP_ACK, "LIST before it")
}

fn abort_with_data(examiner: &Examiner<'_>) -> ProbeResult<()> {
    aborted(examiner, &[0xaa; 100])
}

fn abort_and_leave(examiner: &Examiner<'_>) -> ProbeResult<()> {
    for round in 0..8 {
        let mut probe = examiner.haggling()?;
        if round % 2 == 0 {
            probe.send(&option(NBD_OPT_ABORT, b""))?;
        } else {
            probe.send(&option(NBD_OPT_ABORT, b"")[..7])?;
        }
        // What that does to the server is done when it has closed.
        probe.leave();
    }
    examiner.haggling()?.expect_in_step("clients that left")
}

fn giant_option(examiner: &Examiner<'_>) -> ProbeResult<()> {
    for number in [UNKNOWN_OPTION, NBD_OPT_GO, NBD_OPT_EXPORT_NAME, NBD_OPT_SET_META_CONTEXT] {
        let mut probe = examiner.haggling()?;
        probe.try_send(&option_claiming(number, u32::MAX, &[0; 4096]))?;
        // It may close, refuse, or wait for the rest: somebody else is served meanwhile.
        examiner.haggling()?.expect_in_step("another client's option of 4 GiB")?;
    }
    Ok(())
}

fn old_client(examiner: &Examiner<'_>) -> ProbeResult<()> {
    if examiner.subject.dialer.is_secure() {
        return not_applicable("an old client has no TLS");
    }
    let mut probe = examiner.open()?;
    if probe.read_greeting()? & NBD_FLAG_FIXED_NEWSTYLE == 0 {
        return not_applicable("the server does not offer fixed newstyle");
    }
    probe.send(&0u32.to_be_bytes())?;
    for number in [UNKNOWN_OPTION, UNKNOWN_OPTION + 1] {
        let is_taken = probe.try_send(&option(number, b"sixteen bytes of"))?;
        if !is_taken || probe.closes_before_a_byte("a reply to an option")? {
            return match number {
                UNKNOWN_OPTION => {
                    not_applicable("the server takes one option of a client without fixed newstyle")
                }
                _ => not_met("the server closes after an option that it has answered"),
            };
        }
        match probe.answers(number)?[..] {
            [ref answer] if answer.is_error() => {}
            ref answers => {
                return not_met(format!("option {number} gets {}, no single error", kind_names(answers)));
            }
        }
    }
    probe.export_name(examiner.export(), false)?;
    probe.expect_alive()
}
