//! The client's half of a handshake, one option at a time.

use super::probe::{Finding, Probe, ProbeResult, ProbedExport, not_applicable, not_met};
use super::wire::*;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

/// More than any option reply has.
const LONGEST_ANSWER: usize = 1 << 20;
/// More replies than an option gets from a server in its right mind.
const MOST_ANSWERS: usize = 1 << 16;

/// One reply to an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OptionAnswer {
    pub(super) kind: u32,
    pub(super) data: Vec<u8>,
}

impl OptionAnswer {
    pub(super) fn is_error(&self) -> bool {
        self.kind & NBD_REP_FLAG_ERROR != 0
    }
}

/// `REP_ERR_INVALID`, for a report.
pub(super) fn kind_name(kind: u32) -> String {
    let name = match kind {
        NBD_REP_ACK => "REP_ACK",
        NBD_REP_SERVER => "REP_SERVER",
        NBD_REP_INFO => "REP_INFO",
        NBD_REP_META_CONTEXT => "REP_META_CONTEXT",
        NBD_REP_ERR_UNSUP => "REP_ERR_UNSUP",
        NBD_REP_ERR_POLICY => "REP_ERR_POLICY",
        NBD_REP_ERR_INVALID => "REP_ERR_INVALID",
        NBD_REP_ERR_PLATFORM => "REP_ERR_PLATFORM",
        NBD_REP_ERR_TLS_REQD => "REP_ERR_TLS_REQD",
        NBD_REP_ERR_UNKNOWN => "REP_ERR_UNKNOWN",
        NBD_REP_ERR_SHUTDOWN => "REP_ERR_SHUTDOWN",
        NBD_REP_ERR_BLOCK_SIZE_REQD => "REP_ERR_BLOCK_SIZE_REQD",
        NBD_REP_ERR_TOO_BIG => "REP_ERR_TOO_BIG",
        NBD_REP_ERR_EXT_HEADER_REQD => "REP_ERR_EXT_HEADER_REQD",
        other => return format!("reply {other:#x}"),
    };
    name.to_owned()
}

impl Probe {
    /// Reads the greeting; the server's flags.
    pub(super) fn read_greeting(&mut self) -> ProbeResult<u16> {
        let bytes = self.receive(18, "the greeting")?;
        if be64(&bytes, 0) != NBD_MAGIC || be64(&bytes, 8) != NBD_OPTS_MAGIC {
            return not_met("the greeting is not NBDMAGIC and IHAVEOPT, so not of newstyle");
        }
        Ok(be16(&bytes, 16))
    }

    /// Reads the greeting and answers with these flags.
    pub(super) fn greet(&mut self, client_flags: u32) -> ProbeResult<u16> {
        let flags = self.read_greeting()?;
        if flags & NBD_FLAG_FIXED_NEWSTYLE == 0 && client_flags & NBD_FLAG_C_FIXED_NEWSTYLE != 0 {
            return not_applicable("the server does not offer fixed newstyle");
        }
        self.send(&client_flags.to_be_bytes())?;
        Ok(flags)
    }

    /// Reads one reply to the option `number`.
    pub(super) fn answer(&mut self, number: u32) -> ProbeResult<OptionAnswer> {
        let header = self.receive(20, &format!("a reply to option {number}"))?;
        let magic = be64(&header, 0);
        if magic != NBD_REP_MAGIC {
            return not_met(format!("the reply to option {number} begins with {magic:#018x}, no magic"));
        }
        if be32(&header, 8) != number {
            return not_met(format!("the reply to option {number} names option {}", be32(&header, 8)));
        }
        let length = be32(&header, 16) as usize;
        if length > LONGEST_ANSWER {
            return not_met(format!("a reply to option {number} of {length} bytes"));
        }
        let answer =
            OptionAnswer { kind: be32(&header, 12), data: self.receive(length, "the data of a reply")? };
        if answer.kind == NBD_REP_ACK && length != 0 {
            return not_met(format!("the REP_ACK to option {number} has data"));
        }
        if answer.is_error() {
            let is_text = std::str::from_utf8(&answer.data).is_ok_and(|text| !text.contains('\0'));
            if !is_text || length > NBD_MAX_STRING {
                let kind = kind_name(answer.kind);
                return not_met(format!(
                    "the text of {kind} to option {number} is no string: {length} bytes"
                ));
            }
        }
        Ok(answer)
    }

