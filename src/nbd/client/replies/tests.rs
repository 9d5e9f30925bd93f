//! Replies written byte by byte, as the spec draws them.

use alloc::format;
use alloc::string::String;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::*;
use proptest::prelude::*;

const READ: ClientRequest =
    ClientRequest { command: NBD_CMD_READ, flags: 0, cookie: 0xc0, offset: 1000, length: 100 };
const STATUS: ClientRequest = ClientRequest { command: NBD_CMD_BLOCK_STATUS, ..READ };
const FLUSH: ClientRequest = ClientRequest { command: NBD_CMD_FLUSH, offset: 0, length: 0, ..READ };
const DF: ClientRequest = ClientRequest { flags: NBD_CMD_FLAG_DF, ..READ };
const ONE: ClientRequest = ClientRequest { flags: NBD_CMD_FLAG_REQ_ONE, ..STATUS };

/// Big-endian fields, one after another: the wire, without the code under test.
macro_rules! bytes {
    ($($field:expr),* $(,)?) => {{
        let mut bytes: Vec<u8> = Vec::new();
        $(bytes.extend($field.to_be_bytes());)*
        bytes
    }};
}

fn simple(error: u32, data: &[u8]) -> Vec<u8> {
    [bytes![0x6744_6698u32, error, 0xc0u64], data.to_vec()].concat()
}

fn structured(flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    [bytes![0x668e_33efu32, flags, kind, 0xc0u64, payload.len() as u32], payload.to_vec()].concat()
}

fn extended(flags: u16, kind: u16, offset: u64, payload: &[u8]) -> Vec<u8> {
    [bytes![0x6e8a_278cu32, flags, kind, 0xc0u64, offset, payload.len() as u64], payload.to_vec()].concat()
}

fn data(offset: u64, length: usize) -> Vec<u8> {
    [bytes![offset], vec![0xd0; length]].concat()
}

/// Events as text, data joined by its length: how it was split does not matter.
fn replay(
    mode: ReplyMode,
    requests: &[ClientRequest],
    bytes: &[u8],
    step: usize,
) -> Result<Vec<String>, ReplyError> {
    let mut parser = ReplyParser::new(mode, vec![5, 6]);
    requests.iter().for_each(|request| parser.expect(*request));
    let mut told = Vec::new();
    let mut data_bytes = 0;
    for mut piece in bytes.chunks(step.max(1)) {
        while let Some(event) = parser.feed(&mut piece)? {
            if let Event::Data { data, .. } = event {
                data_bytes += data.len();
                continue;
            }
            if data_bytes > 0 {
                told.push(format!("{} bytes", core::mem::take(&mut data_bytes)));
            }
            told.push(match event {
                Event::Data { .. } => unreachable!(),
                Event::Hole { offset, length, .. } => format!("hole {offset}+{length}"),
                Event::Extent { context, length, flags, .. } => format!("extent {context}: {length} {flags}"),
                Event::Failure { error, message, offset, .. } => {
                    format!("{error:?} {message:?} at {offset:?}")
                }
                Event::Done { result, .. } => format!("done {result:?}"),
            });
        }
        assert!(piece.is_empty());
        assert!(parser.part.capacity() <= 2 * head::LONGEST_ERROR as usize);
    }
    Ok(told)
}

/// The same for every way to split it into pieces of equal size.
fn check(mode: ReplyMode, request: ClientRequest, bytes: &[u8]) -> Result<Vec<String>, ReplyError> {
    let whole = replay(mode, &[request], bytes, bytes.len());
    for step in 1..bytes.len().min(40) {
        assert_eq!(replay(mode, &[request], bytes, step), whole, "in pieces of {step}");
    }
    whole
}

fn broken(mode: ReplyMode, request: ClientRequest, bytes: &[u8]) -> String {
    check(mode, request, bytes).expect_err("a correct client refuses it").to_string()
}

use ReplyMode::{Extended, Simple, Structured};

#[test]
fn simple_replies() {
    assert_eq!(check(Simple, READ, &simple(0, &[7; 100])).unwrap(), ["100 bytes", "done Ok(())"]);
    assert_eq!(check(Simple, READ, &simple(5, &[])).unwrap(), ["done Err(Io)"]);
    assert_eq!(check(Simple, FLUSH, &simple(0, &[])).unwrap(), ["done Ok(())"]);
    assert_eq!(check(Structured, FLUSH, &simple(28, &[])).unwrap(), ["done Err(NoSpace)"]);
    assert_eq!(check(Simple, FLUSH, &simple(4711, &[])).unwrap(), ["done Err(Invalid)"]);
    let nothing = ClientRequest { length: 0, ..READ };
    assert_eq!(check(Simple, nothing, &simple(0, &[])).unwrap(), ["done Ok(())"]);
}

