//! The log of changes by itself: its room, and what is found in it, whatever its words are.

use proptest::prelude::*;

use super::log_memory::{OWNER, TINY_LOG, TestMemory};
use super::model::ALL;
use crate::store::map::left_log::LeftChanges;
use crate::store::map::states::BlockRun;
use crate::store::map::{BlockState, LeftLog, LeftLogError, LogLayout, LogOwner, LogRoom, PendingLog};

const ENTRIES: u64 = 24;

fn log() -> (TestMemory, PendingLog) {
    let memory = TestMemory::default();
    let log = PendingLog::create(Box::new(memory.clone()), TINY_LOG, &OWNER, 77).unwrap();
    (memory, log)
}

fn data(start: u64) -> BlockRun {
    BlockRun { start, length: 1, state: BlockState::Data }
}

fn read(memory: &TestMemory) -> Result<LeftLog, LeftLogError> {
    LeftLog::read(&memory.0.lock().unwrap().words, &TINY_LOG, &OWNER, 77)
}

fn left(memory: &TestMemory) -> Vec<BlockRun> {
    match read(memory).unwrap() {
        LeftLog::Empty => Vec::new(),
        LeftLog::Changes(LeftChanges { runs, .. }) => runs,
        LeftLog::Foreign(why) => panic!("{why}"),
    }
}

#[test]
fn neighbours_are_one_entry_until_a_commit_takes_it() {
    let (memory, mut log) = log();
    (0..10).for_each(|block| log.append(data(block)));
    log.append(BlockRun { state: BlockState::Zero, ..data(10) });
    let mark = log.mark();
    log.append(BlockRun { state: BlockState::Zero, ..data(11) });
    let lengths = |memory: &TestMemory| left(memory).iter().map(|run| run.length).collect::<Vec<_>>();
    assert_eq!(lengths(&memory), [10, 1, 1]);
    log.release(mark);
    assert_eq!(left(&memory), [BlockRun { state: BlockState::Zero, ..data(11) }]);
    log.finish();
    assert_eq!(read(&memory), Ok(LeftLog::Empty));
    assert!(memory.0.lock().unwrap().is_removed);
}

#[test]
fn it_asks_for_a_commit_once_and_is_full_in_the_end() {
    let (memory, mut log) = log();
    let rooms: Vec<LogRoom> = (0..ENTRIES)
        .map(|number| {
            let room = log.room();
            log.append(data(2 * number));
            room
        })
        .collect();
    let half = rooms.iter().position(|room| *room == LogRoom::HalfFull);
    assert_eq!(half, Some(ENTRIES as usize / 2));
    assert_eq!(rooms.iter().filter(|room| **room == LogRoom::Enough).count(), ENTRIES as usize - 1);
    assert_eq!(log.room(), LogRoom::Full);
    assert_eq!(left(&memory).len(), ENTRIES as usize);
    let mark = log.mark();
    log.release(mark - 10);
    assert_eq!(log.room(), LogRoom::Enough);
    log.release(mark);
    assert_eq!(left(&memory), []);
}

/// What is not needed is given back; where there is no more, a commit makes room of what there is.
#[test]
fn it_takes_and_gives_room_in_steps() {
    let (memory, mut log) = log();
    let room = || memory.0.lock().unwrap().room();
    assert_eq!(room(), TINY_LOG.first, "an idle one has its first words");
    let fill = |log: &mut PendingLog, memory: &TestMemory| {
        let mut count = 0;
        while log.room() != LogRoom::Full {
            log.append(data(2 * count));
            count += 1;
        }
        assert_eq!(left(memory).len() as u64, count);
        count
    };
    assert_eq!(fill(&mut log, &memory), ENTRIES);
    assert_eq!(room(), TINY_LOG.words);
    let mark = log.mark();
    log.release(mark);
    assert_eq!(room(), TINY_LOG.first);
    memory.0.lock().unwrap().is_full = true;
    for _ in 0..3 {
        assert_eq!(fill(&mut log, &memory), 4, "those of the first words");
        let mark = log.mark();
        log.release(mark);
    }
    memory.0.lock().unwrap().is_full = false;
    assert_eq!(fill(&mut log, &memory), ENTRIES);
}

#[test]
fn a_log_of_another_layer_boot_or_state_is_none() {
    let (memory, mut log) = log();
    assert_eq!(read(&memory), Ok(LeftLog::Empty));
    log.append(data(7));
    let words = memory.0.lock().unwrap().words.clone();
    let others = [
        LogOwner { boot: OWNER.layer, ..OWNER },
        LogOwner { store: OWNER.layer, ..OWNER },
        LogOwner { layer: OWNER.store, ..OWNER },
        LogOwner { file: (5, 7), ..OWNER },
        LogOwner { file: (6, 6), ..OWNER },
    ];
    for owner in others {
        assert!(matches!(LeftLog::read(&words, &TINY_LOG, &owner, 77), Ok(LeftLog::Foreign(_))));
    }
    assert!(matches!(LeftLog::read(&words, &TINY_LOG, &OWNER, 78), Ok(LeftLog::Foreign(_))));
    // The record that was under way is there, or is not.
    log.record_begins(78);
    let words = memory.0.lock().unwrap().words.clone();
    for stamp in [77, 78] {
        assert!(matches!(LeftLog::read(&words, &TINY_LOG, &OWNER, stamp), Ok(LeftLog::Changes(_))));
    }
    log.record_ended(78);
    let words = memory.0.lock().unwrap().words.clone();
    assert!(matches!(LeftLog::read(&words, &TINY_LOG, &OWNER, 77), Ok(LeftLog::Foreign(_))));
    let other = LogLayout { words: 41, ..TINY_LOG };
    assert!(matches!(LeftLog::read(&words, &other, &OWNER, 78), Err(LeftLogError::Damaged(_))));
    // One that was being made has no magic yet.
    assert_eq!(LeftLog::read(&words[..3], &TINY_LOG, &OWNER, 78), Ok(LeftLog::Empty));
    assert_eq!(LeftLog::read(&[0; 512], &TINY_LOG, &OWNER, 78), Ok(LeftLog::Empty));
}

proptest! {
    /// Words that nobody would write: a sentence, or changes that are changes, and never more than there is
    /// room for.
    #[test]
    fn no_words_are_too_bad(
        changes in prop::collection::vec((0..1000_u64, 1..4_usize), 0..24),
        bad in prop::collection::vec((0..40_usize, prop_oneof![any::<u64>(), 0..100_u64]), 0..6),
        length in 0..=40_usize,
    ) {
        let (memory, mut log) = log();
        for (start, state) in changes {
            if log.room() != LogRoom::Full {
                log.append(BlockRun { start, length: 1, state: ALL[state] });
            }
        }
        let mut words = memory.0.lock().unwrap().words.clone();
        words.truncate(length);
        for (at, word) in bad {
            if let Some(place) = words.get_mut(at) {
                *place = word;
            }
        }
        if let Ok(LeftLog::Changes(LeftChanges { runs, ends })) = LeftLog::read(&words, &TINY_LOG, &OWNER, 77) {
            prop_assert!(runs.len() as u64 == ends.1 - ends.0 && runs.len() as u64 <= ENTRIES);
            prop_assert!(runs.iter().all(|run| run.state != BlockState::Absent && run.end() <= 1 << 38));
        }
    }
}
