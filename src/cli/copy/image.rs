//! Images of stores as ends of a copy: a server has each store, one that runs already or one for the time of
//! the copy.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use crate::cli::Outcome;
use crate::cli::image::upload::{once_free, unfinished};
use crate::cli::owner::{self, RequestError, StorePlace};
use crate::client::copy::CopyError;
use crate::client::uri::NbdUri;
use crate::daemon::within::{NotUp, PrivateDirectory, ServerWithin};
use crate::store::catalog::{NodeName, SIZE_UNIT, StoreName};
use crate::store::image_path::ImagePath;
use crate::store::{StoreError, StoreRequest};

/// Why a copy with an image at an end failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageCopyError {
    #[error(transparent)]
    Copy(Box<CopyError>),
    #[error(transparent)]
    Request(Box<RequestError>),
    /// It has said why.
    #[error("the server did not start")]
    Server(Outcome),
    #[error("{error}; what may be left of the image is called {unfinished}: remove it (`ringnbd image rm`)")]
    Left { unfinished: StoreName, error: Box<CopyError> },
}

impl From<CopyError> for ImageCopyError {
    fn from(error: CopyError) -> Self {
        Self::Copy(Box::new(error))
    }
}

impl From<RequestError> for ImageCopyError {
    fn from(error: RequestError) -> Self {
        Self::Request(Box::new(error))
    }
}

impl ImageCopyError {
    pub(super) fn ended(self) -> Outcome {
        match self {
            Self::Server(outcome) => outcome,
            Self::Request(error) => error.ended(),
            Self::Copy(error) if error.is_refusal() => Outcome::refused(error),
            error => Outcome::failed(error),
        }
    }
}

/// Servers of stores that no server had.
#[derive(Debug, Default)]
pub(super) struct StoreServers(Vec<StoreServer>);

#[derive(Debug)]
struct StoreServer {
    server: ServerWithin,
    /// Has its sockets.
    _directory: PrivateDirectory,
}

fn place(image: &ImagePath) -> StorePlace<'_> {
    StorePlace { store: &image.store, control: None }
}

impl StoreServers {
    /// Where an image is reached.
    pub(super) fn uri_of(&mut self, image: &ImagePath) -> Result<NbdUri, ImageCopyError> {
        let mut uri = owner::clients_place(place(image))?;
        if uri.is_none() {
            self.0.push(StoreServer::start(&image.store)?);
            // It has told the store where it is asked.
            uri = owner::clients_place(place(image))?;
        }
        let uri = uri.ok_or_else(|| RequestError::NotServed(image.store.clone()))?;
        Ok(NbdUri { export: image.node.to_string(), ..uri })
    }

    /// Ends them: what they wrote is in the stores.
    pub(super) fn stop(self) -> Result<(), ImageCopyError> {
        for StoreServer { server, _directory } in self.0 {
            server.ask_to_stop();
            match server.wait() {
                Ok(status) if status.success() => {}
                ended => {
                    let sentence = format_args!("the server of the store failed ({ended:?})");
                    return Err(ImageCopyError::Server(Outcome::failed(sentence)));
                }
            }
        }
        Ok(())
    }
}

impl StoreServer {
    fn start(store: &Path) -> Result<Self, ImageCopyError> {
        let failed = |error| {
            let sentence = format_args!("cannot start a server of the store: {error}");
            ImageCopyError::Server(Outcome::failed(sentence))
        };
        let directory = PrivateDirectory::create().map_err(failed)?;
        let socket = directory.path().join("socket").display().to_string();
        let control = format!("unix:{}", directory.path().join("control").display());
        let export = format!("store:{}", percent_encode(store.as_os_str().as_bytes(), NON_ALPHANUMERIC));
        let arguments = ["--exit-with-parent", "--quiet", "--unix", &socket, "--control", &control, &export];
        let server = ServerWithin::start(arguments, directory.path()).map_err(|error| match error {
            NotUp::Ended(status) if status.code() == Some(2) => ImageCopyError::Server(Outcome::Refused),
            NotUp::Ended(_) => ImageCopyError::Server(Outcome::Failed),
            NotUp::Failed(error) => failed(error),
        })?;
        Ok(Self { server, _directory: directory })
    }
}

/// An image that is the target.
#[derive(Debug)]
pub(super) struct ImageTarget<'a> {
    image: &'a ImagePath,
    /// What is written.
    pub(super) uri: NbdUri,
    /// The name of a new image until it is complete.
    unfinished: Option<StoreName>,
}

impl<'a> ImageTarget<'a> {
    /// An image that is not there is made for so many bytes. Without a number it has to be there.
    pub(super) fn prepare(
        servers: &mut StoreServers,
        image: &'a ImagePath,
        size: Option<u64>,
    ) -> Result<Self, ImageCopyError> {
        let name =
            image.node.clone().into_image().map_err(|error| RequestError::from(StoreError::Name(error)))?;
        let uri = servers.uri_of(image)?;
        let asked = StoreRequest::Image { node: image.node.clone() };
        let size = match size {
            Some(size) if owner::ask_server_of(place(image), &asked).is_err() => size,
            _ => return Ok(Self { image, uri, unfinished: None }),
        };
        let unfinished = unfinished(&name);
        let size = Some(size.max(1).next_multiple_of(SIZE_UNIT));
        let request = StoreRequest::Create { image: unfinished.clone(), size, base: None, remote: None };
        owner::ask_server_of(place(image), &request)?;
        let uri = NbdUri { export: unfinished.to_string(), ..uri };
        Ok(Self { image, uri, unfinished: Some(unfinished) })
    }

    /// It has all of the source.
    pub(super) fn finish(self) -> Result<(), ImageCopyError> {
        let Some(unfinished) = self.unfinished else { return Ok(()) };
        let node = NodeName { image: unfinished.clone(), snapshot: None };
        let renamed =
            once_free(place(self.image), &StoreRequest::Rename { node, to: self.image.node.clone() });
        let left = |error| RequestError::Left { unfinished: unfinished.to_string(), error: Box::new(error) };
        Ok(renamed.map(drop).map_err(left)?)
    }

    /// A new image goes; one that was there has a part of the source.
    pub(super) fn give_up(self, error: CopyError) -> ImageCopyError {
        let Some(unfinished) = self.unfinished else { return error.into() };
        let node = NodeName { image: unfinished.clone(), snapshot: None };
        match once_free(place(self.image), &StoreRequest::Remove { nodes: vec![node], snapshots: false }) {
            Ok(_) => error.into(),
            Err(_) => ImageCopyError::Left { unfinished, error: Box::new(error) },
        }
    }
}
