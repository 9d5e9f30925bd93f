//! A new image that is filled through the server that has its store: as by any client.
//!
//! It has another name until it is complete: what a copy that was killed leaves behind looks like no image of
//! anybody's.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::watched::Watched;
use crate::cli::owner::{self, RequestError, StorePlace};
use crate::client::uri::NbdUri;
use crate::client::{Client, Timeouts};
use crate::store::catalog::{ImageRefusal, NodeName, SIZE_UNIT, StoreName};
use crate::store::{StoreAnswer, StoreError, StoreRequest, random_uuid, read_sparse, runs_of_data};

/// Bytes that are read of a stream at once: whole blocks.
const PIECE: u64 = 1 << 20;
/// Bytes of a name that are left for the name of an image that is not complete.
const LONGEST: usize = 100;

/// How often a server is asked for what a client that has just left may hinder.
const TRIES: usize = 10;

/// What an image is filled with.
pub(super) enum Contents<'a> {
    /// A file, and its length. What is a hole is not read.
    File(&'a File, u64),
    Stream(&'a mut dyn Read),
}

/// The image, while it is filled.
struct Upload<'a> {
    client: Client,
    size: u64,
    /// Where it comes from, for people.
    path: &'a Path,
    copying: &'a Watched,
}

/// Makes an image of contents. `uri` is where clients connect.
pub(super) fn fill(
    (place, uri): (StorePlace<'_>, NbdUri),
    (name, size): (&StoreName, u64),
    (path, contents): (&Path, Contents<'_>),
    copying: &Watched,
) -> Result<StoreAnswer, RequestError> {
    let node = |image: &StoreName| NodeName { image: image.clone(), snapshot: None };
    if owner::ask_server_of(place, &StoreRequest::Image { node: node(name) }).is_ok() {
        return Err(StoreError::from(ImageRefusal::Exists(name.to_string())).into());
    }
    let unfinished = unfinished(name);
    let request =
        StoreRequest::Create { image: unfinished.clone(), size: Some(size), base: None, remote: None };
    owner::ask_server_of(place, &request)?;
    let uri = NbdUri { export: unfinished.to_string(), ..uri };
    let written = || -> Result<StoreAnswer, RequestError> {
        let client = Client::open(&uri, &[], Timeouts::default())?;
        Upload { client, size, path, copying }.write(contents)?;
        once_free(place, &StoreRequest::Rename { node: node(&unfinished), to: node(name) })
    };
    written().map_err(|error| {
        let request = StoreRequest::Remove { nodes: vec![node(&unfinished)], snapshots: false };
        match once_free(place, &request) {
            Ok(_) => error,
            Err(_) => RequestError::Left { unfinished: unfinished.to_string(), error: Box::new(error) },
        }
    })
}

/// A request about an image whose client has just left: the server may not have noticed yet, though it waits
/// for that too.
pub(in crate::cli) fn once_free(
    place: StorePlace<'_>,
    request: &StoreRequest,
) -> Result<StoreAnswer, RequestError> {
    for _ in 1..TRIES {
        match owner::ask_server_of(place, request) {
            Err(RequestError::Server { is_refusal: true, .. }) => {}
            done => return done,
        }
    }
    owner::ask_server_of(place, request)
}

/// The name of an image that is not complete. Names are ASCII.
pub(in crate::cli) fn unfinished(name: &StoreName) -> StoreName {
    let name = &name.as_str()[..name.as_str().len().min(LONGEST)];
    let number = random_uuid().as_u128() as u32;
    format!("{name}-unfinished-{number:08x}")
        .parse()
        .expect("it is as short as a name, and has its characters")
}

impl Upload<'_> {
    /// All of it, durably.
    fn write(mut self, contents: Contents<'_>) -> Result<(), RequestError> {
        match contents {
            Contents::File(file, length) => {
                let path = self.path;
                let read = |source| StoreError::Named { what: "read", path: path.to_owned(), source };
                read_sparse(file, length, |at, piece| {
                    self.copying.progress(at).map_err(UploadError::from)?;
                    Ok(self.piece(at, piece)?)
                })
                .map_err(|error: UploadError| match error {
                    UploadError::Read(source) => read(source).into(),
                    UploadError::Request(error) => *error,
                })?;
            }
            Contents::Stream(source) => self.stream(source)?,
        }
        Ok(self.client.flush()?)
    }

    fn stream(&mut self, source: &mut dyn Read) -> Result<(), RequestError> {
        let path = self.path;
        let mut piece = Vec::new();
        let mut at = 0;
        loop {
            self.copying.progress(at)?;
            piece.clear();
            let read = Read::take(&mut *source, PIECE).read_to_end(&mut piece);
            let length =
                read.map_err(|source| StoreError::Named { what: "read", path: path.to_owned(), source })?;
            let (end, size) = (at + length as u64, self.size);
            if end > size {
                return Err(StoreError::TooSmall { path: path.to_owned(), length: end, size }.into());
            }
            self.piece(at, &piece)?;
            at = end;
            if (length as u64) < PIECE {
                return Ok(());
            }
        }
    }

    /// Bytes that begin with a block. The image has zeroes where nothing is written.
    fn piece(&mut self, at: u64, piece: &[u8]) -> Result<(), RequestError> {
        for run in runs_of_data(piece) {
            let offset = at + run.start as u64;
            let whole = run.len() / SIZE_UNIT as usize * SIZE_UNIT as usize;
            let (whole, rest) = piece[run].split_at(whole);
            self.client.write_at(offset, whole)?;
            if !rest.is_empty() {
                let mut last = [0; SIZE_UNIT as usize];
                last[..rest.len()].copy_from_slice(rest);
                self.client.write_at(offset + whole.len() as u64, &last)?;
            }
        }
        Ok(())
    }
}

/// What ends the copy of a file.
enum UploadError {
    Read(std::io::Error),
    Request(Box<RequestError>),
}

impl From<std::io::Error> for UploadError {
    fn from(error: std::io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<RequestError> for UploadError {
    fn from(error: RequestError) -> Self {
        Self::Request(Box::new(error))
    }
}

impl From<StoreError> for UploadError {
    fn from(error: StoreError) -> Self {
        RequestError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_one_of_an_image_that_is_not_complete() {
        for name in ["a".to_owned(), "a.".to_owned(), "a".repeat(128), "a.".repeat(64)] {
            let name: StoreName = name.parse().unwrap();
            let (one, other) = (unfinished(&name), unfinished(&name));
            assert!(one != name && one != other, "{one}");
            assert!(one.as_str().contains("-unfinished-"), "{one}");
        }
    }
}
