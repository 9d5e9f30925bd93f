//! The messages between the server and its broker: one packet each. Either end may be hostile.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The longest message, in bytes: one with the longest path.
pub(super) const MESSAGE_BYTES: usize = 4096 + 64;
/// The longest sentence in a reply.
const SENTENCE_BYTES: usize = 2048;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenMode {
    Read,
    ReadWrite,
    /// With O_DIRECT.
    ReadDirect,
    ReadWriteDirect,
}

/// The command of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandToStart {
    /// User and group that it runs as, if they are not the broker's.
    pub(super) user: Option<(u32, u32)>,
    /// Program and arguments: at least one, without zero bytes, and the first one is not empty.
    pub(super) words: Vec<OsString>,
}

/// What the server says. There is nothing else that a broker does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BrokerRequest {
    /// Before [`BrokerRequest::Begin`]: files below this directory may be opened.
    Directory(PathBuf),
    /// Before [`BrokerRequest::Begin`]: this block device may be opened.
    Device(PathBuf),
    /// Before [`BrokerRequest::Begin`]: where the configuration is.
    ConfigurationIs(PathBuf),
    /// Before [`BrokerRequest::Begin`]: this file may be read, whatever has this name by then.
    MayRead(PathBuf),
    /// Before [`BrokerRequest::Begin`]: this command may be started over the channel that comes with the
    /// message.
    Command(CommandToStart),
    /// Before [`BrokerRequest::Begin`]: whoever has this socket now gets it back if the server ends before
    /// [`BrokerRequest::Settled`].
    GivesBack(PathBuf),
    /// The broker knows all that it is told without being asked.
    Begin,
    /// The server has taken over: what it has it keeps. There is no answer.
    Settled,
    /// Open a file.
    Open { id: u64, access: OpenMode, path: PathBuf },
    /// Open the configuration, whose place the broker knows.
    Configuration { id: u64 },
    /// Open a file to read it that was named before [`BrokerRequest::Begin`].
    Read { id: u64, path: PathBuf },
}

/// What the broker answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BrokerReply {
    /// To [`BrokerRequest::Begin`].
    Ready,
    /// The descriptor comes with this message.
    Opened { id: u64 },
    /// There is no such file, which may be right.
    Missing { id: u64 },
    /// Why not: a sentence. The id is 0 when the request was not understood, or is [`BrokerRequest::Begin`].
    Refused { id: u64, why: String },
}

const DIRECTORY: u8 = 1;
const DEVICE: u8 = 2;
const CONFIGURATION_IS: u8 = 3;
const BEGIN: u8 = 4;
const OPEN_TO_READ: u8 = 5;
const OPEN_TO_WRITE: u8 = 6;
const CONFIGURATION: u8 = 7;
const MAY_READ: u8 = 8;
const READ: u8 = 9;
const OPEN_TO_READ_DIRECTLY: u8 = 10;
const OPEN_TO_WRITE_DIRECTLY: u8 = 11;
const COMMAND: u8 = 12;
const GIVES_BACK: u8 = 13;
const SETTLED: u8 = 14;

const READY: u8 = 1;
const OPENED: u8 = 2;
const REFUSED: u8 = 3;
const MISSING: u8 = 4;

const ACCESSES: [OpenMode; 4] =
    [OpenMode::Read, OpenMode::ReadWrite, OpenMode::ReadDirect, OpenMode::ReadWriteDirect];

fn kind_of(access: OpenMode) -> u8 {
    match access {
        OpenMode::Read => OPEN_TO_READ,
        OpenMode::ReadWrite => OPEN_TO_WRITE,
        OpenMode::ReadDirect => OPEN_TO_READ_DIRECTLY,
        OpenMode::ReadWriteDirect => OPEN_TO_WRITE_DIRECTLY,
    }
}

/// A kind, an id, and bytes.
fn encoded(kind: u8, id: u64, rest: &[u8]) -> Vec<u8> {
    [&[kind], &id.to_le_bytes()[..], rest].concat()
}

/// The parts of a message, whatever they mean.
fn parts(bytes: &[u8]) -> Option<(u8, u64, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let (id, rest) = rest.split_first_chunk()?;
    Some((kind, u64::from_le_bytes(*id), rest))
}

