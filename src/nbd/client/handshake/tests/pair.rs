//! Both ends of a handshake in memory: this client and this project's server must come to the same.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::meta_context::MetaContext;
use crate::server::handshake::{self, Handshake, HandshakeLimits, Negotiated, TlsMode};
use crate::session::ExportInfo;
use crate::vocabulary::DeviceFacts;
use proptest::prelude::*;

const LIMITS: HandshakeLimits = HandshakeLimits { option_length: 64 << 10, options: 64, bytes: 1 << 20 };

fn export(name: &str, size: u64, read_only: bool) -> ExportInfo {
    ExportInfo {
        name: name.into(),
        description: format!("export {name}"),
        facts: DeviceFacts {
            size,
            read_only,
            rotational: read_only,
            fast_zero: true,
            block_sizes: BlockSizes::default(),
        },
        contexts: vec![MetaContext::BaseAllocation],
        require_block_size: read_only,
    }
}

/// Lets the two talk, each fed in pieces of its own size; gives how it ended for each.
fn converse(
    goal: Goal,
    exports: &[ExportInfo],
    to_client: usize,
    to_server: usize,
) -> (Result<HandshakeOutcome, HandshakeError>, Option<Negotiated>) {
    let (client, server) = (ClientHandshake::new(goal).unwrap(), Handshake::new(LIMITS));
    converse_as(client, server, exports, to_client, to_server)
}

fn converse_as(
    mut client: ClientHandshake,
    mut server: Handshake,
    exports: &[ExportInfo],
    to_client: usize,
    to_server: usize,
) -> (Result<HandshakeOutcome, HandshakeError>, Option<Negotiated>) {
    let (mut for_client, mut for_server) = (Vec::new(), Vec::new());
    let mut negotiated = None;
    let mut is_open = true;
    loop {
        let end = for_server.len().min(to_server);
        let mut piece = &for_server[..end];
        let event = server.feed(&mut piece);
        let taken = end - piece.len();
        for_server.drain(..taken);
        match event {
            Ok(Some(handshake::Event::Output)) => for_client.extend(server.take_output()),
            Ok(Some(handshake::Event::Lookup(name))) => {
                let found = exports.iter().position(|export| export.name == name);
                server.found(found.map(|index| (index, &exports[index])));
            }
            Ok(Some(handshake::Event::List)) => server.listed(exports),
            Ok(Some(handshake::Event::StartTls)) => server.secured(),
            Ok(Some(handshake::Event::Done(result))) => negotiated = Some(result),
            Ok(None) => {}
            Err(_) => is_open = false,
        }
        let mut piece = &for_client[..for_client.len().min(to_client)];
        let offered = piece.len();
        let event = client.feed(&mut piece);
        let taken = offered - piece.len();
        for_client.drain(..taken);
        match event {
            Ok(Some(Event::Output)) => for_server.extend(client.take_output()),
            Ok(Some(Event::StartTls)) => assert!(for_client.is_empty(), "the rest is encrypted"),
            Ok(None) if !is_open && for_client.is_empty() => {
                return (Err(client.closed()), negotiated);
            }
            Ok(None) => {}
            Ok(Some(Event::Done(outcome))) => {
                // But for an ACK of ABORT, which is not waited for.
                assert!(
                    negotiated.is_none() || for_client.is_empty(),
                    "what is left over belongs to the next phase"
                );
                return (Ok(outcome), negotiated);
            }
            Err(error) => return (Err(error), negotiated),
        }
    }
}

