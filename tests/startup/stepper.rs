//! Runs a program from one system call to the next, in all of its threads, and kills it where a test wants.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null_mut;

use libc::{c_int, c_long, pid_t, user_regs_struct};

/// A system call that is about to be made.
pub(super) struct Step {
    /// How many were made before.
    pub(super) number: usize,
    pub(super) call: c_long,
    /// The kind of the message of a hand-over that it sends.
    pub(super) sends: Option<u8>,
}

/// A program under a debugger; it dies with the thread that has started it.
pub(super) struct Stepper {
    process: pid_t,
    steps: usize,
}

impl Stepper {
    /// Starts a program, which stands still at its first instruction. It is the leader of a group of processes, so that its
    /// threads can be waited for without those of other tests.
    #[expect(clippy::zombie_processes, reason = "it is waited for with its threads")]
    pub(super) fn start(mut command: Command) -> Self {
        let be_traced = || {
            // SAFETY: this request reads none of its other arguments.
            let result = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, null_mut::<u8>(), null_mut::<u8>()) };
            if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        command.process_group(0);
        // SAFETY: between fork and exec only a system call is made.
        let child = unsafe { command.pre_exec(be_traced) }.spawn().unwrap();
        let stepper = Self { process: child.id() as pid_t, steps: 0 };
        let (thread, status) = stepper.wait();
        assert!(thread == stepper.process && libc::WIFSTOPPED(status), "{status:#x}");
        let options = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACESYSGOOD;
        stepper.ptrace(libc::PTRACE_SETOPTIONS, thread, options as usize);
        stepper.go_on(thread, 0);
        stepper
    }

    fn wait(&self) -> (pid_t, c_int) {
        let mut status = 0;
        // SAFETY: the call writes the status.
        let thread = unsafe { libc::waitpid(-self.process, &raw mut status, libc::__WALL) };
        assert!(thread > 0, "{}", std::io::Error::last_os_error());
        (thread, status)
    }

    /// Runs until a call is the wanted one, and kills the program before it is made: how many were made. None if the program
    /// ends before.
    pub(super) fn kill_at(mut self, mut is_wanted: impl FnMut(&Step) -> bool) -> Option<usize> {
        let mut new_threads: Vec<pid_t> = vec![self.process];
        loop {
            let (thread, status) = self.wait();
            if !libc::WIFSTOPPED(status) {
                if thread == self.process {
                    return None;
                }
                continue;
            }
            let signal = libc::WSTOPSIG(status);
            if signal == libc::SIGTRAP | 0x80 {
                if let Some(step) = self.entered(thread)
                    && is_wanted(&step)
                {
                    self.kill();
                    return Some(step.number);
                }
                self.go_on(thread, 0);
            } else if signal == libc::SIGTRAP {
                // A thread was made.
                self.go_on(thread, 0);
            } else if signal == libc::SIGSTOP && !new_threads.contains(&thread) {
                // The first thing that is heard of a thread.
                new_threads.push(thread);
                self.go_on(thread, 0);
            } else {
                self.go_on(thread, signal);
            }
        }
    }

    /// The call that a thread stands before; none if it has just made one.
    fn entered(&mut self, thread: pid_t) -> Option<Step> {
        // SAFETY: registers are numbers.
        let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
        self.ptrace(libc::PTRACE_GETREGS, thread, (&raw mut registers).addr());
        // The kernel has put this number there, until the call was made.
        if registers.rax as i64 != -i64::from(libc::ENOSYS) {
            return None;
        }
        let (number, call) = (self.steps, registers.orig_rax as c_long);
        self.steps += 1;
        let sends = (call == libc::SYS_sendmsg).then(|| self.kind(registers.rsi)).flatten();
        Some(Step { number, call, sends })
    }

    /// What kind of message of a hand-over a `struct msghdr` has, if it is one.
    fn kind(&self, header: u64) -> Option<u8> {
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.process)).ok()?;
        let read =
            |at: u64, bytes: &mut [u8]| std::os::unix::fs::FileExt::read_exact_at(&memory, bytes, at).ok();
        let number = |at: u64| {
            let mut bytes = [0; 8];
            read(at, &mut bytes).map(|()| u64::from_ne_bytes(bytes))
        };
        // Its third field leads to the pieces, of which each is an address and a length.
        let pieces = number(header + 16)?;
        let (address, length) = (number(pieces)?, number(pieces + 8)?);
        let mut head = [0; 6];
        read(address, &mut head)?;
        let announced = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        (u64::from(announced) + 6 == length).then_some(head[4])
    }

    fn kill(&self) {
        // SAFETY: the call has no memory.
        assert_eq!(unsafe { libc::kill(self.process, libc::SIGKILL) }, 0);
        loop {
            let (thread, status) = self.wait();
            if thread == self.process && !libc::WIFSTOPPED(status) {
                return;
            }
        }
    }

    fn go_on(&self, thread: pid_t, signal: c_int) {
        // SAFETY: this request has a number only.
        let result = unsafe {
            libc::ptrace(
                libc::PTRACE_SYSCALL,
                thread,
                null_mut::<u8>(),
                std::ptr::without_provenance_mut::<u8>(signal as usize),
            )
        };
        let error = std::io::Error::last_os_error();
        // It may have been killed meanwhile.
        assert!(result >= 0 || error.raw_os_error() == Some(libc::ESRCH), "{error}");
    }

    fn ptrace(&self, request: libc::c_uint, thread: pid_t, data: usize) {
        // SAFETY: `data` is a number, or the address of a `struct user_regs_struct` that lives until the call returns.
        let result = unsafe {
            libc::ptrace(request, thread, null_mut::<u8>(), std::ptr::without_provenance_mut::<u8>(data))
        };
        assert!(result >= 0, "ptrace {request:#x}: {}", std::io::Error::last_os_error());
    }
}
