//! The statements about the handshake (H1 and on), each a test; and what follows from the limits.

use alloc::borrow::ToOwned;
use alloc::vec;
use alloc::vec::Vec;

use super::*;

#[test]
fn the_greeting_is_the_first_word() {
    let outcome = speak(&[]);
    assert_eq!(outcome.output, b"NBDMAGICIHAVEOPT\0\x03");
    assert_eq!(outcome.end, Ok(None));
}

#[test]
fn h01_unknown_client_flags_close() {
    for flags in [4u32, 0x8000_0003, u32::MAX] {
        let outcome = speak(&flags.to_be_bytes());
        assert_eq!(*outcome.close_reason(), CloseReason::UnknownClientFlags(flags));
        assert_eq!(outcome.output.len(), 18);
    }
}

#[test]
fn h02_unknown_options_are_refused_and_skipped() {
    let outcome = speak(&fixed(&[option(0x0765_4321, b"data"), option(4, &[]), info(GO, "", &[])]));
    assert_eq!(outcome.kinds(), [(0x0765_4321, ERR + 1), (4, ERR + 1), (GO, 3), (GO, ACK)]);
}

#[test]
fn h02_the_refusal_follows_the_data() {
    let whole = fixed(&[option(99, &[7; 100])]);
    let outcome = speak(&whole[..whole.len() - 1]);
    assert_eq!((outcome.kinds(), outcome.end), (vec![], Ok(None)));
    let long = fixed(&[option(99, &[7; 8193])]);
    assert_eq!(speak(&long[..20]).kinds(), [(99, ERR + 1)]);
}

#[test]
fn h03_abort_is_acked_whatever_it_carries() {
    for data in [vec![], vec![7; 100], vec![7; 100_000]] {
        let outcome = speak(&fixed(&[option(2, &data)]));
        assert_eq!(outcome.kinds(), [(2, ACK)]);
        assert_eq!(*outcome.close_reason(), CloseReason::Aborted);
    }
}

#[test]
fn h06_list_with_data_is_answered_once() {
    let outcome = speak(&fixed(&[option(3, b"x"), option(2, &[])]));
    assert_eq!(outcome.kinds(), [(3, ERR + 3), (2, ACK)]);
}

#[test]
fn h07_list_shows_names_and_descriptions() {
    let outcome = speak(&fixed(&[option(3, &[])]));
    let server = |name: &str, description: &str| (3, 2, [string(name), description.into()].concat());
    let want = [server("", "the default"), server("disk", ""), server("strict", ""), (3, ACK, vec![])];
    assert_eq!(outcome.replies(), want);
}

#[test]
fn h08_malformed_info_is_refused_in_sync() {
    let good = info(GO, "disk", &[0]);
    let data = &good[16..];
    let mut long_name = data.to_vec();
    long_name[3] = 5;
    let more = [data, &[0, 0]].concat();
    for bad in
        [&[][..], &data[..3], &data[..data.len() - 1], &data[..8], &long_name, &more, &[0xff; 4], &[0; 5]]
    {
        for number in [INFO, GO] {
            let outcome = speak(&fixed(&[option(number, bad), option(2, &[])]));
            assert_eq!(outcome.kinds(), [(number, ERR + 3), (2, ACK)], "{bad:?}");
        }
    }
}

#[test]
fn h09_impossible_names() {
    let long = "x".repeat(4097);
    let outcome =
        speak(&fixed(&[info(GO, &long, &[]), info(INFO, "a\0b", &[]), info(INFO, &long[..4096], &[])]));
    assert_eq!(outcome.kinds(), [(GO, ERR + 3), (INFO, ERR + 3), (INFO, ERR + 6)]);
    let not_text = [0, 0, 0, 2, 0xc3, 0x28, 0, 0];
    assert_eq!(speak(&fixed(&[option(GO, &not_text)])).kinds(), [(GO, ERR + 3)]);
    for name in [long.as_bytes(), b"a\0b", &[0xff]] {
        let outcome = speak(&fixed(&[option(1, name)]));
        assert!(matches!(outcome.close_reason(), CloseReason::BadName(_)));
        assert_eq!(outcome.output.len(), 18);
    }
}

#[test]
fn h10_go_tells_the_export_once_and_ignores_unknown_requests() {
    let outcome = speak(&fixed(&[info(GO, "", &[0, 1, 2, 3, 0x7777, 3])]));
    let flags = 0b1101_0110_1101u16.to_be_bytes();
    let want = [
        (GO, 3, [[0, 3].as_slice(), &[0, 0, 0, 1], &[0, 0, 16, 0], &[2, 0, 0, 0]].concat()),
        (GO, 3, [[0, 0].as_slice(), &0x1234_5000u64.to_be_bytes(), &flags].concat()),
        (GO, 3, b"\0\x01".to_vec()),
        (GO, 3, b"\0\x02the default".to_vec()),
        (GO, ACK, vec![]),
    ];
    assert_eq!(outcome.replies(), want);
    assert_eq!(outcome.done().export, 0);
    assert!(outcome.done().session.enforce_alignment);
}

