//! What sectors hold: each says by which write it was made and where it belongs, and everything else in it follows from that.

use ringnbd::internal::random::{STEP, mixed};

/// Bytes of a sector: what may be old or new as a whole when a write was cut off.
pub(crate) const SECTOR: usize = 512;

/// The write that left a sector as it was made, or zeroed: it is all zeroes.
pub(crate) const ZEROES: u64 = 0;

/// Random numbers from a seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mixed(seed))
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        (mixed(self.0) >> 11) % limit
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The contents that write number `generation` of the run `seed` puts at sectors `first..first + count`.
pub(crate) fn written(seed: u64, generation: u64, first: u64, count: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count as usize * SECTOR);
    for sector in first..first + count {
        bytes.extend(seed.to_le_bytes());
        bytes.extend(generation.to_le_bytes());
        bytes.extend(sector.to_le_bytes());
        let mut word = mixed(seed ^ mixed(generation ^ mixed(sector)));
        for _ in 3..SECTOR / 8 {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes
}

/// Which write a sector holds; an error says what else is there.
pub(crate) fn written_by(seed: u64, sector: u64, bytes: &[u8]) -> Result<u64, String> {
    if bytes == [0; SECTOR] {
        return Ok(ZEROES);
    }
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (from, generation, place) = (word(0), word(8), word(16));
    if bytes == written(seed, generation, sector, 1) {
        return Ok(generation);
    }
    let whole = place < 1 << 32 && bytes == written(from, generation, place, 1);
    Err(match whole {
        true => format!("write {generation} of run {from} to sector {place}"),
        false => format!("no sector that anybody wrote, or a torn one: {:02x?}...", &bytes[..32]),
    })
}

/// The seed of this run, or the one in `RINGNBD_SEED`; printed, so that it stands beside a failure.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("RINGNBD_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        now.as_nanos() as u64 & u64::from(u32::MAX)
    });
    eprintln!("RINGNBD_SEED={seed}");
    seed
}

#[test]
fn a_sector_tells_who_wrote_it() {
    let bytes = written(7, 42, 100, 2);
    assert_eq!(written_by(7, 100, &bytes[..SECTOR]), Ok(42));
    assert_eq!(written_by(7, 101, &bytes[SECTOR..]), Ok(42));
    assert_eq!(written_by(7, 9, &[0; SECTOR]), Ok(ZEROES));
    assert!(written_by(7, 101, &bytes[..SECTOR]).unwrap_err().contains("to sector 100"));
    assert!(written_by(8, 100, &bytes[..SECTOR]).unwrap_err().contains("of run 7"));
    let torn = [&bytes[..256], &written(7, 41, 100, 1)[256..]].concat();
    assert!(written_by(7, 100, &torn).unwrap_err().contains("torn"));
}
