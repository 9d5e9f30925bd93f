//! What a call of `qemu-nbd` means as calls of ringnbd.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::arguments::QemuNbdArgs;
use crate::client::uri::{NbdUri, ServerAddress, TlsParameters};
use crate::config::uri_parts::escaped_path;

/// How a file of QEMU's own format begins.
const QCOW: &[u8; 4] = b"QFI\xfb";

/// What is to be called.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// This.
    Run(Vec<OsString>),
    /// What exports this server has, in QEMU's words.
    List(NbdUri),
    /// A server that stays.
    InBackground(Vec<OsString>),
    /// A server that stays, and a device of it: what is to be called with the URI behind it.
    Connected { serve: Vec<OsString>, attach: Vec<OsString> },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Translated {
    pub(super) calls: Calls,
    /// What is otherwise than with QEMU, though it will do.
    pub(super) notes: Vec<String>,
}

/// Why a call has no translation; each a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Untranslatable {
    #[error("name a FILE to serve")]
    NoFile,
    #[error(
        "the format {0} is QEMU's: ringnbd serves raw disks, and images of its own (`ringnbd image create --from`)"
    )]
    Format(String),
    #[error(
        "{0} begins like a qcow2 image: write -f raw to serve its bytes as they are, or convert it \
         (`qemu-img convert -O raw`)"
    )]
    Probed(String),
    #[error("--{0}={1} is not here; there is {2}")]
    Mode(&'static str, String, &'static str),
    #[error("--{0} is not here: {1}")]
    Missing(&'static str, &'static str),
    #[error("a snapshot needs an image of a store: write store:STORE/NAME as FILE")]
    NoImage,
    #[error(
        "-s keeps what is written to a file or block device apart; an image is cloned instead (`ringnbd image clone`)"
    )]
    SnapshotOfImage,
    #[error("there is no --object with id={0}")]
    NoCredentials(String),
    #[error(
        "--object {0}: write tls-creds-x509,id=ID,dir=DIR,endpoint={1} or tls-creds-psk,id=ID,dir=DIR,endpoint={1}"
    )]
    Object(String, &'static str),
    #[error(
        "with tls-creds-x509, qemu-nbd demands a certificate of each client unless verify-peer=off is there; ringnbd demands it \
         by export: write verify-peer=off, or a configuration with allow = [\"cert.…\"] (`ringnbd serve --config`)"
    )]
    VerifyPeer,
}

type Words = Vec<OsString>;

/// Translates a call.
pub(super) fn translate(args: &QemuNbdArgs) -> Result<Translated, Untranslatable> {
    if let Some(device) = &args.disconnect {
        return Ok(plain(Calls::Run(vec!["detach".into(), device.clone()])));
    }
    if args.list {
        return Ok(plain(Calls::List(server_uri(args)?)));
    }
    let mut notes = Vec::new();
    let mut serve: Words = vec!["serve".into()];
    push_process(args, &mut serve);
    push_encryption(args, &mut serve)?;
    let export = export(args, &mut notes)?;
    let calls = match &args.connect {
        None => {
            push_address(args, &mut serve);
            if !args.persistent {
                serve.push("--exit-last".into());
            }
            serve.extend(export);
            if args.fork {
                serve.insert(1, "--leave-terminal".into());
                Calls::InBackground(serve)
            } else {
                Calls::Run(serve)
            }
        }
        Some(device) => {
            // The device's own connections are the last clients.
            let socket = args.socket.clone().unwrap_or_else(|| default_socket(device));
            serve.extend(["--exit-last".into(), "--leave-terminal".into(), "--unix".into(), socket]);
            serve.extend(export);
            let mut attach: Words = vec!["attach".into(), "--device".into(), device.clone()];
            if args.read_only {
                attach.push("--read-only".into());
            }
            Calls::Connected { serve, attach }
        }
    };
    Ok(Translated { calls, notes })
}

fn plain(calls: Calls) -> Translated {
    Translated { calls, notes: Vec::new() }
}

