//! What a power cut takes away of a directory: all that was not synced, by sector and by name.
//!
//! A store is a real directory. What is done to it is told here before it is done
//! ([`file_changes`](crate::store::file_changes)), so it is known what no cut takes away: of a file what was
//! synced, of a directory the names that were. Of what came since, any parts are there after a cut: sectors
//! of writes, lengths, and changes of names, of which those of one name stay in their order. A name that has
//! moved has moved in both directories or in none.

mod database;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, fstat, statat};
use rustix::io::Errno;
use uuid::Uuid;

pub(in crate::store) use self::database::{NotedDatabase, leave_databases_in_files};
use crate::random::Random;
use crate::store::file_changes::FileChange;

const SECTOR: u64 = 512;
const PAGE: usize = 4096;
/// When worlds begin, in seconds since 1970.
const FIRST_SECOND: u64 = 1_700_000_000;
/// How often somebody asks in one second what time it is.
const ASKED_A_SECOND: u64 = 4;
/// What nobody relies on.
const IGNORED: [&str; 3] = ["lock", "reserve", "control"];

/// Bytes of a file; a page that is not there is zeroes.
#[derive(Debug, Clone, Default)]
struct SparseBytes {
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
    length: u64,
}

impl SparseBytes {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let place = offset + at as u64;
            let (page, within) = (place / PAGE as u64, (place % PAGE as u64) as usize);
            let length = (PAGE - within).min(bytes.len() - at);
            let page = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE]));
            page[within..within + length].copy_from_slice(&bytes[at..at + length]);
            at += length;
        }
        self.length = self.length.max(offset + bytes.len() as u64);
    }

    fn set_length(&mut self, length: u64) {
        if length < self.length {
            let (page, within) = (length / PAGE as u64, (length % PAGE as u64) as usize);
            self.pages.split_off(&length.div_ceil(PAGE as u64));
            if let Some(page) = self.pages.get_mut(&page) {
                page[within..].fill(0);
            }
        }
        self.length = length;
    }

    fn of(file: &File) -> Self {
        let mut found = Self { length: file.metadata().unwrap().len(), ..Self::default() };
        let mut all = vec![0; found.length.next_multiple_of(PAGE as u64) as usize];
        file.read_exact_at(&mut all[..found.length as usize], 0).unwrap();
        for (page, bytes) in (0..).zip(all.chunks_exact(PAGE)) {
            let bytes: &[u8; PAGE] = bytes.try_into().expect("a page");
            if *bytes != [0; PAGE] {
                found.pages.insert(page, Box::new(*bytes));
            }
        }
        found
    }

    fn put_into(&self, file: &File) {
        file.set_len(self.length).unwrap();
        for (page, bytes) in &self.pages {
            let start = page * PAGE as u64;
            let length = (self.length.saturating_sub(start)).min(PAGE as u64) as usize;
            file.write_all_at(&bytes[..length], start).unwrap();
        }
    }

    fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length as usize];
        for (page, contents) in &self.pages {
            let start = *page as usize * PAGE;
            let end = bytes.len().min(start + PAGE);
            bytes[start..end].copy_from_slice(&contents[..end - start]);
        }
        bytes
    }

    fn is_equal(&self, other: &Self) -> bool {
        let zeroes = Box::new([0; PAGE]);
        let numbers: BTreeSet<u64> = self.pages.keys().chain(other.pages.keys()).copied().collect();
        let is_equal = |number| {
            let [one, other] = [self, other].map(|of| of.pages.get(&number).unwrap_or(&zeroes));
            one == other
        };
        self.length == other.length && numbers.into_iter().all(is_equal)
    }
}

#[derive(Debug, Clone)]
enum PendingBytes {
    Write(u64, Vec<u8>),
    Length(u64),
}

/// A file: what no cut takes away, and what came since.
#[derive(Debug, Default)]
struct NotedFile {
    durable: SparseBytes,
    pending: Vec<PendingBytes>,
    /// All that a process reads of it, if that is not in the file itself.
    memory: Option<Vec<u8>>,
}

impl NotedFile {
    fn of(durable: SparseBytes) -> Self {
        Self { durable, pending: Vec::new(), memory: None }
    }

    /// Its bytes are in memory from now on.
    fn move_to_memory(&mut self) {
        if self.memory.is_none() {
            self.memory = Some(self.with(|| true).to_vec());
        }
    }

