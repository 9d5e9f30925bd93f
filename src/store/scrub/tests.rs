//! Oracle: the bytes of each disk, footers that are taken apart here, and what the test itself has damaged.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::random::Random;
use crate::store::base::look_at_base;
use crate::store::catalog::{NodeName, StoreName};
use crate::store::copy::{MAP_BLOCK, is_zero};
use crate::store::damage_notes::DamageNotes;
use crate::store::error::StoreError;
use crate::store::export::RawOutput;
use crate::store::map::BlockState;
use crate::store::map_files::{MapFiles, change_states};
use crate::store::open_store::OpenStore;
use crate::store::pack::{ChunkHash, ChunkHint};

const CHUNK: u64 = 64 << 10;

fn name(text: &str) -> StoreName {
    text.parse().unwrap()
}

fn node(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// Gives blocks of an image contents, as a server does.
fn write(store: &mut OpenStore<MapFiles>, image: &str, block: u64, bytes: &[u8]) {
    let image = name(image);
    store.give_head(&image).unwrap();
    let head = store.view().unwrap().image(&image).unwrap().head.unwrap();
    let (data, map) = store.directory.open_layer(head).unwrap();
    data.write_all_at(bytes, block * MAP_BLOCK).unwrap();
    let state = if is_zero(bytes) { BlockState::Zero } else { BlockState::Data };
    change_states(&data, &map, block, bytes.len() as u64 / MAP_BLOCK, state);
}

fn read(store: &OpenStore<MapFiles>, of: &str) -> Result<Vec<u8>, StoreError> {
    let file = tempfile::tempfile().unwrap();
    let mut out: RawOutput<'_, File> = RawOutput::Sparse(&file);
    store.export_raw(&node(of), (Path::new("out"), &mut out), &mut |_| Ok(()))?;
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Ok(bytes)
}

fn checkpoint(store: &mut OpenStore<MapFiles>, of: &str) {
    store.checkpoint(&node(of), &mut |_| Ok(())).unwrap();
}

/// Bytes that do not compress, and are others for another seed.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Chunks of which two in three compress.
fn mixed(chunks: usize) -> Vec<u8> {
    let mut bytes = noise(1, chunks * CHUNK as usize);
    for (number, chunk) in bytes.chunks_mut(CHUNK as usize).enumerate() {
        if number % 3 > 0 {
            chunk[2000..].fill(number as u8);
        }
    }
    bytes
}

fn store() -> (tempfile::TempDir, PathBuf, OpenStore<MapFiles>) {
    let house = tempfile::tempdir().unwrap();
    let path = house.path().join("store");
    let store = OpenStore::init(&path, MapFiles).unwrap();
    (house, path, store)
}

/// A store with an image and its checkpoint, by a pack.
fn packed(bytes: &[u8]) -> (tempfile::TempDir, PathBuf, OpenStore<MapFiles>) {
    let (house, path, mut store) = store();
    store.create_empty(&name("vm"), bytes.len() as u64).unwrap();
    write(&mut store, "vm", 0, bytes);
    checkpoint(&mut store, "vm@1");
    (house, path.join("packs/1.pack"), store)
}

fn scrub(store: &OpenStore<MapFiles>, options: &ScrubOptions) -> ScrubReport {
    store.scrub(options, &mut |_| Ok(())).unwrap()
}

fn anew() -> ScrubOptions {
    ScrubOptions { is_new: true, ..ScrubOptions::default() }
}

fn repairing(copies: &[&Path]) -> ScrubOptions {
    ScrubOptions { repairs: true, copies: copies.iter().map(|path| path.to_path_buf()).collect(), ..anew() }
}

/// The payloads of a pack, as its footer has them.
fn payloads(pack: &[u8]) -> (Vec<Range<u64>>, u64) {
    let u64_at = |at: usize| u64::from_le_bytes(pack[at..at + 8].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(pack[at..at + 4].try_into().unwrap());
    let footer = u64_at(pack.len() - 32) as usize;
    let entry = |slot: usize| footer + 64 + slot * 96;
    let found = (0..u32_at(footer + 56) as usize)
        .map(|slot| u64_at(entry(slot) + 32)..u64_at(entry(slot) + 32) + u64::from(u32_at(entry(slot) + 40)));
    (found.collect(), footer as u64)
}

/// Flips one bit of a file.
fn flip(file: &File, at: u64, bit: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
}

fn open(pack: &Path) -> File {
    File::options().read(true).write(true).open(pack).unwrap()
}

/// A4: rounds of flipped bits anywhere in a pack, so many in all; each is found, and nothing else.
fn every_flip_is_found(chunks: usize, flips: usize, a_round: usize) {
    let (_house, path, store) = packed(&mixed(chunks));
    let (good, file) = (std::fs::read(&path).unwrap(), open(&path));
    let (payloads, footer) = payloads(&good);
    assert!(payloads.len() > chunks && payloads.iter().any(|payload| payload.start % MAP_BLOCK != 0));
    assert_eq!(scrub(&store, &anew()).problems(), Vec::<String>::new());
    let seed = std::env::var("RINGNBD_SEED").map_or(15, |seed| seed.parse().unwrap());
    println!("RINGNBD_SEED={seed}");
    let mut random = Random::new(seed);
    let (mut flipped, mut frames, mut round) = (0, 0, 0);
    while flipped < flips {
        round += 1;
        let (mut slots, mut gaps, mut has_frame) = (BTreeSet::new(), BTreeSet::new(), false);
        let mut places = BTreeSet::new();
        while places.len() < a_round {
            let at = random.below(good.len() as u64);
            let is_frame = at < MAP_BLOCK || at >= footer;
            // Of a pack without its footer no chunk can be told.
            if is_frame && !places.is_empty() || !places.insert(at) {
                continue;
            }
            match payloads.iter().position(|payload| at < payload.end) {
                Some(slot) if payloads[slot].contains(&at) => drop(slots.insert(slot as u32)),
                Some(slot) if !is_frame => drop(gaps.insert(slot)),
                _ => has_frame = true,
            }
            flip(&file, at, random.below(8));
            if has_frame {
                break;
            }
        }
        let report = scrub(&store, &anew());
        let told: BTreeSet<u32> = report.damaged.iter().map(|chunk| chunk.chunk).collect();
        if has_frame {
            assert_eq!((report.unusable.len(), told.len()), (1, 0), "round {round}: {places:?}");
        } else {
            assert_eq!(told, slots, "round {round}");
            assert_eq!((report.elsewhere.len(), report.unusable.len()), (gaps.len(), 0), "round {round}");
        }
        places.iter().for_each(|at| file.write_all_at(&good[*at as usize..][..1], *at).unwrap());
        (flipped, frames) = (flipped + places.len(), frames + usize::from(has_frame));
    }
    println!(
        "{flipped} flips of {} bytes in {round} rounds, {frames} of them of the header or footer",
        good.len()
    );
    assert_eq!(scrub(&store, &anew()).problems(), Vec::<String>::new());
}

#[test]
fn flipped_bits_of_a_pack_are_found() {
    every_flip_is_found(24, 160, 8);
}

/// `RINGNBD_SEED` for others.
#[test]
#[ignore = "some minutes"]
fn ten_thousand_flipped_bits_of_a_pack_are_found() {
    every_flip_is_found(2048, 10_000, 250);
}

/// A4, A5: who needs what is damaged, and where on the disk.
#[test]
fn damage_is_told_with_its_images_and_bytes() {
    let (_house, path, mut store) = store();
    let bytes = noise(2, 8 * CHUNK as usize);
    for image in ["a", "b"] {
        store.create_empty(&name(image), 1 << 25).unwrap();
    }
    write(&mut store, "a", 0, &bytes);
    write(&mut store, "b", 300 * 16, &bytes[3 * CHUNK as usize..5 * CHUNK as usize]);
    checkpoint(&mut store, "a@1");
    checkpoint(&mut store, "b@1");
    store.clone_images(node("a@1"), &[name("c")]).unwrap();
    let pack = path.join("packs/1.pack");
    let (good, file) = (std::fs::read(&pack).unwrap(), open(&pack));
    let wanted = &bytes[3 * CHUNK as usize..4 * CHUNK as usize];
    let at = good.windows(wanted.len()).position(|window| window == wanted).unwrap() as u64;
    flip(&file, at + 5000, 3);
    let report = scrub(&store, &ScrubOptions::default());
    let [chunk] = &report.damaged[..] else { panic!("{report:?}") };
    assert_eq!((chunk.pack, chunk.offset, chunk.kind, chunk.length), (1, at, "data", 65_536));
    let place = |names: &[&str], start| ChunkUse {
        names: names.iter().map(ToString::to_string).collect(),
        more_names: 0,
        start,
        length: CHUNK,
    };
    let mut uses = chunk.uses.clone();
    uses.sort_by_key(|place| place.start);
    assert_eq!(uses, [place(&["a", "a@1", "c"], 3 * CHUNK), place(&["b", "b@1"], 300 * CHUNK)]);
    assert!(chunk.why.contains(&format!("byte {}", at + 4096)), "{}", chunk.why);
    // Reads end there, and nowhere else.
    assert!(read(&store, "a").is_err() && read(&store, "b@1").is_err());
    file.write_all_at(&good[at as usize + 5000..][..1], at + 5000).unwrap();
    assert!(read(&store, "a").unwrap()[..bytes.len()] == bytes);
    std::fs::remove_file(&pack).unwrap();
    let report = scrub(&store, &ScrubOptions::default());
    let [missing] = &report.unusable[..] else { panic!("{report:?}") };
    assert!(missing.is_missing && missing.pack == 1 && report.damaged.is_empty());
    let names: BTreeSet<&String> = missing.uses.iter().flat_map(|place| &place.names).collect();
    assert_eq!(names.len(), 5, "{missing:?}");
}

/// A scrub that is interrupted goes on with the pack that it was at, and forgets nothing.
#[test]
fn a_scrub_goes_on_where_it_was_interrupted() {
    let (_house, path, mut store) = store();
    for (image, seed) in [("a", 3), ("b", 4), ("c", 5)] {
        store.create_empty(&name(image), 1 << 20).unwrap();
        write(&mut store, image, 0, &noise(seed, 8 * CHUNK as usize));
        checkpoint(&mut store, &format!("{image}@1"));
    }
    flip(&open(&path.join("packs/1.pack")), 10_000, 0);
    let whole = scrub(&store, &ScrubOptions::default());
    assert_eq!((whole.packs, whole.damaged.len(), whole.resumed_at), (3, 1, None));
    let mut calls = 0;
    let stopped = store.scrub(&ScrubOptions::default(), &mut |_| {
        calls += 1;
        if calls > 12 { Err(StoreError::Interrupted) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(StoreError::Interrupted)));
    let rest = scrub(&store, &ScrubOptions::default());
    assert_eq!((rest.resumed_at, rest.packs), (Some(2), 2));
    assert_eq!(rest.damaged, whole.damaged, "what was found before is looked at again");
    assert!(rest.chunks < whole.chunks);
    // Notes that are garbage cost time and nothing else.
    for bytes in [&b""[..], b"rnbsDAMGx", &[0; 4096]] {
        std::fs::write(path.join("damaged"), bytes).unwrap();
        let again = scrub(&store, &ScrubOptions::default());
        assert_eq!((again.packs, again.damaged.len()), (3, 1));
    }
}

/// Copies are found in a file that is named, in another image that is not in packs, and in a base.
#[test]
fn damaged_chunks_are_written_again_from_copies() {
    let bytes = mixed(8);
    for from in ["file", "layer", "base", "nowhere"] {
        let (house, pack, mut store) = packed(&bytes);
        let (good, file) = (std::fs::read(&pack).unwrap(), open(&pack));
        // All chunks of the disk; the manifest's node is the last one.
        let (all, _) = payloads(&good);
        all[..8].iter().for_each(|payload| flip(&file, payload.start + 17, 2));
        assert!(read(&store, "vm").is_err());
        let other = house.path().join("other");
        // They lie elsewhere there.
        let mut shifted = vec![9; CHUNK as usize];
        shifted.extend(&bytes);
        match from {
            "file" => std::fs::write(&other, &shifted).unwrap(),
            "layer" => {
                store.create_empty(&name("other"), 1 << 20).unwrap();
                write(&mut store, "other", 0, &shifted[..9 * CHUNK as usize]);
            }
            "base" => {
                std::fs::write(&other, &shifted).unwrap();
                store.create_on_base(&name("other"), None, look_at_base(&other).unwrap()).unwrap();
            }
            _ => {}
        }
        let copies: &[&Path] = if from == "file" { &[&other] } else { &[] };
        assert_eq!(scrub(&store, &anew()).problems().len(), 8, "{from}");
        let report = scrub(&store, &repairing(copies));
        let expected = if from == "nowhere" { 0 } else { 8 };
        assert_eq!(
            (report.repaired(), report.problems().len()),
            (expected, 8 - expected),
            "{from}: {report:?}"
        );
        assert_eq!(scrub(&store, &anew()).problems().len(), 8 - expected);
        if from != "nowhere" {
            assert!(read(&store, "vm").unwrap() == bytes, "{from}");
            assert!(std::fs::read(&pack).unwrap() == good, "{from}: the pack is what it was");
        }
    }
}

/// What is known to be damaged is never relied on: when the same contents come again, it is written again.
/// It is known by a scrub, or because a read has failed.
#[test]
fn contents_that_come_again_restore_what_is_damaged() {
    let bytes = mixed(4);
    for by_scrub in [true, false] {
        let (_house, pack, mut store) = packed(&bytes);
        let (good, file) = (std::fs::read(&pack).unwrap(), open(&pack));
        let (all, _) = payloads(&good);
        flip(&file, all[1].start, 0);
        flip(&file, all[2].start + 70, 0);
        if by_scrub {
            assert_eq!(scrub(&store, &anew()).damaged.len(), 2);
        } else {
            for slot in [1, 2] {
                let hash =
                    ChunkHash(*blake3::hash(&bytes[slot * CHUNK as usize..][..CHUNK as usize]).as_bytes());
                store.note_damage(ChunkHint { pack: 1, slot: slot as u32 }, hash).unwrap();
            }
        }
        store.create_empty(&name("again"), bytes.len() as u64).unwrap();
        write(&mut store, "again", 0, &bytes);
        checkpoint(&mut store, "again@1");
        assert!(read(&store, "again").unwrap() == bytes && read(&store, "vm").unwrap() == bytes);
        assert!(std::fs::read(&pack).unwrap() == good);
        assert_eq!(store.view().unwrap().packs().count(), 1);
        assert_eq!(store.directory.damage_notes(store.header().store), DamageNotes::default());
    }
}
