//! What clients of a remote export ask, and whether what they are told can be true.
//!
//! Each client has blocks of its own, and one change at a time in each. A WRITE fills its block with a version, which only grows. The
//! oracle is the file of the far server, and what was promised of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::wire::{self, FLUSH, Form, OFFSET_DATA, OFFSET_HOLE, READ, Reply, Stream, WRITE};
use ringnbd::internal::ring::sim::{FileId, Random, SocketId, World};

pub(crate) const BLOCK: u64 = 4096;
/// Blocks of one client.
pub(crate) const BLOCKS: u64 = 4;

#[derive(Debug, Clone, Copy)]
struct AskedRemote {
    command: u16,
    block: u64,
    /// Of a WRITE what it writes, of a READ the least that it must see.
    version: u64,
    /// Changes that had been heard of when it was asked.
    heard: usize,
}

/// What is known of the blocks of the export.
pub(crate) struct Promises {
    file: FileId,
    /// By block: the version that was answered and that no crash has taken, and the one that must be durable.
    answered: Vec<u64>,
    durable: Vec<u64>,
    versions: u64,
}

impl Promises {
    pub(crate) fn new(file: FileId, blocks: u64) -> Self {
        Self { file, answered: vec![0; blocks as usize], durable: vec![0; blocks as usize], versions: 0 }
    }

    /// The oldest version of which the far server has something in a block.
    fn oldest(&self, world: &World, block: u64) -> u64 {
        let content = world.content(self.file);
        let bytes = &content[(block * BLOCK) as usize..((block + 1) * BLOCK) as usize];
        words(bytes).min().expect("a block is not empty")
    }

    /// Whether all that was promised is there. `is_crash`: what was answered and is gone is known to be gone from now on.
    pub(crate) fn check(&mut self, world: &World, is_crash: bool) -> Result<(), String> {
        for block in 0..self.answered.len() {
            let there = self.oldest(world, block as u64);
            if there < self.durable[block] {
                let promised = self.durable[block];
                return Err(format!(
                    "a FLUSH succeeded, and of block {block} {there} is there, not {promised}"
                ));
            }
            if is_crash {
                self.answered[block] = self.answered[block].min(there);
            }
        }
        Ok(())
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
}

pub(crate) struct RemoteClient {
    pub(crate) socket: SocketId,
    first_block: u64,
    asked: BTreeMap<u64, AskedRemote>,
    /// Bytes of a READ that came, by cookie.
    read: BTreeMap<u64, Vec<u8>>,
    next: u64,
    outgoing: Stream,
    incoming: Stream,
    /// Changes that were answered: block and version.
    owed: Vec<(u64, u64)>,
    /// FLUSHes that failed.
    pub(crate) failed_flushes: u64,
    /// When requests failed, and when some succeeded last.
    pub(crate) failed_at: Option<Duration>,
    pub(crate) succeeded_at: Duration,
    pub(crate) answered: u64,
}

impl RemoteClient {
    pub(crate) fn new(socket: SocketId, number: u64) -> Self {
        let (asked, read, outgoing, incoming, owed) = Default::default();
        let (failed_flushes, failed_at, succeeded_at, answered) = Default::default();
        let (first_block, next) = (number * BLOCKS, 1);
        Self {
            socket,
            first_block,
            asked,
            read,
            next,
            outgoing,
            incoming,
            owed,
            failed_flushes,
            failed_at,
            succeeded_at,
            answered,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    pub(crate) fn describe(&self) -> String {
        format!("{:?}", self.asked)
    }

    pub(crate) fn ask(&mut self, random: &mut Random, promises: &mut Promises) {
        let block = self.first_block + random.below(BLOCKS);
        let command = random.pick(&[WRITE, WRITE, READ, FLUSH]);
        let is_busy = |asked: &AskedRemote| match command {
            FLUSH => asked.command == FLUSH,
            _ => asked.command != FLUSH && asked.block == block,
        };
        if self.asked.values().any(is_busy) {
            return;
        }
        let version = if command == READ {
            promises.answered[block as usize]
        } else {
            promises.versions += 1;
            promises.versions
        };
        let (cookie, heard) = (self.next, self.owed.len());
        self.next += 1;
        self.asked.insert(cookie, AskedRemote { command, block, version, heard });
        let (offset, length) = if command == FLUSH { (0, 0) } else { (block * BLOCK, BLOCK) };
        self.outgoing.push(&wire::request(Form::Extended, 0, command, cookie, offset, length));
        if command == WRITE {
            self.outgoing.push(&version.to_le_bytes().repeat(BLOCK as usize / 8));
        }
    }

    /// Sends what it has, and hears what there is.
    pub(crate) fn exchange(&mut self, world: &World, promises: &mut Promises) -> Result<(), String> {
        let taken = world.client_send(self.socket, &self.outgoing);
        self.outgoing.take(taken);
        self.incoming.push(&world.client_receive(self.socket, 1 << 20));
        while let Some(reply) = wire::next(Form::Extended, &mut self.incoming)? {
            let Reply::Chunk { cookie, done, kind, payload, .. } = reply else {
                return Err("a reply in another form".into());
            };
            let asked = *self.asked.get(&cookie).ok_or("a reply to nothing that was asked")?;
            match kind {
                OFFSET_DATA => drop(self.read.insert(cookie, payload[8..].to_vec())),
                OFFSET_HOLE => drop(self.read.insert(cookie, vec![0; BLOCK as usize])),
                _ => {}
            }
            if done {
                self.asked.remove(&cookie);
                self.judge(asked, (cookie, kind & 0x8000 != 0), world, promises)?;
            }
        }
        match world.client_is_at_end(self.socket) {
            true => Err("the server hung up".into()),
            false => Ok(()),
        }
    }

    fn judge(
        &mut self,
        asked: AskedRemote,
        (cookie, has_failed): (u64, bool),
        world: &World,
        promises: &mut Promises,
    ) -> Result<(), String> {
        let block = asked.block as usize;
        self.answered += 1;
        if has_failed {
            match asked.command {
                FLUSH => self.failed_flushes += 1,
                // It was done, or not, and never will be.
                WRITE => promises.answered[block] = promises.oldest(world, asked.block),
                _ => {}
            }
            if asked.command != FLUSH {
                self.failed_at = Some(world.now());
            }
            // It was told.
            if asked.command == FLUSH {
                self.owed.clear();
            }
            return Ok(());
        }
        self.succeeded_at = world.now();
        match asked.command {
            WRITE => {
                // If it was done before a crash, that may have taken it, and this is its late reply.
                promises.answered[block] = asked.version.min(promises.oldest(world, asked.block));
                self.owed.push((asked.block, asked.version));
                Ok(())
            }
            FLUSH => {
                for (block, version) in self.owed.iter().take(asked.heard) {
                    let durable = &mut promises.durable[*block as usize];
                    *durable = version.max(durable).to_owned();
                }
                promises.check(world, false)
            }
            _ => {
                let bytes = self.read.remove(&cookie).ok_or("a READ without data")?;
                let least = asked.version.min(promises.answered[block]);
                let (oldest, newest) = (words(&bytes).min(), words(&bytes).max());
                match (oldest, newest) {
                    (Some(oldest), Some(newest)) if oldest >= least && newest <= promises.versions => Ok(()),
                    _ => Err(format!("block {block} reads {oldest:?}..{newest:?}, and {least} was answered")),
                }
            }
        }
    }
}
