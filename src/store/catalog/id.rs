//! What rows of the catalogue are called among themselves: uuids, a type for each kind.

use std::fmt::{self, Display};

use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// A disk that can be written.
    ImageId,
    /// A directory below `layers/`; its name is this uuid.
    LayerId,
    /// A point in time of an image.
    SnapshotId,
    /// A file or device outside of the store that images begin with.
    BaseId,
}

/// Where new rows have their uuids and their time from: the shell's, or a seed's.
pub struct Minter<'a> {
    /// Seconds since 1970.
    pub now_s: u64,
    /// A new uuid with each call.
    pub uuid: &'a mut dyn FnMut() -> Uuid,
}

impl Minter<'_> {
    pub(super) fn mint(&mut self) -> Uuid {
        (self.uuid)()
    }
}
