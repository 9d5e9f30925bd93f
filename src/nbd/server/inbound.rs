//! Splits the received bytes into headers, payloads, and bytes to skip.
//!
//! A cursor over a byte stream; it never touches a socket. Bytes come in pieces of any size; a header that is
//! split is put together here, payload bytes are handed on as they come.

/// The longest request header, that of an extended request.
const LONGEST_HEADER: usize = 32;

/// The state of the stream between two pieces.
#[derive(Debug)]
pub struct Inbound {
    header: [u8; LONGEST_HEADER],
    header_length: u8,
    /// Bytes of the next header that are here.
    filled: u8,
    /// Bytes of payload still to come, and whether they are wanted.
    payload: u64,
    discard: bool,
}

/// What the front of the input is.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'header, 'bytes> {
    /// A whole header, where it was received if it came in one piece.
    Header(&'header [u8]),
    /// Bytes of the payload of the request before; `last` with its final byte.
    Payload {
        /// The bytes.
        bytes: &'bytes [u8],
        /// Nothing more of this payload follows.
        last: bool,
    },
    /// The payload of a refused request has passed by.
    Skipped,
}

impl Inbound {
    /// A stream of headers of so many bytes.
    pub fn new(header_length: usize) -> Self {
        assert!(header_length <= LONGEST_HEADER);
        Self {
            header: [0; LONGEST_HEADER],
            header_length: header_length as u8,
            filled: 0,
            payload: 0,
            discard: false,
        }
    }

    /// The request just parsed has `length` bytes of payload, which are wanted.
    #[inline]
    pub fn expect_payload(&mut self, length: u64) {
        assert_eq!(self.payload, 0, "one payload at a time");
        (self.payload, self.discard) = (length, false);
    }

    /// The request just refused has `length` bytes of payload, which are skipped: [`Piece::Skipped`] tells
    /// when, unless there are none.
    #[inline]
    pub fn expect_discard(&mut self, length: u64) {
        assert_eq!(self.payload, 0, "one payload at a time");
        (self.payload, self.discard) = (length, true);
    }

    /// Bytes of wanted payload still to come: they may be received straight to where they belong.
    #[inline]
    pub fn wanted(&self) -> u64 {
        if self.discard { 0 } else { self.payload }
    }

    /// Tells that `length` bytes of the wanted payload were received without [`Inbound::feed`].
    #[inline]
    pub fn received_elsewhere(&mut self, length: u64) {
        assert!(length <= self.wanted());
        self.payload -= length;
    }

    /// Whether the stream is between requests: an end here is a clean one.
    #[inline]
    pub fn is_at_boundary(&self) -> bool {
        self.filled == 0 && self.payload == 0
    }

    /// The bytes of the next header that are here.
    pub fn header_so_far(&self) -> &[u8] {
        &self.header[..usize::from(self.filled)]
    }

    /// Takes bytes off the front of `input` up to the next piece. `None`: all was taken, feed more.
    #[inline]
    pub fn feed<'header, 'bytes: 'header>(
        &'header mut self,
        input: &mut &'bytes [u8],
    ) -> Option<Piece<'header, 'bytes>> {
        if self.payload > 0 {
            return self.feed_payload(input);
        }
        let length = usize::from(self.header_length);
        if self.filled == 0
            && let Some((header, rest)) = input.split_at_checked(length)
        {
            *input = rest;
            return Some(Piece::Header(header));
        }
        self.feed_part_of_header(input)
    }

    #[inline(always)]
    fn feed_payload<'header, 'bytes: 'header>(
        &mut self,
        input: &mut &'bytes [u8],
    ) -> Option<Piece<'header, 'bytes>> {
        let here = self.payload.min(input.len() as u64) as usize;
        let (front, rest) = input.split_at(here);
        *input = rest;
        self.payload -= here as u64;
        if !self.discard {
            return (here > 0).then_some(Piece::Payload { bytes: front, last: self.payload == 0 });
        }
        (self.payload == 0).then_some(Piece::Skipped)
    }

    /// A header that did not come as a whole, which is rare.
    fn feed_part_of_header<'header, 'bytes: 'header>(
        &'header mut self,
        input: &mut &'bytes [u8],
    ) -> Option<Piece<'header, 'bytes>> {
        let length = usize::from(self.header_length);
        let filled = usize::from(self.filled);
        let here = (length - filled).min(input.len());
        let (front, rest) = input.split_at(here);
        *input = rest;
        self.header[filled..filled + here].copy_from_slice(front);
        self.filled += here as u8;
        if usize::from(self.filled) < length {
            return None;
        }
        self.filled = 0;
        Some(Piece::Header(&self.header[..length]))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Item {
        Plain,
        Payload(u16),
        Discard(u16),
    }

    proptest! {
        /// Oracle: the list of items that was written, whatever the pieces.
        #[test]
        fn any_split_gives_the_same_items(
            items in prop::collection::vec(prop_oneof![
                Just(Item::Plain), (0u16..300).prop_map(Item::Payload), (0u16..300).prop_map(Item::Discard)
            ], 1..20),
            pieces in prop::collection::vec(1usize..100, 1..50),
        ) {
            let mut stream = Vec::new();
            for (index, item) in items.iter().enumerate() {
                stream.extend_from_slice(&[index as u8; 28]);
                match item {
                    Item::Plain => {}
                    Item::Payload(length) => stream.extend((0..*length).map(|at| at as u8)),
                    Item::Discard(length) => stream.extend(vec![255; usize::from(*length)]),
                }
            }
            let (mut inbound, mut seen, mut payload) = (Inbound::new(28), 0, Vec::new());
            let mut skipping = false;
            let mut rest = &stream[..];
            let mut sizes = pieces.iter().cycle();
            while !rest.is_empty() {
                let (mut piece, later) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                rest = later;
                while let Some(taken) = inbound.feed(&mut piece) {
                    match taken {
                        Piece::Header(header) => {
                            prop_assert!(!skipping, "the end of a skipped payload was not told");
                            prop_assert_eq!(&header[..28], &[seen as u8; 28][..]);
                            match items[seen] {
                                Item::Plain => {}
                                Item::Payload(length) => inbound.expect_payload(length.into()),
                                Item::Discard(length) => {
                                    inbound.expect_discard(length.into());
                                    skipping = length > 0;
                                }
                            }
                            seen += 1;
                        }
                        Piece::Payload { bytes, last } => {
                            payload.extend_from_slice(bytes);
                            if last {
                                let expected: Vec<u8> = (0..payload.len()).map(|at| at as u8).collect();
                                prop_assert_eq!(core::mem::take(&mut payload), expected);
                            }
                        }
                        Piece::Skipped => prop_assert!(core::mem::replace(&mut skipping, false)),
                    }
                }
                prop_assert!(piece.is_empty());
            }
            prop_assert_eq!(seen, items.len());
            prop_assert!(!skipping);
            prop_assert!(inbound.is_at_boundary());
        }
    }
}
