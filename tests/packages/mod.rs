//! What packages install besides the program: units, the example configuration, completions, manual pages, packages of Debian and RPM, a
//! container's profile, a dashboard and alerts.

mod container;
mod observability;
mod published;
mod toolchain;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::peers;

const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/packages");
const PROGRAM: &str = env!("CARGO_BIN_EXE_ringnbd");

/// Whether this machine has a tool; the test is skipped without it.
fn has(tool: &str) -> bool {
    let is_there = Command::new(tool).arg("--version").output().is_ok();
    if !is_there {
        peers::skip(tool, "install it");
    }
    is_there
}

#[test]
fn units_are_well_formed() {
    if !has("systemd-analyze") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for name in ["ringnbd.socket", "ringnbd.service", "ringnbd-attach@.service"] {
        let unit = std::fs::read_to_string(format!("{PACKAGES}/{name}")).unwrap();
        // An instance, which a template is verified as.
        let path = directory.path().join(name.replace('@', "@disk"));
        std::fs::write(&path, unit.replace("/usr/bin/ringnbd", PROGRAM)).unwrap();
        files.push(path);
    }
    let mut command = Command::new("systemd-analyze");
    let finished = peers::run(command.args(["verify", "--man=no"]).args(&files));
    assert!(finished.status.success() && finished.stderr.is_empty(), "{finished}");
}

#[test]
fn the_server_s_unit_leaves_it_what_it_needs() {
    let unit = std::fs::read_to_string(format!("{PACKAGES}/ringnbd.service")).unwrap();
    // openat2 and block devices; a program that minimal systems do not have.
    for lacking in ["\nRestrictSUIDSGID=yes", "\nPrivateDevices=yes", "\nProtectClock=yes", "=/bin/kill"] {
        assert!(!unit.contains(lacking), "{lacking}");
    }
}

#[test]
fn users_and_directories_are_well_formed() {
    for (tool, file) in [("systemd-sysusers", "sysusers.conf"), ("systemd-tmpfiles", "tmpfiles.conf")] {
        if !has(tool) {
            continue;
        }
        let root = tempfile::tempdir().unwrap();
        let option = format!("--root={}", root.path().display());
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        let file = format!("{PACKAGES}/{file}");
        let mut command = Command::new(tool);
        let finished = match tool {
            "systemd-sysusers" => peers::run(command.args([&option, &file])),
            // The user is there in a system, and not in this root: only the form is looked at.
            _ => peers::run(command.args([&option, "--create", "--prefix=/nowhere", &file])),
        };
        assert!(finished.status.success(), "{finished}");
        if tool == "systemd-sysusers" {
            let users = std::fs::read_to_string(root.path().join("etc/passwd")).unwrap();
            assert!(users.contains("ringnbd:x:") && users.contains(":/var/lib/ringnbd:"), "{users}");
        }
    }
}

#[test]
fn the_example_configuration_would_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ringnbd.toml");
    let text = std::fs::read_to_string(format!("{PACKAGES}/ringnbd.toml")).unwrap();
    std::fs::write(&path, &text).unwrap();
    let finished = peers::run(Command::new(PROGRAM).args(["serve", "--check", "--config"]).arg(&path));
    assert!(finished.status.success(), "{finished}");
    // What is commented out is right as well, once there are such files.
    let image = directory.path().join("vm1.img");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let directory_name = directory.path().to_str().unwrap();
    let words = |line: &str| line.starts_with("# ") && (line.contains(" = ") || line.contains("[["));
    let is_prose = |line: &str| line.contains("  ") || line.ends_with('.');
    let all: Vec<String> = text
        .lines()
        .map(|line| if words(line) && !is_prose(line) { line[2..].to_owned() } else { line.to_owned() })
        .map(|line| line.replace("/var/lib/ringnbd", directory_name).replace("?direct=true", ""))
        .collect();
    std::fs::write(&path, all.join("\n")).unwrap();
    let finished = peers::run(Command::new(PROGRAM).args(["serve", "--check", "--config"]).arg(&path));
    assert!(finished.status.success(), "{finished}\n{}", all.join("\n"));
}

#[test]
fn shells_take_their_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = peers::run(Command::new(PROGRAM).args(["completions", shell])).ok();
        assert!(script.contains("ringnbd"), "{script}");
        if has(shell) {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), script).unwrap();
            let finished = peers::run(Command::new(shell).arg("-n").arg(file.path()));
            assert!(finished.status.success() && finished.stderr.is_empty(), "{finished}");
        }
    }
}

#[test]
fn a_debian_package_has_what_it_should() {
    if !has("dpkg-deb") {
        return;
    }
    let target = tempfile::tempdir().unwrap();
    let mut command = Command::new(Path::new(PACKAGES).join("deb"));
    command.arg(PROGRAM).env("CARGO_TARGET_DIR", target.path()).env("RINGNBD_DEB_LEVEL", "0");
    let package = peers::run_within(Duration::from_secs(300), &mut command, b"").ok();
    let package = package.trim();
    let contents = peers::run(Command::new("dpkg-deb").args(["--contents", package])).ok();
    for file in [
        "./usr/bin/ringnbd",
        "./usr/lib/systemd/system/ringnbd-attach@.service",
        "./usr/lib/sysusers.d/ringnbd.conf",
        "./etc/ringnbd/ringnbd.toml",
        "./usr/share/man/man1/ringnbd-serve.1.gz",
        "./usr/share/bash-completion/completions/ringnbd",
    ] {
        assert!(contents.lines().any(|line| line.ends_with(file)), "{file}:\n{contents}");
    }
    assert!(contents.lines().all(|line| line.contains(" root/root ")), "{contents}");
    let control = peers::run(Command::new("dpkg-deb").args(["--info", package])).ok();
    assert!(control.contains("Depends: libc6 (>= 2."), "{control}");
    assert!(control.contains("conffiles"), "{control}");
}

#[test]
fn an_rpm_package_has_what_it_should() {
    if !has("rpmbuild") {
        return;
    }
    let target = tempfile::tempdir().unwrap();
    let mut command = Command::new(Path::new(PACKAGES).join("rpm"));
    command.arg(PROGRAM).env("CARGO_TARGET_DIR", target.path()).env("RINGNBD_RPM_PAYLOAD", "w1.gzdio");
    let package = peers::run_within(Duration::from_secs(300), &mut command, b"").ok();
    let ask = |what: &[&str]| peers::run(Command::new("rpm").args(what).args(["-qp", package.trim()])).ok();
    let files = ask(&["--list"]);
    for file in [
        "/usr/bin/ringnbd",
        "/usr/lib/systemd/system/ringnbd-attach@.service",
        "/usr/lib/sysusers.d/ringnbd.conf",
        "/usr/share/man/man1/ringnbd-serve.1.gz",
        "/usr/share/zsh/site-functions/_ringnbd",
    ] {
        assert!(files.lines().any(|line| line == file), "{file}:\n{files}");
    }
    assert_eq!(ask(&["--configfiles"]).trim(), "/etc/ringnbd/ringnbd.toml");
    let requires = ask(&["--requires"]);
    assert!(requires.contains("libc.so.6(GLIBC_2.") && requires.contains("systemd"), "{requires}");
    let owners = ask(&["--queryformat", "[%{FILEUSERNAME}:%{FILEGROUPNAME}\n]"]);
    assert!(owners.lines().all(|line| line == "root:root"), "{owners}");
}
