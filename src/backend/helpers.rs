//! A few threads of a shard for calls that io_uring does not have and that may wait for the disk.
//!
//! The shard sends a question with the index of the task that asks, goes on with its loop, and finds the answer when its doorbell
//! rings. At most so many questions are under way as there is room in the queue; further tasks give way until then.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::allocation;
use super::export::FileStore;
use crate::block::{BlockError, ByteRange, Extent};
use crate::ring::Ring;
use crate::sys::Doorbell;
use crate::task::ReadyList;

/// Questions under way at once.
const QUEUE: usize = 128;

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
        let (questions, queue) = bounded::<Question>(QUEUE);
        let (answer, answers) = bounded(QUEUE + threads);
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
        Ok(Self { questions, answers, arrived: RefCell::default(), ready, ring })
    }

    /// Takes in what the threads have found, and wakes who asked.
    pub fn collect(&self) {
        for (task, answer) in self.answers.try_iter() {
            self.arrived.borrow_mut().insert(task, answer);
            self.ready.wake(task);
        }
    }

    /// Asks for the extents of a file; see [`allocation::query`].
    pub(super) async fn extents(&self, store: &Arc<FileStore>, range: ByteRange, limit: usize) -> Answer {
        let task = self.ring.current_task();
        let mut question = Question { task, store: Arc::clone(store), range, limit };
        loop {
            match self.questions.try_send(question) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) => question = back,
                Err(TrySendError::Disconnected(_)) => return Err(BlockError::Io),
            }
            self.ready.give_way(&self.ring).await;
        }
        std::future::poll_fn(|_context| match self.arrived.borrow_mut().remove(&task) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        })
        .await
    }
}
