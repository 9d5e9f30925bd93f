//! H6 to H15 and H28: LIST, INFO, GO, EXPORT_NAME, STARTTLS.

use super::super::examiner::Examiner;
use super::super::haggle::{OptionAnswer, information, kind_name, kind_names, needs};
use super::super::probe::{Finding, Probe, ProbeResult, not_applicable, not_met};
use super::super::statement::{Statement, statement};
use super::super::wire::*;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

const OPTIONS: &str = "Option types";
const SIZES: &str = "Size constraints";
const INFO_AND_GO: [u32; 2] = [NBD_OPT_INFO, NBD_OPT_GO];

pub(super) const STATEMENTS: fn() -> Vec<Statement> = || {
    vec![
        statement(
            "H6",
            "LIST with data is ERR_INVALID, once, and its data is consumed",
            OPTIONS,
            list_with_data,
        )
        .should(),
        statement("H7", "LIST is there, and its replies are well-formed", "Baseline", list),
        statement(
            "H8",
            "Malformed INFO and GO are ERR_INVALID or the end, and the stream stays in step",
            OPTIONS,
            malformed,
        )
        .should(),
        statement("H9", "A name with NUL or without UTF-8 is no export", "Conventions", bad_names).should(),
        statement("H9a", "A name beyond 4,096 bytes is an error or the end", "Conventions", long_names),
        statement(
            "H10",
            "INFO and GO give INFO_EXPORT once, whatever is asked for",
            OPTIONS,
            one_info_export,
        ),
        statement("H11", "An unknown export is ERR_UNKNOWN, and haggling goes on", OPTIONS, unknown_export),
        statement("H12", "INFO and GO say the same", OPTIONS, info_then_go),
        statement(
            "H13",
            "124 zeroes after EXPORT_NAME only, and only if wanted",
            "Newstyle negotiation",
            zeroes,
        ),
        statement("H14", "Block sizes are powers of two within their limits", SIZES, block_sizes),
        statement(
            "H15",
            "A client that does not ask for block sizes is served or refused",
            SIZES,
            did_not_ask,
        ),
        statement("H28", "Without TLS, STARTTLS is refused and never asked for", "NOTLS mode", notls),
    ]
};

/// A name that no server has, unless it takes any.
pub(super) fn unknown_name() -> String {
    format!("ringnbd-check-{}-no-such-export", std::process::id())
}

fn list_with_data(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let mut probe = examiner.haggling()?;
    for data in [&b"x"[..], b"four", &[0; 4096]] {
        let why = format!("{} bytes of data", data.len());
        probe.expect_only(NBD_OPT_LIST, data, NBD_REP_ERR_INVALID, &why)?;
        probe.expect_in_step("LIST with data")?;
    }
    Ok(())
}

fn list(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let mut probe = examiner.haggling()?;
    let answers = probe.ask(NBD_OPT_LIST, b"")?;
    let Some((last, entries)) = answers.split_last() else { return Ok(()) };
    match last.kind {
        NBD_REP_ACK => {}
        NBD_REP_ERR_POLICY => return not_applicable("the server's policy forbids LIST"),
        kind => return not_met(format!("LIST ends with {}", kind_name(kind))),
    }
    for OptionAnswer { kind, data } in entries {
        let name = data.get(4..).and_then(|rest| rest.get(..be32(data, 0) as usize));
        match (*kind, name.map(std::str::from_utf8)) {
            (NBD_REP_SERVER, Some(Ok(name))) if name.len() <= NBD_MAX_STRING && !name.contains('\0') => {}
            (NBD_REP_SERVER, _) => return not_met("a REP_SERVER whose name is cut short or no string"),
            (kind, _) => return not_met(format!("{} in the reply to LIST", kind_name(kind))),
        }
    }
    Ok(())
}

