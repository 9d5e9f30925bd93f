//! The old process gives stores to the new one before that has started, and takes them back if it fails.
//!
//! The clients of their images leave the shards first, and wait as values: that is what another process
//! needs of a connection, and what this one needs to go on with it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::arrived::attach;
use super::departed::DepartedConnection;
use super::leave::{
    EndOnDrop, Handovers, MOVE_TIME, NewProcess, PATIENCE, PATIENCES, Wish, next_wish, of_leaving, on_thread,
    quiesce, settle,
};
use super::message::{HandoverMessage, OfferedExport};
use super::socket::{HandoverError, HandoverSocket};
use crate::control::catalogue::Entry;
use crate::control::listen::accept::Accepting;
use crate::control::plane::Plane;
use crate::control::stores::Lending;
use crate::shard::{Settlement, TakesTls};

/// Handshakes that have begun have so long to choose an export.
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(1);
/// A new process that has the stores has so long to start, while their clients wait: it, and not each word of
/// it.
const START_TIME: Duration = Duration::from_secs(20);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// What was given up so far.
#[derive(Default)]
struct GivenUp<'a> {
    stores: Vec<Lending<'a>>,
    departed: Arc<Vec<DepartedConnection>>,
}

impl Handovers {
    /// Gives stores to a new process, which starts then. Returns when they are the other one's, or are
    /// served here again.
    pub(super) async fn with_stores(
        &self,
        new: NewProcess,
        stores: &[u32],
        takes: TakesTls,
    ) -> Result<(), HandoverError> {
        let live = self.live.borrow().clone();
        let _turn = match &live {
            Some(live) => Some(live.turn.lock().await),
            None => None,
        };
        // What may fail comes before clients are kept out.
        let ended = EndOnDrop(new.socket.twin().map_err(HandoverError::Io)?);
        self.accepting.send_replace(Accepting::NotNow);
        // Who is late waits for whoever has the stores then.
        let _late = timeout(HANDSHAKE_TIME, self.plane.no_handshakes()).await;
        let mut given = GivenUp::default();
        let moved = self.give_up(new, (stores, takes), &mut given).await;
        if let Ok(true) = moved {
            given.stores.into_iter().for_each(Lending::give);
            return Ok(());
        }
        drop(ended);
        self.take_back(given).await;
        self.accepting.send_if_modified(|now| std::mem::replace(now, Accepting::Yes) != Accepting::Yes);
        moved.map(drop)
    }

    /// False: it was told of already why they have not moved.
    async fn give_up<'a>(
        &'a self,
        new: NewProcess,
        (stores, takes): (&[u32], TakesTls),
        given: &mut GivenUp<'a>,
    ) -> Result<bool, HandoverError> {
        for number in stores {
            match self.stores.reserve(*number as usize).await {
                Ok(store) => given.stores.push(store),
                Err(why) => return Err(refuse(&new.socket, why)),
            }
        }
        let entries: Vec<_> = given.stores.iter().flat_map(|store| store.entries(&self.stores)).collect();
        let first = new.exports();
        match depart(&self.plane, &entries, (first, takes)).await {
            Ok(departed) => given.departed = Arc::new(departed),
            Err(why) => return Err(refuse(&new.socket, why)),
        }
        let offers: Vec<_> = entries.iter().map(offered).collect();
        drop(entries);
        for store in &mut given.stores {
            if let Err(why) = store.lend(&self.stores).await {
                return Err(refuse(&new.socket, why));
            }
        }
        tracing::info!(connections = given.departed.len(), "stores were given to the new process");
        let waiting = on_thread(move || {
            new.socket.set_patience(START_TIME).map_err(HandoverError::Io)?;
            for offer in offers {
                new.socket.send(&HandoverMessage::Export(offer), &[])?;
            }
            new.socket.send(&HandoverMessage::Released, &[])?;
            match next_wish(&new.socket, new.version)? {
                Wish::Start { exports, listeners, takes } => Ok((new, (exports, listeners, takes))),
                Wish::Stores { .. } => Err(HandoverError::OutOfOrder("CLAIM")),
            }
        });
        let started = tokio::select! {
            started = waiting => started??,
            () = sleep(START_TIME) => return Err(HandoverError::Slow(START_TIME.as_secs())),
            () = is_stopping(&self.plane) => return Err(HandoverError::Other("this server stops".to_owned())),
        };
        let (new, wanted) = started;
        let mut leaver = self.leaver(new, wanted, Arc::clone(&given.departed))?;
        let (told, outcome) = oneshot::channel();
        (leaver.has_turn, leaver.outcome) = (true, Some(told));
        drop(self.ready.send(leaver));
        outcome.await.map_err(|_dropped| HandoverError::Other("this server stops".to_owned()))
    }

    /// All is served here again.
    async fn take_back(&self, given: GivenUp<'_>) {
        let GivenUp { stores, departed } = given;
        for store in stores {
            store.take_back(&self.stores).await;
        }
        let (mut chosen, mut arrived) = (Vec::new(), Vec::new());
        for connection in departed.iter() {
            let Some(entry) = self.stores.place_of(&connection.name).await else {
                tracing::error!(export = connection.name, "a client is lost, because its image is");
                continue;
            };
            match connection.arrived(&entry, &self.plane) {
                Ok(connection) => arrived.push(connection),
                Err(error) => tracing::error!(export = connection.name, %error, "a client is lost"),
            }
            chosen.push(entry);
        }
        attach(&self.plane, arrived).await;
        tracing::info!(connections = departed.len(), "stores are served here again");
    }
}

