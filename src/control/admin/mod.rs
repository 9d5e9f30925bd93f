//! The admin server: metrics, a JSON API and a dashboard over HTTP/1.1, on the control plane's thread. It
//! changes nothing.
//!
//! Every client that can connect sees everything, so there is no admin server by default, and it listens only
//! where it is told to. What a client can take is bounded: connections, the time and the size of a request's
//! head, the life of a connection. Bodies are not read. `API.md` beside this file is the reference for users.

pub(in crate::control) mod figures;
mod images;
mod routes;
pub(in crate::control) mod views;

use std::rc::Rc;
use std::time::SystemTime;

use hyper::body::Incoming;
use hyper::{Request, Response};

use crate::control::http::HttpService;
use crate::control::http::answer::HttpBody;
use crate::control::observe::collector::Collector;
use crate::control::observe::process::Process;
use crate::control::plane::Plane;
use crate::control::stores::{Overviews, Stores};
use crate::identity::PeerIdentity;

/// Connections at the same time; further ones wait in the backlog.
pub(super) const CONNECTIONS: usize = 32;

/// What the admin server shows.
pub(super) struct Admin {
    plane: Rc<Plane>,
    collector: Rc<Collector>,
    overviews: Rc<Overviews>,
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
        stores: &Rc<Stores>,
        collector: Rc<Collector>,
        is_local: bool,
        histograms: bool,
        log_lines_dropped: fn() -> u64,
    ) -> Rc<Self> {
        let (started, process) = (SystemTime::now(), Process::open());
        let (plane, overviews) = (Rc::clone(&stores.plane), Overviews::new(stores));
        Rc::new(Self {
            plane,
            collector,
            overviews,
            is_local,
            histograms,
            log_lines_dropped,
            started,
            process,
        })
    }
}

impl HttpService for Admin {
    async fn respond(&self, request: Request<Incoming>, _peer: &PeerIdentity) -> Response<HttpBody> {
        match self.follow(&request) {
            Some(events) => events,
            None => self.answer(&request).await.map(HttpBody::from),
        }
    }
}