fn malformed(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let name = examiner.export().as_bytes();
    let length = name.len() as u32;
    let bad = [
        ("a name one byte longer than there is", crooked_info(length + 1, name, 0, b"")),
        ("a name as long as the option", crooked_info(length + 6, name, 0, b"")),
        ("a name of 2^32-1 bytes", crooked_info(u32::MAX, name, 0, b"")),
        ("a name of 2^32-6 bytes, so that +6 wraps", crooked_info(u32::MAX - 5, name, 0, b"")),
        ("two trailing bytes", crooked_info(length, name, 0, b"xx")),
        ("one trailing byte", crooked_info(length, name, 0, b"x")),
        ("half an information request", crooked_info(length, name, 1, b"\0")),
        ("fewer requests than counted", crooked_info(length, name, 3, b"\0\x01\0\x02")),
        ("more requests than counted", crooked_info(length, name, 1, b"\0\x01\0\x02")),
        ("no data", Vec::new()),
        ("half a length", vec![0, 0]),
        ("only a length", vec![0; 4]),
    ];
    for (what, data) in &bad {
        // A server may end a handshake that goes on and on.
        let mut probe = examiner.haggling()?;
        for number in INFO_AND_GO {
            // A client that breaks a "MUST" may be disconnected.
            if !probe.try_send(&option(number, data))? || probe.closes_before_a_byte("a reply")? {
                break;
            }
            match probe.answers(number)?[..] {
                [OptionAnswer { kind: NBD_REP_ERR_INVALID, .. }] => {}
                [OptionAnswer { kind: kind @ NBD_REP_ERR_UNSUP, .. }] => needs(kind, "INFO and GO")?,
                ref answers => {
                    let got = kind_names(answers);
                    return not_met(format!(
                        "option {number} with {what} got {got}; it must get REP_ERR_INVALID"
                    ));
                }
            }
            probe.expect_in_step(&format!("option {number} with {what}"))?;
        }
    }
    Ok(())
}

fn bad_names(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let mut probe = examiner.haggling()?;
    for name in [&b"di\0sk"[..], b"\0", b"\xff\xfe", b"disk\xc3"] {
        for number in INFO_AND_GO {
            let kinds = [NBD_REP_ERR_INVALID, NBD_REP_ERR_UNKNOWN, NBD_REP_ERR_UNSUP];
            let kind = probe.expect_one_of(
                number,
                &info_data(name, &[]),
                &kinds,
                &format!("the name {name:02x?}"),
            )?;
            needs(kind, "INFO and GO")?;
        }
    }
    probe.expect_in_step("bad names")
}

fn long_names(examiner: &Examiner<'_>) -> ProbeResult<()> {
    for number in [NBD_OPT_INFO, NBD_OPT_GO, NBD_OPT_EXPORT_NAME] {
        for length in [4097, 65536] {
            let mut probe = examiner.haggling()?;
            let name = vec![b'n'; length];
            let data = if number == NBD_OPT_EXPORT_NAME { name } else { info_data(&name, &[]) };
            let what = format!("option {number} with a name of {length} bytes");
            if !probe.try_send(&option(number, &data))? || probe.closes_before_a_byte(&what)? {
                continue;
            }
            if number == NBD_OPT_EXPORT_NAME {
                return not_met(format!("{what} is answered; the server must close"));
            }
            match probe.answers(number)?.pop() {
                Some(answer) if answer.is_error() => probe.expect_in_step(&what)?,
                _ => return not_met(format!("{what} succeeds")),
            }
        }
    }
    Ok(())
}

fn one_info_export(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let lists: [&[u16]; 5] = [
        &[],
        &[NBD_INFO_EXPORT],
        &[NBD_INFO_BLOCK_SIZE],
        &[NBD_INFO_EXPORT, NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE],
        &[0x1234, NBD_INFO_BLOCK_SIZE, 0xffff],
    ];
    for requests in lists {
        for number in INFO_AND_GO {
            let mut probe = examiner.haggling()?;
            let answers = probe.ask(number, &info_data(examiner.export().as_bytes(), requests))?;
            let last = answers.last().map_or(0, |answer| answer.kind);
            needs(last, "INFO and GO")?;
            if last == NBD_REP_ERR_BLOCK_SIZE_REQD {
                continue;
            }
            probe.export = information(&answers)?;
            let is_export =
                |one: &&OptionAnswer| one.kind == NBD_REP_INFO && be16(&one.data, 0) == NBD_INFO_EXPORT;
            let count = answers.iter().filter(is_export).count();
            if count != 1 {
                return not_met(format!("INFO_EXPORT came {count} times; it must come once"));
            }
            match number {
                NBD_OPT_INFO => probe.expect_in_step("INFO")?,
                _ => probe.expect_alive()?,
            }
        }
    }
    Ok(())
}

