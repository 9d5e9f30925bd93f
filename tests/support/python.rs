//! The interpreter that has the independent readers of metrics and histogram logs; `tests/python install` provides it.
#![allow(dead_code, reason = "each test crate uses its own part")]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers;

/// Runs a script on the standard input, with arguments, and gives its JSON. `None` after a skip.
#[track_caller]
pub(crate) fn json(script: &str, arguments: &[&str]) -> Option<serde_json::Value> {
    let interpreter = interpreter()?;
    let mut command = Command::new(interpreter);
    command.args(["-c", script]).args(arguments);
    let text = peers::run(&mut command).ok();
    Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// Runs a module, once it has its arguments. `None` after a skip.
pub(crate) fn module(name: &str) -> Option<Command> {
    let mut command = Command::new(interpreter()?);
    command.args(["-m", name]);
    Some(command)
}

fn interpreter() -> Option<PathBuf> {
    let home = std::env::var_os("RINGNBD_PYTHON").map(PathBuf::from);
    let cache = || std::env::var_os("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("ringnbd/python"));
    let own = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/ringnbd/python"));
    let place = home.or_else(cache).or_else(own).unwrap_or_default();
    if place.join("packages").exists() {
        return Some(place.join("bin/python"));
    }
    peers::skip("Python packages hdrhistogram and prometheus-client", "run tests/python install");
    None
}
