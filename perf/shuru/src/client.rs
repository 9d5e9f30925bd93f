//! The least of an NBD client: one request at a time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const EXPORT_NAME: u32 = 1;
const FIXED_AND_NO_ZEROES: u32 = 3;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Client {
    socket: UnixStream,
    cookie: u64,
}

impl Client {
    /// Waits until the server listens.
    pub fn connect(path: &Path, export: &str) -> Result<Self> {
        let begun = Instant::now();
        let mut socket = loop {
            match UnixStream::connect(path) {
                Ok(socket) => break socket,
                Err(error) if begun.elapsed() > PATIENCE => {
                    return Err(error).context("the server does not listen");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let mut greeting = [0; 18];
        socket.read_exact(&mut greeting)?;
        let mut asked = FIXED_AND_NO_ZEROES.to_be_bytes().to_vec();
        asked.extend(OPTION_MAGIC.to_be_bytes());
        asked.extend(EXPORT_NAME.to_be_bytes());
        asked.extend((export.len() as u32).to_be_bytes());
        asked.extend(export.as_bytes());
        socket.write_all(&asked)?;
        let mut told = [0; 10];
        socket.read_exact(&mut told).with_context(|| format!("no export {export:?}"))?;
        Ok(Self { socket, cookie: 0 })
    }

    fn ask(&mut self, command: u16, offset: u64, length: u32, data: &[u8]) -> Result<()> {
        self.cookie += 1;
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend(0_u16.to_be_bytes());
        request.extend(command.to_be_bytes());
        request.extend(self.cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(length.to_be_bytes());
        self.socket.write_all(&request)?;
        self.socket.write_all(data)?;
        let mut reply = [0; 16];
        self.socket.read_exact(&mut reply)?;
        ensure!(reply[..4] == REPLY_MAGIC.to_be_bytes(), "a reply is none");
        ensure!(reply[4..8] == [0; 4], "the server answered with error {:?}", &reply[4..8]);
        ensure!(reply[8..] == self.cookie.to_be_bytes(), "a reply to another request");
        Ok(())
    }

    pub fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.ask(READ, offset, bytes.len() as u32, &[])?;
        Ok(self.socket.read_exact(bytes)?)
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.ask(WRITE, offset, bytes.len() as u32, bytes)
    }

    pub fn flush(&mut self) -> Result<()> {
        self.ask(FLUSH, 0, 0, &[])
    }
}
