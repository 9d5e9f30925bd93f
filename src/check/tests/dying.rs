//! The mutant can be killed: what was not made durable is taken back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::Dialer;
use super::super::durability::KillableServer;
use super::bugs::Bug;
use super::mutant::{Client, World, listen};
use super::serving::Order;
use crate::nbd::wire::*;

/// A change that is not durable: what was there before.
struct Undo {
    client: u32,
    cookie: u64,
    offset: usize,
    before: Vec<u8>,
}

/// Changes that are not durable, oldest first.
#[derive(Default)]
pub(super) struct Unsynced {
    /// Somebody will kill it.
    is_kept: bool,
    undos: Vec<Undo>,
    /// Those that were there at the last FLUSH.
    at_last_flush: usize,
}

impl Client {
    /// Notes a change, and makes durable what it makes so. False when it is not to be done.
    pub(super) fn note(&self, order: &Order, disk: &[u8]) -> bool {
        if self.life != self.world.deaths.load(Ordering::SeqCst) {
            return false;
        }
        let mut unsynced = self.world.unsynced.lock().unwrap();
        if self.has(Bug::WriteForgotten) && order.command == NBD_CMD_WRITE && order.cookie.is_multiple_of(61)
        {
            return false;
        }
        if !unsynced.is_kept {
            return true;
        }
        let (start, length) = (order.offset as usize, order.length as usize);
        match order.command {
            NBD_CMD_FLUSH => self.flush(&mut unsynced),
            NBD_CMD_WRITE | NBD_CMD_WRITE_ZEROES => {
                let overlaps =
                    |undo: &Undo| undo.offset < start + length && start < undo.offset + undo.before.len();
                let has_to_wait = |undo: &Undo| overlaps(undo) && undo.cookie > order.cookie;
                if self.has(Bug::OlderCookieWins) && unsynced.undos.iter().any(has_to_wait) {
                    return false;
                }
                let before = disk[start..start + length].to_vec();
                unsynced.undos.push(Undo {
                    client: self.number,
                    cookie: order.cookie,
                    offset: start,
                    before,
                });
            }
            _ => {}
        }
        true
    }

    /// What comes after the change.
    pub(super) fn settle(&self, order: &Order) {
        if order.flags & NBD_CMD_FLAG_FUA != 0 && !self.has(Bug::FuaForgotten) {
            self.world.unsynced.lock().unwrap().undos.clear();
        }
    }

    fn flush(&self, unsynced: &mut Unsynced) {
        let undos = &mut unsynced.undos;
        match self.world.bug {
            // It makes durable what the last one should have.
            Some(Bug::FlushIsLate) => {
                undos.drain(..unsynced.at_last_flush.min(undos.len()));
                unsynced.at_last_flush = undos.len();
            }
            Some(Bug::FlushOfOwnClient) => undos.retain(|undo| undo.client != self.number),
            Some(Bug::SyncTears) => {
                let halved = undos.drain(..).filter(|undo| undo.before.len() > 4096).map(|undo| {
                    let half = undo.before.len() / 2;
                    Undo { offset: undo.offset + half, before: undo.before[half..].to_vec(), ..undo }
                });
                *undos = halved.collect();
            }
            _ => undos.clear(),
        }
    }
}

/// A mutant that dies and lives again.
pub(super) struct Mortal(pub(super) Arc<World>);

impl KillableServer for Mortal {
    fn start(&mut self) -> Result<Dialer, String> {
        self.0.unsynced.lock().unwrap().is_kept = true;
        Ok(Dialer::Address(listen(&self.0)))
    }

    fn kill(&mut self) {
        let mut disk = self.0.disk.lock().unwrap();
        self.0.deaths.fetch_add(1, Ordering::SeqCst);
        let mut unsynced = self.0.unsynced.lock().unwrap();
        for undo in unsynced.undos.drain(..).rev() {
            disk[undo.offset..undo.offset + undo.before.len()].copy_from_slice(&undo.before);
        }
        unsynced.at_last_flush = 0;
        for stream in self.0.streams.lock().unwrap().drain(..) {
            let _it_may_be_gone = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn is_one(&self) -> bool {
        true
    }
}
