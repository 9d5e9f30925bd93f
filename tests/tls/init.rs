//! `ringnbd tls init`: what it makes is what the server and clients of others take.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::peers;
use crate::support::image::{Image, disk_dir};
use crate::support::server::Options;

fn init(directory: &std::path::Path, more: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_ringnbd"))
        .args(["tls", "init"])
        .arg(directory)
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn three_commands_are_enough() {
    let place = disk_dir();
    let directory = place.path().join("tls");
    let done = init(&directory, &["--client", "vm1"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for name in ["ca-key.pem", "server-key.pem", "client-key.pem", "keys.psk"] {
        let mode = directory.join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{name}");
    }
    let image = Image::random(1 << 20, 1);
    let arguments = ["--tls".to_owned(), directory.display().to_string()];
    let server = Options::new().export(format!("file:{}", image.path.display())).args(arguments).start();
    let size = |uri: &str| Some(peers::command("nbdinfo")?.args(["--size", uri]).output().unwrap());
    let (socket, directory) = (server.socket().display().to_string(), directory.display().to_string());
    let certificates =
        format!("nbds+unix:///?socket={socket}&tls-certificates={directory}&tls-hostname=localhost");
    let key = format!("nbds+unix://vm1@/?socket={socket}&tls-psk-file={directory}/keys.psk");
    for uri in [certificates, key] {
        let Some(told) = size(&uri) else { return };
        assert!(told.status.success(), "{uri}: {}", String::from_utf8_lossy(&told.stderr));
        assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), (1 << 20).to_string());
    }
    let plain = format!("nbd+unix:///?socket={socket}");
    assert!(!size(&plain).unwrap().status.success());
}

#[test]
fn nothing_is_replaced_and_nothing_is_half_there() {
    let place = disk_dir();
    let directory = place.path().join("tls");
    assert!(init(&directory, &[]).status.success());
    let key = std::fs::read(directory.join("ca-key.pem")).unwrap();
    let again = init(&directory, &[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"));
    assert_eq!(std::fs::read(directory.join("ca-key.pem")).unwrap(), key);
    let other = place.path().join("other");
    assert_eq!(init(&other, &["--server", "a b"]).status.code(), Some(2));
    assert_eq!(init(&other, &["--days", "4000000000"]).status.code(), Some(2));
    assert!(!other.exists());
}
