//! Why something is not done to the images of a store; each says what to do instead.

use super::id::{ImageId, LayerId, SnapshotId};
use super::name::StoreName;
use super::rows::{DEEPEST, LARGEST_IMAGE, MOST_CHANGES_ONLY, MOST_ROWS, SIZE_UNIT};

/// Names that a sentence lists before it only counts the others.
const LISTED: usize = 8;

/// Why something was not decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefusal {
    #[error("there is no image \"{0}\" in the store: `ringnbd image ls` lists them")]
    NoImage(StoreName),
    #[error("\"{image}\" has no snapshot \"{snapshot}\": `ringnbd image info` lists them")]
    NoSnapshot { image: StoreName, snapshot: StoreName },
    #[error("\"{0}\" exists already: choose another name, or remove it first")]
    Exists(String),
    #[error("\"{0}\" is named twice: each may be named once")]
    Twice(String),
    #[error(
        "{0} bytes is no size of an image: write a multiple of {SIZE_UNIT} bytes, at most {LARGEST_IMAGE}"
    )]
    Size(u64),
    #[error(
        "\"{image}\" has {have} bytes, {want} would lose what lies behind them: write --shrink to lose it"
    )]
    Shrinks { image: StoreName, have: u64, want: u64 },
    #[error("\"{name}\" has clones: {}; remove or flatten them first", listed(.clones))]
    HasClones { name: String, clones: Vec<String> },
    #[error("\"{name}\" has snapshots: {}; remove them first, or write --snapshots", listed(.snapshots))]
    HasSnapshots { name: StoreName, snapshots: Vec<String> },
    #[error("\"{0}\" is held: release it first")]
    Held(String),
    #[error("\"{0}\" is in use: disconnect its clients first, or write --force")]
    InUse(StoreName),
    #[error(
        "\"{0}\" has {DEEPEST} sealed layers, which is the most, and snapshots or clones need each of them: remove some of these, \
         or flatten it with `ringnbd image flatten`"
    )]
    TooDeep(StoreName),
    #[error("the store has {MOST_ROWS} {0}, which is the most: remove some, or begin another store")]
    Full(&'static str),
    #[error("the path of the base is too long")]
    LongPath,
    #[error("the layer {0} cannot become one with the layer above it: something else needs it")]
    NotMergeable(LayerId),
    #[error("\"{0}\" stands on something else than when this began: try again")]
    Moved(StoreName),
    #[error("\"{0}\" stands on no base")]
    NoBase(StoreName),
    #[error("the image {0} was removed")]
    Gone(ImageId),
    #[error("the layer {0} is not in the catalogue")]
    NoLayer(LayerId),
    #[error("the snapshot {0} is in this store already: it need not be imported again")]
    ImportedBefore(SnapshotId),
    #[error(
        "\"{image}\" is not as the snapshot {from} is, which the delta begins with: import that one, or roll back to it"
    )]
    NotAsItWas { image: StoreName, from: SnapshotId },
    #[error(
        "the layer {0} stands on something else than when its ingest began, or was ingested meanwhile: try again"
    )]
    NotIngestible(LayerId),
    #[error(
        "a snapshot of \"{0}\" failed half-way, and its head is not durable: disconnect its clients, or restart its server"
    )]
    Unfinished(StoreName),
    #[error("what the tier has of the snapshot cannot be used: {0}; push it again from where it was made")]
    ForeignRecord(&'static str),
    #[error(
        "\"{0}\" has no contents that could be read: it keeps only which parts of the disk have changed (--changes-only). \
         Name a snapshot that keeps its contents; changes are counted from this one (`ringnbd image diff`, `export --delta`)"
    )]
    ChangesOnly(String),
    #[error(
        "\"{0}\" has {MOST_CHANGES_ONLY} snapshots that keep changes only, which is the most: remove some of them"
    )]
    ManyChanges(StoreName),
    #[error("\"{0}\" has a head already")]
    HasHead(StoreName),
}

fn listed(names: &[String]) -> String {
    let mut text = names.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > LISTED {
        text.push_str(&format!(" and {} more", names.len() - LISTED));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_named_and_many_are_counted() {
        let clones: Vec<String> = (0..10).map(|number| format!("vm{number}")).collect();
        let refusal = ImageRefusal::HasClones { name: "golden@1".to_owned(), clones };
        assert_eq!(
            refusal.to_string(),
            "\"golden@1\" has clones: vm0, vm1, vm2, vm3, vm4, vm5, vm6, vm7 and 2 more; remove or flatten them first"
        );
    }
}
