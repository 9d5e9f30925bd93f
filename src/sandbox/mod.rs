//! The sandbox of a running server: it gives up what it does not need any more before the first client is
//! served.
//!
//! A client talks to code that has the disks of others open, perhaps as root. Should that code ever do what a
//! client wants, it can read and write these disks, and nothing more: it runs no program, opens no file,
//! makes no connection, regains no privilege.
//!
//! # What is given up, and when
//!
//! ```text
//! main thread                                          shards and their helper threads
//! prepare      look the user up; no_new_privs                     (threads inherit it)
//! open exports
//! isolated     a thread restricts itself: below stores ► starts the threads of stores, which inherit that
//! isolated     a thread restricts itself: no names ──► starts the shards, which inherit that
//! listeners, admin server, latency log, pidfile's content
//! enter        1. sockets are handed over; user, groups ─────────► (all threads: the C library does it)
//!              2. Landlock: only its own names
//!              3. seccomp, two programs ─────────────────────────► (all threads: TSYNC)
//! banner, pidfile, READY=1, accept
//! ```
//!
//! * *User* (`--user`): after everything is bound and open, which may need root; before Landlock and seccomp,
//!   which would forbid it. In the kernel it belongs to a thread. The C library changes all threads, so its
//!   calls are used.
//! * *Landlock* restricts the calling thread and what it starts afterwards. So the shards must be restricted
//!   before they exist, and the control plane only after it has bound its sockets: the shards are started by
//!   a thread that can open nothing. Descriptors that are open stay as they are: exports, block devices,
//!   logs.
//! * *seccomp* comes last, for all threads at once. `filter.rs` has the list, and says what happens to other
//!   calls.
//!
//! Threads that the kernel makes for a ring inherit all three from the thread that the ring belongs to.
//!
//! # What is left
//!
//! Everything that is open is left: all disks that are served, all clients. Operations of a ring are no
//! system calls, so seccomp does not see them. Landlock and the user's rights hold for them, but a ring can
//! still make sockets, of UDP for example. In a directory that holds a socket of its own, the control plane
//! can remove other files too, as far as the user's rights go.
//!
//! A server of stores has a thread for each. It makes, opens, renames and removes files below the directories
//! of the stores. The filter of system calls holds for the whole process, so with stores it lets all threads
//! open files to write: for each thread Landlock decides which.
//!
//! A server with exports of other servers connects to these again when a connection is lost, on the helper
//! threads of its shards. Only then may shards connect, to whatever the network allows, and all threads make
//! sockets.
//!
//! A store with images of a tier has threads that fetch from it. They start when the store is opened, before
//! anything is given up: they keep the names of files that their user may use, as far as the filter of calls
//! goes. If the tier is in a bucket, one of them connects, and all threads may make sockets. Names of hosts
//! are looked up there: the first time before the filter, so that the C library has loaded what that takes.
//!
//! A store that pushes snapshots to its tier has one more such thread. It reads packs, notes in the store
//! what was pushed, and writes to the tier: by connections of its own, or to the directory that the tier is.
//!
//! A server with a control socket or a configuration file has a broker beside it (`daemon/broker`). The
//! broker is not confined. It opens files for the server by rules that were fixed before: files beside the
//! exports at worst. It also starts the commands of exports, which are not confined either: they may do what
//! their user may.
//!
//! A feature that opens or connects to something in a running server cannot do so here. There are three ways:
//! it opens it before [`Sandbox::enter`], the broker opens it, or [`Names`] and the list of calls allow it.

mod error;
mod filter;
mod paths;
mod user;

use std::cell::Cell;
use std::io;
use std::path::Path;

use crate::config::{RunAs, SandboxMode};
use crate::sys::confine;
pub(crate) use error::SandboxError;
pub(crate) use paths::Names;
use user::Account;

/// The numbers of a user and a group that this process may become.
///
/// # Errors
/// [`SandboxError`]: there is no such user, or this process may not become it.
pub(crate) fn user_and_group(wanted: &RunAs) -> Result<(u32, u32), SandboxError> {
    Account::find(wanted).map(|account| (account.user.user, account.user.group))
}

