//! A server with TLS that is made of the pure halves and a socket each: the handshake of NBD up to STARTTLS, then TLS, and a plain server
//! behind it that gets what is decrypted.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::SystemTime;

use ringnbd::internal::nbd::server::handshake::{Event, Handshake, HandshakeLimits, TlsMode};
use ringnbd::internal::tls::{
    Alert, CipherSuite, Opened, TlsAcceptor, TlsHandshake, TlsIdentity, TlsSession, TlsStep,
};

const LIMITS: HandshakeLimits = HandshakeLimits { option_length: 16 << 10, options: 64, bytes: 1 << 20 };

/// What became of a connection.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) suite: CipherSuite,
    pub(crate) identity: TlsIdentity,
    /// How often our key was renewed.
    pub(crate) key_updates: u64,
}

/// Connections are served by threads, until the test ends.
pub(crate) struct Proxy {
    acceptor: Arc<TlsAcceptor>,
    backend: PathBuf,
    /// Records until our key is renewed.
    renewal: u64,
    report: mpsc::Sender<Result<Secured, String>>,
}

impl Proxy {
    pub(crate) fn new(
        acceptor: TlsAcceptor,
        backend: &Path,
        renewal: u64,
    ) -> (Arc<Self>, mpsc::Receiver<Result<Secured, String>>) {
        let (report, reports) = mpsc::channel();
        let proxy = Self { acceptor: Arc::new(acceptor), backend: backend.to_owned(), renewal, report };
        (Arc::new(proxy), reports)
    }

    pub(crate) fn listen_unix(self: &Arc<Self>, path: &Path) {
        let (proxy, listener) = (Arc::clone(self), UnixListener::bind(path).unwrap());
        thread::spawn(move || listener.incoming().for_each(|client| proxy.spawn(client.unwrap().into())));
    }

    /// Gives the port.
    pub(crate) fn listen_tcp(self: &Arc<Self>) -> u16 {
        let (proxy, listener) = (Arc::clone(self), TcpListener::bind("127.0.0.1:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            listener.incoming().for_each(|client| {
                let client = client.unwrap();
                client.set_nodelay(true).unwrap();
                proxy.spawn(client.into());
            });
        });
        port
    }

    fn spawn(self: &Arc<Self>, client: OwnedFd) {
        let proxy = Arc::clone(self);
        thread::spawn(move || {
            let outcome = proxy.serve(&mut File::from(client));
            let _ended = proxy.report.send(outcome);
        });
    }

    fn serve(&self, client: &mut File) -> Result<Secured, String> {
        let flags = plain_handshake(client)?;
        let (mut session, first) = self.secure(client)?;
        session.sealer.set_renewal(self.renewal);
        let mut backend = UnixStream::connect(&self.backend).map_err(|error| error.to_string())?;
        let mut greeting = [0; 18];
        backend.read_exact(&mut greeting).map_err(|error| error.to_string())?;
        backend.write_all(&flags).map_err(|error| error.to_string())?;
        let session = Mutex::new(*session);
        let answered = client.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| answers(answered, &backend, &session));
            let ended = requests(client, &backend, &session, first);
            let _ended = backend.shutdown(Shutdown::Both);
            ended
        })?;
        let session = session.into_inner().unwrap();
        Ok(Secured {
            suite: session.suite,
            identity: session.identity,
            key_updates: session.sealer.key_updates(),
        })
    }

    fn secure(&self, client: &mut File) -> Result<(Box<TlsSession>, Vec<u8>), String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let mut handshake = TlsHandshake::new(Arc::clone(&self.acceptor), now);
        let mut buffer = [0; 4096];
        let mut input = &buffer[..0];
        loop {
            match handshake.feed(&mut input) {
                Ok(TlsStep::Need) => input = more(client, &mut buffer)?,
                Ok(TlsStep::Send) => {
                    client.write_all(&handshake.take_output()).map_err(|error| error.to_string())?;
                }
                Ok(TlsStep::Done(session)) => return Ok((session, input.to_vec())),
                Err(error) => {
                    let _gone = client.write_all(&handshake.take_output());
                    return Err(error.to_string());
                }
            }
        }
    }
}

fn more<'a>(client: &mut File, buffer: &'a mut [u8]) -> Result<&'a [u8], String> {
    match client.read(buffer) {
        Ok(0) => Err("the client left".to_owned()),
        Ok(count) => Ok(&buffer[..count]),
        Err(error) => Err(error.to_string()),
    }
}

/// Negotiates until TLS may start. Gives the client's flags.
fn plain_handshake(client: &mut File) -> Result<Vec<u8>, String> {
    let mut handshake = Handshake::with_tls(LIMITS, TlsMode::Required);
    let (mut buffer, mut sent) = ([0; 4096], Vec::new());
    let mut input = &buffer[..0];
    loop {
        match handshake.feed(&mut input).map_err(|error| error.to_string())? {
            None => {
                input = more(client, &mut buffer)?;
                sent.extend_from_slice(input);
            }
            Some(Event::Output) => {
                client.write_all(&handshake.take_output()).map_err(|error| error.to_string())?;
            }
            Some(Event::StartTls) => return Ok(sent[..4].to_vec()),
            Some(event) => return Err(format!("{event:?} without TLS")),
        }
    }
}

/// What the client sends, decrypted where it was received.
fn requests(
    client: &mut File,
    mut backend: &UnixStream,
    session: &Mutex<TlsSession>,
    mut received: Vec<u8>,
) -> Result<(), String> {
    let mut buffer = vec![0; 1 << 16];
    let mut start = 0;
    loop {
        let opened =
            session.lock().unwrap().open(&mut received[start..]).map_err(|error| error.to_string())?;
        match opened {
            Opened::Record { length, data } => {
                let data = &received[start..][data];
                backend.write_all(data).map_err(|error| error.to_string())?;
                start += length;
            }
            Opened::Need(_) => {
                received.drain(..start);
                start = 0;
                match client.read(&mut buffer) {
                    // Clients leave after DISC without a goodbye.
                    Ok(0) | Err(_) => return Ok(()),
                    Ok(count) => received.extend_from_slice(&buffer[..count]),
                }
            }
            Opened::Closed { .. } => return Ok(()),
        }
    }
}

fn answers(mut client: File, mut backend: &UnixStream, session: &Mutex<TlsSession>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = backend.read(&mut buffer).unwrap_or(0);
        let mut records = Vec::new();
        let mut session = session.lock().unwrap();
        match count {
            0 => session.sealer.alert(Alert::CLOSE_NOTIFY, &mut records),
            _ => session.append(&buffer[..count], &mut records),
        }
        drop(session);
        if client.write_all(&records).is_err() || count == 0 {
            return;
        }
    }
}