fn unknown_export(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let mut probe = examiner.haggling()?;
    let name = unknown_name();
    for number in INFO_AND_GO {
        let answers = probe.ask(number, &info_data(name.as_bytes(), &[NBD_INFO_BLOCK_SIZE]))?;
        match answers[..] {
            [OptionAnswer { kind: NBD_REP_ERR_UNKNOWN, .. }] => {}
            [OptionAnswer { kind, .. }] if kind == NBD_REP_ERR_UNSUP => needs(kind, "INFO and GO")?,
            [.., OptionAnswer { kind: NBD_REP_ACK, .. }] => return not_applicable("the server has any name"),
            _ => {
                let kinds = kind_names(&answers);
                return not_met(format!("option {number} for an unknown export gets {kinds}"));
            }
        }
        probe.expect_in_step("an unknown export")?;
    }
    let mut other = examiner.haggling()?;
    other.send(&option(NBD_OPT_EXPORT_NAME, name.as_bytes()))?;
    other.expect_close("EXPORT_NAME of an unknown export")?;
    probe.go(examiner.export())?;
    probe.expect_alive()
}

fn info_then_go(examiner: &Examiner<'_>) -> ProbeResult<()> {
    for &mode in &examiner.facts.modes {
        let mut probe = examiner.haggling()?;
        probe.choose(mode)?;
        let list = [NBD_INFO_BLOCK_SIZE, NBD_INFO_NAME, NBD_INFO_DESCRIPTION];
        let data = info_data(examiner.export().as_bytes(), &list);
        let mut sorted = |number: u32| -> ProbeResult<Vec<(u32, Vec<u8>)>> {
            let answers = probe.ask(number, &data)?;
            needs(answers.last().map_or(0, |answer| answer.kind), "INFO and GO")?;
            information(&answers)?;
            let mut all: Vec<_> = answers.into_iter().map(|answer| (answer.kind, answer.data)).collect();
            all.sort();
            Ok(all)
        };
        let (info, go) = (sorted(NBD_OPT_INFO)?, sorted(NBD_OPT_GO)?);
        if let Some(((_, info), (_, go))) = info.iter().zip(&go).find(|(info, go)| info != go) {
            return not_met(format!("INFO says {info:02x?}, and GO {go:02x?}"));
        }
        if info.len() != go.len() {
            return not_met(format!("INFO gives {} replies, and GO {}", info.len(), go.len()));
        }
    }
    Ok(())
}

fn zeroes(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let all = [MODERN, NBD_FLAG_C_FIXED_NEWSTYLE, 0, NBD_FLAG_C_NO_ZEROES];
    // The others are those of clients too old for TLS.
    let count = if examiner.subject.dialer.is_secure() { 2 } else { all.len() };
    for flags in &all[..count] {
        let mut probe = examiner.open()?;
        let offered = u32::from(probe.read_greeting()?);
        let flags = flags & offered;
        probe.send(&flags.to_be_bytes())?;
        probe.export_name(examiner.export(), flags & NBD_FLAG_C_NO_ZEROES != 0)?;
        if !probe.export.has(NBD_FLAG_HAS_FLAGS) {
            return not_met(format!("the flags {:#x} lack HAS_FLAGS", probe.export.flags));
        }
        // Zeroes too many or too few stand where its reply should be.
        probe.expect_alive()?;
        if flags & NBD_FLAG_C_FIXED_NEWSTYLE != 0 {
            let mut probe = examiner.open()?;
            probe.greet(flags)?;
            probe.go(examiner.export())?;
            probe.expect_alive()?;
        }
    }
    Ok(())
}

