//! The rows that a few snapshots need, or all that is not written, for those who may read layers and cannot
//! open the catalogue.
//!
//! They are a catalogue of their own, in which images are names and nothing else.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::codec::RowError;
use super::consistency::checked;
use super::database::CatalogError;
use super::encoding::{StoredRow, decode, encode};
use super::foreign_rows::ForeignRow;
use super::header::CatalogHeader;
use super::id::{BaseId, LayerId, SnapshotId};
use super::name::NodeName;
use super::packed_rows::{ContentsRow, PackRow};
use super::records::{RecordAnchor, RecordHead, RecordHeads, holder_of_point};
use super::refusal::ImageRefusal;
use super::rows::{BaseRow, Below, ChainNode, ImageRow, LayerRow, SnapshotRow};
use super::view::{CatalogChange, CatalogView};

/// Layers beyond which no further snapshots are told for the sake of records. Without them more is said to
/// have changed than has.
const ENOUGH_LAYERS: usize = 1024;

/// By uuid, as the catalogue stores them, in hexadecimal.
type RowTexts = BTreeMap<String, String>;

/// Rows to be sent. Their keys are part of the interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogExcerpt {
    header: String,
    images: RowTexts,
    snapshots: RowTexts,
    layers: RowTexts,
    bases: RowTexts,
    /// Of layers that were ingested, and the packs.
    contents: RowTexts,
    packs: RowTexts,
    /// Packs of other stores.
    #[serde(default, skip_serializing_if = "RowTexts::is_empty")]
    foreign: RowTexts,
    records: BTreeMap<String, Option<String>>,
    /// Points in time within layers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    points: BTreeMap<String, Vec<String>>,
    /// For each layer whose changes are counted from a snapshot that is gone, where that was.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    gone: BTreeMap<String, GoneText>,
}

/// Where a snapshot was that is gone: a point within a layer, or the contents of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct GoneText {
    is_base: bool,
    id: String,
    bytes: u64,
}

impl GoneText {
    fn of(anchor: RecordAnchor) -> Option<Self> {
        match anchor {
            RecordAnchor::Snapshot(_) => None,
            RecordAnchor::Point { id, bytes } => Some(Self { is_base: false, id: id.to_string(), bytes }),
            RecordAnchor::Base { id, bytes } => Some(Self { is_base: true, id: id.to_string(), bytes }),
        }
    }

    fn anchor(&self, id: Uuid) -> RecordAnchor {
        match self.is_base {
            true => RecordAnchor::Base { id: BaseId(id), bytes: self.bytes },
            false => RecordAnchor::Point { id: SnapshotId(id), bytes: self.bytes },
        }
    }
}

/// Rows that were read again.
#[derive(Debug)]
pub struct ReadExcerpt {
    pub header: CatalogHeader,
    pub view: CatalogView,
    pub records: RecordHeads,
}

struct ExcerptDraft<'a> {
    view: &'a CatalogView,
    rows: CatalogChange,
    /// Nodes that are still to be looked at.
    nodes: Vec<ChainNode>,
}

impl ExcerptDraft<'_> {
    fn add_snapshot(&mut self, row: &SnapshotRow) {
        if self.rows.snapshots.contains_key(&row.id) {
            return;
        }
        if let Some(image) = self.view.image_by_id(row.image) {
            let (head, origin, since) = (None, None, None);
            let (below, pairs) = (Below::NOTHING, BTreeMap::new());
            let bare = ImageRow { head, below, origin, since, pairs, ..image.clone() };
            self.rows.images.insert(row.image, Some(bare));
        }
        self.rows.snapshots.insert(row.id, Some(SnapshotRow { parent: None, ..row.clone() }));
        self.nodes.push(row.below.node);
    }

    /// What all of it stands on.
    fn follow(&mut self, records: &RecordHeads) {
        while let Some(node) = self.nodes.pop() {
            match node {
                ChainNode::Nothing => {}
                ChainNode::Base(id) => {
                    self.rows.bases.insert(id, self.view.base(id).cloned());
                }
                ChainNode::Layer(id) => {
                    let Some(row) = self.view.layer(id) else { continue };
                    if self.rows.layers.insert(id, Some(row.clone())).is_some() {
                        continue;
                    }
                    self.nodes.push(row.below.node);
                    let anchor = records.get(&id).and_then(|head| head.as_ref()?.anchor);
                    let anchor = anchor.filter(|_| self.rows.layers.len() <= ENOUGH_LAYERS);
                    match anchor {
                        Some(RecordAnchor::Snapshot(id)) => {
                            self.view.snapshot_by_id(id).into_iter().for_each(|row| self.add_snapshot(row));
                        }
                        Some(RecordAnchor::Point { id, .. }) => {
                            let holder = holder_of_point(self.view, records, id);
                            self.nodes.extend(holder.map(ChainNode::Layer));
                        }
                        Some(RecordAnchor::Base { id, .. }) => self.nodes.push(ChainNode::Base(id)),
                        None => {}
                    }
                }
            }
        }
    }
}

