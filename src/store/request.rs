//! What can be asked of a store, and the answers. They are the same for a command that has the store open
//! itself, and for one that asks the server which has it open.

use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::arriving_delta::DeltaClaim;
use super::base::FoundBase;
use super::catalog::{CatalogExcerpt, NodeName, StoreName};
use super::collected::{CollectedLost, IngestState};
use super::describe::{NodeDescription, NodeDescriptions, StoreDescription};
use super::push_state::PushState;
use super::rebasing::Rebased;
use super::tier_record::TierSnapshot;

/// Names that a sentence lists.
const LISTED: usize = 8;

/// One question or one change. As JSON it has its name in `verb`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum StoreRequest {
    /// All images and snapshots.
    Images,
    /// One of them.
    Image {
        node: NodeName,
    },
    /// An image of zeroes, or on a file or device that is not copied.
    Create {
        image: StoreName,
        size: Option<u64>,
        base: Option<PathBuf>,
        /// A base on another server, as whoever asks has found it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remote: Option<Box<FoundBase>>,
    },
    /// Snapshots of several images at one point in time.
    Snapshot {
        nodes: Vec<NodeName>,
        /// They keep no contents, only which parts have changed. Those that are there give their contents up.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        changes_only: bool,
    },
    /// A snapshot whose contents are in packs: it is taken unless it is there.
    Checkpoint {
        node: NodeName,
    },
    /// Images that begin as a snapshot is.
    Clone {
        from: NodeName,
        to: Vec<StoreName>,
    },
    /// The same, of a snapshot of a tier.
    CloneFromTier {
        from: Box<TierSnapshot>,
        to: Vec<StoreName>,
    },
    Remove {
        nodes: Vec<NodeName>,
        #[serde(default)]
        snapshots: bool,
    },
    Rename {
        node: NodeName,
        to: NodeName,
    },
    Resize {
        image: StoreName,
        size: u64,
        #[serde(default)]
        shrink: bool,
    },
    /// An image is as one of its snapshots was. `force`: its clients are disconnected.
    Rollback {
        node: NodeName,
        #[serde(default)]
        force: bool,
    },
    /// An image gets a layer of its own with all that it stands on. It takes its time: whoever asks is told
    /// how far it is, and asks again. `stop`: it is given up.
    Flatten {
        image: StoreName,
        #[serde(default)]
        stop: bool,
    },
    /// The base of an image, and of all that stand on the same, is this one.
    Rebase {
        image: StoreName,
        base: FoundBase,
        #[serde(default)]
        is_unsafe: bool,
    },
    /// A delta begins, and a layer is made for its contents; or they are all there.
    Import {
        delta: DeltaClaim,
        #[serde(default)]
        complete: bool,
    },
    /// What one or two snapshots consist of, for those who read their layers themselves.
    Layers {
        node: NodeName,
        other: Option<NodeName>,
    },
    /// All that is not written any more, for those who read its files themselves.
    Sealed,
    /// The store as a whole.
    Store,
    /// What comes into packs without being asked for: how it stands, and whether it pauses from now on.
    Ingest {
        #[serde(default)]
        pause: Option<bool>,
    },
    /// What comes to the tier without being asked for: the same, and bytes a second from now on.
    Push {
        #[serde(default)]
        pause: Option<bool>,
        #[serde(default)]
        rate: Option<NonZeroU64>,
    },
    /// Removes what was lost for so many seconds, and what nothing needs of packs. It takes its time: whoever
    /// asks a server is told how far it is, and asks again.
    Gc {
        grace: u64,
    },
}

/// How a store is opened for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenFor {
    Looking,
    Changing,
    /// On a full disk too.
    Removing,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum StoreAnswer {
    Nodes(NodeDescriptions),
    Node(NodeDescription),
    Layers(CatalogExcerpt),
    Removed(RemovedNodes),
    /// What was made or changed, and what went with it.
    RolledBack(RolledBack),
    Flattened(FlattenProgress),
    Rebased(RebasedImages),
    Store(StoreDescription),
    Collected(CollectedLost),
    Checkpoint(CheckpointProgress),
    Ingest(IngestState),
    Push(PushState),
}

/// What was removed. Its keys are part of the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedNodes {
    pub removed: Vec<String>,
    pub layers: usize,
    pub bytes: u64,
}

/// An image that was rolled back, and the layers that went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    #[serde(flatten)]
    pub of: NodeDescriptions,
    pub layers: usize,
    pub bytes: u64,
}

/// How far an image is that gets a layer of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlattenProgress {
    pub image: StoreName,
    /// Bytes of the disk that were looked at, and all of them.
    pub done: u64,
    pub total: u64,
    /// It is over: whether there was anything to do.
    pub is_new: Option<bool>,
}

/// Images that follow a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebasedImages {
    #[serde(flatten)]
    pub of: NodeDescriptions,
    #[serde(flatten)]
    pub rebased: Rebased,
}

/// How far a checkpoint is. Its keys are part of the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointProgress {
    pub node: String,
    /// All of it is in packs. Otherwise the work goes on, and the same request tells how far it is.
    pub ingested: bool,
    /// Bytes of the disk that were looked at for the layer that is worked on, and all of them.
    pub done: u64,
    pub total: u64,
}