#[test]
fn h11_unknown_exports() {
    let outcome = speak(&fixed(&[info(INFO, "no", &[1]), info(GO, "no", &[]), info(GO, "disk", &[])]));
    assert_eq!(outcome.kinds(), [(INFO, ERR + 6), (GO, ERR + 6), (GO, 3), (GO, ACK)]);
    assert_eq!(outcome.done().export, 1);
    let outcome = speak(&fixed(&[option(1, b"no")]));
    assert_eq!(*outcome.close_reason(), CloseReason::UnknownExport("no".to_owned()));
}

#[test]
fn h12_info_tells_what_go_tells() {
    for name in ["", "disk", "strict"] {
        for upgrade in [
            vec![],
            structured(),
            extended(),
            [extended(), meta(SET_META, name, &["base:allocation"])].concat(),
        ] {
            for requests in [&[][..], &[3], &[1, 2, 3]] {
                let outcome =
                    speak(&fixed(&[upgrade.clone(), info(INFO, name, requests), info(GO, name, requests)]));
                let data = |number| -> Vec<_> {
                    let replies = outcome.replies().into_iter().filter(|reply| reply.0 == number);
                    replies.map(|(_, kind, data)| (kind, data)).collect()
                };
                assert_eq!(data(INFO), data(GO));
            }
        }
    }
}

/// Not of the protocol: who does not ask for it never sees the flag.
#[test]
fn a_client_can_ask_for_the_end_of_its_session() {
    for (requests, ends) in
        [(&[3][..], false), (&[0xf17b], true), (&[3, 0xf17b, 7], true), (&[0xf17c], false)]
    {
        let outcome = speak(&fixed(&[info(INFO, "disk", requests), info(GO, "disk", requests)]));
        let session = &outcome.done().session;
        assert_eq!(session.ends_on_growth(), ends, "{requests:?}");
        assert_eq!(session.transmission_flags & 1 << 15 != 0, ends);
    }
    // INFO does not bind, and EXPORT_NAME asks for nothing.
    let outcome = speak(&fixed(&[info(INFO, "disk", &[0xf17b]), info(GO, "disk", &[])]));
    assert!(!outcome.done().session.ends_on_growth());
    assert!(!speak(&fixed(&[option(1, b"disk")])).done().session.ends_on_growth());
}

#[test]
fn h13_zeroes_follow_export_name_unless_declined_and_never_go() {
    for (flags, length) in [(0, 134), (1, 134), (2, 10), (3, 10)] {
        let outcome = speak(&[vec![0, 0, 0, flags], option(1, b"disk")].concat());
        assert_eq!(outcome.output.len() - 18, length, "flags {flags}");
        assert_eq!(outcome.output[18..26], 0x1234_5000u64.to_be_bytes());
        assert!(outcome.output[28..].iter().all(|&byte| byte == 0));
        assert_eq!(outcome.done().export, 1);
        assert!(!outcome.done().session.enforce_alignment);
    }
    let outcome = speak(&[vec![0, 0, 0, 1], info(GO, "disk", &[])].concat());
    assert_eq!(outcome.kinds(), [(GO, 3), (GO, ACK)]);
}

#[test]
fn h15_strict_block_sizes_must_be_asked_for() {
    for number in [INFO, GO] {
        let outcome = speak(&fixed(&[info(number, "strict", &[])]));
        assert_eq!(outcome.kinds(), [(number, 3), (number, ERR + 8)]);
        assert_eq!(outcome.replies()[0].2[..6], [0, 3, 0, 0, 2, 0]);
        assert_eq!(outcome.end, Ok(None));
    }
    assert!(speak(&fixed(&[info(GO, "strict", &[3])])).done().session.enforce_alignment);
    assert_eq!(*speak(&fixed(&[option(1, b"strict")])).close_reason(), CloseReason::BlockSizeRequired);
    let lenient = speak(&fixed(&[info(INFO, "disk", &[3]), info(GO, "disk", &[])]));
    assert!(!lenient.done().session.enforce_alignment, "INFO does not bind");
}

