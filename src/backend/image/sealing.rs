//! What the two sides of a snapshot tell each other: who takes it, anywhere, and the home of an image.
//!
//! Who takes it gives orders, one after the other, and the home says how far it is. Each side waits for the
//! other by a waker, on whatever thread that is. A side that is dropped tells the other one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::layer_files::NextHead;
use crate::block::BlockError;
use crate::exec::{Waiters, lock};

/// What the home of an image is to do, in this order; what it is told to do first is to prepare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SealOrder {
    /// Get the next head ready, and make durable what can be while requests go on.
    Prepare,
    /// Let no change begin, and wait for those under way: the catalogue says that the next head may take
    /// over.
    Close,
    /// The next head takes the writes. Then make the sealed one durable.
    Switch,
    /// What is durable of the next head counts: the catalogue leads to it.
    Release,
    /// Nothing more is to change. After the order to switch: nobody knows whether the catalogue leads to the
    /// next head.
    GiveUp,
}

/// How far the home is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SealProgress {
    Begun,
    Prepared,
    Closed,
    /// Changes go to the next head, and had to wait for so long.
    Switched(Duration),
    /// The sealed head is durable.
    Settled,
    /// Another one can begin.
    Over,
    Failed(SealFailure),
}

/// The same, to be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SealStage {
    Begun,
    Prepared,
    Closed,
    Switched,
    Settled,
    Over,
}

impl SealProgress {
    const fn stage(&self) -> SealStage {
        match self {
            Self::Begun | Self::Failed(_) => SealStage::Begun,
            Self::Prepared => SealStage::Prepared,
            Self::Closed => SealStage::Closed,
            Self::Switched(_) => SealStage::Switched,
            Self::Settled => SealStage::Settled,
            Self::Over => SealStage::Over,
        }
    }
}

/// Why an image cannot be sealed. It goes on as before, unless the failure says something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealFailure {
    /// Nobody serves it any more.
    #[error("the shard that serves it has ended: see the server's log")]
    Gone,
    /// Its home has no device of it.
    #[error("its device cannot be opened: see the server's log")]
    NotOpen,
    /// Its home has no place for more files.
    #[error("there is no room for the files of its next head ({0}): raise the limit of open files")]
    NoRoom(String),
    /// It has no head that could be sealed.
    #[error("it is not an image that is written")]
    NotWritten,
    /// One at a time.
    #[error("another snapshot of it is being taken: try again later")]
    Busy,
    /// Changes must not wait for longer.
    #[error("requests that were under way did not end within {0:?}: try again when its clients do less")]
    TooSlow(Duration),
    /// A commit failed.
    #[error("what was written to it cannot be made durable ({0}): see the server's log")]
    NotDurable(BlockError),
}

/// Shared by both sides.
#[derive(Debug)]
struct Sealing {
    talk: Mutex<SealTalk>,
    changed: Waiters,
}

#[derive(Debug)]
struct SealTalk {
    order: SealOrder,
    progress: SealProgress,
    /// How long changes had to wait, after the switch.
    pause: Duration,
}

impl Default for SealTalk {
    fn default() -> Self {
        Self { order: SealOrder::Prepare, progress: SealProgress::Begun, pause: Duration::ZERO }
    }
}

impl SealTalk {
    /// Takes an order; false if it comes too late, which changes nothing.
    fn give(&mut self, order: SealOrder) -> bool {
        let fits = match (self.order, order) {
            (SealOrder::Prepare, SealOrder::Close | SealOrder::GiveUp)
            | (SealOrder::Close, SealOrder::Switch | SealOrder::GiveUp)
            | (SealOrder::Switch, SealOrder::Release | SealOrder::GiveUp) => true,
            (SealOrder::GiveUp | SealOrder::Release, _) => false,
            (before, order) => unreachable!("{order:?} does not follow {before:?}"),
        };
        if fits {
            self.order = order;
        }
        fits
    }
}

/// The side of who takes the snapshot.
#[derive(Debug)]
pub struct SealMember(Arc<Sealing>);