    /// All replies to the option `number`, which was sent.
    pub(super) fn answers(&mut self, number: u32) -> ProbeResult<Vec<OptionAnswer>> {
        let mut answers = Vec::new();
        while answers.len() < MOST_ANSWERS {
            let answer = self.answer(number)?;
            let is_last = answer.kind == NBD_REP_ACK || answer.is_error();
            answers.push(answer);
            if is_last {
                return Ok(answers);
            }
        }
        not_met(format!("option {number} has more than {MOST_ANSWERS} replies"))
    }

    /// Sends an option, and reads its replies.
    pub(super) fn ask(&mut self, number: u32, data: &[u8]) -> ProbeResult<Vec<OptionAnswer>> {
        self.send(&option(number, data))?;
        self.answers(number)
    }

    /// The last reply to an option.
    pub(super) fn ask_last(&mut self, number: u32, data: &[u8]) -> ProbeResult<OptionAnswer> {
        Ok(self.ask(number, data)?.pop().unwrap_or(OptionAnswer { kind: 0, data: Vec::new() }))
    }

    /// The option has to get one reply, of one of these kinds.
    pub(super) fn expect_one_of(
        &mut self,
        number: u32,
        data: &[u8],
        kinds: &[u32],
        why: &str,
    ) -> ProbeResult<u32> {
        let answers = self.ask(number, data)?;
        match answers[..] {
            [OptionAnswer { kind, .. }] if kinds.contains(&kind) => Ok(kind),
            _ => {
                let wanted: Vec<String> = kinds.iter().map(|kind| kind_name(*kind)).collect();
                not_met(format!(
                    "option {number} with {why} got {}; it must get {}",
                    kind_names(&answers),
                    wanted.join(" or ")
                ))
            }
        }
    }

    pub(super) fn expect_only(&mut self, number: u32, data: &[u8], kind: u32, why: &str) -> ProbeResult<()> {
        self.expect_one_of(number, data, &[kind], why).map(drop)
    }

    /// The stream of options is in step: an unknown one gets its own error.
    pub(super) fn expect_in_step(&mut self, after: &str) -> ProbeResult<()> {
        let why = format!("unknown number, after {after}");
        self.expect_only(UNKNOWN_OPTION, b"sync", NBD_REP_ERR_UNSUP, &why)
    }

    /// Asks for a form of replies.
    pub(super) fn choose(&mut self, mode: ReplyMode) -> ProbeResult<()> {
        let number = match mode {
            ReplyMode::Simple => return Ok(()),
            ReplyMode::Structured => NBD_OPT_STRUCTURED_REPLY,
            ReplyMode::Extended => NBD_OPT_EXTENDED_HEADERS,
        };
        self.expect_only(number, b"", NBD_REP_ACK, "no data")?;
        self.mode = mode;
        Ok(())
    }

    /// SET_META_CONTEXT, which has to succeed; what it selected.
    pub(super) fn select(&mut self, name: &str, queries: &[&[u8]]) -> ProbeResult<Vec<(u32, String)>> {
        let answers = self.ask(NBD_OPT_SET_META_CONTEXT, &meta_data(name.as_bytes(), queries))?;
        self.export.contexts = contexts(&answers)?;
        Ok(self.export.contexts.clone())
    }

