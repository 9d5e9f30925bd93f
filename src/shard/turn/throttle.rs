//! Connections whose requests a rate holds back.

use crate::shard::frontend::nbd::connection::Connection;
use crate::shard::turn::shard::Shard;

impl Shard {
    /// Takes over the rates that are in force, if they have changed.
    pub(crate) fn look_at_rates(&mut self) {
        if self.throttle.renew(self.recorder.now()) {
            for (_, connection) in &mut self.connections {
                connection.is_limited = connection.gate.borrow().is_limited();
            }
        }
    }

    /// Connections go on whose moment has come.
    pub(crate) fn release_throttled(&mut self) {
        let now = self.recorder.now();
        while let Some(due) = self.throttle.first_due(now) {
            loop {
                let next = due.gate.borrow_mut().next(now);
                let Some(key) = next else { break };
                self.connections[key as usize].let_through(now);
                self.list(key);
            }
            self.throttle.note(due.number, now);
        }
    }

    /// What is held back is refused from now on, or its connection is ending.
    pub(crate) fn feed_throttled(&mut self) {
        let waits =
            |(key, connection): (usize, &Connection)| connection.throttled.is_some().then_some(key as u32);
        let keys: Vec<_> = self.connections.iter().filter_map(waits).collect();
        keys.into_iter().for_each(|key| self.list(key));
    }
}
