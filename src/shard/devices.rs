//! The devices that a shard has open. Each is opened when a first connection needs it; an idle one stays open, for the next connection, until
//! its place among the ring's files is needed for another.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use crate::backend::{Device, Export, ExportId, ShardContext};
use crate::shard::mailbox::Done;

/// Devices by export.
#[derive(Default)]
pub(super) struct Devices {
    open: HashMap<ExportId, Open>,
    /// Counts the moments at which a device became idle.
    moment: u64,
}

struct Open {
    device: Rc<Device>,
    connections: usize,
    /// When the last connection went; means nothing while there is one.
    idle_since: u64,
    /// The export was removed: called when the last connection is gone.
    removed: Option<Done>,
}

impl Devices {
    /// The device of an export, for one more connection.
    ///
    /// # Errors
    /// The kernel's; `EMFILE` when each place for a file is taken by a device that has connections.
    pub(super) fn enter(
        &mut self,
        id: ExportId,
        export: &Export,
        context: &ShardContext,
    ) -> io::Result<Rc<Device>> {
        if let Some(open) = self.open.get_mut(&id) {
            assert!(open.removed.is_none(), "no connection comes after the order to remove its export");
            open.connections += 1;
            return Ok(Rc::clone(&open.device));
        }
        let device = loop {
            match Device::new(export, context) {
                Ok(device) => break Rc::new(device),
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) && self.drop_idle() => {}
                Err(error) => return Err(error),
            }
        };
        let open = Open { device: Rc::clone(&device), connections: 1, idle_since: 0, removed: None };
        self.open.insert(id, open);
        Ok(device)
    }

    /// A connection of the export is gone, and with it what it held. When it was the last one of an export that was removed, the device is
    /// closed, and whom to tell is given back.
    pub(super) fn leave(&mut self, id: ExportId) -> Option<Done> {
        let open = self.open.get_mut(&id).expect("a connection holds its device open");
        open.connections -= 1;
        self.moment += 1;
        open.idle_since = self.moment;
        if open.connections > 0 || open.removed.is_none() || canary!(RemovalForgotten) {
            return None;
        }
        self.close(id)
    }

    /// An export was removed. Its device is closed at once when it has no connection; then whom to tell is given back.
    pub(super) fn remove(&mut self, id: ExportId, done: Done) -> Option<Done> {
        let Some(open) = self.open.get_mut(&id) else { return Some(done) };
        open.removed = Some(done);
        if open.connections > 0 { None } else { self.close(id) }
    }

    fn close(&mut self, id: ExportId) -> Option<Done> {
        let open = self.open.remove(&id)?;
        assert_eq!(Rc::strong_count(&open.device), 1, "a task outlives the connections of its device");
        open.removed
    }

    /// Those that are open.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.open.values().map(|open| &*open.device)
    }

    /// Places that they take among the ring's files.
    #[cfg(feature = "sim")]
    pub(super) fn files(&self) -> usize {
        self.iter().map(Device::files).sum()
    }

    /// Gives up the device that has had no connection for the longest time, and has files to give back; false when there is none.
    fn drop_idle(&mut self) -> bool {
        let is_idle = |open: &Open| open.connections == 0 && open.device.files() > 0;
        let idle = self.open.iter().filter(|(_, open)| is_idle(open));
        let oldest = idle.min_by_key(|(_, open)| open.idle_since).map(|(id, _)| *id);
        oldest.is_some_and(|id| self.open.remove(&id).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::context_with;
    use crate::ring::RingOptions;

    #[test]
    fn idle_devices_make_room_for_others() {
        let directory = tempfile::tempdir().unwrap();
        // Room for three files of two descriptors each.
        let context = context_with(&RingOptions { files: 6, ..RingOptions::small() });
        let exports: Vec<Export> = (0..5)
            .map(|number| {
                let path = directory.path().join(number.to_string());
                std::fs::write(&path, [0; 512]).unwrap();
                Export::open(&crate::config::ExportUri::file(&path), false).unwrap()
            })
            .collect();
        let id = |index: u32| ExportId { index, generation: 0 };
        let mut devices = Devices::default();
        let enter = |devices: &mut Devices, index: u32| {
            devices.enter(id(index), &exports[index as usize], &context).map(drop)
        };
        let open = |devices: &Devices| {
            let mut open: Vec<u32> = devices.open.keys().map(|id| id.index).collect();
            open.sort_unstable();
            open
        };
        (0..3).for_each(|index| enter(&mut devices, index).unwrap());
        assert_eq!(context.ring.registered_files(), 6);
        let full = enter(&mut devices, 3).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::EMFILE), "all have connections");
        assert_eq!(context.ring.registered_files(), 6, "nothing is left of the one in vain");
        let leave = |devices: &mut Devices, index: u32| assert!(devices.leave(id(index)).is_none());
        leave(&mut devices, 1);
        leave(&mut devices, 0);
        enter(&mut devices, 1).unwrap();
        leave(&mut devices, 1);
        enter(&mut devices, 3).unwrap();
        assert_eq!(open(&devices), [1, 2, 3], "0 was idle for longer than 1");
        enter(&mut devices, 4).unwrap();
        assert_eq!(open(&devices), [2, 3, 4]);
        let told = std::sync::Arc::new(());
        let done = || -> Done {
            let told = std::sync::Arc::clone(&told);
            Box::new(move || drop(told))
        };
        assert!(devices.remove(id(0), done()).is_some(), "it is not open");
        assert!(devices.remove(id(4), done()).is_none(), "it has a connection");
        assert!(devices.leave(id(4)).is_some(), "and now none");
        assert!(devices.leave(id(3)).is_none());
        assert!(devices.remove(id(3), done()).is_some(), "it was idle");
        assert_eq!(open(&devices), [2]);
        assert_eq!(context.ring.registered_files(), 2);
        drop(devices);
        assert_eq!(context.ring.registered_files(), 0);
    }
}
