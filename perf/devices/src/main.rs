//! What a device of an application costs, over a socket pair, for one client: requests a second, and for each
//! request the server's CPU time and how often its threads gave up their CPU or lost it. The devices are
//!
//! * `null`: the built-in one
//! * `null-at-once`: an application's that answers at once
//! * `null-submitted`: an application's that is handed its requests and completes them there
//! * `memory-blocking`: an application's whose verbs block
//! * `memory-vblk`: the same memory behind vblk 0.1
//!
//! All speak the same protocol to the same client: simple replies, as a kernel asks for them, 4 KiB reads.
//! With `--pin` all threads of a server share the first CPU, and those of the client the second.
//!
//!     cargo run --release -- [--seconds N] [--depth N] [--rounds N] [--pin] [NAME...]
//!
//! vblk serves the kernel only. It gives the kernel its socket by an `ioctl`, which this program answers itself: so the client has it instead.

use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ringnbd::device::{
    ApplicationDevice, BlockingDevice, CommandKind, DeviceFacts, DeviceQueue, DeviceRequest, FastDevice,
    Immediate, Preview,
};
use ringnbd::internal::backend::{Export, ExportId};
use ringnbd::internal::config::Limits;
use ringnbd::internal::nbd::session::{ExportInfo, ReplyMode, Session};
use ringnbd::internal::shard::{NewConnection, ShardConfig, ShardHandle};

const SIZE: u64 = 64 << 20;
const BLOCK: u32 = 4096;

/// Fast devices that do nothing.
struct Null {
    at_once: bool,
}

struct NullQueue(bool);

impl FastDevice for Null {
    fn facts(&self) -> DeviceFacts {
        DeviceFacts::new(SIZE)
    }

    fn open(&self, _shard: usize) -> io::Result<Box<dyn DeviceQueue>> {
        Ok(Box::new(NullQueue(self.at_once)))
    }
}

impl DeviceQueue for NullQueue {
    fn immediate(&mut self, request: &Preview) -> Option<Immediate> {
        let answer =
            if request.command == CommandKind::Read { Immediate::Zeroes } else { Immediate::Discarded };
        self.0.then_some(answer)
    }

    fn submit(&mut self, mut request: DeviceRequest) {
        request.buffer().fill(0);
        request.complete();
    }
}

struct Memory(Vec<u8>);

impl BlockingDevice for Memory {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(&self.0[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

impl vblk::BlockDevice for Memory {
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn block_size(&self) -> u32 {
        BLOCK
    }

    fn blocks(&self) -> u64 {
        SIZE / u64::from(BLOCK)
    }
}

/// The socket that vblk meant for the kernel, and whether the client is done.
static KERNEL_SOCKET: AtomicI32 = AtomicI32::new(-1);
static IS_DONE: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// In place of the C library's, for this whole program.
///
/// # Safety
/// As `ioctl(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(
    fd: libc::c_int,
    request: libc::c_ulong,
    argument: libc::c_ulong,
) -> libc::c_int {
    const NBD_SET_SOCK: libc::c_ulong = 0xab00;
    const NBD_DO_IT: libc::c_ulong = 0xab03;
    match request {
        NBD_SET_SOCK => {
            // SAFETY: a descriptor is copied, and nothing else.
            let copy = unsafe { libc::dup(argument as libc::c_int) };
            KERNEL_SOCKET.store(copy, Ordering::Release);
            0
        }
        NBD_DO_IT => {
            let mut done = IS_DONE.0.lock().unwrap();
            while !*done {
                done = IS_DONE.1.wait(done).unwrap();
            }
            0
        }
        0xab00..=0xabff => 0,
        // SAFETY: handed on as it came.
        _ => unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) as libc::c_int },
    }
}

static IS_PINNED: AtomicBool = AtomicBool::new(false);

/// With `--pin` this thread, and those that it starts, stay on one CPU.
fn pin(cpu: usize) {
    if !IS_PINNED.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: a set of CPUs is plain bits, and it is this thread's own affinity.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    assert_eq!(result, 0, "there is a CPU {cpu}");
}

/// What threads have used.
#[derive(Clone, Copy)]
struct Usage {
    cpu_us: f64,
    switches: f64,
}

impl Usage {
    fn of(who: libc::c_int) -> Self {
        // SAFETY: all-zero is a valid `rusage`, which the call fills; it keeps no pointer to it.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            assert_eq!(libc::getrusage(who, &raw mut usage), 0);
            usage
        };
        let us = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
        let switches = (usage.ru_nvcsw + usage.ru_nivcsw) as f64;
        Self { cpu_us: us(usage.ru_utime) + us(usage.ru_stime), switches }
    }

    fn less(self, other: Self) -> Self {
        Self { cpu_us: self.cpu_us - other.cpu_us, switches: self.switches - other.switches }
    }
}

/// What a load has found.
struct Found {
    requests_per_second: f64,
    /// Of the server, for each request.
    server: Usage,
}

