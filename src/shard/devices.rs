//! The devices that a shard has open.
//!
//! A device is opened when a first connection needs it. That is a task: it may take its time, and connections
//! that come meanwhile wait. An idle device stays open for the next connection, until its place among the
//! ring's files is needed for another.
//!
//! What is not a connection, something that is done for an image, needs the device in the same way: both are
//! *visitors*.
//!
//! When a device cannot be opened, its connections get one all the same, which refuses every request: so
//! clients learn that there is no point in waiting. The next connection after them tries again.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::backend::{Device, Export, ExportId};
use crate::shard::mailbox::{Done, Removal, Visitor};

/// Devices by export.
#[derive(Default)]
pub(crate) struct Devices {
    states: HashMap<ExportId, DeviceState>,
    /// Of them, those that are being opened.
    opening: usize,
    /// Counts the moments at which a device became idle.
    moment: u64,
}

enum DeviceState {
    /// Its visitors wait.
    Opening {
        export: Arc<Export>,
        waiting: Vec<Visitor>,
        removal: Option<(Removal, Done)>,
    },
    Open(OpenDevice),
}

struct OpenDevice {
    device: Rc<Device>,
    /// It could not be opened: its connections' requests are refused.
    failed: bool,
    visitors: usize,
    /// When the last visitor went; means nothing while there is one.
    idle_since: u64,
    /// The export was removed: called when the last visitor is gone.
    removed: Option<Done>,
}

/// What becomes of a visitor that comes.
#[allow(clippy::large_enum_variant, reason = "it is made once for a connection, and taken apart at once")]
pub(crate) enum DeviceEntry {
    /// Its device is open.
    Open(Visitor, OpenedDevice),
    /// It waits, and its device is to be opened.
    First(Arc<Export>),
    /// It waits for one that is being opened.
    Waits,
}

/// A device for one more visitor.
pub(crate) struct OpenedDevice {
    pub(crate) device: Rc<Device>,
    pub(crate) failed: bool,
}

/// The end of an opening: the visitors that waited, and what is to become of them if their export was
/// removed meanwhile.
pub(crate) struct EndedOpening {
    pub(crate) visitors: Vec<Visitor>,
    pub(crate) removal: Option<(Removal, Done)>,
}

impl Devices {
    /// A visitor comes.
    pub(crate) fn enter(&mut self, new: Visitor) -> DeviceEntry {
        let (id, export) = new.export();
        match self.states.get_mut(&id) {
            Some(DeviceState::Open(open)) => {
                assert!(open.removed.is_none(), "no visitor comes after the order to remove its export");
                open.visitors += 1;
                let (device, failed) = (Rc::clone(&open.device), open.failed);
                DeviceEntry::Open(new, OpenedDevice { device, failed })
            }
            Some(DeviceState::Opening { waiting, removal, .. }) => {
                assert!(removal.is_none(), "no visitor comes after the order to remove its export");
                waiting.push(new);
                DeviceEntry::Waits
            }
            None => {
                let export = Arc::clone(export);
                let opening =
                    DeviceState::Opening { export: Arc::clone(&export), waiting: vec![new], removal: None };
                self.states.insert(id, opening);
                self.opening += 1;
                DeviceEntry::First(export)
            }
        }
    }

    /// An attempt to open a device has failed for want of a place among the ring's files: the export to try
    /// again, if a device without visitors could be closed instead.
    pub(crate) fn make_room(&mut self, id: ExportId) -> Option<Arc<Export>> {
        let Some(DeviceState::Opening { export, .. }) = self.states.get(&id) else { return None };
        let export = Arc::clone(export);
        self.close_idle().then_some(export)
    }

    /// A device is open; `None` when it could not be opened. Those that waited are to [enter](Self::enter)
    /// again.
    pub(crate) fn opened(&mut self, id: ExportId, device: Option<Device>) -> EndedOpening {
        let Some(DeviceState::Opening { export, waiting, removal }) = self.states.remove(&id) else {
            unreachable!("it is being opened")
        };
        self.opening -= 1;
        let failed = device.is_none();
        let device = Rc::new(device.unwrap_or_else(|| Device::absent(&export)));
        self.moment += 1;
        let open = OpenDevice { device, failed, visitors: 0, idle_since: self.moment, removed: None };
        self.states.insert(id, DeviceState::Open(open));
        EndedOpening { visitors: waiting, removal }
    }

