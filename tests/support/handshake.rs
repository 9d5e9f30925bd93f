//! The client's half of the newstyle handshake, one option at a time.

use super::peer::Peer;
use super::raw::{Connection, Mode};
use super::server::Server;
use super::wire::*;

/// What a server tells of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Export {
    pub(crate) size: u64,
    pub(crate) flags: u16,
    /// NBD_INFO_BLOCK_SIZE: minimum, preferred, maximum payload.
    pub(crate) block_size: Option<[u32; 3]>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) description: Option<Vec<u8>>,
    /// Selected metadata contexts: id and name.
    pub(crate) contexts: Vec<(u32, String)>,
}

impl Export {
    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The id of `base:allocation`.
    #[track_caller]
    pub(crate) fn allocation_id(&self) -> u32 {
        self.contexts
            .iter()
            .find(|(_, name)| name == "base:allocation")
            .expect("base:allocation is selected")
            .0
    }
}

/// One reply to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OptionReply {
    pub(crate) option: u32,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
}

impl Connection {
    /// Reads the greeting and answers with these client flags.
    #[track_caller]
    pub(crate) fn greet(&mut self, client_flags: u32) -> u16 {
        let flags = self.read_greeting();
        self.send(&client_flags.to_be_bytes());
        flags
    }

    /// "Newstyle negotiation": two magics and the handshake flags.
    #[track_caller]
    pub(crate) fn read_greeting(&mut self) -> u16 {
        let bytes = self.receive(18, "the greeting");
        assert_eq!(be64(&bytes, 0), NBD_INIT_MAGIC, "NBDMAGIC");
        assert_eq!(be64(&bytes, 8), NBD_OPTS_MAGIC, "IHAVEOPT");
        let flags = be16(&bytes, 16);
        assert_eq!(flags & NBD_FLAG_FIXED_NEWSTYLE, 1, "fixed newstyle is offered");
        assert_eq!(flags & !(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES), 0, "no unknown handshake flag");
        flags
    }

    /// A connection past its greeting, ready for options.
    #[track_caller]
    pub(crate) fn haggling(server: &Server) -> Self {
        let mut connection = Self::open(server);
        connection.greet(MODERN);
        connection
    }

    /// Goes on over a new connection, if the server under test is not ours. A server may take a client that
    /// sends many options for an attack ("Termination of the session during option haggling"), and nbdkit ends
    /// it after 32. Ours has to answer any number.
    #[track_caller]
    pub(crate) fn renew_for_peers(&mut self, server: &Server) {
        if Peer::from_env() != Peer::Ringnbd {
            let mode = self.mode;
            *self = Self::haggling(server);
            self.choose(mode);
        }
    }

    #[track_caller]
    pub(crate) fn send_option(&mut self, number: u32, data: &[u8]) {
        self.send(&option(number, data));
    }

    /// Reads one option reply and checks its frame.
    #[track_caller]
    pub(crate) fn option_reply(&mut self) -> OptionReply {
        let header = self.receive(20, "an option reply");
        assert_eq!(be64(&header, 0), NBD_REP_MAGIC, "the magic of an option reply, in {header:02x?}");
        let length = be32(&header, 16) as usize;
        assert!(length <= 1 << 20, "an option reply of {length} bytes");
        let reply = OptionReply {
            option: be32(&header, 8),
            kind: be32(&header, 12),
            data: self.receive(length, "the data of an option reply"),
        };
        if reply.kind & NBD_REP_FLAG_ERROR != 0 {
            assert!(std::str::from_utf8(&reply.data).is_ok(), "an error text is UTF-8: {reply:02x?}");
            assert!(
                reply.data.len() <= 4096 && !reply.data.contains(&0),
                "an error text is a string: {reply:02x?}"
            );
        }
        if reply.kind == NBD_REP_ACK {
            assert!(reply.data.is_empty(), "an ACK has no data: {reply:02x?}");
        }
        reply
    }

    /// The next option reply, or `None` when the server closes (or resets) instead.
    #[track_caller]
    pub(crate) fn option_reply_or_close(&mut self) -> Option<OptionReply> {
        if self.closes_before_a_byte() { None } else { Some(self.option_reply()) }
    }

    /// Sends an option and reads its replies up to the final one, which comes last.
    #[track_caller]
    pub(crate) fn ask(&mut self, number: u32, data: &[u8]) -> Vec<OptionReply> {
        self.send_option(number, data);
        self.replies_to(number)
    }

    /// All replies to an option already sent.
    #[track_caller]
    pub(crate) fn replies_to(&mut self, number: u32) -> Vec<OptionReply> {
        let mut replies = Vec::new();
        loop {
            let reply = self.option_reply();
            assert_eq!(reply.option, number, "the reply names its option: {reply:02x?}");
            let last = reply.kind == NBD_REP_ACK || reply.kind & NBD_REP_FLAG_ERROR != 0;
            replies.push(reply);
            if last {
                return replies;
            }
        }
    }

    /// Asserts that the option gets one reply, of this kind.
    #[track_caller]
    pub(crate) fn expect_only(&mut self, number: u32, data: &[u8], kind: u32) {
        let replies = self.ask(number, data);
        let kinds: Vec<String> = replies.iter().map(|reply| format!("{:#x}", reply.kind)).collect();
        assert_eq!(kinds, [format!("{kind:#x}")], "replies to option {number} with data {data:02x?}");
    }

    /// Asserts that the option stream is in step: an unknown option gets its own UNSUP.
    #[track_caller]
    pub(crate) fn expect_in_step(&mut self) {
        self.expect_only(0x0765_4321, b"sync", NBD_REP_ERR_UNSUP);
    }

