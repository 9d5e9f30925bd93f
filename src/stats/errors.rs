//! Error replies, counted by what was asked for and by what was answered.

use crate::block::{BlockError, CommandKind};

/// Commands that errors are counted for: those of a device, and all that do not exist as one.
const COMMANDS: usize = CommandKind::ALL.len() + 1;
/// What stands for a command that does not exist.
const UNKNOWN: &str = "unknown";

/// How many error replies there were, by command and error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorCounts([[u64; BlockError::ALL.len()]; COMMANDS]);

impl ErrorCounts {
    /// Counts an error reply; `None`: to a command that does not exist.
    pub fn count(&mut self, command: Option<CommandKind>, error: BlockError) {
        let row = command.map_or(COMMANDS - 1, |command| command as usize);
        self.0[row][error as usize] += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (sums, counts) in self.0.iter_mut().zip(&other.0) {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }

    /// By [`BlockError`], of all commands.
    pub fn by_error(&self) -> [u64; BlockError::ALL.len()] {
        let mut sums = [0; BlockError::ALL.len()];
        for counts in &self.0 {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        sums
    }

    pub fn total(&self) -> u64 {
        self.0.iter().flatten().sum()
    }

    /// Each command's name with its counts by [`BlockError`].
    pub fn by_command(&self) -> impl Iterator<Item = (&'static str, &[u64; BlockError::ALL.len()])> {
        CommandKind::ALL.into_iter().map(CommandKind::name).chain([UNKNOWN]).zip(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_command_and_sums_count_each_once() {
        let mut counts = ErrorCounts::default();
        counts.count(Some(CommandKind::Write), BlockError::NoSpace);
        counts.count(Some(CommandKind::Write), BlockError::Io);
        counts.count(None, BlockError::Invalid);
        let mut sum = counts;
        sum.add(&counts);
        let of = |name, error| {
            let (_, row) = sum.by_command().find(|(command, _)| *command == name).unwrap();
            row[error as usize]
        };
        assert_eq!((of("write", BlockError::NoSpace), of("unknown", BlockError::Invalid)), (2, 2));
        assert_eq!((of("read", BlockError::Io), of("write", BlockError::Io)), (0, 2));
        assert_eq!((sum.total(), sum.by_error().iter().sum()), (6, 6_u64));
        assert_eq!(sum.by_error()[BlockError::Io as usize], 2);
    }
}
