//! The statements. Their numbers are those of the tests of this project (`tests/conformance`).

mod concurrency;
mod export;
mod extended;
mod greeting;
mod meta;
mod reads;
mod refusals;
mod requests;
mod status;
mod writes;

use super::examiner::Examiner;
use super::probe::Asked;

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
    pub(super) ask: fn(&Examiner<'_>) -> Asked<()>,
}

impl Statement {
    const fn should(mut self) -> Self {
        self.level = Level::Should;
        self
    }

    const fn writes(mut self) -> Self {
        self.writes = true;
        self
    }
}

const fn statement(
    id: &'static str,
    title: &'static str,
    heading: &'static str,
    ask: fn(&Examiner<'_>) -> Asked<()>,
) -> Statement {
    Statement { id, title, heading, level: Level::Must, writes: false, ask }
}

/// All of them, in the order in which they are asked.
pub(crate) fn all() -> Vec<Statement> {
    let groups = [
        greeting::STATEMENTS,
        export::STATEMENTS,
        meta::STATEMENTS,
        refusals::STATEMENTS,
        requests::STATEMENTS,
        reads::STATEMENTS,
        status::STATEMENTS,
        extended::STATEMENTS,
        concurrency::STATEMENTS,
        writes::STATEMENTS,
    ];
    groups.into_iter().flat_map(|group| group()).collect()
}
