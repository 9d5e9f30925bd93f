//! Rights by what a client of TLS proves: a certificate, a shared key, or nothing.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Served;
use crate::peers::{self, run};
use crate::support::wait_until;

const EXPORTS: &str = r#"
[[export]]
name = "by-certificate"
uri = "mem:1M"
allow = "cert.cn=vm1 & cert.san=dns:VM1"

[[export]]
name = "by-key"
uri = "mem:1M"
allow = ["psk=vm1", "cert.cn=vm2"]

[[export]]
name = "written-by-certificate"
uri = "mem:1M"
write = "cert.dn=CN=vm1"

[[export]]
name = "of-others"
uri = "mem:1M"
allow = ["cert.cn=vm2", "psk=vm2", "cert.dn=CN=vm1,O=x", "cert.san=uri:vm1"]
"#;

/// The exports that a client sees, and whether each is read-only.
fn seen(uri: &str) -> Option<BTreeMap<String, bool>> {
    let list = run(peers::command("nbdinfo")?.args(["--list", "--json", uri])).ok();
    let list: Value = serde_json::from_str(&list).unwrap();
    let exports = list["exports"].as_array().unwrap().iter();
    let name = |export: &Value| export["export-name"].as_str().unwrap().to_owned();
    Some(exports.map(|export| (name(export), export["is_read_only"].as_bool().unwrap())).collect())
}

#[test]
fn who_proves_something_finds_what_is_for_it() {
    let served = Served::with("mode = \"selective\"", EXPORTS);
    let plain = format!("nbd+unix://?socket={}", served.server.socket().display());
    let ([certificate, _], [key, _]) = (served.uris(false), served.uris(true));
    let expected = |exports: &[(&str, bool)]| -> BTreeMap<String, bool> {
        exports.iter().map(|(name, is_read_only)| ((*name).to_owned(), *is_read_only)).collect()
    };
    let open = ("", false);
    let written = |is_read_only| ("written-by-certificate", is_read_only);
    let Some(found) = seen(&plain) else { return };
    assert_eq!(found, expected(&[open, written(true)]));
    assert_eq!(seen(&certificate), Some(expected(&[open, ("by-certificate", false), written(false)])));
    assert_eq!(seen(&key), Some(expected(&[open, ("by-key", false), written(true)])));
    // What was known of each is written down, by a thread of its own.
    for words in ["cert.cn=vm1", "psk=vm1"] {
        let is_known = |line: &Value| line["known"].as_str().is_some_and(|known| known.contains(words));
        wait_until(words, || served.server.log().iter().any(is_known));
    }
}
