//! Handshake statements H16 to H23 and H28: structured replies, extended headers, metadata contexts.

use crate::support::handshake::contexts;
use crate::support::peer::Peer;
use crate::support::raw::{CHUNKED, Connection, Mode, Request, spoken};
use crate::support::server::Server;
use crate::support::tls::cannot_be_asked;
use crate::support::wire::*;

const LIST_AND_SET: [u32; 2] = [NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT];
const ALLOCATION: &[u8] = b"base:allocation";

#[test]
fn h16_second_negotiation_is_invalid() {
    let server = Server::serve(&["mem:1M"]);
    for (number, mode) in
        [(NBD_OPT_STRUCTURED_REPLY, Mode::Structured), (NBD_OPT_EXTENDED_HEADERS, Mode::Extended)]
    {
        let mut client = Connection::haggling(&server);
        client.choose(mode);
        client.expect_only(number, b"", NBD_REP_ERR_INVALID);
        client.expect_only(number, b"", NBD_REP_ERR_INVALID);
        client.expect_in_step();
        client.go("");
        client.expect_alive(); // in the mode that the first one chose
    }
}

#[test]
fn h16_negotiation_with_data_is_invalid_and_changes_nothing() {
    let server = Server::serve(&["mem:1M"]);
    for mode in spoken(CHUNKED) {
        let number = match mode {
            Mode::Extended => NBD_OPT_EXTENDED_HEADERS,
            _ => NBD_OPT_STRUCTURED_REPLY,
        };
        for data in [&b"x"[..], &[0; 512]] {
            let mut client = Connection::haggling(&server);
            client.expect_only(number, data, NBD_REP_ERR_INVALID);
            client.expect_in_step();
            client.go("");
            client.expect_alive(); // simple replies and compact requests still
        }
    }
}

#[test]
fn h28_notls_refuses_starttls_and_never_asks_for_it() {
    if cannot_be_asked("it is about a server without TLS") {
        return;
    }
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    for data in [&b""[..], b"data"] {
        let replies = client.ask(NBD_OPT_STARTTLS, data);
        let allowed = [NBD_REP_ERR_UNSUP, NBD_REP_ERR_POLICY, NBD_REP_ERR_PLATFORM, NBD_REP_ERR_INVALID];
        assert!(replies.len() == 1 && allowed.contains(&replies[0].kind), "{replies:02x?}");
        assert!(
            !data.is_empty() || replies[0].kind != NBD_REP_ERR_INVALID,
            "nothing is wrong with it: {replies:02x?}"
        );
    }
    for number in (NBD_OPT_LIST..=NBD_OPT_SET_META_CONTEXT).chain([0x0765_4321]) {
        for data in [&b""[..], &info_data(b"no such", &[]), &meta_data(b"no such", &[])] {
            client.renew_for_peers(&server); // nbdkit has any name, so GO begins the transmission
            let replies = client.ask(number, data);
            assert!(
                replies.iter().all(|reply| reply.kind != NBD_REP_ERR_TLS_REQD),
                "option {number}: {replies:02x?}"
            );
        }
    }
    client.expect_in_step();
    client.mode = Peer::ours_or(Mode::Structured, Mode::Simple); // ours had it negotiated on the way
    client.go("");
    client.expect_alive();
}

#[test]
fn h17_structured_reply_after_extended_headers() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.choose(Mode::Extended);
    client.expect_only(NBD_OPT_STRUCTURED_REPLY, b"", NBD_REP_ERR_EXT_HEADER_REQD);
    client.expect_in_step();
    client.go("");
    client.expect_alive();
}

#[test]
fn h17_extended_headers_take_precedence_over_structured_replies() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.choose(Mode::Structured);
    client.choose(Mode::Extended);
    client.go("");
    client.expect_alive();
}

#[test]
fn h17_export_name_after_extended_headers_closes() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.choose(Mode::Extended);
    client.send_option(NBD_OPT_EXPORT_NAME, b"");
    client.expect_close("EXPORT_NAME after EXTENDED_HEADERS");
}

#[test]
fn h17_export_name_works_with_structured_replies() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.choose(Mode::Structured);
    client.select("", &[ALLOCATION]);
    client.send_option(NBD_OPT_EXPORT_NAME, b"");
    let reply = client.receive(10, "size and flags");
    (client.export.size, client.export.flags) = (be64(&reply, 0), be16(&reply, 8));
    assert!(client.export.has(NBD_FLAG_SEND_DF), "DF is offered with structured replies");
    client.expect_alive();
    client.extents(&Request::status(0, MIB));
}

#[test]
fn h18_set_meta_context_needs_structured_replies() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.expect_only(NBD_OPT_SET_META_CONTEXT, &meta_data(b"", &[ALLOCATION]), NBD_REP_ERR_INVALID);
    // LIST may be answered either way, but must be answered once and whole.
    client.ask(NBD_OPT_LIST_META_CONTEXT, &meta_data(b"", &[]));
    client.expect_in_step();
    client.go("");
    client.fail(&Request::status(0, 512), NBD_EINVAL);
    client.expect_alive();
}

