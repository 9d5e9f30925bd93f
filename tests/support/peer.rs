//! Which server the tests run against: ours, or another one to see which tests that one fails.

use std::os::unix::net::UnixStream;
use std::path::Path;

use super::raw::Mode;
use super::server::Options;

/// A server implementation, chosen by `RINGNBD_TEST_PEER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Ringnbd,
    QemuNbd,
    Nbdkit,
    NbdServer,
}

/// An EXPORT argument taken apart: name, path or `None` for memory, size, direct, read-only.
struct Export<'a> {
    name: &'a str,
    file: &'a str,
    memory: Option<&'a str>,
    direct: bool,
    readonly: bool,
}

fn take_apart(export: &str) -> Export<'_> {
    let (name, uri) = match export.split_once('=') {
        Some((name, uri)) if !name.contains([':', '/', '?']) => (name, uri),
        _ => ("", export),
    };
    assert!(!uri.starts_with("fault:"), "PEER CANNOT: inject faults ({uri})");
    let (place, query) = uri.split_once('?').unwrap_or((uri, ""));
    // What is written to `null:` is not looked at again, so memory will do.
    let memory = place.strip_prefix("mem:").or(place.strip_prefix("null:"));
    let file = place.strip_prefix("file:").unwrap_or(place);
    Export {
        name,
        file,
        memory,
        direct: query.contains("direct=true"),
        readonly: query.contains("readonly=true"),
    }
}

impl Peer {
    pub(crate) fn from_env() -> Self {
        match std::env::var("RINGNBD_TEST_PEER").as_deref() {
            Err(_) | Ok("" | "ringnbd") => Self::Ringnbd,
            Ok("qemu-nbd") => Self::QemuNbd,
            Ok("nbdkit") => Self::Nbdkit,
            Ok("nbd-server") => Self::NbdServer,
            Ok(other) => panic!("RINGNBD_TEST_PEER={other}: want ringnbd, qemu-nbd, nbdkit or nbd-server"),
        }
    }

    /// Ends a test of what only ringnbd promises: the protocol leaves it open, so another server does not fail.
    #[track_caller]
    pub(crate) fn only_ours(what: &str) {
        assert!(Self::from_env() == Self::Ringnbd, "PEER CANNOT: {what}");
    }

    /// What ringnbd promises, or the part of it that is asked of every server.
    pub(crate) fn ours_or<T>(ours: T, others: T) -> T {
        if Self::from_env() == Self::Ringnbd { ours } else { others }
    }

    pub(crate) fn speaks(self, mode: Mode) -> bool {
        mode != Mode::Extended || matches!(self, Self::Ringnbd | Self::QemuNbd)
    }

    /// Whether there is `base:allocation`.
    pub(crate) fn has_contexts(self) -> bool {
        self != Self::NbdServer
    }

    /// The command that serves `options` with its socket at `DIR/nbd.sock` and its pidfile at `DIR/pid`.
    pub(crate) fn command_line(self, options: &Options, dir: &Path) -> Vec<String> {
        let socket = dir.join("nbd.sock").display().to_string();
        let pidfile = dir.join("pid").display().to_string();
        match self {
            Self::Ringnbd => ringnbd(options, socket, pidfile),
            Self::QemuNbd => qemu_nbd(options, socket, pidfile, dir),
            Self::Nbdkit => nbdkit(options, socket, pidfile),
            Self::NbdServer => nbd_server(options, socket, dir),
        }
    }

    /// The pidfile says so; for qemu-nbd, which writes it early, the socket must be there too. nbd-server writes none in the foreground.
    pub(crate) fn is_ready(self, dir: &Path, unix: bool) -> bool {
        if self == Self::NbdServer {
            return UnixStream::connect(dir.join("nbd.sock")).is_ok();
        }
        let pidfile = std::fs::read(dir.join("pid")).is_ok_and(|bytes| !bytes.is_empty());
        pidfile && (!unix || dir.join("nbd.sock").exists())
    }
}

