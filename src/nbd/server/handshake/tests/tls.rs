//! STARTTLS in each of the modes (H4, H24 to H28).

use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;

const STARTTLS: u32 = 5;
const TLS_REQUIRED: u32 = ERR + 5;

/// What a server did with a client that sends parts one after the other, and waits for the answer to each.
struct Talk {
    kinds: Vec<(u32, u32)>,
    end: Result<Option<Event>, CloseReason>,
}

/// Export 1 is for secure connections only: the driver hides it from others, as it must in the selective
/// mode.
fn talk(mode: TlsMode, parts: &[Vec<u8>]) -> Talk {
    let exports = exports();
    let mut handshake = Handshake::with_tls(LIMITS, mode);
    let mut outcome = Outcome { output: Vec::new(), end: Ok(None), consumed: 0 };
    for part in parts {
        let mut rest = part.as_slice();
        outcome.end = loop {
            let secure = handshake.is_secure();
            let hidden = |index| mode == TlsMode::Selective && index == 1 && !secure;
            match handshake.feed(&mut rest) {
                Ok(Some(Event::Output)) => {
                    let output = handshake.take_output();
                    // The answer to EXPORT_NAME has no header.
                    let has_header = outcome.output.is_empty() || output.starts_with(&[0, 3, 0xe8, 0x89]);
                    outcome.output.extend(if has_header { output } else { Vec::new() });
                }
                Ok(Some(Event::Lookup(name))) => {
                    let mut found = exports.iter().enumerate().filter(|&(index, _)| !hidden(index));
                    let found = found.find(|(_, export)| export.name == name);
                    handshake.found(found);
                }
                Ok(Some(Event::List)) => {
                    let shown: Vec<_> = (0..3).filter(|&index| !hidden(index)).collect();
                    handshake.listed(shown.into_iter().map(|index| &exports[index]));
                }
                Ok(Some(Event::StartTls)) => {
                    assert_eq!(handshake.feed(&mut &b""[..]), Ok(Some(Event::StartTls)), "it is told again");
                    handshake.secured();
                }
                end @ (Ok(None | Some(Event::Done(_))) | Err(_)) => break end,
            }
        };
        if outcome.end != Ok(None) {
            break;
        }
    }
    Talk { kinds: outcome.kinds(), end: outcome.end }
}

fn starttls() -> Vec<u8> {
    option(STARTTLS, &[])
}

#[test]
fn h04_abort_before_tls_is_acked() {
    for mode in [TlsMode::Selective, TlsMode::Required] {
        let talk = talk(mode, &[fixed(&[option(2, b"bye")])]);
        assert_eq!((talk.kinds, talk.end), (vec![(2, ACK)], Err(CloseReason::Aborted)));
    }
}

#[test]
fn h24_starttls_forgets_what_was_negotiated() {
    let before = [structured(), meta(SET_META, "", &["base:allocation"]), starttls()];
    for last in [info(GO, "", &[]), option(1, b"")] {
        let talk = talk(TlsMode::Selective, &[fixed(&before), last]);
        let Ok(Some(Event::Done(done))) = talk.end else { panic!("{:?}", talk.end) };
        assert_eq!(done.session.reply_mode, ReplyMode::Simple);
        assert!(done.session.contexts.is_empty());
    }
    // Each can be negotiated again, and needs what it always needs.
    let after = [meta(SET_META, "", &["base:allocation"]), structured(), info(GO, "", &[])].concat();
    let talk = talk(TlsMode::Selective, &[fixed(&[extended(), starttls()]), after]);
    assert_eq!(talk.kinds[2..], [(SET_META, ERR + 3), (8, ACK), (GO, 3), (GO, ACK)]);
    // The client's flags count on: they are not sent again.
    assert!(
        matches!(talk.end, Ok(Some(Event::Done(done))) if done.session.reply_mode == ReplyMode::Structured)
    );
}

#[test]
fn h25_starttls_with_data_is_refused_and_skipped() {
    for mode in [TlsMode::Off, TlsMode::Selective, TlsMode::Required] {
        for length in [1, 100, 10_000] {
            let bytes = fixed(&[option(STARTTLS, &vec![22; length]), option(2, &[])]);
            assert_eq!(talk(mode, &[bytes]).kinds, [(STARTTLS, ERR + 3), (2, ACK)]);
        }
    }
}

#[test]
fn h25_plain_text_behind_starttls_ends_it() {
    for behind in [b"\x16".to_vec(), option(2, &[]), info(GO, "", &[]), vec![0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]]
    {
        for mode in [TlsMode::Selective, TlsMode::Required] {
            let talk = talk(mode, &[fixed(&[starttls(), behind.clone()])]);
            assert_eq!(talk.kinds, [], "no promise of TLS was made");
            assert_eq!(talk.end, Err(CloseReason::PlaintextBehindStartTls));
        }
    }
    // It came while the answer was sent.
    let mut handshake = Handshake::with_tls(LIMITS, TlsMode::Required);
    handshake.take_output();
    assert_eq!(handshake.feed(&mut fixed(&[starttls()]).as_slice()), Ok(Some(Event::Output)));
    handshake.take_output();
    assert_eq!(handshake.feed(&mut &b"I"[..]), Err(CloseReason::PlaintextBehindStartTls));
}