#[test]
fn h16_upgrades_count_once() {
    let outcome = speak(&fixed(&[structured(), structured(), extended(), extended(), info(GO, "", &[])]));
    let want = [(8, ACK), (8, ERR + 3), (11, ACK), (11, ERR + 3), (GO, 3), (GO, ACK)];
    assert_eq!(outcome.kinds(), want);
    assert_eq!(outcome.done().session.reply_mode, ReplyMode::Extended);
    let outcome = speak(&fixed(&[option(8, b"x"), option(11, b"x"), info(GO, "", &[])]));
    assert_eq!(outcome.kinds()[..2], [(8, ERR + 3), (11, ERR + 3)]);
    assert_eq!(outcome.done().session.reply_mode, ReplyMode::Simple);
}

#[test]
fn h17_extended_headers_exclude_what_is_older() {
    let outcome = speak(&fixed(&[extended(), structured(), option(1, b"")]));
    assert_eq!(outcome.kinds(), [(11, ACK), (8, ERR + 10)]);
    assert_eq!(*outcome.close_reason(), CloseReason::ExportNameAfterExtendedHeaders);
}

#[test]
fn h18_contexts_need_structured_replies() {
    let outcome = speak(&fixed(&[meta(SET_META, "", &["base:allocation"]), info(GO, "", &[])]));
    assert_eq!(outcome.kinds()[0], (SET_META, ERR + 3));
    assert_eq!(outcome.done().session.contexts, []);
}

#[test]
fn h19_a_failing_selection_clears_the_earlier_one() {
    let select = || meta(SET_META, "", &["base:allocation"]);
    let contexts = |more: Vec<u8>| {
        let outcome = speak(&fixed(&[structured(), select(), more, info(GO, "", &[])]));
        outcome.done().session.contexts.len()
    };
    assert_eq!(contexts(vec![]), 1);
    for bad in [
        option(SET_META, &[]),
        option(SET_META, &[0; 9000]),
        meta(SET_META, "no", &["base:allocation"]),
        meta(SET_META, "", &["nocolon"]),
        meta(SET_META, "", &[]),
        meta(SET_META, "disk", &["base:allocation"]),
    ] {
        assert_eq!(contexts(bad), 0);
    }
    assert_eq!(contexts(meta(LIST_META, "", &[])), 1);
}

#[test]
fn h20_contexts_belong_to_their_export() {
    for (name, count) in [("disk", 1), ("", 0)] {
        for go in [info(GO, name, &[]), option(1, name.as_bytes())] {
            let outcome = speak(&fixed(&[structured(), meta(SET_META, "disk", &["base:allocation"]), go]));
            assert_eq!(outcome.done().session.contexts.len(), count);
        }
    }
}

#[test]
fn h21_lists_of_contexts() {
    let found = (LIST_META, 4, b"\0\0\0\0base:allocation".to_vec());
    let end = (LIST_META, ACK, vec![]);
    for (queries, count) in [
        (&[][..], 1),
        (&["base:"], 1),
        (&["base:allocation", "base:"], 1),
        (&["base:x", "qemu:", "x-y:z"], 0),
    ] {
        let outcome = speak(&fixed(&[structured(), meta(LIST_META, "disk", queries)]));
        let want = [vec![found.clone(); count], vec![end.clone()]].concat();
        assert_eq!(outcome.replies()[1..], want, "{queries:?}");
    }
    assert_eq!(speak(&fixed(&[meta(LIST_META, "no", &[])])).kinds(), [(LIST_META, ERR + 6)]);
}

#[test]
fn h22_selection_takes_whole_names_only() {
    for (queries, count) in [
        (&["base:"][..], 0),
        (&["base:nosuch", "qemu:dirty-bitmap:x"], 0),
        (&["x:", "base:allocation", "base:allocation"], 1),
    ] {
        let outcome = speak(&fixed(&[extended(), meta(SET_META, "", queries), info(GO, "", &[])]));
        let replies = outcome.replies();
        assert_eq!(replies.iter().filter(|reply| reply.1 == 4).count(), count, "{queries:?}");
        let contexts = &outcome.done().session.contexts;
        assert_eq!(contexts.len(), count);
        assert!(contexts.iter().all(|selected| selected.id != 0));
        let filters = outcome.done().session.transmission_flags & 1 << 12 != 0;
        assert_eq!(filters, count > 0, "BLOCK_STATUS_PAYLOAD goes with contexts");
    }
    assert_eq!(speak(&fixed(&[structured(), meta(SET_META, "", &[":x"])])).kinds()[1], (SET_META, ERR + 3));
}

