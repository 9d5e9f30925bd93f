//! How many pages a shard may take on trust in a turn: those that were in the page cache a second ago, and
//! may have left it since.
//!
//! Each of them that is gone puts the whole shard to sleep until it is read. When memory gets short, or
//! somebody drops caches, all of them can be gone at once, and a client can ask for a thousand of them in one
//! turn. So a turn begins with few. While it turns out that none was missing, there may be more in the next
//! one. A range that is not taken on trust is not refused: the kernel is asked about it first, which costs a
//! system call.

/// What is left of it in this turn.
#[derive(Debug)]
pub(crate) struct Trust {
    each_turn: u64,
    left: u64,
    /// There was too little of it since the last look.
    was_short: bool,
}

/// Pages of a turn before anything is known, or after some were missing.
const FIRST: u64 = 8;
/// Pages of a turn at the most: a mebibyte.
const MOST: u64 = 256;
/// Longer ranges are always asked about, so that one cannot take all: to send them takes much longer than the
/// question. Those of 128 KiB are not: to ask about each cost sequential reads 3 % of their time.
const LONGEST: u64 = 64;

impl Trust {
    /// Takes so many pages on trust, if they are not too many.
    pub(crate) fn take(&mut self, pages: u64) -> bool {
        if canary!(TrustUnbounded) {
            return true;
        }
        if pages > LONGEST {
            return false;
        }
        let left = self.left.checked_sub(pages);
        self.was_short |= left.is_none();
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// Whether a look at how it went would let it grow.
    pub(crate) fn could_grow(&self) -> bool {
        self.was_short && self.each_turn < MOST
    }

    /// Nothing of what was taken since the last look was missing.
    pub(crate) fn confirm(&mut self) {
        if std::mem::take(&mut self.was_short) {
            self.each_turn = (2 * self.each_turn).min(MOST);
        }
    }

    /// Something was missing, or nobody has looked for long.
    pub(crate) fn shake(&mut self) {
        *self = Self { left: self.left.min(FIRST), ..Self::default() };
    }

    /// A new turn.
    pub(crate) fn renew(&mut self) {
        self.left = self.each_turn;
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self { each_turn: FIRST, left: FIRST, was_short: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages that a turn gets that asks for one after the other.
    fn turn(trust: &mut Trust) -> u64 {
        trust.renew();
        let taken = (0..10_000).take_while(|_| trust.take(1)).count();
        taken as u64
    }

    #[test]
    fn it_grows_while_it_is_confirmed_and_begins_anew_when_it_is_not() {
        let mut trust = Trust::default();
        let mut turns = Vec::new();
        for _ in 0..8 {
            turns.push(turn(&mut trust));
            trust.confirm();
        }
        assert_eq!(turns, [8, 16, 32, 64, 128, 256, 256, 256]);
        assert!(!trust.could_grow());
        trust.renew();
        trust.shake();
        assert_eq!((0..100).take_while(|_| trust.take(1)).count(), 8, "at once");
        assert_eq!(turn(&mut trust), FIRST, "without a look it does not grow");
        assert!(trust.could_grow());
    }

    #[test]
    fn who_needs_little_does_not_make_it_grow() {
        let mut trust = Trust::default();
        for _ in 0..10 {
            trust.renew();
            assert!(trust.take(FIRST) && !trust.could_grow());
            trust.confirm();
        }
        assert_eq!(turn(&mut trust), FIRST);
        assert!(!Trust::default().take(LONGEST + 1), "to ask costs nothing beside sending so much");
    }
}
