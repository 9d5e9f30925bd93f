//! What each option does ("Option types").

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::outcome::{CloseReason, Negotiated, TlsMode};
use super::parse::{self, InfoRequests, MetaRequest};
use super::reply::{self, OptionRefusal};
use super::state::{HandshakeState, PendingOption};
use crate::meta_context::MetaContext;
use crate::session::{ExportInfo, ReplyMode, SelectedContext, Session};
use crate::wire::*;

const SHUTTING_DOWN: OptionRefusal =
    OptionRefusal { reply: NBD_REP_ERR_SHUTDOWN, reason: "the server is shutting down" };

/// True if clients that do not promise to keep the export's block sizes are refused ("Size constraints").
///
/// Our backends serve any alignment, by a read-modify-write where they must, so an export asks for it only on
/// purpose.
fn must_negotiate_block_sizes(export: &ExportInfo, asked: bool) -> bool {
    export.require_block_size && !asked
}

/// How secure a connection is, and what the server makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// In plain text.
    Plain(TlsMode),
    /// After STARTTLS. "The server MUST NOT send `NBD_REP_ERR_TLS_REQD` in reply to any option if TLS has
    /// already been initiated."
    Secure,
}

/// The contexts of the last successful SET_META_CONTEXT.
#[derive(Debug, Default)]
struct ChosenContexts {
    export: String,
    contexts: Vec<SelectedContext>,
}

/// What was agreed so far, and what each option adds to it.
#[derive(Debug)]
pub(super) struct Haggling {
    /// Bytes of data of one option that are kept.
    option_length: u32,
    pub(super) output: Vec<u8>,
    pub(super) shutting_down: bool,
    pub(super) tls: Tls,
    /// The client speaks fixed newstyle.
    fixed: bool,
    no_zeroes: bool,
    mode: ReplyMode,
    chosen: ChosenContexts,
}

impl Haggling {
    pub(super) fn new(option_length: u32, mode: TlsMode, greeting: Vec<u8>) -> Self {
        Self {
            option_length,
            output: greeting,
            shutting_down: false,
            tls: Tls::Plain(mode),
            fixed: false,
            no_zeroes: false,
            mode: ReplyMode::Simple,
            chosen: ChosenContexts::default(),
        }
    }

    /// The client's flags.
    pub(super) fn client_flags(&mut self, flags: u32) -> HandshakeState {
        self.fixed = flags & NBD_FLAG_C_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & NBD_FLAG_C_NO_ZEROES != 0;
        match flags & !(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES) {
            0 => HandshakeState::Header,
            _ => HandshakeState::Closed(CloseReason::UnknownClientFlags(flags)),
        }
    }

    /// Forgets what was negotiated in plain text, where somebody between may have done it. The client's
    /// flags stay, because they are not sent again.
    pub(super) fn secured(&mut self) {
        self.tls = Tls::Secure;
        self.mode = ReplyMode::Simple;
        self.chosen = ChosenContexts::default();
    }

    /// Decides by an option's header whether its data is kept. If not, the data is skipped and the option
    /// refused after it, or at once if the data is long.
    pub(super) fn screen(&mut self, option: u32, length: u32) -> HandshakeState {
        if option == NBD_OPT_SET_META_CONTEXT {
            // "Issuing this command replaces all previously-set metadata contexts (including when this
            // command fails)."
            self.chosen = ChosenContexts::default();
        }
        let verdict = match option {
            NBD_OPT_EXPORT_NAME => return self.screen_export_name(length),
            // "A server SHOULD ignore any data sent by the client rather than rejecting the request as
            // invalid."
            NBD_OPT_ABORT if length > self.option_length => return self.abort(),
            NBD_OPT_ABORT => Ok(()),
            _ => self.judge(option, length),
        };
        match verdict {
            Ok(()) => HandshakeState::Data { option, length },
            Err(refusal) => {
                let mut refused = Some((option, refusal));
                if length > self.option_length {
                    reply::refuse(&mut self.output, option, refusal);
                    refused = None;
                }
                HandshakeState::Skip { remaining: length.into(), refused }
            }
        }
    }

