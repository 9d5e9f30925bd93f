//! Messages as they were sent once. A process of another version says them, so they never change: what is new
//! is a message of another kind, or of another version.

use std::sync::Arc;

use super::message::{HEADER, HandoverMessage as M, ListenerPurpose, OfferedExport};
use super::secure_state::SecureState;
use crate::backend::FilePurpose;
use crate::block::BlockSizes;
use crate::nbd::meta_context::MetaContext;
use crate::nbd::session::{ReplyMode, SelectedContext, Session};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().map(|digit| char::from(digit).to_digit(16).unwrap() as u8).collect();
    digits.chunks_exact(2).map(|two| two[0] << 4 | two[1]).collect()
}

#[track_caller]
fn means(hex: &str, message: M, files: usize) {
    let sample = bytes(hex);
    assert_eq!(message.encode(files), sample, "it is said otherwise now");
    let header: [u8; HEADER] = sample[..HEADER].try_into().unwrap();
    assert_eq!(M::announced(header, 1 << 20), Ok((sample.len() - HEADER, files as u8)));
    assert_eq!(M::decode(header, &sample[HEADER..]), Ok(message.clone()));
    damaged(header, &sample[HEADER..], &message);
}

/// A message that was cut or changed is refused, or is another one; it is never more than its bytes.
#[track_caller]
fn damaged(header: [u8; HEADER], fields: &[u8], message: &M) {
    for end in 0..fields.len() {
        assert_ne!(M::decode(header, &fields[..end]).as_ref(), Ok(message), "cut at {end}");
    }
    for place in 0..=fields.len() {
        for bit in 0..8 {
            let (mut header, mut fields) = (header, fields.to_vec());
            match place.checked_sub(1) {
                None => header[4] ^= 1 << bit,
                Some(place) => fields[place] ^= 1 << bit,
            }
            match M::decode(header, &fields) {
                Err(_) | Ok(M::Extra) => {}
                Ok(other) => {
                    assert_ne!(&other, message, "bit {bit} of byte {place}");
                    assert_eq!(other.encode(0)[HEADER..], fields[..], "bit {bit} of byte {place}");
                }
            }
        }
    }
}

#[test]
fn what_version_1_says_means_the_same() {
    means("10000000000072696e676e626448010002004d000000", M::Hello { oldest: 1, newest: 2, process: 77 }, 0);
    let purposes = vec![FilePurpose::Buffered, FilePurpose::Lock, FilePurpose::Direct, FilePurpose::Durable];
    let (name, uri) = ("a".to_owned(), "null:1M".to_owned());
    let export =
        OfferedExport { name, uri, read_only: false, size: 1 << 20, has_lost_writes: true, purposes };
    means("1e00000002040100000061070000006e756c6c3a314d0000001000000000000100010203", M::Export(export), 4);
    means("0200000003010201", M::Listener { purpose: ListenerPurpose::Control, is_inherited: true }, 1);
    means("000000000400", M::Offered, 0);
    let prepared = M::Prepared { exports: vec![0, 3], listeners: vec![1], with_tls: true };
    means("150000000500020000000000000003000000010000000100000001", prepared, 0);
    let contexts = vec![
        SelectedContext { id: 1, context: MetaContext::BaseAllocation },
        SelectedContext { id: 7, context: MetaContext::DirtyBitmap(Arc::from("s1")) },
    ];
    let session = Session {
        reply_mode: ReplyMode::Structured,
        transmission_flags: 0x2d,
        size: 1 << 20,
        block_sizes: BlockSizes { minimum: 1, preferred: 4096, maximum: 32 << 20 },
        enforce_alignment: false,
        contexts,
    };
    let secure = Some(SecureState { keys: vec![8, 9], received: vec![5] });
    let connection = M::Connection { export: 3, session, secure, input: vec![0x25, 0x60] };
    means(
        "3e000000060103000000012d0000001000000000000100000000100000000000020002000000010000000007000000020200000073310102000000080901000000052560",
        connection,
        1,
    );
    means("04000000070009000000", M::AllSent { connections: 9 }, 0);
    means("000000000800", M::Ready, 0);
    means("000000000900", M::Commit, 0);
}

#[test]
fn what_version_2_says_means_the_same() {
    means("0e0000000b000a0000002f7372762f73746f7265", M::Store { path: "/srv/store".to_owned() }, 0);
    means("0d0000000c0002000000000000000200000001", M::Claim { stores: vec![0, 2], with_tls: true }, 0);
    means("000000000d00", M::Released, 0);
}
