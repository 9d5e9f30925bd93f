//! The last step before the first client: the server goes into its sandbox, and says that it is there.

use super::listener::SocketFile;
use super::pidfile::{Pidfile, Prepared};
use super::server::StartError;
use crate::sandbox::{Names, Sandbox};

/// A pidfile on its way.
pub(super) enum Announcement {
    /// There is to be none, or it is there.
    Made(Option<Pidfile>),
    /// It needs its name.
    Prepared(Prepared),
}

impl Announcement {
    /// The pidfile says from now on that the server is up.
    pub(super) fn publish(self) -> Result<Option<Pidfile>, StartError> {
        match self {
            Self::Made(pidfile) => Ok(pidfile),
            Self::Prepared(prepared) => Ok(Some(prepared.publish()?)),
        }
    }
}

/// Hands over what has to change its owner, and [enters](Sandbox::enter).
pub(super) fn enter<'a>(
    sandbox: &Sandbox,
    sockets: impl Iterator<Item = &'a SocketFile>,
    pidfile: Option<Prepared>,
) -> Result<Announcement, StartError> {
    let mut names = Names::default();
    for socket in sockets {
        names.removed.push(socket.path().to_owned());
        if let Some(user) = sandbox.successor() {
            give_away(sandbox, socket, user);
        }
    }
    names.pidfile = pidfile.as_ref().map(|pidfile| pidfile.temporary().to_owned());
    let announcement = match (pidfile, sandbox.successor()) {
        (None, _) => Announcement::Made(None),
        (Some(pidfile), None) => Announcement::Prepared(pidfile),
        (Some(pidfile), Some(user)) if sandbox.may_change_beside(pidfile.temporary()) => {
            pidfile.hand_over(user).map_err(StartError::Runtime)?;
            Announcement::Prepared(pidfile)
        }
        // The last chance: in /run and the like a pidfile is root's, and what reads it knows that it may be a stale one.
        (Some(pidfile), Some(_)) => {
            let published = pidfile.publish()?;
            names.pidfile = Some(published.path().to_owned());
            Announcement::Made(Some(published))
        }
    };
    let confinement = sandbox.enter(&names)?;
    tracing::info!(
        user = confinement.user,
        no_new_privileges = confinement.no_new_privileges,
        seccomp = confinement.seccomp,
        landlock = confinement.landlock,
        "sandbox"
    );
    Ok(announcement)
}

/// A socket that its user can neither connect to nor remove is less than was hoped for, but serves others.
fn give_away(sandbox: &Sandbox, socket: &SocketFile, user: (u32, u32)) {
    let path = socket.path().display();
    if let Err(error) = socket.hand_over(user) {
        tracing::warn!(%path, reason = %error, "cannot hand the socket over to the user of the server");
    }
    if !sandbox.may_change_beside(socket.path()) {
        tracing::warn!(%path, "the socket stays behind at the end: give the user of the server a directory of its own");
    }
}