#[test]
fn h23_queries_stay_within_the_option() {
    let good = meta(SET_META, "", &["base:allocation"]);
    let data = &good[16..];
    let (mut long_query, mut many) = (data.to_vec(), data.to_vec());
    long_query[11] += 1;
    many[4..8].fill(0xff);
    let more = [data, &[0]].concat();
    for bad in [&data[..data.len() - 1], &long_query, &many, &more, &data[..6], &[0xff; 12]] {
        for number in [LIST_META, SET_META] {
            let outcome = speak(&fixed(&[structured(), option(number, bad), option(2, &[])]));
            assert_eq!(outcome.kinds()[1..], [(number, ERR + 3), (2, ACK)], "{bad:?}");
        }
    }
}

#[test]
fn h28_starttls_is_refused_and_tls_never_required() {
    let outcome = speak(&fixed(&[option(5, &[]), option(5, b"x"), info(GO, "", &[])]));
    assert_eq!(outcome.kinds(), [(5, ERR + 1), (5, ERR + 3), (GO, 3), (GO, ACK)]);
}

#[test]
fn h30_a_stopping_server_refuses_all_but_abort() {
    let stopping = |bytes: &[u8]| converse([bytes], LIMITS, true);
    let options =
        [structured(), info(GO, "", &[]), option(99, b"x"), meta(SET_META, "", &[]), option(2, &[])];
    let outcome = stopping(&fixed(&options));
    assert_eq!(outcome.kinds(), [(8, ERR + 7), (GO, ERR + 7), (99, ERR + 7), (SET_META, ERR + 7), (2, ACK)]);
    assert_eq!(*stopping(&fixed(&[option(1, b"")])).close_reason(), CloseReason::ShuttingDown);
}

#[test]
fn h32_long_options_are_skipped_without_memory() {
    let limits = HandshakeLimits { bytes: 1 << 40, ..LIMITS };
    for (number, error) in [(GO, 9), (SET_META, 9), (99, 1), (3, 3)] {
        let mut header = fixed(&[option(number, &[])]);
        header[16..20].fill(0xff);
        let filler = vec![0xaa; 1 << 20];
        let pieces = [header.as_slice()].into_iter().chain(std::iter::repeat_n(filler.as_slice(), 4096));
        let outcome = converse(pieces.chain([&b"IHAVEOPT"[..0]]), limits, false);
        assert_eq!(outcome.replies()[0].1, ERR + error);
        // 4096 MiB were sent, one byte more than the option's length: it begins the next one.
        assert_eq!((outcome.end, outcome.consumed), (Ok(None), 20 + (4 << 30)));
    }
    let just_over = option(GO, &vec![0; 8193]);
    let outcome = speak(&fixed(&[just_over, info(GO, "", &[])]));
    assert_eq!(outcome.kinds(), [(GO, ERR + 9), (GO, 3), (GO, ACK)]);
}

#[test]
fn h34_plain_newstyle_knows_export_name_only() {
    let outcome = speak(&[vec![0, 0, 0, 0], option(3, b"xyz"), info(GO, "", &[]), option(1, b"")].concat());
    assert_eq!(outcome.output[26..34], [0, 0, 0, 3, 0x80, 0, 0, 3]);
    assert_eq!(outcome.done().export, 0);
}

#[test]
fn a_bad_magic_closes() {
    let mut bytes = fixed(&[structured()]);
    bytes[4] = b'i';
    assert!(matches!(speak(&bytes).close_reason(), CloseReason::BadMagic(_)));
}

#[test]
fn options_and_bytes_are_limited() {
    let unknown = option(99, &[0; 10]);
    let outcome = speak(&fixed(&vec![unknown.clone(); 65]));
    assert_eq!(outcome.kinds().len(), 64);
    assert_eq!(*outcome.close_reason(), CloseReason::TooManyOptions(64));
    let limits = HandshakeLimits { bytes: 100, ..LIMITS };
    let bytes = fixed(&vec![unknown; 10]);
    let outcome = converse([bytes.as_slice()], limits, false);
    assert_eq!(*outcome.close_reason(), CloseReason::TooManyBytes(100));
    assert_eq!(outcome.consumed, 100);
    let exact = fixed(&[info(GO, "", &[])]);
    let limits = HandshakeLimits { bytes: exact.len() as u64, ..LIMITS };
    assert_eq!(converse([[exact, vec![9; 50]].concat().as_slice()], limits, false).done().export, 0);
}

#[test]
fn requests_behind_go_are_left_over() {
    for last in [info(GO, "disk", &[]), option(1, b"disk")] {
        let handshake = fixed(&[structured(), last]);
        let bytes = [handshake.as_slice(), &[0x25, 0x60, 0x95, 0x13, 0, 0]].concat();
        let outcome = speak(&bytes);
        assert_eq!(outcome.consumed, handshake.len());
        outcome.done();
    }
}
