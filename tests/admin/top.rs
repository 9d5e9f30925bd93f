//! `ringnbd top` at a terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::ptr::null;

use crate::Subject;
use crate::http::Address;
use crate::support::wait_until;

/// Both ends of a new terminal: the one that shows it, and the one that a program has.
fn terminal() -> (File, OwnedFd) {
    let (mut shown, mut used) = (-1, -1);
    let size = libc::winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call writes both descriptors and reads the size.
    let made = unsafe {
        libc::openpty(&raw mut shown, &raw mut used, null::<i8>().cast_mut(), null(), &raw const size)
    };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // The program must not have the end that shows it.
    // SAFETY: it is a descriptor's flag.
    let closed = unsafe { libc::fcntl(shown, libc::F_SETFD, libc::FD_CLOEXEC) };
    assert_eq!(closed, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: both are new and nobody else's.
    unsafe { (File::from_raw_fd(shown), OwnedFd::from_raw_fd(used)) }
}

/// The program leads the session of the terminal, as a login's shell does: reading from what is hung up returns at once, for ever.
#[test]
fn it_ends_with_its_terminal() {
    let subject = Subject::serve(&["mem:1M"]);
    let Address::Tcp(address) = &subject.admin else { panic!("another kind of address") };
    let (mut shown, used) = terminal();
    let used = || Stdio::from(used.try_clone().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    command.args(["top", "--admin", &format!("http://{address}")]);
    let lead = || {
        // SAFETY: both are system calls with plain arguments, and standard input is the terminal.
        let is_leader = unsafe { libc::setsid() != -1 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 };
        if is_leader { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(lead) };
    let mut top = command.stdin(used()).stdout(used()).stderr(Stdio::null()).spawn().unwrap();
    drop(command);
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&text).contains("exports") {
        let count = shown.read(&mut piece).unwrap();
        text.extend(&piece[..count]);
    }
    drop(shown);
    wait_until("it ends", || top.try_wait().unwrap().is_some());
}