    fn in_memory(&self) -> &[u8] {
        self.memory.as_deref().expect("it was moved there")
    }

    fn change(&mut self, change: PendingBytes) {
        if let Some(memory) = &mut self.memory {
            match &change {
                PendingBytes::Length(length) => memory.resize(*length as usize, 0),
                PendingBytes::Write(offset, bytes) => {
                    let end = *offset as usize + bytes.len();
                    memory.resize(memory.len().max(end), 0);
                    memory[*offset as usize..end].copy_from_slice(bytes);
                }
            }
        }
        self.pending.push(change);
    }

    /// The bytes with those parts of what is pending that are kept.
    fn with(&self, mut keep: impl FnMut() -> bool) -> SparseBytes {
        let mut bytes = self.durable.clone();
        for pending in &self.pending {
            match pending {
                PendingBytes::Length(length) => {
                    if keep() {
                        bytes.set_length(*length);
                    }
                }
                PendingBytes::Write(offset, written) => {
                    let (mut at, end) = (*offset, offset + written.len() as u64);
                    while at < end {
                        let next = ((at / SECTOR + 1) * SECTOR).min(end);
                        if keep() {
                            bytes.write(at, &written[(at - offset) as usize..(next - offset) as usize]);
                        }
                        at = next;
                    }
                }
            }
        }
        bytes
    }

    fn sync(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            match pending {
                PendingBytes::Length(length) => self.durable.set_length(length),
                PendingBytes::Write(offset, bytes) => self.durable.write(offset, &bytes),
            }
        }
    }
}

type Names = BTreeMap<String, usize>;

#[derive(Debug, Default)]
struct NotedDirectory {
    durable: Names,
    now: Names,
}

#[derive(Debug)]
enum NotedNode {
    File(NotedFile),
    Directory(NotedDirectory),
}

/// What names lead to from now on, all at once: directory, name, and the node if there is one.
type NameChange = Vec<(usize, String, Option<usize>)>;

/// A directory whose changes are noted.
#[derive(Debug)]
struct NotedTree {
    nodes: Vec<NotedNode>,
    by_inode: HashMap<(u64, u64), usize>,
    /// Changes of names that are not durable, in order.
    names: Vec<NameChange>,
    /// Changes so far.
    steps: u64,
    /// The step before which the power goes, or the process.
    end_at: u64,
    is_full: bool,
    /// While somebody looks: files that were written by that. Nothing else becomes durable.
    looked_at: Option<BTreeSet<usize>>,
    uuids: Random,
    /// How often somebody has asked what time it is.
    asked_time: u64,
    /// No other tree of this thread has it.
    serial: u64,
}

thread_local! {
    static NOTED: RefCell<Option<NotedTree>> = const { RefCell::new(None) };
    static TREES: Cell<u64> = const { Cell::new(0) };
}

/// What a change leads to that is told of.
pub(in crate::store) fn told<T, E: From<Errno>>(
    change: FileChange<'_>,
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let number =
        NOTED.with_borrow(|noted| noted.as_ref().and_then(|noted| noted.number(what_changes(&change))));
    told_of(number, change, call)
}

/// The same of a file or directory that was found.
fn told_of<T, E: From<Errno>>(
    number: Option<usize>,
    change: FileChange<'_>,
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    // What is elsewhere is nobody's business.
    let Some(number) = number else { return call() };
    NOTED.with_borrow_mut(|noted| noted.as_mut().map_or(Ok(()), |noted| noted.before(&change)))?;
    let done = call()?;
    NOTED.with_borrow_mut(|noted| noted.iter_mut().for_each(|noted| noted.after(number, &change)));
    Ok(done)
}

/// The file, or the directory of the names.
fn what_changes<'a>(change: &FileChange<'a>) -> BorrowedFd<'a> {
    match *change {
        FileChange::Write(file, ..) => file.as_fd(),
        FileChange::Length(of, _) | FileChange::Sync(of) => of,
        FileChange::Make(at, _) | FileChange::Remove(at, _) => at,
        FileChange::Rename((at, _), _) | FileChange::Link(_, (at, _)) => at,
    }
}

pub(in crate::store) fn is_told() -> bool {
    NOTED.with_borrow(Option::is_some)
}