#[test]
fn h26_a_server_that_requires_tls_refuses_all_but_starttls_and_abort() {
    let all = |number: u32| match number {
        6 | 7 => info(number, "disk", &[3]),
        9 | 10 => meta(number, "disk", &["base:"]),
        _ => option(number, &[]),
    };
    for number in [3, 4, 6, 7, 8, 9, 10, 11, 12, 0x0765_4321] {
        for data in [all(number), option(number, &[7; 100]), option(number, &vec![7; 9000])] {
            let talk = talk(TlsMode::Required, &[fixed(&[data, option(2, &[])])]);
            assert_eq!(talk.kinds, [(number, TLS_REQUIRED), (2, ACK)]);
        }
    }
    for name in [&b""[..], b"disk", b"no", &[0xff; 5000]] {
        let talk = talk(TlsMode::Required, &[fixed(&[option(1, name)])]);
        assert_eq!((talk.kinds, talk.end), (vec![], Err(CloseReason::TlsRequired)));
    }
    // After TLS it is never required, and cannot begin again.
    let after = [starttls(), info(INFO, "no", &[]), option(99, &[]), option(3, &[]), info(GO, "disk", &[])];
    let talk = talk(TlsMode::Required, &[fixed(&[starttls()]), after.concat()]);
    let listed = [(3, 2), (3, 2), (3, 2), (3, ACK)];
    let start = [(STARTTLS, ACK), (STARTTLS, ERR + 3), (INFO, ERR + 6), (99, ERR + 1)];
    assert_eq!(talk.kinds, [&start[..], &listed, &[(GO, 3), (GO, ACK)]].concat());
}

#[test]
fn h27_a_selective_server_requires_tls_for_what_it_hides() {
    let plain = [
        info(INFO, "disk", &[]),
        info(GO, "disk", &[]),
        info(GO, "no", &[]),
        option(3, &[]),
        structured(),
        meta(LIST_META, "disk", &[]),
        meta(SET_META, "no", &[]),
        option(99, &[]),
        info(GO, "", &[]),
    ];
    let outcome = talk(TlsMode::Selective, &[fixed(&plain)]);
    let refused = [(INFO, TLS_REQUIRED), (GO, TLS_REQUIRED), (GO, TLS_REQUIRED)];
    let listed = [(3, 2), (3, 2), (3, ACK)];
    let others = [(8, ACK), (LIST_META, ERR + 6), (SET_META, ERR + 6), (99, ERR + 1), (GO, 3), (GO, ACK)];
    assert_eq!(outcome.kinds, [&refused[..], &listed, &others].concat());
    // EXPORT_NAME tells nothing apart.
    for name in ["disk", "no"] {
        let outcome = talk(TlsMode::Selective, &[fixed(&[option(1, name.as_bytes())])]);
        assert_eq!(outcome.end, Err(CloseReason::UnknownExport(name.to_owned())));
    }
    let secure = [info(INFO, "no", &[]), option(3, &[]), info(GO, "disk", &[])].concat();
    let outcome = talk(TlsMode::Selective, &[fixed(&[starttls()]), secure]);
    let listed = [(3, 2), (3, 2), (3, 2), (3, ACK)];
    assert_eq!(
        outcome.kinds,
        [&[(STARTTLS, ACK), (INFO, ERR + 6)][..], &listed, &[(GO, 3), (GO, ACK)]].concat()
    );
}

#[test]
fn limits_count_on_behind_starttls() {
    let before = fixed(&[vec![option(99, &[]); 40].concat(), starttls()]);
    let outcome = talk(TlsMode::Selective, &[before, vec![option(99, &[]); 40].concat()]);
    assert_eq!(outcome.end, Err(CloseReason::TooManyOptions(64)));
    assert_eq!(outcome.kinds.len(), 64);
}

#[test]
#[should_panic(expected = "a secure connection in Header")]
fn nothing_is_secured_that_was_not_asked_for() {
    let mut handshake = Handshake::with_tls(LIMITS, TlsMode::Required);
    handshake.take_output();
    let _none = handshake.feed(&mut fixed(&[]).as_slice());
    handshake.secured();
}

proptest! {
    /// Nothing that is sent before STARTTLS changes what comes after it.
    #[test]
    fn plain_text_does_not_reach_into_tls(before in any_options(), after in any_options()) {
        let after = after[4..].to_vec();
        let alone = talk(TlsMode::Selective, &[fixed(&[starttls()]), after.clone()]);
        let mut before = before;
        before[..4].copy_from_slice(&3u32.to_be_bytes());
        let plain = talk(TlsMode::Selective, &[before.clone()]);
        let both = talk(TlsMode::Selective, &[before, starttls(), after]);
        // A client that lost its place, left or chose an export never comes to TLS.
        let starts_here = both.kinds.get(plain.kinds.len()) == Some(&(STARTTLS, ACK));
        if starts_here && plain.end == Ok(None) && !plain.kinds.contains(&(STARTTLS, ACK)) {
            prop_assert_eq!(&both.kinds[plain.kinds.len()..], &alone.kinds[..]);
            prop_assert_eq!(both.end, alone.end);
        }
    }

    #[test]
    fn a_server_that_requires_tls_gives_nothing_away(bytes in any_options()) {
        let talk = talk(TlsMode::Required, &[bytes]);
        let secured = talk.kinds.iter().position(|kind| *kind == (STARTTLS, ACK)).unwrap_or(talk.kinds.len());
        let harmless = |kind: &(u32, u32)| kind.1 >= ERR || *kind == (2, ACK);
        prop_assert!(talk.kinds[..secured].iter().all(harmless), "{:?}", talk.kinds);
        prop_assert!(secured < talk.kinds.len() || !matches!(talk.end, Ok(Some(_))));
    }
}