/// Where qemu-nbd has the socket of a device.
fn default_socket(device: &OsStr) -> OsString {
    let name = device.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let mut path = b"/run/lock/qemu-nbd-".to_vec();
    path.extend_from_slice(name);
    OsString::from_vec(path)
}

/// The server whose exports are listed.
fn server_uri(args: &QemuNbdArgs) -> Result<NbdUri, Untranslatable> {
    let address = match &args.socket {
        Some(path) => ServerAddress::Unix(path.into()),
        None => {
            let host = if args.bind == "0.0.0.0" { "localhost" } else { &args.bind };
            ServerAddress::Tcp { host: host.to_owned(), port: args.port }
        }
    };
    let tls = credentials(args, "client")?.map(|credentials| match credentials {
        QemuCredentials::Certificates { directory, verifies_peer } => TlsParameters {
            certificates: Some(directory.into()),
            hostname: args.tls_hostname.clone(),
            verify_peer: verifies_peer,
            ..TlsParameters::default()
        },
        QemuCredentials::SharedKey { directory, name } => TlsParameters {
            psk_file: Some(Path::new(directory).join("keys.psk")),
            username: Some(name.to_owned()),
            ..TlsParameters::default()
        },
    });
    Ok(NbdUri { address, export: String::new(), tls })
}

fn push_address(args: &QemuNbdArgs, serve: &mut Words) {
    match &args.socket {
        Some(path) => serve.extend(["--unix".into(), path.clone()]),
        None => {
            let host = if args.bind.contains(':') { format!("[{}]", args.bind) } else { args.bind.clone() };
            serve.extend(["--tcp".into(), format!("{host}:{}", args.port).into()]);
        }
    }
}

fn push_process(args: &QemuNbdArgs, serve: &mut Words) {
    if let Some(path) = &args.pid_file {
        serve.extend(["--pidfile".into(), path.into()]);
    }
    if args.shared > 0 && args.connect.is_none() {
        serve.extend(["--max-connections".into(), args.shared.to_string().into()]);
    }
    // qemu-nbd says nothing on stderr unless something is wrong, with -v too; RUST_LOG shows more.
    serve.push("--quiet".into());
    if args.read_only {
        serve.push("--read-only".into());
    }
    // No limit there is an hour here.
    let seconds = if args.handshake_limit == 0 { 3600 } else { args.handshake_limit };
    serve.extend(["--handshake-timeout".into(), format!("{seconds}s").into()]);
}

fn push_encryption(args: &QemuNbdArgs, serve: &mut Words) -> Result<(), Untranslatable> {
    if args.tls_hostname.is_some() {
        return Err(Untranslatable::Missing("tls-hostname", "it is for --list"));
    }
    match credentials(args, "server")? {
        None => Ok(()),
        Some(QemuCredentials::Certificates { verifies_peer: true, .. }) => Err(Untranslatable::VerifyPeer),
        Some(
            QemuCredentials::Certificates { directory, .. } | QemuCredentials::SharedKey { directory, .. },
        ) => {
            serve.extend(["--tls".into(), directory.into()]);
            Ok(())
        }
    }
}

/// What an `--object` has.
enum QemuCredentials<'a> {
    Certificates { directory: &'a str, verifies_peer: bool },
    SharedKey { directory: &'a str, name: &'a str },
}

/// Those that `--tls-creds` names, which have to be for this end.
fn credentials<'a>(
    args: &'a QemuNbdArgs,
    endpoint: &'static str,
) -> Result<Option<QemuCredentials<'a>>, Untranslatable> {
    if args.tls_authz.is_some() {
        let instead = "rights by export are `allow` in a configuration (`ringnbd serve --config`)";
        return Err(Untranslatable::Missing("tls-authz", instead));
    }
    let Some(wanted) = &args.tls_creds else { return Ok(None) };
    let has_id = |object: &&String| object.split(',').any(|part| part.strip_prefix("id=") == Some(wanted));
    let object = args.object.iter().find(has_id);
    let object = object.ok_or_else(|| Untranslatable::NoCredentials(wanted.clone()))?;
    let value = |key: &str| {
        let mut parts = object.split(',').filter_map(|part| part.split_once('='));
        parts.find_map(|(name, value)| (name == key).then_some(value))
    };
    let kind = object.split(',').next().unwrap_or_default();
    let verifies_peer = !matches!(value("verify-peer"), Some("off" | "no"));
    match (kind, value("dir").filter(|_| value("endpoint") == Some(endpoint))) {
        ("tls-creds-x509", Some(directory)) => {
            Ok(Some(QemuCredentials::Certificates { directory, verifies_peer }))
        }
        ("tls-creds-psk", Some(directory)) => {
            // QEMU's name for a client that has none.
            Ok(Some(QemuCredentials::SharedKey { directory, name: value("username").unwrap_or("qemu") }))
        }
        _ => Err(Untranslatable::Object(object.clone(), endpoint)),
    }
}

