//! Connections leave one shard for another in the middle of everything, as they do when another process takes
//! over.

use std::sync::atomic::{AtomicBool, AtomicU64};

use super::*;
use crate::random::Random;
use crate::shard::{ExportLimits, TakesTls};

pub(super) const ID: ExportId = ExportId { index: 0, generation: 0 };
const PATIENCE: Duration = Duration::from_secs(20);
/// Requests of the client at a time, each in its own part of the disk.
const PARTS: u64 = 8;
const PART: u64 = 4 << 20;

pub(super) fn another(export: &Arc<Export>) -> Running {
    let (sender, exited) = mpsc::channel();
    let shard = ShardHandle::start(ShardConfig {
        index: 0,
        cpu: None,
        limits: Arc::new(Limits { connections: 64, ..Limits::SMALLEST }),
        files: 1,
        busy_poll: Duration::ZERO,
        record: true,
        slow: None,
        on_exit: Box::new(move |result| sender.send(result).unwrap()),
    });
    Running { shard: shard.unwrap(), exited, export: Arc::clone(export) }
}

pub(super) fn depart(shard: &ShardHandle, patience: Duration) -> Vec<LeavingConnection> {
    let (told, heard) = mpsc::channel();
    let times = [patience, patience.min(Duration::from_millis(500))];
    assert!(shard.depart((vec![ID], TakesTls::ALL), times, move |leaving| told.send(leaving).unwrap()));
    heard.recv_timeout(PATIENCE).unwrap()
}

/// `rate`: requests a second, so that some of them wait for it when the next departure comes.
pub(super) fn arrive(at: &Running, leaving: LeavingConnection, rate: Option<u64>) {
    let limits = Arc::new(ExportLimits::default());
    if let Some(rate) = rate {
        let rates = serde_json::json!({ "iops": rate, "iops_burst": 1 });
        limits.set_alone(&serde_json::from_value(rates).unwrap());
    }
    let LeavingConnection { number, export, socket, session, input, .. } = leaving;
    let new = NewConnection {
        number,
        socket,
        over_tcp: false,
        id: export,
        export: Arc::clone(&at.export),
        limits,
        session,
        leftover: input,
        secure: None,
        peer: Default::default(),
        permit: Box::new(()),
        socket_permit: Box::new(()),
    };
    assert!(at.shard.connect(new).is_ok());
}

/// A client that has several requests under way, sends them in odd pieces, and knows what each byte must be.
fn verify(mut client: UnixStream, is_over: &AtomicBool, replies: &AtomicU64, seed: u64) -> u64 {
    let (mut random, mut rounds) = (Random::new(seed), 0);
    let mut disk = vec![0_u8; (PARTS * PART) as usize];
    while !is_over.load(Ordering::Relaxed) {
        rounds += 1;
        let (mut bytes, mut reads) = (Vec::new(), 0);
        let mut asked = Vec::new();
        for part in 0..PARTS {
            let longest = if random.below(8) == 0 { PART } else { 70_000 };
            let length = 1 + random.below(longest);
            let start = part * PART + random.below(PART - length + 1);
            let is_read = random.below(3) == 0;
            asked.push((start, length, is_read));
            bytes.extend(request(u16::from(!is_read), part, start, length as u32));
            if is_read {
                reads += length;
            } else {
                let place = start as usize..(start + length) as usize;
                let value = random.below(255) as u8;
                disk[place.clone()].iter_mut().zip(0_u8..=250).for_each(|(byte, at)| *byte = at ^ value);
                disk[place.clone()].iter_mut().skip(251).for_each(|byte| *byte = value);
                bytes.extend_from_slice(&disk[place]);
            }
        }
        let mut writer = client.try_clone().unwrap();
        let steps: Vec<_> = (0..64).map(|_| 1 + random.below(300_000) as usize).collect();
        let sender = std::thread::spawn(move || {
            let (mut rest, mut steps) = (&bytes[..], steps.iter().cycle());
            while !rest.is_empty() {
                let (piece, later) = rest.split_at((*steps.next().unwrap()).min(rest.len()));
                writer.write_all(piece).unwrap();
                rest = later;
            }
        });
        let mut seen = [false; PARTS as usize];
        for _ in 0..PARTS {
            let header = read(&mut client, 16);
            let part = u64::from_be_bytes(header[8..].try_into().unwrap());
            assert_eq!(header, simple(0, part), "seed {seed}, round {rounds}");
            assert!(!std::mem::replace(&mut seen[part as usize], true), "seed {seed}: answered twice");
            let (start, length, is_read) = asked[part as usize];
            replies.fetch_add(1, Ordering::Relaxed);
            if is_read {
                let data = read(&mut client, length as usize);
                assert!(
                    data == disk[start as usize..(start + length) as usize],
                    "seed {seed}, round {rounds}"
                );
                reads -= length;
            }
        }
        assert_eq!(reads, 0);
        sender.join().unwrap();
    }
    rounds
}

