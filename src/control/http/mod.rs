//! HTTP/1.1 on the control plane's thread, for the admin server and the control socket.
//!
//! What a client can take is bounded: connections, the time and the size of a request's head, the time and
//! the size of its body, the life of a connection. Each server has places of its own, so that clients of one
//! cannot keep those of the other out.

pub(super) mod answer;
pub(super) mod body;
pub(super) mod reply;

use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::control::listen::accept::Acceptor;
use crate::identity::PeerIdentity;
use answer::HttpBody;

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

/// What answers requests.
#[allow(async_fn_in_trait)]
pub(super) trait HttpService: 'static {
    /// Whether a client gets a place at all.
    fn admits(&self, _peer: &PeerIdentity) -> bool {
        true
    }

    /// Answers one request of a client.
    async fn respond(&self, request: Request<Incoming>, peer: &PeerIdentity) -> Response<HttpBody>;
}

/// Accepts until it is aborted. `room` bounds the connections at the same time; further ones wait in the
/// backlog.
pub(super) async fn serve(service: Rc<impl HttpService>, acceptor: Acceptor, room: Rc<Semaphore>) {
    loop {
        let accepted = match &acceptor {
            Acceptor::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Acceptor::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        };
        let Ok(stream) = accepted else {
            sleep(EXHAUSTION_PAUSE).await;
            continue;
        };
        let peer = match &stream {
            Stream::Tcp(stream) => PeerIdentity::of(stream),
            Stream::Unix(stream) => PeerIdentity::of(stream),
        };
        if !service.admits(&peer) {
            tracing::debug!(%peer, "disconnected");
            continue;
        }
        // A client that waits here for a place is accepted, and those behind it are in the backlog.
        let Ok(()) = room.acquire().await.map(tokio::sync::SemaphorePermit::forget) else { return };
        let (service, room) = (Rc::clone(&service), Rc::clone(&room));
        tokio_uring::spawn(async move {
            match stream {
                Stream::Tcp(stream) => converse(&*service, stream, &peer).await,
                Stream::Unix(stream) => converse(&*service, stream, &peer).await,
            }
            room.add_permits(1);
        });
    }
}

async fn converse(
    service: &impl HttpService,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: &PeerIdentity,
) {
    let service = service_fn(|request| async {
        Ok::<_, std::convert::Infallible>(service.respond(request, peer).await)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = sleep(LIFE) => {
            connection.as_mut().graceful_shutdown();
            timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

/// A client.
enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}
