//! Who leaves memory lying while others wait for it has to go.
//!
//! Buffer memory, receive buffers and room for replies belong to all connections of a shard. A client that does not fetch its replies, or
//! does not send the payload that it announced, keeps its share as long as it likes: that may be a paused virtual machine. But when
//! somebody else gets nothing for [`Limits::stall_timeout`](crate::config::Limits::stall_timeout), whoever finished nothing in all that
//! time and still holds something is disconnected. The shard looks once a second, and only while somebody waits.

use std::time::Duration;

use super::connection::{Connection, Ending};
use super::phases::to_flush;
use super::waiting::Listed;
use super::worker::Shard;
use crate::ring::{OpKey, Operation, Owner};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whether it goes on when its client does something: fetches replies, or sends the rest of a payload.
fn is_up_to_its_client(connection: &Connection) -> bool {
    connection.outbound.is_sending() || connection.receiving.is_some()
}

/// What the looks know of a connection.
#[derive(Debug, Default)]
pub(super) struct Idleness {
    /// Since the last look a request was admitted, or replies went out.
    pub(super) moved: bool,
    /// Looks in a row at which it had not moved, though it had something to do.
    looks: u32,
}

impl Shard {
    /// Somebody waits: looks from now on.
    pub(super) fn watch(&mut self) {
        if self.next_look.is_none() {
            self.next_look = Some(self.ring.push(Operation::sleep(LOOK_EVERY), Owner::Shard));
        }
    }

    /// A timer of the shard has ended.
    pub(super) fn timer_ended(&mut self, timer: OpKey) {
        if self.next_look == Some(timer) {
            self.next_look = None;
            self.look();
        }
    }

    fn look(&mut self) {
        let somebody_waits = !self.waiting.is_empty();
        for (_, connection) in &mut self.connections {
            let moved = std::mem::take(&mut connection.idleness.moved);
            let has_to_do = connection.listed != Listed::No || is_up_to_its_client(connection);
            let counts = somebody_waits && has_to_do && !moved;
            connection.idleness.looks = if counts { connection.idleness.looks + 1 } else { 0 };
        }
        if !somebody_waits {
            return;
        }
        self.watch();
        let looks = self.limits.stall_timeout.div_duration_f64(LOOK_EVERY).ceil() as u32;
        let is_late = |connection: &Connection| connection.idleness.looks >= looks;
        let starves = |connection: &Connection| is_late(connection) && !is_up_to_its_client(connection);
        if !self.waiting.iter().any(|key| starves(&self.connections[key as usize])) {
            return;
        }
        let mut evicted = 0;
        for (key, connection) in &mut self.connections {
            if is_late(connection) && is_up_to_its_client(connection) && connection.ending != Ending::Abort {
                tracing::debug!(peer = %connection.name, "evicted");
                let before = connection.in_flight;
                connection.end(Ending::Abort);
                self.unsent -= before - connection.in_flight;
                to_flush(&mut self.to_flush, key as u32, connection);
                evicted += 1;
            }
        }
        if evicted > 0 {
            let what =
                "disconnected clients that left replies or payloads lying while others waited for memory";
            tracing::warn!(connections = evicted, "{what}");
        }
    }
}
