//! Which option comes next: the decisions of the client's handshake, without any framing.

use alloc::string::String;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::mem::take;

use super::option_reply::{Info, OptionReply};
use super::outcome::*;
use super::query::{Stage, context_queries, export_query};
use crate::session::ReplyMode;
use crate::vocabulary::BlockSizes;
use crate::wire::*;

/// What to do next.
#[derive(Debug)]
pub(super) enum ScriptStep {
    /// Send an option with its data.
    Option(Stage, Vec<u8>),
    /// Everything from here on is encrypted.
    StartTls,
    /// Send EXPORT_NAME for [`Script::export`].
    ExportName,
    /// The result stands: part with ABORT.
    Abort,
    /// The result stands: leave the transmission phase at once.
    Disconnect,
    /// The result stands: the transmission phase begins.
    Enter,
}

/// The goal and what was learned so far.
#[derive(Debug)]
pub(super) struct Script {
    goal: Goal,
    /// The best form of replies that is asked for.
    best: ReplyMode,
    /// Nothing is asked before STARTTLS.
    secured: bool,
    ends_on_growth: bool,
    dialect: Dialect,
    answer: Gathered,
    /// The exports of LIST whose details are known, and those that are still to be asked about, the next one
    /// last.
    listed: Vec<ListedExport>,
    to_ask: Vec<(String, String)>,
    selected: Vec<ContextId>,
    /// What else is to be selected; nothing once a server has refused it.
    further: FurtherContexts,
    offered: Option<Vec<String>>,
    result: Option<Result<HandshakeOutcome, HandshakeError>>,
}

/// The replies to the option in flight, before the final one.
#[derive(Debug, Default)]
struct Gathered {
    exports: Vec<(String, String)>,
    contexts: Vec<ContextId>,
    export: Option<(u64, u16)>,
    name: Option<String>,
    description: Option<String>,
    block_sizes: Option<BlockSizes>,
}

impl Script {
    pub(super) fn new(goal: Goal, best: ReplyMode) -> Result<Self, HandshakeError> {
        let all_sendable = match &goal {
            Goal::Info { export } => is_sendable(export),
            Goal::List => true,
            Goal::Go { export, contexts } => {
                is_sendable(export) && contexts.iter().all(|name| is_sendable(name))
            }
        };
        if !all_sendable {
            return Err(HandshakeError::Name);
        }
        let dialect = Dialect { fixed_newstyle: false, reply_mode: ReplyMode::Simple };
        Ok(Self {
            goal,
            best,
            secured: false,
            ends_on_growth: false,
            dialect,
            answer: Gathered::default(),
            listed: Vec::new(),
            to_ask: Vec::new(),
            selected: Vec::new(),
            further: FurtherContexts::default(),
            offered: None,
            result: None,
        })
    }

    /// The export at hand.
    pub(super) fn export(&self) -> &str {
        match &self.goal {
            Goal::Info { export } | Goal::Go { export, .. } => export,
            Goal::List => self.to_ask.last().map_or("", |(name, _)| name),
        }
    }

    pub(super) const fn reply_mode(&self) -> ReplyMode {
        self.dialect.reply_mode
    }

    /// Has STARTTLS asked for before anything else.
    pub(super) fn secure(&mut self) {
        self.secured = true;
    }

    /// Says that the session is to end when the export has become larger.
    pub(super) fn end_on_growth(&mut self) {
        self.ends_on_growth = true;
    }

    /// Contexts that are to be selected besides those of the goal. Names that cannot be sent are left out.
    pub(super) fn select(&mut self, mut further: FurtherContexts) {
        further.names.retain(|name| is_sendable(name));
        self.further = further;
    }

    /// Data of INFO and GO for the export at hand.
    fn export_query(&self) -> Vec<u8> {
        export_query(self.export(), self.ends_on_growth)
    }

    /// How it ended; once.
    pub(super) fn result(&mut self) -> Result<HandshakeOutcome, HandshakeError> {
        self.result.take().unwrap_or(Err(HandshakeError::Closed("during the handshake")))
    }

