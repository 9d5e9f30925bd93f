//! A whole shard behind a socket pair, spoken to in bytes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::backend::{ApplicationDevice, DeviceQueue, DeviceRequest, Export, ExportId, FastDevice};
use crate::backend::{
    HomeTask, RecordOutcome, ShortenOutcome, ShortenTask, SnapshotRecord, seal_group, sealing,
};
use crate::block::DeviceFacts;
use crate::config::ExportUri;
use crate::config::Limits;
use crate::nbd::meta_context::MetaContext;
use crate::nbd::session::{ExportInfo, ReplyMode, SelectedContext, Session};
use crate::shard::setup::END;
use crate::stats::Interval;

mod departure;
mod ends;

struct Running {
    shard: ShardHandle,
    exited: mpsc::Receiver<Result<Box<Interval>, ShardError>>,
    export: Arc<Export>,
}

fn start(uri: &str) -> Running {
    start_with(uri, Limits::SMALLEST)
}

fn start_with(uri: &str, limits: Limits) -> Running {
    let uri: ExportUri = uri.parse().unwrap();
    start_export(Export::open(&uri, false).unwrap(), limits)
}

fn start_export(export: Export, limits: Limits) -> Running {
    let export = Arc::new(export);
    let (sender, exited) = mpsc::channel();
    let limits = Limits { connections: limits.connections.min(64), ..limits };
    let shard = ShardHandle::start(ShardConfig {
        index: 0,
        cpu: None,
        limits: Arc::new(limits),
        files: 1,
        busy_poll: Duration::ZERO,
        record: true,
        slow: None,
        on_exit: Box::new(move |result| sender.send(result).unwrap()),
    });
    Running { shard: shard.unwrap(), exited, export }
}

impl Running {
    fn connect(&self, reply_mode: ReplyMode) -> UnixStream {
        self.connect_with(reply_mode, Vec::new())
    }

    /// Connects with bytes that came with the handshake.
    fn connect_with(&self, reply_mode: ReplyMode, leftover: Vec<u8>) -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        let negotiated = NewConnection { leftover, ..self.negotiated(server.into(), reply_mode) };
        assert!(self.shard.connect(negotiated).is_ok());
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }

    /// A connection after its handshake.
    fn negotiated(&self, socket: std::os::fd::OwnedFd, reply_mode: ReplyMode) -> NewConnection {
        let facts = self.export.facts().clone();
        let info = ExportInfo {
            name: String::new(),
            description: String::new(),
            facts,
            contexts: Vec::new(),
            require_block_size: false,
        };
        let session = Session {
            reply_mode,
            transmission_flags: info.transmission_flags(reply_mode),
            size: info.facts.size,
            block_sizes: info.facts.block_sizes,
            enforce_alignment: false,
            contexts: vec![SelectedContext { id: 1, context: MetaContext::BaseAllocation }],
        };
        NewConnection {
            number: 1,
            socket,
            over_tcp: false,
            id: ExportId { index: 0, generation: 0 },
            export: Arc::clone(&self.export),
            limits: Arc::default(),
            session,
            leftover: Vec::new(),
            secure: None,
            peer: Default::default(),
            permit: Box::new(()),
            socket_permit: Box::new(()),
        }
    }

    fn stop(self) {
        self.shard.shutdown();
        assert!(self.exited.recv_timeout(Duration::from_secs(20)).unwrap().is_ok());
        assert_eq!(self.shard.connections(), 0);
    }
}

fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&0_u16.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

