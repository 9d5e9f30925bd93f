//! What the home of an image is asked to do beside the requests of clients.

use std::sync::Arc;
use std::time::Duration;

use super::ImageDevice;
use super::growing::GrowTask;
use super::sealing::{SealFailure, SealTask};
use super::shortening::ShortenTask;
use crate::backend::context::ShardContext;

/// Something to do for the home of an image. Whoever has asked for it is told when it is dropped undone.
#[derive(Debug)]
pub enum HomeTask {
    /// Have another head take the writes.
    Seal(SealTask),
    /// Go on with fewer layers.
    Shorten(ShortenTask),
    /// Be larger.
    Grow(GrowTask),
    /// Close these packs, which are gone, if it has them open.
    ForgetPacks(Arc<[u64]>),
}

impl HomeTask {
    /// It cannot be done.
    pub(crate) fn fail(self, failure: SealFailure) {
        if let Self::Seal(task) = self {
            task.fail(failure);
        }
    }

    /// Whether only an image that is written can do it.
    pub(crate) const fn needs_head(&self) -> bool {
        matches!(self, Self::Seal(_) | Self::Grow(_))
    }
}

impl ImageDevice {
    /// Does what it is asked for. Changes wait for at most `limit` for others that are under way.
    pub(in crate::backend) async fn perform(&self, task: HomeTask, limit: Duration, context: &ShardContext) {
        match task {
            HomeTask::Seal(task) => self.seal(task, limit, context).await,
            HomeTask::Shorten(task) => self.shorten(task, context),
            HomeTask::Grow(task) => self.grow(task, limit, context).await,
            HomeTask::ForgetPacks(packs) => self.chain().forget_packs(&packs),
        }
    }
}
