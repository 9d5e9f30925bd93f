//! Connections that were kept while no process ran.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::arrived::{Arrived, check, resumed};
use super::message::OfferedExport;
use super::secure_state::SecureState;
use super::socket::HandoverError;
use crate::config::{Config, ExportConfig};
use crate::control::catalogue::Entry;
use crate::control::keeper::{KeepDescriptors, name_of_file};
use crate::control::plane::Plane;
use crate::nbd::session::Session;

/// Connections that were kept, and the way to whoever kept them.
#[derive(Debug)]
pub(super) struct KeptConnections {
    pub(super) keeper: Arc<dyn KeepDescriptors>,
    /// The state, which is emptied when it is taken, so that nobody takes it again.
    pub(super) state: File,
    /// All names of what is kept.
    pub(super) names: BTreeSet<String>,
    /// The places of the files of each export.
    pub(super) files: Vec<Vec<u32>>,
    pub(super) connections: Vec<KeptConnection>,
    /// Connections that cannot be had.
    pub(super) lost: usize,
}

/// One of them.
#[derive(Debug)]
pub(super) struct KeptConnection {
    pub(super) export: u32,
    pub(super) session: Session,
    pub(super) secure: Option<SecureState>,
    pub(super) input: Vec<u8>,
    pub(super) socket: OwnedFd,
}

impl KeptConnections {
    /// Lets files go that this process opens anew, because its exports are others: their locks would be in
    /// its way.
    pub(super) fn release_unwanted(
        &mut self,
        mut exports: Vec<(OfferedExport, Vec<OwnedFd>)>,
        config: &Config,
    ) -> Vec<(OfferedExport, Vec<OwnedFd>)> {
        let mut released = BTreeSet::new();
        for ((offered, files), places) in exports.iter_mut().zip(&self.files) {
            let is_it = |wanted: &ExportConfig| offered.is_same(wanted);
            if files.len() < offered.purposes.len() || !config.exports.iter().any(is_it) {
                files.clear();
                released.extend(places.iter().map(|place| name_of_file(*place)));
            }
        }
        self.release(&released);
        exports
    }

    /// Lets the files of an export go.
    pub(super) fn release_files(&self, number: usize) {
        let places = self.files.get(number).into_iter().flatten();
        self.release(&places.map(|place| name_of_file(*place)).collect());
    }

    fn release(&self, names: &BTreeSet<String>) {
        if names.is_empty() {
            return;
        }
        forget(&*self.keeper, names);
        if let Err(error) = self.keeper.settle() {
            tracing::warn!(reason = %error, "files that were kept may still be locked");
        }
    }

    /// The connections that can go on with these exports.
    pub(super) fn arrive(&mut self, plane: &Plane, entries: &[(u32, Rc<Entry>)]) -> Vec<Arrived> {
        let mut arrived = Vec::new();
        for connection in std::mem::take(&mut self.connections) {
            match connection.arrive(plane, entries) {
                Ok(connection) => arrived.push(connection),
                Err(error) => {
                    self.lost += 1;
                    tracing::debug!(reason = %error, "a connection that was kept cannot go on");
                }
            }
        }
        if self.lost > 0 {
            let closed = self.lost;
            const WHY: &str = "connections were kept that cannot go on: their sockets or exports are missing, or are \
                               others; their clients connect again";
            tracing::warn!(closed, "{WHY}");
        }
        arrived
    }

    /// From here on it is this process's, and nobody takes it again.
    pub(super) fn finish(&self) -> Result<(), HandoverError> {
        self.state.set_len(0).map_err(HandoverError::Io)?;
        forget(&*self.keeper, &self.names);
        Ok(())
    }
}

impl KeptConnection {
    fn arrive(self, plane: &Plane, entries: &[(u32, Rc<Entry>)]) -> Result<Arrived, HandoverError> {
        let Self { export, session, secure, input, socket } = self;
        let entry = entries.iter().find(|(number, _)| *number == export);
        let entry = entry.ok_or(HandoverError::OutOfOrder("a connection of no export"))?;
        let entry = Rc::clone(&entry.1);
        check(&entry, &session, &socket)?;
        let secure = secure.map(|secure| resumed(plane, &secure)).transpose()?;
        Ok(Arrived { entry, socket, session, secure, input })
    }
}

/// Has whoever kept it let all of it go. A socket that it still has would not end with the connection.
pub(super) fn forget(keeper: &dyn KeepDescriptors, names: &BTreeSet<String>) {
    for name in names {
        if let Err(error) = keeper.forget(name) {
            tracing::warn!(name, reason = %error, "what was kept is not let go: connections may not end");
        }
    }
}