/// The rows that these snapshots need.
///
/// # Errors
/// One of them is missing.
pub fn excerpt(
    view: &CatalogView,
    header: &CatalogHeader,
    records: &RecordHeads,
    snapshots: &[&NodeName],
) -> Result<CatalogExcerpt, ImageRefusal> {
    let mut gathered = ExcerptDraft { view, rows: CatalogChange::default(), nodes: Vec::new() };
    for node in snapshots {
        let image = view.image(&node.image).ok_or_else(|| ImageRefusal::NoImage(node.image.clone()))?;
        let Some(name) = &node.snapshot else { continue };
        let missing = || ImageRefusal::NoSnapshot { image: node.image.clone(), snapshot: name.clone() };
        gathered.add_snapshot(view.snapshot(image.id, name).ok_or_else(missing)?);
    }
    gathered.follow(records);
    let rows = gathered.rows;
    let told = || records.iter().filter(|(layer, _)| rows.layers.contains_key(layer));
    let snapshot = |head: &RecordHead| match head.anchor {
        Some(RecordAnchor::Snapshot(id)) => Some(id.to_string()),
        _ => None,
    };
    // A record that can be read and is not among them has points, or is counted from what is gone.
    let anchors = told().filter(|(_, head)| head.as_ref().is_none_or(|head| snapshot(head).is_some()));
    let gone = told().filter_map(|(layer, head)| Some((layer, GoneText::of(head.as_ref()?.anchor?)?)));
    let points = told().filter_map(|(layer, head)| Some((layer, &head.as_ref()?.points)));
    let points = points.filter(|(_, points)| !points.is_empty());
    let points =
        points.map(|(layer, ids)| (layer.to_string(), ids.iter().map(SnapshotId::to_string).collect()));
    Ok(CatalogExcerpt {
        header: to_hex(&header.encode()),
        records: anchors.map(|(layer, head)| (layer.to_string(), head.as_ref().and_then(snapshot))).collect(),
        points: points.collect(),
        gone: gone.map(|(layer, gone)| (layer.to_string(), gone)).collect(),
        images: texts(rows.images.values().flatten()),
        snapshots: texts(rows.snapshots.values().flatten()),
        layers: texts(rows.layers.values().flatten()),
        bases: texts(rows.bases.values().flatten()),
        contents: texts(rows.layers.keys().filter_map(|id| view.contents(*id))),
        packs: texts(view.packs()),
        foreign: texts(view.foreign_packs()),
    })
}

/// The rows of all that is not written any more: no image has its head.
#[must_use]
pub fn sealed_rows(view: &CatalogView, header: &CatalogHeader) -> CatalogExcerpt {
    let images: Vec<ImageRow> = view.images().map(|row| ImageRow { head: None, ..row.clone() }).collect();
    CatalogExcerpt {
        header: to_hex(&header.encode()),
        records: BTreeMap::new(),
        points: BTreeMap::new(),
        gone: BTreeMap::new(),
        images: texts(images.iter()),
        snapshots: texts(view.snapshots.values()),
        layers: texts(view.layers().filter(|row| row.is_sealed)),
        bases: texts(view.bases()),
        contents: texts(view.all_contents()),
        packs: texts(view.packs()),
        foreign: texts(view.foreign_packs()),
    }
}

impl CatalogExcerpt {
    /// Whether a pack was told of.
    #[must_use]
    pub fn lists_pack(&self, number: u64) -> bool {
        self.packs.contains_key(&Uuid::from_u128(number.into()).to_string())
    }

