//! Where the control socket is, if nobody says so.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::config::ControlAddress;
use crate::nbd::printable::printable;

/// Says it for all commands of a shell.
const VARIABLE: &str = "RINGNBD_CONTROL";

/// Where servers have one: that of the packages, and that beside a pidfile.
const DIRECTORIES: [&str; 2] = ["/run/ringnbd", "/run"];

/// The socket that was named, or the only one that there is.
pub(super) fn find(said: Option<ControlAddress>) -> Result<PathBuf, String> {
    let said = match (said, std::env::var(VARIABLE)) {
        (Some(said), _) => said,
        (None, Ok(text)) => text.parse().map_err(|error| format!("{VARIABLE}: {error}"))?,
        (None, Err(_)) => return only_one(sockets(&DIRECTORIES.map(Path::new))),
    };
    match said {
        ControlAddress::Path(path) => Ok(path),
        ControlAddress::Off => {
            Err("there is no control socket to ask with --control off: write unix:PATH".to_owned())
        }
    }
}

fn only_one(mut found: Vec<PathBuf>) -> Result<PathBuf, String> {
    match found.len() {
        0 => {
            let looked = DIRECTORIES.join(" and ");
            Err(format!("no control socket was found in {looked}: write --control unix:PATH"))
        }
        1 => Ok(found.remove(0)),
        _ => {
            found.sort();
            let all: Vec<_> = found.iter().map(|path| printable(&path.to_string_lossy())).collect();
            Err(format!(
                "several servers have a control socket, write --control unix:PATH: {}",
                all.join(", ")
            ))
        }
    }
}

/// Sockets that are called `control`, or end with `.control`.
fn sockets(directories: &[&Path]) -> Vec<PathBuf> {
    let entries = directories.iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten();
    let sockets = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    let is_control = |path: &PathBuf| {
        let is = |part: Option<&std::ffi::OsStr>| part.is_some_and(|part| part == "control");
        is(path.file_name()) || is(path.extension())
    };
    sockets.map(|entry| entry.path()).filter(is_control).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_only_socket_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let look = || only_one(sockets(&[directory.path(), Path::new("/nosuch")]));
        std::fs::write(directory.path().join("control"), "").unwrap();
        let _other = UnixListener::bind(directory.path().join("nbd.sock")).unwrap();
        assert!(look().unwrap_err().contains("no control socket"));
        let _one = UnixListener::bind(directory.path().join("a.control")).unwrap();
        assert_eq!(look(), Ok(directory.path().join("a.control")));
        let _two = UnixListener::bind(directory.path().join("b.control")).unwrap();
        assert!(look().unwrap_err().contains("several servers"));
    }

    #[test]
    fn what_is_said_wins() {
        let said = |text: &str| find(Some(text.parse().unwrap()));
        assert_eq!(said("unix:/run/a"), Ok("/run/a".into()));
        assert!(said("off").unwrap_err().contains("unix:PATH"));
    }
}
