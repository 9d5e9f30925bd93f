//! Why something is not done with a tier.

use std::io;

use uuid::Uuid;

use super::keys::PackKey;
use super::objects::ObjectError;
use super::records::{MOST_SNAPSHOTS, TierRecordError};

/// A sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    #[error("{0}")]
    Objects(#[from] ObjectError),
    #[error("{key}: {why}")]
    Record { key: String, why: TierRecordError },
    #[error(
        "{0:?} cannot be the name of an image in a tier: letters, digits, \"-\", \"_\" and \".\", at most 128"
    )]
    Name(String),
    #[error("there is no tier: make one with `ringnbd store init --tier` or `ringnbd store tier`")]
    NoTier,
    #[error(
        "the tier cuts disks in chunks of {there} bytes and this store in chunks of {here}, or names them otherwise: use another prefix"
    )]
    OtherSpace { there: u32, here: u32 },
    #[error(
        "{image} belongs to the store {store} on {host} in the tier (generation {generation}): push under another name, or take \
         it over with `ringnbd image own --force`, after which that host cannot push it any more; nothing is lost here"
    )]
    NotOwner { image: String, store: Uuid, host: String, generation: u64 },
    #[error("nobody has pushed {0} to the tier")]
    NoImage(String),
    #[error("{image}@{snapshot} is not in the tier")]
    NoSnapshot { image: String, snapshot: String },
    #[error(
        "the tier has another snapshot under the name {image}@{snapshot}: rename this one, or remove that one (`ringnbd image rm --tier`)"
    )]
    OtherSnapshot { image: String, snapshot: String },
    #[error(
        "{image}@{snapshot} was cloned from the tier: {clones}. With --force it goes; these clones keep the packs that they read"
    )]
    Cloned { image: String, snapshot: String, clones: String },
    #[error("{image}@{snapshot} is not what the tier has published as {name}")]
    NotPublished { image: String, snapshot: String, name: String },
    #[error("{0} has {MOST_SNAPSHOTS} snapshots in the tier, which is the most: remove some")]
    Full(String),
    #[error("{key} is neither in the tier nor in this store: {why}")]
    NoPack { key: PackName, why: String },
    #[error("{} has {there} bytes in the tier and {here} in this store: look at both with `ringnbd store check`", .key.object())]
    OtherPack { key: PackKey, there: u64, here: u64 },
    #[error("cannot read {}: {source}", .key.object())]
    Pack { key: PackKey, source: io::Error },
    #[error("{0} changed too often while it was to be changed: try again")]
    Busy(String),
}

impl TierError {
    /// Whether nothing was tried, because it cannot be.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::Objects(_) | Self::Record { .. } | Self::NoPack { .. } | Self::OtherPack { .. } => false,
            Self::Pack { .. } | Self::Busy(_) => false,
            Self::Name(_) | Self::NoTier | Self::OtherSpace { .. } | Self::NotOwner { .. } => true,
            Self::NoImage(_) | Self::NoSnapshot { .. } | Self::OtherSnapshot { .. } => true,
            Self::Cloned { .. } | Self::NotPublished { .. } | Self::Full(_) => true,
        }
    }
}

/// A pack in a sentence.
#[derive(Debug, Clone, Copy)]
pub struct PackName(pub PackKey);

impl std::fmt::Display for PackName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "pack {} of the store {}", self.0.number, self.0.store)
    }
}
