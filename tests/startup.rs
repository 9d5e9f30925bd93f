//! The life of a server around its requests: how it starts, refuses to start, listens, serves one client, stops; and what it leaves
//! behind, which is nothing.

#[path = "support/peers.rs"]
mod peers;
mod support;

#[path = "startup/access.rs"]
mod access;
#[path = "startup/captive.rs"]
mod captive;
#[path = "startup/failure.rs"]
mod failure;
#[path = "startup/fd_store.rs"]
mod fd_store;
#[path = "startup/fleet.rs"]
mod fleet;
#[path = "startup/fleet_probe.rs"]
mod fleet_probe;
#[path = "startup/handover.rs"]
mod handover;
#[path = "startup/handover_gap.rs"]
mod handover_gap;
#[path = "startup/handover_images.rs"]
mod handover_images;
#[cfg(target_arch = "x86_64")]
#[path = "startup/handover_killed.rs"]
mod handover_killed;
#[path = "startup/handover_pushing.rs"]
mod handover_pushing;
#[path = "startup/handover_versions.rs"]
mod handover_versions;
#[path = "startup/imported.rs"]
mod imported;
#[path = "startup/lifecycle.rs"]
mod lifecycle;
#[path = "startup/listening.rs"]
mod listening;
#[path = "startup/locks.rs"]
mod locks;
#[path = "startup/log.rs"]
mod log;
#[path = "startup/refusal.rs"]
mod refusal;
#[path = "startup/rights.rs"]
mod rights;
#[path = "startup/sandbox.rs"]
mod sandbox;
#[path = "startup/secure_stream.rs"]
mod secure_stream;
#[path = "startup/stdio.rs"]
mod stdio;
#[cfg(target_arch = "x86_64")]
#[path = "startup/stepper.rs"]
mod stepper;
#[cfg(target_arch = "x86_64")]
#[path = "startup/tracer.rs"]
mod tracer;

use std::process::Command;

/// The binary under test.
fn binary() -> String {
    std::env::var("RINGNBD_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ringnbd").into())
}

/// `ringnbd serve` with these arguments, ended after half a minute whatever happens.
fn serve(arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg("30").arg(binary()).arg("serve").args(arguments).env_remove("RUST_LOG");
    command
}

/// Makes a system call fail with `errno` for this process and its children, as a container's seccomp profile does.
fn forbid(call: libc::c_long, errno: i32) -> std::io::Result<()> {
    forbid_with(call, None, errno)
}

/// As [`forbid`], with this second argument only.
fn forbid_with(call: libc::c_long, argument: Option<u32>, errno: i32) -> std::io::Result<()> {
    let statement = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mask = if argument.is_some() { u32::MAX } else { 0 };
    let filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the number of the system call
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 4, call as u32),
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 24), // the lower half of its second argument
        statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, mask),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, argument.unwrap_or(0)),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program and its filter live until the calls return; the kernel copies them.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
