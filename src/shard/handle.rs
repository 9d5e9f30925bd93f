//! How the control plane reaches a shard: a bounded channel and a doorbell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::backend::{Export, ExportId, HomeTask};
use crate::config::Limits;
use crate::shard::mailbox::{
    Collect, Departing, Dismissal, EndConnection, HomeVisit, LeavingConnection, Message, NewConnection,
    Removal, Remove, Settlement,
};
use crate::shard::setup::{END, END_NOW, ShardConfig, ShardEnd, ShardError, ShardStartError};
use crate::shard::takes_tls::TakesTls;
use crate::shard::turn::run::run;
use crate::shard::turn::shard::Shard;
use crate::stats::Interval;
use crate::sys::{self, Doorbell};

/// The shortest that there is. A shard works for less before it sleeps, and what it does should not wait
/// until a thread that compresses or hashes has used up its own slice. With 0.5 ms reads waited as long as
/// without.
const SLICE: Duration = Duration::from_micros(100);

/// The control plane's end of a shard.
#[derive(Debug)]
pub struct ShardHandle {
    /// A channel of the standard library drops what was not taken when the shard ends, so whoever waits for
    /// an answer hears of it. The bounded one of crossbeam keeps it for as long as this handle is there.
    mailbox: SyncSender<Message>,
    doorbell: Arc<Doorbell>,
    connections: Arc<AtomicUsize>,
    is_pinned: bool,
    /// The order to end. Not a message: it must not wait for room in the mailbox of a shard that is stuck.
    end: Arc<AtomicU8>,
    /// Rates of exports are others. No message either: it must not be lost.
    rates_changed: Arc<AtomicBool>,
}

