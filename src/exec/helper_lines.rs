//! In which order questions go to helper threads: by file, then by client.
//!
//! Threads are shared by all files of a shard, and one whose file system hangs keeps its threads for ever. So
//! each file has only so many questions under way, files take turns, and of one file its clients do.

use std::collections::{HashMap, VecDeque};

use super::client_turns::ClientTurns;

/// Questions `Q` that wait, and how many are under way.
#[derive(Debug)]
pub(crate) struct Lines<Q> {
    /// By file.
    lines: HashMap<usize, HelperLine<Q>>,
    /// Files of which a question may be handed out; the first is next.
    turns: VecDeque<usize>,
    waiting: usize,
    under_way: usize,
    most: usize,
    most_per_file: usize,
}

#[derive(Debug)]
struct HelperLine<Q> {
    waiting: ClientTurns<Q>,
    under_way: usize,
    /// It is in `turns`.
    listed: bool,
}

impl<Q> Lines<Q> {
    /// At most so many questions are under way, and of one file.
    pub(crate) fn new(most: usize, most_per_file: usize) -> Self {
        let (lines, turns) = (HashMap::new(), VecDeque::new());
        Self { lines, turns, waiting: 0, under_way: 0, most, most_per_file }
    }

    /// A client asks about a file.
    pub(crate) fn ask(&mut self, file: usize, client: u32, question: Q) {
        let fresh = || HelperLine { waiting: ClientTurns::default(), under_way: 0, listed: false };
        let line = self.lines.entry(file).or_insert_with(fresh);
        line.waiting.ask(client, question);
        self.waiting += 1;
        self.list(file);
    }

    /// A question about a file was answered.
    pub(crate) fn answered(&mut self, file: usize) {
        self.under_way -= 1;
        let line = self.lines.get_mut(&file).expect("a question about it was under way");
        line.under_way -= 1;
        if line.under_way == 0 && line.waiting.is_empty() {
            self.lines.remove(&file);
        } else {
            self.list(file);
        }
    }

    /// The next question to hand out, and its file; it is under way then.
    pub(crate) fn next(&mut self) -> Option<(usize, Q)> {
        if self.under_way >= self.most {
            return None;
        }
        let file = self.turns.pop_front()?;
        let line = self.lines.get_mut(&file).expect("what is listed waits");
        line.listed = false;
        let question = line.waiting.next().expect("what is listed waits");
        line.under_way += 1;
        self.under_way += 1;
        self.waiting -= 1;
        self.list(file);
        Some((file, question))
    }

    /// Whether no question waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Lists a file if a question about it may be handed out.
    fn list(&mut self, file: usize) {
        let Some(line) = self.lines.get_mut(&file) else { return };
        let may = !line.waiting.is_empty() && line.under_way < self.most_per_file;
        if may && !std::mem::replace(&mut line.listed, true) {
            self.turns.push_back(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| lines.next()).map(|(_, question)| question).collect()
    }

    #[test]
    fn clients_of_a_file_take_turns() {
        let mut lines = Lines::new(8, 8);
        for question in ["a1", "a2", "a3"] {
            lines.ask(1, 10, question);
        }
        lines.ask(1, 11, "b1");
        assert_eq!(all(&mut lines), ["a1", "b1", "a2", "a3"]);
    }

    #[test]
    fn a_file_without_answers_leaves_the_others_their_threads() {
        let mut lines = Lines::new(4, 2);
        for question in ["hung1", "hung2", "hung3"] {
            lines.ask(1, 10, question);
        }
        assert_eq!(all(&mut lines), ["hung1", "hung2"]);
        assert!(!lines.is_empty());
        for _ in 0..100 {
            lines.ask(2, 11, "good");
            assert_eq!(all(&mut lines), ["good"]);
            lines.answered(2);
        }
        lines.answered(1);
        assert_eq!(all(&mut lines), ["hung3"]);
        lines.answered(1);
        lines.answered(1);
        assert!(lines.lines.is_empty() && lines.turns.is_empty() && lines.under_way == 0 && lines.is_empty());
    }

    #[test]
    fn files_take_turns() {
        let mut lines = Lines::new(2, 2);
        for question in ["a1", "a2", "a3"] {
            lines.ask(1, 10, question);
        }
        lines.ask(2, 11, "b1");
        assert_eq!(all(&mut lines), ["a1", "b1"]);
        lines.answered(1);
        assert_eq!(all(&mut lines), ["a2"]);
    }
}
