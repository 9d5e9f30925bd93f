//! A device that takes requests on the shard and completes them on a thread of its own, in batches; what was never written is answered at
//! once.
//!
//!     cargo run --example fast_device

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use ringnbd::device::{
    ApplicationDevice, CommandKind, DeviceFacts, DeviceQueue, DeviceRequest, FastDevice, Immediate, Preview,
};
use ringnbd::{Client, ServerBuilder, Timeouts};

const SIZE: usize = 64 << 20;

/// Memory that one thread looks after.
struct Disk {
    batches: Mutex<Sender<Vec<DeviceRequest>>>,
    was_written: Arc<AtomicBool>,
}

/// The way of one shard to that thread.
struct Queue {
    batch: Vec<DeviceRequest>,
    batches: Sender<Vec<DeviceRequest>>,
    was_written: Arc<AtomicBool>,
}

impl Disk {
    fn start() -> Self {
        let (batches, taken) = channel();
        std::thread::spawn(move || work(&taken));
        Self { batches: Mutex::new(batches), was_written: Arc::default() }
    }
}

impl FastDevice for Disk {
    fn facts(&self) -> DeviceFacts {
        DeviceFacts::new(SIZE as u64)
    }

    fn open(&self, _shard: usize) -> io::Result<Box<dyn DeviceQueue>> {
        let batches = self.batches.lock().unwrap().clone();
        Ok(Box::new(Queue { batch: Vec::new(), batches, was_written: Arc::clone(&self.was_written) }))
    }
}

impl DeviceQueue for Queue {
    fn immediate(&mut self, request: &Preview) -> Option<Immediate> {
        let reads = request.command == CommandKind::Read;
        (reads && !self.was_written.load(Ordering::Acquire)).then_some(Immediate::Zeroes)
    }

    fn submit(&mut self, request: DeviceRequest) {
        if request.command() == CommandKind::Write {
            self.was_written.store(true, Ordering::Release);
        }
        self.batch.push(request);
    }

    fn commit(&mut self) {
        // Should the thread be gone, the requests are dropped, which fails them.
        let _gone = self.batches.send(std::mem::take(&mut self.batch));
    }
}

/// Carries out one batch after the other, until the disk and its queues are gone.
fn work(batches: &Receiver<Vec<DeviceRequest>>) {
    let mut bytes = vec![0; SIZE];
    for mut request in batches.iter().flatten() {
        let (start, length) = (request.offset() as usize, request.length() as usize);
        let range = &mut bytes[start..start + length];
        match request.command() {
            CommandKind::Read => request.buffer().copy_from_slice(range),
            CommandKind::Write => range.copy_from_slice(request.data()),
            CommandKind::Trim | CommandKind::WriteZeroes => range.fill(0),
            _ => {}
        }
        request.complete();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = ApplicationDevice::fast(Disk::start());
    let server = ServerBuilder::new().device("", device).tcp("127.0.0.1:0").shards(1).unpinned().start()?;
    let uri = server.exports()[0].uris[0].parse()?;
    let mut client = Client::open(&uri, &[], Timeouts::default())?;
    let mut bytes = [1; 4096];
    client.read_at(0, &mut bytes)?;
    assert_eq!(bytes, [0; 4096], "answered at once");
    client.write_at(8192, &[7; 4096])?;
    client.read_at(8192, &mut bytes)?;
    println!("{uri}: it reads as {}", bytes[0]);
    assert_eq!(bytes, [7; 4096]);
    Ok(())
}