/// SET_META_CONTEXT options that must fail, whatever was selected before.
fn failing() -> Vec<(&'static str, Vec<u8>)> {
    let good = meta_data(b"", &[ALLOCATION]);
    let with = |at: usize, value: u32| {
        let mut data = good.clone();
        data[at..at + 4].copy_from_slice(&value.to_be_bytes());
        data
    };
    vec![
        ("unknown export", meta_data(b"no such", &[ALLOCATION])),
        ("no data", Vec::new()),
        ("half a length", good[..2].to_vec()),
        ("only the name", good[..4].to_vec()),
        ("half a count", good[..6].to_vec()),
        ("name beyond the option", with(0, 100)),
        ("name of 2^32-1", with(0, u32::MAX)),
        ("fewer queries than counted", with(4, 2)),
        ("2^32-1 queries counted", with(4, u32::MAX)),
        ("query beyond the option", with(8, 16)),
        ("query of 2^32-1", with(8, u32::MAX)),
        ("query of 2^32-4, so that +4 wraps", with(8, u32::MAX - 3)),
        ("query cut short", good[..good.len() - 1].to_vec()),
        ("trailing byte", [&good[..], b"x"].concat()),
        ("more queries than counted", with(4, 0)),
        ("NUL in the name", meta_data(b"\0", &[ALLOCATION])),
        ("name is not UTF-8", meta_data(b"\xff", &[ALLOCATION])),
    ]
}

#[test]
fn h19_failing_set_meta_context_clears_earlier_contexts() {
    let server = Server::serve(&["mem:1M"]);
    // Whether a refusal may quote a name that is not UTF-8 is a matter of H9.
    let is_ours = Peer::from_env() == Peer::Ringnbd;
    for (what, data) in failing().into_iter().filter(|(what, _)| is_ours || *what != "name is not UTF-8") {
        for mode in spoken(CHUNKED) {
            eprintln!("-- {what}, {mode:?}");
            let mut client = Connection::haggling(&server);
            client.choose(mode);
            assert_eq!(client.select("", &[ALLOCATION]).len(), 1);
            let replies = client.ask(NBD_OPT_SET_META_CONTEXT, &data);
            if replies.last().expect("a reply").kind & NBD_REP_FLAG_ERROR == 0 {
                // Ours refuses all of them. Whether another server has to is a matter of H11 and H23.
                assert!(!is_ours, "{what}: {replies:02x?}");
                continue;
            }
            client.go("");
            client.fail(&Request::status(0, 512), NBD_EINVAL);
            client.expect_alive();
        }
    }
}

#[test]
fn h19_set_meta_context_replaces_the_selection() {
    let server = Server::serve(&["mem:1M"]);
    for queries in [&[][..], &[&b"base:"[..]], &[&b"x-unknown:leaf"[..]]] {
        let mut client = Connection::haggling(&server);
        client.choose(Mode::Structured);
        client.select("", &[ALLOCATION]);
        assert_eq!(client.select("", queries), []);
        client.go("");
        client.fail(&Request::status(0, 512), NBD_EINVAL);
        client.expect_alive();
    }
    // And a failure can be mended.
    let mut client = Connection::haggling(&server);
    client.choose(Mode::Structured);
    client.ask(NBD_OPT_SET_META_CONTEXT, &meta_data(b"no such", &[ALLOCATION]));
    client.select("", &[ALLOCATION]);
    client.go("");
    client.extents(&Request::status(0, MIB));
}

#[test]
fn h20_contexts_belong_to_their_export() {
    let server = Server::serve(&["a=mem:1M", "b=mem:1M"]);
    for mode in spoken(CHUNKED) {
        let mut client = Connection::haggling(&server);
        client.choose(mode);
        client.select("a", &[ALLOCATION]);
        client.go("b");
        client.fail(&Request::status(0, 512), NBD_EINVAL);
        client.expect_alive();
    }
    // By EXPORT_NAME as well.
    let mut client = Connection::haggling(&server);
    client.choose(Mode::Structured);
    client.select("a", &[ALLOCATION]);
    client.send_option(NBD_OPT_EXPORT_NAME, b"b");
    client.receive(10, "size and flags");
    client.fail(&Request::status(0, 512), NBD_EINVAL);
}

#[test]
fn h20_contexts_survive_a_detour() {
    let server = Server::serve(&["a=mem:1M", "b=mem:1M"]);
    for mode in spoken(CHUNKED) {
        let mut client = Connection::haggling(&server);
        client.choose(mode);
        client.select("a", &[ALLOCATION]);
        // Neither a look at another export nor a GO that fails selects anything else.
        client.ask(NBD_OPT_INFO, &info_data(b"b", &[]));
        client.ask(NBD_OPT_LIST_META_CONTEXT, &meta_data(b"b", &[]));
        client.expect_only(NBD_OPT_GO, &info_data(b"c", &[]), NBD_REP_ERR_UNKNOWN);
        client.go("a");
        client.extents(&Request::status(0, MIB));
    }
}