/// Names as a sentence has them: the first ones, and how many more.
#[must_use]
pub fn names_in_words(nodes: &[String]) -> String {
    let mut text = nodes.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if nodes.len() > LISTED {
        text += &format!(" and {} more", nodes.len() - LISTED);
    }
    text
}

impl StoreRequest {
    /// How a command opens the store for it.
    #[must_use]
    pub const fn opens(&self) -> OpenFor {
        match self {
            Self::Images | Self::Image { .. } | Self::Layers { .. } | Self::Sealed | Self::Store => {
                OpenFor::Looking
            }
            Self::Remove { .. } | Self::Gc { .. } => OpenFor::Removing,
            Self::Create { .. }
            | Self::Snapshot { .. }
            | Self::Checkpoint { .. }
            | Self::Ingest { .. }
            | Self::Push { .. }
            | Self::Clone { .. }
            | Self::CloneFromTier { .. }
            | Self::Rename { .. }
            | Self::Resize { .. }
            | Self::Flatten { .. }
            | Self::Rebase { .. }
            | Self::Import { .. }
            | Self::Rollback { .. } => OpenFor::Changing,
        }
    }

    /// Reads the answer to this request that was written as JSON.
    ///
    /// # Errors
    /// It is another one.
    pub fn read_answer(&self, json: serde_json::Value) -> Result<StoreAnswer, serde_json::Error> {
        use serde_json::from_value;
        match self {
            Self::Image { .. } => from_value(json).map(StoreAnswer::Node),
            Self::Layers { .. } | Self::Sealed => from_value(json).map(StoreAnswer::Layers),
            Self::Remove { .. } => from_value(json).map(StoreAnswer::Removed),
            Self::Rollback { .. } => from_value(json).map(StoreAnswer::RolledBack),
            Self::Flatten { .. } => from_value(json).map(StoreAnswer::Flattened),
            Self::Rebase { .. } => from_value(json).map(StoreAnswer::Rebased),
            Self::Store => from_value(json).map(StoreAnswer::Store),
            Self::Gc { .. } => from_value(json).map(StoreAnswer::Collected),
            Self::Ingest { .. } => from_value(json).map(StoreAnswer::Ingest),
            Self::Push { .. } => from_value(json).map(StoreAnswer::Push),
            Self::Checkpoint { .. } => from_value(json).map(StoreAnswer::Checkpoint),
            Self::Images
            | Self::Create { .. }
            | Self::Snapshot { .. }
            | Self::Clone { .. }
            | Self::CloneFromTier { .. }
            | Self::Rename { .. }
            | Self::Import { .. }
            | Self::Resize { .. } => from_value(json).map(StoreAnswer::Nodes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::base::look_at_base;
    use super::*;

    fn a_base() -> FoundBase {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "base").unwrap();
        look_at_base(file.path()).unwrap()
    }

    #[test]
    fn requests_are_read_as_they_are_written() {
        let node: NodeName = "vm1@monday".parse().unwrap();
        let image: StoreName = "vm1".parse().unwrap();
        for request in [
            StoreRequest::Images,
            StoreRequest::Image { node: node.clone() },
            StoreRequest::Create {
                image: image.clone(),
                size: Some(512),
                base: Some("/a".into()),
                remote: None,
            },
            StoreRequest::Snapshot { nodes: vec![node.clone()], changes_only: false },
            StoreRequest::Snapshot { nodes: vec![node.clone()], changes_only: true },
            StoreRequest::Checkpoint { node: node.clone() },
            StoreRequest::Clone { from: node.clone(), to: vec![image.clone()] },
            StoreRequest::Remove { nodes: vec![node.clone()], snapshots: true },
            StoreRequest::Rename { node: node.clone(), to: node.clone() },
            StoreRequest::Resize { image: image.clone(), size: 1, shrink: false },
            StoreRequest::Flatten { image: image.clone(), stop: true },
            StoreRequest::Rebase { image, base: a_base(), is_unsafe: true },
            StoreRequest::Rollback { node: node.clone(), force: true },
            StoreRequest::Layers { node: node.clone(), other: Some(node.clone()) },
            StoreRequest::Layers { node, other: None },
            StoreRequest::Sealed,
            StoreRequest::Store,
            StoreRequest::Gc { grace: 5 },
        ] {
            let json = serde_json::to_value(&request).unwrap();
            assert_eq!(serde_json::from_value::<StoreRequest>(json.clone()).unwrap(), request, "{json}");
            let mut more = json;
            more["more"] = true.into();
            // Serde does not look for further keys where there are none.
            let knows = !matches!(request, StoreRequest::Images | StoreRequest::Sealed | StoreRequest::Store);
            assert_eq!(serde_json::from_value::<StoreRequest>(more).is_err(), knows, "{request:?}");
        }
    }

    #[test]
    fn hostile_requests_are_refused() {
        for text in [
            r#"{"verb":"image","node":"../etc/passwd"}"#,
            r#"{"verb":"image","node":5}"#,
            r#"{"verb":"image"}"#,
            r#"{"verb":"snapshot","nodes":"vm1@a"}"#,
            r#"{"verb":"resize","image":"vm1","size":-1}"#,
            r#"{"verb":"clone","from":"vm1@a","to":["vm1@b"]}"#,
            r#"{"verb":"explode"}"#,
            "[]",
        ] {
            assert!(serde_json::from_str::<StoreRequest>(text).is_err(), "{text}");
        }
    }
}
