//! What a server does when it takes over from another process, or another one from it.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::handover::{self, Leaver, OfferedListener, Takeover};
use super::host::{ChangeError, Host, HostRequest, Ready};
use super::listen::accept::Accepting;
use super::listen::listeners::{Listener, SocketFile};
use super::server::{Ending, Server};
use super::start_error::StartError;

/// Between two looks whether somebody is left.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Those that have moved are gone by then.
const LOOKS_UNTIL_TOLD: u32 = 3;

impl Server<'_> {
    /// Keeps the listeners for another process, if one can ask for them or they can be kept for it.
    pub(super) fn offer_listeners(
        &mut self,
        bound: &[Listener],
        control: Option<&Listener>,
    ) -> io::Result<()> {
        if control.is_none() && self.keeper.is_none() {
            return Ok(());
        }
        let mut listeners = OfferedListener::all(bound, &[], control)?;
        listeners.append(&mut self.observers.offered);
        self.handovers.listeners.replace(listeners);
        Ok(())
    }

    /// Takes the clients of the other process.
    pub(super) async fn take_over(
        &self,
        takeover: &mut Takeover,
        ready: Ready<'_>,
        host: &mut impl Host,
    ) -> Result<(), StartError> {
        let _images = takeover.open_images(&self.stores).await;
        let mut arrived = takeover.receive_connections(&self.plane)?;
        match takeover.finish() {
            Err(reason) if takeover.process().is_none() => {
                tracing::error!(%reason, "connections that were kept are closed");
                arrived.clear();
            }
            finished => finished?,
        }
        let connections = arrived.len();
        // From here on nothing may fail: nobody else has the clients.
        ready.sockets.iter().for_each(|file| file.is_ours(true));
        handover::attach(&self.plane, arrived).await;
        host.taken_over(ready);
        match takeover.process() {
            Some(process) => tracing::info!(process, connections, "took over"),
            None => tracing::info!(connections, "went on with connections that were kept"),
        }
        Ok(())
    }

    /// Gives the clients to a new process; false if all is as before.
    pub(super) async fn hand_over(&mut self, mut leaver: Leaver, host: &mut impl Host) -> bool {
        let outcome = leaver.outcome.take();
        let moved = self.move_clients(leaver, outcome.is_some(), host).await;
        if let Some(outcome) = outcome {
            // Whoever lent the stores hears it, or is gone with the server.
            let _heard = outcome.send(moved);
        }
        moved
    }

    async fn move_clients(&mut self, leaver: Leaver, has_lent: bool, host: &mut impl Host) -> bool {
        let (process, files) = (leaver.process, leaver.files.clone());
        self.accepting.send_replace(Accepting::NotNow);
        // No export comes, goes or changes meanwhile. What has changed just now is told to the shards first.
        let live = self.live.clone();
        let turn = match &live {
            Some(live) if !leaver.has_turn => Some(live.turn.lock().await),
            _ => None,
        };
        tokio::task::yield_now().await;
        let ended = handover::carry_out(&self.plane, leaver).await;
        drop(turn);
        match ended {
            Err(error) => {
                tracing::warn!(process, reason = %error, "the hand-over failed, going on");
                // Whoever lent the stores accepts clients again, when it has them back.
                if !has_lent {
                    self.accepting.send_replace(Accepting::Yes);
                }
                false
            }
            Ok(connections) => {
                self.given = files;
                self.accepting.send_replace(Accepting::Over);
                self.handovers.listeners.take();
                self.observers.stop_accepting();
                self.control.iter().for_each(JoinHandle::abort);
                host.handed_over(process);
                tracing::info!(process, connections, "handed over");
                true
            }
        }
    }

    /// Serves those that were not taken, to their end.
    pub(super) async fn until_left(&mut self, host: &mut impl Host) -> Ending {
        let plane = Rc::clone(&self.plane);
        let mut looks = 0;
        while plane.has_clients() {
            looks += 1;
            if looks == LOOKS_UNTIL_TOLD {
                tracing::info!("connections that could not move are served here until they end");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                request = host.next() => match request {
                    HostRequest::Stop(signal) => {
                        tracing::info!(signal, "stopping");
                        break;
                    }
                    HostRequest::Add(add) => (add.answer)(Err(ChangeError::Stopping)),
                    HostRequest::Remove(remove) => (remove.answer)(Err(ChangeError::Stopping)),
                    HostRequest::Reload => {}
                },
                Some((shard, result)) = self.exits.recv() => {
                    self.shard_failed(shard, result);
                    if self.ended_shards == self.config.shards.len() {
                        return Ending::Failed;
                    }
                }
            }
        }
        Ending::Stopped
    }

    /// Whether another process has this file now.
    pub(super) fn has_given(&self, file: &SocketFile) -> bool {
        self.given.iter().any(|path| path == file.path())
    }
}
