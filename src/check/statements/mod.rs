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

use super::statement::Statement;

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
