//! A file in memory that forgets what was not synced, by sector, and fails from some step on.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

use crate::random::Random;

const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default)]
struct Contents {
    /// What a reader sees.
    now: Vec<u8>,
    /// What no power cut takes away.
    durable: Vec<u8>,
    /// What came since, in order.
    pending: Vec<Pending>,
    /// Calls that change something.
    steps: u64,
    /// The step that fails, and all calls after it.
    cut_at: Option<u64>,
}

impl Contents {
    fn step(&mut self) -> io::Result<()> {
        if self.is_cut() {
            return Err(io::Error::other("the power is off"));
        }
        self.steps += 1;
        Ok(())
    }

    fn is_cut(&self) -> bool {
        self.cut_at.is_some_and(|cut| self.steps >= cut)
    }
}

fn apply(to: &mut Vec<u8>, pending: &Pending, mut keep: impl FnMut() -> bool) {
    match pending {
        Pending::Length(length) => {
            if keep() {
                to.resize(*length, 0);
            }
        }
        Pending::Write(offset, bytes) => {
            let mut at = *offset;
            let end = offset + bytes.len();
            while at < end {
                let next = ((at / SECTOR + 1) * SECTOR).min(end);
                if keep() {
                    if to.len() < next {
                        to.resize(next, 0);
                    }
                    to[at..next].copy_from_slice(&bytes[at - offset..next - offset]);
                }
                at = next;
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct SimulatedDisk(Arc<Mutex<Contents>>);

impl SimulatedDisk {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Contents { now: bytes.clone(), durable: bytes, ..Contents::default() })))
    }

    pub(super) fn steps(&self) -> u64 {
        self.lock().steps
    }

    pub(super) fn cut_at(&self, step: u64) {
        self.lock().cut_at = Some(step);
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.lock().now.clone()
    }

    /// The disk after a power cut: of what was not synced any sectors are there.
    pub(super) fn after_the_cut(&self, random: &mut Random) -> Self {
        let contents = self.lock();
        let mut bytes = contents.durable.clone();
        let probability = random.pick(&[0.0, 0.2, 0.5, 0.9, 1.0]);
        for pending in &contents.pending {
            apply(&mut bytes, pending, || random.chance(probability));
        }
        Self::holding(bytes)
    }
}

impl StorageBackend for SimulatedDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let contents = self.lock();
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let end = offset.checked_add(out.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let bytes = contents.now.get(offset..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut contents = self.lock();
        contents.step()?;
        contents.now.resize(len as usize, 0);
        contents.pending.push(Pending::Length(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut contents = self.lock();
        contents.step()?;
        contents.durable = contents.now.clone();
        contents.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut contents = self.lock();
        contents.step()?;
        let pending = Pending::Write(offset as usize, data.to_vec());
        apply(&mut contents.now, &pending, || true);
        contents.pending.push(pending);
        Ok(())
    }
}
