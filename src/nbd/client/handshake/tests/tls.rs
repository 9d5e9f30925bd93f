//! STARTTLS: what is asked first, what a server may say to it, and that nothing goes on in plain text.

use super::*;

/// What a client says to a greeting with those flags and an answer to STARTTLS, in pieces of `step` bytes:
/// all that it sent, what it had sent before it told to begin TLS, and how it ended.
fn ask(flags: u16, answer: &[u8], step: usize) -> (Vec<u8>, Option<Vec<u8>>, Option<HandshakeError>) {
    let mut client = ClientHandshake::new(info("disk")).unwrap().secured();
    let stream = [greeting(flags), answer.to_vec()].concat();
    let (mut sent, mut before) = (Vec::new(), None);
    for mut piece in stream.chunks(step) {
        loop {
            match client.feed(&mut piece) {
                Ok(Some(Event::Output)) => sent.extend(client.take_output()),
                Ok(Some(Event::StartTls)) => assert_eq!(before.replace(sent.clone()), None, "once"),
                Ok(Some(Event::Done(outcome))) => panic!("{outcome:?}"),
                Ok(None) => break,
                Err(error) => return (sent, before, Some(error)),
            }
        }
    }
    (sent, before, None)
}

#[test]
fn everything_is_asked_behind_starttls() {
    for step in [1, 19, 20, 1000] {
        let (sent, before, error) = ask(3, &reply(5, ACK, &[]), step);
        let asked = first(option(5, &[]));
        assert_eq!(error, None);
        assert_eq!(before.as_deref(), Some(&asked[..]));
        assert_eq!(sent, [asked, option(11, &[])].concat());
    }
}

#[test]
fn nothing_is_asked_of_a_server_that_refuses() {
    for (kind, expected) in [
        (UNSUP, HandshakeError::NoTls("no".into())),
        (0x8000_0002, HandshakeError::TlsForbidden("no".into())),
        (0x8000_0007, HandshakeError::Shutdown("no".into())),
        (0x8000_0005, HandshakeError::TlsRequired("no".into())),
    ] {
        for step in [1, 1000] {
            let (sent, before, error) = ask(3, &reply(5, kind, b"no"), step);
            assert_eq!((before, error), (None, Some(expected.clone())));
            assert_eq!(sent, [first(option(5, &[])), option(2, &[])].concat(), "it leaves with ABORT");
        }
    }
    let (_, before, error) = ask(3, &reply(5, 3, &[0, 0]), 7);
    assert_eq!(before, None);
    assert!(matches!(error, Some(HandshakeError::UnexpectedReply { option: 5, reply: 3 })), "{error:?}");
}

#[test]
fn plain_newstyle_has_no_tls() {
    let (sent, before, error) = ask(2, &[], 1000);
    assert_eq!((sent, before, error), (vec![], None, Some(HandshakeError::NoTls(String::new()))));
}
