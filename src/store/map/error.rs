//! Why a map cannot be used.

/// What is wrong with the bytes of a map, or with what one is to be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerMapError {
    #[error("this is no map of a layer: neither of its superblocks has the mark of one")]
    NotAMap,
    #[error(
        "both superblocks of the map are damaged: rebuild it from the layer's data with `ringnbd store check --rebuild-map`"
    )]
    SuperblocksDamaged,
    #[error("the two superblocks of the map belong to different layers: files of two layers were mixed")]
    SuperblocksDiffer,
    #[error(
        "the {what} was written by a newer version (format {version}, features {features:#x}): open it with that version"
    )]
    Newer { what: &'static str, version: u32, features: u32 },
    #[error("the superblock of the map is damaged: {0}")]
    Superblock(&'static str),
    #[error("the geometry of the map is not possible: {0}")]
    Geometry(&'static str),
    #[error(
        "the journal of the map is damaged at record block {position} ({what}): nothing was changed; keep the file, and \
         rebuild it with `ringnbd store check --rebuild-map`"
    )]
    Journal { position: u64, what: &'static str },
    #[error(
        "node {index} of level {level} of the map is damaged ({what}): nothing was changed; keep the file, and rebuild it with \
         `ringnbd store check --rebuild-map`"
    )]
    Node { level: u32, index: u64, what: &'static str },
    #[error("the {what} of a layer has at most {most} bytes, and this has {length}")]
    TooLong { what: &'static str, length: usize, most: usize },
    #[error("a layer of this geometry has at most {most} bytes, and {size} are asked for")]
    TooLarge { size: u64, most: u64 },
}
