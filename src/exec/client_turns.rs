//! Questions of several clients, which take turns: one that asks a thousand times does not hold up one that
//! asks once.

use std::collections::VecDeque;

/// Questions `Q` that wait.
#[derive(Debug)]
pub(crate) struct ClientTurns<Q> {
    /// Clients that have questions; the one at the front is next.
    waiting: VecDeque<(u32, VecDeque<Q>)>,
    /// A list that was emptied: a client that has one question at a time needs no new one for each.
    spare: Option<VecDeque<Q>>,
}

impl<Q> Default for ClientTurns<Q> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), spare: None }
    }
}

impl<Q> ClientTurns<Q> {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn ask(&mut self, client: u32, question: Q) {
        if let Some((_, questions)) = self.waiting.iter_mut().find(|(waits, _)| *waits == client) {
            questions.push_back(question);
        } else {
            let mut questions = self.spare.take().unwrap_or_default();
            questions.push_back(question);
            self.waiting.push_back((client, questions));
        }
    }

    pub(crate) fn next(&mut self) -> Option<Q> {
        let (client, mut questions) = self.waiting.pop_front()?;
        let question = questions.pop_front();
        if questions.is_empty() {
            self.spare = Some(questions);
        } else {
            self.waiting.push_back((client, questions));
        }
        question
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Oracle: of each client in order, and nobody twice while another one waits.
        #[test]
        fn clients_take_turns(steps in prop::collection::vec(prop::option::of(0..4_u32), 1..80)) {
            let mut turns = ClientTurns::default();
            let mut oracle: Vec<(u32, Vec<usize>)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Some(client) => {
                        turns.ask(client, number);
                        match oracle.iter_mut().find(|(other, _)| *other == client) {
                            Some((_, questions)) => questions.push(number),
                            None => oracle.push((client, vec![number])),
                        }
                    }
                    None => {
                        let expected = (!oracle.is_empty()).then(|| oracle.remove(0)).map(|(client, mut questions)| {
                            let first = questions.remove(0);
                            if !questions.is_empty() {
                                oracle.push((client, questions));
                            }
                            first
                        });
                        prop_assert_eq!(turns.next(), expected);
                    }
                }
                prop_assert_eq!(turns.is_empty(), oracle.is_empty());
            }
        }
    }
}