fn read(stream: &mut UnixStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn simple(error: u32, cookie: u64) -> Vec<u8> {
    [&0x6744_6698_u32.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat()
}

#[test]
fn what_is_written_is_read_back() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let path = directory.path().join("image");
    std::fs::File::create(&path).unwrap().set_len(4 << 20).unwrap();
    for uri in
        ["mem:4M".into(), format!("file:{}", path.display()), format!("file:{}?direct=true", path.display())]
    {
        let running = start(&uri);
        let mut client = running.connect(ReplyMode::Simple);
        for length in [1_u32, 511, 4096, 70_000, 1 << 20] {
            let data: Vec<u8> = (0..length).map(|at| (at % 253) as u8).collect();
            client.write_all(&[request(1, 7, 4096, length), data.clone()].concat()).unwrap();
            assert_eq!(read(&mut client, 16), simple(0, 7));
            client.write_all(&request(0, 8, 4096, length)).unwrap();
            assert_eq!(read(&mut client, 16), simple(0, 8));
            assert!(read(&mut client, length as usize) == data, "{uri}: {length} bytes");
        }
        client.write_all(&request(2, 0, 0, 0)).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "closed without a reply");
        running.stop();
    }
}

#[test]
fn what_is_in_the_page_cache_is_answered_at_once_and_is_what_the_file_holds_now() {
    use std::os::unix::fs::FileExt;
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let path = directory.path().join("image");
    let mut content: Vec<u8> = (0..1 << 20).map(|at: u32| (at / 7 % 251) as u8).collect();
    std::fs::write(&path, &content).unwrap();
    let running = start(path.to_str().unwrap());
    let mut client = running.connect(ReplyMode::Simple);
    let mut expect = |content: &[u8]| {
        for (offset, length) in
            [(0, 4096), (5, 1), (4095, 2), (100, 70_000), (0, 1 << 20), ((1 << 20) - 1, 1)]
        {
            client.write_all(&request(0, 3, offset, length)).unwrap();
            assert_eq!(read(&mut client, 16), simple(0, 3));
            let (start, end) = (offset as usize, (offset + u64::from(length)) as usize);
            assert!(read(&mut client, length as usize) == content[start..end], "{offset}+{length}");
        }
    };
    expect(&content);
    // Somebody else writes: the reply holds what the file holds when it is sent.
    content[4000..9000].fill(0xee);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&content[4000..9000], 4000).unwrap();
    expect(&content);
    let local = running.export.can_be_mapped();
    drop(client);
    running.shard.shutdown();
    let interval = running.exited.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    let reads = interval.exports[0].commands[crate::stats::Operation::Read as usize].as_ref().unwrap();
    assert_eq!(reads.requests, 12);
    assert_eq!(interval.exports[0].page_cache_reads, if local { 12 } else { 0 });
    let backend = &reads.phases[crate::stats::Phase::Backend as usize];
    assert!(backend.max() == 0 || !local, "no read went to the ring, but one took {} ns", backend.max());
}

#[test]
fn a_copied_read_that_comes_back_short_is_an_error_and_makes_nothing_up() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, vec![7; 64 << 10]).unwrap();
    let running = start(&format!("file:{}?mapped=false", path.display()));
    let mut client = running.connect(ReplyMode::Simple);
    let requests: Vec<u8> = (0..16).flat_map(|cookie| request(0, cookie, cookie * 4096, 4096)).collect();
    client.write_all(&requests).unwrap();
    let replies = read(&mut client, 16 * (16 + 4096));
    let mut cookies: Vec<u64> = Vec::new();
    for reply in replies.chunks(16 + 4096) {
        let cookie = u64::from_be_bytes(reply[8..16].try_into().unwrap());
        assert_eq!(reply[..16], simple(0, cookie));
        assert!(reply[16..].iter().all(|byte| *byte == 7));
        cookies.push(cookie);
    }
    cookies.sort_unstable();
    assert_eq!(cookies, (0..16).collect::<Vec<_>>());
    // Somebody cuts the file: one read ends in the middle, one finds nothing.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(6000).unwrap();
    for (offset, error) in [(0, 0), (4096, 5), (8192, 5)] {
        client.write_all(&request(0, 1, offset, 4096)).unwrap();
        assert_eq!(read(&mut client, 16), simple(error, 1), "at {offset}");
        if error == 0 {
            read(&mut client, 4096);
        }
    }
    drop(client);
    running.stop();
}

