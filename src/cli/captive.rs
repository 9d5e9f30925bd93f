//! `ringnbd serve --run COMMAND`: a server for the time of one command.
//!
//! ```text
//! ringnbd serve --run 'qemu-img info "$uri"' disk.img
//!       ├── ringnbd serve --exit-with-parent --unix /tmp/ringnbd-…/socket disk.img
//!       └── sh -c 'qemu-img info "$uri"'          once that is up; then the server is asked to stop
//! ```
//!
//! The server is a process of its own, because one in its sandbox starts nothing.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::Outcome;
use super::serve::Args;
use crate::client::uri::{NbdUri, ServerAddress};
use crate::config::listen::UnixAddress;
use crate::daemon::within::{NotUp, PrivateDirectory, ServerWithin, exit_code, run_command};

/// `--unix -` and `-U -`: a socket that nobody else knows.
const PRIVATE: &str = UnixAddress::PRIVATE;

/// Serves while the command runs.
pub(super) fn run(args: &Args) -> Outcome {
    let command = args.run.as_deref().expect("there is a command");
    let directory = match PrivateDirectory::create() {
        Ok(directory) => directory,
        Err(error) => {
            return Outcome::refused(format_args!("cannot make a directory for the socket: {error}"));
        }
    };
    let arguments = server_arguments(std::env::args_os().skip(1), args, directory.path());
    let server = match ServerWithin::start(arguments, directory.path()) {
        Ok(server) => server,
        // It has said why.
        Err(NotUp::Ended(status)) if status.code() == Some(2) => return Outcome::Refused,
        Err(NotUp::Ended(_)) => return Outcome::Failed,
        Err(NotUp::Failed(error)) => {
            return Outcome::failed(format_args!("cannot start the server: {error}"));
        }
    };
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).envs(variables(server.uri.as_deref(), directory.path()));
    let status = run_command(&mut shell);
    server.ask_to_stop();
    let ended = server.wait();
    match (status, ended) {
        (Err(error), _) => Outcome::failed(format_args!("cannot run the command: {error}")),
        (Ok(status), _) if !status.success() => Outcome::Code(exit_code(status)),
        (Ok(_), Ok(ended)) if ended.success() => Outcome::Done,
        (Ok(_), ended) => Outcome::failed(format_args!("the server failed ({ended:?})")),
    }
}

/// The arguments of the server: those of this command but for `serve` and what concerns the command, with a
/// private socket if one is wanted.
fn server_arguments(words: impl Iterator<Item = OsString>, args: &Args, directory: &Path) -> Vec<OsString> {
    let mut server = Vec::new();
    // The sub-command stands in front of all that is its own.
    let mut words = words.skip_while(|word| word != "serve").skip(1);
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        match text.as_ref() {
            "--run" => drop(words.next()),
            "--" => {
                server.push(word);
                server.extend(words);
                break;
            }
            "--unix" => {
                let address = words.next().unwrap_or_default();
                if address != PRIVATE {
                    server.extend([word, address]);
                }
            }
            text if text.starts_with("--run=") || text == "--unix=-" => {}
            text => match short_unix(text) {
                Some((flags, address)) if address.is_empty() || address == PRIVATE => {
                    if !flags.is_empty() {
                        server.push(format!("-{flags}").into());
                    }
                    let next = address.is_empty().then(|| words.next().unwrap_or_default());
                    if let Some(address) = next.filter(|address| address != PRIVATE) {
                        server.extend(["-U".into(), address]);
                    }
                }
                _ => server.push(word),
            },
        }
    }
    let mut front: Vec<OsString> = vec!["--exit-with-parent".into()];
    if args.unix.iter().any(UnixAddress::is_private) || args.unix.is_empty() && args.tcp.is_empty() {
        front.extend(["--unix".into(), directory.join("socket").into()]);
    }
    front.extend(server);
    front
}