/// What confines a running server, for a log line: a part is a version, or `no` and why.
#[derive(Debug)]
pub(crate) struct Confinement {
    /// The user that the server runs as now.
    pub user: u32,
    /// Whether programs gain privileges by being run.
    pub no_new_privileges: String,
    /// The filter of system calls.
    pub seccomp: String,
    /// The rules for names of files, for connecting and for signalling.
    pub landlock: String,
}

/// How this server will be confined.
#[derive(Debug)]
pub(crate) struct Sandbox {
    mode: SandboxMode,
    account: Option<Account>,
    no_new_privileges: Result<String, String>,
    /// There are threads of stores, which make and remove files.
    has_stores: Cell<bool>,
    /// There are threads that connect to other servers.
    connects: Cell<bool>,
}

type Part = Result<String, String>;

impl Sandbox {
    /// The first step, while there is only one thread: finds the user, and gives up new privileges.
    ///
    /// # Errors
    /// [`SandboxError`]: there is no such user, or the process may not become that user; with
    /// [`SandboxMode::On`], what is missing.
    pub(crate) fn prepare(mode: SandboxMode, user: Option<&RunAs>) -> Result<Self, SandboxError> {
        let account = user.map(Account::find).transpose()?;
        let set = || {
            let set = rustix::thread::set_no_new_privs(true);
            set.map(|()| "yes".to_owned()).map_err(|error| io::Error::from(error).to_string())
        };
        let no_new_privileges = applied(mode, "no_new_privs", set)?;
        Ok(Self {
            mode,
            account,
            no_new_privileges,
            has_stores: Cell::new(false),
            connects: Cell::new(false),
        })
    }

    /// Runs `start` on a thread that can use no other names than these, and no thread can that it starts.
    ///
    /// # Errors
    /// No thread; with [`SandboxMode::On`], no Landlock.
    pub(crate) fn isolated<T: Send>(
        &self,
        names: &Names,
        start: impl FnOnce() -> T + Send,
    ) -> Result<T, SandboxError> {
        self.has_stores.set(self.has_stores.get() || !names.stores.is_empty());
        self.connects.set(self.connects.get() || names.connects || names.others_connect);
        if self.mode == SandboxMode::Off {
            return Ok(start());
        }
        let mode = self.mode;
        let restricted = move || {
            // Without Landlock they start all the same. The thread that enters reports what is missing.
            let _told_later = applied(mode, "Landlock", || paths::restrict(paths::rules(names)))?;
            Ok(start())
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("starter".into());
            let thread = thread.spawn_scoped(scope, restricted).map_err(SandboxError::Thread)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The user and group to hand files over to, when the process is about to become another user.
    pub(crate) fn successor(&self) -> Option<(u32, u32)> {
        self.account.as_ref().map(|account| (account.user.user, account.user.group))
    }

    /// Whether files beside this one can be made and removed once the user has changed.
    pub(crate) fn may_change_beside(&self, file: &Path) -> bool {
        let Some(account) = &self.account else { return true };
        paths::directory_of(file).metadata().is_ok_and(|directory| account.may_write_to(&directory))
    }

    /// The last step, when everything is open: becomes the user, and gives up all names but these and all
    /// system calls that a running server does not need.
    ///
    /// # Errors
    /// [`SandboxError`]; part of it may be done, and the process should end.
    pub(crate) fn enter(&self, names: &Names) -> Result<Confinement, SandboxError> {
        // Descriptors of directories that only root may look into.
        let rules = (self.mode != SandboxMode::Off).then(|| paths::rules(names));
        self.account.as_ref().map_or(Ok(()), Account::become_it)?;
        let landlock = applied(self.mode, "Landlock", || match rules {
            Some(rules) => paths::restrict(rules),
            None => Err(String::new()),
        })?;
        let seccomp =
            applied(self.mode, "seccomp", || install_filters(self.has_stores.get(), self.connects.get()))?;
        if self.mode != SandboxMode::Off {
            confine::note();
        }
        let told = |part: &Part| match part {
            Ok(version) => version.clone(),
            Err(why) => format!("no: {why}"),
        };
        Ok(Confinement {
            user: rustix::process::geteuid().as_raw(),
            no_new_privileges: told(&self.no_new_privileges),
            seccomp: told(&seccomp),
            landlock: told(&landlock),
        })
    }
}

fn install_filters(has_stores: bool, connects: bool) -> Part {
    let programs = filter::programs(has_stores, connects).map_err(|error| error.to_string())?;
    for program in programs {
        confine::install_filter(&program).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EINVAL) => "this kernel does not have it".to_owned(),
            _ => error.to_string(),
        })?;
    }
    Ok("yes".to_owned())
}

