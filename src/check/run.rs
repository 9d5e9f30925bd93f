//! One statement after the other.

use std::time::{Duration, Instant};

use super::examiner::{Examiner, Subject};
use super::probe::Finding;
use super::statement::Statement;
use super::transcript::WireTransfer;

/// What came of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    Met,
    NotMet,
    /// It does not concern this server.
    NotApplicable,
    /// It would write, or the server is gone.
    NotAsked,
}

/// A statement that was asked, or not.
pub(crate) struct Examined {
    pub statement: Statement,
    pub standing: Judgement,
    /// Why, unless it is met.
    pub reason: String,
    /// What went over the wire last, if it is not met.
    pub transfers: Vec<WireTransfer>,
    pub took: Duration,
}

/// Asks `statements` of a server, and tells `each` of them when it is done.
///
/// # Errors
/// A text: the server cannot be reached, or its export cannot be had at all.
pub(crate) fn examine(
    subject: &Subject,
    statements: Vec<Statement>,
    mut each: impl FnMut(&Examined),
) -> Result<Vec<Examined>, String> {
    let examiner = Examiner::new(subject)?;
    let mut is_gone = false;
    let mut all = Vec::new();
    for statement in statements {
        let examined = ask(&examiner, statement, &mut is_gone);
        each(&examined);
        all.push(examined);
    }
    Ok(all)
}

fn ask(examiner: &Examiner<'_>, statement: Statement, is_gone: &mut bool) -> Examined {
    let not_asked = |statement: Statement, reason: &str| Examined {
        statement,
        standing: Judgement::NotAsked,
        reason: reason.to_owned(),
        transfers: Vec::new(),
        took: Duration::ZERO,
    };
    if *is_gone {
        return not_asked(statement, "the server is gone");
    }
    if statement.writes && !examiner.subject.danger {
        return not_asked(statement, "it writes to the export: --danger");
    }
    examiner.begin();
    let started = Instant::now();
    let asked = (statement.ask)(examiner);
    let (took, transfers) = (started.elapsed(), examiner.transfers());
    let (standing, reason) = match asked {
        Ok(()) => (Judgement::Met, String::new()),
        Err(Finding::NotMet(what)) => (Judgement::NotMet, what),
        Err(Finding::NotApplicable(why)) => (Judgement::NotApplicable, why),
        Err(Finding::Unreachable(why)) => (Judgement::NotMet, why),
    };
    if standing == Judgement::NotMet {
        // A server that has crashed meets nothing from here on, which would hide what it crashed of.
        examiner.begin();
        *is_gone = examiner.haggling().is_err_and(|finding| !matches!(finding, Finding::NotApplicable(_)));
    }
    let transfers = if standing == Judgement::NotMet { transfers } else { Vec::new() };
    let reason = if *is_gone { format!("{reason}; and now the server does not answer") } else { reason };
    Examined { statement, standing, reason, transfers, took }
}
