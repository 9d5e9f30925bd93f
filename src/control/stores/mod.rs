//! The stores that a server has open: their images as exports, and what is done to them while it runs.
//!
//! Each store has a thread of its own, which is handed jobs and answers them. Nothing here waits for it but
//! tasks that have to.
//!
//! With `store:DIRECTORY` every image is an export under its name, and every snapshot as `NAME@SNAPSHOT`. An
//! image that nobody wants is a row of its store and nothing else. A handshake that asks for it gives it a
//! place among the exports ([`Chosen`]). Its files are opened when a client chooses it, and closed some time
//! after the last of its clients has gone.
//!
//! ```text
//! opened     what the start opens
//! one        a store: jobs for its thread, images that are opened and closed
//! offers     all of them: look-ups and lists of handshakes, and the task that closes what is idle
//! perform    what the control socket asks for
//! flattening images that get a layer of their own while clients use them
//! growing    images that become larger while clients use them
//! merging    chains that become shorter
//! ingesting  snapshots that come into packs
//! cpu_times  whether clients want the time that this would take
//! lending    a store that goes to another process
//! background layers that come into packs without being asked for
//! uploading  snapshots that come to a tier without being asked for
//! collecting packs of which little is needed go
//! changes_only snapshots that keep no contents
//! snapshot   of images that clients write meanwhile
//! overview   what the admin server shows of them
//! ```

mod background;
mod changes_only;
mod collecting;
mod collecting_work;
mod cpu_times;
mod flattening;
mod growing;
mod ingest_work;
mod ingesting;
mod lending;
mod merging;
mod offers;
mod one;
mod opened;
mod overview;
mod perform;
mod snapshot;
mod under_way;
mod upload_work;
mod uploading;

pub(super) use lending::Lending;
pub(super) use offers::{Absence, Chosen, Stores};
pub(super) use opened::{FILES as FILES_OF_STORES, OpenedStores, StoresError};
pub(super) use overview::{NodeUse, Overviews, StoreOverview};
