//! The control socket: an HTTP API that changes the server, for those who may operate it.
//!
//! It is a file of mode 0600, and each request is checked once more: root may, and the user that started the
//! server. The user that the server became (`--user`) may not, although the file belongs to it so that it can
//! be removed: a server that was taken over must not be able to operate itself.

mod routes;
mod stores;
mod views;

use std::path::Path;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::config::ListenAddress;
use crate::config::listen::{FileMode, UnixAccess, UnixAddress};
use crate::control::http::reply::{error, json};
use crate::control::http::{self, HttpService, body};
use crate::control::listen::accept::Acceptor;
use crate::control::listen::endpoint::Endpoint;
use crate::control::listen::listeners::{self, ListenError, Listener};
use crate::control::observe::collector::Collector;
use crate::control::plane::Plane;
use crate::control::reload::Reloads;
use crate::control::stores::Stores;
use crate::identity::PeerIdentity;
use routes::{RouteError, Verb};

/// Connections at the same time; further ones wait in the backlog. They are not those of the admin server.
const CONNECTIONS: usize = 16;
/// Only its user may connect at all.
const MODE: FileMode = FileMode(0o600);

/// What the control socket operates.
pub(super) struct Operator {
    pub(super) plane: Rc<Plane>,
    pub(super) stores: Rc<Stores>,
    pub(super) collector: Rc<Collector>,
    pub(super) reloads: Rc<Reloads>,
    /// Where clients connect.
    pub(super) endpoints: Vec<Endpoint>,
    /// The user that started the server.
    pub(super) starter: u32,
}

/// Listens on a control socket. No request is answered before [`Operator::start`].
///
/// # Errors
/// [`ListenError::Control`].
pub(super) fn listen(path: &Path) -> Result<Listener, ListenError> {
    let address = ListenAddress::Unix(UnixAddress::Path(path.to_owned()));
    let access = UnixAccess { mode: Some(MODE), group: None };
    let mut bound = Vec::new();
    listeners::listen(&[address], &access, &mut bound)
        .map_err(|error| ListenError::Control(Box::new(error)))?;
    Ok(bound.remove(0))
}

/// Whether a peer may operate a server.
fn may_operate(peer: &PeerIdentity, starter: u32) -> bool {
    peer.unix.is_some_and(|of| of.uid == 0 || of.uid == starter)
}

impl Operator {
    /// Answers from now on, until the task is aborted.
    pub(super) fn start(self, acceptor: Acceptor) -> JoinHandle<()> {
        let room = Rc::new(Semaphore::new(CONNECTIONS));
        tokio_uring::spawn(http::serve(Rc::new(self), acceptor, room))
    }

    async fn perform(
        &self,
        verb: Verb,
        (query, body): (Option<&str>, &[u8]),
        peer: &PeerIdentity,
    ) -> Response<String> {
        match verb {
            Verb::ListExports => {
                self.collector.refresh(false).await;
                json(StatusCode::OK, &self.exports())
            }
            Verb::Reload => {
                let enforces = match enforces(body) {
                    Ok(enforces) => enforces,
                    Err(why) => return error(StatusCode::UNPROCESSABLE_ENTITY, &why),
                };
                tracing::info!(%peer, enforces, "a reload was asked for");
                let end = self.reloads.run(enforces).await;
                json(end.reloaded.status(), &end.view())
            }
            Verb::ListStores => json(StatusCode::OK, &self.open_stores()),
            Verb::AskStore(verb) => self.of_store(verb, (Some(query.unwrap_or_default()), &[]), peer).await,
            Verb::ChangeStore(verb) => self.of_store(verb, (None, body), peer).await,
        }
    }
}

impl HttpService for Operator {
    async fn respond(&self, request: Request<Incoming>, peer: &PeerIdentity) -> Response<String> {
        if !may_operate(peer, self.starter) {
            tracing::warn!(%peer, path = request.uri().path(), "refused at the control socket");
            return error(StatusCode::FORBIDDEN, &forbidden(self.starter));
        }
        let verb = match routes::find(request.method(), request.uri().path()) {
            Ok(verb) => verb,
            Err(refusal) => return refused(refusal),
        };
        let query = request.uri().query().map(str::to_owned);
        match body::read(request.into_body()).await {
            Ok(body) => self.perform(verb, (query.as_deref(), &body), peer).await,
            Err(why) => error(why.status(), why.sentence()),
        }
    }
}

/// What a reload is asked for by.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadQuestion {
    #[serde(default)]
    enforce: bool,
}

/// Whether a reload is to end sessions. Without a body it is not.
fn enforces(body: &[u8]) -> Result<bool, String> {
    if body.is_empty() {
        return Ok(false);
    }
    let object = serde_json::from_slice::<serde_json::Map<_, _>>(body);
    let question = object.and_then(|object| serde_json::from_value::<ReloadQuestion>(object.into()));
    question.map(|question| question.enforce).map_err(|error| format!("the body is not understood: {error}"))
}

fn forbidden(starter: u32) -> String {
    match starter {
        0 => "only root may operate this server, because root started it".to_owned(),
        user => format!("only root and the user {user}, who started this server, may operate it"),
    }
}

fn refused(refusal: RouteError) -> Response<String> {
    match refusal {
        RouteError::NotFound => {
            error(StatusCode::NOT_FOUND, &format!("there is no such path; there is: {}", routes::overview()))
        }
        RouteError::Method(allowed) => {
            let allowed = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
            let mut response =
                error(StatusCode::METHOD_NOT_ALLOWED, &format!("this path answers only {allowed}"));
            let value = HeaderValue::from_str(&allowed).expect("names of methods are plain text");
            response.headers_mut().insert(ALLOW, value);
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::UnixCredentials;

    #[test]
    fn a_reload_enforces_when_it_is_asked_to() {
        for (body, asked) in [("", Some(false)), ("{}", Some(false)), ("{\"enforce\": true}", Some(true))] {
            assert_eq!(enforces(body.as_bytes()).ok(), asked, "{body}");
        }
        for body in ["[]", "{\"enforce\": 1}", "{\"enforced\": true}", "true", "{"] {
            assert!(enforces(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn root_and_the_starter_may() {
        let peer = |uid| PeerIdentity {
            unix: Some(UnixCredentials { pid: Some(1), uid, gid: 0 }),
            ..PeerIdentity::default()
        };
        for (uid, starter, may) in
            [(0, 0, true), (0, 1000, true), (1000, 1000, true), (1000, 0, false), (1001, 1000, false)]
        {
            assert_eq!(may_operate(&peer(uid), starter), may, "{uid} of {starter}");
        }
        assert!(!may_operate(&PeerIdentity::default(), 0), "nobody is not root");
        let tcp = PeerIdentity::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        assert!(!may_operate(&tcp, 0));
    }
}
