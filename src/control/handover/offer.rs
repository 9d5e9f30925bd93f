//! Listeners that go from one process to the other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::message::ListenerPurpose;
use crate::config::ListenAddress;
use crate::control::listen::endpoint::Endpoint;
use crate::control::listen::listeners::{Listener, is_asked_for};

/// A listener of this process that another one could have: its socket once more.
#[derive(Debug)]
pub(in crate::control) struct OfferedListener {
    pub(super) purpose: ListenerPurpose,
    /// The service manager made it.
    pub(super) is_inherited: bool,
    pub(super) socket: OwnedFd,
    /// Its file, which is removed at the end by whoever has it then.
    pub(super) file: Option<PathBuf>,
}

impl OfferedListener {
    fn of(purpose: ListenerPurpose, listener: &Listener) -> io::Result<Self> {
        let socket = listener.socket.as_fd().try_clone_to_owned()?;
        let file = match &listener.endpoint {
            Endpoint::Unix(path) => Some(path.clone()),
            Endpoint::Tcp(_) | Endpoint::Abstract(_) => None,
        };
        Ok(Self { purpose, is_inherited: listener.is_inherited, socket, file })
    }

    /// All of a server: those of its clients, of the admin server, of the control socket.
    pub(in crate::control) fn all(
        clients: &[Listener],
        admin: &[Listener],
        control: Option<&Listener>,
    ) -> io::Result<Vec<Self>> {
        let clients = clients.iter().map(|listener| Self::of(ListenerPurpose::Clients, listener));
        let admin = admin.iter().map(|listener| Self::of(ListenerPurpose::Admin, listener));
        let control = control.into_iter().map(|listener| Self::of(ListenerPurpose::Control, listener));
        clients.chain(admin).chain(control).collect()
    }
}

/// Listeners that came from another process, until somebody takes them.
#[derive(Debug, Default)]
pub(in crate::control) struct PassedListeners {
    /// By their numbers.
    pub(super) waiting: Vec<(u32, ListenerPurpose, Listener)>,
    /// The numbers of those that were taken.
    pub(super) taken: Vec<u32>,
    /// No other process has them.
    are_kept: bool,
}

impl PassedListeners {
    /// None as yet, of those that no other process has.
    pub(super) fn kept() -> Self {
        Self { are_kept: true, ..Self::default() }
    }

    /// One more, if it listens where clients find it: the manager may have removed the directory of a unix
    /// socket (`RuntimeDirectory=`) while no process ran.
    pub(super) fn add(&mut self, purpose: ListenerPurpose, listener: Option<Listener>) {
        let is_found = |listener: &Listener| match listener.endpoint {
            Endpoint::Unix(_) => listener.file.is_some(),
            Endpoint::Tcp(_) | Endpoint::Abstract(_) => true,
        };
        let listener = listener.filter(is_found);
        let number = self.waiting.len() as u32;
        self.waiting.extend(listener.map(|listener| (number, purpose, listener)));
    }

    /// Nobody takes more of them. The files of those that no process has are removed.
    pub(in crate::control) fn close(&mut self) {
        for (_, _, listener) in self.waiting.drain(..) {
            listener.file.iter().for_each(|file| file.is_ours(self.are_kept));
        }
    }

    /// Takes those that listen where an address says, for the same clients; none when there are none.
    pub(in crate::control) fn take(
        &mut self,
        purpose: ListenerPurpose,
        address: &ListenAddress,
    ) -> Vec<Listener> {
        self.take_if(|of, listener| of == purpose && is_asked_for(&listener.endpoint, address))
    }

    /// Takes those that the service manager made for clients.
    pub(in crate::control) fn take_inherited(&mut self) -> Vec<Listener> {
        self.take_if(|of, listener| of == ListenerPurpose::Clients && listener.is_inherited)
    }

    fn take_if(&mut self, is_one: impl Fn(ListenerPurpose, &Listener) -> bool) -> Vec<Listener> {
        let taken = self.waiting.extract_if(.., |(_, purpose, listener)| is_one(*purpose, listener));
        let (numbers, listeners): (Vec<_>, Vec<_>) =
            taken.map(|(number, _, listener)| (number, listener)).unzip();
        self.taken.extend(numbers);
        listeners
    }
}