    /// Whether an export was removed, and something of it is still here.
    pub(crate) fn is_leaving(&self, id: ExportId) -> bool {
        match self.states.get(&id) {
            Some(DeviceState::Open(open)) => open.removed.is_some(),
            Some(DeviceState::Opening { removal, .. }) => removal.is_some(),
            None => false,
        }
    }

    /// A visitor of the export is gone, and with it what it held. When it was the last one of an export
    /// that was removed, the device is closed, and whom to tell is given back.
    pub(crate) fn leave(&mut self, id: ExportId) -> Option<Done> {
        let Some(DeviceState::Open(open)) = self.states.get_mut(&id) else {
            unreachable!("a visitor holds its device open")
        };
        open.visitors -= 1;
        self.moment += 1;
        open.idle_since = self.moment;
        let is_over = open.failed || (open.removed.is_some() && !canary!(RemovalForgotten));
        if open.visitors > 0 || !is_over { None } else { self.close(id) }
    }

    /// An export was removed. Its device is closed at once when it has no visitor; then whom to tell is
    /// given back.
    pub(crate) fn remove(&mut self, id: ExportId, how: Removal, done: Done) -> Option<Done> {
        match self.states.get_mut(&id) {
            None => Some(done),
            Some(DeviceState::Opening { removal, .. }) => {
                *removal = Some((how, done));
                None
            }
            Some(DeviceState::Open(open)) => {
                open.removed = Some(done);
                if open.visitors > 0 { None } else { self.close(id) }
            }
        }
    }

    fn close(&mut self, id: ExportId) -> Option<Done> {
        let Some(DeviceState::Open(open)) = self.states.remove(&id) else { return None };
        assert_eq!(Rc::strong_count(&open.device), 1, "a task outlives the visitors of its device");
        open.removed
    }

    /// Whether visitors wait for the device of an export.
    pub(crate) fn is_opening(&self, id: ExportId) -> bool {
        matches!(self.states.get(&id), Some(DeviceState::Opening { .. }))
    }

    /// Whether a visitor waits for its device.
    pub(crate) fn are_opening(&self) -> bool {
        self.opening > 0
    }

    /// The shard ends: the visitors that still wait.
    pub(crate) fn give_up_waiting(&mut self) -> Vec<Visitor> {
        if self.opening == 0 {
            return Vec::new();
        }
        let waiting = self.states.values_mut().map(|state| match state {
            DeviceState::Opening { waiting, .. } => std::mem::take(waiting),
            DeviceState::Open(_) => Vec::new(),
        });
        waiting.flatten().collect()
    }

