//! What both processes say, as bytes: a header with the length, the kind and the number of descriptors, then
//! the fields.

pub(in crate::control) use super::fields::BadMessage;
use super::fields::{FieldReader, Fields};
use super::secure_state::SecureState;
use crate::backend::FilePurpose;
use crate::config::ExportConfig;
use crate::nbd::session::Session;

/// The versions that this program speaks.
pub(super) const OLDEST: u16 = 1;
/// With 2 stores go along, and with 3 connections of TLS 1.2.
pub(super) const NEWEST: u16 = 3;

/// Kinds of messages that can be passed over by whoever does not know them begin here. So a later program can
/// say more to an earlier one without another version.
pub(super) const FIRST_EXTRA: u8 = 128;

/// Bytes in front of each message.
pub(super) const HEADER: usize = 6;
/// Bytes of a connection beside its keys and its input, mostly.
const BESIDE_INPUT: usize = 4 << 10;
/// Bytes of the keys of a connection, with certificates; and of its records that are not opened.
const LONGEST_KEYS: usize = 256 << 10;
const LONGEST_UNOPENED: usize = 1 << 20;

/// One message. Descriptors travel beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HandoverMessage {
    /// The new process speaks these versions.
    Hello { oldest: u16, newest: u16, process: u32 },
    /// The old process chose one.
    Welcome { version: u16, process: u32 },
    /// An export that can be taken, with its files.
    Export(OfferedExport),
    /// A listener that can be taken, with its socket.
    Listener { purpose: ListenerPurpose, is_inherited: bool },
    /// A store that can be claimed, by its directory. Its number is its place among them.
    Store { path: String },
    /// No more offers.
    Offered,
    /// These stores are wanted before the new process starts; it takes clients with TLS or not.
    Claim { stores: Vec<u32>, with_tls: bool },
    /// The stores are closed, after an EXPORT for each image of them that has clients.
    Released,
    /// These are taken, by their numbers; the new process has started.
    Prepared { exports: Vec<u32>, listeners: Vec<u32>, with_tls: bool },
    /// A connection, with its socket.
    Connection { export: u32, session: Session, secure: Option<SecureState>, input: Vec<u8> },
    /// There were so many.
    AllSent { connections: u32 },
    /// The new process can go on with all of it.
    Ready,
    /// It is the new one's.
    Commit,
    /// The other side gives up, and why.
    GivenUp(String),
    /// Of a later program, for those that know it: its kind is at least [`FIRST_EXTRA`].
    Extra,
}

/// What is told of an export. Its number is its place among those that are offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfferedExport {
    pub(super) name: String,
    pub(super) uri: String,
    /// As it was asked for.
    pub(super) read_only: bool,
    pub(super) size: u64,
    pub(super) has_lost_writes: bool,
    /// What its files are for, in their order.
    pub(super) purposes: Vec<FilePurpose>,
}

impl OfferedExport {
    /// Whether this is what a configuration wants.
    pub(super) fn is_same(&self, wanted: &ExportConfig) -> bool {
        self.name == wanted.name && self.uri == wanted.uri.to_string() && self.read_only == wanted.read_only
    }
}

/// Whose clients a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum ListenerPurpose {
    Clients,
    Admin,
    Control,
}