/// While changes are noted, uuids come from a seed too.
pub(in crate::store) fn seeded_uuid() -> Option<Uuid> {
    NOTED.with_borrow_mut(|noted| {
        let random = &mut noted.as_mut()?.uuids;
        let mut bytes = [0; 16];
        random.fill(&mut bytes);
        Some(uuid::Builder::from_random_bytes(bytes).into_uuid())
    })
}

/// And so does the time: rows that are sorted by it have the same order in every run.
pub(in crate::store) fn seeded_time_s() -> Option<u64> {
    NOTED.with_borrow_mut(|noted| {
        let asked = &mut noted.as_mut()?.asked_time;
        *asked += 1;
        Some(FIRST_SECOND + *asked / ASKED_A_SECOND)
    })
}

fn inode(of: BorrowedFd<'_>) -> (u64, u64) {
    let status = fstat(of).unwrap();
    (status.st_dev, status.st_ino)
}

impl NotedTree {
    fn new(uuids: Random) -> Self {
        let (nodes, by_inode, names) = Default::default();
        let (steps, end_at, is_full) = (0, u64::MAX, false);
        let serial = TREES.get() + 1;
        TREES.set(serial);
        Self { nodes, by_inode, names, steps, end_at, is_full, looked_at: None, uuids, asked_time: 0, serial }
    }

    /// All of a directory, which is durable.
    fn of(path: &Path, uuids: Random) -> Self {
        let mut tree = Self::new(uuids);
        tree.take_in(path);
        tree
    }