#[test]
fn a_structured_read_in_any_order() {
    let reply = [
        structured(0, 1, &data(1040, 60)),
        structured(0, 2, &bytes![1000u64, 30u32]),
        structured(1, 1, &data(1030, 10)),
    ]
    .concat();
    assert_eq!(
        check(Structured, READ, &reply).unwrap(),
        ["60 bytes", "hole 1000+30", "10 bytes", "done Ok(())"]
    );
    let in_one = [structured(0, 1, &data(1000, 100)), structured(1, 0, &[])].concat();
    assert_eq!(check(Structured, DF, &in_one).unwrap(), ["100 bytes", "done Ok(())"]);
}

#[test]
fn an_extended_read_echoes_the_offset_of_the_request() {
    let reply =
        [extended(0, 1, 1000, &data(1050, 50)), extended(1, 2, 1000, &bytes![1000u64, 50u32])].concat();
    assert_eq!(check(Extended, READ, &reply).unwrap(), ["50 bytes", "hole 1000+50", "done Ok(())"]);
    let wrong = extended(1, 1, 1050, &data(1000, 100));
    assert!(broken(Extended, READ, &wrong).contains("reply to offset 1000 says offset 1050"));
}

#[test]
fn a_partial_read_with_an_error_offset() {
    let message = b"bad sector";
    let error = [bytes![5u32, 10u16], message.to_vec(), bytes![1050u64]].concat();
    let reply = [structured(0, 1, &data(1000, 60)), structured(1, 0x8002, &error)].concat();
    let told = check(Structured, READ, &reply).unwrap();
    assert_eq!(told, ["60 bytes", "Io \"bad sector\" at Some(1050)", "done Err(Io)"]);
    let late = [structured(0, 0x8002, &error), structured(1, 1, &data(1000, 60))].concat();
    assert!(broken(Structured, READ, &late).contains("60 bytes at 1000 overlap"));
    let aside = [structured(0, 0x8002, &error), structured(1, 1, &data(1000, 50))].concat();
    assert_eq!(check(Structured, READ, &aside).unwrap().last().unwrap(), "done Err(Io)");
}

#[test]
fn unknown_error_chunks_fail_the_reply_only() {
    let error = [bytes![22u32, 2u16], b"no".to_vec(), vec![9; 30]].concat();
    let told = check(Extended, FLUSH, &extended(1, 0x80ff, 0, &error)).unwrap();
    assert_eq!(told, ["Invalid \"no\" at None", "done Err(Invalid)"]);
    let two =
        [structured(0, 0x8001, &bytes![28u32, 0u16]), structured(1, 0x8001, &bytes![5u32, 0u16])].concat();
    assert_eq!(check(Structured, READ, &two).unwrap().last().unwrap(), "done Err(NoSpace)");
}

#[test]
fn block_status_of_each_context() {
    let five = bytes![5u32, 60u32, 0u32, 4000u32, 3u32];
    let six = bytes![6u32, 100u32, 1u32];
    let reply = [structured(0, 5, &five), structured(1, 5, &six)].concat();
    let told = check(Structured, STATUS, &reply).unwrap();
    assert_eq!(told, ["extent 5: 60 0", "extent 5: 4000 3", "extent 6: 100 1", "done Ok(())"]);
    let wide = bytes![5u32, 1u32, 1u64 << 40, 2u64];
    let six = bytes![6u32, 1u32, 50u64, 1u64 << 33];
    let reply = [extended(0, 6, 1000, &six), extended(0, 6, 1000, &wide), extended(1, 0, 1000, &[])].concat();
    let told = check(Extended, STATUS, &reply).unwrap();
    assert_eq!(told, ["extent 6: 50 8589934592", "extent 5: 1099511627776 2", "done Ok(())"]);
}