#[test]
fn a_write_to_null_is_answered_when_all_of_its_payload_has_come() {
    let running = start("null:64M");
    let mut client = running.connect(ReplyMode::Simple);
    let write = [request(1, 7, 4096, 100_000), vec![5; 100_000]].concat();
    client.write_all(&write[..60_000]).unwrap();
    client.set_nonblocking(true).unwrap();
    let early = client.read(&mut [0]).unwrap_err();
    assert_eq!(
        early.kind(),
        std::io::ErrorKind::WouldBlock,
        "libnbd loses its place if the answer comes now"
    );
    client.set_nonblocking(false).unwrap();
    // The rest, and what would be a request if the payload were not skipped to its end; then an empty write
    // and a read.
    client.write_all(&write[60_000..]).unwrap();
    assert_eq!(read(&mut client, 16), simple(0, 7));
    client.write_all(&[request(1, 8, 0, 0), request(0, 9, 4096, 512)].concat()).unwrap();
    let replies = read(&mut client, 16 + 16 + 512);
    assert_eq!(replies.iter().filter(|byte| **byte == 5).count(), 0, "it forgets what is written");
    // One that leaves in the middle of a payload leaves nothing behind.
    client.write_all(&write[..60_000]).unwrap();
    drop(client);
    while running.shard.connections() > 0 {
        std::thread::yield_now();
    }
    running.stop();
}

#[test]
fn a_thousand_requests_in_flight_are_all_answered() {
    let running = start("mem:64M");
    let mut client = running.connect(ReplyMode::Simple);
    let requests: Vec<u8> = (0..3000).flat_map(|cookie| request(0, cookie, cookie * 512, 512)).collect();
    let mut writer = client.try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(&requests).unwrap());
    let mut seen = vec![false; 3000];
    for _ in 0..3000 {
        let reply = read(&mut client, 16 + 512);
        let cookie = u64::from_be_bytes(reply[8..16].try_into().unwrap());
        assert!(!std::mem::replace(&mut seen[cookie as usize], true));
    }
    sender.join().unwrap();
    drop(client);
    running.stop();
}

#[test]
fn a_slow_read_does_not_delay_a_fast_one() {
    let running = start("fault:delay.read=300ms,range=0+4096:mem:1M");
    let mut client = running.connect(ReplyMode::Simple);
    client.write_all(&[request(0, 1, 0, 512), request(0, 2, 8192, 512)].concat()).unwrap();
    assert_eq!(read(&mut client, 16 + 512)[..16], simple(0, 2)[..]);
    assert_eq!(read(&mut client, 16 + 512)[..16], simple(0, 1)[..]);
    running.stop();
}

#[test]
fn more_requests_than_slots_wait_for_their_turn() {
    // No slots to spare, and connections whose requests are there already when the shard takes them, all in
    // one turn.
    let limits =
        Limits { requests_per_shard: 4, requests_per_connection: 8, connections: 3, ..Limits::SMALLEST };
    let running = start_with("mem:64M", limits);
    for _ in 0..50 {
        let requests: Vec<u8> = (0..40).flat_map(|cookie| request(0, cookie, cookie * 65_536, 512)).collect();
        let mut clients: Vec<_> =
            (0..3).map(|_| running.connect_with(ReplyMode::Simple, requests.clone())).collect();
        for client in &mut clients {
            let mut answered = 0_u64;
            for _ in 0..40 {
                let header = read(client, 16 + 512);
                answered |= 1 << u64::from_be_bytes(header[8..16].try_into().unwrap());
            }
            assert_eq!(answered, (1 << 40) - 1);
        }
        drop(clients);
        while running.shard.connections() > 0 {
            std::thread::yield_now();
        }
    }
    running.stop();
}

#[test]
fn who_waits_goes_on_when_a_write_of_his_own_is_done_though_he_reads_nothing() {
    const LENGTH: u32 = 12 << 20;
    let running = start("fault:delay.write=200ms:mem:64M");
    let mut client = running.connect(ReplyMode::Simple);
    client.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    // The socket holds no more than a part of this reply, so no other goes out.
    client.write_all(&request(0, 1, 0, 1 << 20)).unwrap();
    // Beside the memory of the first write there is none for the second one, and its payload stays in the
    // socket.
    let payload = vec![1; LENGTH as usize];
    for cookie in [2, 3] {
        client.write_all(&[request(1, cookie, 0, LENGTH), payload.clone()].concat()).unwrap();
    }
    drop(client);
    running.stop();
}

