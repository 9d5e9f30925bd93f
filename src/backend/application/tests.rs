//! Devices of applications behind a whole server, spoken to by clients.

use std::io;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Waker};

use super::*;
use crate::backend::Abandon;
use crate::backend::application_kind::Application;
use crate::backend::testing::context_with;
use crate::block::{BlockError, ByteRange, CommandKind, IoFlags};
use crate::client::{Client, ClientError, Timeouts};
use crate::exec::lock;
use crate::ring::RingOptions;
use crate::server::{ServerBuilder, ServerHandle};
use crate::shard::Removal;

const SIZE: u64 = 1 << 20;

fn serve(device: &ApplicationDevice) -> ServerHandle {
    let builder = ServerBuilder::new().shards(1).memory(64 << 20).unpinned().tcp("127.0.0.1:0");
    builder.device("device", device.clone()).export("other", "mem:1M").start().unwrap()
}

fn client(server: &ServerHandle, export: usize) -> Client {
    let uri = server.exports()[export].uris[0].parse().unwrap();
    Client::open(&uri, &[], Timeouts::default()).unwrap()
}

/// Where panics come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Panics {
    Open,
    Immediate,
    Submit,
    Commit,
    Drop,
}

/// A device that hands its requests to whoever holds the other end.
struct Handing {
    requests: Mutex<Sender<DeviceRequest>>,
    panics: Option<Panics>,
    answer: Option<Immediate>,
    dropped: Arc<AtomicUsize>,
    submitted: Arc<AtomicUsize>,
}

fn handing(panics: Option<Panics>, answer: Option<Immediate>) -> (Handing, Receiver<DeviceRequest>) {
    let (requests, taken) = channel();
    let (dropped, submitted) = Default::default();
    (Handing { requests: Mutex::new(requests), panics, answer, dropped, submitted }, taken)
}

struct HandingQueue {
    requests: Sender<DeviceRequest>,
    /// What was submitted and not committed.
    gathered: Vec<DeviceRequest>,
    panics: Option<Panics>,
    answer: Option<Immediate>,
    submitted: Arc<AtomicUsize>,
}

/// Without a word from the panic hook.
fn throw_if(condition: bool) {
    if condition {
        std::panic::resume_unwind(Box::new("asked for"));
    }
}

impl FastDevice for Handing {
    fn facts(&self) -> DeviceFacts {
        DeviceFacts::new(SIZE)
    }

    fn open(&self, _shard: usize) -> io::Result<Box<dyn DeviceQueue>> {
        throw_if(self.panics == Some(Panics::Open));
        let (requests, gathered) = (lock(&self.requests).clone(), Vec::new());
        let submitted = Arc::clone(&self.submitted);
        Ok(Box::new(HandingQueue { requests, gathered, panics: self.panics, answer: self.answer, submitted }))
    }
}

impl Drop for Handing {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        throw_if(self.panics == Some(Panics::Drop));
    }
}

impl DeviceQueue for HandingQueue {
    fn immediate(&mut self, _request: &Preview) -> Option<Immediate> {
        throw_if(self.panics == Some(Panics::Immediate));
        self.answer
    }

    fn submit(&mut self, request: DeviceRequest) {
        self.submitted.fetch_add(1, Ordering::Relaxed);
        self.gathered.push(request);
        throw_if(self.panics == Some(Panics::Submit));
    }

    fn commit(&mut self) {
        throw_if(self.panics == Some(Panics::Commit));
        for request in self.gathered.drain(..) {
            // Without the other end it is dropped.
            let _ = self.requests.send(request);
        }
    }
}

impl Drop for HandingQueue {
    fn drop(&mut self) {
        throw_if(self.panics == Some(Panics::Drop));
    }
}

