//! What a peer may say behind its handshake, beside data: that it renews its key, and a server gives tickets
//! for sessions to come, which are of no use here (RFC 8446, 4.6).

use super::error::RecordError;

const KEY_UPDATE: u8 = 24;
const TICKET: u8 = 4;
/// Bytes of a type and a length.
const HEADER_BYTES: usize = 4;
/// Bytes of a ticket at most: some are a whole session, with the client's certificates.
const LONGEST_TICKET: usize = 64 << 10;
/// A type, three bytes of length, and whether an update of the other key is wanted.
const KEY_UPDATE_BYTES: usize = 5;

/// The message that renews a key.
pub(super) fn key_update(request: bool) -> [u8; KEY_UPDATE_BYTES] {
    [KEY_UPDATE, 0, 0, 1, u8::from(request)]
}

/// Gathers a message, which may be spread over records.
#[derive(Debug, Default)]
pub(super) struct Messages {
    bytes: [u8; KEY_UPDATE_BYTES],
    held: usize,
    /// The peer is a server.
    allows_tickets: bool,
    /// Bytes of a ticket that are still to come.
    skipped: usize,
}

impl Messages {
    /// Those of a server.
    pub(super) fn with_tickets() -> Self {
        Self { allows_tickets: true, ..Self::default() }
    }

    /// Whether a message has begun and not ended. Nothing else may come then.
    pub(super) fn is_amid(&self) -> bool {
        self.held > 0 || self.skipped > 0
    }

    /// Takes what a record carried. True and false: the peer renewed its key, and wants ours renewed or not.
    /// `None`: the message has not ended.
    ///
    /// The next record needs the next key, so the record has to end with the message: "Handshake messages
    /// MUST NOT span key changes".
    pub(super) fn take(&mut self, carried: &[u8]) -> Result<Option<bool>, RecordError> {
        if carried.is_empty() {
            return Err(RecordError::Malformed("a record without a part of a message"));
        }
        let mut rest = carried;
        loop {
            let skipped = self.skipped.min(rest.len());
            self.skipped -= skipped;
            rest = &rest[skipped..];
            let Some((&byte, behind)) = rest.split_first() else { break };
            rest = behind;
            if self.held == KEY_UPDATE_BYTES {
                return Err(RecordError::Malformed("something stands behind a key update"));
            }
            self.bytes[self.held] = byte;
            self.held += 1;
            match self.bytes[0] {
                KEY_UPDATE => {}
                TICKET if self.allows_tickets => self.skip_ticket()?,
                other => return Err(RecordError::UnexpectedMessage(other)),
            }
        }
        if self.held < KEY_UPDATE_BYTES {
            return Ok(None);
        }
        self.held = 0;
        match self.bytes {
            [_, 0, 0, 1, 0] => Ok(Some(false)),
            [_, 0, 0, 1, 1] => Ok(Some(true)),
            _ => Err(RecordError::Malformed("a key update that asks for neither")),
        }
    }
    /// Once the length of a ticket is known, its bytes are skipped.
    fn skip_ticket(&mut self) -> Result<(), RecordError> {
        if self.held == HEADER_BYTES {
            let [_, high, middle, low, _] = self.bytes;
            self.skipped = u32::from_be_bytes([0, high, middle, low]) as usize;
            self.held = 0;
            if self.skipped > LONGEST_TICKET {
                return Err(RecordError::Malformed("a ticket is too long"));
            }
        }
        Ok(())
    }
}
