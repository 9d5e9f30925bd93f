//! A server that lies on purpose: it acknowledges writes and then holds something else, fails, stalls or goes away.
//!
//! Written for the test alone, with simple replies and one thread a connection. The disk is memory; what a lie puts in a block was
//! really written before by the client under test.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

pub(crate) const BLOCK: usize = 4096;
const SIZE: u64 = 1 << 20;

/// What is wrong with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    Nothing,
    /// Writes to a block leave it as it was.
    LosesWrite,
    /// A block that had at least two contents keeps the last but one.
    KeepsOldContent,
    /// Further writes to a block change its second half only.
    TearsWrite,
    /// A block gets the content of another one.
    SwapsBlock,
    /// A block gets what stood there when [`Liar::lie`] was called.
    KeepsForeignContent,
    /// One byte of a block is another one.
    FlipsBit,
    /// Every tenth request fails with that error value.
    Fails(u32),
    /// Goes away after so many requests.
    Leaves(u64),
    /// Does nothing for that long, once, before that request.
    Stalls(u64, Duration),
    /// Answers with a cookie that nobody sent.
    WrongCookie,
}

#[derive(Debug)]
struct Disk {
    lie: Lie,
    content: Vec<u8>,
    /// The contents that a block had, the last one last.
    history: HashMap<u64, Vec<Vec<u8>>>,
    before: Vec<u8>,
    requests: u64,
    /// The block that it lies about, since it first could.
    victim: Option<u64>,
}

pub(crate) struct Liar {
    disk: Arc<Mutex<Disk>>,
    dir: TempDir,
}

impl Liar {
    pub(crate) fn serve(lie: Lie) -> Self {
        let dir = tempfile::Builder::new().prefix("liar").tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let content = vec![0; SIZE as usize];
        let (history, before) = (HashMap::new(), content.clone());
        let disk = Disk { lie, content, history, before, requests: 0, victim: None };
        let disk = Arc::new(Mutex::new(disk));
        let served = Arc::clone(&disk);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let disk = Arc::clone(&served);
                // The client may end the connection as it likes.
                std::thread::spawn(move || drop(stream.and_then(|stream| converse(stream, &disk))));
            }
        });
        Self { disk, dir }
    }

    /// From now on it lies like that.
    pub(crate) fn lie(&self, lie: Lie) {
        let mut disk = self.disk.lock().unwrap();
        disk.lie = lie;
        disk.before = disk.content.clone();
        disk.history.clear();
    }

    pub(crate) fn requests(&self) -> u64 {
        self.disk.lock().unwrap().requests
    }

    pub(crate) fn has_lied(&self) -> bool {
        self.disk.lock().unwrap().victim.is_some()
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.dir.path().join("s").display())
    }
}

/// The handshake (GO only), then requests until the client or the lie ends it.
fn converse(mut stream: UnixStream, disk: &Mutex<Disk>) -> io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    stream.read_exact(&mut [0; 4])?;
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let (option, length) = (be32(&header[8..]), be32(&header[12..]));
        stream.read_exact(&mut vec![0; length as usize])?;
        let mut reply = |kind: u32, data: &[u8]| {
            let parts: [&[u8]; 5] = [
                &0x0003_e889_0455_65a9_u64.to_be_bytes(),
                &option.to_be_bytes(),
                &kind.to_be_bytes(),
                &(data.len() as u32).to_be_bytes(),
                data,
            ];
            stream.write_all(&parts.concat())
        };
        if option != 7 {
            reply(0x8000_0001, b"")?;
            continue;
        }
        // HAS_FLAGS and CAN_MULTI_CONN.
        reply(3, &[&[0, 0][..], &SIZE.to_be_bytes(), &0x101_u16.to_be_bytes()].concat())?;
        reply(1, b"")?;
        break;
    }
    while serve_one(&mut stream, disk)? {}
    Ok(())
}

/// One request; whether the connection goes on.
fn serve_one(stream: &mut UnixStream, disk: &Mutex<Disk>) -> io::Result<bool> {
    let mut header = [0; 28];
    stream.read_exact(&mut header)?;
    assert_eq!(be32(&header), 0x2560_9513, "the magic of a request");
    let command = be32(&header[4..]);
    let offset = u64::from_be_bytes(header[16..24].try_into().unwrap());
    let length = be32(&header[24..]) as usize;
    let mut payload = vec![0; if command == 1 { length } else { 0 }];
    stream.read_exact(&mut payload)?;
    if command == 2 {
        return Ok(false);
    }
    let range = offset as usize..offset as usize + length;
    // The lock is kept during a stall: all connections stall.
    let mut disk = disk.lock().unwrap();
    disk.requests += 1;
    let mut error = 0;
    let mut cookie = header[8..16].to_vec();
    match disk.lie {
        Lie::Fails(value) if disk.requests.is_multiple_of(10) => error = value,
        Lie::Leaves(after) if disk.requests > after => return Ok(false),
        Lie::Stalls(at, duration) if disk.requests == at => std::thread::sleep(duration),
        Lie::WrongCookie => cookie[0] ^= 1,
        _ => {}
    }
    if command == 1 && error == 0 {
        disk.write(offset, &payload);
    }
    let mut reply = [&0x6744_6698_u32.to_be_bytes()[..], &error.to_be_bytes(), &cookie].concat();
    if command == 0 && error == 0 {
        reply.extend_from_slice(&disk.content[range]);
    }
    drop(disk);
    stream.write_all(&reply)?;
    Ok(true)
}

impl Disk {
    /// Stores a block, or what the lie makes of it.
    fn write(&mut self, offset: u64, payload: &[u8]) {
        assert_eq!(payload.len(), BLOCK, "the load has blocks of one size");
        let place = offset as usize..offset as usize + BLOCK;
        let earlier = self.history.entry(offset).or_default();
        let is_victim = self.victim == Some(offset);
        let lie = if is_victim || self.victim.is_none() { self.lie } else { Lie::Nothing };
        let mut stored = payload.to_vec();
        let other = self.content[..].chunks_exact(BLOCK).enumerate().find_map(|(index, block)| {
            let is_other = index * BLOCK != place.start && block.starts_with(b"rnbdload");
            is_other.then(|| block.to_vec())
        });
        let has_lied = match (lie, earlier.len()) {
            (Lie::LosesWrite, written) if written == 0 || is_victim => {
                stored = self.content[place.clone()].to_vec();
                true
            }
            (Lie::KeepsOldContent, 2..) => {
                stored = earlier[earlier.len() - 2].clone();
                true
            }
            (Lie::TearsWrite, 1..) => {
                stored[..BLOCK / 2].copy_from_slice(&self.content[place.start..][..BLOCK / 2]);
                true
            }
            (Lie::SwapsBlock, _) => other.map(|block| stored = block).is_some(),
            (Lie::KeepsForeignContent, _) => {
                stored = self.before[place.clone()].to_vec();
                stored.starts_with(b"rnbdload")
            }
            (Lie::FlipsBit, _) => {
                stored[BLOCK - 1] ^= 0x10;
                true
            }
            _ => false,
        };
        if has_lied {
            self.victim = Some(offset);
        } else {
            stored = payload.to_vec();
        }
        self.content[place].copy_from_slice(&stored);
        earlier.push(payload.to_vec());
    }
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}
