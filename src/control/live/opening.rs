//! Exports are opened while the server runs.

use std::fs::File;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::backend::{Export, FilePurpose, PreparedFile, WantedFile};
use crate::config::ExportConfig;
use crate::control::file_opener::{FileToOpen, OpenFiles};

/// Opens an export: its descriptors come from whoever may open files.
///
/// # Errors
/// A sentence.
pub(super) async fn open(
    wanted: &ExportConfig,
    opener: Option<&dyn OpenFiles>,
) -> Result<Arc<Export>, String> {
    let (uri, read_only) = (wanted.uri.clone(), wanted.read_only);
    let files = match WantedFile::of(&uri, read_only) {
        None => PreparedFile::default(),
        Some(file) => prepare(&file, opener).await?,
    };
    // On a thread: a lock that others have is waited for, and a disk may take its time.
    let (answer, answered) = oneshot::channel();
    let work = move || {
        // Nobody hears it when the client of the control socket has left.
        drop(answer.send(Export::of_prepared(&uri, read_only, files)));
    };
    let thread = std::thread::Builder::new().name("open".into()).spawn(work);
    thread.map_err(|error| format!("there is no thread for it: {error}"))?;
    match answered.await {
        Ok(Ok(export)) => Ok(Arc::new(export)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_panicked) => Err("its thread failed".to_owned()),
    }
}

async fn prepare(file: &WantedFile, opener: Option<&dyn OpenFiles>) -> Result<PreparedFile, String> {
    let opener = opener.ok_or("nothing opens files for this server once it runs: restart it")?;
    let path = std::path::absolute(file.path()).map_err(|error| error.to_string())?;
    let mut files = PreparedFile::default();
    for &purpose in &file.purposes {
        let is_written = !file.read_only && purpose != FilePurpose::Lock;
        let is_direct = purpose == FilePurpose::Direct;
        let opened = opener.open(FileToOpen { path: path.clone(), is_written, is_direct }).await?;
        files.add(purpose, File::from(opened));
    }
    Ok(files)
}
