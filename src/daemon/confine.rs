//! The last step before the first client: the server goes into its sandbox, and its pidfile is ready.

use std::path::Path;

use super::pidfile::{Inherited, Pidfile, PidfileError, Prepared};
use crate::control::{HostError, Ready};
use crate::sandbox::{Names, Sandbox};

/// How far a pidfile is.
pub(super) enum Announcement {
    /// It is in its place, or there is to be none.
    Made(Option<Pidfile>),
    /// Its content is there, under another name.
    Prepared(Prepared),
    /// The one of the process that is taken over is written to.
    Inherited(Inherited),
}

impl Announcement {
    /// The pidfile says that the server is up.
    pub(super) fn publish(self) -> Result<Option<Pidfile>, PidfileError> {
        match self {
            Self::Made(pidfile) => Ok(pidfile),
            Self::Prepared(prepared) => Ok(Some(prepared.publish()?)),
            Self::Inherited(inherited) => Ok(Some(inherited.publish()?)),
        }
    }
}

/// Enters the sandbox, which leaves only what a running server needs. Files that it removes at its end are
/// handed over to the user that it becomes. A pidfile that this user cannot remove is made at once, because
/// it could not be made later either; but in the place of another process its own is written to, and later.
pub(super) fn enter(
    sandbox: &Sandbox,
    ready: Ready<'_>,
    pidfile: Option<Prepared>,
    in_place_of_another: bool,
) -> Result<Announcement, HostError> {
    let mut names = Names::default();
    names.removed.extend(ready.sockets());
    if let Some(user) = sandbox.successor() {
        ready.hand_sockets_over(user);
        names.removed.iter().for_each(|path| warn_if_it_stays(sandbox, path));
        ready.directories.iter().for_each(|path| warn_of_store(sandbox, path));
    }
    names.removed.extend(ready.log_directories().iter().map(|directory| directory.join("log")));
    names.pidfile = pidfile.as_ref().map(|pidfile| pidfile.temporary().to_owned());
    let announcement = match (pidfile, sandbox.successor()) {
        (None, _) => Announcement::Made(None),
        (Some(pidfile), None) => Announcement::Prepared(pidfile),
        (Some(pidfile), Some(user)) if sandbox.may_change_beside(pidfile.temporary()) => {
            pidfile.hand_over(user)?;
            Announcement::Prepared(pidfile)
        }
        // Nothing of the process that is taken over changes before its clients are here.
        (Some(pidfile), Some(_)) if in_place_of_another => match pidfile.inherit() {
            Some(inherited) => {
                names.pidfile = None;
                Announcement::Inherited(inherited)
            }
            None => Announcement::Made(Some(pidfile.publish()?)),
        },
        // The last chance to make it, as root in /run and the like. It will stay behind; programs that read a
        // pidfile expect a stale one.
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

fn warn_of_store(sandbox: &Sandbox, store: &Path) {
    if !sandbox.may_change_beside(&store.join("layers")) {
        let path = store.display();
        tracing::warn!(%path, "the user of the server may not change this store: give its directory to that user (chown -R)");
    }
}

fn warn_if_it_stays(sandbox: &Sandbox, socket: &Path) {
    if !sandbox.may_change_beside(socket) {
        let path = socket.display();
        tracing::warn!(%path, "the socket stays behind at the end: give the user of the server a directory of its own");
    }
}