impl ShardHandle {
    /// Starts a shard; returns when its ring is up.
    ///
    /// # Errors
    /// [`ShardStartError`]: a sentence with the cause and the remedy.
    pub fn start(config: ShardConfig) -> Result<Self, ShardStartError> {
        let (mut handle, shard_end) = Self::new(&config.limits)?;
        let (started, outcome) = sync_channel(1);
        let name = format!("shard-{}", config.index);
        let run = move || {
            if let Some(cpu) = config.cpu
                && let Err(error) = sys::pin_to_cpu(cpu)
            {
                let _ = started.send(Err(ShardStartError::Cpu(cpu, error)));
                return;
            }
            match Shard::new(&config, shard_end) {
                Err(error) => {
                    let _ = started.send(Err(error));
                }
                Ok(shard) => {
                    // The threads that it has started keep theirs.
                    if let Err(error) = sys::set_slice(SLICE) {
                        tracing::debug!(%error, "a shard has no short time slice");
                    }
                    let _ = started.send(Ok(shard.is_pinned));
                    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(shard)));
                    (config.on_exit)(ended.map_err(|_panic| ShardError));
                }
            }
        };
        std::thread::Builder::new()
            .name(name)
            .spawn(run)
            .map_err(|error| ShardStartError::System("thread", error))?;
        let died = || ShardStartError::System("thread", std::io::Error::other("it ended while starting"));
        handle.is_pinned = outcome.recv().map_err(|_closed| died())??;
        Ok(handle)
    }

    /// Both ends of the way between the control plane and a shard.
    pub(super) fn new(limits: &Limits) -> Result<(Self, ShardEnd), ShardStartError> {
        let doorbell = Doorbell::new().map_err(|error| ShardStartError::System("doorbell", error))?;
        let doorbell = Arc::new(doorbell);
        let (mailbox, messages) = sync_channel(limits.mailbox);
        let connections = Arc::new(AtomicUsize::new(0));
        let end = Arc::new(AtomicU8::new(0));
        let rates_changed: Arc<AtomicBool> = Arc::default();
        let shard_end = ShardEnd {
            messages,
            doorbell: Arc::clone(&doorbell),
            connections: Arc::clone(&connections),
            end: Arc::clone(&end),
            rates_changed: Arc::clone(&rates_changed),
        };
        Ok((Self { mailbox, doorbell, connections, is_pinned: false, end, rates_changed }, shard_end))
    }

    /// Hands a connection over.
    ///
    /// # Errors
    /// Gives it back when the mailbox is full or the shard is gone.
    pub fn connect(&self, negotiated: NewConnection) -> Result<(), Box<NewConnection>> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        match self.mailbox.try_send(Message::Connect(Box::new(negotiated))) {
            Ok(()) => {
                self.doorbell.ring();
                Ok(())
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                self.connections.fetch_sub(1, Ordering::Relaxed);
                match message {
                    Message::Connect(negotiated) => Err(negotiated),
                    _ => unreachable!("the message is the one that was sent"),
                }
            }
        }
    }

    /// Whether its buffer memory is locked, and registered with its ring.
    pub fn is_pinned(&self) -> bool {
        self.is_pinned
    }

    /// Connections that the shard has or is about to get.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Asks for what the shard recorded since the last time; `answer` is called on its thread and must not
    /// wait. With `spare`, an interval of an earlier answer, its memory is used again. False when the shard
    /// is gone or has no room for the question.
    pub fn collect(
        &self,
        spare: Option<Box<Interval>>,
        connections: bool,
        answer: impl FnOnce(Box<Interval>) + Send + 'static,
    ) -> bool {
        let question = Collect { spare, connections, answer: Box::new(answer) };
        let sent = self.mailbox.try_send(Message::Collect(question)).is_ok();
        self.doorbell.ring();
        sent
    }

    /// Has an export given up, which no connection is handed over for any more; `done` is called on the
    /// shard's thread when nothing of it is left there, and dropped when the shard ends before. False when
    /// the shard is gone or has no room for the message.
    pub fn remove(&self, id: ExportId, how: Removal, done: impl FnOnce() + Send + 'static) -> bool {
        let message = Message::Remove(Box::new(Remove { id, how, done: Box::new(done) }));
        let sent = self.mailbox.try_send(message).is_ok();
        self.doorbell.ring();
        sent
    }

    /// Ends those of these connections that are here, by their numbers in ascending order. False when
    /// the shard is gone or has no room for the message.
    pub(crate) fn dismiss(&self, numbers: Vec<u64>, why: Dismissal) -> bool {
        let sent = self.mailbox.try_send(Message::Dismiss(numbers, why)).is_ok();
        self.doorbell.ring();
        sent
    }

    /// Has a connection cut off, which came at this time of the shard's clock; `answer` hears on the shard's
    /// thread whether there was one, and is dropped when the shard ends before. False when the shard is gone
    /// or has no room for the message.
    pub fn end_connection(&self, since_ns: u64, answer: impl FnOnce(bool) + Send + 'static) -> bool {
        let message = Message::EndConnection(EndConnection { since_ns, answer: Box::new(answer) });
        let sent = self.mailbox.try_send(message).is_ok();
        self.doorbell.ring();
        sent
    }

    /// Has something done for an image of which this is the home: its clients are here, and nowhere else. Its
    /// device is opened if it is not. False when the shard is gone or has no room for the message; the task
    /// is dropped then.
    pub fn visit(&self, id: ExportId, export: Arc<Export>, task: HomeTask) -> bool {
        let message = Message::Home(Box::new(HomeVisit { id, export, task }));
        let sent = self.mailbox.try_send(message).is_ok();
        self.doorbell.ring();
        sent
    }

    /// Has the shard look at the rates of its exports again. Never waits.
    pub fn rates_changed(&self) {
        self.rates_changed.store(true, Ordering::Release);
        self.doorbell.ring();
    }

    /// Has the connections of some exports ready for another process, with or without those with TLS. Those
    /// that are ready within `patience`, and within `client_patience` where only the client can end what is
    /// under way, are given to `answer` on the shard's thread, which must not wait; they are held until
    /// [`ShardHandle::settle`]. False when the shard is gone or has no room for the message.
    pub(crate) fn depart(
        &self,
        (exports, takes): (Vec<ExportId>, TakesTls),
        [patience, client_patience]: [Duration; 2],
        answer: impl FnOnce(Vec<LeavingConnection>) + Send + 'static,
    ) -> bool {
        let order = Departing { exports, takes, patience, client_patience, answer: Box::new(answer) };
        let sent = self.mailbox.try_send(Message::Depart(order)).is_ok();
        self.doorbell.ring();
        sent
    }

    /// Says what has become of the connections that were ready. False when the shard is gone or has no room
    /// for the message.
    pub(crate) fn settle(&self, settlement: Settlement) -> bool {
        let sent = self.mailbox.try_send(Message::Settle(settlement)).is_ok();
        self.doorbell.ring();
        sent
    }

    /// Asks the shard to finish what has begun, to begin nothing more, and to end. Never waits.
    pub fn shutdown(&self) {
        self.end.fetch_max(END, Ordering::Release);
        self.doorbell.ring();
    }

    /// Asks the shard to end now, whatever is unfinished. Never waits.
    pub fn cut_off(&self) {
        self.end.fetch_max(END_NOW, Ordering::Release);
        self.doorbell.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvError, channel};

    use super::*;

    /// It came after the shard had looked for the last time.
    #[test]
    fn whoever_asks_a_shard_that_ends_is_told_that_nobody_answers() {
        let (handle, shard) = ShardHandle::new(&Limits::default()).unwrap();
        let (answer, answered) = channel();
        let patience = [Duration::ZERO; 2];
        let takes = (Vec::new(), TakesTls::ALL);
        assert!(handle.depart(takes, patience, move |leaving| answer.send(leaving.len()).unwrap()));
        drop(shard);
        assert_eq!(answered.recv(), Err(RecvError));
        assert!(!handle.settle(Settlement::Stay));
    }
}