proptest! {
    #[test]
    fn both_ends_agree_on_the_session(
        size in prop_oneof![Just(0u64), 1u64..1 << 50],
        read_only: bool,
        pieces in (1usize..100, 1usize..100),
        with_contexts: bool,
    ) {
        let exports = [export("other", 512, false), export("disk", size, read_only)];
        let contexts: &[&str] = if with_contexts { &["base:allocation", "x-y:z"] } else { &[] };
        let (outcome, negotiated) = converse(go("disk", contexts), &exports, pieces.0, pieces.1);
        let Ok(HandshakeOutcome::Transmission(client)) = outcome else { panic!("{outcome:?}") };
        let server = negotiated.expect("the server entered the transmission phase");
        prop_assert_eq!(server.export, 1);
        let session = server.session;
        prop_assert_eq!((client.export.size, session.size), (size, size));
        prop_assert_eq!(client.dialect.reply_mode, session.reply_mode);
        prop_assert_eq!(client.export.transmission_flags, session.transmission_flags);
        prop_assert_eq!(client.export.block_sizes, Some(session.block_sizes));
        prop_assert_eq!(client.export.description.as_deref(), Some("export disk"));
        let ids = |name: &str| client.contexts.iter().find(|context| context.name == name).map(|context| context.id);
        prop_assert_eq!(ids("base:allocation"), session.contexts.first().map(|context| context.id));
        prop_assert_eq!(client.contexts.len(), usize::from(with_contexts));
    }

    #[test]
    fn both_ends_agree_behind_starttls(pieces in (1usize..100, 1usize..100), required: bool) {
        let exports = [export("disk", 4096, false)];
        let mode = if required { TlsMode::Required } else { TlsMode::Selective };
        let client = ClientHandshake::new(go("disk", &["base:allocation"])).unwrap().secured();
        let server = Handshake::with_tls(LIMITS, mode);
        let (outcome, negotiated) = converse_as(client, server, &exports, pieces.0, pieces.1);
        let Ok(HandshakeOutcome::Transmission(client)) = outcome else { panic!("{outcome:?}") };
        prop_assert_eq!((client.export.size, client.contexts.len()), (4096, 1));
        prop_assert!(negotiated.is_some());
    }

    #[test]
    fn a_list_is_the_servers(
        names in prop::collection::btree_set("[^\0]{0,20}", 0..8),
        pieces in (1usize..100, 1usize..100),
    ) {
        let exports: Vec<ExportInfo> = names.iter().map(|name| export(name, 4096, false)).collect();
        let (outcome, _) = converse(Goal::List, &exports, pieces.0, pieces.1);
        let Ok(HandshakeOutcome::List(dialect, listed)) = outcome else { panic!("{outcome:?}") };
        prop_assert_eq!(dialect.reply_mode, ReplyMode::Extended);
        prop_assert_eq!(listed.iter().map(|export| &export.name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
        for export in listed {
            let details = export.details.unwrap();
            prop_assert_eq!((details.size, details.contexts), (4096, Some(vec!["base:allocation".to_owned()])));
        }
    }
}

#[test]
fn an_unknown_export_and_an_empty_one() {
    let exports = [export("disk", 0, false)];
    let (outcome, _) = converse(info("none"), &exports, 7, 11);
    assert!(matches!(outcome, Err(HandshakeError::UnknownExport { .. })), "{outcome:?}");
    let (outcome, _) = converse(info("disk"), &exports, 7, 11);
    let Ok(HandshakeOutcome::Info(_, details)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(details.size, 0);
}

#[test]
fn servers_without_tls_and_clients_without_it() {
    let exports = [export("disk", 4096, false)];
    let secured = ClientHandshake::new(info("disk")).unwrap().secured();
    let (outcome, _) = converse_as(secured, Handshake::new(LIMITS), &exports, 7, 11);
    assert!(
        matches!(outcome, Err(HandshakeError::NoTls(_) | HandshakeError::TlsForbidden(_))),
        "{outcome:?}"
    );
    let plain = ClientHandshake::new(info("disk")).unwrap();
    let (outcome, _) = converse_as(plain, Handshake::with_tls(LIMITS, TlsMode::Required), &exports, 7, 11);
    assert!(matches!(outcome, Err(HandshakeError::TlsRequired(_))), "{outcome:?}");
}
