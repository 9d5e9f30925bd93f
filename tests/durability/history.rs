//! What a disk may hold after a power cut: the oracle.
//!
//! A write is sure once it was answered with FUA, or once a FLUSH was answered that was sent after its answer. After a cut there is in
//! each sector what the last sure write put there, or something that was sent since, or was under way at the same time.

use super::content::{self, SECTOR, ZEROES};
use super::model::Effect;

const NEVER: u64 = u64::MAX;

/// A request that changes something, and the moments of its life.
#[derive(Clone, Copy, Debug)]
struct Past {
    effect: Effect,
    fua: bool,
    submitted: u64,
    answered: u64,
    sure: u64,
}

/// All that was asked of one disk.
pub(crate) struct History {
    seed: u64,
    now: u64,
    /// Request number n is at n; number 0 made the disk.
    requests: Vec<Past>,
    /// The requests that name a sector.
    sectors: Vec<Vec<u32>>,
}

impl History {
    /// Of a disk full of zeroes.
    pub(crate) fn new(seed: u64, sectors: u64) -> Self {
        let made = Past { effect: Effect::Zeroed, fua: false, submitted: 0, answered: 0, sure: 0 };
        Self { seed, now: 0, requests: vec![made], sectors: vec![vec![0]; sectors as usize] }
    }

    pub(crate) fn sectors(&self) -> u64 {
        self.sectors.len() as u64
    }

    /// Requests that were answered.
    pub(crate) fn answered(&self) -> usize {
        self.requests.iter().filter(|past| past.answered != NEVER).count() - 1
    }

    /// The next moment.
    pub(crate) fn moment(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// A request is about to be sent; gives its number.
    pub(crate) fn submit(&mut self, effect: Effect, fua: bool, first: u64, count: u64) -> u64 {
        let submitted = self.moment();
        let number = self.requests.len() as u64;
        self.requests.push(Past { effect, fua, submitted, answered: NEVER, sure: NEVER });
        for sector in &mut self.sectors[first as usize..(first + count) as usize] {
            sector.push(number as u32);
        }
        number
    }

    /// It was answered.
    pub(crate) fn answer(&mut self, number: u64) {
        let now = self.moment();
        let past = &mut self.requests[number as usize];
        past.answered = now;
        if past.fua {
            past.sure = now;
        }
    }

    /// A FLUSH that was sent at the moment `sent` was answered.
    pub(crate) fn flushed(&mut self, sent: u64) {
        let now = self.moment();
        for past in self.requests.iter_mut().filter(|past| past.answered < sent && past.sure == NEVER) {
            past.sure = now;
        }
    }

    /// Looks at a disk as a power cut between two moments may have left it.
    pub(crate) fn check(&self, disk: &[u8], from: u64, to: u64) -> Result<(), String> {
        self.check_by(|past| past.sure <= from, disk, from, to)
    }

    /// Looks at a snapshot that began after the first moment and had ended at the second: it has all that was answered before.
    pub(crate) fn check_snapshot(&self, disk: &[u8], from: u64, to: u64) -> Result<(), String> {
        self.check_by(|past| past.answered <= from, disk, from, to)
    }

    fn check_by(
        &self,
        is_sure: impl Fn(&Past) -> bool,
        disk: &[u8],
        from: u64,
        to: u64,
    ) -> Result<(), String> {
        assert!(disk.len() >= self.sectors.len() * SECTOR, "the disk has its size");
        let mut wrong = Vec::new();
        for (index, (sector, bytes)) in self.sectors.iter().zip(disk.chunks(SECTOR)).enumerate() {
            let found = content::written_by(self.seed, index as u64, bytes);
            if !found.as_ref().is_ok_and(|found| self.may_hold(sector, *found, &is_sure, to)) {
                let known: Vec<_> =
                    sector.iter().map(|number| (number, &self.requests[*number as usize])).collect();
                wrong.push(format!(
                    "sector {index} holds {found:?}; cut in {from}..{to}; it was written by {known:?}"
                ));
            }
        }
        match wrong.len() {
            0 => Ok(()),
            count => {
                Err(format!("{count} sectors are wrong, such as\n  {}", wrong[..count.min(3)].join("\n  ")))
            }
        }
    }

    fn may_hold(&self, sector: &[u32], found: u64, is_sure: impl Fn(&Past) -> bool, to: u64) -> bool {
        let all = || sector.iter().map(|number| (u64::from(*number), self.requests[*number as usize]));
        // What was answered before the newest sure one was sent is gone.
        let sure = all().filter(|(_, past)| past.effect != Effect::Trimmed && is_sure(past));
        let newest = sure.map(|(_, past)| past.submitted).max().unwrap_or(0);
        let holds = |number: u64, past: Past| if past.effect == Effect::Written { number } else { ZEROES };
        all().any(|(number, past)| {
            past.answered >= newest && past.submitted <= to && holds(number, past) == found
        })
    }
}

#[test]
fn what_is_sure_survives_a_power_cut() {
    let mut history = History::new(1, 1);
    let write = |history: &mut History, fua| {
        let number = history.submit(Effect::Written, fua, 0, 1);
        history.answer(number);
        number
    };
    let a = write(&mut history, false);
    let holds = |history: &History, number: u64, at: u64| {
        let zeroes = vec![0; SECTOR];
        let bytes = if number == ZEROES { zeroes } else { content::written(1, number, 0, 1) };
        history.check(&bytes, at, at).is_ok()
    };
    let answered = history.moment();
    assert!(holds(&history, ZEROES, answered) && holds(&history, a, answered), "no FLUSH: it may be lost");
    let sent = history.moment();
    let b = write(&mut history, false);
    history.flushed(sent);
    let flushed = history.moment();
    assert!(!holds(&history, ZEROES, flushed) && holds(&history, a, flushed) && holds(&history, b, flushed));
    assert!(holds(&history, ZEROES, answered) && !holds(&history, b, answered), "a cut before it was sent");
    let c = write(&mut history, true);
    let now = history.moment();
    assert!(!holds(&history, a, now) && !holds(&history, b, now) && holds(&history, c, now));
    let d = write(&mut history, false);
    let now = history.moment();
    let snapshot = |number: u64| history.check_snapshot(&content::written(1, number, 0, 1), now, now).is_ok();
    assert!(holds(&history, c, now) && !snapshot(c) && snapshot(d), "it was answered before the snapshot");
}