    /// Decodes the replies to a successful INFO or GO, checking each item's length.
    #[track_caller]
    pub(crate) fn decode_info(replies: &[OptionReply]) -> Export {
        let mut export = Export::default();
        let mut exports = 0;
        for reply in replies {
            match reply.kind {
                NBD_REP_ACK => {}
                NBD_REP_INFO => match be16(&reply.data, 0) {
                    NBD_INFO_EXPORT => {
                        assert_eq!(reply.data.len(), 12, "INFO_EXPORT is 12 bytes: {reply:02x?}");
                        exports += 1;
                        (export.size, export.flags) = (be64(&reply.data, 2), be16(&reply.data, 10));
                    }
                    NBD_INFO_NAME => export.name = Some(reply.data[2..].to_vec()),
                    NBD_INFO_DESCRIPTION => export.description = Some(reply.data[2..].to_vec()),
                    NBD_INFO_BLOCK_SIZE => {
                        assert_eq!(reply.data.len(), 14, "INFO_BLOCK_SIZE is 14 bytes: {reply:02x?}");
                        export.block_size = Some([2, 6, 10].map(|at| be32(&reply.data, at)));
                    }
                    other => panic!("an information type nobody asked for: {other}"),
                },
                other => panic!("reply {other:#x} ({}) where success was expected", text(&reply.data)),
            }
        }
        assert_eq!(exports, 1, "exactly one INFO_EXPORT in {replies:02x?}");
        assert!(export.has(NBD_FLAG_HAS_FLAGS), "NBD_FLAG_HAS_FLAGS is always set: {:#x}", export.flags);
        export
    }

    /// Sends GO with these information requests; the connection is in transmission afterwards.
    #[track_caller]
    pub(crate) fn go_with(&mut self, name: &str, requests: &[u16]) {
        let replies = self.ask(NBD_OPT_GO, &info_data(name.as_bytes(), requests));
        let contexts = std::mem::take(&mut self.export.contexts);
        self.export = Export { contexts, ..Self::decode_info(&replies) };
    }

    #[track_caller]
    pub(crate) fn go(&mut self, name: &str) {
        self.go_with(name, &[NBD_INFO_BLOCK_SIZE]);
    }

    /// Negotiates structured replies or extended headers, or nothing for simple replies.
    #[track_caller]
    pub(crate) fn choose(&mut self, mode: Mode) {
        assert!(Peer::from_env().speaks(mode), "PEER CANNOT: speak {mode:?}");
        match mode {
            Mode::Simple => {}
            Mode::Structured => self.expect_only(NBD_OPT_STRUCTURED_REPLY, b"", NBD_REP_ACK),
            Mode::Extended => self.expect_only(NBD_OPT_EXTENDED_HEADERS, b"", NBD_REP_ACK),
        }
        self.mode = mode;
    }

    /// SET_META_CONTEXT; returns and remembers what was selected.
    #[track_caller]
    pub(crate) fn select(&mut self, name: &str, queries: &[&[u8]]) -> Vec<(u32, String)> {
        let replies = self.ask(NBD_OPT_SET_META_CONTEXT, &meta_data(name.as_bytes(), queries));
        self.export.contexts = contexts(&replies);
        self.export.contexts.clone()
    }

    /// Minimum, preferred and maximum, which this server always tells.
    #[track_caller]
    pub(crate) fn block_sizes(&self) -> [u32; 3] {
        self.export.block_size.expect("PEER CANNOT: tell its block sizes")
    }

    /// A connection in transmission on `name`, with `base:allocation` selected where the mode allows it.
    #[track_caller]
    pub(crate) fn attach(server: &Server, name: &str, mode: Mode) -> Self {
        let mut connection = Self::haggling(server);
        connection.negotiate(name, mode);
        connection
    }

    /// The same over TCP.
    #[track_caller]
    pub(crate) fn attach_tcp(server: &Server, name: &str, mode: Mode) -> Self {
        let mut connection = Self::open_tcp(server);
        connection.greet(MODERN);
        connection.negotiate(name, mode);
        connection
    }

    /// The same over the unix socket, which holds few replies that nobody fetches.
    #[track_caller]
    pub(crate) fn attach_unix(server: &Server, name: &str, mode: Mode) -> Self {
        let stream = std::os::unix::net::UnixStream::connect(server.plain_socket())
            .expect("connect to the unix socket");
        let mut connection = Self::over_unix(stream);
        connection.greet(MODERN);
        connection.negotiate(name, mode);
        connection
    }

    #[track_caller]
    fn negotiate(&mut self, name: &str, mode: Mode) {
        self.choose(mode);
        if mode != Mode::Simple && Peer::from_env().has_contexts() {
            self.select(name, &[b"base:allocation"]);
        }
        self.go(name);
    }
}

/// The contexts in the replies to LIST or SET_META_CONTEXT, which must end with success.
#[track_caller]
pub(crate) fn contexts(replies: &[OptionReply]) -> Vec<(u32, String)> {
    let (last, rest) = replies.split_last().expect("a reply");
    assert_eq!(
        last.kind,
        NBD_REP_ACK,
        "the contexts end with ACK, got {:#x}: {}",
        last.kind,
        text(&last.data)
    );
    rest.iter()
        .map(|reply| {
            assert_eq!(reply.kind, NBD_REP_META_CONTEXT, "{reply:02x?}");
            let name = String::from_utf8(reply.data[4..].to_vec()).expect("a context name is UTF-8");
            (be32(&reply.data, 0), name)
        })
        .collect()
}

/// Bytes for a message to a person.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
