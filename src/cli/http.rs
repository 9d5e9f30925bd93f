//! One HTTP request, over a unix socket or TCP.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::config::ListenAddress;
use crate::config::listen::UnixAddress;

/// How long the server may be silent: it waits for a disk, perhaps.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest answer, in bytes.
const ANSWER_BYTES: u64 = 64 << 20;

/// What a server answered.
#[derive(Debug, PartialEq)]
pub(super) struct HttpAnswer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// Why there is no answer; each a sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("no server listens there: start the server with --control, or write where its control socket is")]
    NoServer,
    #[error("no permission to connect: run as root, or as the user that started the server")]
    Permission,
    #[error("the server does not answer: {0}")]
    Silent(io::Error),
    #[error(
        "what listens there does not speak as a control socket does: write where the server's --control is"
    )]
    NotUnderstood,
}

/// Asks, and waits for the answer.
pub(super) fn ask(socket: &Path, method: &str, target: &str, body: &str) -> Result<HttpAnswer, AskError> {
    ask_with(socket, (method, target), "", body)
}

/// The same with further header fields: lines, each with its end.
pub(super) fn ask_with(
    socket: &Path,
    (method, target): (&str, &str),
    headers: &str,
    body: &str,
) -> Result<HttpAnswer, AskError> {
    let stream = UnixStream::connect(socket).map_err(of_connecting)?;
    let timeouts =
        stream.set_read_timeout(Some(SILENCE)).and_then(|()| stream.set_write_timeout(Some(SILENCE)));
    timeouts.map_err(AskError::Silent)?;
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
        body.len()
    );
    exchange(stream, &request)
}

/// Asks for what a path has, of a server that has to answer within `patience`.
pub(super) fn get(server: &ListenAddress, target: &str, patience: Duration) -> Result<HttpAnswer, AskError> {
    let request = |host: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    match server {
        ListenAddress::Unix(address) => {
            let stream = match address {
                UnixAddress::Path(path) => UnixStream::connect(path),
                UnixAddress::Abstract(name) => {
                    SocketAddr::from_abstract_name(name).and_then(|name| UnixStream::connect_addr(&name))
                }
            };
            let stream = stream.map_err(of_connecting)?;
            let timeouts = stream
                .set_read_timeout(Some(patience))
                .and_then(|()| stream.set_write_timeout(Some(patience)));
            timeouts.map_err(AskError::Silent)?;
            exchange(stream, &request("localhost"))
        }
        ListenAddress::Tcp(address) => {
            let found = (address.host.as_str(), address.port).to_socket_addrs().map_err(AskError::Silent)?;
            let mut stream = Err(io::ErrorKind::NotFound.into());
            for address in found {
                stream = TcpStream::connect_timeout(&address, patience);
                if stream.is_ok() {
                    break;
                }
            }
            let stream = stream.map_err(of_connecting)?;
            let timeouts = stream
                .set_read_timeout(Some(patience))
                .and_then(|()| stream.set_write_timeout(Some(patience)));
            timeouts.map_err(AskError::Silent)?;
            exchange(stream, &request(&address.to_string()))
        }
    }
}

pub(super) fn of_connecting(error: io::Error) -> AskError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => AskError::Permission,
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NoServer,
        _ => AskError::Silent(error),
    }
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Result<HttpAnswer, AskError> {
    stream.write_all(request.as_bytes()).map_err(AskError::Silent)?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut bytes).map_err(AskError::Silent)?;
    parse(&bytes).ok_or(AskError::NotUnderstood)
}

/// A whole answer that was sent until the connection closed, its length announced.
fn parse(bytes: &[u8]) -> Option<HttpAnswer> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let fields = lines.filter_map(|line| line.split_once(':'));
    let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = lengths.next()?.1.trim().parse().ok()?;
    let body = serde_json::from_str(body.get(..length).filter(|_| body.len() == length)?).ok()?;
    Some(HttpAnswer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_answers_only() {
        let of = |text: &str| parse(text.as_bytes());
        let answer = HttpAnswer { status: 409, body: serde_json::json!({"error": "no"}) };
        let text = "HTTP/1.1 409 Conflict\r\ncontent-type: application/json\r\nContent-Length: 14\r\n\r\n{\"error\":\"no\"}";
        assert_eq!(of(text), Some(answer));
        for length in 0..text.len() {
            assert_eq!(of(&text[..length]), None, "{length} bytes");
        }
        for wrong in [
            text.to_owned() + "x",
            text.replace("HTTP/1.1", "HTTP/1.0"),
            text.replace("409", "4x9"),
            text.replace(": 14", ": 13"),
            text.replace(": 14", ": -14"),
            text.replace("Content-Length", "Content-Width"),
            text.replace("{\"", "{'"),
            "HTTP/1.1 é\r\n\r\n".to_owned(),
            "220 smtp.example.org\r\n\r\n".to_owned(),
        ] {
            assert_eq!(of(&wrong), None, "{wrong}");
        }
    }
}
