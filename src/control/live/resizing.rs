//! Exports that get another size.
//!
//! Clients that come see the new size. Those that are there keep the one that they were told, because most of
//! them cannot hear of another one; they see it when they connect again. Those that asked for it are made to
//! ([`growth`]). Nothing becomes smaller while it has clients.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Condition, Live, LiveRefusal, PreparedExport};
use crate::backend::{Export, ResizeError};
use crate::control::catalogue::Entry;
use crate::control::events::EventKind;
use crate::control::growth;
use crate::shard::Removal;

/// The body of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::control) struct ResizeWish {
    /// `None`: the file or device is looked at again.
    pub(in crate::control) size: Option<u64>,
    /// It may become smaller, and what lies behind the new end is lost.
    pub(in crate::control) shrink: bool,
    /// Clients that are there are cut off, so that they connect again.
    pub(in crate::control) cut_off: bool,
}

/// The largest size that a file, and the protocol's clients, can have.
const LARGEST: u64 = i64::MAX as u64;

impl Live {
    /// Gives a file another size, or has clients that come see the one that a file or device has got.
    ///
    /// # Errors
    /// [`LiveRefusal`]; the size is as it was.
    pub(in crate::control) async fn resize(
        &self,
        (name, condition): (&str, &Condition),
        wish: ResizeWish,
    ) -> Result<Rc<Entry>, LiveRefusal> {
        let _turn = self.turn.lock().await;
        let known = self.known(name)?.ok_or_else(|| LiveRefusal::Missing(name.to_owned()))?;
        if !condition.holds(Some(&known.tag())) {
            return Err(LiveRefusal::Condition(name.to_owned()));
        }
        let export = known.export().filter(|export| export.is_file());
        let export = export.ok_or_else(|| refused(name, &ResizeError::Kind))?;
        let size = match wish.size {
            Some(size) => size,
            None => export.size_found().map_err(|why| refused(name, &why))?,
        };
        if size > LARGEST {
            return Err(LiveRefusal::NotResized {
                name: name.to_owned(),
                why: "that is too large".to_owned(),
            });
        }
        let is_smaller = size < export.size();
        if is_smaller && wish.size.is_some() && !wish.shrink {
            return Err(LiveRefusal::Smaller { name: name.to_owned(), now: export.size() });
        }
        if is_smaller && known.clients() > 0 && !wish.cut_off {
            return Err(LiveRefusal::SmallerWithClients(name.to_owned()));
        }
        // What comes to be smaller is so for clients first, and for its file then.
        let entry =
            if is_smaller { self.serve_again(&known, export, (size, wish))? } else { Rc::clone(&known) };
        if wish.size.is_some()
            && let Err(why) = on_thread(Arc::clone(export), size).await
        {
            if is_smaller {
                let as_before = ResizeWish { cut_off: false, ..wish };
                self.serve_again(&entry, export, (export.size(), as_before))?;
            }
            return Err(refused(name, &why));
        }
        let before = export.facts().block_sizes.minimum;
        let entry = if is_smaller { entry } else { self.serve_again(&known, export, (size, wish))? };
        let told = serde_json::json!({ "export": name, "size_bytes": size });
        self.plane().events.tell(EventKind::ExportResized, told);
        let has_larger_blocks = entry.info.facts.block_sizes.minimum > before;
        let renewed = if has_larger_blocks { 0 } else { growth::tell_clients(self.plane(), &entry) };
        tracing::info!(export = name, size, renewed, "an export has another size");
        if has_larger_blocks {
            tracing::warn!(
                export = name,
                "attached devices keep their size: their blocks are smaller than those of the export now; \
                 detach them and attach them again"
            );
        }
        Ok(entry)
    }

    /// Serves the same bytes with another size, under the same name.
    fn serve_again(
        &self,
        known: &Entry,
        export: &Export,
        (size, wish): (u64, ResizeWish),
    ) -> Result<Rc<Entry>, LiveRefusal> {
        let name = &known.info.name;
        let missing = || LiveRefusal::NotResized {
            name: name.clone(),
            why: "the application that added it has its size".to_owned(),
        };
        let wanted = known.wanted().ok_or_else(missing)?;
        let export = Arc::new(export.with_size(size).map_err(|why| refused(name, &why))?);
        let prepared = PreparedExport { wanted, export, stays: true };
        self.look_again(&prepared)?;
        Ok(self.serve_with(prepared, if wish.cut_off { Removal::CutOff } else { Removal::WhenUnused }))
    }
}

fn refused(name: &str, why: &ResizeError) -> LiveRefusal {
    LiveRefusal::NotResized { name: name.to_owned(), why: why.to_string() }
}

/// A file that becomes smaller may take its time.
async fn on_thread(export: Arc<Export>, size: u64) -> Result<(), ResizeError> {
    let (answer, answered) = oneshot::channel();
    let work = move || drop(answer.send(export.set_file_size(size)));
    std::thread::Builder::new().name("resize".into()).spawn(work)?;
    answered.await.unwrap_or_else(|_| Err(std::io::Error::other("its thread failed").into()))
}
