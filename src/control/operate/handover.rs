//! A hand-over to a new process: what it would move, and how it begins.

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;

use super::{Operator, PROTOCOL};
use crate::control::events::EventKind;
use crate::control::http::reply::error;
use crate::control::sessions::RunningSession;
use crate::identity::PeerIdentity;

/// What a hand-over would do.
#[derive(Debug, Serialize)]
pub(super) struct DepartureView {
    exports: Vec<ExportDepartureView>,
}

/// What it would do with the connections of an export.
#[derive(Debug, Serialize)]
struct ExportDepartureView {
    export: String,
    connections: usize,
    /// Connections with TLS, which move to a process that has TLS too.
    secure: usize,
    moves: bool,
    /// Why its connections stay with the old process.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl Operator {
    /// What would move.
    pub(super) fn departures(&self) -> DepartureView {
        let view = |entry: &std::rc::Rc<crate::control::catalogue::Entry>| {
            let why = entry.export().and_then(|export| export.why_it_stays());
            let is_known = entry.wanted().is_some() || entry.export().is_some_and(|export| export.is_image());
            let unknown = (!is_known).then_some("it was added by the application");
            let reason = why.or(unknown);
            let ids = entry.with_former();
            let secure = |session: &RunningSession| ids.contains(&session.id) && session.proof.is_some();
            let secure = self.plane.sessions.count(secure);
            let (export, connections) = (entry.info.name.clone(), entry.clients_with_former());
            ExportDepartureView { export, connections, secure, moves: reason.is_none(), reason }
        };
        DepartureView { exports: self.plane.catalogue().iter().map(view).collect() }
    }

    /// Leaves HTTP, and begins.
    pub(super) fn hand_over(&self, mut request: Request<Incoming>, peer: &PeerIdentity) -> Response<String> {
        let is_asked = request.headers().get(UPGRADE).is_some_and(|value| value == PROTOCOL);
        if !is_asked {
            let sentence = "a new process asks for a hand-over: start it with serve --takeover";
            return error(StatusCode::UPGRADE_REQUIRED, sentence);
        }
        if !self.handovers.begin(hyper::upgrade::on(&mut request)) {
            return error(StatusCode::CONFLICT, "another hand-over goes on, or the server is stopping");
        }
        self.plane.events.tell(EventKind::HandoverBegun, serde_json::Value::Null);
        tracing::info!(%peer, "a new process takes over");
        let mut response = Response::new(String::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for (name, value) in [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
