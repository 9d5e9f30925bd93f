//! Makes a thread of another process make a system call, as code that took the process over would.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;

use libc::{c_int, c_long, pid_t, user_regs_struct};

/// What became of a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success(u64),
    Errno(i32),
    /// The process was killed by this signal.
    Killed(i32),
}

/// A thread that stands still; it goes on where it was when this is dropped.
pub(crate) struct Thread {
    process: u32,
    thread: pid_t,
    saved: user_regs_struct,
    alive: bool,
}

impl Thread {
    /// Stops a thread that waits in a system call.
    pub(crate) fn stop(process: u32, thread: u32) -> Self {
        let thread = thread as pid_t;
        ptrace(libc::PTRACE_SEIZE, thread, 0);
        let mut stopped = Self { process, thread, saved: zeroed(), alive: true };
        crate::support::wait_until("the thread to wait in a system call", || {
            ptrace(libc::PTRACE_INTERRUPT, thread, 0);
            assert!(libc::WIFSTOPPED(stopped.wait()));
            stopped.saved = stopped.registers();
            let waits = stopped.saved.orig_rax as i64 >= 0;
            if !waits {
                ptrace(libc::PTRACE_CONT, thread, 0);
            }
            waits
        });
        stopped
    }

    fn wait(&self) -> c_int {
        let mut status = 0;
        // SAFETY: the call writes the status.
        let waited = unsafe { libc::waitpid(self.thread, &raw mut status, libc::__WALL) };
        assert_eq!(waited, self.thread, "{}", std::io::Error::last_os_error());
        status
    }

    fn registers(&self) -> user_regs_struct {
        let mut registers = zeroed();
        ptrace(libc::PTRACE_GETREGS, self.thread, (&raw mut registers).addr());
        registers
    }

    /// Puts bytes below the thread's stack, and tells where they are.
    pub(crate) fn put(&self, bytes: &[u8]) -> u64 {
        let address = (self.saved.rsp - 2048) & !15;
        let memory = File::options().write(true).open(format!("/proc/{}/mem", self.process)).unwrap();
        memory.write_all_at(bytes, address).unwrap();
        address
    }

    /// Makes the call, with arguments that are numbers.
    pub(crate) fn call(&mut self, number: c_long, arguments: &[u64]) -> Outcome {
        const SYSCALL_INSTRUCTION: u64 = 2; // bytes
        let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
        let mut registers = self.saved;
        registers.rip -= SYSCALL_INSTRUCTION;
        // Not in a call that the kernel would begin again.
        registers.orig_rax = u64::MAX;
        registers.rax = number as u64;
        (registers.rdi, registers.rsi, registers.rdx) = (argument(0), argument(1), argument(2));
        (registers.r10, registers.r8, registers.r9) = (argument(3), argument(4), argument(5));
        self.set(&registers);
        ptrace(libc::PTRACE_SINGLESTEP, self.thread, 0);
        let status = self.wait();
        if libc::WIFSIGNALED(status) {
            self.alive = false;
            return Outcome::Killed(libc::WTERMSIG(status));
        }
        assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP, "{status:#x}");
        match self.registers().rax as i64 {
            error @ -4095..0 => Outcome::Errno(-error as i32),
            value => Outcome::Success(value as u64),
        }
    }

    fn set(&self, registers: &user_regs_struct) {
        ptrace(libc::PTRACE_SETREGS, self.thread, (&raw const *registers).addr());
    }

    /// Lets the thread receive a signal that is on its way, and tells which one it dies of.
    pub(crate) fn dies_of(&mut self) -> i32 {
        let mut status = self.wait_after(0);
        while libc::WIFSTOPPED(status) {
            status = self.wait_after(libc::WSTOPSIG(status));
        }
        self.alive = false;
        libc::WTERMSIG(status)
    }

    fn wait_after(&self, signal: c_int) -> c_int {
        ptrace(libc::PTRACE_CONT, self.thread, signal as usize);
        self.wait()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if !self.alive {
            return;
        }
        // The numbers by which the kernel tells itself to begin a call again; after our call it has forgotten that it wanted to.
        const RESTART: [i64; 4] = [-512, -513, -514, -516];
        let mut registers = self.saved;
        if RESTART.contains(&(registers.rax as i64)) {
            registers.rax = registers.orig_rax;
            registers.rip -= 2;
        }
        registers.orig_rax = u64::MAX;
        self.set(&registers);
        ptrace(libc::PTRACE_DETACH, self.thread, 0);
    }
}

fn zeroed() -> user_regs_struct {
    // SAFETY: registers are numbers.
    unsafe { std::mem::zeroed() }
}

#[track_caller]
fn ptrace(request: libc::c_uint, thread: pid_t, data: usize) {
    // SAFETY: `data` is a number, or the address of a `struct user_regs_struct` that lives until the call returns.
    let result = unsafe {
        libc::ptrace(request, thread, null_mut::<u8>(), std::ptr::without_provenance_mut::<u8>(data))
    };
    assert!(result >= 0, "ptrace {request:#x}: {}", std::io::Error::last_os_error());
}
