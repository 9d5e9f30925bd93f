//! What a server says of itself each second, and how it is asked.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::cli::http::{self, AskError};
use crate::config::ListenAddress;

/// How long the server may take to answer one of the questions.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that are asked for: the busiest.
const CLIENTS: usize = 500;

/// The answer of `/api/v1/figures`; a server may leave out or add what it likes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ServerFigures {
    pub(super) version: String,
    pub(super) stopping: bool,
    pub(super) shards: Vec<ShardFigures>,
    pub(super) exports: Vec<ExportFigures>,
    pub(super) seconds: Vec<SecondFigures>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ShardFigures {
    pub(super) responsive: bool,
    pub(super) failed: bool,
    pub(super) connections: u64,
    pub(super) in_flight: u64,
    pub(super) unsent: u64,
    pub(super) buffer_memory_used_bytes: u64,
    pub(super) buffer_memory_bytes: u64,
}

/// Counters are those since the start.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ExportFigures {
    pub(super) export: String,
    pub(super) size_bytes: u64,
    pub(super) read_only: bool,
    pub(super) connections: u64,
    pub(super) in_flight: u64,
    pub(super) reads: u64,
    pub(super) read_bytes: u64,
    pub(super) writes: u64,
    pub(super) written_bytes: u64,
    pub(super) others: u64,
    pub(super) errors: u64,
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
}

/// One second of the whole server.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct SecondFigures {
    pub(super) end_unix_ms: u64,
    pub(super) length_ms: u64,
    pub(super) reads: u64,
    pub(super) read_bytes: u64,
    pub(super) writes: u64,
    pub(super) written_bytes: u64,
    pub(super) others: u64,
    pub(super) errors: u64,
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
}

/// A connection.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ClientFigures {
    pub(super) id: String,
    pub(super) peer: String,
    pub(super) export: String,
    pub(super) shard: u64,
    pub(super) age_seconds: f64,
    pub(super) in_flight: u64,
    pub(super) requests: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClientList {
    count: u64,
    connections: Vec<ClientFigures>,
}

/// All that was asked at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Shot {
    /// Since some moment that all shots of a run share.
    pub(super) taken: Duration,
    pub(super) figures: ServerFigures,
    /// The busiest.
    pub(super) clients: Vec<ClientFigures>,
    /// All of them.
    pub(super) client_count: u64,
}

/// Asks one server again and again.
#[derive(Debug)]
pub(super) struct Camera {
    server: ListenAddress,
    /// It is a control socket, and no admin server.
    is_control: bool,
    began: Instant,
    /// The end of the last second that the server told.
    told_unix_ms: u64,
}

impl Camera {
    pub(super) fn new(server: ListenAddress, is_control: bool) -> Self {
        Self { server, is_control, began: Instant::now(), told_unix_ms: 0 }
    }

    /// How the server is now.
    ///
    /// # Errors
    /// A sentence with cause and remedy.
    pub(super) fn shoot(&mut self) -> Result<Shot, String> {
        let shot = self.try_shoot();
        if shot.is_err() {
            // Another server may be there next time, with seconds of its own.
            self.told_unix_ms = 0;
        }
        shot
    }

    fn try_shoot(&mut self) -> Result<Shot, String> {
        let since = self.told_unix_ms;
        let figures = self.ask::<ServerFigures>(&format!("/api/v1/figures?since_unix_ms={since}"))?;
        let list = self.ask::<ClientList>(&format!("/api/v1/connections?limit={CLIENTS}"))?;
        self.told_unix_ms = figures.seconds.last().map_or(since, |second| second.end_unix_ms);
        let ClientList { count, mut connections } = list;
        connections.truncate(CLIENTS);
        Ok(Shot { taken: self.began.elapsed(), figures, clients: connections, client_count: count })
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, target: &str) -> Result<T, String> {
        let answer = http::get(&self.server, target, PATIENCE).map_err(|error| self.sentence(error))?;
        match answer.status {
            200 => serde_json::from_value(answer.body)
                .map_err(|error| format!("the server's answer is not understood: {error}")),
            403 => {
                Err("the server does not let this user look: run as root, or as who started it".to_owned())
            }
            404 => {
                Err("the server does not know what this asks for: it is older than this program".to_owned())
            }
            status => Err(format!("the server answered with status {status}")),
        }
    }

    fn sentence(&self, error: AskError) -> String {
        match error {
            AskError::NoServer if !self.is_control => {
                "no server answers there: start it with --admin, or write where it listens".to_owned()
            }
            AskError::NotUnderstood if !self.is_control => {
                "what listens there is no admin server: write what the server's --admin is".to_owned()
            }
            other => other.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_nothing() {
        let figures: ServerFigures =
            serde_json::from_value(serde_json::json!({"exports": [{"export": "a", "reads": 3, "new": 1}]}))
                .unwrap();
        assert_eq!(figures.exports[0], ExportFigures { export: "a".into(), reads: 3, ..Default::default() });
    }
}
