//! A device whose verbs block: a disk that keeps every block it was ever given, and serves the first version of each.
//!
//!     cargo run --example blocking_device

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::Mutex;

use ringnbd::device::{ApplicationDevice, BlockSizes, BlockingDevice, DeviceFacts};
use ringnbd::{Client, ServerBuilder, Timeouts};

const BLOCK: usize = 512;

/// All that was written to each block, the first version first.
#[derive(Default)]
struct WriteOnce(Mutex<HashMap<u64, Vec<Vec<u8>>>>);

impl BlockingDevice for WriteOnce {
    fn size(&self) -> u64 {
        1 << 30
    }

    fn facts(&self) -> DeviceFacts {
        let block_sizes = BlockSizes { minimum: BLOCK as u32, ..BlockSizes::default() };
        DeviceFacts { block_sizes, ..DeviceFacts::new(self.size()) }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let blocks = self.0.lock().unwrap();
        for (block, number) in buffer.chunks_exact_mut(BLOCK).zip(offset / BLOCK as u64..) {
            match blocks.get(&number) {
                Some(versions) => block.copy_from_slice(&versions[0]),
                None => block.fill(0),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut blocks = self.0.lock().unwrap();
        for (block, number) in data.chunks_exact(BLOCK).zip(offset / BLOCK as u64..) {
            blocks.entry(number).or_default().push(block.to_vec());
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = ApplicationDevice::blocking(WriteOnce::default());
    let server = ServerBuilder::new().device("", device).tcp("127.0.0.1:0").shards(1).unpinned().start()?;
    let uri = server.exports()[0].uris[0].parse()?;
    let mut client = Client::open(&uri, &[], Timeouts::default())?;
    client.write_at(4096, &[1; BLOCK])?;
    client.write_at(4096, &[2; BLOCK])?;
    let mut block = [0; BLOCK];
    client.read_at(4096, &mut block)?;
    println!("{uri}: written twice, it reads as {}", block[0]);
    assert_eq!(block, [1; BLOCK]);
    Ok(())
}
