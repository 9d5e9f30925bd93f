//! The mutant's handshake.

use std::io;

use super::bugs::Bug;
use super::mutant::{Client, MAXIMUM, SIZE, end};
use crate::nbd::wire::*;

const CONTEXT: &[u8] = b"base:allocation";

fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().unwrap()))
}

impl Client {
    /// Runs the handshake; the export's name.
    pub(super) fn haggle(&mut self, is_fixed: bool, keeps_zeroes: bool) -> io::Result<Vec<u8>> {
        loop {
            let header = self.take(16);
            let header = match header {
                Err(error) if self.has(Bug::HalfOptionKills) => {
                    self.world.is_dead.store(true, std::sync::atomic::Ordering::SeqCst);
                    return Err(error);
                }
                other => other?,
            };
            if &header[..8] != b"IHAVEOPT" && !self.has(Bug::OptionMagicIgnored) {
                return end();
            }
            let number = be32(&header[8..]).unwrap();
            let length = be32(&header[12..]).unwrap() as usize;
            if length > 1 << 20 {
                if self.has(Bug::GiantOptionKills) {
                    self.world.is_dead.store(true, std::sync::atomic::Ordering::SeqCst);
                }
                return end();
            }
            let is_known = (1..=11).contains(&number) && number != 4;
            if !is_known && self.has(Bug::UnknownOptionDataKept) {
                self.reply(number, NBD_REP_ERR_UNSUP, b"")?;
                continue;
            }
            let data = self.take(length)?;
            if number == NBD_OPT_EXPORT_NAME {
                if self.is_extended || !self.is_ours(&data) {
                    return end();
                }
                self.flags = self.transmission_flags();
                let mut reply = SIZE.to_be_bytes().to_vec();
                reply.extend(self.flags.to_be_bytes());
                reply.extend(vec![0; if keeps_zeroes { 124 } else { 0 }]);
                self.say(&reply)?;
                return Ok(data);
            }
            if !is_fixed && is_known {
                return end();
            }
            if let Some(export) = self.option(number, &data)? {
                return Ok(export);
            }
        }
    }