fn block_sizes(examiner: &Examiner<'_>) -> ProbeResult<()> {
    let probe = examiner.attach(ReplyMode::Simple)?;
    let Some([minimum, preferred, maximum]) = probe.export.block_sizes else {
        return not_applicable("the server tells no block sizes");
    };
    let all = format!("minimum {minimum}, preferred {preferred}, maximum {maximum}");
    let checks = [
        (minimum.is_power_of_two() && minimum <= 65536, "the minimum must be a power of two up to 65536"),
        (preferred.is_power_of_two(), "the preferred size must be a power of two"),
        (preferred >= minimum.max(512), "the preferred size must be at least 512 and the minimum"),
        (maximum >= preferred, "the maximum must be at least the preferred size"),
        (
            maximum == u32::MAX || maximum.is_multiple_of(minimum.max(1)),
            "the maximum must be a multiple of the minimum",
        ),
        (
            probe.export.size.is_multiple_of(u64::from(minimum.max(1))),
            "the export's size must be whole blocks",
        ),
    ];
    match checks.iter().find(|(holds, _)| !holds) {
        Some((_, rule)) => not_met(format!("{all}: {rule}")),
        None => Ok(()),
    }
}

fn did_not_ask(examiner: &Examiner<'_>) -> ProbeResult<()> {
    examiner.needs_size(16384)?;
    let mut probe = examiner.haggling()?;
    let answers = probe.ask(NBD_OPT_GO, &info_data(examiner.export().as_bytes(), &[]))?;
    let last = answers.last().map_or(0, |answer| answer.kind);
    needs(last, "GO")?;
    if last == NBD_REP_ERR_BLOCK_SIZE_REQD {
        let is_told = |answer: &OptionAnswer| {
            answer.kind == NBD_REP_INFO && be16(&answer.data, 0) == NBD_INFO_BLOCK_SIZE
        };
        if !answers.iter().any(is_told) {
            return not_met("REP_ERR_BLOCK_SIZE_REQD without INFO_BLOCK_SIZE before it");
        }
        return probe.go(examiner.export()).and_then(|()| probe.expect_alive());
    }
    probe.export = information(&answers)?;
    let whole = probe.read(0, 8192)?;
    for (offset, length) in [(1, 3), (511, 2), (4095, 2), (100, 1000)] {
        let reply = probe.call(&ProbeRequest::read(offset, length))?;
        match reply.error {
            0 if reply.data == whole[offset as usize..(offset + length) as usize] => {}
            NBD_EINVAL => {}
            0 => return not_met(format!("READ of {length} bytes at {offset} gives other bytes")),
            error => return not_met(format!("READ of {length} bytes at {offset} fails with error {error}")),
        }
    }
    probe.expect_alive()
}

fn notls(examiner: &Examiner<'_>) -> ProbeResult<()> {
    if examiner.subject.dialer.is_secure() {
        return not_applicable("the server has TLS");
    }
    let mut probe = examiner.haggling()?;
    if let Ok(OptionAnswer { kind: NBD_REP_ACK, .. }) = probe.ask_last(NBD_OPT_STARTTLS, b"") {
        return not_applicable("the server has TLS");
    }
    let mut probe = examiner.haggling()?;
    let refusals = [NBD_REP_ERR_UNSUP, NBD_REP_ERR_POLICY, NBD_REP_ERR_PLATFORM];
    probe.expect_one_of(NBD_OPT_STARTTLS, b"", &refusals, "no TLS")?;
    asks_for_no_tls(&mut probe)?;
    probe.expect_in_step("STARTTLS")
}

fn asks_for_no_tls(probe: &mut Probe) -> ProbeResult<()> {
    let name = unknown_name();
    for number in [NBD_OPT_LIST, NBD_OPT_INFO, NBD_OPT_STRUCTURED_REPLY, NBD_OPT_LIST_META_CONTEXT] {
        let data = match number {
            NBD_OPT_INFO => info_data(name.as_bytes(), &[]),
            NBD_OPT_LIST_META_CONTEXT => meta_data(name.as_bytes(), &[]),
            _ => Vec::new(),
        };
        let answers = probe.ask(number, &data)?;
        if answers.iter().any(|answer| answer.kind == NBD_REP_ERR_TLS_REQD) {
            return Err(Finding::NotMet(format!("option {number} asks for TLS, which is refused")));
        }
    }
    Ok(())
}