impl HandoverMessage {
    /// Its bytes, with the header; so many descriptors go along.
    pub(super) fn encode(&self, files: usize) -> Vec<u8> {
        // Keys are not to be left behind where it grew.
        let secure = match self {
            Self::Connection { secure, input, .. } => {
                let secure = secure.as_ref().map_or(0, |secure| secure.keys.len() + secure.received.len());
                secure + input.len() + BESIDE_INPUT
            }
            _ => HEADER,
        };
        let mut fields = Fields(Vec::with_capacity(secure));
        fields.0.resize(HEADER, 0);
        let kind = self.write(&mut fields);
        let Fields(mut bytes) = fields;
        let length = u32::try_from(bytes.len() - HEADER).expect("the longest input is far shorter");
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4] = kind;
        bytes[5] = u8::try_from(files).expect("a message has a few descriptors");
        bytes
    }

    /// Bytes and descriptors that follow a header. `limit`: bytes that a message may have.
    ///
    /// # Errors
    /// It is longer.
    pub(super) fn announced(header: [u8; HEADER], limit: usize) -> Result<(usize, u8), BadMessage> {
        let [a, b, c, d, _kind, files] = header;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > limit { Err(BadMessage("it is too long")) } else { Ok((length, files)) }
    }

    fn write(&self, to: &mut Fields) -> u8 {
        match self {
            Self::Hello { oldest, newest, process } => {
                to.0.extend_from_slice(MAGIC);
                to.short(*oldest).short(*newest).word(*process);
                0
            }
            Self::Welcome { version, process } => {
                to.short(*version).word(*process);
                1
            }
            Self::Export(offered) => {
                let OfferedExport { name, uri, read_only, size, has_lost_writes, purposes } = offered;
                to.text(name).text(uri).flag(*read_only).long(*size).flag(*has_lost_writes);
                to.0.extend(purposes.iter().map(|purpose| purpose_number(*purpose)));
                2
            }
            Self::Listener { purpose, is_inherited } => {
                to.0.push(*purpose as u8);
                to.flag(*is_inherited);
                3
            }
            Self::Offered => 4,
            Self::Prepared { exports, listeners, with_tls } => {
                to.numbers(exports).numbers(listeners).flag(*with_tls);
                5
            }
            Self::Connection { export, session, secure, input } => {
                to.word(*export).session(session).flag(secure.is_some());
                if let Some(SecureState { keys, received }) = secure {
                    to.bytes(keys).bytes(received);
                }
                to.0.extend_from_slice(input);
                6
            }
            Self::AllSent { connections } => {
                to.word(*connections);
                7
            }
            Self::Ready => 8,
            Self::Commit => 9,
            Self::GivenUp(why) => {
                to.text(why);
                10
            }
            Self::Store { path } => {
                to.text(path);
                11
            }
            Self::Claim { stores, with_tls } => {
                to.numbers(stores).flag(*with_tls);
                12
            }
            Self::Released => 13,
            Self::Extra => FIRST_EXTRA,
        }
    }

    /// The message of a header and what followed it.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn decode(header: [u8; HEADER], bytes: &[u8]) -> Result<Self, BadMessage> {
        let mut from = FieldReader(bytes);
        let message = match header[4] {
            0 => {
                if from.take(MAGIC.len())? != MAGIC {
                    return Err(BadMessage("it is of another program"));
                }
                Self::Hello { oldest: from.short()?, newest: from.short()?, process: from.word()? }
            }
            1 => Self::Welcome { version: from.short()?, process: from.word()? },
            2 => {
                let (name, uri, read_only) = (from.text()?, from.text()?, from.flag()?);
                let (size, has_lost_writes) = (from.long()?, from.flag()?);
                let purposes =
                    from.rest().iter().map(|number| purpose_of(*number)).collect::<Result<_, _>>()?;
                Self::Export(OfferedExport { name, uri, read_only, size, has_lost_writes, purposes })
            }
            3 => {
                let purpose = match from.byte()? {
                    0 => ListenerPurpose::Clients,
                    1 => ListenerPurpose::Admin,
                    2 => ListenerPurpose::Control,
                    _ => return Err(BadMessage("a listener for nobody")),
                };
                Self::Listener { purpose, is_inherited: from.flag()? }
            }
            4 => Self::Offered,
            5 => {
                let (exports, listeners) = (from.numbers()?, from.numbers()?);
                Self::Prepared { exports, listeners, with_tls: from.flag()? }
            }
            6 => {
                let (export, session) = (from.word()?, from.session()?);
                let secure = if from.flag()? {
                    let (keys, received) = (from.bytes(LONGEST_KEYS)?, from.bytes(LONGEST_UNOPENED)?);
                    Some(SecureState { keys, received })
                } else {
                    None
                };
                Self::Connection { export, session, secure, input: from.rest().to_vec() }
            }
            7 => Self::AllSent { connections: from.word()? },
            8 => Self::Ready,
            9 => Self::Commit,
            10 => Self::GivenUp(from.text()?),
            11 => Self::Store { path: from.text()? },
            12 => Self::Claim { stores: from.numbers()?, with_tls: from.flag()? },
            13 => Self::Released,
            FIRST_EXTRA.. => {
                from.rest();
                Self::Extra
            }
            _ => return Err(BadMessage("of a kind that is not known")),
        };
        if from.0.is_empty() { Ok(message) } else { Err(BadMessage("it is longer than its fields")) }
    }

    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "HELLO",
            Self::Welcome { .. } => "WELCOME",
            Self::Export(_) => "EXPORT",
            Self::Listener { .. } => "LISTENER",
            Self::Store { .. } => "STORE",
            Self::Offered => "OFFERED",
            Self::Claim { .. } => "CLAIM",
            Self::Released => "RELEASED",
            Self::Prepared { .. } => "PREPARED",
            Self::Connection { .. } => "CONNECTION",
            Self::AllSent { .. } => "ALL SENT",
            Self::Ready => "READY",
            Self::Commit => "COMMIT",
            Self::GivenUp(_) => "GIVEN UP",
            Self::Extra => "more",
        }
    }
}