/// Applies a part as the mode wants it: not at all, as far as possible, or as a must.
fn applied(
    mode: SandboxMode,
    name: &'static str,
    apply: impl FnOnce() -> Part,
) -> Result<Part, SandboxError> {
    match (mode, apply) {
        (SandboxMode::Off, _) => Ok(Err("switched off".to_owned())),
        (SandboxMode::Auto, apply) => Ok(apply()),
        (SandboxMode::On, apply) => match apply() {
            Ok(version) => Ok(Ok(version)),
            Err(why) => Err(SandboxError::Missing(name, why)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const INSIDE: &str = "RINGNBD_TEST_INSIDE_SANDBOX";

    /// Runs itself once more as a process of its own, because a sandbox has no way out.
    #[test]
    fn what_the_standard_library_does_on_a_bad_day_still_works() {
        if let Some(directory) = std::env::var_os(INSIDE) {
            return bad_day(Path::new(&directory));
        }
        let directory = tempfile::tempdir().unwrap();
        for part in ["ours", "foreign"] {
            std::fs::create_dir(directory.path().join(part)).unwrap();
            std::fs::write(directory.path().join(part).join("file"), "").unwrap();
        }
        let name = "sandbox::tests::what_the_standard_library_does_on_a_bad_day_still_works";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([name, "--exact", "--nocapture"]).env(INSIDE, directory.path());
        let output = command.output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(output.status.success() && told.contains("at the end of the day"), "{told}");
    }

    fn bad_day(directory: &Path) {
        let sandbox = Sandbox::prepare(SandboxMode::Auto, None).unwrap();
        let (ours, foreign) = (directory.join("ours/file"), directory.join("foreign/file"));
        let names = Names { removed: vec![ours.clone()], ..Names::default() };
        let mut ring = io_uring::IoUring::new(4).unwrap();
        let confinement = sandbox.enter(&names).unwrap();
        if confinement.seccomp != "yes" || confinement.landlock.starts_with("no") {
            // The machine has not got it all.
            return println!("at the end of the day: {confinement:?}");
        }
        let nested = std::thread::spawn(|| {
            let panicked = std::panic::catch_unwind(|| assert_eq!(1, 2));
            assert!(panicked.is_err());
            std::backtrace::Backtrace::force_capture().to_string()
        });
        let backtrace = nested.join().unwrap();
        assert!(backtrace.contains("bad_day"), "functions have names: {backtrace}");
        let mut memory = vec![1_u8; 64 << 20];
        memory.resize(256 << 20, 2);
        drop(memory);
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(std::fs::read_to_string("/proc/self/statm").is_ok());
        let forbidden = |error: io::Error| {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            assert!(confine::hint(&error).contains("--sandbox off"));
        };
        forbidden(std::fs::File::open(&foreign).unwrap_err());
        forbidden(std::fs::write(&ours, "x").unwrap_err());
        forbidden(std::net::TcpStream::connect("127.0.0.1:1").unwrap_err());
        forbidden(std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err());
        forbidden(std::os::unix::net::UnixDatagram::unbound().unwrap_err());
        forbidden(Command::new("true").spawn().unwrap_err());
        forbidden(std::fs::remove_file(&foreign).unwrap_err());
        forbidden(open_by_ring(&mut ring, &foreign).unwrap_err());
        std::fs::remove_file(ours).unwrap();
        println!("at the end of the day");
    }
    #[allow(unsafe_code)]
    fn open_by_ring(ring: &mut io_uring::IoUring, path: &Path) -> io::Result<i32> {
        use io_uring::{opcode, types};
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        let entry =
            opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).flags(libc::O_RDONLY).build();
        // SAFETY: the path lives until the operation is finished.
        unsafe { ring.submission().push(&entry).unwrap() };
        ring.submit_and_wait(1)?;
        let result = ring.completion().next().unwrap().result();
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
    }
}
