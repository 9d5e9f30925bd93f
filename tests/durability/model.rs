//! Which writes a sector may hold after a kill: the oracle.
//!
//! A write that was answered is there, or one that came later, or one that was under way at the same time. One that was not
//! answered may have happened or not, sector by sector.

use super::content::{self, SECTOR, ZEROES};

/// What a request leaves in the sectors that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// These contents.
    Written,
    /// Zeroes.
    Zeroed,
    /// Zeroes, or what was there before: TRIM promises nothing.
    Trimmed,
}

/// A write to one sector.
#[derive(Clone, Copy, Debug)]
struct Write {
    /// The request, by its number; [`ZEROES`] and up.
    request: u64,
    effect: Effect,
    /// Moments of the run, counted in events.
    submitted: u64,
    answered: u64,
}

const NOT_YET: u64 = u64::MAX;

impl Write {
    /// What the sector holds when this write was the last.
    fn content(&self) -> u64 {
        if self.effect == Effect::Written { self.request } else { ZEROES }
    }

    /// Whether the sector holds what this write put there, or something newer, once it is answered.
    fn is_certain(&self) -> bool {
        self.answered != NOT_YET && self.effect != Effect::Trimmed
    }
}

/// What the disk may hold.
pub(crate) struct Model {
    seed: u64,
    sectors: Vec<Vec<Write>>,
    now: u64,
    /// Requests so far.
    last_request: u64,
    /// Answered requests that changed something.
    pub(crate) answered: u64,
    /// Requests that were not answered, over all kills.
    pub(crate) cut_off: u64,
    open: u64,
}

impl Model {
    /// Of a disk full of zeroes.
    pub(crate) fn new(seed: u64, sectors: u64) -> Self {
        let blank = Write { request: ZEROES, effect: Effect::Zeroed, submitted: 0, answered: 0 };
        let sectors = vec![vec![blank]; sectors as usize];
        Self { seed, sectors, now: 0, last_request: 0, answered: 0, cut_off: 0, open: 0 }
    }

    pub(crate) fn sectors(&self) -> u64 {
        self.sectors.len() as u64
    }

    /// A request is about to be sent; gives its number.
    pub(crate) fn submit(&mut self, effect: Effect, first: u64, count: u64) -> u64 {
        self.now += 1;
        self.last_request += 1;
        self.open += 1;
        let write = Write { request: self.last_request, effect, submitted: self.now, answered: NOT_YET };
        for sector in self.part(first, count) {
            sector.push(write);
        }
        self.last_request
    }

    /// It was answered.
    pub(crate) fn answer(&mut self, request: u64, first: u64, count: u64) {
        self.now += 1;
        self.answered += 1;
        self.open -= 1;
        let now = self.now;
        for sector in self.part(first, count) {
            let write = sector.iter_mut().find(|write| write.request == request).expect("it was submitted");
            write.answered = now;
            let write = *write;
            if write.is_certain() {
                // What was answered before this one was sent is gone.
                sector.retain(|other| other.answered == NOT_YET || other.answered >= write.submitted);
            }
        }
    }

    fn part(&mut self, first: u64, count: u64) -> &mut [Vec<Write>] {
        &mut self.sectors[first as usize..(first + count) as usize]
    }

    /// Looks at the disk after a kill. What is there now must stay: nobody else writes any more.
    pub(crate) fn settle(&mut self, disk: &[u8]) -> Result<(), String> {
        assert_eq!(disk.len(), self.sectors.len() * SECTOR, "the disk has its size");
        let mut wrong = Vec::new();
        for (index, (sector, bytes)) in self.sectors.iter_mut().zip(disk.chunks(SECTOR)).enumerate() {
            let found = content::written_by(self.seed, index as u64, bytes);
            if !found.as_ref().is_ok_and(|found| sector.iter().any(|write| write.content() == *found)) {
                wrong.push(format!("sector {index}: found {found:?}, possible are {sector:?}"));
                continue;
            }
            let request = found.expect("it is one of them");
            let effect = if request == ZEROES { Effect::Zeroed } else { Effect::Written };
            *sector = vec![Write { request, effect, submitted: 0, answered: 0 }];
        }
        self.cut_off += std::mem::take(&mut self.open);
        match wrong.len() {
            0 => Ok(()),
            count => {
                Err(format!("{count} sectors are wrong, such as\n  {}", wrong[..count.min(5)].join("\n  ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether sector 0 may hold this.
    fn may_hold(model: &Model, content: u64) -> bool {
        model.sectors[0].iter().any(|write| write.content() == content)
    }

    #[test]
    fn what_was_answered_is_there_or_something_newer() {
        let mut model = Model::new(1, 4);
        let a = model.submit(Effect::Written, 0, 2);
        assert!(may_hold(&model, ZEROES) && may_hold(&model, a));
        model.answer(a, 0, 2);
        assert!(!may_hold(&model, ZEROES));
        // Two at once: either may be last.
        let b = model.submit(Effect::Written, 0, 1);
        let c = model.submit(Effect::Written, 0, 1);
        model.answer(c, 0, 1);
        assert!(!may_hold(&model, a) && may_hold(&model, b) && may_hold(&model, c));
        model.answer(b, 0, 1);
        assert!(may_hold(&model, b) && may_hold(&model, c));
        // A trim promises nothing, zeroes do.
        let trim = model.submit(Effect::Trimmed, 0, 1);
        model.answer(trim, 0, 1);
        assert!(may_hold(&model, ZEROES) && may_hold(&model, b));
        let zeroes = model.submit(Effect::Zeroed, 0, 1);
        model.answer(zeroes, 0, 1);
        assert!(may_hold(&model, ZEROES) && !may_hold(&model, b) && !may_hold(&model, c));
    }

    #[test]
    fn a_lost_write_is_noticed_and_what_was_seen_stays() {
        let mut model = Model::new(1, 1);
        let a = model.submit(Effect::Written, 0, 1);
        model.answer(a, 0, 1);
        assert!(model.settle(&[0; SECTOR]).is_err());
        let b = model.submit(Effect::Written, 0, 1);
        model.settle(&content::written(1, a, 0, 1)).expect("the unanswered write did not happen");
        let late = model.settle(&content::written(1, b, 0, 1));
        assert!(late.is_err(), "a write of a dead server");
    }
}
