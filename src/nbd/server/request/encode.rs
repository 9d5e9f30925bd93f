//! A request as it stood on the wire.

use alloc::vec::Vec;
use zerocopy::IntoBytes;

use super::message::{Command, Request};
use crate::headers::{CompactRequest, ExtendedRequest};
use crate::session::ReplyMode;
use crate::wire::*;

impl Request {
    /// Appends a header to `output` that means this request, for a reader that takes the stream over behind
    /// it. Fields without a meaning are 0.
    pub fn encode(&self, mode: ReplyMode, output: &mut Vec<u8>) {
        let (command, mut flags) = self.numbers();
        let when = |condition: bool, flag: u16| if condition { flag } else { 0 };
        flags |= when(self.flags.fua, NBD_CMD_FLAG_FUA)
            | when(self.flags.no_hole, NBD_CMD_FLAG_NO_HOLE)
            | when(self.flags.fast_zero, NBD_CMD_FLAG_FAST_ZERO);
        let length = match self.command {
            Command::BlockStatus { filter: Some(length), .. } => u64::from(length),
            _ => self.range.length(),
        };
        if mode == ReplyMode::Extended {
            let is_write = matches!(self.command, Command::Write) && length > 0;
            let header = ExtendedRequest {
                magic: NBD_EXTENDED_REQUEST_MAGIC.into(),
                flags: (flags | when(is_write, NBD_CMD_FLAG_PAYLOAD_LEN)).into(),
                command: command.into(),
                cookie: self.cookie.0.into(),
                offset: self.offset.into(),
                length: length.into(),
            };
            return output.extend_from_slice(header.as_bytes());
        }
        let header = CompactRequest {
            magic: NBD_REQUEST_MAGIC.into(),
            flags: flags.into(),
            command: command.into(),
            cookie: self.cookie.0.into(),
            offset: self.offset.into(),
            // A compact request has no longer one.
            length: (length as u32).into(),
        };
        output.extend_from_slice(header.as_bytes());
    }

    /// The command, and the flags that belong to it.
    fn numbers(&self) -> (u16, u16) {
        let when = |condition: bool, flag: u16| if condition { flag } else { 0 };
        match self.command {
            Command::Read { dont_fragment } => (NBD_CMD_READ, when(dont_fragment, NBD_CMD_FLAG_DF)),
            Command::Write => (NBD_CMD_WRITE, 0),
            Command::Disconnect => (NBD_CMD_DISC, 0),
            Command::Flush => (NBD_CMD_FLUSH, 0),
            Command::Trim => (NBD_CMD_TRIM, 0),
            Command::Cache => (NBD_CMD_CACHE, 0),
            Command::WriteZeroes => (NBD_CMD_WRITE_ZEROES, 0),
            Command::BlockStatus { one, filter } => {
                let flags = when(one, NBD_CMD_FLAG_REQ_ONE);
                (NBD_CMD_BLOCK_STATUS, flags | when(filter.is_some(), NBD_CMD_FLAG_PAYLOAD_LEN))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::meta_context::MetaContext;
    use crate::session::{SelectedContext, Session};
    use crate::vocabulary::BlockSizes;

    proptest! {
        /// Whatever a client can ask reads as the same when it was written again.
        #[test]
        fn what_was_parsed_is_parsed_again(
            extended in any::<bool>(),
            (flags, command) in (0_u16..64, 0_u16..9),
            (cookie, offset) in (any::<u64>(), prop_oneof![0_u64..1 << 20, any::<u64>()]),
            length in prop_oneof![0_u32..64, 0_u32..1 << 20, any::<u32>()],
        ) {
            let mode = if extended { ReplyMode::Extended } else { ReplyMode::Structured };
            let session = Session {
                reply_mode: mode,
                transmission_flags: NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_DF | NBD_FLAG_SEND_FAST_ZERO,
                size: 1 << 40,
                block_sizes: BlockSizes::default(),
                enforce_alignment: false,
                contexts: vec![SelectedContext { id: 1, context: MetaContext::BaseAllocation }],
            };
            let mut header = Vec::new();
            let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
            header.extend(magic.to_be_bytes());
            header.extend(flags.to_be_bytes());
            header.extend(command.to_be_bytes());
            header.extend(cookie.to_be_bytes());
            header.extend(offset.to_be_bytes());
            match extended {
                true => header.extend(u64::from(length).to_be_bytes()),
                false => header.extend(length.to_be_bytes()),
            }
            if let Ok(request) = Request::parse(&header, &session, false) {
                let mut again = Vec::new();
                request.encode(mode, &mut again);
                prop_assert_eq!(Request::parse(&again, &session, false), Ok(request));
            }
        }
    }
}
