//! The pause that a server makes while it is changed, apart from what the machine adds to it.
//!
//! A client with a thread and a connection of its own reads 4 KiB each millisecond. Its thread has real-time priority where it may, so
//! that it never waits for verifiers or for the commands that make the changes; and with `RINGNBD_FLEET_PINNED` the server has the first
//! CPU for itself, and all others share the second one. What is left is the server's: its shards, and what they wait for.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

use super::handover_images::Ending;
use crate::support::raw::Connection;
use crate::support::{PATIENCE, wait_until};

/// The export that it reads; no change is made to it.
pub(super) const EXPORT: &str = "probe";
const LENGTH: usize = 4096;
/// A read is due each.
const PERIOD: Duration = Duration::from_millis(1);
/// So many reads stand for no change at all, which else would take no time.
const NOTHING: usize = 20;

/// What the probe has seen.
#[derive(Default)]
pub(super) struct Seen {
    /// When each read was due or sent, and how long it took from then.
    reads: Mutex<Vec<(Instant, Duration)>>,
}

/// Pauses beside changes of one kind.
#[derive(Default)]
struct Pauses {
    /// The longest read beside each change.
    longest: Vec<Duration>,
    /// All reads.
    reads: Vec<Duration>,
}

/// Pauses by kind of change.
pub(super) struct Table<K>(BTreeMap<K, Pauses>);

impl Seen {
    /// Reads while something is done, which is given what fails when the probe has ended.
    pub(super) fn during<T>(&self, mut client: Connection, work: impl FnOnce(&dyn Fn()) -> T) -> T {
        client.patience(4 * PATIENCE);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ends_it = Ending(&is_over);
            let thread = scope.spawn(|| {
                println!("the probe has real-time priority: {}", hurry());
                self.read(client, &is_over);
            });
            work(&|| assert!(!thread.is_finished(), "the probe has ended"))
        })
    }

    /// Reads until it is over.
    fn read(&self, mut client: Connection, is_over: &AtomicBool) {
        let mut due = Instant::now();
        while !is_over.load(Ordering::Relaxed) {
            // A sleep that ends late is the machine's.
            let sent = Instant::now().max(due);
            client.read(0, LENGTH);
            let answered = Instant::now();
            let mut reads = self.reads.lock().unwrap();
            reads.push((sent, answered - sent));
            due += PERIOD;
            // Those that could not be sent meanwhile have waited too, each since its own moment.
            while due <= answered {
                if due > sent {
                    reads.push((due, answered - due));
                }
                due += PERIOD;
            }
            drop(reads);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }

    fn count(&self) -> usize {
        self.reads.lock().unwrap().len()
    }

    /// How long reads took while something was done; `all_go_on` fails when one of the clients has ended.
    pub(super) fn beside(&self, all_go_on: &dyn Fn(), change: impl FnOnce()) -> Vec<Duration> {
        self.reads.lock().unwrap().clear();
        change();
        let done = Instant::now();
        let is_past = || self.reads.lock().unwrap().last().is_some_and(|(sent, _)| *sent > done);
        wait_until("the probe to go on", || {
            all_go_on();
            is_past()
        });
        let reads = std::mem::take(&mut *self.reads.lock().unwrap());
        reads.into_iter().filter(|(sent, _)| *sent <= done).map(|(_, took)| took).collect()
    }

    /// What is measured in place of no change.
    pub(super) fn nothing(&self, all_go_on: &dyn Fn()) {
        wait_until("the probe to go on", || {
            all_go_on();
            self.count() >= NOTHING
        });
    }
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + std::fmt::Debug> Table<K> {
    pub(super) fn note(&mut self, change: K, reads: Vec<Duration>) {
        let Some(longest) = reads.iter().max() else { return };
        let pauses = self.0.entry(change).or_default();
        pauses.longest.push(*longest);
        pauses.reads.extend(reads);
    }

    pub(super) fn print(&mut self) {
        println!("Reads of 4 KiB, one each millisecond, in ms:");
        println!("| Change | times | longest read: middle | 90 % | 99 % | longest | reads | 99 % of them |");
        println!("|---|---|---|---|---|---|---|---|");
        for (change, Pauses { longest, reads }) in &mut self.0 {
            let ms = |part: f64, of: &mut Vec<Duration>| {
                of.sort_unstable();
                of[((of.len() - 1) as f64 * part).round() as usize].as_secs_f64() * 1e3
            };
            let of_changes =
                [0.5, 0.9, 0.99, 1.0].map(|part| format!("{:.2}", ms(part, longest))).join(" | ");
            let (times, count) = (longest.len(), reads.len());
            println!("| {change:?} | {times} | {of_changes} | {count} | {:.2} |", ms(0.99, reads));
        }
    }
}

/// Gives this thread real-time priority, if it may have that.
fn hurry() -> bool {
    let thread = gettid().as_raw_nonzero().to_string();
    let done = Command::new("chrt").args(["--fifo", "--pid", "50", &thread]).output();
    done.is_ok_and(|output| output.status.success())
}

/// Which CPUs the server and the clients have.
pub(super) struct Pins(Option<[CpuSet; 2]>);

impl Pins {
    /// `RINGNBD_FLEET_PINNED`: the first for the server, the second for all others.
    pub(super) fn of_environment() -> Self {
        if std::env::var_os("RINGNBD_FLEET_PINNED").is_none() {
            return Self(None);
        }
        let usable = sched_getaffinity(None).unwrap();
        let mut each = (0..CpuSet::MAX_CPU).filter(|cpu| usable.is_set(*cpu)).map(|cpu| {
            let mut only = CpuSet::new();
            only.set(cpu);
            only
        });
        let (Some(first), Some(second)) = (each.next(), each.next()) else { panic!("there is only one CPU") };
        sched_setaffinity(None, &second).unwrap();
        Self(Some([first, second]))
    }

    /// Starts a process of the server: it has the CPU of the thread that starts it.
    pub(super) fn starting<T>(&self, start: impl FnOnce() -> T) -> T {
        let pin = |which: usize| {
            if let Self(Some(cpus)) = self {
                sched_setaffinity(None, &cpus[which]).unwrap();
            }
        };
        pin(0);
        let started = start();
        pin(1);
        started
    }
}