impl CommandToStart {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.user.is_some())];
        if let Some((user, group)) = self.user {
            bytes.extend([user.to_le_bytes(), group.to_le_bytes()].concat());
        }
        for (index, word) in self.words.iter().enumerate() {
            bytes.extend((index > 0).then_some(0));
            bytes.extend(word.as_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (user, words) = match bytes.split_first()? {
            (0, words) => (None, words),
            (1, rest) => {
                let (user, rest) = rest.split_first_chunk()?;
                let (group, words) = rest.split_first_chunk()?;
                (Some((u32::from_le_bytes(*user), u32::from_le_bytes(*group))), words)
            }
            _ => return None,
        };
        let words: Vec<_> =
            words.split(|&byte| byte == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect();
        (!words[0].is_empty()).then_some(Self { user, words })
    }
}

impl BrokerRequest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let path = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let (kind, id, rest) = match self {
            Self::Directory(of) => (DIRECTORY, 0, path(of)),
            Self::Device(of) => (DEVICE, 0, path(of)),
            Self::ConfigurationIs(of) => (CONFIGURATION_IS, 0, path(of)),
            Self::MayRead(of) => (MAY_READ, 0, path(of)),
            Self::Command(command) => (COMMAND, 0, command.encode()),
            Self::GivesBack(of) => (GIVES_BACK, 0, path(of)),
            Self::Begin => (BEGIN, 0, Vec::new()),
            Self::Settled => (SETTLED, 0, Vec::new()),
            Self::Open { id, access, path: of } => (kind_of(*access), *id, path(of)),
            Self::Configuration { id } => (CONFIGURATION, *id, Vec::new()),
            Self::Read { id, path: of } => (READ, *id, path(of)),
        };
        encoded(kind, id, &rest)
    }

    /// `None` for what is no request.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MESSAGE_BYTES {
            return None;
        }
        let (kind, id, rest) = parts(bytes)?;
        let path = || {
            let is_one = !rest.is_empty() && !rest.contains(&0);
            is_one.then(|| PathBuf::from(OsStr::from_bytes(rest)))
        };
        Some(match (kind, id, rest) {
            (DIRECTORY, 0, _) => Self::Directory(path()?),
            (DEVICE, 0, _) => Self::Device(path()?),
            (CONFIGURATION_IS, 0, _) => Self::ConfigurationIs(path()?),
            (MAY_READ, 0, _) => Self::MayRead(path()?),
            (COMMAND, 0, _) => Self::Command(CommandToStart::decode(rest)?),
            (GIVES_BACK, 0, _) => Self::GivesBack(path()?),
            (BEGIN, 0, []) => Self::Begin,
            (SETTLED, 0, []) => Self::Settled,
            (CONFIGURATION, 1.., []) => Self::Configuration { id },
            (READ, 1.., _) => Self::Read { id, path: path()? },
            (_, 1.., _) => {
                let access = ACCESSES.into_iter().find(|access| kind_of(*access) == kind)?;
                Self::Open { id, access, path: path()? }
            }
            _ => return None,
        })
    }
}

