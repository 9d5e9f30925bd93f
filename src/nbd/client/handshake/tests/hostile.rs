//! Servers that are old, foreign or hostile.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::*;
use proptest::prelude::*;

#[test]
fn other_greetings() {
    let old = [b"NBDMAGIC".to_vec(), vec![0, 0, 0x42, 2, 0x81, 0x86, 0x12, 0x53], vec![0; 136]].concat();
    assert_eq!(check(info(""), &old[..18], &[]), Err(HandshakeError::Oldstyle));
    let ssh = check(info(""), b"SSH-2.0-OpenSSH_9\r", &[]).unwrap_err().to_string();
    assert_eq!(ssh, "this is not an NBD server: it greets with \"SSH-2.0-\"");
    let other = [b"NBDMAGIC", &[1; 10][..]].concat();
    assert_eq!(check(info(""), &other, &[]), Err(HandshakeError::UnknownStyle(0x0101_0101_0101_0101)));
    let short = check(info(""), &[], &[]).unwrap_err().to_string();
    assert!(short.contains("closed the connection before it greeted"));
}

#[test]
fn hostile_replies_are_named() {
    let header = |magic: u64, option: u32, kind: u32, length: u32| {
        [&magic.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes(), &length.to_be_bytes()].concat()
    };
    let magic = 0x0003_e889_0455_65a9;
    let info_of = |data: &[u8]| reply(7, 3, data);
    let sizes = |minimum: u32, preferred: u32, maximum: u32| {
        let numbers = [minimum, preferred, maximum].map(u32::to_be_bytes).concat();
        info_of(&[vec![0, 3], numbers].concat())
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (header(1, 7, ACK, 0), "begins with 0x0000000000000001"),
        (header(magic, 8, ACK, 0), "answered NBD_OPT_STRUCTURED_REPLY while NBD_OPT_GO"),
        (header(magic, 7, 3, u32::MAX), "NBD_REP_INFO to NBD_OPT_GO has 4294967295 bytes, 16384 is"),
        (header(magic, 7, 0x8000_0001, 16385), "16385 bytes"),
        (reply(7, 2, &string("x")), "answered NBD_OPT_GO with NBD_REP_SERVER"),
        (reply(7, 4, &[0; 8]), "answered NBD_OPT_GO with NBD_REP_META_CONTEXT"),
        (reply(7, 77, &[]), "answered NBD_OPT_GO with reply 0x4d"),
        (reply(7, ACK, &[]), "without NBD_INFO_EXPORT"),
        (info_of(&[0]), "too short"),
        (info_of(&[0; 11]), "has not 12 bytes"),
        (info_of(&[0; 13]), "has not 12 bytes"),
        (info_of(&[0, 3, 1]), "has not 14 bytes"),
        (info_of(&[0, 1, 0xff]), "not UTF-8"),
        (info_of(&[0, 2, 0]), "NUL"),
        (info_of(&[vec![0, 2], vec![b'x'; 4097]].concat()), "more than 4096"),
        (sizes(0, 4096, 1 << 20), "block sizes outside"),
        (sizes(3, 4096, 1 << 20), "block sizes outside"),
        (sizes(1 << 17, 1 << 17, 1 << 20), "block sizes outside"),
        (sizes(1, 256, 1 << 20), "block sizes outside"),
        (sizes(4096, 512, 1 << 20), "block sizes outside"),
        (sizes(512, 4096, 4095), "block sizes outside"),
    ];
    let [extended, structured] = no_chunks();
    for (bytes, part) in cases {
        let script = [extended.clone(), structured.clone(), (option(7, &info_query("")), bytes)];
        let message = check(go("", &[]), &greeting(3), &script).unwrap_err().to_string();
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn hostile_lists_are_named() {
    let [extended, structured] = no_chunks();
    for (bytes, part) in [
        (reply(3, 2, &[0, 0]), "too short"),
        (reply(3, 2, &[0, 0, 0, 9, b'x']), "longer than itself"),
        (reply(3, 2, &[0xff, 0xff, 0xff, 0xff]), "longer than itself"),
        (reply(3, 2, &string(&"x".repeat(4097))), "more than 4096"),
    ] {
        let script = [extended.clone(), structured.clone(), (option(3, &[]), bytes)];
        let message = check(Goal::List, &greeting(3), &script).unwrap_err().to_string();
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    let twice = [context(10, 1, "a:b"), context(10, 1, "c:d"), reply(10, ACK, &[])].concat();
    let query = [string(""), vec![0, 0, 0, 1], string("a:b")].concat();
    let script = [(first(option(11, &[])), reply(11, ACK, &[])), (option(10, &query), twice)];
    let message = check(go("", &["a:b"]), &greeting(3), &script).unwrap_err().to_string();
    assert!(message.contains("id stands twice"), "{message}");
}

#[test]
fn an_endless_list_is_cut_off() {
    let mut client = ClientHandshake::new(Goal::List).unwrap();
    let opening = [greeting(3), reply(11, UNSUP, &[]), reply(8, UNSUP, &[])].concat();
    let endless = reply(3, 2, &[string("n"), vec![b'x'; 10_000]].concat());
    let mut input = &opening[..];
    let mut received = 0u64;
    let error = loop {
        match client.feed(&mut input) {
            Ok(None) if input.is_empty() => {
                received += endless.len() as u64;
                input = &endless;
            }
            Ok(Some(Event::Done(_))) => panic!("it has no end"),
            Ok(_) => drop(client.take_output()),
            Err(error) => break error,
        }
    };
    assert_eq!(error, HandshakeError::TooMuch(64 << 20));
    assert!(received <= 65 << 20);
}

#[test]
fn names_that_cannot_be_sent() {
    for name in ["x".repeat(4097), "a\0b".into()] {
        assert_eq!(ClientHandshake::new(info(&name)).unwrap_err(), HandshakeError::Name);
        assert_eq!(ClientHandshake::new(go("", &[&name])).unwrap_err(), HandshakeError::Name);
    }
}

proptest! {
    /// Replies in a plausible frame with any content.
    #[test]
    fn no_server_makes_it_panic_or_grow(
        goal in prop::sample::select(vec![info("x"), Goal::List, go("x", &["base:allocation"])]),
        flags in 0u16..4,
        replies in prop::collection::vec(
            (prop::sample::select(vec![1u32, 2, 3, 4, UNSUP, 0x8000_0003, 9]), prop::collection::vec(0u8..20, 0..40)),
            0..60,
        ),
        step in 1usize..50,
        secured: bool,
    ) {
        let mut client = ClientHandshake::new(goal).unwrap();
        if secured {
            client = client.secured();
        }
        let mut from_server = greeting(flags);
        let (mut position, mut replies, mut asked) = (0, replies.into_iter(), 0);
        loop {
            let mut piece = &from_server[position..from_server.len().min(position + step)];
            let offered = piece.len();
            let result = client.feed(&mut piece);
            position += offered - piece.len();
            prop_assert!(client.frame.capacity() <= 2 * MAX_REPLY as usize);
            match result {
                Ok(Some(Event::Output)) => {
                    let bytes = client.take_output();
                    let tail = if bytes.starts_with(b"IHAVEOPT") { &bytes[..] } else { &bytes[bytes.len().min(4)..] };
                    asked = tail.get(8..12).map_or(0, |it| u32::from_be_bytes(it.try_into().unwrap()));
                }
                Ok(None) if position == from_server.len() => match replies.next() {
                    Some((kind, data)) => from_server.extend(reply(asked, kind, &data)),
                    None => {
                        let _ = client.closed();
                        break;
                    }
                },
                // What follows is as if it had been decrypted.
                Ok(Some(Event::StartTls)) => prop_assert!(secured),
                Ok(None) => {}
                Ok(Some(Event::Done(_))) | Err(_) => break,
            }
        }
        prop_assert!(client.feed(&mut &[][..]).is_err());
    }
}
