//! Byte by byte, with numbers written out: the constants of `wire` are not the oracle here.

mod statements;
mod tls;

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;
use crate::meta_context::MetaContext;
use crate::session::ReplyMode;
use crate::vocabulary::{BlockSizes, DeviceFacts};

const LIMITS: HandshakeLimits = HandshakeLimits { option_length: 8192, options: 64, bytes: 1 << 20 };
const ACK: u32 = 1;
const ERR: u32 = 1 << 31;
const GO: u32 = 7;
const INFO: u32 = 6;
const SET_META: u32 = 10;
const LIST_META: u32 = 9;

fn exports() -> Vec<ExportInfo> {
    let facts = DeviceFacts {
        size: 0x1234_5000,
        read_only: false,
        rotational: false,
        fast_zero: true,
        block_sizes: BlockSizes::default(),
    };
    let export = |name: &str, description: &str| ExportInfo {
        name: name.to_owned(),
        description: description.to_owned(),
        facts: facts.clone(),
        contexts: vec![MetaContext::BaseAllocation],
        require_block_size: false,
    };
    let mut exports = vec![export("", "the default"), export("disk", ""), export("strict", "")];
    exports[2].require_block_size = true;
    exports[2].facts.block_sizes.minimum = 512;
    exports
}

/// What came of a conversation: all bytes sent, how it ended, and how many bytes were consumed.
#[derive(Debug, PartialEq)]
struct Outcome {
    output: Vec<u8>,
    end: Result<Option<Event>, CloseReason>,
    consumed: usize,
}

impl Outcome {
    /// The replies behind the greeting.
    fn replies(&self) -> Vec<(u32, u32, Vec<u8>)> {
        let mut rest = &self.output[18..];
        let mut replies = Vec::new();
        while !rest.is_empty() {
            assert_eq!(rest[..8], [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9], "magic of a reply");
            let word = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().unwrap());
            let end = 20 + word(16) as usize;
            replies.push((word(8), word(12), rest[20..end].to_vec()));
            rest = &rest[end..];
        }
        replies
    }

    /// The replies as (option, type), without data.
    fn kinds(&self) -> Vec<(u32, u32)> {
        self.replies().into_iter().map(|(option, kind, _)| (option, kind)).collect()
    }

    fn done(&self) -> &Negotiated {
        let Ok(Some(Event::Done(negotiated))) = &self.end else { panic!("not done: {:?}", self.end) };
        negotiated
    }

    fn close_reason(&self) -> &CloseReason {
        let Err(reason) = &self.end else { panic!("not closed: {:?}", self.end) };
        reason
    }
}

/// Feeds `pieces` as a driver does, until the handshake ends or the input does. No state ever holds more than
/// its limit.
fn converse<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limits: HandshakeLimits,
    shutting_down: bool,
) -> Outcome {
    let exports = exports();
    let mut handshake = Handshake::new(limits);
    handshake.set_shutting_down(shutting_down);
    let mut outcome = Outcome { output: Vec::new(), end: Ok(None), consumed: 0 };
    for piece in pieces {
        let mut rest = piece;
        outcome.end = loop {
            let event = handshake.feed(&mut rest);
            let bound = limits.option_length.max(4096) as usize;
            assert!(handshake.data.len() <= bound && handshake.data.capacity() <= 2 * bound);
            assert!(handshake.haggling.output.capacity() <= 64 << 10);
            match event {
                Ok(Some(Event::Output)) => outcome.output.extend(handshake.take_output()),
                Ok(Some(Event::Lookup(name))) => {
                    handshake.found(exports.iter().enumerate().find(|(_, export)| export.name == name));
                }
                Ok(Some(Event::List)) => handshake.listed(&exports),
                Ok(None | Some(Event::StartTls | Event::Done(_))) | Err(_) => break event,
            }
        };
        outcome.consumed += piece.len() - rest.len();
        if outcome.end != Ok(None) {
            assert_eq!(handshake.feed(&mut rest), outcome.end, "the end is told again");
            break;
        }
        assert!(rest.is_empty(), "None means that all was taken");
    }
    outcome
}

fn speak(bytes: &[u8]) -> Outcome {
    converse([bytes], LIMITS, false)
}

/// Client flags 3: fixed newstyle, no zeroes; then the options.
fn fixed(options: &[Vec<u8>]) -> Vec<u8> {
    [vec![0, 0, 0, 3], options.concat()].concat()
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    [b"IHAVEOPT".as_slice(), &option.to_be_bytes(), &length, data].concat()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

fn info(number: u32, name: &str, requests: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((requests.len() as u16).to_be_bytes());
    data.extend(requests.iter().flat_map(|request| request.to_be_bytes()));
    option(number, &data)
}

fn meta(number: u32, name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((queries.len() as u32).to_be_bytes());
    data.extend(queries.iter().flat_map(|query| string(query)));
    option(number, &data)
}

fn structured() -> Vec<u8> {
    option(8, &[])
}

fn extended() -> Vec<u8> {
    option(11, &[])
}

/// Options, mostly well-formed, with some noise between.
fn any_options() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![Just("".to_owned()), Just("disk".to_owned()), ".{0,8}"];
    let query = prop_oneof![Just("base:".to_owned()), Just("base:allocation".to_owned()), "[a-z:]{0,12}"];
    let any_data = proptest::collection::vec(any::<u8>(), 0..60);
    let one = prop_oneof![
        8 => (0u32..13, any_data).prop_map(|(number, data)| option(number, &data)),
        4 => (0u32..13).prop_map(|number| option(number, &[])),
        4 => (6u32..8, name.clone(), proptest::collection::vec(0u16..5, 0..4))
            .prop_map(|(number, name, requests)| info(number, &name, &requests)),
        4 => (9u32..11, name, proptest::collection::vec(query, 0..4)).prop_map(|(number, name, queries)| {
            meta(number, &name, &queries.iter().map(String::as_str).collect::<Vec<_>>())
        }),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ];
    (0u32..5, proptest::collection::vec(one, 0..12)).prop_map(|(flags, options)| {
        let mut bytes = flags.to_be_bytes().to_vec();
        bytes.extend(options.concat());
        bytes
    })
}

proptest! {
    #[test]
    fn splits_do_not_matter(bytes in any_options(), cuts in proptest::collection::vec(0usize..600, 0..40)) {
        let whole = speak(&bytes);
        let mut cuts: Vec<_> = cuts.into_iter().filter(|&cut| cut < bytes.len()).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
        prop_assert_eq!(&converse(pieces, LIMITS, false), &whole);
        prop_assert_eq!(&converse(bytes.chunks(1), LIMITS, false).end, &whole.end);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096), good_start in any::<bool>()) {
        let start = if good_start { fixed(&[]) } else { Vec::new() };
        converse([start.as_slice(), &bytes], LIMITS, false);
        let tight = HandshakeLimits { option_length: 16, options: 3, bytes: 1000 };
        let noise: Vec<u8> = bytes.chunks(20).flat_map(|chunk| option(chunk[0].into(), chunk)).collect();
        converse([start.as_slice(), &noise], tight, bytes.len() % 2 == 0);
    }
}
