//! Servers that break: one thread, one script, byte by byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// What a fake server does with its one client.
pub(crate) enum Act {
    Say(Vec<u8>),
    /// Reads that many bytes.
    Hear(usize),
    /// Keeps the connection open without a word until the client closes it.
    Wait,
}

pub(crate) use Act::{Hear, Say, Wait};

fn play(mut stream: impl Read + Write, script: Vec<Act>) -> Vec<u8> {
    let mut heard = Vec::new();
    for act in script {
        match act {
            Say(bytes) => {
                // A client that left is a client that had enough.
                let _ = stream.write_all(&bytes);
            }
            Hear(bytes) => {
                let mut piece = vec![0; bytes];
                stream.read_exact(&mut piece).expect("the client says what it should");
                heard.extend(piece);
            }
            Wait => {
                let _ = stream.read_to_end(&mut heard);
            }
        }
    }
    heard
}

/// A server on a free port of this machine; what it heard comes when its script is over.
pub(crate) fn on_tcp(host: &str, script: Vec<Act>) -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind((host, 0)).expect("listen");
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let _ = sender.send(play(stream, script));
    });
    (address, receiver)
}

/// A server in the abstract namespace.
pub(crate) fn on_abstract(name: &str, script: Vec<Act>) -> Receiver<Vec<u8>> {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).expect("listen");
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let _ = sender.send(play(stream, script));
    });
    receiver
}

/// The greeting of a fixed newstyle server.
pub(crate) fn greeting() -> Vec<u8> {
    b"NBDMAGICIHAVEOPT\x00\x03".to_vec()
}

/// A reply to an option.
pub(crate) fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let magic = 0x0003_e889_0455_65a9u64.to_be_bytes();
    [&magic[..], &option.to_be_bytes(), &kind.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data]
        .concat()
}

/// A whole handshake to the transmission phase with structured replies, for export "" of 1 MiB with base:allocation as context 1.
pub(crate) fn into_transmission() -> Vec<Act> {
    let query = 4 + 4 + 4 + "base:allocation".len();
    let export = [&[0, 0][..], &(1u64 << 20).to_be_bytes(), &[0, 1]].concat();
    vec![
        Say(greeting()),
        Hear(4 + 16),
        Say(reply(11, 0x8000_0001, &[])),
        Hear(16),
        Say(reply(8, 1, &[])),
        Hear(16 + query),
        Say([reply(10, 4, &[&[0, 0, 0, 1], &b"base:allocation"[..]].concat()), reply(10, 1, &[])].concat()),
        Hear(16 + 4 + 2 + 6),
        Say([reply(7, 3, &export), reply(7, 1, &[])].concat()),
    ]
}
