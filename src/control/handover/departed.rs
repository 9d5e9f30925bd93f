//! A connection as a value, between two processes.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::arrived::{Arrived, resumed};
use super::message::HandoverMessage;
use super::socket::HandoverError;
use crate::control::catalogue::Entry;
use crate::control::plane::Plane;

/// A connection that no shard has any more, and no other process yet.
#[derive(Debug)]
pub(super) struct DepartedConnection {
    /// Its export.
    pub(super) name: String,
    /// What the new process is told of it.
    pub(super) message: HandoverMessage,
    pub(super) socket: OwnedFd,
}

impl DepartedConnection {
    /// The number of its export.
    pub(super) fn export(&self) -> u32 {
        match &self.message {
            HandoverMessage::Connection { export, .. } => *export,
            _ => unreachable!("it is made of a connection"),
        }
    }

    /// The same connection, to go on here.
    pub(super) fn arrived(&self, entry: &Rc<Entry>, plane: &Plane) -> Result<Arrived, HandoverError> {
        let HandoverMessage::Connection { session, secure, input, .. } = &self.message else {
            unreachable!("it is made of a connection")
        };
        let socket = self.socket.try_clone().map_err(HandoverError::Io)?;
        let secure = secure.as_ref().map(|secure| resumed(plane, secure)).transpose()?;
        Ok(Arrived {
            entry: Rc::clone(entry),
            socket,
            session: session.clone(),
            secure,
            input: input.clone(),
        })
    }
}