    fn add(&mut self, inode: (u64, u64), node: NotedNode) -> usize {
        self.nodes.push(node);
        self.by_inode.insert(inode, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn take_in(&mut self, path: &Path) -> usize {
        let metadata = fs::metadata(path).unwrap();
        let inode = (metadata.dev(), metadata.ino());
        if metadata.is_file() {
            let durable = SparseBytes::of(&File::open(path).unwrap());
            return self.add(inode, NotedNode::File(NotedFile::of(durable)));
        }
        let number = self.add(inode, NotedNode::Directory(NotedDirectory::default()));
        let mut names = Names::new();
        for entry in fs::read_dir(path).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            names.insert(name.clone(), self.take_in(&path.join(name)));
        }
        let directory = NotedDirectory { durable: names.clone(), now: names };
        self.nodes[number] = NotedNode::Directory(directory);
        number
    }

    fn number(&self, of: BorrowedFd<'_>) -> Option<usize> {
        self.by_inode.get(&inode(of)).copied()
    }

    fn file(&mut self, number: usize) -> &mut NotedFile {
        match &mut self.nodes[number] {
            NotedNode::File(file) => file,
            NotedNode::Directory(_) => panic!("a directory has no bytes"),
        }
    }

    fn directory(&self, number: usize) -> &NotedDirectory {
        match &self.nodes[number] {
            NotedNode::Directory(directory) => directory,
            NotedNode::File(_) => panic!("a file has no names"),
        }
    }

    fn names_of(&mut self, number: usize) -> &mut NotedDirectory {
        match &mut self.nodes[number] {
            NotedNode::Directory(directory) => directory,
            NotedNode::File(_) => panic!("a file has no names"),
        }
    }

    /// Whether a change of this directory can be made: there is power and room.
    fn before(&mut self, change: &FileChange<'_>) -> Result<(), Errno> {
        let needs_room = match change {
            FileChange::Write(..) | FileChange::Make(..) | FileChange::Link(..) | FileChange::Length(..) => {
                true
            }
            FileChange::Sync(_) | FileChange::Remove(..) | FileChange::Rename(..) => false,
        };
        if self.looked_at.is_some() {
            return Ok(());
        }
        if self.steps >= self.end_at {
            return Err(Errno::IO);
        }
        self.steps += 1;
        if self.is_full && needs_room { Err(Errno::NOSPC) } else { Ok(()) }
    }

    fn after(&mut self, number: usize, change: &FileChange<'_>) {
        if !self.counts(number, change) {
            return;
        }
        match *change {
            FileChange::Write(_, offset, bytes) => {
                self.file(number).change(PendingBytes::Write(offset, bytes.to_vec()));
            }
            FileChange::Length(_, length) => self.file(number).change(PendingBytes::Length(length)),
            FileChange::Sync(_) => match &mut self.nodes[number] {
                NotedNode::File(file) => file.sync(),
                NotedNode::Directory(_) => self.sync_names(number),
            },
            FileChange::Make(at, name) => self.made(number, at, name),
            FileChange::Rename((_, old), (to, new)) => {
                let Some(to) = self.number(to) else { return };
                let moved = self.directory(number).now[old];
                self.change_names(vec![(number, old.to_owned(), None), (to, new.to_owned(), Some(moved))]);
            }
            FileChange::Link((from, old), (_, new)) => {
                let Some(from) = self.number(from) else { return };
                let linked = self.directory(from).now[old];
                self.change_names(vec![(number, new.to_owned(), Some(linked))]);
            }
            FileChange::Remove(_, name) => self.change_names(vec![(number, name.to_owned(), None)]),
        }
    }

    /// Whoever looks may finish what was begun, and syncs that. Other syncs of his are those of a reader,
    /// and a store must not rely on readers.
    fn counts(&mut self, number: usize, change: &FileChange<'_>) -> bool {
        match (&mut self.looked_at, change) {
            (None, _) => true,
            (Some(written), FileChange::Sync(_)) => written.contains(&number),
            (Some(written), FileChange::Write(..) | FileChange::Length(..)) => {
                written.insert(number);
                true
            }
            (Some(_), _) => panic!("whoever looks changes names"),
        }
    }

    fn made(&mut self, number: usize, at: BorrowedFd<'_>, name: &str) {
        if let Some(there) = self.directory(number).now.get(name).copied() {
            let status = statat(at, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            // Opened with O_TRUNC, or only opened.
            if status.st_size == 0 {
                self.file(there).change(PendingBytes::Length(0));
            }
            return;
        }
        let status = statat(at, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let node = match rustix::fs::FileType::from_raw_mode(status.st_mode).is_dir() {
            true => NotedNode::Directory(NotedDirectory::default()),
            false => NotedNode::File(NotedFile::default()),
        };
        let made = self.add((status.st_dev, status.st_ino), node);
        self.change_names(vec![(number, name.to_owned(), Some(made))]);
    }

    fn change_names(&mut self, change: NameChange) {
        for (directory, name, node) in &change {
            let now = &mut self.names_of(*directory).now;
            match node {
                Some(node) => now.insert(name.clone(), *node),
                None => now.remove(name),
            };
        }
        self.names.push(change);
    }

    /// Changes of names of a directory are durable, and those of the same names before them.
    fn sync_names(&mut self, directory: usize) {
        let mut touched: BTreeSet<(usize, String)> = BTreeSet::new();
        let names = std::mem::take(&mut self.names);
        let mut kept = Vec::new();
        for change in names.into_iter().rev() {
            let is_durable =
                change.iter().any(|(at, name, _)| *at == directory || touched.contains(&(*at, name.clone())));
            if is_durable {
                touched.extend(change.iter().map(|(at, name, _)| (*at, name.clone())));
            }
            kept.push((is_durable, change));
        }
        for (is_durable, change) in kept.into_iter().rev() {
            if !is_durable {
                self.names.push(change);
                continue;
            }
            self.keep_names(change);
        }
    }

    /// Writes what is there after a power cut into a new directory, all of which is durable.
    fn put_after_cut(&mut self, path: &Path, random: &mut Random) -> Self {
        let probability = random.pick(&[0.0, 0.2, 0.5, 0.9, 1.0]);
        for change in std::mem::take(&mut self.names) {
            if random.chance(probability) {
                self.keep_names(change);
            }
        }
        let mut after = Self::new(self.uuids.clone());
        after.asked_time = self.asked_time;
        self.put(0, path, random, &mut after);
        after
    }

    fn keep_names(&mut self, change: NameChange) {
        for (at, name, node) in change {
            let durable = &mut self.names_of(at).durable;
            match node {
                Some(node) => durable.insert(name, node),
                None => durable.remove(&name),
            };
        }
    }

    fn put(&self, number: usize, path: &Path, random: &mut Random, after: &mut Self) -> usize {
        match &self.nodes[number] {
            NotedNode::File(noted) => {
                let probability = random.pick(&[0.0, 0.2, 0.5, 0.9, 1.0]);
                let durable = noted.with(|| random.chance(probability));
                let file = File::create(path).unwrap();
                let mut left = NotedFile::of(durable);
                match noted.memory {
                    Some(_) => {
                        file.set_len(left.durable.length).unwrap();
                        left.move_to_memory();
                    }
                    None => left.durable.put_into(&file),
                }
                after.add(inode(file.as_fd()), NotedNode::File(left))
            }
            NotedNode::Directory(directory) => {
                fs::create_dir(path).unwrap();
                let metadata = fs::metadata(path).unwrap();
                let inode = (metadata.dev(), metadata.ino());
                let added = after.add(inode, NotedNode::Directory(NotedDirectory::default()));
                let put = |(name, node): (&String, &usize)| {
                    (name.clone(), self.put(*node, &path.join(name), random, after))
                };
                let names: Names = directory.durable.iter().map(put).collect();
                after.nodes[added] =
                    NotedNode::Directory(NotedDirectory { durable: names.clone(), now: names });
                added
            }
        }
    }

    /// A file goes without anybody's doing.
    fn lose(&mut self, name: &str) {
        let root = self.names_of(0);
        root.durable.remove(name);
        root.now.remove(name);
    }

    /// What is there is what was told of: otherwise something is changed and not told.
    fn check(&self, number: usize, path: &Path) {
        let NotedNode::Directory(directory) = &self.nodes[number] else {
            let NotedNode::File(noted) = &self.nodes[number] else { unreachable!() };
            let all = noted.with(|| true);
            let is_told = match &noted.memory {
                Some(memory) => *memory == all.to_vec(),
                None => SparseBytes::of(&File::open(path).unwrap()).is_equal(&all),
            };
            assert!(is_told, "{}: changed, and not told", path.display());
            return;
        };
        let names =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let found: BTreeSet<String> = names.collect();
        let expected: BTreeSet<String> = directory.now.keys().cloned().collect();
        assert_eq!(found, expected, "{}: names have changed, and were not told", path.display());
        for (name, node) in &directory.now {
            if !IGNORED.contains(&&**name) {
                self.check(*node, &path.join(name));
            }
        }
    }
}

fn with_noted<T>(call: impl FnOnce(&mut NotedTree) -> T) -> T {
    NOTED.with_borrow_mut(|noted| call(noted.as_mut().expect("changes are noted")))
}

/// Notes what this thread changes of a directory, until this is dropped.
#[derive(Debug)]
pub(super) struct Power(());

impl Power {
    /// All of the directory is durable now.
    pub(super) fn on(path: &Path, uuids: Random) -> Self {
        NOTED.set(Some(NotedTree::of(path, uuids)));
        Self(())
    }

    /// Changes so far.
    pub(super) fn steps(&self) -> u64 {
        with_noted(|noted| noted.steps)
    }

    /// No change is made after so many more.
    pub(super) fn end_after(&self, steps: u64) {
        with_noted(|noted| noted.end_at = noted.steps.saturating_add(steps));
    }

    /// Whether changes are made no more.
    pub(super) fn is_off(&self) -> bool {
        with_noted(|noted| noted.steps >= noted.end_at)
    }

    /// The disk has room for nothing new, or has again.
    pub(super) fn set_full(&self, is_full: bool) {
        with_noted(|noted| noted.is_full = is_full);
    }

    /// Somebody looks, or has looked.
    pub(super) fn set_looked_at(&self, is_looked_at: bool) {
        with_noted(|noted| noted.looked_at = is_looked_at.then(BTreeSet::new));
    }

    /// After the end of the process: changes are made again, and what was not synced is in memory.
    pub(super) fn goes_on(&self) {
        with_noted(|noted| noted.end_at = u64::MAX);
    }

    /// After a power cut: what is there, as a directory `to`, of which all is durable. `lost` is a name in it
    /// that goes too.
    pub(super) fn cut(&self, to: &Path, random: &mut Random, lost: Option<&str>) {
        let mut after = with_noted(|noted| noted.put_after_cut(to, random));
        if let Some(lost) = lost
            && fs::remove_file(to.join(lost)).is_ok()
        {
            after.lose(lost);
        }
        NOTED.set(Some(after));
    }

    /// All that was changed was told.
    pub(super) fn check(&self, path: &Path) {
        with_noted(|noted| noted.check(0, path));
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        NOTED.set(None);
    }
}
