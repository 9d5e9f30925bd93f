//! What comes to a shard from the control plane: connections, questions, and the order to end.

use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::backend::{Device, ExportId, SealFailure};
use crate::config::Shutdown;
use crate::ring::{Operation, Owner};
use crate::shard::devices::{DeviceEntry, EndedOpening, OpenedDevice};
use crate::shard::frontend::nbd::closing::{Closing, Reason};
use crate::shard::frontend::nbd::connection::Connection;
use crate::shard::frontend::nbd::linger::Linger;
use crate::shard::mailbox::{
    Collect, Dismissal, EndConnection, HomeVisit, Message, NewConnection, Removal, Remove, Visitor,
};
use std::io;

use crate::shard::request::{Peer, ShardJob};
use crate::shard::setup::{END, END_NOW};
use crate::shard::turn::flush::to_flush;
use crate::shard::turn::shard::Shard;
use crate::stats::{ConnectionInfo, Gauges, Interval};

/// What was cut off has so long to come to its end.
const LAST_CALL: Duration = Duration::from_secs(1);

impl Shard {
    /// Takes in what the doorbell announced: messages, answers of the helper threads, and tasks that other
    /// shards woke.
    pub(crate) fn take_messages(&mut self) {
        if !std::mem::take(&mut self.doorbell_rang) {
            return self.shared.context.outstanding.collect();
        }
        self.doorbell.listen();
        let eventfd = self.doorbell.as_fd().as_raw_fd();
        self.ring.push(Operation::Watch { eventfd, counter: Box::new(0) }, Owner::Shard);
        self.shared.context.collect();
        // Before the messages: what was sent before it is there. A hand-over that is settled is so at the
        // end as well.
        let order = self.asked_to_end.load(Ordering::Acquire);
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Connect(negotiated) => self.connect(*negotiated),
                Message::Home(visit) => self.visit(visit),
                Message::Collect(question) => self.tell(question),
                Message::Remove(order) => self.remove_export(*order),
                Message::Dismiss(numbers, why) => self.dismiss(&numbers, why),
                Message::EndConnection(order) => self.end_connection(order),
                Message::Depart(order) => self.depart(order),
                Message::Settle(settlement) => self.settle(settlement),
            }
        }
        self.look_at_rates();
        if order >= END {
            self.begin_shutdown();
        }
        let now = self.ring.now();
        if order >= END_NOW && self.shutdown.is_some_and(|deadline| deadline > now) {
            self.shutdown = Some(now);
            // The deadline is looked at in the next turn, which nothing else may bring about.
            self.ring.push(Operation::sleep(Duration::ZERO), Owner::Shard);
        }
    }

    /// Takes a connection over, as soon as its device is open.
    pub(crate) fn connect(&mut self, new: NewConnection) {
        self.receive_visitor(Visitor::Connection(new));
    }

    fn receive_visitor(&mut self, visitor: Visitor) {
        let (id, _) = visitor.export();
        match self.devices.enter(visitor) {
            DeviceEntry::Open(Visitor::Connection(new), device) => self.attach(new, device),
            DeviceEntry::Open(Visitor::Home(visit), opened) => self.begin_visit(*visit, opened),
            DeviceEntry::First(export) => self.jobs.push(ShardJob::Open(id, export)),
            DeviceEntry::Waits => {}
        }
    }

    /// Has something done for an image, unless it or the shard is on its way out.
    fn visit(&mut self, visit: Box<HomeVisit>) {
        if self.shutdown.is_some() || self.devices.is_leaving(visit.id) {
            return visit.task.fail(SealFailure::Gone);
        }
        self.receive_visitor(Visitor::Home(visit));
    }

    fn begin_visit(&mut self, visit: HomeVisit, OpenedDevice { device, failed }: OpenedDevice) {
        let HomeVisit { id, task, .. } = visit;
        if failed {
            task.fail(SealFailure::NotOpen);
            drop(device);
            return self.detach(id);
        }
        self.visits += 1;
        let limit = self.limits.seal_timeout;
        self.jobs.push(ShardJob::Home { id, device, task, limit });
    }

    /// Tasks of homes have ended: the devices have a visitor less.
    pub(crate) fn take_visited(&mut self) {
        let visited = std::mem::take(&mut *self.shared.visited.borrow_mut());
        for id in visited {
            self.visits -= 1;
            self.detach(id);
        }
    }

    /// Devices were opened, or could not be: the connections that waited for them go on.
    pub(crate) fn take_opened(&mut self) {
        let opened = std::mem::take(&mut *self.shared.opened.borrow_mut());
        for (id, result) in opened {
            let device = match result {
                Ok(device) => Some(device),
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                    match self.devices.make_room(id) {
                        Some(export) => {
                            self.jobs.push(ShardJob::Open(id, export));
                            continue;
                        }
                        None => self.not_opened(id, &error),
                    }
                }
                Err(error) => self.not_opened(id, &error),
            };
            let EndedOpening { visitors, removal } = self.devices.opened(id, device);
            visitors.into_iter().for_each(|visitor| self.receive_visitor(visitor));
            if let Some((how, done)) = removal {
                self.remove_export(Remove { id, how, done });
            }
        }
    }

    fn not_opened(&self, id: ExportId, error: &io::Error) -> Option<Device> {
        tracing::error!(export = id.index, reason = %error, "cannot open an export here, refusing the requests of its clients");
        None
    }

    /// A connection begins on its device.
    fn attach(&mut self, new: NewConnection, OpenedDevice { device, failed }: OpenedDevice) {
        let Ok(registered) = self.ring.register_file(new.socket.as_fd()) else {
            tracing::error!(peer = %new.peer, "no room for a connection's socket, closing it");
            self.connection_count.fetch_sub(1, Ordering::Relaxed);
            let id = new.id;
            new.hang_up();
            return self.detach(id);
        };
        let NewConnection {
            number,
            socket,
            over_tcp,
            id,
            export,
            limits,
            session,
            leftover,
            secure,
            peer,
            permit,
            socket_permit,
            ..
        } = new;
        let kept = self.keeps(&socket).then_some(socket);
        drop(socket_permit);
        let client = self.connections.vacant_key() as u32;
        device.greet(client);
        let (index, abandon) = (id.index as usize, Default::default());
        let shared = Rc::new(Peer { device, id, export: index, client, abandon });
        let (gate, load) = self.throttle.enter(id, export.backing(), &limits);
        let ledger = self.admission.open_ledger(load);
        let held = (ledger, gate);
        let mut connection = Connection::new(registered, held, shared, session, peer, leftover, permit);
        (connection.number, connection.since) = (number, self.recorder.elapsed());
        connection.linger = if over_tcp { Linger::OverTcp } else { Linger::Never };
        connection.over_tcp = over_tcp;
        connection.refuses = failed.then_some(Reason::NoDevice);
        connection.hold.kept = kept;
        connection.secure(secure, &self.partial_records);
        let key = self.connections.insert(connection) as u32;
        self.recorder.connected(index);
        self.admission.share_among(self.connections.len());
        self.list(key);
    }

    /// A visitor has nothing of its device any more.
    pub(crate) fn detach(&mut self, id: ExportId) {
        if let Some(done) = self.devices.leave(id) {
            self.recorder.forget(id.index as usize);
            done();
        }
    }

    /// Whether any client is connected, or about to be, or something is done for an image.
    pub(crate) fn has_clients(&self) -> bool {
        !self.connections.is_empty() || self.devices.are_opening() || self.visits > 0
    }

    /// Gives an export up, now or when its last connection is gone.
    fn remove_export(&mut self, Remove { id, how, done }: Remove) {
        let now = self.recorder.now();
        self.stops_idle |= how == Removal::WithErrors;
        let connections = self.connections.iter_mut().filter(|_| how != Removal::WhenUnused);
        for (key, connection) in connections.filter(|(_, connection)| connection.peer.id == id) {
            connection.because(Reason::Removed);
            match how {
                Removal::WhenUnused => {}
                Removal::AtOnce => connection.stop(now),
                Removal::WithErrors => connection.refuses = Some(Reason::Removed),
                Removal::CutOff => connection.end(Closing::Abort),
            }
            to_flush(&mut self.to_flush, key as u32, connection);
        }
        self.feed_throttled();
        if let Some(done) = self.devices.remove(id, how, done) {
            self.recorder.forget(id.index as usize);
            done();
        }
    }

    /// Ends connections, by their numbers in ascending order.
    fn dismiss(&mut self, numbers: &[u64], why: Dismissal) {
        let now = self.recorder.now();
        for (key, connection) in &mut self.connections {
            if numbers.binary_search(&connection.number).is_err() {
                continue;
            }
            match why {
                Dismissal::TooOld => connection.because(Reason::TooOld).stop(now),
                Dismissal::Unwelcome => connection.turn_away(now),
                Dismissal::Grown => connection.stop_and_tell(now),
            }
            to_flush(&mut self.to_flush, key as u32, connection);
        }
    }

    /// Cuts a connection off.
    fn end_connection(&mut self, EndConnection { since_ns, answer }: EndConnection) {
        let found = self.connections.iter_mut().find(|(_, connection)| connection.since == since_ns);
        answer(found.is_some());
        if let Some((key, connection)) = found {
            connection.because(Reason::Ended).end(Closing::Abort);
            to_flush(&mut self.to_flush, key as u32, connection);
        }
    }

    /// Answers the control plane.
    fn tell(&mut self, question: Collect) {
        let Collect { spare, connections, answer } = question;
        answer(self.hand_over(spare, connections));
    }

    /// What was recorded, and how things stand.
    pub(crate) fn hand_over(&mut self, spare: Option<Box<Interval>>, connections: bool) -> Box<Interval> {
        let mut interval = self.recorder.take(spare);
        interval.end = self.recorder.elapsed();
        interval.gauges = Gauges {
            connections: self.connections.len() as u64,
            in_flight: self.admission.usage().working() as u64,
            unsent: self.requests.unsent() as u64,
            memory_used: (self.admission.pool().total_bytes() - self.admission.pool().free_bytes()) as u64,
            memory_total: self.admission.pool().total_bytes() as u64,
            receive_buffers: u64::from(self.ring.available_receive_buffers()),
            operations: (self.ring.operations_in_flight() - self.slow_sends.operations()) as u64,
        };
        if connections {
            let now = interval.end;
            interval.connections.extend(self.connections.iter().map(|(_, connection)| ConnectionInfo {
                peer: connection.name.clone(),
                export: connection.peer.export,
                since_ns: connection.since,
                age_ns: now.saturating_sub(connection.since),
                in_flight: connection.ledger.in_flight() as u64,
                requests: connection.requests,
                bytes: connection.bytes,
            }));
        }
        interval
    }

    /// From now on no request begins, and connections end when nothing of them is in flight; see
    /// [`crate::config::Shutdown`].
    fn begin_shutdown(&mut self) {
        if self.shutdown.is_none() {
            self.shutdown = Some(self.ring.now() + self.limits.shutdown_timeout);
            self.stops_idle = true;
            self.ring.push(Operation::sleep(self.limits.shutdown_timeout), Owner::Shard);
            self.depart_no_more();
        }
        let now = self.recorder.now();
        // Those too that came with the last messages.
        for (key, connection) in &mut self.connections {
            if self.limits.shutdown == Shutdown::Close && !canary!(AnswersAtTheEnd) {
                connection.stop(now);
            }
            to_flush(&mut self.to_flush, key as u32, connection);
        }
        self.feed_throttled();
    }

    /// Cuts off what did not finish in time; true when all is over.
    pub(crate) fn shutdown_is_over(&mut self) -> bool {
        let Some(deadline) = self.shutdown else { return false };
        let now = self.ring.now();
        if now < deadline {
            return !self.has_clients();
        }
        if self.cut_off.is_none() {
            self.cut_off = Some(now);
            // What a backend still works on ends with an error, and its task with it.
            self.ring.push(Operation::CancelAll, Owner::Shard);
            self.ring.push(Operation::sleep(LAST_CALL), Owner::Shard);
            for visitor in self.devices.give_up_waiting() {
                if let Visitor::Connection(new) = visitor {
                    new.hang_up();
                    self.connection_count.fetch_sub(1, Ordering::Relaxed);
                }
            }
            for (key, connection) in &mut self.connections {
                if connection.closing != Closing::Abort {
                    tracing::warn!(
                        connection = connection.number,
                        peer = %connection.name,
                        "cut off: it did not finish before the shutdown timeout"
                    );
                    connection.reason = Some(Reason::CutOff);
                    connection.end(Closing::Abort);
                    to_flush(&mut self.to_flush, key as u32, connection);
                }
            }
        }
        let late = self.cut_off.is_some_and(|since| now >= since + LAST_CALL);
        if late && !self.connections.is_empty() {
            tracing::error!(connections = self.connections.len(), "requests did not end, leaving them");
        }
        late || !self.has_clients()
    }
}
