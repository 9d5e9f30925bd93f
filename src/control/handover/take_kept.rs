//! The next process: it goes on with what was kept for it (see `keep`).
//!
//! Whatever is wrong with it, the server starts: connections that cannot be had are closed, and their clients
//! connect again.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::sockopt::socket_cookie;

use super::arrived::{BESIDE_INPUT, room_for_input};
use super::kept_connections::{KeptConnection, KeptConnections, forget};
use super::kept_state::{KeptStateReader, StateError};
use super::message::{HandoverMessage, OfferedExport};
use super::offer::PassedListeners;
use super::take::{Takeover, TakeoverSource};
use crate::config::Config;
use crate::control::keeper::{KeepDescriptors, STATE, place_of_file};
use crate::control::listen::listeners;

/// Descriptors that have come, by what the state says of them.
struct KeptDescriptors {
    state: Option<File>,
    sockets: HashMap<u64, OwnedFd>,
    files: HashMap<u32, OwnedFd>,
}

impl KeptDescriptors {
    fn of(kept: Vec<(String, OwnedFd)>) -> Self {
        let (mut state, mut sockets, mut files) = (None, HashMap::new(), HashMap::new());
        for (name, descriptor) in kept {
            if name == STATE {
                state = Some(descriptor.into());
            } else if let Some(place) = place_of_file(&name) {
                files.insert(place, descriptor);
            } else if let Ok(cookie) = socket_cookie(&descriptor) {
                sockets.insert(cookie, descriptor);
            }
        }
        Self { state, sockets, files }
    }

    /// The only socket of a message, if it is there.
    fn socket(&mut self, references: &[u64]) -> Result<Option<OwnedFd>, StateError> {
        match references {
            [cookie] => Ok(self.sockets.remove(cookie)),
            _ => Err(StateError::Damaged("a socket that is none, or more than one")),
        }
    }
}

impl Takeover {
    /// What was kept, if it can be taken. What cannot is let go.
    pub(in crate::control) fn of_kept(
        kept: Vec<(String, OwnedFd)>,
        keeper: Arc<dyn KeepDescriptors>,
        config: &Config,
    ) -> Option<Self> {
        let names: BTreeSet<String> = kept.iter().map(|(name, _)| name.clone()).collect();
        let mut descriptors = KeptDescriptors::of(kept);
        let state = descriptors.state.take();
        let contents = match &state {
            None => Err(StateError::Damaged("it is missing")),
            Some(state) => KeptContents::read(state, &mut descriptors, config),
        };
        // What the state does not tell of is closed here.
        drop(descriptors);
        match (contents, state) {
            (Ok(Some(contents)), Some(state)) => {
                let KeptContents { exports, first_image, listeners, files, connections, lost } = contents;
                let mut kept = KeptConnections { keeper, state, names, files, connections, lost };
                let exports = kept.release_unwanted(exports, config);
                Some(Self {
                    source: TakeoverSource::Kept(kept),
                    exports,
                    stores: Vec::new(),
                    first_image,
                    opened: Vec::new(),
                    listeners,
                })
            }
            (contents, state) => {
                const WHY: &str =
                    "connections were kept, and cannot be taken over: their clients connect again";
                match contents {
                    Err(reason) => tracing::warn!(%reason, "{WHY}"),
                    Ok(_) => tracing::info!("what is kept was taken over before, and is let go"),
                }
                state.iter().for_each(|state| drop(state.set_len(0)));
                forget(&*keeper, &names);
                // Files are opened anew, whose locks it has until then.
                if let Err(error) = keeper.settle() {
                    tracing::warn!(reason = %error, "files that were kept may still be locked");
                }
                None
            }
        }
    }
}

/// What a state tells.
#[derive(Default)]
struct KeptContents {
    exports: Vec<(OfferedExport, Vec<OwnedFd>)>,
    /// Exports from this number on are images.
    first_image: usize,
    listeners: PassedListeners,
    files: Vec<Vec<u32>>,
    connections: Vec<KeptConnection>,
    lost: usize,
}

impl KeptContents {
    /// None if it was taken already.
    fn read(
        state: &File,
        descriptors: &mut KeptDescriptors,
        config: &Config,
    ) -> Result<Option<Self>, StateError> {
        let Some(mut reader) = KeptStateReader::begin(state)? else { return Ok(None) };
        let limit = config.limits.longest_request as usize + BESIDE_INPUT;
        let mut contents =
            Self { first_image: usize::MAX, listeners: PassedListeners::kept(), ..Self::default() };
        let mut room = room_for_input(&config.limits, config.shards.len());
        let mut told = 0_u32;
        loop {
            let (message, references) = reader.next(limit)?;
            let has_images = contents.first_image != usize::MAX;
            match message {
                HandoverMessage::Export(offered) if offered.purposes.len() == references.len() => {
                    contents.export(offered, &references, descriptors)?;
                }
                HandoverMessage::Listener { purpose, is_inherited } if !has_images => {
                    if let Some(socket) = descriptors.socket(&references)? {
                        contents.listeners.add(purpose, listeners::passed(socket, is_inherited));
                    }
                }
                HandoverMessage::Offered if !has_images => contents.first_image = contents.exports.len(),
                HandoverMessage::Released if has_images => {}
                HandoverMessage::Connection { export, session, secure, input } if has_images => {
                    told = told.saturating_add(1);
                    let socket = descriptors.socket(&references)?;
                    let has_room = contents.connections.len() < config.limits.connections;
                    match (socket, room.checked_sub(input.len())) {
                        (Some(socket), Some(left)) if has_room => {
                            room = left;
                            let connection = KeptConnection { export, session, secure, input, socket };
                            contents.connections.push(connection);
                        }
                        _ => contents.lost += 1,
                    }
                }
                HandoverMessage::AllSent { connections } if connections == told && has_images => {
                    return Ok(Some(contents));
                }
                _ => return Err(StateError::Damaged("something is where it cannot be")),
            }
        }
    }

    /// An export without its files if one of them is missing.
    fn export(
        &mut self,
        offered: OfferedExport,
        references: &[u64],
        descriptors: &mut KeptDescriptors,
    ) -> Result<(), StateError> {
        let places = references.iter().map(|place| u32::try_from(*place));
        let places: Vec<u32> =
            places.collect::<Result<_, _>>().map_err(|_| StateError::Damaged("a file that is none"))?;
        let found: Option<Vec<_>> = places.iter().map(|place| descriptors.files.remove(place)).collect();
        self.exports.push((offered, found.unwrap_or_default()));
        self.files.push(places);
        Ok(())
    }
}
