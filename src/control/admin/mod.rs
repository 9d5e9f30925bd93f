//! The admin server: metrics, a JSON API and a dashboard over HTTP/1.1, on the control plane's thread. It only shows; it changes nothing.
//!
//! Whoever can connect sees everything, so it listens where it is told to and nowhere by default. What a client can take is bounded:
//! connections, the time and the size of a request's head, the life of a connection. Bodies are not read. `API.md` beside this file tells
//! users what is where.

mod routes;
mod views;

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::control::listen::accept::Acceptor;
use crate::control::observe::collector::Collector;
use crate::control::observe::process::Process;
use crate::control::plane::Plane;

/// Connections at the same time; further ones wait in the backlog.
pub(super) const CONNECTIONS: usize = 32;
/// A request's head must be here within this time, and an idle connection is closed after it.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// The largest head of a request, in bytes.
const HEAD_BYTES: usize = 16 << 10;
/// Header fields of a request.
const HEADERS: usize = 64;
/// A connection is closed between two requests after this.
const LIFE: Duration = Duration::from_secs(300);
/// And cut off so much later, when it is not between two requests: its client does not read.
const GRACE: Duration = Duration::from_secs(10);
/// After the process ran out of descriptors.
const EXHAUSTION_PAUSE: Duration = Duration::from_millis(100);

/// What the admin server shows.
pub(super) struct Admin {
    plane: Rc<Plane>,
    collector: Rc<Collector>,
    /// It listens on the loopback address.
    is_local: bool,
    /// Shards record times.
    histograms: bool,
    /// Asked each time.
    log_lines_dropped: fn() -> u64,
    started: SystemTime,
    process: Process,
}

impl Admin {
    /// `is_local`: it listens on the loopback address, so that browsers of this machine are who can reach it.
    pub(super) fn new(
        plane: Rc<Plane>,
        collector: Rc<Collector>,
        is_local: bool,
        histograms: bool,
        log_lines_dropped: fn() -> u64,
    ) -> Rc<Self> {
        let (started, process) = (SystemTime::now(), Process::open());
        Rc::new(Self { plane, collector, is_local, histograms, log_lines_dropped, started, process })
    }

    /// Accepts as long as it is let.
    pub(super) async fn serve(self: Rc<Self>, acceptor: Acceptor, room: Rc<Semaphore>) {
        loop {
            let accepted = match &acceptor {
                Acceptor::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
                Acceptor::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
            };
            let Ok(stream) = accepted else {
                sleep(EXHAUSTION_PAUSE).await;
                continue;
            };
            // A client that waits here for a place is accepted, and those behind it are in the backlog.
            let Ok(()) = room.acquire().await.map(tokio::sync::SemaphorePermit::forget) else { return };
            let (admin, room) = (Rc::clone(&self), Rc::clone(&room));
            tokio_uring::spawn(async move {
                match stream {
                    Stream::Tcp(stream) => admin.converse(stream).await,
                    Stream::Unix(stream) => admin.converse(stream).await,
                }
                room.add_permits(1);
            });
        }
    }

    async fn converse(self: Rc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request| {
            let admin = Rc::clone(&self);
            async move { Ok::<_, std::convert::Infallible>(admin.respond(&request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = sleep(LIFE) => {
                connection.as_mut().graceful_shutdown();
                timeout(GRACE, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "an admin connection ended early");
        }
    }
}

/// A client of the admin server.
enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}
