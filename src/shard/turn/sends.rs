//! Looks at sends that take long; see [`crate::shard::frontend::nbd::slow_send`].

use crate::ring::{OpKey, Operation, Owner};
use crate::shard::frontend::nbd::outbound::PROMPT;
use crate::shard::frontend::nbd::slow_send::Slow;
use crate::shard::turn::shard::Shard;

impl Shard {
    /// A connection sends, or waits for room.
    #[inline]
    pub(crate) fn watch_send(&mut self, key: u32) {
        if !self.connections[key as usize].outbound.note_watched() {
            self.slow_sends.keys.push(key);
            if self.slow_sends.timer.is_none() {
                self.slow_sends.timer = Some(self.ring.push(Operation::sleep(PROMPT), Owner::Shard));
            }
        }
    }

    /// A timer has ended: the next turn looks if it was that of the sends. Not now, because what a look
    /// starts must reach the kernel in the same turn as what it was decided by.
    pub(crate) fn sends_are_due(&mut self, timer: OpKey) {
        if self.slow_sends.timer == Some(timer) {
            self.slow_sends.timer = None;
            self.slow_sends.is_due = true;
        }
    }

    /// Looks when it is time.
    pub(crate) fn look_at_sends(&mut self) {
        if !std::mem::take(&mut self.slow_sends.is_due) {
            return;
        }
        let keys = std::mem::take(&mut self.slow_sends.keys);
        for key in keys {
            // It may be another one's by now: that one is looked at too early, which does no harm.
            if self.connections.contains(key as usize) {
                self.look_at_send(key);
            }
        }
    }

    fn look_at_send(&mut self, key: u32) {
        let now = self.recorder.now();
        let connection = &mut self.connections[key as usize];
        let operation = match connection.outbound.look(now) {
            Slow::No => return,
            Slow::NotYet => return self.watch_send(key),
            Slow::Sending(target) => Some(Operation::Cancel { target }),
            Slow::Torn(mapped) => {
                let lease = self.admission.lend_copy(&connection.ledger, mapped.length() as usize);
                let copying = lease.and_then(|lease| connection.peer.device.copying(&mapped, lease));
                // Without memory it stays where it is.
                copying.inspect(|_| connection.outbound.pause())
            }
        };
        if let Some(operation) = operation {
            connection.push(&self.ring, key, operation);
        }
    }
}