    /// The greeting is done.
    pub(super) fn start(&mut self, fixed_newstyle: bool) -> Result<ScriptStep, HandshakeError> {
        self.dialect.fixed_newstyle = fixed_newstyle;
        match (fixed_newstyle, &self.goal) {
            (true, _) if self.secured => Ok(ScriptStep::Option(Stage::StartTls, Vec::new())),
            (true, _) => Ok(self.settle_replies()),
            (false, _) if self.secured => Err(HandshakeError::NoTls(String::new())),
            (false, Goal::List) => Err(HandshakeError::CannotList),
            // "In non-fixed newstyle only one option can be set (`NBD_OPT_EXPORT_NAME`)."
            (false, _) => Ok(ScriptStep::ExportName),
        }
    }

    /// Which form replies have is settled before the goal is pursued; behind STARTTLS, encrypted.
    pub(super) fn settle_replies(&mut self) -> ScriptStep {
        match self.best {
            ReplyMode::Extended => ScriptStep::Option(Stage::ExtendedHeaders, Vec::new()),
            ReplyMode::Structured => ScriptStep::Option(Stage::StructuredReply, Vec::new()),
            ReplyMode::Simple => self.pursue(),
        }
    }

    /// A reply that is not the last one to its option.
    pub(super) fn collect(&mut self, reply: OptionReply) {
        let most = self.most_listed();
        let answer = &mut self.answer;
        match reply {
            OptionReply::MetaContext { .. } if most.is_some_and(|most| answer.contexts.len() >= most) => {}
            OptionReply::Server { name, description } => answer.exports.push((name, description)),
            OptionReply::MetaContext { id, name } => answer.contexts.push(ContextId { id, name }),
            OptionReply::Info(Info::Export { size, transmission_flags }) => {
                answer.export = Some((size, transmission_flags));
            }
            OptionReply::Info(Info::Name(name)) => answer.name = Some(name),
            OptionReply::Info(Info::Description(text)) => answer.description = Some(text),
            OptionReply::Info(Info::BlockSizes(sizes)) => answer.block_sizes = Some(sizes),
            OptionReply::Info(Info::Unknown) | OptionReply::Ack | OptionReply::Error { .. } => {}
        }
    }

    #[cfg(test)]
    pub(super) fn kept_contexts(&self) -> usize {
        self.answer.contexts.len()
    }

    /// The last reply to an option: ACK, or an error with its text.
    pub(super) fn finished(
        &mut self,
        stage: Stage,
        result: Result<(), (u32, String)>,
    ) -> Result<ScriptStep, HandshakeError> {
        let answer = take(&mut self.answer);
        let refusal = match result {
            Ok(()) => return self.accepted(stage, answer),
            Err((reply, message)) => HandshakeError::refused(stage.option(), reply, message, self.export()),
        };
        // "If the client receives `NBD_REP_ERR_SHUTDOWN` it MUST initiate a soft disconnect." TLS_REQD in
        // reply to anything but INFO or GO "indicates that no option will succeed".
        let fatal = matches!(refusal, HandshakeError::Shutdown(_))
            || (matches!(refusal, HandshakeError::TlsRequired(_)) && stage != Stage::Info);
        match stage {
            // GO was only to learn more than INFO told.
            _ if self.result.is_some() => Ok(ScriptStep::Abort),
            _ if fatal => Ok(self.give_up(refusal)),
            // To go on in plain text would be a silent downgrade.
            Stage::StartTls => Ok(self.give_up(refusal)),
            Stage::ExtendedHeaders => Ok(ScriptStep::Option(Stage::StructuredReply, Vec::new())),
            Stage::StructuredReply => Ok(self.pursue()),
            Stage::OfferedContexts => Ok(self.after_offered(None)),
            Stage::SelectContexts if !self.further.names.is_empty() => {
                self.further = FurtherContexts::default();
                Ok(self.select_or_go())
            }
            // The contexts are gone; the export may still be entered.
            Stage::SelectContexts => Ok(self.after_selected(Vec::new())),
            Stage::Info if self.goal == Goal::List => Ok(self.record(Err(without_export(&refusal)))),
            Stage::Info | Stage::Go if self.may_use_export_name(&refusal) => Ok(ScriptStep::ExportName),
            _ => Ok(self.give_up(refusal)),
        }
    }

