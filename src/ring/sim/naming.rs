//! Operations on names: when they take effect, and how they fail.

use std::os::fd::{AsRawFd, OwnedFd};

use super::files::SimFile;
use super::handle::{FileId, World};
use super::names::SimNode;
use super::work::{Object, SimNames};
use super::world::WorldState;
use crate::ring::names::{OpenAs, Removed};

/// What a direct descriptor of a file in a directory asks for.
const ALIGNMENT: u32 = 512;

/// A directory of a simulated file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DirectoryId(usize);

impl World {
    /// Makes a directory that is empty and always there.
    pub fn directory(&self) -> DirectoryId {
        DirectoryId(self.state().directories.add())
    }

    /// Opens it: as a server does before it is confined.
    pub fn open_directory(&self, directory: DirectoryId) -> OwnedFd {
        self.state().token(Object::Directory(directory.0))
    }

    /// Puts a directory into another one, which was empty and always there.
    pub fn add_directory(&self, directory: DirectoryId, name: &str) -> DirectoryId {
        let mut state = self.state();
        let number = state.directories.add();
        state.directories.put(directory.0, name.as_bytes(), SimNode::Directory(number));
        DirectoryId(number)
    }

    /// Puts a file into a directory that was always there, with its contents.
    pub fn add_file(&self, directory: DirectoryId, name: &str, content: Vec<u8>) -> FileId {
        let mut state = self.state();
        let file = state.add_file(content);
        state.directories.put(directory.0, name.as_bytes(), SimNode::File(file));
        FileId(file)
    }

    /// The paths of all files below a directory as they are now, in order.
    pub fn files_below(&self, directory: DirectoryId) -> Vec<(String, FileId)> {
        let state = self.state();
        let (mut files, mut todo) = (Vec::new(), vec![(String::new(), directory.0)]);
        while let Some((path, directory)) = todo.pop() {
            for (name, node) in state.directories.list(directory) {
                let path = format!("{path}{}", String::from_utf8_lossy(name));
                match node {
                    SimNode::File(file) => files.push((path, FileId(file))),
                    SimNode::Directory(inner) => todo.push((path + "/", inner)),
                }
            }
        }
        files.sort_by(|(one, _), (other, _)| one.cmp(other));
        files
    }

    /// The names in a directory as they are now, in order, and whether each is a directory's.
    pub fn names(&self, directory: DirectoryId) -> Vec<(String, bool)> {
        let state = self.state();
        let name = |(name, node)| {
            (String::from_utf8_lossy(name).into_owned(), matches!(node, SimNode::Directory(_)))
        };
        state.directories.list(directory.0).map(name).collect()
    }
}

impl WorldState {
    /// A descriptor that is only a number, and what it stands for.
    pub(super) fn token(&mut self, object: Object) -> OwnedFd {
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        let token = rustix::event::eventfd(0, flags).expect("a descriptor can be had");
        self.tokens.insert(token.as_raw_fd(), object);
        token
    }

    /// An empty file that no name stands for.
    pub(super) fn add_file(&mut self, content: Vec<u8>) -> usize {
        self.files.push(SimFile::new(content, None, 1));
        self.files.len() - 1
    }

    /// It takes effect and completes, or fails and has no effect.
    pub(super) fn work_on_names(&mut self, serial: u64, work: &SimNames) {
        let takes_room = match work {
            SimNames::Open { how, .. } => *how == OpenAs::NewFile,
            SimNames::MakeDirectory { .. } | SimNames::Rename { .. } => true,
            SimNames::Remove { .. } | SimNames::Sync { .. } => false,
        };
        if let Some(errno) = self.small_fault().or_else(|| self.large_fault(takes_room)) {
            return self.complete(serial, Err(errno));
        }
        match self.change_names(serial, work) {
            Ok(Some(object)) => self.complete_open(serial, object),
            Ok(None) => self.complete(serial, Ok(0)),
            Err(errno) => self.complete(serial, Err(errno)),
        }
    }

    /// Gives what was opened, if that was asked for.
    pub(super) fn change_names(&mut self, serial: u64, work: &SimNames) -> Result<Option<Object>, i32> {
        match work {
            SimNames::Open { directory, name, how } => {
                return self.open_name(serial, *directory, name, *how).map(Some);
            }
            SimNames::MakeDirectory { directory, name } => {
                self.directories.may_insert(*directory, name)?;
                let node = SimNode::Directory(self.directories.add());
                self.directories.insert(serial, *directory, name, node)?;
            }
            SimNames::Rename { from, to } => {
                self.directories.rename(serial, (from.0, &from.1), (to.0, &to.1))?;
            }
            SimNames::Remove { directory, name, removed } => {
                let wants_directory = *removed == Removed::Directory;
                self.directories.remove(serial, *directory, name, wants_directory)?;
            }
            SimNames::Sync { directory, order } => {
                let (completed, random) = (&self.completed, &mut self.random);
                let luck = random.pick(&[0.0, 0.5, 1.0]);
                self.directories.harden(*directory, |writer| {
                    completed.get(&writer).is_some_and(|end| end < order) || random.chance(luck)
                });
            }
        }
        Ok(None)
    }

