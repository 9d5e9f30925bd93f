//! Images that become larger while clients use them. The thread of the store is a model: the data of the head is
//! longer, durably, and the catalogue has the new size; then the code of the server goes on with it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use ringnbd::internal::backend::{ExportId, GrowOutcome, GrowTask, HomeTask, SimulatedLayer};

use super::Simulation;

/// Growths of a run.
#[derive(Default)]
pub(super) struct Growths {
    under_way: Vec<Growth>,
    /// How often one was done.
    pub(super) done: u64,
}

/// An image that the catalogue has larger than its home.
struct Growth {
    export: usize,
    head: SimulatedLayer,
    size: u64,
    told: Receiver<GrowOutcome>,
}

impl Simulation {
    /// Perhaps an image becomes larger.
    pub(super) fn begin_growth(&mut self) {
        if self.plan.growths == 0.0 || self.shutting_down || !self.random.chance(self.plan.growths) {
            return;
        }
        let export = self.random.below(self.media.len() as u64) as usize;
        // The server does one thing at a time with the images of a store.
        if self.lives[export].held_by.is_some() || self.is_growing(export) || self.is_being_taken(export) {
            return;
        }
        let Some((head, size)) = self.media[export].grow(&self.world) else { return };
        let told = self.ask_to_grow(export, head, size);
        self.growths.under_way.push(Growth { export, head, size, told });
    }

    fn ask_to_grow(&self, export: usize, head: SimulatedLayer, size: u64) -> Receiver<GrowOutcome> {
        let (tell, told) = channel();
        let task = GrowTask::simulated(head, size, move |outcome| drop(tell.send(outcome)));
        let id = ExportId { index: export as u32, generation: self.lives[export].generation };
        let home = export % self.shards.len();
        let sent = self.shards[home].visit(id, Arc::clone(&self.exports[export]), HomeTask::Grow(task));
        assert!(sent, "the mailbox has room");
        told
    }

    /// Whether the catalogue has an image larger than clients are told.
    pub(super) fn is_growing(&self, export: usize) -> bool {
        self.media[export].size().is_some_and(|size| size != self.plan.disks[export].size)
    }

    /// Hears what became of images that were to be larger; false if nothing has.
    pub(super) fn go_on_with_growths(&mut self) -> Result<bool, String> {
        let before = self.growths.under_way.len();
        let mut goes_on = false;
        for growth in std::mem::take(&mut self.growths.under_way) {
            let may_ask = !self.shutting_down && self.lives[growth.export].held_by.is_none();
            match growth.told.try_recv() {
                Err(TryRecvError::Empty) => self.growths.under_way.push(growth),
                Ok(GrowOutcome::Larger) => self.has_grown(growth.export, growth.size),
                // What was under way took too long, or the export was removed at the same time.
                Ok(GrowOutcome::Busy) | Err(TryRecvError::Disconnected) => {
                    goes_on |= may_ask;
                    let Growth { export, head, size, mut told } = growth;
                    if may_ask {
                        told = self.ask_to_grow(export, head, size);
                    }
                    if !self.shutting_down {
                        self.growths.under_way.push(Growth { export, head, size, told });
                    }
                }
                // The next server gives it its size.
                Ok(GrowOutcome::NotDurable) if self.may_fail() => {}
                Ok(GrowOutcome::OtherHead) if self.has_failed_to_snapshot() => {}
                Ok(outcome) => {
                    return Err(format!("an image does not grow, and nothing keeps it: {outcome:?}"));
                }
            }
        }
        Ok(goes_on || self.growths.under_way.len() < before)
    }

    fn has_grown(&mut self, export: usize, size: u64) {
        self.growths.done += 1;
        self.tell_size(export, size);
        if self.plan.newcomers {
            self.plan.clients += 1;
            self.sessions_left += 1;
        }
    }

    /// Clients that come are told of it.
    fn tell_size(&mut self, export: usize, size: u64) {
        self.plan.disks[export].size = size;
        self.oracles[export].grow(size);
    }

    /// A server that starts tells what the catalogue says.
    pub(super) fn take_sizes(&mut self) {
        for export in 0..self.media.len() {
            if let Some(size) = self.media[export].size() {
                assert_eq!(self.exports[export].facts().size, size, "its map has followed the catalogue");
                self.tell_size(export, size);
            }
        }
    }

    /// The server ends: whatever of a growth is not done yet is the next one's.
    pub(super) fn end_growths(&mut self) {
        self.growths.under_way.clear();
    }
}
