//! The data of options as values. Everything is checked here; nothing is copied.

use super::reply::OptionRefusal;
use crate::wire::*;

/// Takes what a client may send off the front of an option's data.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes(4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A 32-bit length and as many bytes of text.
    fn string(&mut self) -> Result<&'a str, OptionRefusal> {
        let length = self.u32().ok_or(TOO_SHORT)?;
        string(self.bytes(length as usize).ok_or(TOO_SHORT)?)
    }
}

const TOO_SHORT: OptionRefusal = OptionRefusal::invalid("a length goes beyond the end of the option");
const TRAILING: OptionRefusal = OptionRefusal::invalid("the option has bytes behind its data");

/// "Conventions": a string is UTF-8 without NUL, and of at most 4,096 bytes.
pub(super) fn string(bytes: &[u8]) -> Result<&str, OptionRefusal> {
    if bytes.len() > NBD_MAX_STRING {
        return Err(OptionRefusal::invalid("a string is longer than 4096 bytes"));
    }
    if bytes.contains(&0) {
        return Err(OptionRefusal::invalid("a string contains a zero byte"));
    }
    core::str::from_utf8(bytes).map_err(|_| OptionRefusal::invalid("a string is not UTF-8"))
}

/// What the client of an INFO or GO wants to know beside `NBD_INFO_EXPORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct InfoRequests {
    pub(super) name: bool,
    pub(super) description: bool,
    pub(super) block_size: bool,
    pub(super) end_on_growth: bool,
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`: name and information requests.
///
/// "The server MUST ignore any information requests it does not understand."
pub(super) fn info(data: &[u8]) -> Result<(&str, InfoRequests), OptionRefusal> {
    let mut reader = Reader(data);
    let name = reader.string()?;
    let count = reader.u16().ok_or(TOO_SHORT)?;
    let mut requests = InfoRequests::default();
    for _ in 0..count {
        match reader.u16().ok_or(TOO_SHORT)? {
            NBD_INFO_NAME => requests.name = true,
            NBD_INFO_DESCRIPTION => requests.description = true,
            NBD_INFO_BLOCK_SIZE => requests.block_size = true,
            NBD_INFO_X_END_ON_GROWTH => requests.end_on_growth = true,
            _ => {}
        }
    }
    if reader.0.is_empty() { Ok((name, requests)) } else { Err(TRAILING) }
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`, wholly checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct MetaRequest<'a> {
    pub(super) export: &'a str,
    count: u32,
    queries: &'a [u8],
}

impl<'a> MetaRequest<'a> {
    /// "If the option request is syntactically invalid (such as a query length that would require reading
    /// beyond the original length given in the option header), the server MUST fail the request with
    /// `NBD_REP_ERR_INVALID`."
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, OptionRefusal> {
        let mut reader = Reader(data);
        let export = reader.string()?;
        let count = reader.u32().ok_or(TOO_SHORT)?;
        let queries = reader.0;
        // A count of billions fails here at once, because each query takes four bytes of the data.
        for _ in 0..count {
            match reader.string()?.split_once(':') {
                Some((namespace, _)) if !namespace.is_empty() => {}
                _ => return Err(OptionRefusal::invalid("a query must start with a namespace and a colon")),
            }
        }
        if reader.0.is_empty() { Ok(Self { export, count, queries }) } else { Err(TRAILING) }
    }

    /// Whether it asks for nothing in particular.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The queries in their order.
    pub(super) fn queries(&self) -> impl Iterator<Item = &'a str> {
        let mut reader = Reader(self.queries);
        (0..self.count).map_while(move |_| reader.string().ok())
    }
}
