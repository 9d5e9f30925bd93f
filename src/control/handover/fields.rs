//! The fields of a message, as bytes.

use std::sync::Arc;

use crate::nbd::meta_context::{INSTANCE, MetaContext};
use crate::nbd::session::{ReplyMode, SelectedContext, Session};

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message that is not understood ({0})")]
pub(in crate::control) struct BadMessage(pub(super) &'static str);

/// The longest text, in bytes.
const LONGEST_TEXT: usize = 64 << 10;
/// The longest list.
const MOST_ITEMS: usize = 1 << 20;

/// Fields as they are written: numbers with their lowest byte first.
pub(super) struct Fields(pub(super) Vec<u8>);

impl Fields {
    pub(super) fn short(&mut self, number: u16) -> &mut Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    pub(super) fn word(&mut self, number: u32) -> &mut Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    pub(super) fn long(&mut self, number: u64) -> &mut Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    pub(super) fn flag(&mut self, flag: bool) -> &mut Self {
        self.0.push(flag.into());
        self
    }

    /// A text, or the front of one that is too long.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        let text = &text[..text.floor_char_boundary(LONGEST_TEXT)];
        self.word(text.len() as u32).0.extend_from_slice(text.as_bytes());
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.word(bytes.len() as u32).0.extend_from_slice(bytes);
        self
    }

    pub(super) fn numbers(&mut self, numbers: &[u32]) -> &mut Self {
        self.word(numbers.len() as u32);
        numbers.iter().for_each(|number| {
            self.word(*number);
        });
        self
    }

    pub(super) fn session(&mut self, session: &Session) -> &mut Self {
        let Session { reply_mode, transmission_flags, size, block_sizes, enforce_alignment, contexts } =
            session;
        let mode = match reply_mode {
            ReplyMode::Simple => 0,
            ReplyMode::Structured => 1,
            ReplyMode::Extended => 2,
        };
        self.0.push(mode);
        self.short(*transmission_flags).long(*size);
        self.word(block_sizes.minimum).word(block_sizes.preferred).word(block_sizes.maximum);
        self.flag(*enforce_alignment).word(contexts.len() as u32);
        for SelectedContext { id, context } in contexts {
            self.word(*id);
            match context {
                MetaContext::BaseAllocation => self.0.push(0),
                MetaContext::AllocationDepth => self.0.push(1),
                MetaContext::DirtyBitmap(of) => {
                    self.0.push(2);
                    self.text(of);
                }
                MetaContext::Passed(name) => self.later_context(name),
                MetaContext::Instance => self.later_context(INSTANCE),
            }
        }
        self
    }
}

/// What stands before the name of a context that earlier programs do not know. No snapshot is called so.
const LATER_CONTEXT: char = '\0';

impl Fields {
    /// A context that earlier programs do not know. To them it is a bitmap that the export does not have, so
    /// its status is an error there.
    fn later_context(&mut self, name: &str) {
        self.0.push(2);
        self.text(&format!("{LATER_CONTEXT}{name}"));
    }
}

/// The context of a bitmap, or one that [stands for another](Fields::later_context).
fn bitmap(name: &str) -> MetaContext {
    match name.strip_prefix(LATER_CONTEXT) {
        None => MetaContext::DirtyBitmap(Arc::from(name)),
        Some(INSTANCE) => MetaContext::Instance,
        Some(name) => MetaContext::Passed(Arc::from(name)),
    }
}

/// Fields as they are read.
pub(super) struct FieldReader<'a>(pub(super) &'a [u8]);

impl<'a> FieldReader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], BadMessage> {
        let (front, rest) = self.0.split_at_checked(length).ok_or(BadMessage("it is cut"))?;
        self.0 = rest;
        Ok(front)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], BadMessage> {
        Ok(self.take(N)?.try_into().expect("it has this length"))
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn byte(&mut self) -> Result<u8, BadMessage> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn short(&mut self) -> Result<u16, BadMessage> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn word(&mut self) -> Result<u32, BadMessage> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn long(&mut self) -> Result<u64, BadMessage> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn flag(&mut self) -> Result<bool, BadMessage> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadMessage("neither yes nor no")),
        }
    }

    pub(super) fn length(&mut self, most: usize) -> Result<usize, BadMessage> {
        let length = self.word()? as usize;
        if length > most { Err(BadMessage("a field is too long")) } else { Ok(length) }
    }

    pub(super) fn text(&mut self) -> Result<String, BadMessage> {
        let length = self.length(LONGEST_TEXT)?;
        let text = std::str::from_utf8(self.take(length)?);
        text.map(str::to_owned).map_err(|_| BadMessage("a text that is none"))
    }

    pub(super) fn bytes(&mut self, most: usize) -> Result<Vec<u8>, BadMessage> {
        let length = self.length(most)?;
        self.take(length).map(<[u8]>::to_vec)
    }

    pub(super) fn numbers(&mut self) -> Result<Vec<u32>, BadMessage> {
        let count = self.length(MOST_ITEMS)?;
        let bytes = self.take(4 * count)?;
        Ok(bytes.chunks_exact(4).map(|four| u32::from_le_bytes(four.try_into().expect("four"))).collect())
    }

    pub(super) fn session(&mut self) -> Result<Session, BadMessage> {
        let reply_mode = match self.byte()? {
            0 => ReplyMode::Simple,
            1 => ReplyMode::Structured,
            2 => ReplyMode::Extended,
            _ => return Err(BadMessage("an unknown form of replies")),
        };
        let (transmission_flags, size) = (self.short()?, self.long()?);
        let (minimum, preferred, maximum) = (self.word()?, self.word()?, self.word()?);
        let block_sizes = crate::block::BlockSizes { minimum, preferred, maximum };
        if !block_sizes.are_valid() || maximum > crate::block::BlockSizes::MAXIMUM_PAYLOAD {
            return Err(BadMessage("block sizes that cannot be"));
        }
        let enforce_alignment = self.flag()?;
        let mut contexts: Vec<SelectedContext> = Vec::new();
        for _ in 0..self.length(MetaContext::MOST_SELECTED)? {
            let id = self.word()?;
            let context = match self.byte()? {
                0 => MetaContext::BaseAllocation,
                1 => MetaContext::AllocationDepth,
                2 => bitmap(&self.text()?),
                _ => return Err(BadMessage("an unknown meta context")),
            };
            if id == 0 || contexts.iter().any(|known| known.id == id) {
                return Err(BadMessage("meta contexts that cannot be told apart"));
            }
            contexts.push(SelectedContext { id, context });
        }
        Ok(Session { reply_mode, transmission_flags, size, block_sizes, enforce_alignment, contexts })
    }
}