/// Puts a server at the other end under load.
fn load(socket: UnixStream, seconds: f64, depth: usize) -> Found {
    let mut writer = socket.try_clone().unwrap();
    let mut reader = io::BufReader::with_capacity(1 << 20, socket);
    let (answered, answers) = channel::<usize>();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let asking = std::thread::spawn(move || {
        pin(1);
        let (mut number, mut bytes) = (0_u64, Vec::new());
        let mut ask = |count: usize| {
            bytes.clear();
            for _ in 0..count {
                let offset =
                    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & (SIZE - 1) & !u64::from(BLOCK - 1);
                bytes.extend(0x2560_9513_u32.to_be_bytes());
                bytes.extend(0_u32.to_be_bytes());
                bytes.extend(number.to_be_bytes());
                bytes.extend(offset.to_be_bytes());
                bytes.extend(BLOCK.to_be_bytes());
                number += 1;
            }
            writer.write_all(&bytes).unwrap();
        };
        ask(depth);
        while let Ok(count) = answers.recv() {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            ask(count + answers.try_iter().sum::<usize>());
        }
        Usage::of(libc::RUSAGE_THREAD)
    });
    pin(1);
    let before = (Usage::of(libc::RUSAGE_SELF), Usage::of(libc::RUSAGE_THREAD));
    let begun = Instant::now();
    let (mut count, mut reply) = (0_u64, vec![0; 16 + BLOCK as usize]);
    while begun.elapsed().as_secs_f64() < seconds {
        let batch = depth.div_ceil(2);
        for _ in 0..batch {
            reader.read_exact(&mut reply).unwrap();
            assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "a simple reply without error");
        }
        count += batch as u64;
        answered.send(batch).unwrap();
    }
    let requests_per_second = count as f64 / begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    drop(answered);
    let asking = asking.join().unwrap();
    let reading = Usage::of(libc::RUSAGE_THREAD).less(before.1);
    let server = Usage::of(libc::RUSAGE_SELF).less(before.0).less(reading).less(asking);
    pin(0);
    let count = count as f64;
    let server = Usage { cpu_us: server.cpu_us / count, switches: server.switches / count };
    Found { requests_per_second, server }
}

fn ringnbd(export: Export, seconds: f64, depth: usize) -> Found {
    let shard = ShardHandle::start(ShardConfig {
        index: 0,
        cpu: None,
        limits: Arc::new(Limits::SMALLEST),
        files: 1,
        busy_poll: Duration::ZERO,
        record: true,
        slow: None,
        on_exit: Box::new(|_| {}),
    })
    .unwrap();
    let (client, server) = UnixStream::pair().unwrap();
    let info = ExportInfo {
        name: String::new(),
        description: String::new(),
        facts: export.facts().clone(),
        contexts: Vec::new(),
        require_block_size: false,
    };
    let reply_mode = ReplyMode::Simple;
    let session = Session {
        reply_mode,
        transmission_flags: info.transmission_flags(reply_mode),
        size: info.facts.size,
        block_sizes: info.facts.block_sizes,
        enforce_alignment: false,
        contexts: Vec::new(),
    };
    let negotiated = NewConnection {
        number: 1,
        socket: server.into(),
        over_tcp: false,
        id: ExportId { index: 0, generation: 0 },
        export: Arc::new(export),
        limits: Arc::default(),
        session,
        leftover: Vec::new(),
        secure: None,
        peer: Default::default(),
        permit: Box::new(()),
        socket_permit: Box::new(()),
    };
    assert!(shard.connect(negotiated).is_ok());
    let found = load(client, seconds, depth);
    shard.cut_off();
    found
}

fn vblk(seconds: f64, depth: usize) -> Found {
    KERNEL_SOCKET.store(-1, Ordering::Release);
    *IS_DONE.0.lock().unwrap() = false;
    let serving = std::thread::spawn(|| {
        let mut memory = Memory(vec![7; SIZE as usize]);
        // SAFETY: its ioctls are answered above.
        unsafe { vblk::mount(&mut memory, "/dev/null", |_device| Ok(())) }
    });
    let socket = loop {
        match KERNEL_SOCKET.load(Ordering::Acquire) {
            -1 => std::thread::yield_now(),
            // SAFETY: it was copied for this, and nobody else has it.
            socket => break unsafe { OwnedFd::from_raw_fd(socket) },
        }
    };
    let socket = UnixStream::from(socket);
    let found = load(socket.try_clone().unwrap(), seconds, depth);
    // It sends what was asked, and finds nobody: that ends it.
    let _ended = socket.shutdown(std::net::Shutdown::Both);
    *IS_DONE.0.lock().unwrap() = true;
    IS_DONE.1.notify_all();
    let _broken = serving.join();
    found
}

fn measure(name: &str, seconds: f64, depth: usize) -> Found {
    let application = |device: ApplicationDevice| Export::of_device(&device, false).unwrap();
    let export = match name {
        "null" => Export::open(&"null:64M".parse().unwrap(), false).unwrap(),
        "null-at-once" => application(ApplicationDevice::fast(Null { at_once: true })),
        "null-submitted" => application(ApplicationDevice::fast(Null { at_once: false })),
        "memory-blocking" => application(ApplicationDevice::blocking(Memory(vec![7; SIZE as usize]))),
        "memory-vblk" => return vblk(seconds, depth),
        other => panic!("there is no {other}"),
    };
    ringnbd(export, seconds, depth)
}

fn main() {
    let (mut seconds, mut depth, mut rounds, mut names) = (2.0, 64, 3, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a number follows");
        match argument.as_str() {
            "--seconds" => seconds = value().parse().unwrap(),
            "--depth" => depth = value().parse().unwrap(),
            "--rounds" => rounds = value().parse().unwrap(),
            "--pin" => IS_PINNED.store(true, Ordering::Relaxed),
            _ => names.push(argument),
        }
    }
    if names.is_empty() {
        let all = ["null", "null-at-once", "null-submitted", "memory-blocking", "memory-vblk"];
        names = all.map(str::to_owned).to_vec();
    }
    pin(0);
    for _ in 0..rounds {
        for name in &names {
            let Found { requests_per_second, server } = measure(name, seconds, depth);
            println!(
                "{name:16} {requests_per_second:>9.0} requests/s {:>7.2} us of CPU {:>7.3} switches a request",
                server.cpu_us, server.switches
            );
        }
    }
}
