//! A few threads of a shard for calls that io_uring does not have and that may wait: for the disk, or for
//! anything.
//!
//! A task hands in a [job](Helpers::run) and goes on when its result is there; the shard goes on with its
//! loop meanwhile. Few jobs are under way at once; the others wait in [`Lines`].

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::caught::{Panicked, caught};
use super::helper_lines::Lines;
use super::quiet_doorbell::QuietDoorbell;
use crate::mutex::lock;
use crate::ring::Ring;
use crate::sys::Doorbell;

/// The helper threads of one shard.
pub(crate) struct Helpers {
    jobs: Sender<HelperJob>,
    /// The keys of jobs that ended.
    ended: Receiver<usize>,
    lines: RefCell<Lines<HelperWork>>,
    /// Rings when a job ends, while others wait for its place.
    places: Arc<QuietDoorbell>,
    most_per_key: usize,
    /// Without threads jobs run on the shard: see [`Helpers::run`].
    ring: Option<Ring>,
}

/// What a thread runs; gives whom to wake then.
type HelperWork = Box<dyn FnOnce() -> Option<Waker> + Send>;

struct HelperJob {
    key: usize,
    work: HelperWork,
}

impl Helpers {
    /// Starts `threads` threads, which ring `doorbell` when a job ends that somebody waits for. They end when
    /// this value is dropped.
    /// At most `per_key` of them are busy with one key.
    ///
    /// # Errors
    /// The kernel's, when no thread can be had.
    pub(crate) fn start(
        (threads, per_key): (usize, usize),
        doorbell: &Arc<Doorbell>,
        ring: &Ring,
    ) -> std::io::Result<Self> {
        let is_simulated = ring.is_simulated();
        let threads = if is_simulated { 0 } else { threads };
        let (jobs, queue) = bounded::<HelperJob>(threads);
        let (end, ended) = bounded(threads);
        let places = Arc::new(QuietDoorbell::new(doorbell));
        for _ in 0..threads {
            let (queue, end, places) = (queue.clone(), end.clone(), Arc::clone(&places));
            let work = move || work(&queue, &end, &places);
            std::thread::Builder::new().name("ringnbd-helper".into()).spawn(work)?;
        }
        let lines = RefCell::new(Lines::new(threads, per_key));
        let ring = is_simulated.then(|| ring.clone());
        Ok(Self { jobs, ended, lines, places, most_per_key: per_key, ring })
    }

    /// The doorbell rang: what waits takes the places of the jobs that ended.
    pub(crate) fn collect(&self) {
        let mut lines = self.lines.borrow_mut();
        self.hand_out(&mut lines);
        if lines.is_empty() {
            return self.places.wake();
        }
        self.places.sleep();
        // Of those that have ended meanwhile nobody may have rung.
        self.hand_out(&mut lines);
    }

    fn hand_out(&self, lines: &mut Lines<HelperWork>) {
        for key in self.ended.try_iter() {
            lines.answered(key);
        }
        while let Some((key, work)) = lines.next() {
            let sent = self.jobs.try_send(HelperJob { key, work });
            sent.unwrap_or_else(|_| panic!("no more are under way than the channel holds"));
        }
    }

    /// Threads that one key may keep busy.
    pub(crate) fn most_per_key(&self) -> usize {
        self.most_per_key
    }

    /// As [`Helpers::run`], for whom the result does not matter. Not in a simulation, which has no threads.
    pub(crate) fn hand(&self, key: usize, client: u32, job: impl FnOnce() + Send + 'static) {
        let work = move || {
            job();
            None
        };
        self.ask(key, client, Box::new(work));
    }

    fn ask(&self, key: usize, client: u32, work: HelperWork) {
        self.lines.borrow_mut().ask(key, client, work);
        self.collect();
    }

