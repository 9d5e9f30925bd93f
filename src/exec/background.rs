//! Tasks of devices that belong to no request.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;

/// A task that a device began.
pub(crate) type BackgroundTask = Pin<Box<dyn Future<Output = ()>>>;

/// Where devices begin such tasks. The shard runs them beside those of requests, and ends without them: they
/// hold nothing that has to be finished. Clones name the same place.
#[derive(Clone, Default)]
pub(crate) struct Background(Rc<BackgroundState>);

#[derive(Default)]
struct BackgroundState {
    fresh: RefCell<Vec<BackgroundTask>>,
    running: Cell<usize>,
}

/// Counts a task until it has ended or was dropped.
struct BackgroundMark(Background);

impl Background {
    /// Begins a task, in this turn or the next.
    pub(crate) fn begin(&self, task: impl Future<Output = ()> + 'static) {
        self.0.running.set(self.0.running.get() + 1);
        let mark = BackgroundMark(self.clone());
        let marked = async move {
            task.await;
            drop(mark);
        };
        self.0.fresh.borrow_mut().push(Box::pin(marked));
    }

    /// The tasks that are to be run from now on.
    pub(crate) fn take(&self) -> Vec<BackgroundTask> {
        std::mem::take(&mut *self.0.fresh.borrow_mut())
    }

    /// Tasks that have not ended.
    pub(crate) fn running(&self) -> usize {
        self.0.running.get()
    }
}

impl Drop for BackgroundMark {
    fn drop(&mut self) {
        let running = &self.0.0.running;
        running.set(running.get() - 1);
    }
}
