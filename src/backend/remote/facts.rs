//! Whether the remote after a reconnect can stand for the one before.

use crate::block::BlockSizes;

/// What the remote can be asked, one bit each.
pub(super) type Abilities = u16;

/// What a handshake with the remote told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFacts {
    /// Bytes.
    pub(super) size: u64,
    pub(super) read_only: bool,
    pub(super) abilities: Abilities,
    pub(super) block_sizes: BlockSizes,
    /// The export's own name, if the remote gave one.
    pub(super) name: Option<String>,
}

/// Why it is another one. The device fails for good: its clients were promised what is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RemoteChanged {
    #[error(
        "the remote export had {before} bytes and has {after} now; restore its size and restart the server"
    )]
    Size { before: u64, after: u64 },
    #[error("the remote export cannot be written any more; make it writable and restart the server")]
    ReadOnly,
    #[error("the remote export lacks what it offered (flags {missing:#x}); start the remote as before")]
    Abilities { missing: Abilities },
    #[error("the remote export takes other block sizes than before; start the remote as before")]
    BlockSizes,
    #[error("the remote export calls itself {after:?} and was {before:?}; check where the URI leads")]
    Name { before: String, after: String },
}

impl RemoteFacts {
    /// Checks what a handshake told after a reconnect. More than before is no change: nobody uses it.
    ///
    /// # Errors
    /// What clients were promised does not hold any more.
    pub(super) fn check(&self, after: &Self) -> Result<(), RemoteChanged> {
        if self.size != after.size {
            return Err(RemoteChanged::Size { before: self.size, after: after.size });
        }
        if let (Some(before), Some(now)) = (&self.name, &after.name)
            && before != now
        {
            return Err(RemoteChanged::Name { before: before.clone(), after: now.clone() });
        }
        if after.read_only && !self.read_only {
            return Err(RemoteChanged::ReadOnly);
        }
        let missing = self.abilities & !after.abilities;
        if missing != 0 {
            return Err(RemoteChanged::Abilities { missing });
        }
        let (old, new) = (self.block_sizes, after.block_sizes);
        match new.minimum > old.minimum || new.maximum < old.maximum {
            true => Err(RemoteChanged::BlockSizes),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> RemoteFacts {
        let (read_only, name) = (false, Some("disk".into()));
        RemoteFacts { size: 1 << 20, read_only, abilities: 0b110, block_sizes: BlockSizes::default(), name }
    }

    fn after(change: impl FnOnce(&mut RemoteFacts)) -> Result<(), RemoteChanged> {
        let mut after = facts();
        change(&mut after);
        facts().check(&after)
    }

    #[test]
    fn less_than_before_is_another_remote() {
        assert_eq!(
            after(|now| now.size += 512),
            Err(RemoteChanged::Size { before: 1 << 20, after: 1_049_088 })
        );
        assert_eq!(after(|now| now.read_only = true), Err(RemoteChanged::ReadOnly));
        assert_eq!(after(|now| now.abilities = 0b1010), Err(RemoteChanged::Abilities { missing: 0b100 }));
        assert_eq!(after(|now| now.block_sizes.minimum = 512), Err(RemoteChanged::BlockSizes));
        assert_eq!(after(|now| now.block_sizes.maximum = 1 << 20), Err(RemoteChanged::BlockSizes));
        let (before, other) = ("disk".to_owned(), "other".to_owned());
        assert_eq!(
            after(|now| now.name = Some(other.clone())),
            Err(RemoteChanged::Name { before, after: other.clone() })
        );
    }

    #[test]
    fn as_much_or_more_is_the_same() {
        assert_eq!(after(|_| ()), Ok(()));
        assert_eq!(after(|now| now.abilities = 0b111), Ok(()));
        assert_eq!(after(|now| now.block_sizes.maximum = 64 << 20), Ok(()));
        assert_eq!(after(|now| now.name = None), Ok(()));
    }
}
