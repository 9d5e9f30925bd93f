//! Which system calls a running server may make.
//!
//! What moves data goes through the rings, so the list is short. It is made of what is left: memory, waiting,
//! the life of a connection, the end. It has the variants of glibc and of musl, and what the standard library
//! or a panic may call on a bad day.
//!
//! A call that is not on the list fails with `EPERM`, so that a forgotten one costs its caller an error at
//! worst. A call that no part of a server could ever want is the work of an intruder, and kills the process.
//! Both appear in the audit log. Calls newer than this list, and `clone3`, whose arguments a filter cannot
//! see, are `ENOSYS`: only then do C libraries fall back to the old call.
//!
//! The kernel remembers which calls are allowed whatever their arguments are, and runs no filter for them.
//! That holds for `io_uring_enter` and for all that a busy server calls often; rules with arguments are for
//! rare calls.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};

/// Linux 6.17: nothing newer was considered. Since 424 the numbers are those of every architecture.
const NEWEST: u32 = 469;

/// Allowed with any arguments.
const ALLOWED: &[c_long] = &[
    // Rings, doorbells, readiness.
    libc::SYS_io_uring_enter,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    441, // epoll_pwait2
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Sockets that are there. None is made, bound or connected.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_shutdown,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    // Files that are open.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_ftruncate,
    451, // cachestat
    // Names: what Landlock leaves of them.
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    439, // faccessat2
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    // Memory, with `mmap` and `mprotect` below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_munlock,
    // Threads and time.
    libc::SYS_futex,
    449, // futex_waitv
    454, // futex_wake
    455, // futex_wait
    456, // futex_requeue
    libc::SYS_get_robust_list,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    // Signals, panics and the end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Questions.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_getrusage,
    libc::SYS_getrandom,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// The same under the older names that only this architecture has; musl still uses them.
#[cfg(target_arch = "x86_64")]
const ALLOWED_BY_OLD_NAMES: &[c_long] = &[
    libc::SYS_epoll_wait,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_dup2,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_getrlimit,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_BY_OLD_NAMES: &[c_long] = &[];

/// Calls that no server of disks makes: they run a program, look into or change another process, change the
/// system or the view of it, load code into the kernel, work with keys.
const HOSTILE: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    438, // pidfd_getfd
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    428, // open_tree
    429, // move_mount
    430, // fsopen
    431, // fsconfig
    432, // fsmount
    433, // fspick
    442, // mount_setattr
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// What the thread of a store makes, looks at and copies below its directory, where Landlock leaves it to.
/// The last is the lock of a tier that is a directory.
const OF_STORES: &[c_long] =
    &[libc::SYS_openat2, libc::SYS_mkdirat, libc::SYS_statfs, libc::SYS_copy_file_range, libc::SYS_flock];

/// What connecting to another server takes, beside what is allowed anyway.
/// The last is how the C library asks for the addresses of a host.
const OF_CONNECTING: &[c_long] = &[libc::SYS_socket, libc::SYS_connect, libc::SYS_sendmmsg];

/// Programs in the order in which they are to be installed; a call must pass all. With stores, files may be
/// made and opened to be written; where the server connects to others, sockets may be made.
///
/// # Errors
/// An architecture that the compiler of filters does not know.
pub(super) fn programs(
    has_stores: bool,
    connects: bool,
) -> Result<[Vec<libc::sock_filter>; 2], BackendError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let rules = HOSTILE.iter().map(|&call| (call, Vec::new())).collect();
    let hostile = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, architecture)?;
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let allowed =
        SeccompFilter::new(allowed(has_stores, connects)?, refused, SeccompAction::Allow, architecture)?;
    let allowed = not_there().into_iter().chain(BpfProgram::try_from(allowed)?).collect();
    Ok([translated(hostile.try_into()?), translated(allowed)])
}

fn translated(program: BpfProgram) -> Vec<libc::sock_filter> {
    program.iter().map(|&sock_filter { code, jt, jf, k }| libc::sock_filter { code, jt, jf, k }).collect()
}

