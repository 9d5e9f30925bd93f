//! What the remote may have lost: writes that it answered, did not flush, and forgot in a crash.

use crate::block::BlockError;

/// What was acknowledged when a FLUSH was sent: so much is durable when it succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlushMark(u64);

/// What one client has been told of losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ToldLosses(u64);

/// Writes of one remote that are acknowledged and perhaps not durable, over all its connections.
///
/// After a loss the next FLUSH of every client that was there fails once. A client that comes later never saw
/// the writes answered, so it is told nothing.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    acknowledged: u64,
    durable: u64,
    losses: u64,
}

impl Unflushed {
    /// A client comes.
    pub(super) fn client(&self) -> ToldLosses {
        ToldLosses(self.losses)
    }

    /// The remote answered a change that it need not have made durable: one without FUA.
    pub(super) fn acknowledge(&mut self) {
        self.acknowledged += 1;
    }

    /// A FLUSH is sent. One that is sent again keeps its first mark: it covers less, which is safe.
    pub(super) fn mark(&self) -> FlushMark {
        FlushMark(self.acknowledged)
    }

    /// Whether a crash of the remote could lose something.
    pub(super) fn is_dirty(&self) -> bool {
        self.acknowledged > self.durable
    }

    /// A connection stands again. Unless the remote proves to be the same process, it may have crashed.
    pub(super) fn reconnected(&mut self, is_same_instance: bool) {
        if self.is_dirty() && !is_same_instance && !canary!(LossForgotten) {
            self.losses += 1;
            self.durable = self.acknowledged;
        }
    }

    /// The remote has done a FLUSH; what its client is answered.
    ///
    /// This is asked when the answer is there, not when the FLUSH was sent: one that was sent again to a
    /// remote after its crash succeeds there, and covers nothing of what is lost.
    ///
    /// # Errors
    /// Writes may be lost of which this client was not told.
    pub(super) fn flushed(&mut self, mark: FlushMark, told: &mut ToldLosses) -> Result<(), BlockError> {
        self.durable = self.durable.max(mark.0);
        match told.0 == self.losses {
            true => Ok(()),
            false => {
                told.0 = self.losses;
                Err(BlockError::Io)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_flush_covers_what_was_acknowledged_before_it_was_sent() {
        let mut unflushed = Unflushed::default();
        let mut told = unflushed.client();
        unflushed.acknowledge();
        let mark = unflushed.mark();
        unflushed.acknowledge();
        assert_eq!(unflushed.flushed(mark, &mut told), Ok(()));
        assert!(unflushed.is_dirty(), "the second write came too late for it");
    }

    #[test]
    fn each_client_that_was_there_is_told_once() {
        let mut unflushed = Unflushed::default();
        let (mut writer, mut other) = (unflushed.client(), unflushed.client());
        unflushed.acknowledge();
        // This one is under way when the remote dies, and is sent again.
        let sent_again = unflushed.mark();
        unflushed.reconnected(false);
        let mut newcomer = unflushed.client();
        assert_eq!(unflushed.flushed(sent_again, &mut writer), Err(BlockError::Io));
        assert_eq!(unflushed.flushed(unflushed.mark(), &mut writer), Ok(()));
        assert_eq!(unflushed.flushed(unflushed.mark(), &mut newcomer), Ok(()));
        assert_eq!(unflushed.flushed(unflushed.mark(), &mut other), Err(BlockError::Io));
    }

    #[test]
    fn the_same_process_has_lost_nothing() {
        let mut unflushed = Unflushed::default();
        let mut told = unflushed.client();
        unflushed.acknowledge();
        unflushed.reconnected(true);
        assert!(unflushed.is_dirty());
        assert_eq!(unflushed.flushed(unflushed.mark(), &mut told), Ok(()));
        assert!(!unflushed.is_dirty());
    }

    #[derive(Debug, Clone)]
    enum Event {
        Write,
        SendFlush,
        AnswerFlush,
        Reconnect(bool),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => Just(Event::Write),
            2 => Just(Event::SendFlush),
            2 => Just(Event::AnswerFlush),
            1 => any::<bool>().prop_map(Event::Reconnect),
        ]
    }

    proptest! {
        /// The oracle has a state for each write: a remote in memory that crashes. No FLUSH succeeds while a
        /// write that was answered is gone and nobody was told.
        #[test]
        fn no_loss_stays_unsaid(events in prop::collection::vec(event(), 0..80)) {
            let mut unflushed = Unflushed::default();
            let mut told = unflushed.client();
            let (mut volatile, mut untold, mut under_way) = (0_u32, 0_u32, None);
            for event in events {
                match event {
                    Event::Write => { unflushed.acknowledge(); volatile += 1; }
                    Event::SendFlush => if under_way.is_none() {
                        under_way = Some((unflushed.mark(), volatile));
                    },
                    Event::AnswerFlush => if let Some((mark, covered)) = under_way.take() {
                        volatile -= covered;
                        let result = unflushed.flushed(mark, &mut told);
                        prop_assert_eq!(result.is_err(), untold > 0);
                        untold = 0;
                    },
                    Event::Reconnect(is_same) => {
                        if !is_same {
                            untold += volatile;
                            volatile = 0;
                            if let Some((_, covered)) = &mut under_way { *covered = 0; }
                        }
                        unflushed.reconnected(is_same);
                    }
                }
                prop_assert_eq!(unflushed.is_dirty(), volatile > 0);
            }
        }
    }
}
