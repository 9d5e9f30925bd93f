//! What a handshake waits for.

use alloc::string::String;
use alloc::vec::Vec;

use super::outcome::{CloseReason, Negotiated};
use super::parse::InfoRequests;
use super::reply::OptionRefusal;
use crate::wire::{NBD_OPT_GO, NBD_OPT_SET_META_CONTEXT};

/// What the machine waits for.
#[derive(Debug)]
pub(super) enum HandshakeState {
    /// 32 bits of client flags.
    ClientFlags,
    /// The 16 bytes of an option's header.
    Header,
    /// The data of an option that is worth keeping.
    Data { option: u32, length: u32 },
    /// The rest of the data of an option that is refused, and the refusal unless it was sent already.
    Skip { remaining: u64, refused: Option<(u32, OptionRefusal)> },
    /// The driver's answer.
    Asking(PendingOption),
    /// A secure connection.
    StartingTls,
    /// Nothing: the result is to be fetched.
    Finished(Negotiated),
    /// Nothing more.
    Closed(CloseReason),
}

/// What an answer of the driver is wanted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PendingOption {
    /// LIST.
    List,
    /// EXPORT_NAME.
    ExportName(String),
    /// INFO or GO.
    Info { option: u32, export: String, requests: InfoRequests },
    /// LIST_META_CONTEXT or SET_META_CONTEXT, with the data that holds the queries.
    Meta { option: u32, export: String, data: Vec<u8> },
}

impl PendingOption {
    /// The option's name in the protocol.
    pub(super) fn option_name(&self) -> &'static str {
        match self {
            Self::List => "LIST",
            Self::ExportName(_) => "EXPORT_NAME",
            Self::Info { option: NBD_OPT_GO, .. } => "GO",
            Self::Info { .. } => "INFO",
            Self::Meta { option: NBD_OPT_SET_META_CONTEXT, .. } => "SET_META_CONTEXT",
            Self::Meta { .. } => "LIST_META_CONTEXT",
        }
    }

    /// The name of the export that is asked for.
    pub(super) fn export(&self) -> &str {
        match self {
            Self::List => "",
            Self::ExportName(export) | Self::Info { export, .. } | Self::Meta { export, .. } => export,
        }
    }
}
