//! What is where. Paths are compared as they are: no file is ever looked up.

use std::net::IpAddr;
use std::rc::Rc;

use hyper::header::{ACCEPT, ALLOW, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::Admin;
use super::figures::figures;
use super::views::{connections, image_facts, remote_facts};
use crate::config::Weight;
use crate::control::catalogue::Entry;
use crate::control::http::answer::{self, HttpBody};
use crate::control::http::reply::{HTML, TEXT, json, number, reply, text};
use crate::stats::prometheus::{ExportFacts, Format, Metrics, StoreFacts, export_label, render};

/// One page without anything from outside.
const DASHBOARD: &str = include_str!("dashboard.html");

impl Admin {
    /// What happens from now on, if that is what a request asks for, and may.
    pub(super) fn follow<B>(&self, request: &Request<B>) -> Option<Response<HttpBody>> {
        let is_it = *request.method() == Method::GET && request.uri().path() == "/api/v1/events";
        let may = !self.is_local || names_this_machine(request);
        let since = text(request, "since");
        (is_it && may).then(|| answer::follow(&self.plane.events, request.headers(), since.as_deref()))
    }

    /// Answers a request, whatever its body is.
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Response<String> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        if self.is_local && !names_this_machine(request) {
            return reply(StatusCode::MISDIRECTED_REQUEST, TEXT, MISDIRECTED.to_owned());
        }
        match request.uri().path() {
            "/" => reply(StatusCode::OK, HTML, DASHBOARD.to_owned()),
            "/metrics" => {
                self.collector.refresh(false).await;
                let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
                let format = Format::accepted(accept.unwrap_or_default());
                reply(StatusCode::OK, format.content_type(), self.metrics(format))
            }
            "/healthz" => self.health(),
            "/api/v1/server" => {
                self.collector.refresh(false).await;
                json(StatusCode::OK, &self.server())
            }
            "/api/v1/exports" => {
                self.collector.refresh(false).await;
                json(StatusCode::OK, &self.exports())
            }
            "/api/v1/images" => self.images(number(request, "limit")).await,
            "/api/v1/connections" => {
                self.collector.refresh(true).await;
                match self.chosen_export(request) {
                    Some(export) => {
                        let (state, catalogue) = (self.collector.state(), self.plane.catalogue());
                        let limit = number(request, "limit");
                        json(StatusCode::OK, &connections(&state, &catalogue, export, limit))
                    }
                    None => no_such_export(),
                }
            }
            "/api/v1/figures" => {
                self.collector.refresh(false).await;
                let since = number(request, "since_unix_ms").unwrap_or(u64::MAX);
                let (state, catalogue) = (self.collector.state(), self.plane.catalogue());
                json(StatusCode::OK, &figures(&state, &catalogue, self.plane.is_stopping(), since))
            }
            "/api/v1/latency" => {
                self.collector.refresh(false).await;
                json(StatusCode::OK, &self.latency())
            }
            "/api/v1/history" => self.answer_history(request),
            _ => reply(StatusCode::NOT_FOUND, TEXT, NOT_FOUND.to_owned()),
        }
    }

    fn answer_history<B>(&self, request: &Request<B>) -> Response<String> {
        let since = number(request, "since_unix_ms").unwrap_or(0);
        match self.chosen_export(request) {
            Some(export) => json(StatusCode::OK, &self.history(since, export)),
            None => no_such_export(),
        }
    }

    /// The export that the query chooses, or all of them; nothing when there is none of that name.
    fn chosen_export<B>(&self, request: &Request<B>) -> Option<Option<usize>> {
        text(request, "export").map_or(Some(None), |name| self.export_index(&name).map(Some))
    }

    fn metrics(&self, format: Format) -> String {
        let state = self.collector.state();
        let responsive: Vec<_> = state.shards.iter().map(|shard| shard.is_responsive()).collect();
        let facts = |entry: &Rc<Entry>| ExportFacts {
            index: entry.index(),
            label: export_label(&entry.info.name),
            size: entry.size(),
            read_only: entry.info.facts.read_only,
            mapped_bytes: entry.export().map_or(0, |export| export.mapped_bytes()),
            weight: entry.rates().weight.unwrap_or(Weight::LEAST).get(),
            image: image_facts(entry),
            remote: remote_facts(entry),
        };
        let exports: Vec<_> = self.plane.catalogue().iter().map(facts).collect();
        let snapshots = self.overviews.snapshots();
        let (tiers, uploads) = (self.overviews.tiers(), self.overviews.uploads());
        let stores = snapshots.iter().zip(self.overviews.failed_reads()).zip(tiers.into_iter().zip(uploads));
        let stores = stores.map(|(((path, snapshots, packs), failed_reads), (tier, uploads))| StoreFacts {
            label: path.clone(),
            snapshots,
            packs: *packs,
            failed_reads,
            tier,
            uploads,
        });
        let stores: Vec<_> = stores.collect();
        let metrics = Metrics {
            exports: &exports,
            stores: &stores,
            totals: &state.totals,
            responsive: &responsive,
            clients: self.plane.counts(),
            shards_failed: self.plane.failures(),
            log_lines_dropped: (self.log_lines_dropped)(),
            start_unix_seconds: self.start_unix_seconds(),
            process: self.process.look(),
        };
        render(&metrics, format)
    }

    fn health(&self) -> Response<String> {
        let stuck = self.collector.state().shards.iter().position(|shard| !shard.is_responsive());
        match (self.plane.is_stopping(), stuck) {
            (true, _) => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "stopping\n".to_owned()),
            (_, Some(shard)) => {
                let what = if self.plane.has_failed(shard) { "has failed" } else { "does not answer" };
                reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("shard {shard} {what}\n"))
            }
            (false, None) => reply(StatusCode::OK, TEXT, "ok\n".to_owned()),
        }
    }
}