    /// Reads the rows, which may be anybody's.
    ///
    /// # Errors
    /// Whatever does not fit.
    pub fn read(&self) -> Result<ReadExcerpt, CatalogError> {
        let damaged = || CatalogError::Damaged("what the server has told of it is not understood".to_owned());
        let uuid = |text: &str| Uuid::try_parse(text).map_err(|_| damaged());
        let header = CatalogHeader::decode(&from_hex(&self.header).ok_or_else(damaged)?)?;
        let mut rows = CatalogChange::default();
        read_rows(&self.images, |row: ImageRow| rows.images.insert(row.id, Some(row)).is_some())?;
        read_rows(&self.snapshots, |row: SnapshotRow| rows.snapshots.insert(row.id, Some(row)).is_some())?;
        read_rows(&self.layers, |row: LayerRow| rows.layers.insert(row.id, Some(row)).is_some())?;
        read_rows(&self.bases, |row: BaseRow| rows.bases.insert(row.id, Some(row)).is_some())?;
        read_rows(&self.contents, |row: ContentsRow| rows.contents.insert(row.layer, Some(row)).is_some())?;
        read_rows(&self.packs, |row: PackRow| rows.packs.insert(row.number, Some(row)).is_some())?;
        read_rows(&self.foreign, |row: ForeignRow| rows.foreign.insert(row.number, Some(row)).is_some())?;
        // What is still written is nothing for those who have no lock.
        if rows.layers.values().flatten().any(|row| !row.is_sealed) {
            return Err(damaged());
        }
        let mut records = RecordHeads::new();
        for (layer, anchor) in &self.records {
            let anchor = anchor.as_deref().map(uuid).transpose()?.map(SnapshotId);
            let anchor = anchor.map(RecordAnchor::Snapshot);
            let head = anchor.map(|anchor| RecordHead { anchor: Some(anchor), points: Vec::new() });
            records.insert(LayerId(uuid(layer)?), head);
        }
        for (layer, points) in &self.points {
            let points = points.iter().map(|id| uuid(id).map(SnapshotId)).collect::<Result<_, _>>()?;
            let head = records.entry(LayerId(uuid(layer)?)).or_default();
            head.get_or_insert_default().points = points;
        }
        for (layer, gone) in &self.gone {
            let head = records.entry(LayerId(uuid(layer)?)).or_default();
            head.get_or_insert_default().anchor = Some(gone.anchor(uuid(&gone.id)?));
        }
        Ok(ReadExcerpt { header, view: checked(&rows)?, records })
    }
}

fn texts<'a, R: StoredRow + 'a>(rows: impl Iterator<Item = &'a R>) -> RowTexts {
    rows.map(|row| (row.key().to_string(), to_hex(&encode(row)))).collect()
}

/// Hands each row on, which says whether it was there before.
fn read_rows<R: StoredRow>(texts: &RowTexts, mut take: impl FnMut(R) -> bool) -> Result<(), CatalogError> {
    for (key, text) in texts {
        let wrong = |key, why| CatalogError::Row { table: R::TABLE, key, why };
        let key = Uuid::try_parse(key).map_err(|_| wrong(Uuid::nil(), RowError::Text))?;
        let bytes = from_hex(text).ok_or_else(|| wrong(key, RowError::Text))?;
        if take(decode(key, &bytes).map_err(|why| wrong(key, why))?) {
            return Err(wrong(key, RowError::Value));
        }
    }
    Ok(())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _always = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    rest.is_empty().then_some(())?;
    pairs.iter().map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_digits_and_back() {
        assert_eq!(to_hex(&[0, 0x9a, 0xff]), "009aff");
        assert_eq!(from_hex("009AfF"), Some(vec![0, 0x9a, 0xff]));
        for text in ["0", "0g", "+1", "é", " 1"] {
            assert_eq!(from_hex(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_sentence(header in ".{0,300}", key in ".{0,40}", row in "[0-9a-f]{0,400}") {
            let rows = RowTexts::from([(key, row)]);
            let excerpt = CatalogExcerpt { header, images: rows.clone(), layers: rows, ..CatalogExcerpt::default() };
            prop_assert!(excerpt.read().is_err());
        }
    }
}
