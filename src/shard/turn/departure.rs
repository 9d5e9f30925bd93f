//! Connections are made ready for another process, and then go or stay.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::ring::{Operation, Owner};
use crate::shard::departure::Departure;
use crate::shard::frontend::nbd::connection::Connection;
use crate::shard::frontend::nbd::hold::SocketOwner;
use crate::shard::mailbox::{Departing, LeavingConnection, Settlement};
use crate::shard::turn::flush::to_flush;
use crate::shard::turn::shard::Shard;

impl Shard {
    /// Whether a socket keeps its descriptor, to be given to another process. Before Linux 6.8 there is no
    /// other way. Not more than half of all descriptors are kept, so that there are some for further clients.
    pub(crate) fn keeps(&self, socket: &OwnedFd) -> bool {
        if self.ring.can_install() || self.ring.is_simulated() {
            return false;
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        limit.is_none_or(|limit| (socket.as_raw_fd() as u64) < limit / 2)
    }

    /// Begins to hold connections. An order that is not settled is forgotten.
    pub(crate) fn depart(&mut self, order: Departing) {
        self.settle(Settlement::Stay);
        if self.shutdown.is_some() {
            return;
        }
        let Departing { exports, takes, patience, client_patience, answer } = order;
        let of_clients = patience.min(client_patience);
        let [deadline, client_deadline] = [patience, of_clients].map(|patience| {
            // It brings about the turn in which the deadline has passed.
            self.ring.push(Operation::sleep(patience), Owner::Shard);
            self.ring.now() + patience
        });
        let (answer, told) = (Some(answer), Vec::new());
        self.departure = Some(Departure { exports, takes, deadline, client_deadline, answer, told });
    }

    /// Holds those that can be held, and tells of all when nothing of them is under way or the time is over.
    pub(crate) fn tend_departure(&mut self) {
        let Some(departure) = &mut self.departure else { return };
        if departure.answer.is_none() {
            return;
        }
        let now = self.ring.now();
        let waits_for_clients = now < departure.client_deadline;
        // Connections that wait for their device are none yet.
        let mut all_are_ready = !departure.exports.iter().any(|id| self.devices.is_opening(*id));
        let is_one = |connection: &Connection| departure.exports.contains(&connection.peer.id);
        for (key, connection) in self.connections.iter_mut().filter(|(_, connection)| is_one(connection)) {
            if connection.may_be_held(departure.takes) {
                connection.hold(&self.ring, key as u32);
            }
            let is_waited_for = waits_for_clients || connection.ledger.working() > 0;
            all_are_ready &=
                !is_waited_for || !connection.can_leave(departure.takes) || connection.is_quiet();
        }
        if !all_are_ready && now < departure.deadline {
            return;
        }
        let answer = departure.answer.take().expect("it is not told yet");
        let (mut leaving, mut staying) = (Vec::new(), Vec::new());
        for (key, connection) in &mut self.connections {
            if !connection.hold.is_held {
                continue;
            }
            let is_quiet = connection.is_quiet();
            let socket = connection.hold.descriptor.take_if(|_| is_quiet);
            match (socket, connection.leaving_secure()) {
                (None, _) | (_, Err(_)) => staying.push(key as u32),
                (Some(socket), Ok(secure)) => {
                    connection.hold.owner = SocketOwner::Offered;
                    departure.told.push((key as u32, connection.number));
                    leaving.push(LeavingConnection {
                        number: connection.number,
                        export: connection.peer.id,
                        socket,
                        session: connection.session.clone(),
                        secure,
                        input: connection.unfinished_input(),
                    });
                }
            }
        }
        staying.into_iter().for_each(|key| self.go_on(key));
        answer(leaving);
    }

    /// The shard ends. Those that were told of go without a word: if nobody has said what has become of them
    /// by now, the other process may have them.
    pub(crate) fn depart_no_more(&mut self) {
        self.settle(Settlement::Moved);
    }

    /// Those that were told of go, or go on.
    pub(crate) fn settle(&mut self, settlement: Settlement) {
        let Some(departure) = self.departure.take() else { return };
        let now = self.recorder.now();
        if departure.answer.is_some() {
            // Nobody was told of any: those that are held go on.
            let held = self.connections.iter().filter(|(_, connection)| connection.hold.is_held);
            let held: Vec<_> = held.map(|(key, _)| key as u32).collect();
            held.into_iter().for_each(|key| self.go_on(key));
            return;
        }
        for (key, number) in departure.told {
            let known = self.connections.get_mut(key as usize);
            let Some(connection) = known.filter(|connection| connection.number == number) else { continue };
            // It may have been asked to end meanwhile.
            to_flush(&mut self.to_flush, key, connection);
            match settlement {
                Settlement::Moved => connection.has_moved(now),
                Settlement::Stay => self.go_on(key),
            }
        }
    }

    fn go_on(&mut self, key: u32) {
        self.connections[key as usize].stay();
        self.list(key);
    }
}