    /// Those that are open.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.states.values().filter_map(|state| match state {
            DeviceState::Open(open) => Some(&*open.device),
            DeviceState::Opening { .. } => None,
        })
    }

    /// Places that they take among the ring's files.
    #[cfg(feature = "sim")]
    pub(crate) fn files(&self) -> usize {
        self.iter().map(Device::files).sum()
    }

    /// Closes the device that has had no visitor for the longest time, and has files to give back; false
    /// when there is none.
    fn close_idle(&mut self) -> bool {
        let idle = self.states.iter().filter_map(|(id, state)| match state {
            DeviceState::Open(open) if open.visitors == 0 && open.device.files() > 0 => {
                Some((open.idle_since, *id))
            }
            _ => None,
        });
        let oldest = idle.min_by_key(|(idle_since, _)| *idle_since).map(|(_, id)| id);
        oldest.is_some_and(|id| self.states.remove(&id).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::context_with;
    use crate::ring::RingOptions;
    use crate::shard::mailbox::tests::new_connection;

    fn id(index: u32) -> ExportId {
        ExportId { index, generation: 0 }
    }

    fn open(devices: &Devices) -> Vec<u32> {
        let is_open = |state: &DeviceState| matches!(state, DeviceState::Open(_));
        let mut open: Vec<u32> =
            devices.states.iter().filter(|(_, state)| is_open(state)).map(|(id, _)| id.index).collect();
        open.sort_unstable();
        open
    }

    /// A connection comes, and what that leads to is done at once. Whether it got its device.
    fn enter(
        devices: &mut Devices,
        context: &crate::backend::ShardContext,
        id: ExportId,
        export: &Arc<Export>,
    ) -> bool {
        let export = match devices.enter(Visitor::Connection(new_connection(id, export))) {
            DeviceEntry::Open(_, device) => return !device.failed,
            DeviceEntry::First(export) => export,
            DeviceEntry::Waits => panic!("it is opened at once"),
        };
        let device = loop {
            match Device::new(&export, context) {
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                    if devices.make_room(id).is_none() {
                        break None;
                    }
                }
                result => break Some(result.unwrap()),
            }
        };
        let EndedOpening { mut visitors, removal } = devices.opened(id, device);
        assert!(visitors.len() == 1 && removal.is_none());
        match devices.enter(visitors.pop().unwrap()) {
            DeviceEntry::Open(_, device) => !device.failed,
            _ => panic!("it is open"),
        }
    }

    #[test]
    fn idle_devices_make_room_for_others() {
        let directory = tempfile::tempdir().unwrap();
        // Room for three files of two descriptors each.
        let context = context_with(&RingOptions { files: 6, ..RingOptions::small() });
        let exports: Vec<Arc<Export>> = (0..5)
            .map(|number| {
                let path = directory.path().join(number.to_string());
                std::fs::write(&path, [0; 512]).unwrap();
                Arc::new(Export::open(&crate::config::ExportUri::file(&path), false).unwrap())
            })
            .collect();
        let mut devices = Devices::default();
        let enter =
            |devices: &mut Devices, index: u32| enter(devices, &context, id(index), &exports[index as usize]);
        let leave = |devices: &mut Devices, index: u32| assert!(devices.leave(id(index)).is_none());
        (0..3).for_each(|index| assert!(enter(&mut devices, index)));
        assert_eq!(context.ring.registered_files(), 6);
        assert!(!enter(&mut devices, 3), "all have connections");
        assert!(!enter(&mut devices, 3), "it stands there without a device while it has a connection");
        assert_eq!(context.ring.registered_files(), 6, "nothing is left of the one in vain");
        leave(&mut devices, 1);
        leave(&mut devices, 0);
        assert!(enter(&mut devices, 1));
        leave(&mut devices, 1);
        leave(&mut devices, 3);
        leave(&mut devices, 3);
        assert!(enter(&mut devices, 3), "it is tried again");
        assert_eq!(open(&devices), [1, 2, 3], "0 was idle for longer than 1");
        assert!(enter(&mut devices, 4));
        assert_eq!(open(&devices), [2, 3, 4]);
        let told = Arc::new(());
        let done = || -> Done {
            let told = Arc::clone(&told);
            Box::new(move || drop(told))
        };
        assert!(devices.remove(id(0), Removal::AtOnce, done()).is_some(), "it is not open");
        assert!(devices.remove(id(4), Removal::AtOnce, done()).is_none(), "it has a connection");
        assert!(devices.leave(id(4)).is_some(), "and now none");
        assert!(devices.leave(id(3)).is_none());
        assert!(devices.remove(id(3), Removal::AtOnce, done()).is_some(), "it was idle");
        assert_eq!(open(&devices), [2]);
        assert_eq!(context.ring.registered_files(), 2);
        drop(devices);
        assert_eq!(context.ring.registered_files(), 0);
    }

    #[test]
    fn connections_wait_for_a_device_that_is_being_opened() {
        let export = Arc::new(Export::open(&"null:1M".parse().unwrap(), false).unwrap());
        let context = context_with(&RingOptions::small());
        let mut devices = Devices::default();
        let enter =
            |devices: &mut Devices| devices.enter(Visitor::Connection(new_connection(id(0), &export)));
        assert!(matches!(enter(&mut devices), DeviceEntry::First(_)));
        assert!(matches!(enter(&mut devices), DeviceEntry::Waits));
        assert!(devices.are_opening() && devices.iter().count() == 0);
        let told = Arc::new(());
        let done = Arc::clone(&told);
        assert!(devices.remove(id(0), Removal::WhenUnused, Box::new(move || drop(done))).is_none());
        let device = Device::new(&export, &context).unwrap();
        let EndedOpening { visitors, removal } = devices.opened(id(0), Some(device));
        assert!(visitors.len() == 2 && !devices.are_opening());
        assert!(visitors.into_iter().all(|new| matches!(devices.enter(new), DeviceEntry::Open(..))));
        let (how, done) = removal.unwrap();
        assert!(devices.remove(id(0), how, done).is_none());
        assert!(devices.leave(id(0)).is_none());
        drop(devices.leave(id(0)).expect("the last one is gone"));
        assert_eq!(Arc::strong_count(&told), 1);
    }
}
