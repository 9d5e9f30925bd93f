//! A base that was moved or copied: its row says where it is now.

use super::decide::image;
use super::draft::Draft;
use super::name::StoreName;
use super::refusal::ImageRefusal;
use super::rows::{BaseIdentity, BaseKind, BaseRow, ChainNode, LONGEST_PATH};
use super::view::{CatalogChange, CatalogView};

impl CatalogView {
    /// The base that an image stands on.
    ///
    /// # Errors
    /// The image is missing, or stands on none.
    pub fn base_of(&self, name: &StoreName) -> Result<&BaseRow, ImageRefusal> {
        let ChainNode::Base(id) = self.image_chain(image(self, name)?).1 else {
            return Err(ImageRefusal::NoBase(name.clone()));
        };
        self.base(id).ok_or_else(|| ImageRefusal::NoBase(name.clone()))
    }

    /// The images that stand on a base, by name.
    #[must_use]
    pub fn images_on(&self, base: &BaseRow) -> Vec<&StoreName> {
        let stands = |name: &&StoreName| self.base_of(name).is_ok_and(|row| row.id == base.id);
        self.images().map(|row| &row.name).filter(stands).collect()
    }
}

/// The base of an image is at this path, and is this file or device. All images that stand on it follow,
/// because they share the layers between.
///
/// # Errors
/// The image is missing or stands on no base, or the path is too long.
pub fn rebase(
    view: &CatalogView,
    name: &StoreName,
    kind: BaseKind,
    path: String,
    identity: BaseIdentity,
) -> Result<CatalogChange, ImageRefusal> {
    let row = view.base_of(name)?;
    if path.len() > LONGEST_PATH {
        return Err(ImageRefusal::LongPath);
    }
    let mut draft = Draft::new(view);
    draft.set_base(BaseRow { kind, path, identity, ..row.clone() });
    Ok(draft.finish())
}
