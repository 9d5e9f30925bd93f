//! The server's handshake, fed with what a client may send: whole, and in pieces, which must come to the same.
//!
//! Input: a byte that says how to split and whether the server is stopping, then the client's bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringnbd_proto::vocabulary::{BlockSizes, DeviceFacts};
use ringnbd_proto::meta_context::MetaContext;
use ringnbd_proto::server::handshake::{CloseReason, Event, Handshake, HandshakeLimits};
use ringnbd_proto::session::{ExportInfo, ReplyMode};

const LIMITS: HandshakeLimits = HandshakeLimits { option_length: 16 << 10, options: 64, bytes: 1 << 20 };

fn exports() -> [ExportInfo; 3] {
    let export = |name: &str, minimum, read_only, require_block_size| ExportInfo {
        name: name.into(),
        description: if read_only { "a description".into() } else { String::new() },
        facts: DeviceFacts {
            size: 1 << 20,
            read_only,
            rotational: false,
            fast_zero: true,
            block_sizes: BlockSizes { minimum, ..BlockSizes::default() },
        },
        contexts: vec![MetaContext::BaseAllocation],
        require_block_size,
    };
    [export("", 1, false, false), export("a", 512, true, false), export("strict", 4096, false, true)]
}

/// All that was sent, and how it ended; `Ok(None)`: it waits for more.
fn run(data: &[u8], piece: usize, shutting_down: bool) -> (Vec<u8>, Result<Option<Event>, CloseReason>) {
    let exports = exports();
    let mut handshake = Handshake::new(LIMITS);
    handshake.set_shutting_down(shutting_down);
    let mut sent = Vec::new();
    let mut at = 0;
    let mut end = 0;
    loop {
        let mut input = &data[at..end];
        let event = handshake.feed(&mut input);
        at = end - input.len();
        match event {
            Ok(None) => {
                assert_eq!(at, end, "all input is taken before more is wanted");
                if end == data.len() {
                    return (sent, Ok(None));
                }
                end = data.len().min(end + piece);
            }
            Ok(Some(Event::Output)) => {
                let output = handshake.take_output();
                assert!(!output.is_empty());
                sent.extend(output);
            }
            Ok(Some(Event::Lookup(name))) => {
                let found = exports.iter().position(|export| export.name == name);
                handshake.found(found.map(|index| (index, &exports[index])));
            }
            Ok(Some(Event::List)) => handshake.listed(&exports),
            Ok(Some(Event::StartTls)) => unreachable!("this server has no TLS"),
            Ok(Some(Event::Done(negotiated))) => {
                let session = &negotiated.session;
                assert_eq!(session.size, 1 << 20);
                assert!(session.contexts.is_empty() || session.reply_mode != ReplyMode::Simple);
                assert!(session.contexts.len() <= 1, "there is one context");
                assert!(session.contexts.iter().all(|context| context.id != 0));
                return (sent, Ok(Some(Event::Done(negotiated))));
            }
            Err(reason) => return (sent, Err(reason)),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&how, data)) = data.split_first() else { return };
    let shutting_down = how & 0x80 != 0;
    let whole = run(data, usize::MAX >> 1, shutting_down);
    let pieces = run(data, usize::from(how & 0x7f) + 1, shutting_down);
    assert_eq!(whole, pieces);
    // Nothing a client sends is answered with much more than itself.
    assert!(whole.0.len() <= 18 + 200 * (data.len() / 16 + 1) + 2 * data.len(), "{} bytes", whole.0.len());
});
