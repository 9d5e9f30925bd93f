//! What went over the wire last, for whoever has to believe a finding.

use std::collections::VecDeque;
use std::fmt::Write as _;

use serde::Serialize;

/// How many of the last transfers are kept.
const TRANSFERS: usize = 10;
/// How many bytes of each are kept.
const BYTES: usize = 96;

/// Who sent something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sender {
    /// This program.
    Client,
    /// The server.
    Server,
}

/// Bytes that were sent at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct WireTransfer {
    /// Of that many in this run: connections are numbered from 1.
    pub connection: u32,
    pub sender: Sender,
    /// All of them.
    pub length: usize,
    /// The first of them, in hexadecimal.
    pub bytes: String,
}

/// The last transfers.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    last: VecDeque<WireTransfer>,
    connections: u32,
}

impl Transcript {
    /// The number of a new connection.
    pub(super) fn connect(&mut self) -> u32 {
        self.connections += 1;
        self.connections
    }

    pub(super) fn record(&mut self, connection: u32, sender: Sender, bytes: &[u8]) {
        if self.last.len() == TRANSFERS {
            self.last.pop_front();
        }
        let bytes_kept = &bytes[..bytes.len().min(BYTES)];
        self.last.push_back(WireTransfer {
            connection,
            sender,
            length: bytes.len(),
            bytes: hexadecimal(bytes_kept),
        });
    }

    /// Gives what was kept, and begins again.
    pub(super) fn take(&mut self) -> Vec<WireTransfer> {
        self.connections = 0;
        self.last.drain(..).collect()
    }
}

/// `4e 42 44`.
fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for byte in bytes {
        let _ = write!(text, "{}{byte:02x}", if text.is_empty() { "" } else { " " });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_kept_and_no_more() {
        let mut transcript = Transcript::default();
        assert_eq!((transcript.connect(), transcript.connect()), (1, 2));
        for index in 0..100u8 {
            transcript.record(2, Sender::Client, &vec![index; 1000]);
        }
        let transfers = transcript.take();
        assert_eq!(transfers.len(), TRANSFERS);
        let last = transfers.last().unwrap();
        assert_eq!((last.length, last.bytes.len(), &last.bytes[..5]), (1000, BYTES * 3 - 1, "63 63"));
        assert_eq!((transcript.take(), transcript.connect()), (vec![], 1));
    }
}
