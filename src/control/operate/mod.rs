//! The control socket: an HTTP API that changes the server, for those who may operate it.
//!
//! It is a file of mode 0600, and each request is checked once more: root may, and the user that started the
//! server. If there are readers (`control-readers`), everybody may connect; readers may ask for what changes
//! nothing, and all others are disconnected at once, so that they take nobody's place. The user that the
//! server became (`--user`) may not, although the file belongs to it so that it can be removed: a server that
//! was taken over must not be able to operate itself.

mod connections;
mod exports;
mod handover;
mod openapi;
mod routes;
mod stores;
mod tenants;
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
use crate::control::admin::figures::figures;
use crate::control::handover::{Handovers, ListenerPurpose, PROTOCOL, PassedListeners};
use crate::control::http::answer::{self, HttpBody};
use crate::control::http::reply::{error, json, text};
use crate::control::http::{self, HttpService, body};
use crate::control::listen::accept::Acceptor;
use crate::control::listen::endpoint::Endpoint;
use crate::control::listen::listeners::{self, ListenError, Listener};
use crate::control::live::{Condition, Live};
use crate::control::observe::collector::Collector;
use crate::control::plane::Plane;
use crate::control::reload::{ReloadWish, Reloads};
use crate::control::stores::Stores;
use crate::identity::PeerIdentity;
use routes::{RouteError, Verb};

/// Connections at the same time; further ones wait in the backlog. They are not those of the admin server.
const CONNECTIONS: usize = 16;
/// Only its user may connect at all.
const MODE: FileMode = FileMode(0o600);
/// Who connects is looked at then.
const MODE_WITH_READERS: FileMode = FileMode(0o666);

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
    /// Those who may look.
    pub(super) readers: Vec<u32>,
    /// The server ends when this is told.
    pub(super) drain: Rc<Notify>,
    pub(super) handovers: Rc<Handovers>,
}

/// A request, but for what it asks for.
struct ControlRequest<'a> {
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
pub(super) fn listen(
    path: &Path,
    readers: &[u32],
    passed: &mut PassedListeners,
) -> Result<Listener, ListenError> {
    let address = ListenAddress::Unix(UnixAddress::Path(path.to_owned()));
    let access =
        UnixAccess { mode: Some(if readers.is_empty() { MODE } else { MODE_WITH_READERS }), group: None };
    let mut bound = Vec::new();
    let passed = |address: &ListenAddress| passed.take(ListenerPurpose::Control, address);
    listeners::listen(&[address], &access, passed, &mut bound)
        .map_err(|error| ListenError::Control(Box::new(error)))?;
    Ok(bound.remove(0))
}

/// What a client of the control socket may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Nothing,
    /// Ask for what changes nothing.
    Read,
    Operate,
}

/// The role of a peer.
fn role(peer: &PeerIdentity, starter: u32, readers: &[u32]) -> Role {
    match peer.unix {
        Some(of) if of.uid == 0 || of.uid == starter => Role::Operate,
        // Several users may have this number, which stands for those that have none here.
        Some(of) if of.uid != OVERFLOW_USER && readers.contains(&of.uid) => Role::Read,
        _ => Role::Nothing,
    }
}

const OVERFLOW_USER: u32 = 65534;

impl Operator {
    /// Answers from now on, until the task is aborted.
    pub(super) fn start(self, acceptor: Acceptor) -> JoinHandle<()> {
        let room = Rc::new(Semaphore::new(CONNECTIONS));
        tokio_uring::spawn(http::serve(Rc::new(self), acceptor, room))
    }

