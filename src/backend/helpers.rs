//! A few threads of a shard for calls that io_uring does not have and that may wait for the disk.
//!
//! The shard sends a question with the index of the task that asks, goes on with its loop, and finds the answer when its doorbell
//! rings. Few questions are under way at once; the others wait in [`Lines`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::allocation;
use super::export::FileStore;
use super::helper_lines::Lines;
use crate::block::{BlockError, ByteRange, Extent};
use crate::exec::ReadyList;
use crate::ring::Ring;
use crate::sys::Doorbell;

type Answer = Result<Vec<Extent>, BlockError>;

struct Question {
    task: u32,
    /// Names the file to [`Lines`].
    file: usize,
    store: Arc<FileStore>,
    range: ByteRange,
    limit: usize,
}

/// The helper threads of one shard.
pub(crate) struct Helpers {
    questions: Sender<Question>,
    answers: Receiver<(u32, usize, Answer)>,
    lines: RefCell<Lines<Question>>,
    /// Answers that their tasks have not collected yet, by task.
    arrived: RefCell<HashMap<u32, Answer>>,
    ready: ReadyList,
    ring: Ring,
}

impl Helpers {
    /// Starts `threads` threads, which ring `doorbell` with each answer. They end when this value is dropped. At most `per_file` of them
    /// are busy with one file.
    ///
    /// # Errors
    /// The kernel's, when no thread can be had.
    pub(crate) fn start(
        (threads, per_file): (usize, usize),
        doorbell: &Arc<Doorbell>,
        ready: ReadyList,
        ring: Ring,
    ) -> std::io::Result<Self> {
        Self::start_with((threads, per_file), doorbell, ready, ring, allocation::query)
    }

    fn start_with(
        (threads, per_file): (usize, usize),
        doorbell: &Arc<Doorbell>,
        ready: ReadyList,
        ring: Ring,
        query: fn(&FileStore, ByteRange, usize) -> Answer,
    ) -> std::io::Result<Self> {
        #[cfg(feature = "sim")]
        let threads = if crate::ring::sim::World::current().is_some() { 0 } else { threads };
        let (questions, queue) = bounded::<Question>(threads);
        let (answer, answers) = bounded(threads);
        for _ in 0..threads {
            let (queue, answer, doorbell) = (queue.clone(), answer.clone(), Arc::clone(doorbell));
            let work = move || {
                for Question { task, file, store, range, limit } in queue {
                    let extents = query(&store, range, limit);
                    drop(store);
                    if answer.send((task, file, extents)).is_err() {
                        return;
                    }
                    doorbell.ring();
                }
            };
            std::thread::Builder::new().name("ringnbd-helper".into()).spawn(work)?;
        }
        let lines = RefCell::new(Lines::new(threads, per_file));
        Ok(Self { questions, answers, lines, arrived: Default::default(), ready, ring })
    }

    /// Takes in what the threads have found, wakes who asked, and hands out what waits.
    pub(crate) fn collect(&self) {
        for (task, file, answer) in self.answers.try_iter() {
            self.lines.borrow_mut().answered(file);
            self.arrived.borrow_mut().insert(task, answer);
            self.ready.wake(task);
        }
        self.hand_out();
    }

    fn hand_out(&self) {
        let mut lines = self.lines.borrow_mut();
        while let Some((_, question)) = lines.next() {
            self.questions.try_send(question).expect("no more are under way than the channel holds");
        }
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
        let file = Arc::as_ptr(store).addr();
        let question = Question { task, file, store: Arc::clone(store), range, limit };
        self.lines.borrow_mut().ask(file, client, question);
        self.hand_out();
        std::future::poll_fn(|_context| match self.arrived.borrow_mut().remove(&task) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use super::*;
    use crate::backend::Export;
    use crate::backend::export::Store;
    use crate::config::ExportUri;
    use crate::ring::RingOptions;

    /// Takes one byte for a file that is not empty, so that it hangs.
    fn query(store: &FileStore, range: ByteRange, _limit: usize) -> Answer {
        while rustix::fs::fstat(store.buffered.as_fd()).unwrap().st_size > 0 {
            std::thread::yield_now();
        }
        Ok(vec![Extent { length: range.length(), hole: false, zero: false }])
    }

    fn poll<F: Future>(future: &mut Pin<&mut F>) -> Poll<F::Output> {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_file_system_that_hangs_does_not_stop_another_files_answers() {
        let directory = tempfile::tempdir().unwrap();
        let store = |name: &str, size| {
            let path = directory.path().join(name);
            std::fs::File::create(&path).unwrap().set_len(size).unwrap();
            let export = Export::open(&ExportUri::file(&path), false).unwrap();
            let Store::File(store) = &export.store else { panic!("a file") };
            Arc::clone(store)
        };
        let (hung, good) = (store("hung", 1), store("good", 0));
        let (ring, _pool) = Ring::new(&RingOptions::small()).unwrap();
        let doorbell = Arc::new(Doorbell::new().unwrap());
        let ready = ReadyList::default();
        let helpers = Helpers::start_with((3, 2), &doorbell, ready, ring.clone(), query).unwrap();
        let ask = |store, task, client| {
            ring.set_current_task(task);
            let range = ByteRange::new(0, 1).unwrap();
            let mut question = Box::pin(helpers.extents(store, range, 1, client));
            assert!(poll(&mut question.as_mut()).is_pending());
            question
        };
        let mut waiting: Vec<_> = (0..10).map(|task| ask(&hung, task, task)).collect();
        let mut question = pin!(ask(&good, 10, 10));
        let answer = loop {
            helpers.collect();
            match poll(&mut question) {
                Poll::Ready(answer) => break answer,
                Poll::Pending => std::thread::yield_now(),
            }
        };
        assert_eq!(answer.unwrap().len(), 1);
        assert!(waiting.iter_mut().all(|question| poll(&mut question.as_mut()).is_pending()));
        hung.buffered.set_len(0).unwrap();
        for question in &mut waiting {
            while poll(&mut question.as_mut()).is_pending() {
                helpers.collect();
                std::thread::yield_now();
            }
        }
    }
}