    /// EXPORT_NAME has no error reply: what cannot be served is disconnected.
    fn screen_export_name(&self, length: u32) -> HandshakeState {
        if self.shutting_down {
            HandshakeState::Closed(CloseReason::ShuttingDown)
        } else if self.tls == Tls::Plain(TlsMode::Required) {
            HandshakeState::Closed(CloseReason::TlsRequired)
        } else if self.mode == ReplyMode::Extended {
            HandshakeState::Closed(CloseReason::ExportNameAfterExtendedHeaders)
        } else if length as usize > NBD_MAX_STRING {
            HandshakeState::Closed(CloseReason::BadName("it is longer than 4096 bytes"))
        } else {
            HandshakeState::Data { option: NBD_OPT_EXPORT_NAME, length }
        }
    }

    fn judge(&self, option: u32, length: u32) -> Result<(), OptionRefusal> {
        if self.shutting_down {
            return Err(SHUTTING_DOWN);
        }
        if !self.fixed {
            // "This is the only valid option in nonfixed newstyle negotiation."
            return Err(OptionRefusal::invalid("without fixed newstyle only EXPORT_NAME is allowed"));
        }
        if self.tls == Tls::Plain(TlsMode::Required) && option != NBD_OPT_STARTTLS {
            return Err(OptionRefusal::TLS_REQUIRED);
        }
        let has_data = match option {
            NBD_OPT_LIST | NBD_OPT_STRUCTURED_REPLY | NBD_OPT_EXTENDED_HEADERS | NBD_OPT_STARTTLS => false,
            NBD_OPT_INFO | NBD_OPT_GO | NBD_OPT_LIST_META_CONTEXT | NBD_OPT_SET_META_CONTEXT => true,
            _ => return Err(OptionRefusal { reply: NBD_REP_ERR_UNSUP, reason: "unknown option" }),
        };
        if !has_data && length > 0 {
            return Err(OptionRefusal::invalid("the option takes no data"));
        }
        if length > self.option_length {
            return Err(OptionRefusal { reply: NBD_REP_ERR_TOO_BIG, reason: "the option is too long" });
        }
        Ok(())
    }

    /// Acts on an option whose data is complete.
    pub(super) fn data(&mut self, option: u32, data: Vec<u8>) -> HandshakeState {
        let verdict = match option {
            NBD_OPT_ABORT => return self.abort(),
            NBD_OPT_EXPORT_NAME if self.shutting_down => {
                return HandshakeState::Closed(CloseReason::ShuttingDown);
            }
            NBD_OPT_EXPORT_NAME => return ask_for_export_name(&data),
            _ if self.shutting_down => Err(SHUTTING_DOWN),
            NBD_OPT_LIST => Ok(Some(PendingOption::List)),
            NBD_OPT_STRUCTURED_REPLY => self.upgrade(ReplyMode::Structured),
            NBD_OPT_EXTENDED_HEADERS => self.upgrade(ReplyMode::Extended),
            NBD_OPT_STARTTLS => match self.start_tls() {
                Ok(state) => return state,
                Err(refusal) => Err(refusal),
            },
            NBD_OPT_INFO | NBD_OPT_GO => parse::info(&data).map(|(export, requests)| {
                Some(PendingOption::Info { option, export: export.to_owned(), requests })
            }),
            _ => self.ask_for_contexts(option, data),
        };
        match verdict {
            Ok(Some(question)) => return HandshakeState::Asking(question),
            Ok(None) => reply::acknowledge(&mut self.output, option),
            Err(refusal) => reply::refuse(&mut self.output, option, refusal),
        }
        HandshakeState::Header
    }

