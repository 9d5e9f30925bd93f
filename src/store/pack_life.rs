//! How much of a pack is alive, and which packs are worth being copied.

/// A pack of which not all is alive is copied if less than this part of it is.
const LEAST_ALIVE_PERCENT: u64 = 50;
/// When packs were copied that are less alive than that, so much garbage may stay.
const MOST_GARBAGE_PERCENT: u64 = 5;

/// A pack, and which of its chunks something needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackLife {
    pub(super) number: u64,
    /// Bytes of all its payloads.
    pub(super) bytes: u64,
    /// Those of chunks that are alive.
    pub(super) alive: u64,
    /// A bit for each slot.
    slots: Vec<u64>,
}

impl PackLife {
    pub(super) const fn new(number: u64) -> Self {
        Self { number, bytes: 0, alive: 0, slots: Vec::new() }
    }

    /// Its next chunk, in the order of slots.
    pub(super) fn add(&mut self, slot: u32, bytes: u32, is_alive: bool) {
        self.bytes += u64::from(bytes);
        if is_alive {
            self.alive += u64::from(bytes);
            let word = slot as usize / 64;
            self.slots.resize(self.slots.len().max(word + 1), 0);
            self.slots[word] |= 1 << (slot % 64);
        }
    }

    /// The slots of chunks that are alive, from one on.
    pub(super) fn next_alive(&self, from: u32) -> Option<u32> {
        let end = self.slots.len() as u32 * 64;
        (from..end).find(|slot| self.slots[*slot as usize / 64] >> (slot % 64) & 1 == 1)
    }

    const fn garbage(&self) -> u64 {
        self.bytes - self.alive
    }
}

/// What of so many bytes is so many percent, rounded down.
fn percent(bytes: u64, percent: u64) -> u64 {
    (u128::from(bytes) * u128::from(percent) / 100) as u64
}

/// The packs that are to go, those first that need the least copying; and those that stay.
///
/// All go that are less than half alive. Then the worst go, until what stays has little garbage in all.
pub(super) fn worst(mut packs: Vec<PackLife>) -> (Vec<PackLife>, Vec<PackLife>) {
    // By the part that is alive, without dividing.
    packs.sort_by(|one, other| {
        let [left, right] =
            [(one, other), (other, one)].map(|(one, other)| u128::from(one.alive) * u128::from(other.bytes));
        left.cmp(&right).then(one.number.cmp(&other.number))
    });
    let (mut garbage, mut bytes) = packs.iter().fold((0_u64, 0_u64), |(garbage, bytes), pack| {
        (garbage.saturating_add(pack.garbage()), bytes.saturating_add(pack.bytes))
    });
    let goes = |pack: &PackLife, garbage: u64, bytes: u64| {
        let is_dead = pack.alive == 0;
        let is_mostly_dead = pack.alive < percent(pack.bytes, LEAST_ALIVE_PERCENT);
        is_dead || pack.garbage() > 0 && (is_mostly_dead || garbage > percent(bytes, MOST_GARBAGE_PERCENT))
    };
    let mut going = 0;
    for pack in &packs {
        if !goes(pack, garbage, bytes) {
            break;
        }
        // What is alive of it stays, in another pack.
        garbage -= pack.garbage();
        bytes -= pack.garbage();
        going += 1;
    }
    let staying = packs.split_off(going);
    (packs, staying)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pack(number: u64, alive: u32, dead: u32) -> PackLife {
        let mut life = PackLife::new(number);
        life.add(0, dead, false);
        life.add(1, alive, true);
        life
    }

    proptest! {
        #[test]
        fn little_garbage_stays_and_nothing_is_copied_in_vain(
            sizes in proptest::collection::vec((0..1_000u32, 0..1_000u32), 0..40),
        ) {
            let packs: Vec<_> = (1..).zip(&sizes).map(|(number, (alive, dead))| pack(number, *alive, *dead)).collect();
            let alive: u64 = packs.iter().map(|pack| pack.alive).sum();
            let (going, staying) = worst(packs);
            prop_assert_eq!(going.len() + staying.len(), sizes.len());
            let garbage: u64 = staying.iter().map(PackLife::garbage).sum();
            prop_assert!(garbage * 100 <= (alive + garbage) * 5, "{garbage} beside {alive}");
            prop_assert!(staying.iter().all(|pack| pack.alive * 2 + 1 >= pack.bytes && pack.alive > 0));
            prop_assert!(going.iter().all(|pack| pack.garbage() > 0 || pack.bytes == 0));
            // The best of those that go was one too many to stay.
            if let Some(last) = going.last().filter(|last| last.alive * 2 >= last.bytes) {
                let garbage = garbage + last.garbage();
                prop_assert!(garbage * 100 > (alive + garbage) * 5);
            }
        }

        #[test]
        fn slots_are_found_again(alive in proptest::collection::btree_set(0..300u32, 0..40)) {
            let mut life = PackLife::new(1);
            (0..300).for_each(|slot| life.add(slot, 1, alive.contains(&slot)));
            let mut found = Vec::new();
            let mut from = 0;
            while let Some(slot) = life.next_alive(from) {
                found.push(slot);
                from = slot + 1;
            }
            prop_assert_eq!(found, alive.into_iter().collect::<Vec<_>>());
        }
    }
}
