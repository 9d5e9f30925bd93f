//! A few threads of a shard for calls that io_uring does not have and that may wait for the disk.
//!
//! The shard sends a question with the index of the task that asks, goes on with its loop, and finds the answer when its doorbell
//! rings. Few questions are under way at once; the others wait here, by client, and clients take turns: one that asks a thousand
//! times does not hold up one that asks once.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Poll;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::allocation;
use super::export::FileStore;
use crate::block::{BlockError, ByteRange, Extent};
use crate::ring::Ring;
use crate::sys::Doorbell;
use crate::task::ReadyList;

/// Questions under way for each thread: one being answered, one so that it need not wait for the next.
const PER_THREAD: usize = 2;

type Answer = Result<Vec<Extent>, BlockError>;

struct Question {
    task: u32,
    store: Arc<FileStore>,
    range: ByteRange,
    limit: usize,
}

/// The helper threads of one shard.
pub struct Helpers {
    questions: Sender<Question>,
    answers: Receiver<(u32, Answer)>,
    /// Questions that wait, by client; the client at the front is next.
    waiting: RefCell<VecDeque<(u32, VecDeque<Question>)>>,
    under_way: Cell<usize>,
    most_under_way: usize,
    /// Answers that their tasks have not collected yet, by task.
    arrived: RefCell<HashMap<u32, Answer>>,
    ready: ReadyList,
    ring: Ring,
}

impl Helpers {
    /// Starts `threads` threads, which ring `doorbell` with each answer. They end when this value is dropped.
    ///
    /// # Errors
    /// The kernel's, when no thread can be had.
    pub fn start(
        threads: usize,
        doorbell: &Arc<Doorbell>,
        ready: ReadyList,
        ring: Ring,
    ) -> std::io::Result<Self> {
        #[cfg(feature = "sim")]
        let threads = if crate::ring::sim::World::current().is_some() { 0 } else { threads };
        let most_under_way = PER_THREAD * threads;
        let (questions, queue) = bounded::<Question>(most_under_way);
        let (answer, answers) = bounded(most_under_way);
        for _ in 0..threads {
            let (queue, answer, doorbell) = (queue.clone(), answer.clone(), Arc::clone(doorbell));
            let work = move || {
                for Question { task, store, range, limit } in queue {
                    let extents = allocation::query(&store, range, limit);
                    drop(store);
                    if answer.send((task, extents)).is_err() {
                        return;
                    }
                    doorbell.ring();
                }
            };
            std::thread::Builder::new().name("ringnbd-helper".into()).spawn(work)?;
        }
        let (waiting, under_way, arrived) = Default::default();
        Ok(Self { questions, answers, waiting, under_way, most_under_way, arrived, ready, ring })
    }

    /// Takes in what the threads have found, wakes who asked, and hands out what waits.
    pub fn collect(&self) {
        for (task, answer) in self.answers.try_iter() {
            self.under_way.set(self.under_way.get() - 1);
            self.arrived.borrow_mut().insert(task, answer);
            self.ready.wake(task);
        }
        self.hand_out();
    }

    fn hand_out(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while self.under_way.get() < self.most_under_way {
            let Some((client, mut questions)) = waiting.pop_front() else { return };
            let Some(question) = questions.pop_front() else { continue };
            self.under_way.set(self.under_way.get() + 1);
            self.questions.try_send(question).expect("no more are under way than the channel holds");
            if !questions.is_empty() {
                waiting.push_back((client, questions));
            }
        }
    }

    fn ask(&self, client: u32, question: Question) {
        let mut waiting = self.waiting.borrow_mut();
        match waiting.iter_mut().find(|(waits, _)| *waits == client) {
            Some((_, questions)) => questions.push_back(question),
            None => waiting.push_back((client, VecDeque::from([question]))),
        }
        drop(waiting);
        self.hand_out();
    }

    /// The world's answer in a simulation; like a thread's it is old when it arrives.
    #[cfg(feature = "sim")]
    async fn simulated_extents(
        &self,
        store: &FileStore,
        range: ByteRange,
        limit: usize,
    ) -> Option<Vec<Extent>> {
        use std::os::fd::AsFd;
        const WAY: std::time::Duration = std::time::Duration::from_micros(20);
        let answer = |length| self.ring.simulated_extents(store.buffered.as_fd(), range, length);
        answer(1)?;
        self.ring.sleep(WAY).await;
        let extents = answer(limit);
        self.ring.sleep(WAY).await;
        extents
    }

    /// Asks for the extents of a file on behalf of a client; see [`allocation::query`].
    pub(super) async fn extents(
        &self,
        store: &Arc<FileStore>,
        range: ByteRange,
        limit: usize,
        client: u32,
    ) -> Answer {
        #[cfg(feature = "sim")]
        if let Some(extents) = self.simulated_extents(store, range, limit).await {
            return Ok(extents);
        }
        let task = self.ring.current_task();
        self.ask(client, Question { task, store: Arc::clone(store), range, limit });
        std::future::poll_fn(|_context| match self.arrived.borrow_mut().remove(&task) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        })
        .await
    }
}