/// Two hundred departures, of which some are called off.
#[test]
fn nothing_is_lost_on_the_way() {
    let seed = std::env::var("RINGNBD_SEED").map_or(0x18, |seed| seed.parse().expect("a number"));
    println!("RINGNBD_SEED={seed}");
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let path = directory.path().join("image");
    std::fs::File::create(&path).unwrap().set_len(PARTS * PART).unwrap();
    let one = start_with(path.to_str().unwrap(), Limits { connections: 64, ..Limits::SMALLEST });
    let other = another(&one.export);
    let clients: Vec<_> = (0..2).map(|_| one.connect(ReplyMode::Simple)).collect();
    let [first, second] = <[UnixStream; 2]>::try_from(clients).unwrap();
    drop(second);
    let (is_over, replies) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| verify(first, &is_over, &replies, seed));
        let mut random = Random::new(seed + 1);
        let (mut here, mut there, mut moved, mut with_input) = (&one, &other, 0, 0);
        while moved < 200 && !client.is_finished() {
            // Often something is answered between two departures, and often nothing.
            let seen = replies.load(Ordering::Relaxed);
            let waits = random.below(2) == 0;
            while waits && replies.load(Ordering::Relaxed) == seen && !client.is_finished() {
                std::thread::yield_now();
            }
            let leaving = depart(&here.shard, PATIENCE);
            with_input += leaving.iter().filter(|leaving| leaving.input.len() > 28).count();
            if random.below(4) == 0 || leaving.is_empty() {
                drop(leaving);
                assert!(here.shard.settle(Settlement::Stay));
                continue;
            }
            assert!(here.shard.settle(Settlement::Moved));
            let rate = (moved % 3 == 0).then_some(500);
            leaving.into_iter().for_each(|leaving| arrive(there, leaving, rate));
            std::mem::swap(&mut here, &mut there);
            moved += 1;
        }
        is_over.store(true, Ordering::Relaxed);
        println!("{} rounds, {with_input} departures within a payload", client.join().unwrap());
        assert!(moved == 200 && with_input > 0);
    });
    while one.shard.connections() + other.shard.connections() > 0 {
        std::thread::yield_now();
    }
    one.stop();
    other.stop();
}

/// A client that does not read its replies stays, and so does one in the middle of a payload that is
/// skipped; both go on afterwards.
#[test]
fn what_is_not_ready_stays() {
    let running = start("mem:64M");
    let mut deaf = running.connect(ReplyMode::Simple);
    deaf.write_all(&request(0, 1, 0, 16 << 20)).unwrap();
    // A write beyond the end is refused, and its payload passes by.
    let mut refused = running.connect(ReplyMode::Simple);
    refused.write_all(&[request(1, 2, 64 << 20, 4096), vec![0; 100]].concat()).unwrap();
    let mut idle = running.connect(ReplyMode::Simple);
    // All three have come to the shard.
    while running.shard.connections() < 3 {
        std::thread::yield_now();
    }
    let header = read(&mut deaf, 16);
    let leaving = depart(&running.shard, Duration::from_millis(100));
    assert_eq!(leaving.len(), 1, "{leaving:?}");
    assert!(running.shard.settle(Settlement::Stay));
    drop(leaving);
    assert_eq!(header, simple(0, 1));
    read(&mut deaf, 16 << 20);
    refused.write_all(&vec![0; 3996]).unwrap();
    assert_eq!(read(&mut refused, 16), simple(28, 2));
    idle.write_all(&request(0, 3, 0, 512)).unwrap();
    read(&mut idle, 16 + 512);
    drop((deaf, refused, idle));
    running.stop();
}

/// A request that was parsed and waits for memory goes along as the client sent it.
#[test]
fn what_waits_for_memory_goes_along() {
    let running = start("mem:64M");
    let mut hoarder = running.connect(ReplyMode::Simple);
    hoarder.write_all(&request(1, 1, 0, 32 << 20)).unwrap();
    let depart_with = |headers: usize| loop {
        let leaving = depart(&running.shard, PATIENCE);
        if leaving.iter().map(|leaving| leaving.input.len()).sum::<usize>() == headers * 28 {
            break leaving;
        }
        // Not all of it had come.
        assert!(running.shard.settle(Settlement::Stay));
    };
    drop(depart_with(1));
    assert!(running.shard.settle(Settlement::Stay));
    let mut waiting = running.connect(ReplyMode::Simple);
    waiting.write_all(&request(0, 2, 0, 32 << 20)).unwrap();
    let leaving = depart_with(2);
    let mut inputs: Vec<_> = leaving.iter().map(|leaving| leaving.input.clone()).collect();
    inputs.sort();
    assert_eq!(inputs, [request(0, 2, 0, 32 << 20), request(1, 1, 0, 32 << 20)]);
    assert!(running.shard.settle(Settlement::Moved));
    while running.shard.connections() > 0 {
        std::thread::yield_now();
    }
    // The clients notice nothing: the descriptors keep their sockets open.
    waiting.set_nonblocking(true).unwrap();
    assert_eq!(waiting.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(leaving);
    waiting.set_nonblocking(false).unwrap();
    assert_eq!(waiting.read(&mut [0]).unwrap(), 0);
    running.stop();
}
