//! Requests about connections.

use std::time::Duration;

use hyper::{Response, StatusCode};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Operator;
use crate::control::admin::views::connections;
use crate::control::events::EventKind;
use crate::control::http::reply::{error, json};

/// How long a shard may take to cut a connection off.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries to tell a shard whose mailbox is full.
const PAUSE: Duration = Duration::from_millis(1);

/// A connection: its shard, and when that took it by its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ConnectionId(usize, u64);

impl ConnectionId {
    /// `SHARD.NUMBER`, as lists have it.
    fn parse(text: &str) -> Option<Self> {
        let (shard, since) = text.split_once('.')?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(shard) || !is_number(since) {
            return None;
        }
        Some(Self(shard.parse().ok()?, since.parse().ok()?))
    }
}

impl Operator {
    pub(super) async fn list_connections(&self) -> Response<String> {
        self.collector.refresh(true).await;
        json(StatusCode::OK, &connections(&self.collector.state(), &self.plane.catalogue(), None, None))
    }

    pub(super) async fn show_connection(&self, id: &str) -> Response<String> {
        self.collector.refresh(true).await;
        let all = connections(&self.collector.state(), &self.plane.catalogue(), None, None);
        all.one(id).map_or_else(|| no_such_connection(id), |one| json(StatusCode::OK, &one))
    }

    /// Cuts a connection off: what has begun is not answered.
    pub(super) async fn end_connection(&self, id: &str) -> Response<String> {
        let Some(ConnectionId(shard, since)) = ConnectionId::parse(id) else { return no_such_connection(id) };
        if shard >= self.plane.shard_count() || self.plane.has_failed(shard) {
            return no_such_connection(id);
        }
        let ended = async {
            while !self.plane.has_failed(shard) && !self.plane.is_stopping() {
                let (answer, answered) = oneshot::channel();
                // The client of the control socket may have left.
                let answer = move |was_there| {
                    let _left = answer.send(was_there);
                };
                if self.plane.end_connection(shard, since, answer) {
                    return answered.await.unwrap_or(false);
                }
                sleep(PAUSE).await;
            }
            false
        };
        match timeout(PATIENCE, ended).await {
            Ok(true) => {
                let told = serde_json::json!({ "connection": id });
                self.plane.events.tell(EventKind::ConnectionEnded, told);
                json(StatusCode::OK, &serde_json::json!({ "connection": id }))
            }
            Ok(false) => no_such_connection(id),
            Err(_late) => {
                error(StatusCode::SERVICE_UNAVAILABLE, "its shard does not answer: look at the health")
            }
        }
    }
}

fn no_such_connection(id: &str) -> Response<String> {
    let sentence = format!("there is no connection \"{}\": see /api/v1/connections", id.escape_debug());
    error(StatusCode::NOT_FOUND, &sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_a_shard_and_a_number() {
        assert_eq!(ConnectionId::parse("0.17"), Some(ConnectionId(0, 17)));
        assert_eq!(ConnectionId::parse("255.18446744073709551615"), Some(ConnectionId(255, u64::MAX)));
        for text in
            ["", ".", "0.", ".1", "0", "0.1.2", "-1.2", "+1.2", "0.18446744073709551616", "a.b", "0.1 "]
        {
            assert_eq!(ConnectionId::parse(text), None, "{text}");
        }
    }
}
