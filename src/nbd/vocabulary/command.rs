//! What a device is asked for.

/// What a request asks of a device, as faults, statistics and reports tell requests apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommandKind {
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// FLUSH.
    Flush,
    /// TRIM.
    Trim,
    /// CACHE.
    Cache,
    /// WRITE_ZEROES.
    WriteZeroes,
    /// BLOCK_STATUS.
    BlockStatus,
}

impl CommandKind {
    /// All, in the order of their numbers on the wire, which is that of their discriminants: use `kind as
    /// usize` as an index.
    pub const ALL: [Self; 7] =
        [Self::Read, Self::Write, Self::Flush, Self::Trim, Self::Cache, Self::WriteZeroes, Self::BlockStatus];

    /// Its name in options, metrics, logs and reports.
    #[inline]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::Cache => "cache",
            Self::WriteZeroes => "write_zeroes",
            Self::BlockStatus => "block_status",
        }
    }
}

/// How a request wants to be carried out: the command flags that reach a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoFlags {
    /// Durable before the reply (`NBD_CMD_FLAG_FUA`).
    pub fua: bool,
    /// Keep the range allocated when zeroing (`NBD_CMD_FLAG_NO_HOLE`).
    pub no_hole: bool,
    /// Fail with [`BlockError::NotSupported`](super::BlockError::NotSupported) rather than write zeroes as
    /// data (`NBD_CMD_FLAG_FAST_ZERO`).
    pub fast_zero: bool,
}