    async fn perform(&self, verb: Verb, asked: ControlRequest<'_>) -> Response<String> {
        let ControlRequest { name, condition, query, body, peer } = asked;
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
            Verb::ListTenants => self.list_tenants(),
            Verb::ShowTenant => self.show_tenant(&name),
            Verb::PatchTenant => self.change_tenant(&name, body),
            Verb::ListConnections => self.list_connections().await,
            Verb::ShowConnection => self.show_connection(&name).await,
            Verb::EndConnection => self.end_connection(&name).await,
            Verb::Health => {
                self.collector.refresh(false).await;
                json(StatusCode::OK, &self.health())
            }
            Verb::ShowFigures => self.show_figures(query).await,
            Verb::Drain => {
                tracing::info!(%peer, "the end was asked for");
                self.drain.notify_one();
                json(StatusCode::ACCEPTED, &serde_json::json!({ "state": "stopping" }))
            }
            Verb::Reload => self.reload(query, body, peer).await,
            Verb::HandOver | Verb::FollowEvents => {
                unreachable!("it has no answer that ends, and goes another way")
            }
            Verb::ShowHandover => json(StatusCode::OK, &self.departures()),
            Verb::ShowDescription => json(StatusCode::OK, &openapi::document()),
            Verb::Resize => self.resize_export(which, body).await,
            Verb::ListStores => json(StatusCode::OK, &self.open_stores()),
            Verb::AskStore(verb) => self.of_store(verb, (Some(query), &[]), peer).await,
            Verb::ChangeStore(verb) => self.of_store(verb, (None, body), peer).await,
        }
    }

    async fn show_figures(&self, query: &str) -> Response<String> {
        let since = query.split('&').find_map(|pair| pair.strip_prefix("since_unix_ms=")?.parse().ok());
        self.collector.refresh(false).await;
        let (state, catalogue) = (self.collector.state(), self.plane.catalogue());
        let since = since.unwrap_or(u64::MAX);
        json(StatusCode::OK, &figures(&state, &catalogue, self.plane.is_stopping(), since))
    }

    async fn reload(&self, query: &str, body: &[u8], peer: &PeerIdentity) -> Response<String> {
        let is_dry = match query {
            "" | "dry_run=false" => false,
            "dry_run=true" => true,
            _ => return error(StatusCode::UNPROCESSABLE_ENTITY, "dry_run is true or false"),
        };
        let enforces = match enforces(body) {
            Ok(enforces) => enforces,
            Err(why) => return error(StatusCode::UNPROCESSABLE_ENTITY, &why),
        };
        tracing::info!(%peer, dry_run = is_dry, enforces, "a reload was asked for");
        let end = self.reloads.run(ReloadWish { is_dry, enforces }).await;
        json(end.reloaded.status(), &end.view())
    }
}

impl HttpService for Operator {
    fn admits(&self, peer: &PeerIdentity) -> bool {
        // Without readers few can connect, and they are told why they may not.
        self.readers.is_empty() || role(peer, self.starter, &self.readers) > Role::Nothing
    }

    async fn respond(&self, request: Request<Incoming>, peer: &PeerIdentity) -> Response<HttpBody> {
        let is_safe = request.method().is_safe();
        let needed = if is_safe { Role::Read } else { Role::Operate };
        if role(peer, self.starter, &self.readers) < needed {
            tracing::warn!(%peer, path = request.uri().path(), "refused at the control socket");
            return error(StatusCode::FORBIDDEN, &forbidden(self.starter)).map(HttpBody::from);
        }
        match routes::find(request.method(), request.uri().path()) {
            Err(refusal) => refused(refusal).map(HttpBody::from),
            Ok((Verb::FollowEvents, _)) => {
                let since = text(&request, "since");
                answer::follow(&self.plane.events, request.headers(), since.as_deref())
            }
            Ok((Verb::HandOver, _)) => self.hand_over(request, peer).map(HttpBody::from),
            Ok((verb, name)) => self.answer(request, (verb, name), peer).await.map(HttpBody::from),
        }
    }
}

impl Operator {
    /// Answers a request whose answer has an end.
    async fn answer(
        &self,
        request: Request<Incoming>,
        (verb, name): (Verb, String),
        peer: &PeerIdentity,
    ) -> Response<String> {
        let condition = match Condition::of(request.headers()) {
            Ok(condition) => condition,
            Err(sentence) => return error(StatusCode::BAD_REQUEST, sentence),
        };
        let query = request.uri().query().map(str::to_owned);
        match body::read(request.into_body()).await {
            Ok(body) => {
                let query = query.as_deref();
                self.perform(verb, ControlRequest { name, condition, query, body: &body, peer }).await
            }
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
    fn root_and_the_starter_may_and_readers_look() {
        let peer = |uid| PeerIdentity {
            unix: Some(UnixCredentials { pid: Some(1), uid, gid: 0 }),
            ..PeerIdentity::default()
        };
        for (uid, starter, expected) in [
            (0, 0, Role::Operate),
            (0, 1000, Role::Operate),
            (1000, 1000, Role::Operate),
            (1000, 0, Role::Nothing),
            (1001, 1000, Role::Nothing),
            (1002, 1000, Role::Read),
            (OVERFLOW_USER, 1000, Role::Nothing),
        ] {
            assert_eq!(role(&peer(uid), starter, &[1002, OVERFLOW_USER]), expected, "{uid} of {starter}");
        }
        assert_eq!(role(&PeerIdentity::default(), 0, &[0]), Role::Nothing, "nobody is not root");
        let tcp = PeerIdentity::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        assert_eq!(role(&tcp, 0, &[]), Role::Nothing);
    }
}