    /// Runs a job on one of the threads. `key` names what it works with, a file for example, and `client`
    /// whom it works for: those share the threads fairly. When this future is dropped, a job that has not
    /// begun never does.
    ///
    /// In a simulation it runs on the shard, in the middle of some simulated time: its result is old when it
    /// arrives, as a thread's is.
    ///
    /// # Errors
    /// The job panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        key: usize,
        client: u32,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        const WAY: std::time::Duration = std::time::Duration::from_micros(20);
        if let Some(ring) = &self.ring {
            ring.sleep(WAY).await;
            let result = caught(job);
            ring.sleep(WAY).await;
            return result;
        }
        let asked = Asked(Arc::default());
        let answer = Arc::clone(&asked.0);
        self.ask(key, client, Box::new(move || answer.run(job)));
        std::future::poll_fn(|context| {
            let waker = context.waker().clone();
            let mut state = lock(&asked.0.0);
            if let Some(result) = state.result.take() {
                return Poll::Ready(result);
            }
            let replaced = state.waker.replace(waker);
            drop(state);
            drop(replaced);
            Poll::Pending
        })
        .await
    }
}

/// What a thread does. The shard hears of the free place and of the result at once: with the one before the
/// other, it would wake up twice for each job. Of a free place alone it hears only if somebody waits for it.
fn work(queue: &Receiver<HelperJob>, end: &Sender<usize>, places: &QuietDoorbell) {
    for HelperJob { key, work } in queue {
        // A job catches its own panics; this one is of something that it owned.
        let waker = caught(work).unwrap_or_default();
        if end.send(key).is_err() {
            return;
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        places.announce();
    }
}

/// The way back from a job to who asked for it.
struct JobResult<T>(Mutex<JobState<T>>);

struct JobState<T> {
    result: Option<Result<T, Panicked>>,
    waker: Option<Waker>,
    /// Nobody waits any more.
    withdrawn: bool,
}

impl<T> Default for JobResult<T> {
    fn default() -> Self {
        Self(Mutex::new(JobState { result: None, waker: None, withdrawn: false }))
    }
}

impl<T> JobResult<T> {
    /// Runs a job, unless nobody waits for it; gives whom to wake.
    fn run(&self, job: impl FnOnce() -> T) -> Option<Waker> {
        if lock(&self.0).withdrawn {
            return None;
        }
        let result = caught(job);
        let mut state = lock(&self.0);
        if state.withdrawn {
            return None;
        }
        state.result = Some(result);
        state.waker.take()
    }
}

/// Who asked.
struct Asked<T>(Arc<JobResult<T>>);

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        state.withdrawn = true;
        let left = (state.waker.take(), state.result.take());
        drop(state);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::mpsc::channel;

    use super::*;
    use crate::exec::{ReadyList, Tasks};
    use crate::ring::RingOptions;

    /// A shard of nothing but tasks and helpers.
    struct Shard {
        doorbell: Arc<Doorbell>,
        ring: Ring,
        ready: ReadyList,
        helpers: Helpers,
    }

    fn shard(threads: usize, per_key: usize) -> Shard {
        let (ring, _pool) = Ring::new(&RingOptions::small()).unwrap();
        let doorbell = Arc::new(Doorbell::new().unwrap());
        let (ready, helpers) =
            (ReadyList::new(&doorbell), Helpers::start((threads, per_key), &doorbell, &ring));
        Shard { doorbell, ring, ready, helpers: helpers.unwrap() }
    }

    impl Shard {
        fn run_until<F: Future<Output = ()>>(&self, tasks: &mut Tasks<F>, end: impl Fn() -> bool) {
            while !end() {
                self.doorbell.listen();
                self.helpers.collect();
                self.ready.collect();
                tasks.run_ready();
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_job_that_hangs_does_not_stop_those_of_another_key() {
        let shard = shard(3, 2);
        let (hung, good) = (Cell::new(0), Cell::new(0));
        let mut tasks = Tasks::new(shard.ring.clone(), shard.ready.clone());
        let (open, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for number in 0..11_u32 {
            let (helpers, hung, good, gate) = (&shard.helpers, &hung, &good, Arc::clone(&gate));
            tasks.spawn(async move {
                if number == 10 {
                    assert_eq!(helpers.run(2, number, || 5).await, Ok(5));
                    good.set(good.get() + 1);
                } else {
                    // Until the other end of the gate is gone.
                    let job = move || lock(&gate).recv().is_err();
                    assert_eq!(helpers.run(1, number, job).await, Ok(true));
                    hung.set(hung.get() + 1);
                }
            });
        }
        shard.run_until(&mut tasks, || good.get() == 1);
        assert_eq!(hung.get(), 0);
        drop(open);
        shard.run_until(&mut tasks, || hung.get() == 10);
        assert_eq!(tasks.running(), 0);
    }

    #[test]
    fn the_end_of_a_job_rings_only_for_those_who_wait_for_its_place() {
        let shard = shard(1, 1);
        let (doorbell, helpers) = (&shard.doorbell, &shard.helpers);
        helpers.hand(1, 1, || ());
        while helpers.ended.is_empty() {
            std::thread::yield_now();
        }
        let (open, gate) = channel::<()>();
        let (begin, begun) = channel();
        helpers.hand(1, 1, move || {
            begin.send(()).unwrap();
            let _closed = gate.recv();
        });
        // On the same thread: what it did about the first one is done.
        begun.recv().unwrap();
        assert!(!doorbell.was_rung(0));
        let (told, ended) = channel();
        helpers.hand(1, 1, move || told.send(()).unwrap());
        drop(open);
        assert!(doorbell.was_rung(60));
        helpers.collect();
        ended.recv().unwrap();
    }

    #[test]
    fn a_panic_is_an_answer_and_the_thread_lives() {
        let shard = shard(1, 1);
        let answers = RefCell::new(Vec::new());
        let mut tasks = Tasks::new(shard.ring.clone(), shard.ready.clone());
        for number in 0..4_u32 {
            let (helpers, answers) = (&shard.helpers, &answers);
            tasks.spawn(async move {
                let job = move || if number == 1 { std::panic::resume_unwind(Box::new(())) } else { number };
                let answer = helpers.run(1, 1, job).await;
                answers.borrow_mut().push(answer);
            });
        }
        shard.run_until(&mut tasks, || answers.borrow().len() == 4);
        assert_eq!(*answers.borrow(), [Ok(0), Err(Panicked), Ok(2), Ok(3)]);
    }

    /// The task is gone when the answer comes, and its slot has another one.
    #[test]
    fn a_late_answer_wakes_nobody_else() {
        let shard = shard(1, 1);
        let (polls, done) = (Cell::new(0), Cell::new(false));
        let (begin, begun) = channel();
        let mut tasks: Tasks<std::pin::Pin<Box<dyn Future<Output = ()> + '_>>> =
            Tasks::new(shard.ring.clone(), shard.ready.clone());
        let (open, gate) = channel::<()>();
        let (told, ended) = channel();
        tasks.spawn(Box::pin(async {
            let job = move || {
                begin.send(()).unwrap();
                let _closed = gate.recv();
                told.send(()).unwrap();
            };
            let mut asked = std::pin::pin!(shard.helpers.run(1, 1, job));
            // It asks, and does not wait for the answer.
            std::future::poll_fn(|context| {
                assert!(asked.as_mut().poll(context).is_pending());
                begun.recv().unwrap();
                Poll::Ready(())
            })
            .await;
        }));
        tasks.run_ready();
        assert_eq!(tasks.running(), 0);
        tasks.spawn(Box::pin(std::future::poll_fn(|_| {
            polls.set(polls.get() + 1);
            Poll::Pending
        })));
        tasks.run_ready();
        drop(open);
        ended.recv().unwrap();
        tasks.spawn(Box::pin(async {
            // On the same thread, so after that one.
            assert_eq!(shard.helpers.run(1, 1, || 7).await, Ok(7));
            done.set(true);
        }));
        shard.run_until(&mut tasks, || done.get());
        assert_eq!(polls.get(), 1);
    }
}
