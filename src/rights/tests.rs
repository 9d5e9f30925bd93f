use std::net::SocketAddr;

use super::*;
use crate::identity::PeerIdentity;
use crate::sys::UnixCredentials;

thread_local! {
    /// Decisions of this thread so far.
    pub(crate) static DECISIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn rules(texts: &[&str]) -> Option<Arc<RuleList>> {
    let rules = texts.iter().map(|text| text.parse().unwrap_or_else(|error| panic!("{text}: {error}")));
    Some(Arc::new(RuleList::new(rules.collect())))
}

fn tcp(address: &str) -> Asker {
    Asker::of(&PeerIdentity::from(address.parse::<SocketAddr>().unwrap()))
}

fn unix(uid: u32, gid: u32) -> Asker {
    let unix = Some(UnixCredentials { pid: Some(1), uid, gid });
    Asker::of(&PeerIdentity { unix, ..PeerIdentity::default() })
}

fn decided(rights: &Rights, asker: &Asker) -> (bool, bool, bool) {
    let Decision { is_listed, may_read, may_write } = rights.decide(asker);
    (is_listed, may_read, may_write)
}

#[test]
fn without_rules_everybody_may_do_everything() {
    let open = Rights::default();
    assert!(open.are_open());
    for asker in [Asker::default(), tcp("127.0.0.1:1"), unix(0, 0), unix(65_534, 65_534)] {
        assert_eq!(decided(&open, &asker), (true, true, true));
    }
}

#[test]
fn reading_writing_and_being_listed_are_apart() {
    let rights =
        |listed| Rights { allow: rules(&["uid=1", "uid=2"]), write: rules(&["uid=1", "uid=3"]), listed };
    let default = rights(None);
    assert_eq!(decided(&default, &unix(1, 9)), (true, true, true));
    assert_eq!(decided(&default, &unix(2, 9)), (true, true, false));
    assert_eq!(decided(&default, &unix(3, 9)), (false, false, false), "to write is to be allowed");
    let always = rights(Some(Listing::Always));
    assert_eq!(decided(&always, &unix(4, 9)), (true, false, false));
    let never = rights(Some(Listing::Never));
    assert_eq!(decided(&never, &unix(1, 9)), (false, true, true));
    let nobody = Rights { allow: rules(&[]), ..Rights::default() };
    assert_eq!(decided(&nobody, &unix(0, 0)), (false, false, false));
}

#[test]
fn what_says_nothing_matches_nothing() {
    let allow = |texts: &[&str]| Rights { allow: rules(texts), ..Rights::default() };
    let may = |rights: &Rights, asker: &Asker| rights.decide(asker).may_read;
    // The overflow user has a group that is known.
    assert!(may(&allow(&["gid=5"]), &unix(65_534, 5)));
    assert!(!may(&allow(&["uid=0", "uid=65533"]), &unix(65_534, 65_534)));
    // A client of the other transport.
    assert!(!may(&allow(&["ip=0.0.0.0/0", "ip=::/0"]), &unix(0, 0)));
    assert!(!may(&allow(&["uid=0"]), &tcp("127.0.0.1:1")));
    // An empty name of a shared key; and no client of TLS.
    assert_eq!(unix(1, 1).with_shared_key(b""), unix(1, 1));
    assert!(!may(&allow(&["psk=vm1", "cert.cn=vm1"]), &unix(1, 1)));
    assert!(may(&allow(&["psk=vm1"]), &tcp("10.0.0.1:1").with_shared_key(b"vm1")));
    assert_eq!(unix(1, 1).with_certificate(b"garbage"), unix(1, 1));
}

#[test]
fn a_mapped_address_is_what_it_stands_for() {
    let rights = Rights { allow: rules(&["ip=10.0.0.0/8"]), ..Rights::default() };
    assert!(rights.decide(&tcp("10.9.9.9:1")).may_read);
    assert!(rights.decide(&tcp("[::ffff:10.9.9.9]:1")).may_read);
    assert!(!rights.decide(&tcp("[::10.9.9.9]:1")).may_read);
    let six = Rights { allow: rules(&["ip=::/0"]), ..Rights::default() };
    assert!(six.decide(&tcp("[::1]:1")).may_read && !six.decide(&tcp("[::ffff:10.9.9.9]:1")).may_read);
}

#[test]
fn an_export_says_more_than_the_default() {
    let below = Rights { allow: rules(&["uid=1"]), write: None, listed: Some(Listing::Never) };
    let own = Rights { allow: rules(&["uid=2"]), write: None, listed: None };
    assert_eq!(own.clone().or(&below), Rights { listed: Some(Listing::Never), ..own });
    assert_eq!(Rights::default().or(&below), below);
}

#[test]
fn a_client_is_shown_as_rules_say_it() {
    assert_eq!(unix(1000, 100).to_string(), "uid=1000 & gid=100");
    assert_eq!(tcp("[::ffff:1.2.3.4]:9").to_string(), "ip=1.2.3.4/32");
    assert_eq!(unix(65_534, 65_534).to_string(), "nothing is known");
    assert_eq!(Asker::default().with_shared_key(b"a\x1b&").to_string(), "psk=a\\u{1b}\\&");
}

#[cfg(feature = "tls")]
#[test]
fn a_certificate_says_who_it_is() {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
    let certificate = |names: &[&str], hosts: &[&str]| {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        tcp("10.0.0.1:1").with_certificate(&der)
    };
    let may = |rule: &str, asker: &Asker| {
        Rights { allow: rules(&[rule]), ..Rights::default() }.decide(asker).may_read
    };
    let vm1 = certificate(&["vm1"], &["host1.example"]);
    for rule in [
        "cert.cn=vm1",
        "cert.san=dns:HOST1.example",
        "cert.dn=CN=vm1,O=Example",
        "ip=10.0.0.0/8 & cert.cn=vm1",
    ] {
        assert!(may(rule, &vm1), "{rule}");
    }
    for rule in [
        "cert.cn=VM1",
        "cert.cn=Example",
        "cert.san=uri:host1.example",
        "cert.san=dns:example",
        "cert.dn=O=Example,CN=vm1",
        r"cert.dn=CN=vm1\,O=Example",
        "cert.dn=CN=vm1",
        "psk=vm1",
        "ip=11.0.0.0/8 & cert.cn=vm1",
    ] {
        assert!(!may(rule, &vm1), "{rule}");
    }
    let empty = certificate(&[""], &[]);
    assert!(!may("cert.cn=vm1", &empty) && !may("cert.dn=O=Example", &empty));
}
