//! Handshakes with a scripted server, byte by byte.

mod further;
mod hostile;
mod pair;
mod tls;

use alloc::string::String;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::option_reply::MAX_REPLY;
use super::*;
use crate::session::ReplyMode;
use crate::vocabulary::BlockSizes;

const ACK: u32 = 1;
const UNSUP: u32 = 0x8000_0001;

/// A greeting with those handshake flags.
fn greeting(flags: u16) -> Vec<u8> {
    [b"NBDMAGICIHAVEOPT".to_vec(), flags.to_be_bytes().to_vec()].concat()
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let magic = 0x0003_e889_0455_65a9u64.to_be_bytes();
    [&magic[..], &option.to_be_bytes(), &kind.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data]
        .concat()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &option.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

/// INFO_EXPORT with 1 MiB and flags 0x0123.
fn export_info(of: u32) -> Vec<u8> {
    reply(of, 3, &[&[0, 0][..], &(1u64 << 20).to_be_bytes(), &[1, 0x23]].concat())
}

fn info_query(name: &str) -> Vec<u8> {
    [string(name), vec![0, 3, 0, 1, 0, 2, 0, 3]].concat()
}

fn context(of: u32, id: u32, name: &str) -> Vec<u8> {
    reply(of, 4, &[&id.to_be_bytes(), name.as_bytes()].concat())
}

/// Plays `script`: pairs of what the client must send next and what the server answers; gives the result. An
/// empty first answer is the server's greeting. When the script is over, the server closes. It is fed in
/// pieces of `step` bytes.
fn play(
    goal: Goal,
    greeting: &[u8],
    script: &[(Vec<u8>, Vec<u8>)],
    step: usize,
) -> Result<HandshakeOutcome, HandshakeError> {
    play_as(ClientHandshake::new(goal)?, greeting, script, step)
}

/// The same of a client that may have further wishes.
fn play_as(
    mut client: ClientHandshake,
    greeting: &[u8],
    script: &[(Vec<u8>, Vec<u8>)],
    step: usize,
) -> Result<HandshakeOutcome, HandshakeError> {
    let mut script = script.iter();
    let (mut sent, mut expected) = (Vec::new(), Vec::new());
    let mut from_server: Vec<u8> = greeting.to_vec();
    let mut position = 0;
    loop {
        let mut piece = &from_server[position..from_server.len().min(position + step)];
        let offered = piece.len();
        let result = client.feed(&mut piece);
        position += offered - piece.len();
        match result? {
            Some(Event::Output) => {
                sent.extend(client.take_output());
                while expected.len() < sent.len() {
                    let (ask, answer) = script.next().expect("the client says more than the script has");
                    expected.extend_from_slice(ask);
                    from_server.extend_from_slice(answer);
                }
                assert_eq!(sent, expected);
            }
            None => {
                assert!(piece.is_empty(), "None means that all was taken");
                assert!(client.needed() > 0 && client.needed() <= MAX_REPLY as usize);
                if position == from_server.len() {
                    assert!(script.next().is_none(), "the client says less than the script has");
                    return Err(client.closed());
                }
            }
            Some(Event::StartTls) => panic!("nobody asked for it"),
            Some(Event::Done(outcome)) => {
                assert!(script.next().is_none(), "the client ended before the script");
                assert_eq!(position, from_server.len());
                return Ok(outcome);
            }
        }
    }
}

fn check(
    goal: Goal,
    greeting: &[u8],
    script: &[(Vec<u8>, Vec<u8>)],
) -> Result<HandshakeOutcome, HandshakeError> {
    let whole = play(goal.clone(), greeting, script, usize::MAX >> 1);
    for step in [1, 2, 3, 7, 19, 20, 21, 64] {
        assert_eq!(play(goal.clone(), greeting, script, step), whole, "in pieces of {step}");
    }
    whole
}

/// Client flags for a fixed newstyle server with NO_ZEROES, joined with the first option.
fn first(data: Vec<u8>) -> Vec<u8> {
    [vec![0, 0, 0, 3], data].concat()
}

fn info(export: &str) -> Goal {
    Goal::Info { export: export.into() }
}

fn go(export: &str, contexts: &[&str]) -> Goal {
    Goal::Go { export: export.into(), contexts: contexts.iter().map(|name| (*name).into()).collect() }
}

fn details(name: &str) -> ExportDetails {
    ExportDetails {
        name: name.into(),
        description: None,
        size: 1 << 20,
        transmission_flags: 0x123,
        block_sizes: None,
        contexts: None,
    }
}

const DIALECT: Dialect = Dialect { fixed_newstyle: true, reply_mode: ReplyMode::Extended };
const SIMPLE: Dialect = Dialect { reply_mode: ReplyMode::Simple, ..DIALECT };

fn abort() -> (Vec<u8>, Vec<u8>) {
    (option(2, &[]), vec![])
}

fn no_chunks() -> [(Vec<u8>, Vec<u8>); 2] {
    [(first(option(11, &[])), reply(11, UNSUP, b"what?")), (option(8, &[]), reply(8, UNSUP, &[]))]
}

#[test]
fn the_end_of_the_session_is_asked_for_with_the_export() {
    let mut handshake =
        ClientHandshake::with_replies(go("d", &[]), ReplyMode::Simple).unwrap().ending_on_growth();
    handshake.feed(&mut &greeting(3)[..]).unwrap();
    let asked = [string("d"), vec![0, 4, 0, 1, 0, 2, 0, 3, 0xf1, 0x7b]].concat();
    assert_eq!(handshake.take_output(), first(option(7, &asked)));
}

#[test]
fn info_from_a_server_that_knows_everything() {
    let about = [
        export_info(6),
        reply(6, 3, &[&[0, 1], "canonical".as_bytes()].concat()),
        reply(6, 3, &[&[0, 2], "ein Übungsgerät".as_bytes()].concat()),
        reply(
            6,
            3,
            &[&[0, 3][..], &512u32.to_be_bytes(), &4096u32.to_be_bytes(), &u32::MAX.to_be_bytes()].concat(),
        ),
        reply(6, 3, &[0x77, 0x77, 1, 2, 3]),
        reply(6, ACK, &[]),
    ];
    let contexts = [context(9, 0, "base:allocation"), context(9, 0, "x-y:"), reply(9, ACK, &[])];
    let script = [
        (first(option(11, &[])), reply(11, ACK, &[])),
        (option(9, &[string("disk"), vec![0; 4]].concat()), contexts.concat()),
        (option(6, &info_query("disk")), about.concat()),
        abort(),
    ];
    let expected = ExportDetails {
        description: Some("ein Übungsgerät".into()),
        block_sizes: Some(BlockSizes { minimum: 512, preferred: 4096, maximum: u32::MAX }),
        contexts: Some(vec!["base:allocation".into(), "x-y:".into()]),
        ..details("canonical")
    };
    assert_eq!(check(info("disk"), &greeting(3), &script), Ok(HandshakeOutcome::Info(DIALECT, expected)));
}

/// Who receives as many bytes as are needed, or all but one of them and then that one, is left with none of
/// the next phase.
#[test]
fn no_more_is_needed_than_the_handshake_has() {
    let handshake = [greeting(3), reply(11, ACK, &[]), export_info(7), reply(7, ACK, &[])].concat();
    let stream = [&handshake[..], b"the first reply"].concat();
    for all_but in [0, 1] {
        let mut client = ClientHandshake::new(go("", &[])).unwrap();
        let mut position = 0;
        loop {
            let needed = client.needed();
            let length = if needed > 1 { needed - all_but } else { needed };
            let mut piece = &stream[position..position + length];
            position += length;
            match client.feed(&mut piece).unwrap() {
                Some(Event::Output) => drop(client.take_output()),
                Some(Event::StartTls) => panic!("nobody asked for it"),
                Some(Event::Done(_)) => break,
                None => {}
            }
            assert!(piece.is_empty(), "all that is needed is taken");
        }
        assert_eq!(&stream[position..], b"the first reply");
    }
}

#[test]
fn structured_replies_where_extended_headers_are_unknown() {
    let script = [
        (first(option(11, &[])), reply(11, UNSUP, &[])),
        (option(8, &[]), reply(8, ACK, &[])),
        (option(10, &[string("d"), vec![0, 0, 0, 1], string("base:allocation")].concat()), {
            [context(10, 7, "base:allocation"), reply(10, ACK, &[])].concat()
        }),
        (option(7, &info_query("d")), [export_info(7), reply(7, ACK, &[])].concat()),
    ];
    let expected = Transmission {
        dialect: Dialect { reply_mode: ReplyMode::Structured, ..DIALECT },
        export: details("d"),
        contexts: vec![ContextId { id: 7, name: "base:allocation".into() }],
    };
    let outcome = check(go("d", &["base:allocation"]), &greeting(3), &script);
    assert_eq!(outcome, Ok(HandshakeOutcome::Transmission(expected)));
}

#[test]
fn a_missing_context_brings_those_on_offer() {
    let query = [string(""), vec![0, 0, 0, 1], string("x:y")].concat();
    for refusal in [reply(10, ACK, &[]), reply(10, 0x8000_0003, &[])] {
        let script = [
            (first(option(11, &[])), reply(11, ACK, &[])),
            (option(10, &query), refusal),
            (option(9, &[0; 8]), [context(9, 0, "base:allocation"), reply(9, ACK, &[])].concat()),
            (option(7, &info_query("")), [export_info(7), reply(7, ACK, &[])].concat()),
        ];
        let Ok(HandshakeOutcome::Transmission(transmission)) = check(go("", &["x:y"]), &greeting(3), &script)
        else {
            panic!("it enters the transmission phase all the same")
        };
        assert_eq!(transmission.contexts, []);
        assert_eq!(transmission.export.contexts, Some(vec!["base:allocation".into()]));
    }
}

#[test]
fn export_name_where_go_is_unknown() {
    let answer = [&(1u64 << 20).to_be_bytes()[..], &[1, 0x23]].concat();
    let [extended, structured] = no_chunks();
    let script = [
        extended.clone(),
        structured.clone(),
        (option(7, &info_query("old")), reply(7, UNSUP, &[])),
        (option(1, b"old"), answer.clone()),
    ];
    let Ok(HandshakeOutcome::Transmission(entered)) =
        check(go("old", &["base:allocation"]), &greeting(3), &script)
    else {
        panic!("EXPORT_NAME works")
    };
    assert_eq!((entered.dialect, entered.export), (SIMPLE, details("old")));

    let disconnect = [&[0x25, 0x60, 0x95, 0x13, 0, 0, 0, 2][..], &[0; 20]].concat();
    let asked = (option(6, &info_query("old")), reply(6, UNSUP, &[]));
    let script = [extended, structured, asked, (option(1, b"old"), answer), (disconnect, vec![])];
    assert_eq!(check(info("old"), &greeting(3), &script), Ok(HandshakeOutcome::Info(SIMPLE, details("old"))));
}

#[test]
fn plain_newstyle_knows_export_name_only() {
    let answer = [&(1u64 << 20).to_be_bytes()[..], &[1, 0x23], &[0; 124]].concat();
    let script = [([vec![0; 4], option(1, b"x")].concat(), answer)];
    let expected = Transmission {
        dialect: Dialect { fixed_newstyle: false, reply_mode: ReplyMode::Simple },
        export: details("x"),
        contexts: vec![],
    };
    assert_eq!(check(go("x", &[]), &greeting(0), &script), Ok(HandshakeOutcome::Transmission(expected)));
    assert_eq!(check(Goal::List, &greeting(0), &[]), Err(HandshakeError::CannotList));
    let gone = [([vec![0, 0, 0, 2], option(1, b"x")].concat(), vec![])];
    let error = check(go("x", &[]), &greeting(2), &gone).unwrap_err().to_string();
    assert!(error.starts_with("the server has no export \"x\" (\"it closed the connection"), "{error}");
}

#[test]
fn an_empty_export_is_asked_for_by_go_too() {
    let sized = |of: u32, size: u64| reply(of, 3, &[&[0, 0][..], &size.to_be_bytes(), &[1, 0x23]].concat());
    let ask = [
        (first(option(11, &[])), reply(11, ACK, &[])),
        (option(9, &[0; 8]), [context(9, 0, "a:b"), reply(9, ACK, &[])].concat()),
        (option(6, &info_query("")), [sized(6, 0), reply(6, ACK, &[])].concat()),
    ];
    let expect = |size| {
        Ok(HandshakeOutcome::Info(
            DIALECT,
            ExportDetails { size, contexts: Some(vec!["a:b".into()]), ..details("") },
        ))
    };
    let disconnect = [&[0x21, 0xe4, 0x1c, 0x71, 0, 0, 0, 2][..], &[0; 24]].concat();
    let go = (option(7, &info_query("")), [sized(7, 1 << 20), reply(7, ACK, &[])].concat());
    let opened = [&ask[..], &[go, (disconnect, vec![])]].concat();
    assert_eq!(check(info(""), &greeting(3), &opened), expect(1 << 20));
    let refused = [&ask[..], &[(option(7, &info_query("")), reply(7, 0x8000_0002, &[])), abort()]].concat();
    assert_eq!(check(info(""), &greeting(3), &refused), expect(0));
}

#[test]
fn list_asks_about_each_export() {
    let [extended, structured] = no_chunks();
    let server = |name: &str, text: &str| reply(3, 2, &[string(name), text.into()].concat());
    let script = [
        extended,
        structured,
        (option(3, &[]), [server("a", "first"), server("b", ""), reply(3, ACK, &[])].concat()),
        (option(6, &info_query("a")), [export_info(6), reply(6, ACK, &[])].concat()),
        (option(6, &info_query("b")), reply(6, 0x8000_0005, b"only with TLS")),
        abort(),
    ];
    let expected = vec![
        ListedExport { name: "a".into(), description: "first".into(), details: Ok(details("a")) },
        ListedExport {
            name: "b".into(),
            description: String::new(),
            details: Err("the server requires TLS (\"only with TLS\")".into()),
        },
    ];
    assert_eq!(check(Goal::List, &greeting(3), &script), Ok(HandshakeOutcome::List(SIMPLE, expected)));
}

#[test]
fn refusals_end_in_abort() {
    let ask = first(option(11, &[]));
    let tls = [(ask.clone(), reply(11, 0x8000_0005, b"no\x1b[2Jplain")), abort()];
    let error = check(info(""), &greeting(3), &tls).unwrap_err().to_string();
    assert_eq!(error, "the server requires TLS (\"no\\u{1b}[2Jplain\")");
    let stopping = [(ask, reply(11, 0x8000_0007, &[])), abort()];
    assert_eq!(check(info(""), &greeting(3), &stopping), Err(HandshakeError::Shutdown(String::new())));
    let [extended, structured] = no_chunks();
    let go_fails = |kind| {
        let asked = (option(7, &info_query("x")), reply(7, kind, b"sorry"));
        check(go("x", &[]), &greeting(3), &[extended.clone(), structured.clone(), asked, abort()])
    };
    let unknown = HandshakeError::UnknownExport { name: "x".into(), message: "sorry".into() };
    assert_eq!(go_fails(0x8000_0006), Err(unknown));
    let policy = go_fails(0x8000_0002).unwrap_err().to_string();
    assert_eq!(policy, "the server refused NBD_OPT_GO: NBD_REP_ERR_POLICY (\"sorry\")");
    assert!(go_fails(0x8000_0fff).unwrap_err().to_string().contains("reply 0x80000fff"));
    let forgets_go = [
        (first(option(11, &[])), reply(11, ACK, &[])),
        (option(7, &info_query("x")), reply(7, UNSUP, &[])),
        abort(),
    ];
    assert!(
        check(go("x", &[]), &greeting(3), &forgets_go).is_err(),
        "EXPORT_NAME is no way out of extended headers"
    );
}
