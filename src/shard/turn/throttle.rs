//! Connections whose requests a rate or a weight holds back.

use crate::shard::admission::queue::Listed;
use crate::shard::frontend::nbd::connection::Connection;
use crate::shard::turn::shard::Shard;

impl Shard {
    /// Takes over the rates and weights that are in force, if they have changed.
    pub(crate) fn look_at_rates(&mut self) {
        if self.throttle.renew(self.recorder.now()) {
            self.note_limits();
        }
    }

    fn note_limits(&mut self) {
        for (_, connection) in &mut self.connections {
            connection.look_at_gate();
        }
    }

    /// Connections go on whose moment has come, or line up at their device.
    #[cold]
    pub(crate) fn release_throttled(&mut self) {
        let now = self.recorder.now();
        while let Some(due) = self.throttle.first_due(now) {
            loop {
                let next = due.gate.borrow_mut().next(now);
                let Some(key) = next else { break };
                if self.connections[key as usize].has_passed_rate(key, now) {
                    self.list(key);
                }
            }
            self.throttle.note(due.number, now);
        }
    }

    /// Requests begin whose turn it is at their device. Those that may not in this turn of the shard are the
    /// first of the next one.
    #[cold]
    pub(crate) fn deal(&mut self) {
        if !self.throttle.weighing().is_due() {
            return;
        }
        // A first export with a weight has come, or the last one gone.
        if self.throttle.weighing().take_turned() {
            self.note_limits();
            self.throttle.look_whether_in_force();
        }
        let now = self.recorder.now();
        let mut left = self.limits.connections_per_turn;
        for _ in 0..self.throttle.weighing().listed() {
            let Some(line) = self.throttle.next_line() else { return };
            while left > 0 {
                let next = line.borrow_mut().next(now);
                let Some(key) = next else { break };
                left -= 1;
                let connection = &mut self.connections[key as usize];
                connection.let_through(now);
                match connection.listed {
                    Listed::No => drop(self.feed_one(key)),
                    Listed::ToFeed | Listed::Waiting { .. } => self.list(key),
                }
            }
            line.borrow_mut().list_again();
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