#[test]
fn a_status_of_one_context_has_that_and_no_other() {
    let status = |ids: &[u32]| -> Vec<u8> {
        let chunk = |id: &u32| extended(0, 6, 1000, &bytes![*id, 1u32, 100u64, 1u64]);
        [ids.iter().flat_map(chunk).collect(), extended(1, 0, 1000, &[])].concat()
    };
    let told = |ids: &[u32]| {
        let mut parser = ReplyParser::new(Extended, vec![5, 6]);
        parser.expect_of_context(STATUS, 6);
        let (bytes, mut told) = (status(ids), Vec::new());
        let mut input = &bytes[..];
        while let Some(event) = parser.feed(&mut input).map_err(|error| error.to_string())? {
            told.push(format!("{event:?}"));
        }
        Ok::<_, String>(told.len())
    };
    assert_eq!(told(&[6]), Ok(2));
    assert!(told(&[5]).unwrap_err().contains("not asked for"));
    assert!(told(&[6, 5]).unwrap_err().contains("not asked for"));
    assert!(told(&[]).unwrap_err().contains("0 of 1 contexts"));
}

#[test]
fn what_a_correct_server_never_sends() {
    let cases: Vec<(ReplyMode, ClientRequest, Vec<u8>, &str)> = vec![
        (Simple, READ, structured(1, 1, &data(1000, 100)), "begins with 0x668e33ef"),
        (Structured, READ, extended(1, 1, 1000, &data(1000, 100)), "begins with 0x6e8a278c"),
        (Extended, FLUSH, simple(0, &[]), "begins with 0x67446698"),
        (Simple, READ, bytes![0x6744_6698u32, 0u32, 0xc1u64], "cookie 0xc1"),
        (Extended, READ, bytes![0x6e8a_278cu32, 1u16, 0u16, 0xc1u64, 0u64, 0u64], "cookie 0xc1"),
        (Structured, READ, simple(22, &[]), "simple reply to NBD_CMD_READ"),
        (Structured, STATUS, simple(0, &[]), "simple reply to NBD_CMD_BLOCK_STATUS"),
        (Structured, READ, structured(0, 0, &[]), "type 0 has 0 bytes"),
        (Structured, READ, structured(1, 0, &[0]), "type 0 has 1 bytes"),
        (Structured, READ, structured(1, 0, &[]), "after 0 of 100 bytes"),
        (Structured, READ, structured(1, 1, &data(1000, 99)), "after 99 of 100 bytes"),
        (Structured, READ, structured(1, 1, &bytes![1000u64]), "type 1 has 8 bytes"),
        (Structured, READ, structured(1, 1, &data(1000, 101)), "type 1 has 109 bytes"),
        (Structured, READ, structured(1, 1, &data(999, 50)), "50 bytes at 999 are outside"),
        (Structured, READ, structured(1, 1, &data(1051, 50)), "50 bytes at 1051 are outside"),
        (Structured, READ, structured(1, 1, &data(u64::MAX, 50)), "are outside"),
        (Structured, READ, structured(1, 2, &bytes![1000u64, 0u32]), "type 2 has no bytes"),
        (Structured, READ, structured(1, 2, &bytes![1000u64, 101u32]), "are outside"),
        (Structured, READ, structured(1, 2, &bytes![1000u64]), "type 2 has 8 bytes"),
        (Structured, FLUSH, structured(1, 1, &data(0, 1)), "type 1 in reply to NBD_CMD_FLUSH"),
        (Structured, READ, structured(1, 3, &[]), "type 3 in reply to NBD_CMD_READ"),
        (Structured, READ, structured(1, 5, &bytes![5u32, 1u32, 0u32]), "type 5 in reply to NBD_CMD_READ"),
        (Extended, STATUS, extended(1, 5, 1000, &bytes![5u32, 1u32, 0u32]), "type 5 in reply"),
        (Structured, STATUS, structured(1, 6, &bytes![5u32, 1u32, 1u64, 0u64]), "type 6 in reply"),
        (Structured, STATUS, structured(1, 5, &bytes![5u32]), "type 5 has 4 bytes"),
        (Structured, STATUS, structured(1, 5, &bytes![5u32, 1u32, 0u32, 1u32]), "type 5 has 16 bytes"),
        (Structured, STATUS, structured(1, 5, &bytes![7u32, 1u32, 0u32]), "not selected"),
        (Structured, STATUS, structured(1, 5, &bytes![5u32, 0u32, 0u32]), "no bytes"),
        (Structured, STATUS, structured(1, 5, &bytes![5u32, 100u32, 0u32, 1u32, 0u32]), "after the end"),
        (Structured, STATUS, structured(1, 5, &bytes![5u32, 100u32, 0u32]), "1 of 2 contexts"),
        (Structured, ONE, structured(1, 5, &bytes![5u32, 101u32, 0u32]), "longer than the request"),
        (Structured, ONE, structured(1, 5, &bytes![5u32, 9u32, 0u32, 9u32, 1u32]), "several extents"),
        (Extended, STATUS, extended(1, 6, 1000, &bytes![5u32, 2u32, 1u64, 0u64]), "another number"),
        (Extended, STATUS, extended(1, 6, 1000, &bytes![5u32, 1u32, u64::MAX, 0u64]), "beyond 64 bits"),
        (Structured, READ, structured(1, 0x8001, &bytes![5u32]), "type 32769 has 4 bytes"),
        (Structured, READ, structured(1, 0x8001, &bytes![5u32, 1u16]), "message longer than itself"),
        (Structured, READ, structured(1, 0x8001, &bytes![0u32, 0u16]), "no error value"),
        (Structured, READ, structured(1, 0x8002, &bytes![5u32, 2u16, 1000u64]), "no offset after"),
        (Structured, READ, structured(1, 0x8002, &bytes![5u32, 0u16, 1100u64]), "offset outside"),
        (
            Structured,
            READ,
            structured(1, 0x8001, &[bytes![5u32, 4097u16], vec![b'x'; 4097]].concat()),
            "more than 4096 bytes",
        ),
    ];
    for (mode, request, bytes, part) in cases {
        let message = broken(mode, request, &bytes);
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn overlaps_and_fragments() {
    let first = structured(0, 1, &data(1000, 50));
    for (offset, length) in [(1000, 50), (1049, 10), (1000, 1)] {
        let reply = [first.clone(), structured(1, 1, &data(offset, length))].concat();
        assert!(broken(Structured, READ, &reply).contains("overlap an earlier chunk"));
    }
    let around = [structured(0, 1, &data(1020, 10)), structured(1, 1, &data(1010, 30))].concat();
    assert!(broken(Structured, READ, &around).contains("overlap an earlier chunk"));
    let twice = [first.clone(), structured(1, 1, &data(1050, 50))].concat();
    assert!(broken(Structured, DF, &twice).contains("must not be fragmented"));
    let context_twice = structured(0, 5, &bytes![5u32, 100u32, 0u32]).repeat(2);
    assert!(broken(Structured, STATUS, &context_twice).contains("the second about its context"));
}

#[test]
fn huge_lengths_are_refused_before_anything_follows() {
    let status = bytes![0x668e_33efu32, 1u16, 5u16, 0xc0u64, 4 + 8 * ((1u32 << 20) + 1)];
    assert!(broken(Structured, STATUS, &status).contains("8388620 bytes"));
    let error = bytes![0x6e8a_278cu32, 1u16, 0x8001u16, 0xc0u64, 1000u64, u64::MAX];
    assert!(broken(Extended, READ, &error).contains("18446744073709551615 bytes"));
    let data = bytes![0x6e8a_278cu32, 1u16, 1u16, 0xc0u64, 1000u64, 1u64 << 60, 1000u64];
    assert!(broken(Extended, READ, &data).contains("type 1 has"));
}

#[test]
fn pieces_and_error_offsets_are_bounded() {
    let request = ClientRequest { length: 1 << 20, ..READ };
    let pieces: Vec<u8> =
        (0..=MAX_PIECES_TESTED).flat_map(|index| structured(0, 1, &data(1000 + 2 * index, 1))).collect();
    let error = replay(Structured, &[request], &pieces, pieces.len()).unwrap_err();
    assert_eq!(error, ReplyError::TooManyPieces);
    let errors: Vec<u8> =
        (0..2000u64).flat_map(|index| structured(0, 0x8002, &bytes![5u32, 0u16, 1000 + index])).collect();
    assert_eq!(replay(Structured, &[request], &errors, 4096).unwrap_err(), ReplyError::TooManyPieces);
}

const MAX_PIECES_TESTED: u64 = pending::MAX_PIECES as u64;

#[test]
fn replies_of_several_requests_interleave() {
    let other = ClientRequest { cookie: 0xc1, ..READ };
    let mut parser = ReplyParser::new(Structured, vec![]);
    parser.expect(READ);
    parser.expect(other);
    let chunk = |flags: u16, cookie: u64, offset: u64| {
        [bytes![0x668e_33efu32, flags, 1u16, cookie, 58u32, offset], vec![1; 50]].concat()
    };
    let reply =
        [chunk(0, 0xc1, 1000), chunk(0, 0xc0, 1050), chunk(1, 0xc1, 1050), chunk(1, 0xc0, 1000)].concat();
    let mut input = &reply[..];
    let mut done = Vec::new();
    while let Some(event) = parser.feed(&mut input).unwrap() {
        if let Event::Done { cookie, result } = event {
            done.push((cookie, result));
        }
    }
    assert_eq!(done, [(0xc1, Ok(())), (0xc0, Ok(()))]);
    assert_eq!(parser.in_flight(), 0);
}

/// Reads cut at random places into data and holes, sent in random order.
fn any_read() -> impl Strategy<Value = (Vec<u8>, Vec<(u64, u64, bool)>)> {
    prop::collection::vec((1u64..50, any::<bool>(), any::<u32>()), 1..20).prop_map(|pieces| {
        let mut content = Vec::new();
        let mut chunks = Vec::new();
        for (index, (length, hole, order)) in pieces.into_iter().enumerate() {
            chunks.push((order, (content.len() as u64, length, hole)));
            content.resize(content.len() + length as usize, if hole { 0 } else { index as u8 + 1 });
        }
        chunks.sort_by_key(|(order, _)| *order);
        (content, chunks.into_iter().map(|(_, chunk)| chunk).collect())
    })
}

proptest! {
    #[test]
    fn a_read_is_put_together_whatever_its_order_and_splits(
        (content, chunks) in any_read(),
        base in 0u64..1 << 62,
        is_extended: bool,
        steps in prop::collection::vec(1usize..64, 1..50),
    ) {
        let mut reply = Vec::new();
        for (at, length, hole) in chunks {
            let offset = base + at;
            let (kind, payload) = match hole {
                true => (2, bytes![offset, length as u32]),
                false => (1, [bytes![offset], content[at as usize..][..length as usize].to_vec()].concat()),
            };
            reply.extend(match is_extended {
                true => extended(0, kind, base, &payload),
                false => structured(0, kind, &payload),
            });
        }
        reply.extend(if is_extended { extended(1, 0, base, &[]) } else { structured(1, 0, &[]) });

        let mode = if is_extended { Extended } else { Structured };
        let mut parser = ReplyParser::new(mode, vec![]);
        parser.expect(ClientRequest { offset: base, length: content.len() as u64, ..READ });
        let mut seen = vec![0xee; content.len()];
        let mut result = None;
        let (mut rest, mut steps) = (&reply[..], steps.iter().cycle());
        while !rest.is_empty() {
            let mut piece = &rest[..rest.len().min(*steps.next().unwrap())];
            rest = &rest[piece.len()..];
            while let Some(event) = parser.feed(&mut piece).unwrap() {
                match event {
                    Event::Data { offset, data, .. } => seen[(offset - base) as usize..][..data.len()].copy_from_slice(data),
                    Event::Hole { offset, length, .. } => seen[(offset - base) as usize..][..length as usize].fill(0),
                    Event::Done { result: ended, .. } => result = Some(ended),
                    other => panic!("{other:?}"),
                }
            }
        }
        prop_assert_eq!(result, Some(Ok(())));
        prop_assert_eq!(seen, content);
    }

    #[test]
    fn no_bytes_panic_or_grow_the_parser(
        mode in prop::sample::select(vec![Simple, Structured, Extended]),
        magic in prop::sample::select(vec![0x6744_6698u32, 0x668e_33ef, 0x6e8a_278c, 0]),
        flags in 0u16..2,
        kind in prop::sample::select(vec![0u16, 1, 2, 5, 6, 0x8001, 0x8002, 0x8003, 9]),
        rest in prop::collection::vec(prop::sample::select(vec![0u8, 1, 3, 5, 8, 12, 0xc0, 0xe8, 0xff]), 0..200),
        step in 1usize..30,
    ) {
        let bytes = [bytes![magic, flags, kind, 0xc0u64], rest].concat();
        for request in [READ, STATUS, FLUSH, DF, ONE] {
            let _ = replay(mode, &[request], &bytes, step);
        }
    }
}