#[test]
fn h21_list_meta_context() {
    let server = Server::serve(&["disk=mem:1M"]);
    assert!(Peer::from_env().has_contexts(), "PEER CANNOT: tell what is allocated");
    for mode in spoken(CHUNKED) {
        let mut client = Connection::haggling(&server);
        client.choose(mode);
        let lists: [&[&[u8]]; 4] = [&[], &[b"base:"], &[ALLOCATION], &[b"x-other:", b"base:", ALLOCATION]];
        for queries in lists {
            let replies = client.ask(NBD_OPT_LIST_META_CONTEXT, &meta_data(b"disk", queries));
            let listed = contexts(&replies);
            let allocation: Vec<_> = listed.iter().filter(|(_, name)| name == "base:allocation").collect();
            assert_eq!(allocation.len(), 1, "base:allocation once for {queries:?}: {listed:?}");
            assert!(listed.iter().all(|&(id, _)| id == 0), "the id is reserved in a LIST: {listed:?}");
            if !queries.is_empty() {
                assert!(
                    listed.iter().all(|(_, name)| name.starts_with("base:")),
                    "only what was asked: {listed:?}"
                );
            }
        }
        for queries in [&[&b"x-other:"[..]][..], &[b"base:nonesuch"], &[b"basex:allocation"]] {
            let replies = client.ask(NBD_OPT_LIST_META_CONTEXT, &meta_data(b"disk", queries));
            assert_eq!(contexts(&replies), [], "nothing for {queries:?}");
        }
        client.expect_only(NBD_OPT_LIST_META_CONTEXT, &meta_data(b"other", &[]), NBD_REP_ERR_UNKNOWN);
        // Listing selects nothing.
        client.go("disk");
        client.fail(&Request::status(0, 512), NBD_EINVAL);
    }
}

#[test]
fn h22_what_set_meta_context_selects() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.choose(Mode::Structured);
    let nothing: [&[&[u8]]; 6] = [
        &[],
        &[b"base:"],
        &[b"x-unknown:leaf", b"unknown:"],
        &[b"base:allocatio", b"base:allocations", b"base:ALLOCATION"],
        &[b"base:allocation "],
        &["größe:ö".as_bytes()],
    ];
    for queries in nothing {
        assert_eq!(client.select("", queries), [], "{queries:?}");
    }
    let one: [&[&[u8]]; 4] =
        [&[ALLOCATION], &[b"base:", ALLOCATION], &[b"x-unknown:leaf", ALLOCATION], &[ALLOCATION, ALLOCATION]];
    for queries in one {
        let selected = client.select("", queries);
        assert_eq!(selected.len(), 1, "{queries:?} select {selected:?}");
        assert_eq!(selected[0].1, "base:allocation");
    }
}

#[test]
fn h22_query_without_a_colon_is_invalid_or_ignored() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.choose(Mode::Structured);
    for query in
        [&b""[..], b"base", b"allocation", b"\xff\xff", b"base:\0", b":", b":allocation", &[b'q'; 4096]]
    {
        for number in LIST_AND_SET {
            let replies = client.ask(number, &meta_data(b"", &[query]));
            let kinds: Vec<u32> = replies.iter().map(|reply| reply.kind).collect();
            assert!(kinds == [NBD_REP_ERR_INVALID] || kinds == [NBD_REP_ACK], "{query:?}: {replies:02x?}");
        }
        client.expect_in_step();
    }
    client.select("", &[ALLOCATION]);
    client.go("");
    client.extents(&Request::status(0, MIB));
}

#[test]
fn h22_many_queries() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.choose(Mode::Structured);
    let queries = vec![ALLOCATION; 200];
    for number in LIST_AND_SET {
        let replies = client.ask(number, &meta_data(b"", &queries));
        match replies.last().expect("a reply").kind {
            NBD_REP_ERR_TOO_BIG => assert_eq!(replies.len(), 1),
            _ => assert_eq!(contexts(&replies).len(), 1, "one context however often it is asked for"),
        }
    }
    client.expect_in_step();
}

#[test]
fn h23_lengths_beyond_the_option_are_invalid() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.choose(Mode::Structured);
    for (what, data) in failing().into_iter().filter(|(what, _)| *what != "unknown export") {
        client.renew_for_peers(&server);
        for number in LIST_AND_SET {
            eprintln!("-- {what}");
            // Contexts found before the fault may come first; "the client MUST disregard" them.
            let last = client.ask(number, &data).pop().expect("a reply").kind;
            assert_eq!(last, NBD_REP_ERR_INVALID, "{what}: {last:#x}");
            client.expect_in_step();
        }
    }
    client.select("", &[ALLOCATION]);
    client.go("");
    client.extents(&Request::status(0, MIB));
}