/// What a new process says first.
const MAGIC: &[u8; 8] = b"ringnbdH";

const PURPOSES: [FilePurpose; 4] =
    [FilePurpose::Buffered, FilePurpose::Lock, FilePurpose::Direct, FilePurpose::Durable];

fn purpose_number(purpose: FilePurpose) -> u8 {
    PURPOSES.iter().position(|of| *of == purpose).expect("it has all") as u8
}

fn purpose_of(number: u8) -> Result<FilePurpose, BadMessage> {
    PURPOSES.get(usize::from(number)).copied().ok_or(BadMessage("a file for nothing"))
}

/// Reads bytes as messages, one after the other.
///
/// # Panics
/// A message means something else when it is written again.
pub(super) fn read_arbitrary(mut bytes: &[u8]) {
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let Ok((length, files)) = HandoverMessage::announced(*header, rest.len()) else { return };
        let (fields, rest) = rest.split_at(length);
        match HandoverMessage::decode(*header, fields) {
            Err(_) | Ok(HandoverMessage::Extra) => {}
            Ok(message) => {
                let again = message.encode(files.into());
                assert!(again[..HEADER] == header[..] && again[HEADER..] == *fields, "{message:?}");
            }
        }
        bytes = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::block::BlockSizes;
    use crate::nbd::meta_context::MetaContext;
    use crate::nbd::session::{ReplyMode, SelectedContext};

    fn sessions() -> impl Strategy<Value = Session> {
        let modes =
            prop_oneof![Just(ReplyMode::Simple), Just(ReplyMode::Structured), Just(ReplyMode::Extended)];
        let contexts = prop_oneof![
            Just(MetaContext::BaseAllocation),
            Just(MetaContext::AllocationDepth),
            Just(MetaContext::Instance),
            "x:[a-z]{0,9}".prop_map(|name| MetaContext::Passed(Arc::from(name))),
            "[a-z]{0,9}".prop_map(|name| MetaContext::DirtyBitmap(Arc::from(name)))
        ];
        (modes, any::<u16>(), any::<u64>(), any::<bool>(), prop::collection::vec(contexts, 0..5)).prop_map(
            |(reply_mode, transmission_flags, size, enforce_alignment, contexts)| {
                let selected = contexts.into_iter().zip(1..);
                Session {
                    reply_mode,
                    transmission_flags,
                    size,
                    block_sizes: BlockSizes::default(),
                    enforce_alignment,
                    contexts: selected.map(|(context, id)| SelectedContext { id, context }).collect(),
                }
            },
        )
    }

    fn messages() -> impl Strategy<Value = HandoverMessage> {
        use HandoverMessage as M;
        let numbers = || prop::collection::vec(any::<u32>(), 0..20);
        let bytes = || prop::collection::vec(any::<u8>(), 0..99);
        let listeners = [ListenerPurpose::Clients, ListenerPurpose::Admin, ListenerPurpose::Control];
        let purposes = prop::collection::vec(prop::sample::select(&PURPOSES[..]), 0..4);
        prop_oneof![
            any::<(u16, u16, u32)>().prop_map(|(oldest, newest, process)| M::Hello {
                oldest,
                newest,
                process
            }),
            any::<(u16, u32)>().prop_map(|(version, process)| M::Welcome { version, process }),
            (".{0,20}", ".{0,20}", any::<(bool, u64, bool)>(), purposes).prop_map(
                |(name, uri, (read_only, size, has_lost_writes), purposes)| {
                    M::Export(OfferedExport { name, uri, read_only, size, has_lost_writes, purposes })
                }
            ),
            (prop::sample::select(listeners.to_vec()), any::<bool>())
                .prop_map(|(purpose, is_inherited)| M::Listener { purpose, is_inherited }),
            (numbers(), numbers(), any::<bool>()).prop_map(|(exports, listeners, with_tls)| M::Prepared {
                exports,
                listeners,
                with_tls
            }),
            (any::<u32>(), sessions(), prop::option::of((bytes(), bytes())), bytes()).prop_map(
                |(export, session, secure, input)| {
                    let secure = secure.map(|(keys, received)| SecureState { keys, received });
                    M::Connection { export, session, secure, input }
                }
            ),
            any::<u32>().prop_map(|connections| M::AllSent { connections }),
            ".{0,20}".prop_map(M::GivenUp),
            ".{0,20}".prop_map(|path| M::Store { path }),
            (numbers(), any::<bool>()).prop_map(|(stores, with_tls)| M::Claim { stores, with_tls }),
            prop::sample::select(vec![M::Offered, M::Released, M::Ready, M::Commit]),
        ]
    }

    fn split(bytes: &[u8]) -> ([u8; HEADER], &[u8]) {
        (bytes[..HEADER].try_into().unwrap(), &bytes[HEADER..])
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard(message in messages(), files in 0_usize..9) {
            let bytes = message.encode(files);
            let (header, fields) = split(&bytes);
            prop_assert_eq!(HandoverMessage::announced(header, 1 << 20), Ok((fields.len(), files as u8)));
            prop_assert!(HandoverMessage::announced(header, fields.len().wrapping_sub(1).min(1 << 20)).is_err() || fields.is_empty());
            prop_assert_eq!(HandoverMessage::decode(header, fields), Ok(message.clone()));
            // Where the last field takes the rest, another length is another message.
            let mut longer = fields.to_vec();
            longer.push(9);
            prop_assert_ne!(HandoverMessage::decode(header, &longer), Ok(message.clone()));
            if let Some((_, shorter)) = fields.split_last() {
                prop_assert_ne!(HandoverMessage::decode(header, shorter), Ok(message));
            }
        }

        /// Nothing panics, and what is taken for a message says the same when it is written again.
        #[test]
        fn garbage_is_refused_or_means_something(
            message in messages(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(), kind in 0_u8..16,
        ) {
            let mut bytes = message.encode(0);
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes[4] = if bytes[4] == message.encode(0)[4] { kind } else { bytes[4] };
            let end = HEADER + cut.index(bytes.len() - HEADER + 1);
            let (header, fields) = split(&bytes[..end]);
            if let Ok(heard) = HandoverMessage::decode(header, fields)
                && heard != HandoverMessage::Extra
            {
                let again = heard.encode(0);
                prop_assert_eq!(split(&again).1, fields);
            }
        }
    }

    #[test]
    fn a_long_list_needs_its_bytes() {
        let mut header = HandoverMessage::Ready.encode(0);
        header[4] = 5;
        let (header, _) = split(&header);
        for count in [1, 1 << 19, u32::MAX] {
            let fields = [&count.to_le_bytes()[..], &[0; 3]].concat();
            assert!(HandoverMessage::decode(header, &fields).is_err());
        }
    }
}