    /// The reply to EXPORT_NAME.
    pub(super) fn named(&mut self, size: u64, transmission_flags: u16) -> ScriptStep {
        let answer = Gathered { export: Some((size, transmission_flags)), ..Gathered::default() };
        let details = self.details(answer).expect("the answer has the export's size");
        self.entered(details)
    }

    fn accepted(&mut self, stage: Stage, answer: Gathered) -> Result<ScriptStep, HandshakeError> {
        let malformed = |what| HandshakeError::Malformed { option: stage.option(), reply: NBD_REP_ACK, what };
        let no_export = malformed("came without NBD_INFO_EXPORT");
        Ok(match stage {
            Stage::StartTls => ScriptStep::StartTls,
            Stage::ExtendedHeaders => {
                self.dialect.reply_mode = ReplyMode::Extended;
                self.pursue()
            }
            Stage::StructuredReply => {
                self.dialect.reply_mode = ReplyMode::Structured;
                self.pursue()
            }
            Stage::List => {
                self.to_ask = answer.exports;
                self.to_ask.reverse();
                self.ask_next()
            }
            Stage::OfferedContexts => {
                let names = answer.contexts.into_iter().map(|context| context.name).collect();
                self.after_offered(Some(names))
            }
            Stage::SelectContexts => {
                let mut ids: Vec<u32> = answer.contexts.iter().map(|context| context.id).collect();
                ids.sort_unstable();
                if ids.windows(2).any(|pair| pair[0] == pair[1]) {
                    return Err(malformed("ended a list in which a context id stands twice"));
                }
                self.after_selected(answer.contexts)
            }
            Stage::Info => {
                let details = self.details(answer).ok_or(no_export)?;
                if self.goal == Goal::List {
                    return Ok(self.record(Ok(details)));
                }
                // nbd-server opens an export on GO and tells size 0 before.
                let is_open = details.size > 0;
                self.offered.clone_from(&details.contexts);
                self.result = Some(Ok(HandshakeOutcome::Info(self.dialect, details)));
                if is_open { ScriptStep::Abort } else { ScriptStep::Option(Stage::Go, self.export_query()) }
            }
            Stage::Go => {
                let details = self.details(answer).ok_or(no_export)?;
                self.entered(details)
            }
        })
    }

    /// The reply mode is settled: on to the goal.
    fn pursue(&mut self) -> ScriptStep {
        match &self.goal {
            Goal::Info { .. } => self.ask_about_export(),
            Goal::List => ScriptStep::Option(Stage::List, Vec::new()),
            // "This option MUST NOT be requested unless structured replies or extended headers have been
            // negotiated first."
            Goal::Go { export, .. } if self.further.most_offered > 0 && self.has_chunks() => {
                ScriptStep::Option(Stage::OfferedContexts, context_queries(export, &[]))
            }
            Goal::Go { .. } => self.select_or_go(),
        }
    }

    /// SET_META_CONTEXT, if there is something to select, then GO.
    fn select_or_go(&mut self) -> ScriptStep {
        let Goal::Go { contexts, .. } = &self.goal else { unreachable!("who goes selects") };
        let queries: Vec<String> = contexts.iter().chain(&self.further.names).cloned().collect();
        match !queries.is_empty() && self.has_chunks() {
            true => ScriptStep::Option(Stage::SelectContexts, context_queries(self.export(), &queries)),
            false => ScriptStep::Option(Stage::Go, self.export_query()),
        }
    }

    /// How many contexts of a list are kept to be selected; `None`: it is for people.
    fn most_listed(&self) -> Option<usize> {
        let Goal::Go { contexts, .. } = &self.goal else { return None };
        let most = self.further.most_offered;
        // Those that are asked for by name may be among them.
        (most > 0).then_some(most + contexts.len() + self.further.names.len())
    }

    /// Takes those of the contexts on offer that are wanted.
    fn choose(&mut self, offered: Vec<String>) {
        let Goal::Go { contexts, .. } = &self.goal else { unreachable!("who goes selects") };
        let most = take(&mut self.further.most_offered) + self.further.names.len();
        for name in offered.into_iter().filter(|name| is_sendable(name)) {
            let names = &mut self.further.names;
            if names.len() < most && !contexts.contains(&name) && !names.contains(&name) {
                names.push(name);
            }
        }
    }

