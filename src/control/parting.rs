//! What a server does with its clients when the service manager stops it, and may start it again.

use std::rc::Rc;
use std::sync::Arc;

use super::handover::Parting;
use super::host::{ChangeError, Host, HostRequest};
use super::server::Server;
use crate::shard::TakesTls;

/// What has become of the clients when the server stops.
pub(super) enum Parted {
    /// They are served to the end.
    Nobody,
    /// Those that are kept for the next process are held.
    Held(Box<Parting>),
    /// The server was told to stop at once.
    InHaste,
}

/// Waits until the host wants the server to stop at once; what else it wants comes too late.
pub(super) async fn next_stop(host: &mut impl Host) -> &'static str {
    loop {
        match host.next().await {
            HostRequest::Stop(signal) => return signal,
            HostRequest::Add(add) => (add.answer)(Err(ChangeError::Stopping)),
            HostRequest::Remove(remove) => (remove.answer)(Err(ChangeError::Stopping)),
            HostRequest::Reload => {
                tracing::info!("the configuration is not read again: the server is stopping")
            }
        }
    }
}

impl Server<'_> {
    /// Holds the clients that can be kept for the next process, if somebody keeps them.
    pub(super) async fn part(&mut self, host: &mut impl Host) -> Parted {
        let Some(keeper) = self.keeper.as_ref().filter(|_| self.may_part) else { return Parted::Nobody };
        let (keeper, handovers) = (Arc::clone(keeper), Rc::clone(&self.handovers));
        // The next process is most likely this program, or a later one.
        let takes = if self.plane.encryption.is_some() { TakesTls::ALL } else { TakesTls::NONE };
        let parting = tokio::select! {
            parting = handovers.part(&keeper, takes) => parting,
            signal = next_stop(host) => {
                tracing::warn!(signal, "stopping at once: what is in flight is lost");
                return Parted::InHaste;
            }
        };
        let Some(parting) = parting else { return Parted::Nobody };
        self.given = parting.files();
        Parted::Held(Box::new(parting))
    }

    /// Gives those away that are held. Everything that they were answered is done.
    pub(super) async fn keep(&self, parted: Parted) {
        let Parted::Held(parting) = parted else { return };
        match parting.keep().await {
            Ok(connections) => tracing::info!(connections, "kept for the next process"),
            Err(error) => {
                tracing::error!(reason = %error, "no connection is kept: clients connect again");
            }
        }
    }
}
