//! The statements of `conformance.md` about the step to TLS, byte by byte with the real server. The protocol's own machine has the
//! same in its unit tests.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use ringnbd::internal::tls::rustls::{self, AlertDescription, ClientConnection};

use super::Served;
use super::records::connect;
use crate::support::raw::{Mode, Request};
use crate::support::tls::start_tls;
use crate::support::wire::*;

/// The type of the reply to an option, and its data.
fn reply(from: &mut impl std::io::Read, asked: u32) -> (u32, Vec<u8>) {
    let mut header = [0; 20];
    from.read_exact(&mut header).unwrap();
    let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    assert_eq!((&header[..8], number(8)), (&NBD_REP_MAGIC.to_be_bytes()[..], asked));
    let mut data = vec![0; number(16) as usize];
    from.read_exact(&mut data).unwrap();
    (number(12), data)
}

fn greeted(served: &Served) -> UnixStream {
    let mut socket = connect(served);
    socket.write_all(&MODERN.to_be_bytes()).unwrap();
    socket
}

#[track_caller]
fn expect_closed(mut socket: UnixStream) {
    match socket.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        answer => panic!("the server goes on: {answer:?}"),
    }
}

#[test]
fn h04_abort_before_tls_is_acked() {
    let served = Served::start();
    let mut socket = greeted(&served);
    socket.write_all(&option(NBD_OPT_ABORT, b"")).unwrap();
    assert_eq!(reply(&mut socket, NBD_OPT_ABORT), (NBD_REP_ACK, Vec::new()));
    expect_closed(socket);
}

/// Whatever was agreed on before, the session has simple replies: nothing was agreed on behind TLS.
#[test]
fn h24_starttls_forgets_what_was_agreed_on() {
    let served = Served::with("mode = \"selective\"", "");
    for before in [NBD_OPT_STRUCTURED_REPLY, NBD_OPT_EXTENDED_HEADERS] {
        let mut socket = greeted(&served);
        socket.write_all(&option(before, b"")).unwrap();
        assert_eq!(reply(&mut socket, before).0, NBD_REP_ACK);
        let mut tls = start_tls(&mut socket, b"", served.files.path()).unwrap();
        let mut secure = rustls::Stream::new(&mut tls, &mut socket);
        secure.write_all(&option(NBD_OPT_GO, &info_data(b"", &[]))).unwrap();
        while reply(&mut secure, NBD_OPT_GO).0 != NBD_REP_ACK {}
        secure.write_all(&Request::read(0, 512).encode(Mode::Simple)).unwrap();
        let mut answer = [0; 16 + 512];
        secure.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "a simple reply without an error");
        assert!(answer[16..] == served.image.read(0, 512)[..]);
    }
}

#[test]
fn h26_all_but_starttls_and_abort_need_tls() {
    let served = Served::start();
    let mut socket = greeted(&served);
    let context = [&0_u32.to_be_bytes()[..], &0_u32.to_be_bytes()].concat();
    let options: [(u32, Vec<u8>); 9] = [
        (NBD_OPT_LIST, Vec::new()),
        (NBD_OPT_INFO, info_data(b"", &[])),
        (NBD_OPT_GO, info_data(b"", &[3])),
        (NBD_OPT_GO, info_data(b"missing", &[])),
        (NBD_OPT_STRUCTURED_REPLY, Vec::new()),
        (NBD_OPT_EXTENDED_HEADERS, Vec::new()),
        (NBD_OPT_SET_META_CONTEXT, context.clone()),
        (NBD_OPT_LIST_META_CONTEXT, context),
        // Nobody knows it, and its data are no option either.
        (4711, option(NBD_OPT_ABORT, b"")),
    ];
    for (number, data) in &options {
        socket.write_all(&option(*number, data)).unwrap();
        assert_eq!(reply(&mut socket, *number).0, NBD_REP_ERR_TLS_REQD, "option {number}");
    }
    // The same connection goes on to TLS, where nothing needs it any more.
    let mut tls = start_tls(&mut socket, b"", served.files.path()).unwrap();
    let mut secure = rustls::Stream::new(&mut tls, &mut socket);
    for (number, data) in &options[4..] {
        secure.write_all(&option(*number, data)).unwrap();
        loop {
            let (kind, _) = reply(&mut secure, *number);
            assert_ne!(kind, NBD_REP_ERR_TLS_REQD, "option {number}");
            if kind == NBD_REP_ACK || kind & NBD_REP_FLAG_ERROR != 0 {
                break;
            }
        }
    }
    // An old option has no reply that could say it.
    let mut socket = greeted(&served);
    socket.write_all(&option(NBD_OPT_EXPORT_NAME, b"")).unwrap();
    expect_closed(socket);
}

/// The first alert that comes in plain text.
fn alert(socket: &mut UnixStream) -> Option<[u8; 2]> {
    let mut header = [0; 5];
    socket.read_exact(&mut header).ok()?;
    let mut data = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    socket.read_exact(&mut data).ok()?;
    (header[0] == 21).then(|| [data[0], data[1]])
}

/// Behind an answered STARTTLS.
fn before_tls(served: &Served) -> UnixStream {
    let mut socket = greeted(served);
    socket.write_all(&option(NBD_OPT_STARTTLS, b"")).unwrap();
    assert_eq!(reply(&mut socket, NBD_OPT_STARTTLS).0, NBD_REP_ACK);
    socket
}

#[test]
fn h29_older_versions_of_tls_are_refused() {
    const FATAL_PROTOCOL_VERSION: [u8; 2] = [2, 70];
    let served = Served::start();
    // A client that knows 1.2 only.
    let mut socket = before_tls(&served);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut tls = ClientConnection::new(Arc::new(old), "localhost".try_into().unwrap()).unwrap();
    let refused = loop {
        match tls.complete_io(&mut socket) {
            Ok(_) => assert!(tls.is_handshaking(), "1.2 was accepted"),
            Err(error) => break error,
        }
    };
    let told = refused.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    assert_eq!(told, Some(&rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)), "{refused}");
    // And one of 1.1, 1.0 and SSL 3: a hello that names no later one.
    for minor in [2, 1, 0] {
        let mut socket = before_tls(&served);
        // Type, version, length; type and length of the handshake's message; version, random, session, one suite, no compression.
        let mut body = vec![3, minor];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0xc0, 0x14, 1, 0]);
        let mut record = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
        record.extend(body);
        socket.write_all(&record).unwrap();
        assert_eq!(alert(&mut socket), Some(FATAL_PROTOCOL_VERSION), "version 3.{minor}");
        expect_closed(socket);
    }
}