    fn open_name(&mut self, serial: u64, directory: usize, name: &[u8], how: OpenAs) -> Result<Object, i32> {
        if how == OpenAs::NewFile {
            self.directories.may_insert(directory, name)?;
            let node = SimNode::File(self.add_file(Vec::new()));
            self.directories.insert(serial, directory, name, node)?;
        }
        match (self.directories.find(directory, name).ok_or(libc::ENOENT)?, how) {
            (SimNode::Directory(number), OpenAs::Directory) => Ok(Object::Directory(number)),
            (SimNode::File(_), OpenAs::Directory) => Err(libc::ENOTDIR),
            (SimNode::Directory(_), OpenAs::Reader) => Err(libc::EINVAL),
            (SimNode::Directory(_), _) => Err(libc::EISDIR),
            (SimNode::File(file), _) => {
                let direct = how == OpenAs::DirectWriter;
                if direct {
                    self.files[file].alignment.get_or_insert(ALIGNMENT);
                }
                Ok(Object::File { file, description: self.files[file].open(direct) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::fd::AsFd;

    use super::*;
    use crate::ring::names::{Directory, FileName};
    use crate::ring::operation::Operation;
    use crate::ring::sim::{Entered, Faults};
    use crate::ring::testing::{finish, ring};
    use crate::ring::{BufferPool, Ring};

    const WORLDS: u64 = 200;
    const SIZE: usize = 8192;

    /// A process in a world with one directory.
    struct Process {
        world: World,
        root: DirectoryId,
        directory: Directory,
        ring: Ring,
        pool: BufferPool,
        _entered: Entered,
    }

    impl Process {
        fn new(seed: u64) -> Self {
            let world = World::new(seed, Faults::none());
            let (_entered, root) = (world.enter(), world.directory());
            let (directory, (ring, pool)) = (Directory::new(world.open_directory(root)), ring());
            Self { world, root, directory, ring, pool, _entered }
        }

        /// Makes a file, lets it grow and fills it.
        async fn make_file(&self, directory: &Directory, name: &str, is_synced: bool) {
            let Self { ring, pool, .. } = self;
            let opened = ring.open_below(directory, named(name), OpenAs::NewFile).await.unwrap();
            let file = ring.register_file(opened.as_fd()).unwrap();
            ring.grow(file, SIZE as u64).await.unwrap();
            assert_eq!(ring.size_of(opened.as_fd()).unwrap(), SIZE as u64);
            let mut lease = pool.lend(SIZE).unwrap();
            lease.bytes_mut(0..SIZE).fill(7);
            let (lease, length) = (lease.freeze(), SIZE as u32);
            let write = Operation::Write { file, offset: 0, lease, start: 0, length, durable: false };
            assert_eq!(ring.run(write).await.0, Ok(length));
            if is_synced {
                assert_eq!(ring.run(Operation::Sync { file, range: None }).await.0, Ok(0));
            }
            ring.release_file(file);
        }

        fn files(&self) -> Vec<(String, Vec<u8>)> {
            let files = self.world.files_below(self.root).into_iter();
            files.map(|(path, file)| (path, self.world.content(file))).collect()
        }
    }

    fn named(text: &str) -> FileName {
        FileName::new(text).unwrap()
    }

    /// What is found after an end, over many worlds: names, sizes, and whether all bytes are there.
    fn endings(act: impl AsyncFn(&Process), end: impl Fn(&World)) -> BTreeSet<Vec<(String, usize, bool)>> {
        let ending = |seed| {
            let process = Process::new(seed);
            finish(&process.ring, act(&process));
            end(&process.world);
            let found = process.files().into_iter();
            found.map(|(path, bytes)| (path, bytes.len(), bytes == [7; SIZE])).collect()
        };
        (1..=WORLDS).map(ending).collect()
    }

    #[test]
    fn a_new_file_survives_when_it_and_all_directories_above_are_synced() {
        let act = |file: bool, inner: bool, outer: bool| {
            async move |process: &Process| {
                let Process { ring, directory, .. } = process;
                ring.make_directory(directory, named("layers")).await.unwrap();
                let layers = ring.open_below(directory, named("layers"), OpenAs::Directory).await;
                let layers = Directory::new(layers.unwrap());
                process.make_file(&layers, "data", file).await;
                if inner {
                    ring.sync_directory(&layers).await.unwrap();
                }
                if outer {
                    ring.sync_directory(directory).await.unwrap();
                }
            }
        };
        let whole = vec![("layers/data".to_owned(), SIZE, true)];
        let all = endings(act(true, true, true), World::power_cut);
        assert_eq!(all, BTreeSet::from([whole.clone()]));
        let any_name = BTreeSet::from([vec![], whole.clone()]);
        assert_eq!(endings(act(true, true, false), World::power_cut), any_name);
        assert_eq!(endings(act(true, false, true), World::power_cut), any_name);
        let any_content = endings(act(false, true, true), World::power_cut);
        let empty = vec![("layers/data".to_owned(), 0, false)];
        let torn = vec![("layers/data".to_owned(), SIZE, false)];
        assert_eq!(any_content, BTreeSet::from([empty, torn, whole.clone()]));
        // The page cache is still there when a process dies.
        assert_eq!(endings(act(false, false, false), World::process_death), BTreeSet::from([whole]));
    }

    #[test]
    fn a_file_that_takes_the_name_of_another_is_there_or_the_other_is() {
        let act = async |process: &Process| {
            let Process { ring, directory, .. } = process;
            process.make_file(directory, "old", true).await;
            ring.sync_directory(directory).await.unwrap();
            let opened = ring.open_below(directory, named("new"), OpenAs::NewFile).await.unwrap();
            drop(opened);
            ring.rename((directory, named("new")), (directory, named("old"))).await.unwrap();
        };
        let (before, after) = (("old".to_owned(), SIZE, true), ("old".to_owned(), 0, false));
        let beside = vec![("new".to_owned(), 0, false), before.clone()];
        let expected = BTreeSet::from([vec![before], beside, vec![after]]);
        assert_eq!(endings(act, World::power_cut), expected);
    }

    /// What was handed to the kernel when the process died may happen.
    #[test]
    fn an_operation_outlives_its_process_or_does_not() {
        let mut found = BTreeSet::new();
        for seed in 1..=WORLDS {
            let process = Process::new(seed);
            let Process { ring, directory, .. } = &process;
            let mut making = Box::pin(ring.make_directory(directory, named("made")));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(making.as_mut().poll(&mut context).is_pending());
            ring.submit_and_reap(crate::ring::Wait::No, 0, &mut Vec::new());
            process.world.process_death();
            found.insert(process.world.names(process.root));
        }
        assert_eq!(found, BTreeSet::from([vec![], vec![("made".to_owned(), true)]]));
    }

    #[test]
    fn what_is_removed_stays_open_and_may_come_back() {
        let act = async |process: &Process| {
            let Process { ring, directory, .. } = process;
            process.make_file(directory, "data", true).await;
            ring.sync_directory(directory).await.unwrap();
            let opened = ring.open_below(directory, named("data"), OpenAs::Reader).await.unwrap();
            ring.remove(directory, named("data"), Removed::File).await.unwrap();
            assert_eq!(ring.size_of(opened.as_fd()).unwrap(), SIZE as u64);
            let gone = ring.open_below(directory, named("data"), OpenAs::Reader).await;
            assert_eq!(gone.unwrap_err().raw_os_error(), Some(libc::ENOENT));
        };
        let there = vec![("data".to_owned(), SIZE, true)];
        assert_eq!(endings(act, World::power_cut), BTreeSet::from([vec![], there]));
    }

    /// With faults each operation is done or reports an error, and a world repeats.
    #[test]
    fn faults_are_reported() {
        let run = |seed: u64| {
            let process = Process::new(seed);
            process.world.set_faults(Faults { io_error: 0.2, no_space: 0.2, again: 0.5, ..Faults::none() });
            let Process { ring, directory, world, root, .. } = &process;
            let mut expected = Vec::new();
            finish(ring, async {
                for index in 0..8 {
                    let text = format!("{index}");
                    match ring.make_directory(directory, named(&text)).await {
                        Ok(()) => expected.push((text, true)),
                        Err(error) => {
                            assert!(matches!(error.raw_os_error(), Some(libc::EIO | libc::ENOSPC)))
                        }
                    }
                }
            });
            assert_eq!(world.names(*root), expected, "world {seed}");
            (expected, world.trace())
        };
        let all: BTreeSet<_> = (1..=WORLDS).map(|seed| run(seed).0).collect();
        assert!(all.len() > 10, "faults differ");
        assert_eq!(run(1), run(1));
    }
}