/// Two clients that both need the only memory for so long a request: the first sends `pieces` pieces, each
/// followed by a pause, then the rest at once unless it was disconnected; the second needs that memory all
/// the time. Whether the first got its answer.
fn share_the_memory_of_one_long_request(pieces: usize, piece: usize, pause: Duration) -> bool {
    const LENGTH: u32 = 24 << 20;
    let limits = Limits { stall_timeout: Duration::from_secs(2), ..Limits::SMALLEST };
    let running = start_with("mem:64M", limits);
    let (mut first, mut second) = (running.connect(ReplyMode::Simple), running.connect(ReplyMode::Simple));
    let write = |cookie| [request(1, cookie, 0, LENGTH), vec![cookie as u8; LENGTH as usize]].concat();
    let bytes = write(1);
    // More than the socket holds, so the shard has taken memory for it.
    let (start, rest) = bytes.split_at(1 << 20);
    first.write_all(start).unwrap();
    let answered = std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            second.set_read_timeout(None).unwrap();
            second.write_all(&write(2)).unwrap();
            assert_eq!(read(&mut second, 16), simple(0, 2));
        });
        let sent = rest.chunks(piece).take(pieces).try_for_each(|piece| {
            std::thread::sleep(pause);
            first.write_all(piece)
        });
        let sent = sent.and_then(|()| first.write_all(&rest[rest.len().min(pieces * piece)..]));
        let answered = sent.is_ok() && read(&mut first, 16) == simple(0, 1);
        waits.join().unwrap();
        answered
    });
    running.stop();
    answered
}

#[test]
fn a_slow_and_steady_writer_is_served_to_its_end_though_others_wait() {
    // Three times the stall timeout.
    assert!(share_the_memory_of_one_long_request(375, 64 << 10, Duration::from_millis(16)));
}

#[test]
fn a_writer_of_a_byte_now_and_then_has_to_go_when_others_wait() {
    assert!(!share_the_memory_of_one_long_request(600, 1, Duration::from_millis(100)));
}

#[test]
fn a_client_that_vanishes_leaves_nothing() {
    let running = start("fault:delay=50ms:mem:64M");
    for length in [512, 1 << 20] {
        let mut client = running.connect(ReplyMode::Structured);
        let requests: Vec<u8> = (0..20).flat_map(|cookie| request(0, cookie, 0, length)).collect();
        client.write_all(&requests).unwrap();
        client.write_all(&request(1, 99, 0, 1 << 20)[..20]).unwrap();
    }
    running.stop();
}

#[test]
fn a_request_that_takes_too_long_does_not_hold_up_the_end() {
    let limits = Limits { shutdown_timeout: Duration::from_millis(100), ..Limits::SMALLEST };
    let running = start_with("fault:delay.read=1h:mem:1M", limits);
    let mut client = running.connect(ReplyMode::Simple);
    client.write_all(&[request(0, 1, 0, 512), request(3, 2, 0, 0)].concat()).unwrap();
    assert_eq!(read(&mut client, 16), simple(0, 2), "the flush is answered, so the read is on its way");
    running.stop();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

/// Reads one status chunk and returns its bytes in all.
fn status(client: &mut UnixStream) -> usize {
    let header = read(client, 20);
    assert_eq!(header[4..8], [0, 1, 0, 5], "one last status chunk");
    let length = u32::from_be_bytes(header[16..].try_into().unwrap()) as usize;
    read(client, length);
    20 + length
}

#[test]
fn a_thousand_questions_of_one_client_do_not_hold_up_one_of_another() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let path = directory.path().join("image");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    for piece in 0..1024_u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], piece * 32_768).unwrap();
    }
    let running = start(path.to_str().unwrap());
    let mut busy = running.connect(ReplyMode::Structured);
    let mut other = running.connect(ReplyMode::Structured);
    let questions: Vec<u8> = (0..200).flat_map(|cookie| request(7, cookie, 0, 64 << 20)).collect();
    busy.write_all(&questions).unwrap();
    // Somebody reads the answers, so that it is the helpers that limit them.
    let answered = Arc::new(AtomicUsize::new(0));
    let reader = {
        let answered = Arc::clone(&answered);
        std::thread::spawn(move || {
            (0..200).for_each(|_| {
                status(&mut busy);
                answered.fetch_add(1, Ordering::SeqCst);
            })
        })
    };
    other.write_all(&request(7, 1, 0, 64 << 20)).unwrap();
    status(&mut other);
    let before = answered.load(Ordering::SeqCst);
    assert!(before < 140, "{before} of the busy client's questions came first");
    reader.join().unwrap();
    running.stop();
}

