//! How a command ends.

use std::fmt::Display;
use std::io::{Write, stderr};
use std::process::ExitCode;

/// Tells the user a sentence on stderr, in one write. If nobody can be told, as when stderr is a file on a
/// full disk, the exit code still says what happened.
pub(crate) fn complain(program: &str, sentence: impl Display) {
    let line = format!("{program}: {sentence}\n");
    let _nobody_to_tell = stderr().write_all(line.as_bytes());
}

/// How a command ended; `main` maps it to the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit code 0.
    Done,
    /// Something failed while running: exit code 1.
    Failed,
    /// A usage or start-up error, nothing was left behind: exit code 2.
    Refused,
    /// As the command ended that was run.
    Code(u8),
}

impl Outcome {
    /// A failure while running, told to the user in one sentence on stderr.
    pub(crate) fn failed(sentence: impl Display) -> Self {
        complain("ringnbd", sentence);
        Self::Failed
    }

    /// A usage or start-up error, told to the user in one sentence (cause and remedy) on stderr.
    pub(crate) fn refused(sentence: impl Display) -> Self {
        complain("ringnbd", sentence);
        Self::Refused
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Failed => Self::from(1),
            Outcome::Refused => Self::from(2),
            Outcome::Code(code) => Self::from(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_their_exit_codes() {
        for (outcome, code) in [(Outcome::Done, 0), (Outcome::Failed, 1), (Outcome::Refused, 2)] {
            assert_eq!(ExitCode::from(outcome), ExitCode::from(code));
        }
    }
}
