//! What a peer may say behind its handshake, beside data: that it renews its key (RFC 8446, 4.6).

use super::error::RecordError;

const KEY_UPDATE: u8 = 24;
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
}

impl Messages {
    /// Whether a message has begun and not ended. Nothing else may come then.
    pub(super) fn is_amid(&self) -> bool {
        self.held > 0
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
        for &byte in carried {
            if self.held == KEY_UPDATE_BYTES {
                return Err(RecordError::Malformed("something stands behind a key update"));
            }
            self.bytes[self.held] = byte;
            self.held += 1;
            if self.bytes[0] != KEY_UPDATE {
                return Err(RecordError::UnexpectedMessage(self.bytes[0]));
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
}