#[test]
fn the_order_to_end_does_not_wait_for_a_shard_that_is_stuck() {
    let limits = Limits { mailbox: 1, ..Limits::SMALLEST };
    let (handle, shard_end) = ShardHandle::new(&limits).unwrap();
    assert!(handle.collect(None, false, |_| {}), "one message fits");
    assert!(!handle.collect(None, false, |_| {}), "and no other");
    handle.shutdown();
    assert_eq!(shard_end.end.load(Ordering::Acquire), END);
}

#[test]
fn a_panic_ends_the_connections_of_its_shard_and_the_shard() {
    let running = start("mem:1M");
    let mut client = running.connect(ReplyMode::Simple);
    client.write_all(&request(3, 1, 0, 0)).unwrap();
    assert_eq!(read(&mut client, 16), simple(0, 1), "the shard has it");
    assert!(running.shard.collect(None, false, |_| panic!("of the test")));
    assert!(running.exited.recv_timeout(Duration::from_secs(20)).unwrap().is_err());
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "its ring is gone, and with it the socket");
}

/// A device that cannot be opened the first time.
struct OpensLater(std::sync::atomic::AtomicBool);

impl FastDevice for OpensLater {
    fn facts(&self) -> DeviceFacts {
        DeviceFacts::new(1 << 20)
    }

    fn open(&self, _shard: usize) -> std::io::Result<Box<dyn DeviceQueue>> {
        match self.0.swap(true, Ordering::SeqCst) {
            true => Ok(Box::new(Zeroes)),
            false => Err(std::io::Error::from_raw_os_error(libc::ENXIO)),
        }
    }
}

struct Zeroes;

impl DeviceQueue for Zeroes {
    fn submit(&mut self, mut request: DeviceRequest) {
        request.buffer().fill(0);
        request.complete();
    }
}

#[test]
fn clients_of_an_export_that_cannot_be_opened_are_refused_and_closed() {
    const SHUTDOWN: u32 = 108;
    let device = ApplicationDevice::fast(OpensLater(false.into()));
    let running = start_export(Export::of_device(&device, false).unwrap(), Limits::SMALLEST);
    // Both are there when the shard looks, so that they wait for the same device. One sends a payload, which
    // is skipped first.
    let mut first = running.connect_with(ReplyMode::Simple, request(1, 7, 0, 70_000));
    let mut second =
        running.connect_with(ReplyMode::Simple, [request(0, 8, 0, 512), request(0, 9, 0, 512)].concat());
    assert_eq!(read(&mut second, 16), simple(SHUTDOWN, 8));
    assert_eq!(second.read(&mut [0]).unwrap(), 0, "the second request gets no reply");
    first.write_all(&vec![1; 70_000]).unwrap();
    assert_eq!(read(&mut first, 16), simple(SHUTDOWN, 7));
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    // The next client may find that it is there; until the last of the others is gone it does not.
    let mut tries = 0;
    loop {
        let mut client = running.connect(ReplyMode::Simple);
        client.write_all(&request(0, 1, 0, 512)).unwrap();
        let header = read(&mut client, 16);
        if header == simple(0, 1) {
            assert_eq!(read(&mut client, 512), [0; 512]);
            break;
        }
        assert_eq!(header, simple(SHUTDOWN, 1));
        tries += 1;
        assert!(tries < 1000, "it is never opened");
    }
    running.stop();
}