impl BrokerReply {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready => encoded(READY, 0, &[]),
            Self::Opened { id } => encoded(OPENED, *id, &[]),
            Self::Missing { id } => encoded(MISSING, *id, &[]),
            Self::Refused { id, why } => {
                encoded(REFUSED, *id, &why.as_bytes()[..why.floor_char_boundary(SENTENCE_BYTES)])
            }
        }
    }

    /// `None` for what is no reply.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, id, rest) = parts(bytes)?;
        Some(match (kind, id, rest) {
            (READY, 0, []) => Self::Ready,
            (OPENED, 1.., []) => Self::Opened { id },
            (MISSING, 1.., []) => Self::Missing { id },
            (REFUSED, _, why) if why.len() <= SENTENCE_BYTES => {
                Self::Refused { id, why: std::str::from_utf8(why).ok()?.to_owned() }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let path = || PathBuf::from(OsStr::from_bytes(b"/a b/\xff\n"));
        for request in [
            BrokerRequest::Directory(path()),
            BrokerRequest::Device(path()),
            BrokerRequest::ConfigurationIs(path()),
            BrokerRequest::MayRead(path()),
            BrokerRequest::Command(CommandToStart { user: None, words: vec!["a".into()] }),
            BrokerRequest::Command(CommandToStart {
                user: Some((0, u32::MAX)),
                words: ["/b", "", "-c d"].map(Into::into).to_vec(),
            }),
            BrokerRequest::GivesBack(path()),
            BrokerRequest::Begin,
            BrokerRequest::Settled,
            BrokerRequest::Open { id: 1, access: OpenMode::Read, path: path() },
            BrokerRequest::Open { id: u64::MAX, access: OpenMode::ReadWrite, path: path() },
            BrokerRequest::Open { id: 2, access: OpenMode::ReadDirect, path: path() },
            BrokerRequest::Open { id: 3, access: OpenMode::ReadWriteDirect, path: path() },
            BrokerRequest::Configuration { id: 7 },
            BrokerRequest::Read { id: 8, path: path() },
        ] {
            assert_eq!(BrokerRequest::decode(&request.encode()), Some(request));
        }
        for reply in [
            BrokerReply::Ready,
            BrokerReply::Opened { id: 9 },
            BrokerReply::Missing { id: 10 },
            BrokerReply::Refused { id: 0, why: String::new() },
            BrokerReply::Refused { id: 3, why: "no such ü".to_owned() },
        ] {
            assert_eq!(BrokerReply::decode(&reply.encode()), Some(reply));
        }
        let long = BrokerReply::Refused { id: 3, why: "ü".repeat(4000) };
        assert_eq!(
            BrokerReply::decode(&long.encode()),
            Some(BrokerReply::Refused { id: 3, why: "ü".repeat(1024) })
        );
    }

    #[test]
    fn what_is_not_right_is_nothing() {
        for bytes in [
            &[][..],
            &[OPEN_TO_READ],
            &encoded(OPEN_TO_READ, 0, b"/a"),
            &encoded(OPEN_TO_READ, 1, b""),
            &encoded(OPEN_TO_READ, 1, b"/a\0b"),
            &encoded(OPEN_TO_READ, 1, &[b'a'; MESSAGE_BYTES]),
            &encoded(CONFIGURATION, 1, b"/a"),
            &encoded(DIRECTORY, 1, b"/a"),
            &encoded(BEGIN, 0, b"/a"),
            &encoded(0, 0, b""),
            &encoded(MAY_READ, 1, b"/a"),
            &encoded(READ, 0, b"/a"),
            &encoded(READ, 1, b""),
            &encoded(OPEN_TO_READ_DIRECTLY, 1, b""),
            &encoded(COMMAND, 1, b"\0a"),
            &encoded(COMMAND, 0, b""),
            &encoded(COMMAND, 0, b"\0"),
            &encoded(COMMAND, 0, b"\0\0a"),
            &encoded(COMMAND, 0, b"\x02a"),
            &encoded(COMMAND, 0, b"\x011234567"),
            &encoded(COMMAND, 0, b"\x0112345678"),
            &encoded(13, 1, b"/a"),
        ] {
            assert_eq!(BrokerRequest::decode(bytes), None, "{bytes:?}");
        }
        for bytes in [
            &[][..],
            &encoded(READY, 1, b""),
            &encoded(OPENED, 0, b""),
            &encoded(OPENED, 1, b"x"),
            &encoded(REFUSED, 1, b"\xff"),
            &encoded(REFUSED, 1, &[b'a'; SENTENCE_BYTES + 1]),
            &encoded(MISSING, 0, b""),
            &encoded(MISSING, 1, b"x"),
            &encoded(5, 1, b""),
        ] {
            assert_eq!(BrokerReply::decode(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_that_says_the_same_again_or_nothing(bytes: Vec<u8>, kind in 0..14_u8, id: u64) {
            for bytes in [bytes.clone(), encoded(kind, id, &bytes)] {
                if let Some(request) = BrokerRequest::decode(&bytes) {
                    prop_assert_eq!(request.encode(), bytes.clone());
                }
                if let Some(reply) = BrokerReply::decode(&bytes) {
                    prop_assert_eq!(reply.encode(), bytes);
                }
            }
        }
    }
}
