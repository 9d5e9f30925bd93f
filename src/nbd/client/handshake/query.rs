//! The options that the client sends, and their data.

use alloc::string::String;
use alloc::vec::Vec;

use crate::wire::*;

/// An option in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    StartTls,
    ExtendedHeaders,
    StructuredReply,
    List,
    /// LIST_META_CONTEXT without queries, for the export at hand.
    OfferedContexts,
    SelectContexts,
    Info,
    Go,
}

impl Stage {
    pub(super) const fn option(self) -> u32 {
        match self {
            Self::StartTls => NBD_OPT_STARTTLS,
            Self::ExtendedHeaders => NBD_OPT_EXTENDED_HEADERS,
            Self::StructuredReply => NBD_OPT_STRUCTURED_REPLY,
            Self::List => NBD_OPT_LIST,
            Self::OfferedContexts => NBD_OPT_LIST_META_CONTEXT,
            Self::SelectContexts => NBD_OPT_SET_META_CONTEXT,
            Self::Info => NBD_OPT_INFO,
            Self::Go => NBD_OPT_GO,
        }
    }
}

/// Data of INFO and GO.
pub(super) fn export_query(export: &str, ends_on_growth: bool) -> Vec<u8> {
    const REQUESTS: [u16; 4] =
        [NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE, NBD_INFO_X_END_ON_GROWTH];
    let requests = if ends_on_growth { &REQUESTS[..] } else { &REQUESTS[..3] };
    let mut data = string(export);
    data.extend((requests.len() as u16).to_be_bytes());
    data.extend(requests.iter().flat_map(|request| request.to_be_bytes()));
    data
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(super) fn context_queries(export: &str, queries: &[String]) -> Vec<u8> {
    let mut data = string(export);
    data.extend((queries.len() as u32).to_be_bytes());
    data.extend(queries.iter().flat_map(|query| string(query)));
    data
}

fn string(text: &str) -> Vec<u8> {
    let mut data = (text.len() as u32).to_be_bytes().to_vec();
    data.extend(text.as_bytes());
    data
}