/// Ends a future on this thread.
fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = std::pin::pin!(future);
    let waker = Arc::new(Unpark(std::thread::current())).into();
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// The change of a real catalogue.
struct InCatalogue<F>(F);

impl<F: FnMut(bool)> SnapshotRecord for InCatalogue<F> {
    async fn begin(&mut self) -> RecordOutcome {
        self.0(false);
        RecordOutcome::Recorded
    }

    async fn record(&mut self) -> RecordOutcome {
        self.0(true);
        RecordOutcome::Recorded
    }

    async fn withdraw(&mut self) {
        unreachable!("nothing fails")
    }

    async fn go_on_without(&mut self, _settled: &[usize]) -> RecordOutcome {
        unreachable!("nothing fails")
    }

    async fn read_again(&mut self) -> RecordOutcome {
        unreachable!("it is never unknown")
    }
}

fn snapshot(running: &Running, name: &str) {
    let image = running.export.image().unwrap();
    let (next, new) = image.begin_snapshot(name);
    let (member, task) = sealing(next);
    let id = ExportId { index: 0, generation: 0 };
    assert!(running.shard.visit(id, Arc::clone(&running.export), HomeTask::Seal(task)));
    let mut record = InCatalogue(|is_over| image.record_snapshot(&new, is_over));
    assert_eq!(wait_for(seal_group(vec![member], &mut record)).unwrap().len(), 1);
}

/// C1 with a real disk: one client writes a number to one block after the other, and each snapshot has what a
/// first part of its writes makes.
#[test]
fn a_snapshot_is_a_point_in_time_of_a_client_that_goes_on() {
    use std::sync::atomic::{AtomicBool, AtomicU32};
    const BLOCKS: u32 = 64;
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let path = directory.path().join("store");
    let running = start(&format!("overlay:{}?size={}", path.display(), BLOCKS * 4096));
    snapshot(&running, "idle");
    let (sent, answered, stop) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let mut windows = vec![("idle".to_owned(), 0, 0)];
    let mut client = running.connect(ReplyMode::Simple);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1_u32.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                sent.store(number, Ordering::SeqCst);
                let data: Vec<u8> = number.to_le_bytes().repeat(1024);
                let write = request(1, 1, u64::from(number % BLOCKS) * 4096, 4096);
                client.write_all(&[write, data].concat()).unwrap();
                assert_eq!(read(&mut client, 16), simple(0, 1));
                answered.store(number, Ordering::SeqCst);
                if number % 16 == 0 {
                    client.write_all(&request(3, 2, 0, 0)).unwrap();
                    assert_eq!(read(&mut client, 16), simple(0, 2));
                }
            }
        });
        for name in ["a", "b", "c"] {
            let before = answered.load(Ordering::SeqCst);
            while answered.load(Ordering::SeqCst) < before + BLOCKS {
                std::thread::yield_now();
            }
            let began = answered.load(Ordering::SeqCst);
            snapshot(&running, name);
            windows.push((name.to_owned(), began, sent.load(Ordering::SeqCst)));
        }
        stop.store(true, Ordering::SeqCst);
    });
    windows.push((String::new(), sent.load(Ordering::SeqCst), sent.load(Ordering::SeqCst)));
    let Running { shard, exited, export } = running;
    shard.shutdown();
    assert!(exited.recv_timeout(Duration::from_secs(20)).unwrap().is_ok());
    drop(export);
    for (name, first, last) in windows {
        let node = if name.is_empty() { "disk".to_owned() } else { format!("disk@{name}") };
        let running = start(&format!("store:{}/{node}", path.display()));
        let mut client = running.connect(ReplyMode::Simple);
        client.write_all(&request(0, 8, 0, BLOCKS * 4096)).unwrap();
        assert_eq!(read(&mut client, 16), simple(0, 8));
        let content = read(&mut client, BLOCKS as usize * 4096);
        let is_after = |count: u32| {
            (0..BLOCKS).zip(content.chunks(4096)).all(|(block, bytes)| {
                let number = (1..=count).rev().find(|number| number % BLOCKS == block).unwrap_or(0);
                bytes == number.to_le_bytes().repeat(1024)
            })
        };
        assert!((first..=last).any(is_after), "{node} is at no point between {first} and {last}");
        drop(client);
        running.stop();
    }
}

