//! As much of the handshake as `ringnbd bench`, fio and libnbd need to come to the transmission phase.

use std::io::{self, Error, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

const OPTION_MAGIC: u64 = 0x4948_4156_454F_5054;
const REPLY_MAGIC: u64 = 0x0003_E889_0455_65A9;
/// Fixed newstyle; no zeroes.
const FLAGS: u16 = 1 | 2;
const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = 1 << 31 | 1;
const INFO_EXPORT: u16 = 0;
/// It has flags; it is read-only; several connections see the same.
const EXPORT_FLAGS: u16 = 1 | 2 | 1 << 8;
const LONGEST_OPTION: u32 = 64 << 10;

/// Whether requests come next; false when the client has gone away.
pub fn negotiate(mut stream: &UnixStream, size: u64) -> io::Result<bool> {
    let mut greeting = b"NBDMAGICIHAVEOPT".to_vec();
    greeting.extend(FLAGS.to_be_bytes());
    stream.write_all(&greeting)?;
    let mut word = [0; 4];
    match stream.read_exact(&mut word) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
        result => result?,
    }
    let no_zeroes = u32::from_be_bytes(word) & 2 != 0;
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let (magic, rest) = header.split_at(8);
        let (option, length) = rest.split_at(4);
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
        let (option, length) = (number(option), number(length));
        if magic != OPTION_MAGIC.to_be_bytes() || length > LONGEST_OPTION {
            return Err(Error::new(ErrorKind::InvalidData, "this is no option"));
        }
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        match option {
            OPT_EXPORT_NAME => {
                let mut answer = details(size);
                answer.resize(answer.len() + if no_zeroes { 0 } else { 124 }, 0);
                return stream.write_all(&answer).map(|()| true);
            }
            OPT_GO => {
                let mut info = INFO_EXPORT.to_be_bytes().to_vec();
                info.extend(details(size));
                reply(stream, option, REP_INFO, &info)?;
                return reply(stream, option, REP_ACK, &[]).map(|()| true);
            }
            OPT_ABORT => return reply(stream, option, REP_ACK, &[]).map(|()| false),
            _ => reply(stream, option, REP_ERR_UNSUP, &[])?,
        }
    }
}

/// Size and flags.
fn details(size: u64) -> Vec<u8> {
    [&size.to_be_bytes()[..], &EXPORT_FLAGS.to_be_bytes()[..]].concat()
}

fn reply(mut stream: &UnixStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut bytes = REPLY_MAGIC.to_be_bytes().to_vec();
    for word in [option, kind, data.len() as u32] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(data);
    stream.write_all(&bytes)
}
