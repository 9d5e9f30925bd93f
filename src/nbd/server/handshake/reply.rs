//! Option replies as bytes ("Fixed newstyle negotiation", "Option reply types").

use alloc::vec::Vec;
use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::{U16, U32, U64};

use crate::headers::OptionReplyHeader;
use crate::session::ExportInfo;
use crate::wire::*;

/// Appends the bytes of one option reply whose data is `parts` one after the other.
fn append(output: &mut Vec<u8>, option: u32, reply: u32, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let header = OptionReplyHeader {
        magic: U64::new(NBD_REP_MAGIC),
        option: U32::new(option),
        reply: U32::new(reply),
        length: U32::new(length as u32),
    };
    output.extend_from_slice(header.as_bytes());
    for part in parts {
        output.extend_from_slice(part);
    }
}

/// Success, nothing more follows.
pub(super) fn acknowledge(output: &mut Vec<u8>, option: u32) {
    append(output, option, NBD_REP_ACK, &[]);
}

/// An error with a text for people. "All error replies MAY have some data set, in which case that data is an
/// error message string suitable for display to the user."
pub(super) fn refuse(output: &mut Vec<u8>, option: u32, refusal: OptionRefusal) {
    append(output, option, refusal.reply, &[refusal.reason.as_bytes()]);
}

/// An error reply: its type and a text for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OptionRefusal {
    pub(super) reply: u32,
    pub(super) reason: &'static str,
}

impl OptionRefusal {
    /// `NBD_REP_ERR_INVALID`.
    pub(super) const fn invalid(reason: &'static str) -> Self {
        Self { reply: NBD_REP_ERR_INVALID, reason }
    }

    /// `NBD_REP_ERR_TLS_REQD`.
    pub(super) const TLS_REQUIRED: Self =
        Self { reply: NBD_REP_ERR_TLS_REQD, reason: "TLS must be negotiated first, with NBD_OPT_STARTTLS" };

    /// `NBD_REP_ERR_UNKNOWN`.
    pub(super) const UNKNOWN_EXPORT: Self =
        Self { reply: NBD_REP_ERR_UNKNOWN, reason: "there is no export of this name" };
}

/// One export of a list (`NBD_REP_SERVER`): its name, and its description as the text that may follow.
pub(super) fn server(output: &mut Vec<u8>, export: &ExportInfo) {
    let length = U32::new(export.name.len() as u32);
    let parts = [length.as_bytes(), export.name.as_bytes(), export.description.as_bytes()];
    append(output, NBD_OPT_LIST, NBD_REP_SERVER, &parts);
}

/// `NBD_INFO_EXPORT`, always 12 bytes.
pub(super) fn info_export(output: &mut Vec<u8>, option: u32, size: u64, flags: u16) {
    let (kind, size, flags) = (U16::new(NBD_INFO_EXPORT), U64::new(size), U16::new(flags));
    append(output, option, NBD_REP_INFO, &[kind.as_bytes(), size.as_bytes(), flags.as_bytes()]);
}

/// `NBD_INFO_NAME` or `NBD_INFO_DESCRIPTION`.
pub(super) fn info_text(output: &mut Vec<u8>, option: u32, kind: u16, text: &str) {
    append(output, option, NBD_REP_INFO, &[U16::new(kind).as_bytes(), text.as_bytes()]);
}

/// `NBD_INFO_BLOCK_SIZE`.
pub(super) fn info_block_size(output: &mut Vec<u8>, option: u32, export: &ExportInfo) {
    let sizes = export.facts.block_sizes;
    let kind = U16::new(NBD_INFO_BLOCK_SIZE);
    let sizes = [sizes.minimum, sizes.preferred, sizes.maximum].map(U32::new);
    append(output, option, NBD_REP_INFO, &[kind.as_bytes(), sizes.as_bytes()]);
}

/// `NBD_REP_META_CONTEXT`.
pub(super) fn meta_context(output: &mut Vec<u8>, option: u32, id: u32, name: &str) {
    append(output, option, NBD_REP_META_CONTEXT, &[U32::new(id).as_bytes(), name.as_bytes()]);
}

/// The answer to EXPORT_NAME, which has no header: size, flags, and 124 zeroes unless the client declined
/// them.
pub(super) fn export_name(output: &mut Vec<u8>, size: u64, flags: u16, no_zeroes: bool) {
    output.extend_from_slice(U64::new(size).as_bytes());
    output.extend_from_slice(U16::new(flags).as_bytes());
    if !no_zeroes {
        output.extend_from_slice(&[0; 124]);
    }
}