/// What the server answered.
fn refused(result: Result<(), ClientError>) -> BlockError {
    match result {
        Err(ClientError::Request { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

fn is_io_error(result: Result<(), ClientError>) -> bool {
    refused(result) == BlockError::Io
}

#[test]
fn requests_end_in_any_order_on_another_thread() {
    const CLIENTS: u64 = 8;
    let (device, taken) = handing(None, None);
    let server = serve(&ApplicationDevice::fast(device));
    let thread = std::thread::spawn(move || {
        // All are there before the first ends, and the last ends first.
        let mut requests: Vec<DeviceRequest> = taken.iter().take(CLIENTS as usize).collect();
        while let Some(mut request) = requests.pop() {
            assert_eq!((request.command(), request.length()), (CommandKind::Read, 4096));
            let byte = (request.offset() / 4096) as u8;
            request.buffer().fill(byte);
            request.complete();
        }
    });
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let mut client = client(&server, 0);
            scope.spawn(move || {
                let mut bytes = [0xff; 4096];
                client.read_at(number * 4096, &mut bytes).unwrap();
                assert_eq!(bytes, [number as u8; 4096]);
            });
        }
    });
    thread.join().unwrap();
}

#[test]
fn what_is_dropped_fails_and_nothing_else_does() {
    let (device, taken) = handing(None, None);
    let device = ApplicationDevice::fast(device);
    let server = serve(&device);
    let thread = std::thread::spawn(move || {
        for (number, mut request) in taken.into_iter().enumerate() {
            match number {
                0 => drop(request),
                1 => request.fail(io::ErrorKind::StorageFull.into()),
                2 => request.fail(io::Error::from_raw_os_error(libc::EACCES)),
                3 => {
                    // Dropped while a thread of the application panics.
                    let panic = caught(move || {
                        let _request = request;
                        throw_if(true);
                    });
                    panic.unwrap_err();
                }
                _ => {
                    assert_eq!(request.buffer().len(), 0);
                    assert!(request.data().iter().all(|byte| *byte == 5));
                    request.complete();
                }
            }
        }
    });
    let mut client = client(&server, 0);
    assert!(is_io_error(client.read_at(0, &mut [0; 512])));
    assert_eq!(refused(client.write_at(0, &[5; 512])), BlockError::NoSpace);
    assert_eq!(refused(client.flush()), BlockError::NotPermitted);
    assert!(is_io_error(client.write_at(0, &[5; 100_000])));
    client.write_at(0, &[5; 100_000]).unwrap();
    assert!(!device.has_failed());
    drop(client);
    server.stop();
    drop(device);
    thread.join().unwrap();
}

#[test]
fn what_ends_late_does_no_harm() {
    let (device, taken) = handing(None, None);
    let server = serve(&ApplicationDevice::fast(device));
    // Its client does not wait for it.
    let uri = server.exports()[0].uris[0].parse().unwrap();
    let impatient = Timeouts { silence: std::time::Duration::from_millis(50), ..Timeouts::default() };
    let mut gone = Client::open(&uri, &[], impatient).unwrap();
    gone.read_at(0, &mut [0; 4096]).unwrap_err();
    drop(gone);
    let late = taken.recv().unwrap();
    let mut other = client(&server, 1);
    other.write_at(0, b"meanwhile").unwrap();
    let thread = std::thread::spawn(move || late.complete());
    thread.join().unwrap();
    // One that is kept beyond the end of the server.
    let mut waits = client(&server, 0);
    std::thread::scope(|scope| {
        scope.spawn(move || waits.read_at(0, &mut [0; 100_000]).unwrap_err());
        let mut kept = taken.recv().unwrap();
        assert_eq!(server.kill(), crate::control::Ending::CutOff);
        kept.buffer().fill(1);
        kept.complete();
    });
}

#[test]
fn a_panic_fails_the_device_and_nothing_else() {
    for panics in [Panics::Open, Panics::Immediate, Panics::Submit, Panics::Commit] {
        let (device, _taken) = handing(Some(panics), None);
        let device = ApplicationDevice::fast(device);
        let server = serve(&device);
        let (mut first, mut other) = (client(&server, 0), client(&server, 1));
        assert!(is_io_error(first.read_at(0, &mut [0; 512])), "{panics:?}");
        assert!(device.has_failed(), "{panics:?}");
        assert!(is_io_error(first.write_at(0, &[1; 512])) && is_io_error(first.flush()), "{panics:?}");
        assert!(is_io_error(client(&server, 0).read_at(0, &mut [0; 512])), "{panics:?}");
        other.write_at(0, b"alive").unwrap();
        drop((first, other));
        assert_eq!(server.stop(), crate::control::Ending::Stopped);
    }
}

#[test]
fn a_device_is_dropped_with_its_last_client_once_it_was_removed() {
    for panics in [None, Some(Panics::Drop)] {
        let (device, taken) = handing(panics, None);
        let dropped = Arc::clone(&device.dropped);
        let server = serve(&ApplicationDevice::fast(handing(None, None).0));
        let served = server.add_device("later", ApplicationDevice::fast(device)).unwrap();
        assert_eq!(served.source, "application");
        let uri = served.uris[0].parse().unwrap();
        let mut client = Client::open(&uri, &[], Timeouts::default()).unwrap();
        std::thread::scope(|scope| {
            let client = &mut client;
            scope.spawn(move || client.flush().unwrap());
            // So its shard has the client.
            let request = taken.recv().unwrap();
            server.remove_export("later", Removal::WhenUnused).unwrap();
            assert_eq!(dropped.load(Ordering::Relaxed), 0);
            request.complete();
        });
        drop(client);
        // Both ends of the channel are the device's.
        assert!(taken.recv().is_err());
        assert_eq!(server.stop(), crate::control::Ending::Stopped);
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn answers_at_once_take_no_way_round_and_wrong_ones_are_none() {
    for answer in [Immediate::Zeroes, Immediate::Discarded] {
        let (device, taken) = handing(None, Some(answer));
        let submitted = Arc::clone(&device.submitted);
        let server = serve(&ApplicationDevice::fast(device));
        let thread = std::thread::spawn(move || {
            for mut request in taken {
                request.buffer().fill(9);
                request.complete();
            }
        });
        let mut client = client(&server, 0);
        let mut bytes = [1; 70_000];
        client.read_at(0, &mut bytes).unwrap();
        client.write_at(0, &[1; 70_000]).unwrap();
        let expected = if answer == Immediate::Zeroes { 0 } else { 9 };
        assert!(bytes.iter().all(|byte| *byte == expected));
        assert_eq!(submitted.load(Ordering::Relaxed), 1, "{answer:?}");
        drop(client);
        server.stop();
        thread.join().unwrap();
    }
}

/// Memory, and a verb that panics.
#[derive(Default)]
struct Memory {
    bytes: Mutex<Vec<u8>>,
    flushes: AtomicUsize,
    panics: AtomicBool,
    minimum: u32,
}

impl BlockingDevice for Arc<Memory> {
    fn size(&self) -> u64 {
        SIZE
    }

    fn facts(&self) -> DeviceFacts {
        let mut facts = DeviceFacts::new(SIZE);
        facts.block_sizes.minimum = self.minimum;
        facts
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        throw_if(self.panics.load(Ordering::Relaxed));
        buffer.copy_from_slice(&lock(&self.bytes)[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        lock(&self.bytes)[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn memory(minimum: u32) -> Arc<Memory> {
    Arc::new(Memory { bytes: Mutex::new(vec![7; SIZE as usize]), minimum, ..Memory::default() })
}

#[test]
fn a_blocking_device_is_served_and_a_panic_of_it_is_an_error() {
    let memory = memory(1);
    let device = ApplicationDevice::blocking(Arc::clone(&memory));
    let server = serve(&device);
    std::thread::scope(|scope| {
        for number in 0..8_u64 {
            let mut client = client(&server, 0);
            scope.spawn(move || {
                let place = number * 100_001;
                let data: Vec<u8> = (0..100_001_u32).map(|at| (at % 241) as u8 ^ number as u8).collect();
                let mut bytes = vec![0; data.len()];
                client.write_at(place, &data).unwrap();
                client.read_at(place, &mut bytes).unwrap();
                assert!(bytes == data);
                client.flush().unwrap();
            });
        }
    });
    assert_eq!(memory.flushes.load(Ordering::Relaxed), 8);
    BlockingDevice::zero(&memory, 3, 200_000, IoFlags::default()).unwrap();
    assert!(lock(&memory.bytes)[3..200_003].iter().all(|byte| *byte == 0));
    assert!(lock(&memory.bytes)[200_003] != 0 && lock(&memory.bytes)[2] != 0);
    memory.panics.store(true, Ordering::Relaxed);
    let mut client = client(&server, 0);
    assert!(is_io_error(client.read_at(0, &mut [0; 512])) && device.has_failed());
    assert!(is_io_error(client.write_at(0, &[0; 512])), "although that verb does not panic");
}

/// A quick device has one thread; another one comes when a verb takes its time.
#[test]
fn a_verb_that_blocks_does_not_hold_up_the_next_one() {
    struct InPairs(std::sync::Barrier);
    impl BlockingDevice for InPairs {
        fn size(&self) -> u64 {
            SIZE
        }
        fn read(&self, offset: u64, _buffer: &mut [u8]) -> io::Result<()> {
            if offset > 0 {
                self.0.wait();
            }
            Ok(())
        }
        fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }
    let server = serve(&ApplicationDevice::blocking(InPairs(std::sync::Barrier::new(2))));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut client = client(&server, 0);
            scope.spawn(move || {
                for number in 0..200 {
                    client.read_at(if number % 3 == 0 { 4096 } else { 0 }, &mut [0; 512]).unwrap();
                }
            });
        }
    });
}

#[test]
fn what_is_not_aligned_does_not_reach_a_device_that_wants_it_aligned() {
    let device = ApplicationDevice::blocking(memory(512));
    let context = context_with(&RingOptions::small());
    let open = Application::open(&device, &device.facts().unwrap(), &context).unwrap();
    let poll = |range: ByteRange| {
        let asker = (1, &Abandon::default());
        let change = open.change(CommandKind::Trim, range, IoFlags::default(), asker, &context);
        pin!(change).poll(&mut Context::from_waker(Waker::noop()))
    };
    for (offset, length) in [(1, 512), (0, 511), (512, 1)] {
        let range = ByteRange::new(offset, length).unwrap();
        assert_eq!(poll(range), Poll::Ready(Err(BlockError::Invalid)));
    }
    assert!(poll(ByteRange::new(512, 1024).unwrap()).is_pending());
    let server = serve(&device);
    let wrong = ApplicationDevice::blocking(memory(3));
    let error = server.add_device("wrong", wrong).unwrap_err().to_string();
    assert!(error.contains("block sizes"), "{error}");
}

/// What the other shards keep would never end: nobody calls their queues any more.
#[test]
fn a_panic_on_one_shard_fails_what_another_keeps() {
    struct Keeping;
    struct KeepingQueue(Vec<DeviceRequest>);
    impl FastDevice for Keeping {
        fn facts(&self) -> DeviceFacts {
            DeviceFacts::new(SIZE)
        }
        fn open(&self, _shard: usize) -> io::Result<Box<dyn DeviceQueue>> {
            Ok(Box::new(KeepingQueue(Vec::new())))
        }
    }
    impl DeviceQueue for KeepingQueue {
        fn submit(&mut self, request: DeviceRequest) {
            let panics = request.command() == CommandKind::Flush;
            self.0.push(request);
            throw_if(panics);
        }
    }
    let device = ApplicationDevice::fast(Keeping);
    let builder = ServerBuilder::new().shards(2).memory(128 << 20).unpinned().tcp("127.0.0.1:0");
    let server = match builder.device("device", device.clone()).start() {
        Ok(server) => server,
        // One CPU has one shard.
        Err(error) => return assert!(error.to_string().contains("CPU"), "{error}"),
    };
    // On one shard each.
    let (mut first, mut second) = (client(&server, 0), client(&server, 0));
    std::thread::scope(|scope| {
        scope.spawn(move || assert!(is_io_error(first.read_at(0, &mut [0; 512]))));
        scope.spawn(move || assert!(is_io_error(second.flush())));
    });
    assert!(device.has_failed());
}
