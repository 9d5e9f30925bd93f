//! What is written down of who was let in.

use std::cell::Cell;

use crate::control::plane::Plane;
use crate::control::stores::{Absence, Chosen};
use crate::identity::PeerIdentity;
use crate::rights::Asker;

/// Lines of one handshake. A client may ask a thousand times, and lines that are not read in time are lost;
/// so nobody drives out the lines about others.
const LINES: u32 = 64;
/// Characters of a name that are shown.
const NAME: usize = 256;

/// The audit lines of one handshake: one for each decision, with the target `audit`. There are none where no
/// export has rights of its own, because there everybody may do everything.
pub(super) struct Audit<'a> {
    plane: &'a Plane,
    number: u64,
    pub(super) peer: &'a PeerIdentity,
    written: Cell<u32>,
}

impl<'a> Audit<'a> {
    pub(super) fn new(plane: &'a Plane, number: u64, peer: &'a PeerIdentity) -> Self {
        Self { plane, number, peer, written: Cell::new(0) }
    }

    /// What came of a question for one export.
    pub(super) fn decided(
        &self,
        asker: &Asker,
        (option, name): (&'static str, &str),
        found: &Result<Chosen, Absence>,
    ) {
        let decision = match found {
            Ok(chosen) if chosen.may_write() => "granted",
            Ok(_) => "granted_read_only",
            Err(Absence::Refused) => "refused",
            Err(Absence::Missing | Absence::Moved) => "missing",
        };
        if matches!(found, Err(Absence::Refused)) {
            self.plane.count_refusal();
        }
        if self.may_write() {
            let (connection, peer) = (self.number, self.peer);
            let export: String = name.chars().take(NAME).collect();
            tracing::info!(target: "audit", connection, %peer, known = %asker, option, export, decision, "rights");
        }
    }

    /// How many exports a list has.
    pub(super) fn listed(&self, asker: &Asker, listed: usize) {
        if self.may_write() {
            let (connection, peer) = (self.number, self.peer);
            tracing::info!(target: "audit", connection, %peer, known = %asker, option = "LIST", listed, "rights");
        }
    }

    fn may_write(&self) -> bool {
        if !self.plane.has_rights() {
            return false;
        }
        if self.written.get() == LINES {
            self.plane.count_unwritten_audit();
            return false;
        }
        self.written.set(self.written.get() + 1);
        true
    }
}
