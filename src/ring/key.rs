//! How operations in flight are named, and to whom each belongs.

/// The key of an operation in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpKey(pub(super) u32);

/// Who is told when an operation completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The task of this index, which waits for it.
    Task(u32),
    /// A future that a task polls with a waker of its own, which is kept under this number.
    Within(u32),
    /// A request of the shard, by its number.
    Request(u32),
    /// A connection of the shard, by its key.
    Connection(u32),
    /// The shard's loop itself.
    Shard,
    /// Nobody any more: the result is dropped.
    Nobody,
}
