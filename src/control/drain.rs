//! The end of a server: what has begun is finished.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::host::Host;
use super::parting::{Parted, next_stop};
use super::server::{Ending, Server};

/// Handshakes that go on when the server stops may hear of it for so long.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(2);
/// Shards cut off what is unfinished after [`crate::config::Limits::shutdown_timeout`]. A shard that takes so
/// much longer is stuck.
const SHARD_GRACE: Duration = Duration::from_secs(2);

/// Those who follow the events may take the last one for so long.
const LAST_EVENT_GRACE: Duration = Duration::from_secs(1);

/// What a finished shutdown still takes.
const LAST_LINES: Duration = Duration::from_millis(100);

impl Server<'_> {
    /// Finishes what has begun.
    pub(super) async fn end(&mut self, parting: Parted, host: &mut impl Host) -> Ending {
        self.plane.stop();
        let drained = match &parting {
            Parted::InHaste => Ending::CutOff,
            _ => self.drain_or_cut_off(host).await,
        };
        self.stores.settle().await;
        if drained != Ending::CutOff {
            self.keep(parting).await;
        }
        std::mem::take(&mut self.observers).finish();
        self.control.iter().for_each(JoinHandle::abort);
        drained
    }

    /// Drains until the host asks again. A drain that is all but complete then still counts as one.
    async fn drain_or_cut_off(&mut self, host: &mut impl Host) -> Ending {
        let plane = Rc::clone(&self.plane);
        let drain = self.drain();
        tokio::pin!(drain);
        let signal = tokio::select! {
            ending = &mut drain => return ending,
            signal = next_stop(host) => signal,
        };
        // The signal may have come when everything but the last lines of code was done: timeout(1) signals
        // the process and then its group. Nothing was lost then.
        if let Ok(ending) = timeout(LAST_LINES, &mut drain).await {
            return ending;
        }
        tracing::warn!(signal, "stopping at once: what is in flight is lost");
        if host.goes_on() {
            plane.cut_off();
            drain.await;
        }
        Ending::CutOff
    }

    /// Waits until every shard has finished, and whoever is in a handshake or follows the events has heard of
    /// it, each within its time.
    async fn drain(&mut self) -> Ending {
        let shards = self.config.shards.len();
        let plane = Rc::clone(&self.plane);
        let patience = plane.limits.shutdown_timeout + SHARD_GRACE;
        let finish = async {
            while self.ended_shards < shards {
                match self.exits.recv().await {
                    Some((shard, Ok(last))) => self.observers.take_last(shard, last),
                    Some((shard, failed)) => {
                        self.shard_failed(shard, failed);
                        continue;
                    }
                    None => break,
                }
                self.ended_shards += 1;
            }
            if self.plane.failures() > 0 { Ending::Failed } else { Ending::Stopped }
        };
        let handshakes = timeout(HANDSHAKE_GRACE, plane.no_handshakes());
        let followers = timeout(LAST_EVENT_GRACE, plane.events.deserted());
        let (ending, ..) = tokio::join!(timeout(patience, finish), handshakes, followers);
        ending.unwrap_or_else(|_elapsed| {
            tracing::error!("a shard did not stop in time: what it had in flight is lost");
            Ending::Stopped
        })
    }
}
