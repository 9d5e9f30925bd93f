//! Random lives of a layer whose process may be killed after every step: the file is as it was written, the
//! log is as it was stored, and together they say all that requests had seen.

use super::file::CutFile;
use super::log_memory::{OWNER, TINY_LOG, TestMemory};
use super::model::{ALL, Picture};
use super::shell::{self, TINY};
use crate::random::Random;
use crate::store::map::left_log::LeftChanges;
use crate::store::map::{BlockState, FileWrite, LayerMap, LeftLog, LogRoom, NoCommit, PendingLog};

const BLOCKS: u64 = 300;
const STEPS: usize = 150;

struct Life {
    random: Random,
    file: CutFile,
    map: LayerMap,
    memory: TestMemory,
    /// A record that is under way, and was not written yet.
    record: Option<FileWrite>,
    is_under_way: bool,
    expected: Picture,
}

fn with_log(map: &mut LayerMap) -> TestMemory {
    let memory = TestMemory::default();
    let log = PendingLog::create(Box::new(memory.clone()), TINY_LOG, &OWNER, map.journal_stamp());
    map.attach_log(log.unwrap());
    memory
}

/// What the next process makes of what is left: the map, with the changes of the log.
fn open(file: &CutFile, words: &[u64]) -> (LayerMap, LeftLog) {
    let mut map = shell::open(file).unwrap();
    let left = LeftLog::read(words, &TINY_LOG, &OWNER, map.journal_stamp()).unwrap();
    if let LeftLog::Changes(LeftChanges { runs, .. }) = &left {
        for run in runs {
            shell::load_missing(&mut map, file, run.start, run.length).unwrap();
            map.change(run.start, run.length, run.state);
        }
    }
    (map, left)
}

impl Life {
    fn new(seed: u64) -> Self {
        let size = BLOCKS * u64::from(TINY.block_bytes);
        let file = shell::create(size, TINY);
        let mut map = shell::open(&file).unwrap();
        let memory = with_log(&mut map);
        let (record, is_under_way) = (None, false);
        let expected = vec![BlockState::Absent; BLOCKS as usize];
        Self { random: Random::new(seed), file, map, memory, record, is_under_way, expected }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            match self.random.below(16) {
                0..8 => self.change(),
                8..10 => self.begin(),
                10..13 => self.go_on(),
                13 if !self.is_under_way => shell::checkpoint(&mut self.map, &mut self.file),
                14 => self.memory.0.lock().unwrap().is_full = self.random.chance(0.5),
                _ => self.die_for_good(),
            }
            self.look();
        }
    }

    fn change(&mut self) {
        let start = self.random.below(BLOCKS);
        let longest = self.random.pick(&[1, 1, 1, 5, 100]).min(BLOCKS - start);
        let length = self.random.between(1, longest);
        let state = self.random.pick(&ALL[1..]);
        shell::load_missing(&mut self.map, &self.file, start, length).unwrap();
        if self.map.log_room() == LogRoom::Full {
            return self.finish_commit();
        }
        self.map.change(start, length, state);
        self.expected[start as usize..(start + length) as usize].fill(state);
    }

    fn begin(&mut self) {
        if self.is_under_way {
            return;
        }
        let part = (self.random.below(BLOCKS / 2), BLOCKS / 2);
        let begun = match self.random.chance(0.3) {
            true => self.map.begin_commit_in(part.0, part.1),
            false => self.map.begin_commit(),
        };
        match begun {
            Ok(record) => (self.is_under_way, self.record) = (record.is_some(), record),
            Err(NoCommit::RingFull) => shell::checkpoint(&mut self.map, &mut self.file),
            Err(error) => panic!("{error}"),
        }
    }

    /// The record that is under way is written, and then durable.
    fn go_on(&mut self) {
        match self.record.take() {
            Some(record) => self.file.write(&record),
            None if self.is_under_way => {
                self.file.sync();
                self.map.end_commit(true);
                self.is_under_way = false;
            }
            None => {}
        }
    }

    /// As a request that waits for room.
    fn finish_commit(&mut self) {
        while self.is_under_way {
            self.go_on();
        }
        shell::flush(&mut self.map, &mut self.file);
        assert_eq!(self.map.begin_commit(), Ok(None));
        assert_ne!(self.map.log_room(), LogRoom::Full, "a commit makes room");
    }

    /// Whatever is killed now, nothing is lost.
    fn look(&mut self) {
        let words = self.memory.0.lock().unwrap().words.clone();
        let (mut map, _) = open(&self.file, &words);
        assert!(shell::states(&mut map, &self.file).unwrap() == self.expected, "a change is lost");
    }

    /// The next process goes on, perhaps after one that was killed while it took over.
    fn die_for_good(&mut self) {
        loop {
            let words = self.memory.0.lock().unwrap().words.clone();
            let left;
            (self.map, left) = open(&self.file, &words);
            (self.record, self.is_under_way) = (None, false);
            if let LeftLog::Changes(LeftChanges { ends, .. }) = left {
                let memory: Box<TestMemory> = Box::new(self.memory.clone());
                self.map.attach_log(
                    PendingLog::resume(memory, TINY_LOG, ends, self.map.journal_stamp()).unwrap(),
                );
                if self.random.chance(0.5) {
                    self.begin();
                    (0..self.random.below(3)).for_each(|_| self.go_on());
                    self.look();
                    continue;
                }
                self.finish_commit();
                self.map.finish_log();
                assert!(self.memory.0.lock().unwrap().is_removed);
            }
            break;
        }
        self.memory = with_log(&mut self.map);
    }
}

#[test]
fn a_kill_loses_no_change() {
    let seeds = std::env::var("RINGNBD_SEEDS").map_or(300, |count| count.parse().unwrap());
    for seed in 1..=seeds {
        println!("seed {seed}");
        Life::new(seed).run();
    }
}