    /// LIST_META_CONTEXT where it may be asked, then INFO.
    fn ask_about_export(&mut self) -> ScriptStep {
        match self.has_chunks() {
            true => ScriptStep::Option(Stage::OfferedContexts, context_queries(self.export(), &[])),
            false => ScriptStep::Option(Stage::Info, self.export_query()),
        }
    }

    fn ask_next(&mut self) -> ScriptStep {
        if self.to_ask.is_empty() {
            self.result = Some(Ok(HandshakeOutcome::List(self.dialect, take(&mut self.listed))));
            return ScriptStep::Abort;
        }
        self.ask_about_export()
    }

    /// The details of the export at hand, for a list.
    fn record(&mut self, details: Result<ExportDetails, String>) -> ScriptStep {
        self.offered = None;
        if let Some((name, description)) = self.to_ask.pop() {
            self.listed.push(ListedExport { name, description, details });
        }
        self.ask_next()
    }

    fn after_offered(&mut self, names: Option<Vec<String>>) -> ScriptStep {
        if self.most_listed().is_some() {
            self.choose(names.unwrap_or_default());
            return self.select_or_go();
        }
        self.offered = names;
        let stage = if matches!(self.goal, Goal::Go { .. }) { Stage::Go } else { Stage::Info };
        ScriptStep::Option(stage, self.export_query())
    }

    fn after_selected(&mut self, contexts: Vec<ContextId>) -> ScriptStep {
        self.selected = contexts;
        match self.selected.is_empty() {
            // What there is instead makes a useful message.
            true => ScriptStep::Option(Stage::OfferedContexts, context_queries(self.export(), &[])),
            false => ScriptStep::Option(Stage::Go, self.export_query()),
        }
    }

    /// The server is in the transmission phase: stay there, or the question is answered.
    fn entered(&mut self, export: ExportDetails) -> ScriptStep {
        let dialect = self.dialect;
        if let Goal::Go { .. } = self.goal {
            let contexts = take(&mut self.selected);
            self.result =
                Some(Ok(HandshakeOutcome::Transmission(Transmission { dialect, export, contexts })));
            return ScriptStep::Enter;
        }
        self.result = Some(Ok(HandshakeOutcome::Info(dialect, export)));
        ScriptStep::Disconnect
    }

    fn give_up(&mut self, error: HandshakeError) -> ScriptStep {
        self.result = Some(Err(error));
        ScriptStep::Abort
    }

    fn details(&mut self, answer: Gathered) -> Option<ExportDetails> {
        let (size, transmission_flags) = answer.export?;
        Some(ExportDetails {
            name: answer.name.unwrap_or_else(|| self.export().into()),
            description: answer.description,
            size,
            transmission_flags,
            block_sizes: answer.block_sizes,
            contexts: self.offered.take(),
        })
    }

    fn has_chunks(&self) -> bool {
        self.dialect.reply_mode != ReplyMode::Simple
    }

    /// "clients SHOULD be prepared to also handle `NBD_REP_ERR_UNSUP` by falling back to using
    /// `NBD_OPT_EXPORT_NAME`", but "a client that has used `NBD_OPT_EXTENDED_HEADERS` [...] MUST NOT use this
    /// option".
    fn may_use_export_name(&self, refusal: &HandshakeError) -> bool {
        self.dialect.reply_mode != ReplyMode::Extended
            && matches!(refusal, HandshakeError::Refused { reply: NBD_REP_ERR_UNSUP, .. })
    }
}

/// "a string [...] MUST be no larger than 4096 bytes", without NUL.
fn is_sendable(name: &str) -> bool {
    name.len() <= NBD_MAX_STRING && !name.contains('\0')
}

/// A refusal of one export of a list, whose name stands beside it.
fn without_export(refusal: &HandshakeError) -> String {
    match refusal {
        HandshakeError::UnknownExport { .. } => "the server lists it and then denies it".into(),
        other => other.to_string(),
    }
}