    fn start_tls(&mut self) -> Result<HandshakeState, OptionRefusal> {
        match self.tls {
            Tls::Plain(TlsMode::Off) => {
                Err(OptionRefusal { reply: NBD_REP_ERR_UNSUP, reason: "this server has no TLS" })
            }
            Tls::Secure => Err(OptionRefusal::invalid("the connection has TLS already")),
            Tls::Plain(TlsMode::Selective | TlsMode::Required) => {
                reply::acknowledge(&mut self.output, NBD_OPT_STARTTLS);
                Ok(HandshakeState::StartingTls)
            }
        }
    }

    fn abort(&mut self) -> HandshakeState {
        reply::acknowledge(&mut self.output, NBD_OPT_ABORT);
        HandshakeState::Closed(CloseReason::Aborted)
    }

    /// STRUCTURED_REPLY and EXTENDED_HEADERS; the latter "takes precedence over structured replies".
    fn upgrade(&mut self, mode: ReplyMode) -> Result<Option<PendingOption>, OptionRefusal> {
        if self.mode == mode {
            return Err(OptionRefusal::invalid("the option was negotiated before"));
        }
        if self.mode == ReplyMode::Extended {
            let reason = "extended headers were negotiated, which include structured replies";
            return Err(OptionRefusal { reply: NBD_REP_ERR_EXT_HEADER_REQD, reason });
        }
        self.mode = mode;
        Ok(None)
    }

    fn ask_for_contexts(&self, option: u32, data: Vec<u8>) -> Result<Option<PendingOption>, OptionRefusal> {
        if option == NBD_OPT_SET_META_CONTEXT && self.mode == ReplyMode::Simple {
            return Err(OptionRefusal::invalid(
                "structured replies or extended headers must be negotiated before",
            ));
        }
        let export = MetaRequest::parse(&data)?.export.to_owned();
        Ok(Some(PendingOption::Meta { option, export, data }))
    }

    /// Acts on the driver's answer to a lookup.
    pub(super) fn found(
        &mut self,
        question: PendingOption,
        export: Option<(usize, &ExportInfo)>,
    ) -> HandshakeState {
        match (question, export) {
            (PendingOption::ExportName(name), None) => {
                HandshakeState::Closed(CloseReason::UnknownExport(name))
            }
            (PendingOption::ExportName(name), Some((index, export))) => {
                self.export_name(&name, index, export)
            }
            (PendingOption::Info { option, .. }, None) if self.tls == Tls::Plain(TlsMode::Selective) => {
                // Missing, or for secure connections only: the client cannot tell which.
                reply::refuse(&mut self.output, option, OptionRefusal::TLS_REQUIRED);
                HandshakeState::Header
            }
            (PendingOption::Info { option, .. } | PendingOption::Meta { option, .. }, None) => {
                reply::refuse(&mut self.output, option, OptionRefusal::UNKNOWN_EXPORT);
                HandshakeState::Header
            }
            (PendingOption::Info { option, export: name, requests }, Some((index, export))) => {
                self.info(option, &name, requests, index, export)
            }
            (PendingOption::Meta { option, export: name, data }, Some((_, export))) => {
                self.contexts(option, name, &data, export);
                HandshakeState::Header
            }
            (PendingOption::List, _) => unreachable!("a list is answered by `listed`"),
        }
    }

    fn export_name(&mut self, name: &str, index: usize, export: &ExportInfo) -> HandshakeState {
        if must_negotiate_block_sizes(export, false) {
            return HandshakeState::Closed(CloseReason::BlockSizeRequired);
        }
        let session = self.session(name, export, false);
        reply::export_name(&mut self.output, session.size, session.transmission_flags, self.no_zeroes);
        HandshakeState::Finished(Negotiated { export: index, session })
    }