    fn reply(&mut self, number: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = NBD_REP_MAGIC.to_be_bytes().to_vec();
        bytes.extend(number.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.say(&bytes)
    }

    fn is_ours(&self, name: &[u8]) -> bool {
        let is_long = name.len() > NBD_MAX_STRING;
        name.is_empty()
            || name == b"other"
            || (is_long && self.has(Bug::LongNamesAccepted))
            || (!is_long && std::str::from_utf8(name).is_err() && self.has(Bug::AnyBytesAreNames))
    }

    fn option(&mut self, number: u32, data: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match number {
            NBD_OPT_ABORT if self.has(Bug::AbortUnanswered) => return end(),
            NBD_OPT_ABORT if !data.is_empty() && self.has(Bug::AbortDataInvalid) => {
                self.reply(number, NBD_REP_ERR_INVALID, b"")?;
            }
            NBD_OPT_ABORT => {
                self.reply(number, NBD_REP_ACK, b"")?;
                return end();
            }
            NBD_OPT_LIST => self.list(data)?,
            NBD_OPT_STARTTLS => self.reply(number, NBD_REP_ERR_POLICY, b"")?,
            NBD_OPT_INFO | NBD_OPT_GO => return self.info(number, data),
            NBD_OPT_STRUCTURED_REPLY | NBD_OPT_EXTENDED_HEADERS => self.negotiate(number, data)?,
            NBD_OPT_LIST_META_CONTEXT | NBD_OPT_SET_META_CONTEXT => self.contexts(number, data)?,
            _ => self.reply(number, NBD_REP_ERR_UNSUP, b"no such option")?,
        }
        Ok(None)
    }

    fn list(&mut self, data: &[u8]) -> io::Result<()> {
        if self.has(Bug::ListUnsupported) {
            return self.reply(NBD_OPT_LIST, NBD_REP_ERR_UNSUP, b"");
        }
        if self.has(Bug::TlsIsAskedFor) {
            return self.reply(NBD_OPT_LIST, NBD_REP_ERR_TLS_REQD, b"");
        }
        if !data.is_empty() {
            self.reply(NBD_OPT_LIST, NBD_REP_ERR_INVALID, b"")?;
            if !self.has(Bug::ListAnswersTwice) {
                return Ok(());
            }
        }
        for name in [&b""[..], b"other"] {
            let entry = [&(name.len() as u32).to_be_bytes()[..], name, b"a disk"].concat();
            self.reply(NBD_OPT_LIST, NBD_REP_SERVER, &entry)?;
        }
        self.reply(NBD_OPT_LIST, NBD_REP_ACK, b"")
    }

    fn negotiate(&mut self, number: u32, data: &[u8]) -> io::Result<()> {
        let is_extended = number == NBD_OPT_EXTENDED_HEADERS;
        if !data.is_empty() && !self.has(Bug::NegotiationWithData) {
            return self.reply(number, NBD_REP_ERR_INVALID, b"");
        }
        if !is_extended && self.is_extended && !self.has(Bug::StructuredAfterExtended) {
            return self.reply(number, NBD_REP_ERR_EXT_HEADER_REQD, b"");
        }
        let is_second = if is_extended { self.is_extended } else { self.is_structured };
        if is_second && !self.has(Bug::SecondNegotiation) {
            return self.reply(number, NBD_REP_ERR_INVALID, b"");
        }
        self.is_structured = true;
        self.is_extended |= is_extended;
        self.reply(number, NBD_REP_ACK, b"")
    }

    fn info(&mut self, number: u32, data: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let parse = || {
            let name = data.get(4..)?.get(..be32(data)? as usize)?;
            let rest = &data[4 + name.len()..];
            let count = usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().unwrap()));
            let list: Vec<u16> = rest
                .get(2..)?
                .chunks(2)
                .map(|pair| u16::from_be_bytes(pair.try_into().unwrap_or([9; 2])))
                .collect();
            Some((name.to_vec(), list, rest.len() == 2 + 2 * count))
        };
        let Some((name, list, true)) =
            parse().map(|(name, list, fits)| (name, list, fits || self.has(Bug::TrailingInfoIgnored)))
        else {
            self.reply(number, NBD_REP_ERR_INVALID, b"")?;
            return Ok(None);
        };
        if !self.is_ours(&name) {
            let is_string = std::str::from_utf8(&name).is_ok() && !self.has(Bug::UnknownIsInvalid);
            self.reply(number, if is_string { NBD_REP_ERR_UNKNOWN } else { NBD_REP_ERR_INVALID }, b"")?;
            return Ok(None);
        }
        self.flags = self.transmission_flags();
        if self.has(Bug::GoHasOtherFlags) && number == NBD_OPT_GO {
            self.flags &= !NBD_FLAG_CAN_MULTI_CONN;
        }
        let export = [&[0, 0][..], &SIZE.to_be_bytes(), &self.flags.to_be_bytes()].concat();
        self.reply(number, NBD_REP_INFO, &export)?;
        if self.has(Bug::InfoExportTwice) {
            self.reply(number, NBD_REP_INFO, &export)?;
        }
        self.asked_for_sizes = list.contains(&NBD_INFO_BLOCK_SIZE);
        if self.asked_for_sizes {
            let minimum: u32 = if self.has(Bug::OddMinimum) { 1000 } else { 1 };
            let sizes = [minimum, 4096, MAXIMUM].map(u32::to_be_bytes).concat();
            self.reply(number, NBD_REP_INFO, &[&[0, 3][..], &sizes].concat())?;
        }
        self.reply(number, NBD_REP_ACK, b"")?;
        if number != NBD_OPT_GO {
            return Ok(None);
        }
        if self.has(Bug::ZeroesAfterGo) {
            self.say(&[0; 124])?;
        }
        Ok(Some(name))
    }

    fn contexts(&mut self, number: u32, data: &[u8]) -> io::Result<()> {
        let is_set = number == NBD_OPT_SET_META_CONTEXT;
        let before = if is_set { self.selected.take() } else { None };
        let parse = || {
            let name = data.get(4..)?.get(..be32(data)? as usize)?.to_vec();
            let mut rest = &data[4 + name.len()..];
            let count = be32(rest)?;
            rest = &rest[4..];
            let mut queries = Vec::new();
            for _ in 0..count {
                let length = be32(rest)? as usize;
                let is_cut = self.has(Bug::MetaLengthsCut) && length < 1 << 20;
                let length = if is_cut { length.min(rest.len() - 4) } else { length };
                let query = rest.get(4..)?.get(..length)?;
                rest = &rest[4 + query.len()..];
                queries.push(query.to_vec());
            }
            Some((name, queries, rest.is_empty()))
        };
        let takes_more = self.has(Bug::TrailingMetaIgnored) || self.has(Bug::TrailingMetaKept);
        let parsed = parse().filter(|(_, _, fits)| *fits || takes_more);
        let is_allowed = self.is_structured || self.has(Bug::ContextsWithSimple);
        let error = match &parsed {
            _ if !is_allowed => Some(NBD_REP_ERR_INVALID),
            None => Some(NBD_REP_ERR_INVALID),
            Some((name, ..)) if !self.is_ours(name) => Some(NBD_REP_ERR_UNKNOWN),
            Some(_) => None,
        };
        if let Some(error) = error {
            if self.has(Bug::FailedSetKeeps) {
                self.selected = before;
            }
            return self.reply(number, error, b"");
        }
        let (name, queries, fits) = parsed.unwrap();
        let lists_all = !is_set && queries.is_empty();
        let takes_prefix = !is_set || self.has(Bug::PrefixSelects);
        let is_meant = |query: &Vec<u8>| query == CONTEXT || (takes_prefix && query == b"base:");
        let is_kept = self.has(Bug::SetAddsUp) && before.is_some();
        if lists_all || queries.iter().any(is_meant) || is_kept {
            let id: u32 = if is_set { 7 } else { 0 };
            let meant = queries.iter().filter(|query| is_meant(query)).count();
            let times = if is_set && self.has(Bug::ContextForEachQuery) { meant } else { 1 };
            for _ in 0..times {
                self.reply(number, NBD_REP_META_CONTEXT, &[&id.to_be_bytes()[..], CONTEXT].concat())?;
            }
            if is_set || self.has(Bug::ListSelects) {
                self.selected = Some(name);
            }
        }
        self.reply(number, NBD_REP_ACK, b"")?;
        // What is left would be taken for the next option, which has no magic then.
        if fits || !self.has(Bug::TrailingMetaKept) { Ok(()) } else { end() }
    }
}
