//! The control socket: an HTTP API that changes the server, for those who may operate it.
//!
//! It is a file of mode 0600, and each request is checked once more: root may, and the user that started the
//! server. The user that the server became (`--user`) may not, although the file belongs to it so that it can
//! be removed: a server that was taken over must not be able to operate itself.

mod connections;
mod exports;
mod routes;
mod stores;
mod views;

use std::path::Path;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use crate::config::ListenAddress;
use crate::config::listen::{FileMode, UnixAccess, UnixAddress};
use crate::control::http::reply::{error, json};
use crate::control::http::{self, HttpService, body};
use crate::control::listen::accept::Acceptor;
use crate::control::listen::endpoint::Endpoint;
use crate::control::listen::listeners::{self, ListenError, Listener};
use crate::control::live::{Condition, Live};
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
    pub(super) live: Rc<Live>,
    /// Where clients connect.
    pub(super) endpoints: Vec<Endpoint>,
    /// The user that started the server.
    pub(super) starter: u32,
    /// The server ends when this is told.
    pub(super) drain: Rc<Notify>,
}

/// A request, but for what it asks for.
struct Asked<'a> {
    /// Behind the path.
    name: String,
    condition: Condition,
    query: Option<&'a str>,
    body: &'a [u8],
    peer: &'a PeerIdentity,
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

    async fn perform(&self, verb: Verb, asked: Asked<'_>) -> Response<String> {
        let Asked { name, condition, query, body, peer } = asked;
        let (which, query) = ((&*name, &condition), query.unwrap_or_default());
        if verb.changes_exports() {
            tracing::info!(%peer, ?verb, name, "a change was asked for");
        }
        match verb {
            Verb::ListExports => {
                self.collector.refresh(false).await;
                json(StatusCode::OK, &self.exports())
            }
            Verb::ShowExport => self.show_export(&name).await,
            Verb::PutExport => self.change_export(which, body, true).await,
            Verb::PatchExport => self.change_export(which, body, false).await,
            Verb::RemoveExport => self.remove_export(which, query).await,
            Verb::ListConnections => self.list_connections().await,
            Verb::ShowConnection => self.show_connection(&name).await,
            Verb::EndConnection => self.end_connection(&name).await,
            Verb::Health => {
                self.collector.refresh(false).await;
                json(StatusCode::OK, &self.health())
            }
            Verb::Drain => {
                tracing::info!(%peer, "the end was asked for");
                self.drain.notify_one();
                json(StatusCode::ACCEPTED, &serde_json::json!({ "state": "stopping" }))
            }
            Verb::Reload => self.reload(query, peer).await,
            Verb::ListStores => json(StatusCode::OK, &self.open_stores()),
            Verb::AskStore(verb) => self.of_store(verb, (Some(query), &[]), peer).await,
            Verb::ChangeStore(verb) => self.of_store(verb, (None, body), peer).await,
        }
    }

    async fn reload(&self, query: &str, peer: &PeerIdentity) -> Response<String> {
        let is_dry = match query {
            "" | "dry_run=false" => false,
            "dry_run=true" => true,
            _ => return error(StatusCode::UNPROCESSABLE_ENTITY, "dry_run is true or false"),
        };
        tracing::info!(%peer, dry_run = is_dry, "a reload was asked for");
        let reloaded = self.reloads.run(is_dry).await;
        json(reloaded.status(), &reloaded.view(is_dry))
    }
}

impl HttpService for Operator {
    async fn respond(&self, request: Request<Incoming>, peer: &PeerIdentity) -> Response<String> {
        if !may_operate(peer, self.starter) {
            tracing::warn!(%peer, path = request.uri().path(), "refused at the control socket");
            return error(StatusCode::FORBIDDEN, &forbidden(self.starter));
        }
        let (verb, name) = match routes::find(request.method(), request.uri().path()) {
            Ok(found) => found,
            Err(refusal) => return refused(refusal),
        };
        let condition = match Condition::of(request.headers()) {
            Ok(condition) => condition,
            Err(sentence) => return error(StatusCode::BAD_REQUEST, sentence),
        };
        let query = request.uri().query().map(str::to_owned);
        match body::read(request.into_body()).await {
            Ok(body) => {
                let query = query.as_deref();
                self.perform(verb, Asked { name, condition, query, body: &body, peer }).await
            }
            Err(why) => error(why.status(), why.sentence()),
        }
    }
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
