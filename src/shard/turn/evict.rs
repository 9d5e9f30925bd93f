//! Looks for connections that hold memory and move nothing while others starve; see
//! [`crate::shard::admission::stall`].

use std::time::Duration;

use crate::ring::{OpKey, Operation, Owner};
use crate::shard::admission::queue::Listed;
use crate::shard::frontend::nbd::closing::{Closing, Reason};
use crate::shard::frontend::nbd::connection::Connection;
use crate::shard::turn::flush::to_flush;
use crate::shard::turn::shard::Shard;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the client keeps by not sending the rest of a payload, and by not fetching replies that hold so much,
/// in bytes.
fn up_to_client(connection: &Connection, held_by_replies: u64) -> [Option<u64>; 2] {
    let inbound = connection.receiving.as_ref().map(|receiving| receiving.held.into());
    let outbound = connection.outbound.is_sending().then_some(held_by_replies);
    [inbound, outbound]
}

impl Shard {
    /// A connection waits, or has as much under way as it may, or is held back: looks from now on.
    pub(crate) fn watch(&mut self) {
        if self.next_look.is_none() {
            self.next_look = Some(self.ring.push(Operation::sleep(LOOK_EVERY), Owner::Shard));
        }
    }

    /// A timer of the shard has ended.
    pub(crate) fn timer_ended(&mut self, timer: OpKey) {
        if self.next_look == Some(timer) {
            self.next_look = None;
            self.look();
        }
        self.throttle.timer_ended(timer);
        self.sends_are_due(timer);
    }

    fn look(&mut self) {
        let looks = self.limits.stall_timeout.div_duration_f64(LOOK_EVERY).ceil() as u32;
        let somebody_waits = self.admission.has_waiting();
        let mut held_by_replies = vec![0; self.connections.capacity()];
        if somebody_waits {
            for (key, held) in self.requests.held_by_replies() {
                held_by_replies[key as usize] += u64::from(held);
            }
        }
        let (mut somebody_starves, mut somebody_is_held_up) = (false, false);
        for (key, connection) in &mut self.connections {
            if let Some(glance) = connection.glance() {
                somebody_is_held_up = true;
                let target = connection.push(&self.ring, key as u32, glance);
                connection.receive = Some(target);
                connection.push(&self.ring, key as u32, Operation::Cancel { target });
            }
            let held =
                up_to_client(connection, held_by_replies[key]).map(|held| held.filter(|_| somebody_waits));
            let waits = matches!(connection.listed, Listed::Waiting { .. });
            somebody_starves |= connection.progress.look(waits, held) >= looks;
        }
        if somebody_waits || somebody_is_held_up {
            self.watch();
        }
        if somebody_starves {
            self.evict(looks);
        }
    }

    fn evict(&mut self, looks: u32) {
        let mut evicted = 0;
        for (key, connection) in &mut self.connections {
            if connection.progress.is_late(looks) && connection.closing != Closing::Abort {
                tracing::debug!(peer = %connection.name, progress = ?connection.progress, "evicted");
                connection.because(Reason::Evicted).end(Closing::Abort);
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