    /// GO, which has to succeed, or EXPORT_NAME where the server has no GO.
    pub(super) fn go(&mut self, name: &str) -> ProbeResult<()> {
        let answers = self.ask(NBD_OPT_GO, &info_data(name.as_bytes(), &[NBD_INFO_BLOCK_SIZE]))?;
        if let [OptionAnswer { kind: NBD_REP_ERR_UNSUP, .. }] = answers[..] {
            return self.export_name(name, true);
        }
        let contexts = std::mem::take(&mut self.export.contexts);
        self.export = ProbedExport { contexts, ..information(&answers)? };
        Ok(())
    }

    /// EXPORT_NAME, which has to succeed.
    pub(super) fn export_name(&mut self, name: &str, no_zeroes: bool) -> ProbeResult<()> {
        self.send(&option(NBD_OPT_EXPORT_NAME, name.as_bytes()))?;
        let reply = self.receive(10, "size and flags, for EXPORT_NAME")?;
        (self.export.size, self.export.flags) = (be64(&reply, 0), be16(&reply, 8));
        if !no_zeroes && self.receive(124, "124 zeroes, for EXPORT_NAME")? != [0; 124] {
            return not_met("the 124 reserved bytes after EXPORT_NAME are not zero");
        }
        Ok(())
    }
}

/// The contexts in replies that have to end with success.
pub(super) fn contexts(answers: &[OptionAnswer]) -> ProbeResult<Vec<(u32, String)>> {
    let Some((last, rest)) = answers.split_last() else { return Ok(Vec::new()) };
    if last.kind != NBD_REP_ACK {
        return not_met(format!("a query of contexts ends with {}", kind_name(last.kind)));
    }
    rest.iter()
        .map(|answer| match (answer.kind, answer.data.get(4..).map(std::str::from_utf8)) {
            (NBD_REP_META_CONTEXT, Some(Ok(name))) => Ok((be32(&answer.data, 0), name.to_owned())),
            _ => not_met(format!("{} among contexts, or a name that is none", kind_name(answer.kind))),
        })
        .collect()
}

/// What the replies to a successful INFO or GO say.
pub(super) fn information(answers: &[OptionAnswer]) -> ProbeResult<ProbedExport> {
    let mut facts = ProbedExport::default();
    let mut exports = 0;
    for OptionAnswer { kind, data } in answers {
        match (*kind, be16(data, 0), data.len()) {
            (NBD_REP_ACK, ..) => {}
            (NBD_REP_INFO, NBD_INFO_EXPORT, 12) => {
                exports += 1;
                (facts.size, facts.flags) = (be64(data, 2), be16(data, 10));
            }
            (NBD_REP_INFO, NBD_INFO_BLOCK_SIZE, 14) => {
                facts.block_sizes = Some([2, 6, 10].map(|at| be32(data, at)));
            }
            (NBD_REP_INFO, kind @ (NBD_INFO_EXPORT | NBD_INFO_BLOCK_SIZE), length) => {
                return not_met(format!("information of type {kind} has {length} bytes"));
            }
            // A client ignores what it does not know.
            (NBD_REP_INFO, _, 2..) => {}
            (kind, ..) => {
                let text = String::from_utf8_lossy(data);
                return not_met(format!("INFO or GO got {}: {text:.200}", kind_name(kind)));
            }
        }
    }
    match exports {
        0 => not_met("INFO and GO succeed without INFO_EXPORT"),
        _ => Ok(facts),
    }
}

/// Kinds of replies, for a report.
pub(super) fn kind_names(answers: &[OptionAnswer]) -> String {
    let names: Vec<String> = answers.iter().map(|answer| kind_name(answer.kind)).collect();
    names.join(", ")
}

/// A server without INFO or GO is no concern of a statement about them.
pub(super) fn needs(kind: u32, what: &str) -> ProbeResult<()> {
    match kind {
        NBD_REP_ERR_UNSUP => Err(Finding::NotApplicable(format!("the server does not know {what}"))),
        _ => Ok(()),
    }
}
