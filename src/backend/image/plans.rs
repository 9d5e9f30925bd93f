//! Where the changes since snapshots are found, as long as that holds.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::store::catalog::LayerId;
use crate::store::tracking::OtherChanges;

/// Snapshots whose changes are kept: as many as one client can ask for at once.
const MOST_KEPT: usize = 64;

/// Plans that were made, by snapshot.
#[derive(Debug, Default)]
pub(super) struct ChangePlans(RefCell<BTreeMap<Arc<str>, Rc<KeptPlan>>>);

#[derive(Debug)]
pub(super) struct KeptPlan {
    /// The catalogue and the layers that it holds for.
    pub(super) counter: u64,
    pub(super) open: Vec<Option<LayerId>>,
    /// Layers of the image that count, by place.
    pub(super) live: Vec<usize>,
    pub(super) other: OtherChanges,
}

impl ChangePlans {
    pub(super) fn get(&self, since: &Arc<str>) -> Option<Rc<KeptPlan>> {
        self.0.borrow().get(since).cloned()
    }

    pub(super) fn keep(&self, since: &Arc<str>, plan: &Rc<KeptPlan>) {
        let mut plans = self.0.borrow_mut();
        if plans.len() >= MOST_KEPT {
            plans.pop_first();
        }
        plans.insert(Arc::clone(since), Rc::clone(plan));
    }
}
