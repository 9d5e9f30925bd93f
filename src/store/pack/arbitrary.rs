//! A pack of bytes that anybody may have made: whatever they are, it says what is wrong with them or works
//! with them.

use uuid::Uuid;

use super::footer::{MAGIC as FOOTER_MAGIC, TRAILER_MAGIC};
use super::header::{MAGIC, PackIdentity};
use super::tests::{MemoryPack, identity};
use super::{PAGE, PackReader};
use crate::store::structure::seal;

/// Reads `data` as a pack, and each chunk that it claims to have.
///
/// The first byte says what is made right, because no mutation hits a checksum: bit 0, header and trailer;
/// bit 1, the header of the footer; bit 2, its CRC. The second says where the footer begins.
pub(super) fn use_arbitrary(data: &[u8]) {
    let [kind, payload_pages, data @ ..] = data else { return };
    let identity = identity();
    let mut bytes = if kind & 1 != 0 { identity.encode() } else { data.to_vec() };
    let footer_at = PAGE as usize + usize::from(payload_pages % 8) * 512;
    bytes.resize(footer_at, *payload_pages);
    bytes.extend(footer(data, &identity, *kind));
    let footer_bytes = bytes.len() - footer_at;
    let mut trailer = vec![0; 64];
    trailer[..8].copy_from_slice(&TRAILER_MAGIC);
    trailer[8] = 1;
    for (at, number) in [(32, footer_at as u64), (40, footer_bytes as u64), (48, identity.number)] {
        trailer[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    if kind & 1 != 0 {
        seal(&mut trailer);
        assert_eq!(bytes[..8], MAGIC);
    }
    bytes.extend(trailer);
    let Ok(pack) = PackReader::open(MemoryPack::new(bytes), &identity) else { return };
    assert!(pack.identity().store != Uuid::nil());
    for (slot, key) in (0..).zip(pack.keys().expect("it was verified")) {
        let found = pack.find(&key.hash, Some(slot)).expect("it was verified").expect("it has the name");
        assert!(pack.find(&key.hash, None).expect("it was verified").is_some());
        // What a hash is not the hash of is never given out.
        if let Ok(contents) = pack.read(&found) {
            assert!(contents.len() <= 16 << 10);
        }
    }
}

fn footer(data: &[u8], identity: &PackIdentity, kind: u8) -> Vec<u8> {
    let mut footer = data.to_vec();
    if kind & 2 != 0 && footer.len() >= 64 {
        footer[..32].fill(0);
        footer[..8].copy_from_slice(&FOOTER_MAGIC);
        footer[8] = 1;
        footer[32..48].copy_from_slice(identity.store.as_bytes());
        footer[48..56].copy_from_slice(&identity.number.to_le_bytes());
    }
    if kind & 4 != 0 && footer.len() >= 32 {
        seal(&mut footer);
    }
    footer
}