    /// INFO or GO for an export that exists.
    fn info(
        &mut self,
        option: u32,
        name: &str,
        asked: InfoRequests,
        index: usize,
        export: &ExportInfo,
    ) -> HandshakeState {
        let mut session = self.session(name, export, option == NBD_OPT_GO && asked.block_size);
        if asked.end_on_growth {
            session.transmission_flags |= NBD_FLAG_X_ENDS_ON_GROWTH;
        }
        let required = must_negotiate_block_sizes(export, asked.block_size);
        // "A server with size constraints other than the default [...] MUST" advertise them, asked or not.
        if asked.block_size || required || export.facts.block_sizes.are_stricter_than_default() {
            reply::info_block_size(&mut self.output, option, export);
        }
        if required {
            let reason = "the block sizes of this export must be asked for with NBD_INFO_BLOCK_SIZE";
            let refusal = OptionRefusal { reply: NBD_REP_ERR_BLOCK_SIZE_REQD, reason };
            reply::refuse(&mut self.output, option, refusal);
            return HandshakeState::Header;
        }
        reply::info_export(&mut self.output, option, session.size, session.transmission_flags);
        if asked.name {
            reply::info_text(&mut self.output, option, NBD_INFO_NAME, &export.name);
        }
        if asked.description {
            reply::info_text(&mut self.output, option, NBD_INFO_DESCRIPTION, &export.description);
        }
        reply::acknowledge(&mut self.output, option);
        match option {
            NBD_OPT_GO => HandshakeState::Finished(Negotiated { export: index, session }),
            _ => HandshakeState::Header,
        }
    }

    /// LIST_META_CONTEXT and SET_META_CONTEXT for an export that exists.
    fn contexts(&mut self, option: u32, name: String, data: &[u8], export: &ExportInfo) {
        let request =
            MetaRequest::parse(data).expect("the request was checked before the export was looked up");
        let mut contexts = Vec::new();
        for (context, id) in export.contexts.iter().zip(1..) {
            let (matches, id) = if option == NBD_OPT_LIST_META_CONTEXT {
                // "If zero queries are sent, then the server MUST return all the metadata contexts"; ids are
                // 0 in a list. One is for those alone who know its name.
                let is_unasked = request.is_empty() && context.is_listed_unasked();
                (is_unasked || request.queries().any(|query| context.is_listed_by(query)), 0)
            } else {
                let fits = self.mode == ReplyMode::Extended || !context.needs_extended_headers();
                (fits && request.queries().any(|query| context.is_selected_by(query)), id)
            };
            if matches {
                contexts.push(SelectedContext { id, context: context.clone() });
            }
        }
        if option == NBD_OPT_SET_META_CONTEXT && contexts.len() > MetaContext::MOST_SELECTED {
            let reason = "more than 64 meta contexts are selected";
            reply::refuse(&mut self.output, option, OptionRefusal { reply: NBD_REP_ERR_TOO_BIG, reason });
            return;
        }
        for SelectedContext { id, context } in &contexts {
            reply::meta_context(&mut self.output, option, *id, &context.name());
        }
        if option == NBD_OPT_SET_META_CONTEXT {
            self.chosen = ChosenContexts { export: name, contexts };
        }
        reply::acknowledge(&mut self.output, option);
    }

    /// What the transmission phase would be like if it began now.
    fn session(&self, name: &str, export: &ExportInfo, enforce_alignment: bool) -> Session {
        // Contexts count only for "the same export name that was ultimately selected for transmission phase".
        let contexts = if self.chosen.export == name { self.chosen.contexts.clone() } else { Vec::new() };
        let mut transmission_flags = export.transmission_flags(self.mode);
        if contexts.is_empty() {
            // The server "SHOULD NOT advertise this bit in response to NBD_OPT_GO if the client does not
            // negotiate metacontexts".
            transmission_flags &= !NBD_FLAG_BLOCK_STATUS_PAYLOAD;
        }
        Session {
            reply_mode: self.mode,
            transmission_flags,
            size: export.facts.size,
            block_sizes: export.facts.block_sizes,
            enforce_alignment,
            contexts,
        }
    }
}

fn ask_for_export_name(data: &[u8]) -> HandshakeState {
    match parse::string(data) {
        Ok(name) => HandshakeState::Asking(PendingOption::ExportName(name.to_owned())),
        Err(refusal) => HandshakeState::Closed(CloseReason::BadName(refusal.reason)),
    }
}