/// Tells the new process why it gets nothing.
fn refuse(socket: &HandoverSocket, why: String) -> HandoverError {
    // It hears of the end otherwise.
    let _told = socket.send(&HandoverMessage::GivenUp(why.clone()), &[]);
    HandoverError::Other(why)
}

async fn is_stopping(plane: &Plane) {
    while !plane.is_stopping() {
        sleep(PATIENCE / 30).await;
    }
}

/// Where an image is, in words that no other one has.
pub(super) fn uri_of(entry: &Entry) -> String {
    entry.wanted().map_or_else(|| entry.source.clone(), |wanted| wanted.uri.to_string())
}

/// What is told of an image: its number is its place among all exports.
pub(super) fn offered(entry: &Rc<Entry>) -> OfferedExport {
    let wanted = entry.wanted();
    OfferedExport {
        name: entry.info.name.clone(),
        uri: uri_of(entry),
        read_only: wanted.is_some_and(|wanted| wanted.read_only),
        size: entry.size(),
        has_lost_writes: false,
        purposes: Vec::new(),
    }
}

/// Takes the connections of images away from the shards, all or none.
async fn depart(
    plane: &Plane,
    entries: &[Rc<Entry>],
    (first, takes): (usize, TakesTls),
) -> Result<Vec<DepartedConnection>, String> {
    let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
    let leaving = quiesce(plane, ids.clone(), takes, PATIENCES).await;
    let leaving = match leaving {
        Ok(leaving) => leaving,
        Err(error) => {
            settle(plane, Settlement::Stay).await;
            return Err(error.to_string());
        }
    };
    let clients: usize = entries.iter().map(|entry| entry.clients()).sum();
    if leaving.len() < clients {
        settle(plane, Settlement::Stay).await;
        let (many, all) = (clients - leaving.len(), clients);
        return Err(format!(
            "{many} of {all} connections of images cannot move now: they do not fetch their replies, have TLS that the new \
             process has not, or a request hangs; end them (ringnbd ctl connection kill), or try again"
        ));
    }
    settle(plane, Settlement::Moved).await;
    let departed = leaving.into_iter().map(|connection| {
        let place = ids.iter().position(|id| *id == connection.export).expect("it was asked for");
        let (message, socket) = of_leaving(connection, (first + place) as u32);
        DepartedConnection { name: entries[place].info.name.clone(), message, socket }
    });
    let departed = departed.collect();
    let gone = async {
        while entries.iter().any(|entry| entry.clients() > 0) {
            sleep(PAUSE).await;
        }
    };
    // If a shard does not let go, the store finds that its image is open.
    let _gone = timeout(MOVE_TIME, gone).await;
    Ok(departed)
}
