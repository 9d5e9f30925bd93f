//! What a server tells about itself: metrics, the JSON API, the log of slow requests, the latency log, the dashboard.

#[path = "support/peers.rs"]
mod peers;
#[path = "support/python.rs"]
mod python;
mod support;

#[path = "admin/control.rs"]
mod control;
#[path = "admin/counters.rs"]
mod counters;
#[path = "admin/dashboard.rs"]
mod dashboard;
#[path = "admin/described.rs"]
mod described;
#[path = "admin/events.rs"]
mod events;
#[path = "admin/hostile.rs"]
mod hostile;
#[path = "admin/http.rs"]
mod http;
#[path = "admin/images.rs"]
mod images;
#[path = "admin/latency.rs"]
mod latency;
#[path = "admin/lifecycle.rs"]
mod lifecycle;
#[path = "admin/live.rs"]
mod live;
#[path = "admin/resized.rs"]
mod resized;
#[path = "admin/rotation.rs"]
mod rotation;
#[path = "admin/slow.rs"]
mod slow;
#[path = "admin/top.rs"]
mod top;
#[path = "admin/weights.rs"]
mod weights;

use serde_json::Value;
use support::server::{Options, Server};

/// A server with an admin server on a free port.
struct Subject {
    server: Server,
    admin: http::Address,
}

impl Subject {
    #[track_caller]
    fn serve(exports: &[&str]) -> Self {
        Self::start(exports.iter().fold(Options::new(), |options, export| options.export(*export)))
    }

    #[track_caller]
    fn start(options: Options) -> Self {
        let server = options.args(["--admin", "127.0.0.1:0"]).start();
        let admin = http::Address::of(&server);
        Self { server, admin }
    }

    #[track_caller]
    fn json(&self, path: &str) -> Value {
        let answer = self.admin.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "application/json");
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", answer.body))
    }

    /// Waits until all is well: on a machine that has other things to do, a shard may be late for a moment.
    #[track_caller]
    fn wait_until_healthy(&self) {
        support::wait_until("the server is well", || self.admin.get("/healthz").status == 200);
    }

    /// The entry of an export, a command and a phase.
    #[track_caller]
    fn latency(&self, export: &str, command: &str, phase: &str) -> Option<Value> {
        let all = self.json("/api/v1/latency");
        let is_it = |entry: &&Value| {
            entry["export"] == export && entry["command"] == command && entry["phase"] == phase
        };
        all["latency"].as_array().unwrap().iter().find(is_it).cloned()
    }

    /// The entry of an export.
    #[track_caller]
    fn export(&self, name: &str) -> Value {
        let all = self.json("/api/v1/exports");
        let found = all["exports"].as_array().unwrap().iter().find(|entry| entry["export"] == name);
        found.unwrap_or_else(|| panic!("no export {name:?}: {all}")).clone()
    }
}
