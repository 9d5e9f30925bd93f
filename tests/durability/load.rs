//! A client that keeps many requests in flight until its server is gone.

use std::io::ErrorKind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::content::{self, Dice, SECTOR};
use super::model::{Effect, Model};
use crate::support::raw::{Connection, Mode, Request};
use crate::support::wire::*;

/// What all clients of a round share.
pub(crate) struct Load<'a> {
    pub(crate) seed: u64,
    pub(crate) model: &'a Mutex<Model>,
    /// Answered requests of the round.
    pub(crate) answered: AtomicU64,
    /// At so many of them the server is killed.
    pub(crate) limit: u64,
    pub(crate) kill: &'a (dyn Fn() + Sync),
    /// It was killed.
    pub(crate) is_killed: AtomicBool,
}

/// How long one look for a reply takes, and how many of them in vain are too many. A kernel that is busy may keep the socket of a server
/// open that is dead: its client hears nothing then.
pub(crate) const LOOK: Duration = Duration::from_millis(300);
const MOST_LOOKS: usize = 200;

/// A request in flight: its number in the model, and the sectors that it changes; none for a FLUSH.
struct Open {
    cookie: u64,
    number: u64,
    first: u64,
    count: u64,
}

/// Sends and receives until the server is gone. What it had answered by then counts, even if it is read afterwards.
pub(crate) fn run(load: &Load<'_>, mut client: Connection, mut dice: Dice) {
    let depth = 1 + dice.below(32) as usize;
    let mut in_flight: Vec<Open> = Vec::new();
    let mut replies = Vec::new();
    let mut is_gone = false;
    let (mut next_cookie, mut looks) = (0, 0);
    loop {
        let mut bytes = Vec::new();
        while !is_gone && in_flight.len() < depth {
            next_cookie += 1;
            let (open, request) = next_request(load, &mut dice, next_cookie);
            bytes.extend(request.encode(client.mode));
            in_flight.push(open);
        }
        is_gone |= client.try_send(&bytes).is_err();
        match receive(&mut client, &mut replies) {
            Received::Something => looks = 0,
            Received::Nothing if !load.is_killed.load(Ordering::Relaxed) => {
                looks += 1;
                assert!(looks < MOST_LOOKS, "no reply");
            }
            Received::Nothing | Received::End => return,
        }
        while let Some((cookie, error)) = take_reply(client.mode, &mut replies) {
            assert_eq!(error, 0, "an error on a good disk");
            let at = in_flight.iter().position(|open| open.cookie == cookie).expect("it is in flight");
            let Open { number, first, count, .. } = in_flight.swap_remove(at);
            if count > 0 {
                load.model.lock().expect("the other clients are well").answer(number, first, count);
            }
            if load.answered.fetch_add(1, Ordering::Relaxed) + 1 == load.limit {
                (load.kill)();
                load.is_killed.store(true, Ordering::Relaxed);
            }
        }
    }
}

fn next_request(load: &Load<'_>, dice: &mut Dice, cookie: u64) -> (Open, Request) {
    let mut model = load.model.lock().expect("the other clients are well");
    let most = 1 << dice.below(8); // short ones are as frequent as long ones
    let count = 1 + dice.below(most);
    let first = dice.below(model.sectors() - count);
    let (offset, length) = (first * SECTOR as u64, count * SECTOR as u64);
    let fua = if dice.one_in(6) { NBD_CMD_FLAG_FUA } else { 0 };
    let (number, count, request) = match dice.below(16) {
        0 | 1 => (0, 0, Request::flush()),
        2 | 3 => {
            let no_hole = if dice.one_in(2) { NBD_CMD_FLAG_NO_HOLE } else { 0 };
            let request = Request::zeroes(offset, length).flags(fua | no_hole);
            (model.submit(Effect::Zeroed, first, count), count, request)
        }
        4 => (model.submit(Effect::Trimmed, first, count), count, Request::trim(offset, length).flags(fua)),
        _ => {
            let number = model.submit(Effect::Written, first, count);
            let payload = content::written(load.seed, number, first, count);
            (number, count, Request::write(offset, payload).flags(fua))
        }
    };
    (Open { cookie, number, first, count }, request.cookie(cookie))
}

/// What came of a look for replies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Something,
    /// In as long as one look takes.
    Nothing,
    /// The server is gone.
    End,
}

/// Reads what is there.
pub(crate) fn receive(client: &mut Connection, replies: &mut Vec<u8>) -> Received {
    let mut bytes = [0; 4096];
    match client.read_some(&mut bytes) {
        Ok(0) => Received::End,
        Ok(length) => {
            replies.extend(&bytes[..length]);
            Received::Something
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Received::End,
        Err(error) if error.kind() == ErrorKind::Interrupted => Received::Something,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Received::Nothing,
        Err(error) => panic!("reading replies: {error}"),
    }
}

/// The first whole reply: cookie and error. Nothing that these clients send is answered with a payload.
pub(crate) fn take_reply(mode: Mode, replies: &mut Vec<u8>) -> Option<(u64, u32)> {
    if replies.len() < 16 {
        return None;
    }
    let (length, reply) = match be32(replies, 0) {
        NBD_SIMPLE_REPLY_MAGIC => (16, (be64(replies, 8), be32(replies, 4))),
        NBD_STRUCTURED_REPLY_MAGIC => (20, (be64(replies, 8), u32::from(be16(replies, 6)))),
        NBD_EXTENDED_REPLY_MAGIC => (32, (be64(replies, 8), u32::from(be16(replies, 6)))),
        magic => panic!("a reply with magic {magic:#010x} in {mode:?} mode"),
    };
    (replies.len() >= length).then(|| {
        replies.drain(..length);
        reply
    })
}
