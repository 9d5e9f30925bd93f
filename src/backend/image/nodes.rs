//! Nodes of a layer's map come into memory when they are needed, and get their room in its file.

use super::chain::OpenLayer;
use crate::backend::context::ShardContext;
use crate::backend::file::{failure, until_done};
use crate::block::{BlockError, ByteRange};
use crate::ring::{AllocateMode, Operation};
use crate::store::map::NodeAddress;

impl OpenLayer {
    /// Reads a node into memory.
    pub(super) async fn load(&self, node: NodeAddress, context: &ShardContext) -> Result<(), BlockError> {
        let place = self.map.borrow().address(node);
        // It may have come meanwhile.
        let (Some((offset, length)), Some(file)) = (place, self.map_file) else { return Ok(()) };
        let mut lease = context.pool.reserve().lend(length).await;
        let mut done = 0;
        while done < length {
            let (offset, start) = (offset + done as u64, done as u32);
            let length = (length - done) as u32;
            // Room for another node may be being made in the same file: tried here, that would be waited for.
            let operation = Operation::Read { file, offset, lease, start, length, in_worker: true };
            let (result, operation) = context.ring.run(operation).await;
            let Operation::Read { lease: back, .. } = operation else {
                unreachable!("it comes back as it went")
            };
            lease = back;
            match result {
                Ok(0) => return Err(BlockError::Io),
                Ok(moved) => done += moved as usize,
                Err(libc::EINTR | libc::EAGAIN) => {}
                Err(errno) => return Err(failure(errno)),
            }
        }
        let mut map = self.map.borrow_mut();
        map.evict_some();
        map.loaded(node, lease.bytes(0..length)).map_err(|error| {
            tracing::error!(%error, "an image's map is damaged: what it says of a part of the disk cannot be read");
            BlockError::Io
        })
    }

    /// Gives nodes their room in the map's file, so that a commit does not find the disk full.
    pub(super) async fn allocate_slots(
        &self,
        slots: Vec<(u64, u64)>,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        let Some(file) = self.map_file else { return Ok(()) };
        for (offset, length) in slots {
            let range = ByteRange::new(offset, length).expect("within the map's file");
            let allocate = || Operation::Allocate { file, mode: AllocateMode::Grow, range };
            match until_done(allocate, context).await {
                // Where that cannot be done, a full disk shows at the next FLUSH.
                Ok(()) | Err(libc::EOPNOTSUPP) => {}
                Err(errno) => return Err(failure(errno)),
            }
        }
        Ok(())
    }
}