fn no_such_export() -> Response<String> {
    reply(StatusCode::NOT_FOUND, TEXT, "no export has that name; see /api/v1/exports\n".to_owned())
}

const NOT_FOUND: &str = "\
There is: / /metrics /healthz /api/v1/server /api/v1/exports /api/v1/images /api/v1/connections /api/v1/latency /api/v1/history /api/v1/figures /api/v1/events
";

const MISDIRECTED: &str = "\
this server is at localhost: ask for that name or for its address, or let the proxy do so
";

/// Whether a request is meant for the loopback address. The name of another site may resolve to this machine,
/// and a browser would then let that site's page read the answers. The browser sends the name that it was
/// given, which is checked here. A client that sends none is no browser.
fn names_this_machine<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or_default());
    let Some(host) = request.uri().authority().map(|authority| authority.as_str()).or(host) else {
        return true;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        let request = |host: &str| Request::builder().uri("/").header(HOST, host).body(()).unwrap();
        for host in [
            "localhost",
            "LocalHost:9800",
            "127.0.0.1:9800",
            "127.1.2.3",
            "[::1]:9800",
            "a.localhost.",
            "[::1]",
        ] {
            assert!(names_this_machine(&request(host)), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "10.0.0.1",
            "[::2]",
            "\u{7f}",
        ] {
            let request = Request::builder().uri("/").header(
                HOST,
                HeaderValue::from_bytes(host.as_bytes()).unwrap_or(HeaderValue::from_static("?")),
            );
            assert!(!names_this_machine(&request.body(()).unwrap()), "{host}");
        }
        assert!(names_this_machine(&Request::builder().uri("/").body(()).unwrap()), "HTTP/1.0");
        let absolute =
            Request::builder().uri("http://example.org/").header(HOST, "localhost").body(()).unwrap();
        assert!(!names_this_machine(&absolute));
    }

    #[test]
    fn the_dashboard_needs_nothing_from_outside() {
        for outside in ["http://", "https://", "//cdn", "@import", "src="] {
            assert!(!DASHBOARD.contains(outside), "{outside}");
        }
    }
}