fn ringnbd(options: &Options, socket: String, pidfile: String) -> Vec<String> {
    // RINGNBD_TEST_BINARY: another build, such as a release or an older version.
    let binary =
        std::env::var("RINGNBD_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ringnbd").into());
    let mut line = vec![binary, "serve".into()];
    line.extend(["--pidfile".into(), pidfile, "--log-format".into(), "json".into()]);
    line.extend(["--shards".into(), options.shards.to_string(), "--memory".into(), options.memory.clone()]);
    if options.unix {
        line.extend(["--unix".into(), socket]);
    }
    options.tcp.iter().for_each(|address| line.extend(["--tcp".into(), address.clone()]));
    if options.read_only {
        line.push("--read-only".into());
    }
    line.extend(options.arguments.iter().cloned());
    line.extend(options.exports.iter().cloned());
    line
}

fn only_export(options: &Options) -> Export<'_> {
    assert!(options.exports.len() <= 1, "PEER CANNOT: serve several exports");
    assert!(options.tcp.is_empty() && options.arguments.is_empty(), "PEER CANNOT: our own options");
    take_apart(options.exports.first().map_or("mem:1G", String::as_str))
}

fn qemu_nbd(options: &Options, socket: String, pidfile: String, dir: &Path) -> Vec<String> {
    let export = only_export(options);
    let mut line: Vec<String> = vec!["qemu-nbd".into(), "--persistent".into(), "--shared=0".into()];
    line.extend(["--format=raw".into(), "--discard=unmap".into(), "--detect-zeroes=off".into()]);
    line.extend([format!("--socket={socket}"), format!("--pid-file={pidfile}")]);
    line.push(format!("--export-name={}", export.name));
    if export.direct {
        line.push("--cache=none".into());
    }
    // RINGNBD_TEST_PEER_ARGS=--cache=unsafe makes a server that never flushes: the durability tests must notice.
    let extra = std::env::var("RINGNBD_TEST_PEER_ARGS").unwrap_or_default();
    line.extend(extra.split_whitespace().map(str::to_owned));
    if export.readonly || options.read_only {
        line.push("--read-only".into());
    }
    line.push(file_of(&export, dir));
    line
}

/// Memory is a file for servers that have none.
fn file_of(export: &Export<'_>, dir: &Path) -> String {
    let Some(size) = export.memory else { return export.file.to_owned() };
    let image = dir.join("memory.img");
    let made = std::process::Command::new("truncate").arg("-s").arg(size).arg(&image).status();
    assert!(made.is_ok_and(|status| status.success()), "truncate -s {size}");
    image.display().to_string()
}

fn nbdkit(options: &Options, socket: String, pidfile: String) -> Vec<String> {
    let export = only_export(options);
    let mut line: Vec<String> = vec!["nbdkit".into(), "--foreground".into(), "--unix".into(), socket];
    line.extend(["--pidfile".into(), pidfile]);
    if export.readonly || options.read_only {
        line.push("--readonly".into());
    }
    match export.memory {
        None => line.extend(["file".into(), export.file.to_owned()]),
        Some(size) => line.extend(["memory".into(), size.to_owned()]),
    }
    line
}

/// It has a configuration file only, and always listens on TCP too.
fn nbd_server(options: &Options, socket: String, dir: &Path) -> Vec<String> {
    let export = only_export(options);
    assert!(!export.name.is_empty(), "PEER CANNOT: have a default export");
    assert!(!export.direct, "PEER CANNOT: read and write directly");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut text =
        format!("[generic]\nunixsock = {socket}\nlistenaddr = 127.0.0.1\nport = {port}\nallowlist = true\n");
    text += &format!(
        "[{}]\nexportname = {}\nflush = true\nfua = true\ntrim = true\n",
        export.name,
        file_of(&export, dir)
    );
    if export.readonly || options.read_only {
        text += "readonly = true\n";
    }
    let config = dir.join("config");
    std::fs::write(&config, text).expect("write a configuration");
    vec!["nbd-server".into(), "-C".into(), config.display().to_string(), "-n".into()]
}