/// The side of an image's home.
#[derive(Debug)]
pub struct SealTask {
    sealing: Arc<Sealing>,
    next: Option<Box<NextHead>>,
}

/// Both sides, for an image that goes on with this head.
#[must_use]
pub fn sealing(next: NextHead) -> (SealMember, SealTask) {
    let talk = Mutex::new(SealTalk::default());
    let sealing = Arc::new(Sealing { talk, changed: Waiters::default() });
    (SealMember(Arc::clone(&sealing)), SealTask { sealing, next: Some(Box::new(next)) })
}

/// Both sides, of no image.
#[cfg(test)]
pub(super) fn sealing_of_nothing() -> (SealMember, SealTask) {
    let talk = Mutex::new(SealTalk::default());
    let sealing = Arc::new(Sealing { talk, changed: Waiters::default() });
    (SealMember(Arc::clone(&sealing)), SealTask { sealing, next: None })
}

impl Sealing {
    fn give(&self, order: SealOrder) {
        if lock(&self.talk).give(order) {
            self.changed.wake_all();
        }
    }

    async fn until<T>(&self, mut look: impl FnMut(&SealTalk) -> Option<T>) -> T {
        self.changed.until(|| look(&lock(&self.talk))).await
    }
}

impl SealMember {
    /// Whether the order to switch was given.
    pub(super) fn may_have_switched(&self) -> bool {
        lock(&self.0.talk).order >= SealOrder::Switch
    }

    pub(super) fn give(&self, order: SealOrder) {
        self.0.give(order);
    }

    /// Waits until the home is so far; how long changes had to wait if that is known then.
    pub(super) async fn has_come(&self, wanted: SealStage) -> Result<Duration, SealFailure> {
        self.0
            .until(|talk| match &talk.progress {
                SealProgress::Failed(failure) => Some(Err(failure.clone())),
                progress => (progress.stage() >= wanted).then_some(Ok(talk.pause)),
            })
            .await
    }
}

impl SealTask {
    pub(super) fn take_next(&mut self) -> NextHead {
        *self.next.take().expect("it is taken once")
    }

    /// Says how far the home is.
    pub(super) fn reach(&self, progress: SealProgress) {
        let mut talk = lock(&self.sealing.talk);
        if let SealProgress::Switched(pause) = progress {
            talk.pause = pause;
        }
        talk.progress = progress;
        drop(talk);
        self.sealing.changed.wake_all();
    }

    /// Says that it cannot be done.
    pub(crate) fn fail(&self, failure: SealFailure) {
        self.reach(SealProgress::Failed(failure));
    }

    /// Waits for an order; false if it is to give up.
    pub(super) async fn ordered(&self, order: SealOrder) -> bool {
        self.sealing
            .until(|talk| match talk.order {
                SealOrder::GiveUp => Some(false),
                given => (given >= order).then_some(true),
            })
            .await
    }

    /// Waits for the order to give up.
    pub(super) async fn given_up(&self) {
        self.sealing.until(|talk| (talk.order == SealOrder::GiveUp).then_some(())).await;
    }

    #[cfg(test)]
    pub(super) fn order(&self) -> SealOrder {
        lock(&self.sealing.talk).order
    }
}

/// Nobody gives orders any more.
impl Drop for SealMember {
    fn drop(&mut self) {
        let mut talk = lock(&self.0.talk);
        match talk.order {
            SealOrder::Prepare | SealOrder::Close | SealOrder::Switch => talk.give(SealOrder::GiveUp),
            SealOrder::Release | SealOrder::GiveUp => return,
        };
        drop(talk);
        self.0.changed.wake_all();
    }
}

/// The shard has ended, or it is done.
impl Drop for SealTask {
    fn drop(&mut self) {
        let mut talk = lock(&self.sealing.talk);
        match talk.progress {
            SealProgress::Failed(_) | SealProgress::Over => return,
            _ => talk.progress = SealProgress::Failed(SealFailure::Gone),
        }
        drop(talk);
        self.sealing.changed.wake_all();
    }
}
