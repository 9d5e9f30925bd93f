//! Who carries out what is asked of a store: this command, which takes the store's lock, or the server that
//! has the lock, by its control socket. What is printed is the same.

use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Outcome;
use super::http::{self, AskError};
use crate::client::ClientError;
use crate::client::uri::NbdUri;
use crate::config::ControlAddress;
use crate::nbd::printable::printable;
use crate::store::catalog::{CatalogExcerpt, NodeName};
use crate::store::{MapFiles, OpenFor, OpenStore, StoreAnswer, StoreDirectory, StoreError, StoreRequest};
use crate::tier::TierError;
use crate::tier::uri::TierUriError;

/// How often a server is asked again what snapshots consist of: layers that were merged meanwhile are gone.
const TRIES: usize = 5;
/// The status of what was refused when a part of it was done.
const PARTLY: u16 = 424;

/// A store, and where its server is asked if that is said.
#[derive(Debug, Clone, Copy)]
pub(super) struct StorePlace<'a> {
    pub(super) store: &'a Path,
    pub(super) control: Option<&'a ControlAddress>,
}

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The server's sentence.
    #[error("{sentence}")]
    Server { sentence: String, is_refusal: bool },
    #[error("{}: {error}", socket.display())]
    Ask { socket: PathBuf, error: AskError },
    #[error("the server's answer is not understood: {0}; use the ringnbd that the server was started with")]
    Answer(serde_json::Error),
    #[error("with --control off there is no control socket to ask: write unix:PATH")]
    Off,
    #[error(
        "the store {} is in use by a server, which cannot do this while it runs: stop it, and try again", .0.display()
    )]
    NotOnline(PathBuf),
    #[error(
        "the server that has the store {} serves single images of it, or nothing that a client could connect to: serve the \
         whole store (store:DIRECTORY), or stop the server, and try again", .0.display()
    )]
    NotServed(PathBuf),
    #[error(
        "nobody knows how long it will be, which the server that has the store has to know: write --size, or stop the server"
    )]
    NoSize,
    #[error("{0}")]
    Tier(#[from] TierError),
    #[error("{0}")]
    TierUri(#[from] TierUriError),
    #[error("the new image cannot be written: {0}")]
    Client(#[from] ClientError),
    #[error("{error}; what may be left of the image is called {unfinished}: remove it (`ringnbd image rm`)")]
    Left { unfinished: String, error: Box<RequestError> },
}

/// What a server tells of the stores that it has.
#[derive(Debug, Deserialize)]
struct ServedStores {
    stores: Vec<PathBuf>,
    whole: Vec<PathBuf>,
    uris: Vec<String>,
}

impl RequestError {
    /// A sentence, and whether anything may have changed.
    pub(super) fn ended(self) -> Outcome {
        match self {
            Self::Store(error) if !error.is_refusal() => Outcome::failed(error),
            Self::Server { sentence, is_refusal: false } => Outcome::failed(sentence),
            Self::Tier(error) if !error.is_refusal() => Outcome::failed(error),
            error @ (Self::Client(_) | Self::Left { .. }) => Outcome::failed(error),
            error => Outcome::refused(error),
        }
    }
}

/// Where the server of a store listens that is in use, as far as that is known.
fn socket_of(place: StorePlace<'_>) -> Result<Option<PathBuf>, RequestError> {
    match place.control {
        Some(ControlAddress::Path(path)) => Ok(Some(path.clone())),
        Some(ControlAddress::Off) => Err(RequestError::Off),
        None => Ok(StoreDirectory::control_of(place.store)),
    }
}

/// Has a request carried out. `prepare`: what this command does before, if it has the store itself.
pub(super) fn ask(
    place: StorePlace<'_>,
    request: &StoreRequest,
    prepare: impl FnOnce(&mut OpenStore<MapFiles>, &StoreRequest) -> Result<(), StoreError>,
) -> Result<StoreAnswer, RequestError> {
    if let Some(answer) = ask_owner(place, request)? {
        return Ok(answer);
    }
    let mut store = match request.opens() {
        OpenFor::Looking => OpenStore::open(place.store, MapFiles),
        OpenFor::Changing => OpenStore::open_to_change(place.store, MapFiles),
        OpenFor::Removing => OpenStore::open_to_remove(place.store, MapFiles),
    }?;
    prepare(&mut store, request)?;
    Ok(store.perform(request)?)
}

/// Asks the server that has the store; none if no server has it. The lock is waited for, so a server is
/// asked before it.
pub(super) fn ask_owner(
    place: StorePlace<'_>,
    request: &StoreRequest,
) -> Result<Option<StoreAnswer>, RequestError> {
    let Some(socket) = socket_of(place)? else { return Ok(None) };
    match ask_server(&socket, place.store, request) {
        // What another server left behind.
        Err(RequestError::Ask { error: AskError::NoServer, .. }) if place.control.is_none() => Ok(None),
        answer => Ok(Some(answer?)),
    }
}

/// Has one or two images or snapshots looked at. While a server has the store they are snapshots: it tells
/// what they consist of, and their layers are read here. `look` opens all of them before it does anything
/// else, and is called again if one had gone by then.
pub(super) fn look<T>(
    place: StorePlace<'_>,
    (node, other): (&NodeName, Option<&NodeName>),
    mut look: impl FnMut(&OpenStore<MapFiles>) -> Result<T, StoreError>,
) -> Result<T, RequestError> {
    let request = StoreRequest::Layers { node: node.clone(), other: other.cloned() };
    look_as_told(place, &request, &mut look)
}

/// The same, at a node that may be an image: if a server has the store, what is in no sealed layer is not
/// seen.
pub(super) fn look_at_sealed<T>(
    place: StorePlace<'_>,
    mut look: impl FnMut(&OpenStore<MapFiles>) -> Result<T, StoreError>,
) -> Result<T, RequestError> {
    look_as_told(place, &StoreRequest::Sealed, &mut look)
}

fn look_as_told<T>(
    place: StorePlace<'_>,
    request: &StoreRequest,
    look: &mut impl FnMut(&OpenStore<MapFiles>) -> Result<T, StoreError>,
) -> Result<T, RequestError> {
    for number in 1.. {
        let Some(answer) = ask_owner(place, request)? else {
            return Ok(look(&OpenStore::open_to_change(place.store, MapFiles)?)?);
        };
        let StoreAnswer::Layers(told) = answer else { unreachable!("it is the answer to another request") };
        match OpenStore::open_to_read(place.store, MapFiles, &told).and_then(|store| look(&store)) {
            Err(error) if error.is_gone() && number < TRIES => {}
            done => return Ok(done?),
        }
    }
    unreachable!("the last try has a result")
}

/// Has a store checked, by itself or as far as a server does not write it. `check` gives what is wrong; the
/// result says whether that is all.
pub(super) fn check(
    place: StorePlace<'_>,
    check: impl Fn(&OpenStore<MapFiles>) -> Result<Vec<String>, StoreError>,
) -> Result<(Vec<String>, bool), RequestError> {
    let mut last = None;
    for number in 1.. {
        let Some(answer) = ask_owner(place, &StoreRequest::Sealed)? else {
            return Ok((check(&OpenStore::open(place.store, MapFiles)?)?, true));
        };
        let StoreAnswer::Layers(told) = answer else { unreachable!("it is the answer to another request") };
        // Layers may be merged meanwhile: what is wrong with those that are still there is.
        match last {
            Some((before, problems)) if before == told || number == TRIES => return Ok((problems, false)),
            _ => {}
        }
        let problems = check(&OpenStore::open_to_read(place.store, MapFiles, &told)?)?;
        if problems.is_empty() {
            return Ok((problems, false));
        }
        last = Some((told, problems));
    }
    unreachable!("the last try has a result")
}

/// Opens a store to read all that is not written any more, beside a server if there is one: that is told.
pub(super) fn open_to_read(
    place: StorePlace<'_>,
) -> Result<(OpenStore<MapFiles>, Option<CatalogExcerpt>), RequestError> {
    match ask_owner(place, &StoreRequest::Sealed)? {
        None => Ok((OpenStore::open(place.store, MapFiles)?, None)),
        Some(StoreAnswer::Layers(told)) => {
            Ok((OpenStore::open_to_read(place.store, MapFiles, &told)?, Some(told)))
        }
        Some(_) => unreachable!("it is the answer to another request"),
    }
}

/// The same of a store that a server has.
pub(super) fn ask_server_of(
    place: StorePlace<'_>,
    request: &StoreRequest,
) -> Result<StoreAnswer, RequestError> {
    ask_owner(place, request)?.ok_or_else(|| RequestError::NotServed(place.store.to_owned()))
}

/// Where clients of the server connect that has the store; none if no server has it.
pub(super) fn clients_place(place: StorePlace<'_>) -> Result<Option<NbdUri>, RequestError> {
    let Some(socket) = socket_of(place)? else { return Ok(None) };
    let told = match ask_socket(&socket, "GET", "/api/v1/stores", "") {
        Err(RequestError::Ask { error: AskError::NoServer, .. }) if place.control.is_none() => {
            return Ok(None);
        }
        told => serde_json::from_value::<ServedStores>(told?).map_err(RequestError::Answer)?,
    };
    let real = real(place.store);
    // A socket that another server has by now.
    if !told.stores.contains(&real) && place.control.is_none() {
        return Ok(None);
    }
    // With TLS it may lack certificates, so without is better.
    let uris = told.uris.iter().filter_map(|uri| uri.parse::<NbdUri>().ok());
    let uri = uris.min_by_key(|uri| uri.tls.is_some());
    match uri.filter(|_| told.whole.contains(&real)) {
        Some(uri) => Ok(Some(uri)),
        None => Err(RequestError::NotServed(place.store.to_owned())),
    }
}

/// The server has it without links, and a directory of its own.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Opens a store for what a server cannot do for it.
pub(super) fn open_alone(place: StorePlace<'_>) -> Result<OpenStore<MapFiles>, RequestError> {
    let opened = OpenStore::open_to_change(place.store, MapFiles);
    match (opened, socket_of(place)?) {
        (Err(StoreError::InUse { .. }), Some(_)) => Err(RequestError::NotOnline(place.store.to_owned())),
        (opened, _) => Ok(opened?),
    }
}

/// The method and the path of a request.
fn target(request: &StoreRequest) -> (&'static str, &'static str) {
    match request {
        StoreRequest::Images => ("GET", "/api/v1/images"),
        StoreRequest::Image { .. } => ("GET", "/api/v1/images/info"),
        StoreRequest::Layers { .. } => ("GET", "/api/v1/images/layers"),
        StoreRequest::Sealed => ("GET", "/api/v1/stores/sealed"),
        StoreRequest::Store => ("GET", "/api/v1/stores/info"),
        StoreRequest::Create { .. } => ("POST", "/api/v1/images/create"),
        StoreRequest::Snapshot { .. } => ("POST", "/api/v1/images/snapshot"),
        StoreRequest::Checkpoint { .. } => ("POST", "/api/v1/images/checkpoint"),
        StoreRequest::Clone { .. } => ("POST", "/api/v1/images/clone"),
        StoreRequest::CloneFromTier { .. } => ("POST", "/api/v1/images/clone-from-tier"),
        StoreRequest::Remove { .. } => ("POST", "/api/v1/images/remove"),
        StoreRequest::Rename { .. } => ("POST", "/api/v1/images/rename"),
        StoreRequest::Resize { .. } => ("POST", "/api/v1/images/resize"),
        StoreRequest::Rollback { .. } => ("POST", "/api/v1/images/rollback"),
        StoreRequest::Flatten { .. } => ("POST", "/api/v1/images/flatten"),
        StoreRequest::Rebase { .. } => ("POST", "/api/v1/images/rebase"),
        StoreRequest::Import { .. } => ("POST", "/api/v1/images/import"),
        StoreRequest::Gc { .. } => ("POST", "/api/v1/stores/gc"),
        StoreRequest::Ingest { .. } => ("POST", "/api/v1/stores/ingest"),
        StoreRequest::Push { .. } => ("POST", "/api/v1/stores/push"),
    }
}

/// What a request has beside its name, and the store that it is about.
fn parameters(store: &Path, request: &StoreRequest) -> Map<String, Value> {
    let Ok(Value::Object(mut all)) = serde_json::to_value(request) else {
        unreachable!("a request is an object")
    };
    all.remove("verb");
    all.insert("store".to_owned(), real(store).to_string_lossy().into());
    if let StoreRequest::Create { base: Some(base), .. } = request {
        all.insert("base".to_owned(), real(base).to_string_lossy().into());
    }
    all
}

fn ask_server(socket: &Path, store: &Path, request: &StoreRequest) -> Result<StoreAnswer, RequestError> {
    let ((method, path), parameters) = (target(request), parameters(store, request));
    let (target, body) = if method == "GET" {
        let texts = parameters.iter().filter_map(|(name, value)| Some((name, value.as_str()?)));
        let pairs =
            texts.map(|(name, text)| format!("{name}={}", utf8_percent_encode(text, NON_ALPHANUMERIC)));
        (format!("{path}?{}", pairs.collect::<Vec<_>>().join("&")), String::new())
    } else {
        (path.to_owned(), Value::Object(parameters).to_string())
    };
    let answer = ask_socket(socket, method, &target, &body)?;
    let mut answer = request.read_answer(answer).map_err(RequestError::Answer)?;
    // As it was written here.
    match &mut answer {
        StoreAnswer::Nodes(of)
        | StoreAnswer::RolledBack(crate::store::RolledBack { of, .. })
        | StoreAnswer::Rebased(crate::store::RebasedImages { of, .. }) => {
            store.clone_into(&mut of.store);
        }
        StoreAnswer::Store(of) => store.clone_into(&mut of.store),
        StoreAnswer::Collected(of) => store.clone_into(&mut of.store),
        StoreAnswer::Ingest(of) => store.clone_into(&mut of.store),
        StoreAnswer::Push(of) => store.clone_into(&mut of.store),
        StoreAnswer::Node(_)
        | StoreAnswer::Layers(_)
        | StoreAnswer::Removed(_)
        | StoreAnswer::Checkpoint(_)
        | StoreAnswer::Flattened(_) => {}
    }
    Ok(answer)
}

/// What the server answers, if it does what it is asked.
fn ask_socket(socket: &Path, method: &str, target: &str, body: &str) -> Result<Value, RequestError> {
    let asked = http::ask(socket, method, target, body);
    let answer = asked.map_err(|error| RequestError::Ask { socket: socket.to_owned(), error })?;
    if answer.status == 200 {
        return Ok(answer.body);
    }
    let said = answer.body["error"].as_str().map(printable);
    let sentence = said.unwrap_or_else(|| format!("the server answered {}", answer.status));
    Err(RequestError::Server { sentence, is_refusal: answer.status < 500 && answer.status != PARTLY })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_name_the_store_and_not_the_verb() {
        let request = StoreRequest::Clone {
            from: "golden@v1".parse().unwrap(),
            to: vec!["vm1".parse().unwrap(), "vm2".parse().unwrap()],
        };
        let found = Value::Object(parameters(Path::new("/nonexistent/s"), &request));
        let expected =
            serde_json::json!({"store": "/nonexistent/s", "from": "golden@v1", "to": ["vm1", "vm2"]});
        assert_eq!(found, expected);
    }
}