/// Of a word with `-U`: the flags of one letter in front of it, and the address, which is empty if it is the
/// next word.
fn short_unix(word: &str) -> Option<(&str, &str)> {
    let (flags, address) = word.strip_prefix('-')?.split_once('U')?;
    // No other flag of one letter can stand there.
    let is_of_flags = flags.chars().all(|flag| flag == 'v');
    is_of_flags.then_some((flags, address.strip_prefix('=').unwrap_or(address)))
}

/// What the command finds in its environment.
fn variables(uri: Option<&str>, directory: &Path) -> Vec<(&'static str, OsString)> {
    let Some(uri) = uri else {
        // A server of nothing but a store: the command knows the image.
        return vec![("unixsocket", directory.join("socket").into())];
    };
    let mut found = vec![("uri", OsString::from(uri))];
    if let Ok(NbdUri { address, export, .. }) = uri.parse() {
        found.push(("exportname", export.into()));
        match address {
            ServerAddress::Unix(path) => found.push(("unixsocket", path.into())),
            ServerAddress::Tcp { port, .. } => found.push(("port", port.to_string().into())),
            ServerAddress::Abstract(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, SubCommand};

    fn inner(words: &[&str]) -> Vec<String> {
        let whole = ["ringnbd", "serve"].iter().chain(words).map(OsString::from);
        let SubCommand::Serve(args) = Cli::try_parse_from(whole.clone()).unwrap().command else {
            panic!("it is serve")
        };
        let arguments = server_arguments(whole.skip(1), &args, Path::new("/d"));
        arguments.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn the_server_gets_what_is_not_for_the_command() {
        let front = ["--exit-with-parent"];
        let private = ["--exit-with-parent", "--unix", "/d/socket"];
        fn both<'a>(front: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
            [front, rest].concat()
        }
        assert_eq!(inner(&["--run", "ls", "disk"]), both(&private, &["disk"]));
        assert_eq!(inner(&["--run=ls", "disk", "--unix", "-"]), both(&private, &["disk"]));
        assert_eq!(inner(&["--unix=-", "--run", "ls", "--tcp", "0"]), both(&private, &["--tcp", "0"]));
        assert_eq!(inner(&["--tcp", "0", "--run", "ls"]), both(&front, &["--tcp", "0"]));
        assert_eq!(inner(&["--unix", "/s", "--run", "ls"]), both(&front, &["--unix", "/s"]));
        assert_eq!(inner(&["--run=--unix", "--", "--run"]), both(&private, &["--", "--run"]));
        // As nbdkit's users write it.
        assert_eq!(inner(&["-U", "-", "disk", "--run", "ls"]), both(&private, &["disk"]));
        for word in ["-U-", "-U=-"] {
            assert_eq!(inner(&[word, "disk", "--run", "ls"]), both(&private, &["disk"]), "{word}");
        }
        assert_eq!(inner(&["-vU", "-", "--run", "ls"]), both(&private, &["-v"]));
        assert_eq!(inner(&["-vU-", "--run", "ls"]), both(&private, &["-v"]));
        assert_eq!(inner(&["-U", "/s", "--run", "ls"]), both(&front, &["-U", "/s"]));
        assert_eq!(inner(&["-U/s", "--run", "ls", "-v"]), both(&front, &["-U/s", "-v"]));
        assert_eq!(inner(&["--tcp=U", "--run", "ls"]), both(&front, &["--tcp=U"]));
    }

    #[test]
    fn the_command_finds_where_the_server_is() {
        let names = |uri| {
            let found = variables(Some(uri), Path::new("/d"));
            found.into_iter().map(|(name, value)| format!("{name}={}", value.display())).collect::<Vec<_>>()
        };
        let unix = "nbd+unix:///a%20b?socket=/s";
        assert_eq!(names(unix), ["uri=nbd+unix:///a%20b?socket=/s", "exportname=a b", "unixsocket=/s"]);
        assert_eq!(names("nbd://[::1]:7/"), ["uri=nbd://[::1]:7/", "exportname=", "port=7"]);
        assert_eq!(variables(None, Path::new("/d")), [("unixsocket", OsString::from("/d/socket"))]);
    }
}
