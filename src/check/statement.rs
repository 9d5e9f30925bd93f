//! A statement: what is true of each correct server, and how to ask it.

use super::examiner::Examiner;
use super::probe::ProbeResult;

/// What the document says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// "MUST", or what follows from it.
    Must,
    /// "SHOULD".
    Should,
}

/// Something that is true of each correct server.
pub(crate) struct Statement {
    pub id: &'static str,
    pub title: &'static str,
    /// Where the protocol document says it.
    pub heading: &'static str,
    pub level: Level,
    /// To ask it, the export is overwritten.
    pub writes: bool,
    pub(super) ask: fn(&Examiner<'_>) -> ProbeResult<()>,
}

impl Statement {
    pub(super) const fn should(mut self) -> Self {
        self.level = Level::Should;
        self
    }

    pub(super) const fn writes(mut self) -> Self {
        self.writes = true;
        self
    }
}

pub(super) const fn statement(
    id: &'static str,
    title: &'static str,
    heading: &'static str,
    ask: fn(&Examiner<'_>) -> ProbeResult<()>,
) -> Statement {
    Statement { id, title, heading, level: Level::Must, writes: false, ask }
}