/// What is served: `[NAME=]URI`.
fn export(args: &QemuNbdArgs, notes: &mut Vec<String>) -> Result<Option<OsString>, Untranslatable> {
    if args.image_opts {
        return Err(Untranslatable::Missing("image-opts", "write FILE"));
    }
    if args.offset.as_deref().is_some_and(|offset| offset != "0") {
        return Err(Untranslatable::Missing("offset", "serve the partition's own block device, or all"));
    }
    let is_direct = modes(args)?;
    let file = args.file.as_deref().ok_or(Untranslatable::NoFile)?;
    let mut parameters = Vec::new();
    if is_direct {
        parameters.push("direct=true".to_owned());
    }
    if let Some(text) = &args.description {
        parameters.push(format!("description={}", percent_encode(text.as_bytes(), NON_ALPHANUMERIC)));
    }
    let uri = match args.load_snapshot.as_deref() {
        Some(snapshot) => of_snapshot(file, snapshot)?,
        None if has_kind(file) => file.as_bytes().to_vec(),
        None => of_file(args, file, notes)?,
    };
    if args.snapshot && has_kind(file) {
        return Err(Untranslatable::SnapshotOfImage);
    }
    let mut export = Vec::new();
    if let Some(name) = args.export_name.as_deref().filter(|name| !name.is_empty()) {
        export.extend_from_slice(name.as_bytes());
        export.push(b'=');
    }
    let has_parameters = uri.contains(&b'?');
    export.extend(uri);
    if !parameters.is_empty() {
        export.push(if has_parameters { b'&' } else { b'?' });
        export.extend(parameters.join("&").into_bytes());
    }
    Ok(Some(OsString::from_vec(export)))
}

/// Whether O_DIRECT is wanted.
fn modes(args: &QemuNbdArgs) -> Result<bool, Untranslatable> {
    let is =
        |value: &Option<String>, known: &[&str]| value.as_deref().is_none_or(|value| known.contains(&value));
    let refused = |name, value: &Option<String>, known| {
        Err(Untranslatable::Mode(name, value.clone().unwrap_or_default(), known))
    };
    if let Some(format) = args.format.as_ref().filter(|format| *format != "raw") {
        return Err(Untranslatable::Format(format.clone()));
    }
    // A write that has to be durable says so itself (FUA), or a FLUSH follows it.
    if !is(&args.cache, &["none", "writeback"]) {
        return refused("cache", &args.cache, "none and writeback, where clients flush what has to last");
    }
    if !is(&args.detect_zeroes, &["off"]) {
        return refused("detect-zeroes", &args.detect_zeroes, "off: clients that write zeroes can say so");
    }
    if !is(&args.discard, &["unmap", "on", "ignore", "off"]) {
        return refused("discard", &args.discard, "unmap");
    }
    if !is(&args.aio, &["threads", "native", "io_uring"]) {
        return refused("aio", &args.aio, "io_uring");
    }
    Ok(args.nocache || args.cache.as_deref() == Some("none"))
}

/// Whether FILE is a URI of ringnbd's other kinds.
fn has_kind(file: &OsStr) -> bool {
    ["store:", "overlay:", "mem:", "null:", "file:"]
        .iter()
        .any(|kind| file.as_bytes().starts_with(kind.as_bytes()))
}

