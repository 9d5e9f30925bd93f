//! What an offline store asks of the maps of its layers.

use std::fs::File;

use uuid::Uuid;

use super::copy::BlockSpan;
use super::layer_place::LayerPlace;

/// What a map says of the layer that it belongs to, so that a catalogue can be made again from maps alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescription {
    pub store: Uuid,
    pub image: Uuid,
    pub layer: Uuid,
    /// The layer that it stands on.
    pub parent: Option<Uuid>,
    pub name: String,
    pub created_s: u64,
    pub size: u64,
    /// Where it belongs beside that.
    pub place: LayerPlace,
}

/// Makes and changes maps of layers that nobody has open. An error is a sentence without a subject.
pub trait LayerMaps {
    /// Writes the map of a new layer whose data has these blocks, and nothing else. The caller syncs it.
    ///
    /// # Errors
    /// A sentence.
    fn create(&self, map: &File, layer: &LayerDescription, data: &[BlockSpan]) -> Result<(), String>;

    /// Makes a head ready to be sealed: it has this size, all of its changes are durable, and its journal
    /// needs no replay.
    ///
    /// # Errors
    /// A sentence.
    fn seal(&self, data: &File, map: &File, size: u64) -> Result<(), String>;

    /// Gives a head this size, durably, if it has another. What lies between the two reads as zeroes then.
    ///
    /// # Errors
    /// A sentence.
    fn resize(&self, data: &File, map: &File, size: u64) -> Result<(), String>;
}