/// The beginning of a program: calls that are said not to exist. Jumps are relative, so that any program can
/// follow.
fn not_there() -> [sock_filter; 4] {
    let statement = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the number of the call
        statement(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 1, 0, NEWEST),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_clone3 as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn allowed(has_stores: bool, connects: bool) -> Result<Rules, BackendError> {
    let of_stores = if has_stores { OF_STORES } else { &[] };
    let of_connecting = if connects { OF_CONNECTING } else { &[] };
    let calls = ALLOWED.iter().chain(ALLOWED_BY_OLD_NAMES).chain(of_stores).chain(of_connecting);
    let mut rules: Rules = calls.map(|&call| (call, Vec::new())).collect();
    // No memory becomes code any more.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![masked(2, libc::PROT_EXEC as u64, 0)?]);
    }
    // Files are opened to be read, as far as Landlock lets them be opened at all.
    let writing = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
    let opened = if has_stores { Vec::new() } else { vec![masked(2, writing, libc::O_RDONLY as u64)?] };
    rules.insert(libc::SYS_openat, opened);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![masked(1, writing, libc::O_RDONLY as u64)?]);
    // Registered files come and go with connections; all other resources of a ring are registered at start.
    one_of(&mut rules, libc::SYS_io_uring_register, 1, &ring::REGISTER)?;
    // Extents of a file; the size and the sectors of a block device; whether a socket blocks; whether a
    // descriptor is a terminal, as glibc and as musl ask.
    let questions = [FS_IOC_FIEMAP, BLKGETSIZE64, BLKSSZGET, FIONBIO, TCGETS, TIOCGWINSZ];
    one_of(&mut rules, libc::SYS_ioctl, 1, &questions)?;
    // The last two are locks: the broker opens files, and the server locks them.
    let descriptors = [
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_OFD_SETLK,
        libc::F_OFD_GETLK,
    ];
    one_of(&mut rules, libc::SYS_fcntl, 1, &descriptors.map(|command| command as u64))?;
    // A thread of this process, and nothing else that a clone can be.
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    let thread =
        libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
    rules.insert(libc::SYS_clone, vec![masked(0, (namespaces | thread) as u64, thread as u64)?]);
    one_of(&mut rules, libc::SYS_prctl, 0, &[libc::PR_SET_NAME as u64, libc::PR_SET_VMA as u64])?;
    // Signals to this process: `abort`.
    one_of(&mut rules, libc::SYS_tgkill, 0, &[u64::from(std::process::id())])?;
    #[cfg(target_env = "musl")]
    rules.insert(libc::SYS_tkill, Vec::new());
    // Limits are read, not set.
    let nothing = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![nothing])?]);
    Ok(rules)
}

const FIONBIO: u64 = 0x5421;
const TCGETS: u64 = 0x5401;
const TIOCGWINSZ: u64 = 0x5413;
const FS_IOC_FIEMAP: u64 = 0xc020_660b;
const BLKGETSIZE64: u64 = 0x8008_1272;
const BLKSSZGET: u64 = 0x1268;

/// `IORING_REGISTER_*` of a ring in use.
mod ring {
    const FILES_UPDATE: u64 = 6;
    const FILES_UPDATE_WITH_TAGS: u64 = 14;
    pub(super) const REGISTER: [u64; 2] = [FILES_UPDATE, FILES_UPDATE_WITH_TAGS];
}

/// A rule: the masked bits of an argument have this value.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    let operator = SeccompCmpOp::MaskedEq(mask);
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
}

/// Allows a call when one of its arguments, of 32 bits, has one of these values.
fn one_of(rules: &mut Rules, call: c_long, argument: u8, values: &[u64]) -> Result<(), BackendError> {
    let rule = |&value: &u64| {
        let is_it = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
        SeccompRule::new(vec![is_it])
    };
    rules.insert(call, values.iter().map(rule).collect::<Result<_, _>>()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_both_allowed_and_hostile() {
        let allowed = allowed(true, false).unwrap();
        assert!(HOSTILE.iter().all(|call| !allowed.contains_key(call)));
        let calls = ALLOWED.len() + ALLOWED_BY_OLD_NAMES.len() + OF_STORES.len();
        assert!(allowed.len() > calls, "no call is named twice");
        assert!(allowed.keys().chain(HOSTILE).all(|&call| call <= i64::from(NEWEST)));
    }

    #[test]
    fn the_programs_fit_into_the_kernel() {
        const BPF_MAXINSNS: usize = 4096;
        for program in programs(true, false).unwrap() {
            assert!((10..BPF_MAXINSNS).contains(&program.len()));
        }
    }
}
