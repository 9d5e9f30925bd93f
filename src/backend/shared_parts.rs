//! What several devices of a shard use together: each as long as one of them has it.

use std::any::Any;
use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// See the module. What they are is the devices' affair.
#[derive(Default)]
pub(crate) struct SharedParts(RefCell<Vec<Weak<dyn Any>>>);

impl SharedParts {
    /// The one of its type that is looked for, if some device has it.
    pub(super) fn find<T: 'static>(&self, is_it: impl Fn(&T) -> bool) -> Option<Rc<T>> {
        let parts = self.0.borrow();
        let mut parts = parts.iter().filter_map(Weak::upgrade).filter_map(|part| part.downcast::<T>().ok());
        parts.find(|part| is_it(part))
    }

    /// Lets others find one.
    pub(super) fn add<T: 'static>(&self, part: &Rc<T>) {
        let part: Rc<dyn Any> = Rc::<T>::clone(part);
        self.0.borrow_mut().push(Rc::downgrade(&part));
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        let mut parts = self.0.borrow_mut();
        parts.retain(|part| part.strong_count() > 0);
        parts.len()
    }
}