fn of_snapshot(file: &OsStr, snapshot: &str) -> Result<Vec<u8>, Untranslatable> {
    if !file.as_bytes().starts_with(b"store:") {
        return Err(Untranslatable::NoImage);
    }
    let named = snapshot.split(',').find_map(|part| part.strip_prefix("snapshot.name="));
    let name = named.unwrap_or(snapshot);
    Ok([file.as_bytes(), b"@", name.as_bytes()].concat())
}

fn of_file(args: &QemuNbdArgs, file: &OsStr, notes: &mut Vec<String>) -> Result<Vec<u8>, Untranslatable> {
    if args.format.is_none() {
        let mut start = [0; 4];
        let read = File::open(file).and_then(|mut file| file.read_exact(&mut start));
        if read.is_ok() && start == *QCOW {
            return Err(Untranslatable::Probed(file.display().to_string()));
        }
        notes.push(format!("the bytes of {} are served as they are (-f raw)", file.display()));
    }
    let path = escaped_path(Path::new(file));
    Ok(match args.snapshot {
        true => format!("overlay:temp?base={path}").into_bytes(),
        false => format!("file:{path}").into_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn translated(line: &str) -> Result<Translated, Untranslatable> {
        translate(&QemuNbdArgs::try_parse_from(["qemu-nbd"].into_iter().chain(line.split(' '))).unwrap())
    }

    #[track_caller]
    fn run(line: &str) -> String {
        let Translated { calls, .. } = translated(line).unwrap();
        match calls {
            Calls::Run(words) => words.join(OsStr::new(" ")).into_string().unwrap(),
            Calls::List(uri) => format!("list {uri}"),
            Calls::InBackground(words) => format!("{} &", words.join(OsStr::new(" ")).into_string().unwrap()),
            Calls::Connected { serve, attach } => {
                let [serve, attach] =
                    [serve, attach].map(|words| words.join(OsStr::new(" ")).into_string().unwrap());
                format!("{serve} & {attach}")
            }
        }
    }

    const COMMON: &str = "serve --max-connections 1 --quiet --handshake-timeout 10s";

    #[test]
    fn calls_that_serve() {
        assert_eq!(run("-f raw d.img"), format!("{COMMON} --tcp 0.0.0.0:10809 --exit-last file:d.img"));
        assert_eq!(run("-f raw -k /s -x a d.img"), format!("{COMMON} --unix /s --exit-last a=file:d.img"));
        let many = "serve --quiet --read-only --handshake-timeout 3600s --tcp [::1]:7";
        assert_eq!(
            run("-f raw -t -e 0 -v -r -b ::1 -p 7 --handshake-limit 0 -n d%"),
            format!("{many} file:d%25?direct=true")
        );
        let fork = COMMON.replacen("serve", "serve --leave-terminal --pidfile p", 1);
        assert_eq!(
            run("-f raw --fork --pid-file=p -t -k s -D b d"),
            format!("{fork} --unix s file:d?description=b &")
        );
        assert_eq!(run("-f raw -t -k s -s d"), format!("{COMMON} --unix s overlay:temp?base=d"));
        assert_eq!(run("-t -k s -l snapshot.name=b store:/a/c"), format!("{COMMON} --unix s store:/a/c@b"));
        assert_eq!(run("-t -k s -l b store:/a/c"), format!("{COMMON} --unix s store:/a/c@b"));
    }

    #[test]
    fn calls_that_do_other_things() {
        assert_eq!(run("-L -b ::1 -p 7"), "list nbd://[::1]:7/");
        assert_eq!(run("--list -k /s"), "list nbd+unix:///?socket=/s");
        let psk = "-L --object tls-creds-psk,id=t,dir=/d,endpoint=client,username=vm1 --tls-creds t";
        assert_eq!(run(psk), "list nbds://vm1@localhost/?tls-psk-file=/d/keys.psk");
        assert_eq!(
            run(&psk.replace(",username=vm1", "")),
            "list nbds://qemu@localhost/?tls-psk-file=/d/keys.psk"
        );
        let x509 = "-L -k /s --object tls-creds-x509,id=t,dir=/d,endpoint=client --tls-creds t";
        assert_eq!(run(x509), "list nbds+unix:///?socket=/s&tls-certificates=/d");
        let named = x509.replace("endpoint", "verify-peer=off,endpoint") + " --tls-hostname a.b";
        assert_eq!(
            run(&named),
            "list nbds+unix:///?socket=/s&tls-certificates=/d&tls-hostname=a.b&tls-verify-peer=no"
        );
        assert_eq!(run("-d /dev/nbd0"), "detach /dev/nbd0");
        let serve = "serve --quiet --handshake-timeout 10s --exit-last --leave-terminal --unix /run/lock/qemu-nbd-nbd0 file:d";
        assert_eq!(run("-f raw -c /dev/nbd0 d"), format!("{serve} & attach --device /dev/nbd0"));
    }

    #[test]
    fn encryption() {
        let psk = "--object tls-creds-psk,id=t,dir=/d,endpoint=server --tls-creds t -f raw -t -k s d";
        assert_eq!(run(psk), format!("{COMMON} --tls /d --unix s file:d"));
        let x509 = "--object tls-creds-x509,id=t,dir=/d,endpoint=server,verify-peer=off --tls-creds t -f raw -t -k s d";
        assert_eq!(run(x509), format!("{COMMON} --tls /d --unix s file:d"));
        for (line, error) in [
            (
                "--object tls-creds-x509,id=t,dir=/d,endpoint=server --tls-creds t d",
                Untranslatable::VerifyPeer,
            ),
            ("--tls-creds t d", Untranslatable::NoCredentials("t".into())),
            ("--object secret,id=t --tls-creds t d", Untranslatable::Object("secret,id=t".into(), "server")),
            // Of the other end.
            (
                "--object tls-creds-psk,id=t,dir=/d,endpoint=client --tls-creds t d",
                Untranslatable::Object("tls-creds-psk,id=t,dir=/d,endpoint=client".into(), "server"),
            ),
            (
                "-L --object tls-creds-psk,id=t,dir=/d,endpoint=server --tls-creds t",
                Untranslatable::Object("tls-creds-psk,id=t,dir=/d,endpoint=server".into(), "client"),
            ),
            // Never in plain text instead.
            ("-L --tls-creds t", Untranslatable::NoCredentials("t".into())),
        ] {
            assert_eq!(translated(line), Err(error), "{line}");
        }
        assert!(matches!(translated("--tls-authz a d"), Err(Untranslatable::Missing("tls-authz", _))));
        assert!(matches!(translated("--tls-hostname a d"), Err(Untranslatable::Missing("tls-hostname", _))));
    }

    #[test]
    fn what_is_not_here_is_refused() {
        assert_eq!(translated("-t"), Err(Untranslatable::NoFile));
        assert_eq!(translated("-f qcow2 d"), Err(Untranslatable::Format("qcow2".into())));
        for line in [
            "--cache=unsafe d",
            "--cache=writethrough d",
            "--detect-zeroes=on d",
            "--discard=x d",
            "--aio=x d",
        ] {
            assert!(matches!(translated(line), Err(Untranslatable::Mode(..))), "{line}");
        }
        for line in ["-o 512 d", "--image-opts d"] {
            assert!(matches!(translated(line), Err(Untranslatable::Missing(..))), "{line}");
        }
        assert_eq!(translated("-l a d"), Err(Untranslatable::NoImage));
        assert_eq!(translated("-s store:a/b"), Err(Untranslatable::SnapshotOfImage));
    }

    #[test]
    fn a_file_of_another_format_is_not_served_by_mistake() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, b"QFI\xfb\0\0\0\x03").unwrap();
        let name = path.to_str().unwrap();
        assert_eq!(translated(&format!("-t {name}")), Err(Untranslatable::Probed(name.to_owned())));
        assert!(translated(&format!("-f raw -t {name}")).is_ok());
        std::fs::write(&path, b"QF").unwrap();
        assert_eq!(translated(&format!("-t {name}")).unwrap().notes.len(), 1);
    }
}