/// C3 with a real shard: snapshots come and go while one client writes and reads all the time.
#[test]
fn an_image_loses_layers_while_a_client_goes_on() {
    use std::sync::atomic::{AtomicBool, AtomicU32};
    const BLOCKS: u32 = 64;
    const ROUNDS: u32 = 24;
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let path = directory.path().join("store");
    let running = start(&format!("overlay:{}?size={}", path.display(), BLOCKS * 4096));
    let (answered, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let mut blocks = [0_u32; BLOCKS as usize];
    std::thread::scope(|scope| {
        let mut client = running.connect(ReplyMode::Simple);
        let (answered, stop, blocks) = (&answered, &stop, &mut blocks);
        scope.spawn(move || {
            for number in 1_u32.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                // Not one after the other, so that layers have blocks here and there.
                let block = number.wrapping_mul(2_654_435_761) >> 26;
                let data: Vec<u8> = number.to_le_bytes().repeat(1024);
                let write = request(1, 1, u64::from(block) * 4096, 4096);
                client.write_all(&[write, data].concat()).unwrap();
                assert_eq!(read(&mut client, 16), simple(0, 1));
                blocks[block as usize] = number;
                // Many at once, so that some are queued when the chain changes.
                let reads =
                    (0..BLOCKS).flat_map(|block| request(0, u64::from(block), u64::from(block) * 4096, 4096));
                client.write_all(&reads.collect::<Vec<u8>>()).unwrap();
                for _ in 0..BLOCKS {
                    let header = read(&mut client, 16);
                    assert_eq!(header[4..8], [0; 4], "no error");
                    let cookie = u64::from_be_bytes(header[8..].try_into().unwrap());
                    let expected = blocks[cookie as usize].to_le_bytes().repeat(1024);
                    assert!(read(&mut client, 4096) == expected, "block {cookie} at write {number}");
                }
                answered.store(number, Ordering::SeqCst);
            }
        });
        let image = running.export.image().unwrap();
        for round in 0..ROUNDS {
            let before = answered.load(Ordering::SeqCst);
            while answered.load(Ordering::SeqCst) < before + 8 {
                std::thread::yield_now();
            }
            snapshot(&running, &format!("s{round}"));
            if round < 4 {
                continue;
            }
            let chain = image.remove_and_merge(&format!("disk@s{}", round - 4 + round % 3).parse().unwrap());
            let (told, outcome) = mpsc::channel();
            let task = HomeTask::Shorten(ShortenTask::new(chain, move |outcome| told.send(outcome).unwrap()));
            let id = ExportId { index: 0, generation: 0 };
            assert!(running.shard.visit(id, Arc::clone(&running.export), task));
            assert_eq!(outcome.recv_timeout(Duration::from_secs(20)), Ok(ShortenOutcome::Shorter));
            assert!(running.export.image_status().unwrap().layers <= 6);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let Running { shard, exited, export } = running;
    shard.shutdown();
    assert!(exited.recv_timeout(Duration::from_secs(20)).unwrap().is_ok());
    drop(export);
    let running = start(&format!("store:{}/disk", path.display()));
    let mut client = running.connect(ReplyMode::Simple);
    client.write_all(&request(0, 8, 0, BLOCKS * 4096)).unwrap();
    assert_eq!(read(&mut client, 16), simple(0, 8));
    let expected: Vec<u8> = blocks.iter().flat_map(|number| number.to_le_bytes().repeat(1024)).collect();
    assert!(read(&mut client, BLOCKS as usize * 4096) == expected);
    drop(client);
    running.stop();
}
