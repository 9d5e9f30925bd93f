//! A simulated client: pipelines random requests, reads replies at its own pace, leaves in its own way, and checks what it is told.

use std::collections::BTreeMap;

use ringnbd::internal::ring::sim::{Faults, Random, SocketId, World, mixed};

use super::oracle::{Oracle, WriteId};
use super::request::{Asked, Expect, Setting};
use super::secure::{NOT_SEALED, SecureEnd};
use super::wire::{self, Form, Reply, Stream};

/// What a client works with.
pub(crate) struct Context<'a> {
    pub(crate) world: &'a World,
    pub(crate) oracle: &'a mut Oracle,
    pub(crate) faults: &'a Faults,
    /// Its file is cut now and then.
    pub(crate) cuts: bool,
    /// It is a device that loses requests, or panics.
    pub(crate) fails: bool,
    /// It is an image: what it knows of its blocks is read and written too, by any request.
    pub(crate) is_image: bool,
    pub(crate) random: &'a mut Random,
    /// Numbers everything that clients do.
    pub(crate) tick: &'a mut u64,
    /// The server was asked to end, and is to say so to whoever asks for something.
    pub(crate) refuses: bool,
    /// The server was asked to end.
    pub(crate) shutting_down: bool,
    /// Its export was removed, and its connections with it.
    pub(crate) removed: bool,
    /// Nanoseconds.
    pub(crate) now: u64,
}

impl Context<'_> {
    pub(crate) fn tick(&mut self) -> u64 {
        *self.tick += 1;
        *self.tick
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// It said that it would send no more; replies still come.
    Leaving,
    Gone,
}

/// How a client ends its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Disconnect,
    HalfClose,
    Close,
    Reset,
}

/// What a slow and steady client sends and receives at once, and after how many nanoseconds again: half a mebibyte a second.
const STEADY_BYTES: usize = 64 << 10;
const STEADY_PAUSE: u64 = 125_000_000;

/// The longest time without a byte either way for a client that waits and reads, in nanoseconds of the world.
const PATIENCE: u64 = 60_000_000_000;
/// It has looked so often, too: the catalogue takes its time in steps of the run, of which one may be long.
const LOOKS: u64 = 4096;

pub(crate) struct Client {
    pub(crate) socket: SocketId,
    pub(crate) setting: Setting,
    state: State,
    /// It has TLS: what it asks is sealed when it is sent.
    pub(crate) secure: Option<SecureEnd>,
    outgoing: Stream,
    /// Bytes that were queued as they are sent, and that the socket took.
    queued: u64,
    taken: u64,
    incoming: Stream,
    outstanding: BTreeMap<u64, Asked>,
    left: usize,
    depth: usize,
    /// Leaves early with this probability at each step.
    restless: f64,
    pace: u64,
    stalls: f64,
    stalled_until: u64,
    heard: u64,
    /// Steps in a row in which nothing came and nothing went.
    idle: u64,
    pub(crate) answered: u64,
}

impl Client {
    pub(crate) fn new(socket: SocketId, setting: Setting, context: &mut Context<'_>) -> Self {
        let random = &mut *context.random;
        let steady = setting.steady;
        Self {
            socket,
            setting,
            state: State::Open,
            secure: None,
            outgoing: Stream::default(),
            queued: 0,
            taken: 0,
            incoming: Stream::default(),
            outstanding: BTreeMap::new(),
            left: if steady { 2 } else { random.between(1, 60) as usize },
            depth: if steady { 1 } else { random.pick(&[1, 2, 8, 64]) },
            restless: if steady { 0.0 } else { random.pick(&[0.0, 0.0, 0.003]) },
            // Neither so fast that it only waits nor so slow that nothing overlaps.
            pace: random.pick(&[1, 5, 50]) * context.faults.latency_ns.max(1_000) / 10,
            stalls: if steady { 0.0 } else { random.pick(&[0.0, 0.0, 0.02]) },
            stalled_until: 0,
            heard: context.now,
            idle: 0,
            answered: 0,
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// How far it is, for people.
    pub(crate) fn describe(&self) -> String {
        let Self { state, left, pace, outstanding, answered, incoming, outgoing, .. } = self;
        let (waits, came, goes) = (outstanding.len(), incoming.len(), outgoing.len());
        format!(
            "{state:?}, {left} to ask, {answered} answered, {waits} open, {came} bytes came, {goes} to send, {pace} ns a step"
        )
    }

    /// When it does something again.
    pub(crate) fn next_step(&self, context: &mut Context<'_>) -> u64 {
        if self.setting.steady {
            return context.now + STEADY_PAUSE;
        }
        // Whoever only waits looks less and less often.
        let pace = self.pace * (1 + self.idle.min(1000) / 10);
        (context.now + 1 + context.random.below(2 * pace)).max(self.stalled_until)
    }

    /// Receives, sends and decides.
    pub(crate) fn step(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        if context.random.chance(self.stalls) {
            self.stalled_until = context.now + context.random.between(1, 200) * 1_000_000;
        }
        let most = match self.setting.steady {
            true => STEADY_BYTES,
            false => context.random.pick(&[1, 50, 4096, 1 << 20]),
        };
        let bytes = context.world.client_receive(self.socket, most);
        let waits = self.state == State::Leaving || !self.outstanding.is_empty();
        if !bytes.is_empty() || !waits || self.stalled_until > context.now {
            self.heard = context.now.max(self.stalled_until);
        }
        self.idle = if bytes.is_empty() { self.idle + 1 } else { 0 };
        self.hear(&bytes)?;
        while self.take_reply(context)? {}
        if context.world.client_is_at_end(self.socket) {
            return self.ended(context);
        }
        if self.state == State::Open {
            self.ask(context);
        }
        self.send(context);
        if context.now > self.heard + PATIENCE && self.idle > LOOKS {
            let waiting: Vec<_> = self.outstanding.values().take(3).collect();
            return Err(format!("no answer for a minute ({}); it waits for {waiting:?}", self.describe()));
        }
        Ok(())
    }

    /// The server is gone; what it has sent is still here.
    pub(crate) fn hear_the_last(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        let bytes = context.world.client_receive(self.socket, usize::MAX);
        self.hear(&bytes)?;
        while self.take_reply(context)? {}
        Ok(())
    }

    /// Bytes have come.
    fn hear(&mut self, bytes: &[u8]) -> Result<(), String> {
        match &mut self.secure {
            Some(secure) => secure.open(bytes, &mut self.incoming),
            None => {
                self.incoming.push(bytes);
                Ok(())
            }
        }
    }

    /// Queues bytes; a request with its cookie.
    fn queue(&mut self, bytes: &[u8], cookie: u64) -> u64 {
        match &mut self.secure {
            Some(secure) => {
                secure.queue(bytes, cookie);
                NOT_SEALED
            }
            None => {
                self.queued += bytes.len() as u64;
                self.outgoing.push(bytes);
                self.queued
            }
        }
    }

    fn seal(&mut self) {
        let Some(secure) = &mut self.secure else { return };
        let (before, start) = (self.outgoing.len(), self.queued);
        secure.seal(&mut self.outgoing, |cookie, end| {
            // There is none of who says goodbye.
            if let Some(asked) = self.outstanding.get_mut(&cookie) {
                asked.stream_end = start + end;
            }
        });
        self.queued += (self.outgoing.len() - before) as u64;
    }

    fn send(&mut self, context: &mut Context<'_>) {
        self.seal();
        let most = if self.setting.steady { STEADY_BYTES } else { usize::MAX };
        let bytes = &self.outgoing[..self.outgoing.len().min(most)];
        let taken = context.world.client_send(self.socket, bytes);
        self.outgoing.take(taken);
        self.taken += taken as u64;
        if taken > 0 {
            self.idle = 0;
            // A long request over a slow socket takes its time.
            self.heard = self.heard.max(context.now);
        }
    }

    fn ask(&mut self, context: &mut Context<'_>) {
        while self.left > 0 && self.outstanding.len() < self.depth && context.random.chance(0.8) {
            self.left -= 1;
            let cookie = mixed(context.tick() ^ 0xc00c_1e00);
            let (mut asked, bytes) = self.setting.random_request(cookie, context);
            asked.stream_end = self.queue(&bytes, cookie);
            self.outstanding.insert(cookie, asked);
        }
        let done = self.left == 0 && context.random.chance(0.3);
        if done || context.random.chance(self.restless) {
            self.leave(context);
        }
    }

    fn leave(&mut self, context: &mut Context<'_>) {
        use Manner::*;
        match context.random.pick(&[Disconnect, Disconnect, Disconnect, HalfClose, Close, Reset]) {
            Disconnect => {
                let bytes = wire::request(self.setting.form, 0, wire::DISC, 0, 0, 0);
                // No request has this cookie: all are numbers that look random.
                self.queue(&bytes, 0);
                self.state = State::Leaving;
            }
            HalfClose if self.secure.is_some() => {
                self.secure.as_mut().expect("it has TLS").leave();
                self.state = State::Leaving;
            }
            // A half-closed stream ends at the edge of a request only when all of it was sent.
            HalfClose if self.outgoing.is_empty() => {
                context.world.client_half_close(self.socket);
                self.state = State::Leaving;
            }
            HalfClose | Close => {
                context.world.client_close(self.socket);
                self.state = State::Gone;
            }
            Reset => {
                context.world.client_reset(self.socket);
                self.state = State::Gone;
            }
        }
    }

    /// The server has ended the connection.
    fn ended(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        let taken_back = context.world.taken_back(self.socket);
        // Nobody waits for a client that was idle for long: its goodbye may go with the socket.
        let is_sent_away = context.shutting_down || context.removed;
        let goodbye =
            self.secure.as_ref().filter(|_| is_sent_away).map_or(0, |secure| secure.goodbye_bytes());
        if taken_back > goodbye && context.faults.cut_send == 0.0 {
            return Err(format!("{taken_back} bytes of replies were taken back when the socket was closed"));
        }
        // Of a mapped file the rest of a reply can be gone when its header has left.
        let is_torn = !self.incoming.is_empty() && (context.cuts || context.faults.io_error > 0.0);
        let may = context.shutting_down || context.removed || context.faults.cut_send > 0.0 || is_torn;
        if self.state == State::Open && !may {
            return Err("the server ended a connection of its own accord".into());
        }
        if !self.incoming.is_empty() && !may {
            return Err(format!("the stream ends within a reply: {:02x?}", &*self.incoming));
        }
        if !self.outstanding.is_empty() && !may {
            let waiting: Vec<_> = self.outstanding.values().take(3).collect();
            return Err(format!("the connection ended before answers to {waiting:?}"));
        }
        if !may && let Some(secure) = &self.secure {
            secure.check_end()?;
        }
        context.world.client_close(self.socket);
        self.state = State::Gone;
        Ok(())
    }

    /// Writes that were never answered, when the client is gone; those that were not sent whole must not happen.
    pub(crate) fn unanswered_writes(&self, context: &mut Context<'_>) -> Vec<WriteId> {
        let mut unanswered = Vec::new();
        for asked in self.outstanding.values() {
            let Some(write) = asked.write else { continue };
            if asked.stream_end > self.taken {
                context.oracle.void(write);
            }
            unanswered.push(write);
        }
        unanswered
    }

    /// Handles one reply, if all of it is here.
    fn take_reply(&mut self, context: &mut Context<'_>) -> Result<bool, String> {
        if self.setting.form == Form::Simple && self.incoming.len() >= 16 {
            // The data of a simple reply has no length of its own: it is the request's.
            let (error, cookie) = (wire::u32_at(&self.incoming, 4), wire::u64_at(&self.incoming, 8));
            let asked = self.outstanding.get(&cookie).ok_or("a reply to nothing that was asked")?;
            let data = if error == 0 && asked.command == wire::READ { asked.length as usize } else { 0 };
            if self.incoming.len() < 16 + data {
                return Ok(false);
            }
        }
        let Some(reply) = wire::next(self.setting.form, &mut self.incoming)? else { return Ok(false) };
        let (Reply::Simple { cookie, .. } | Reply::Chunk { cookie, .. }) = reply;
        let asked = self.outstanding.get_mut(&cookie).ok_or("a reply to nothing that was asked")?;
        let done = match reply {
            Reply::Simple { error, .. } => {
                let chunked = matches!(asked.command, wire::READ | wire::BLOCK_STATUS);
                if chunked && self.setting.form != Form::Simple {
                    return Err("a simple reply where a chunk is due".into());
                }
                asked.error = (error != 0).then_some(error);
                if chunked && error == 0 {
                    let data = self.incoming.take(asked.length as usize);
                    asked.add_data(asked.offset, data, context)?;
                }
                true
            }
            Reply::Chunk { done, kind, offset, payload, .. } => {
                if offset.is_some_and(|offset| offset != asked.offset) {
                    return Err("an extended reply with another offset".into());
                }
                asked.chunk(self.setting.form, kind, &payload, context)?;
                done
            }
        };
        if done {
            let asked = self.outstanding.remove(&cookie).expect("it is there");
            self.answered += 1;
            self.conclude(&asked, context).map_err(|error| format!("{error}: {asked:?}"))?;
        }
        Ok(true)
    }

    /// A request is answered: was that right, and what does it mean for the others?
    fn conclude(&self, asked: &Asked, context: &mut Context<'_>) -> Result<(), String> {
        let now = context.tick();
        if let Some(write) = asked.write {
            let durable = asked.flags & wire::FUA != 0;
            context.oracle.end(now, write, asked.error.is_none() && asked.command != wire::TRIM, durable);
        }
        if asked.command == wire::FLUSH && asked.error.is_none() {
            context.oracle.flushed(asked.sent);
        }
        let Some(error) = asked.error else {
            if let Expect::Error(error) = asked.expect {
                return Err(format!("success instead of error {error}"));
            }
            return asked.check_whole();
        };
        let faults = context.faults;
        let fails = faults.io_error + faults.lost_write_back > 0.0
            || faults.canceled > 0.0
            || context.cuts
            || context.fails;
        let writes = matches!(asked.command, wire::WRITE | wire::WRITE_ZEROES);
        let moves = writes || matches!(asked.command, wire::READ | wire::FLUSH | wire::TRIM);
        let right = match (asked.expect, error) {
            (_, wire::ESHUTDOWN) => context.refuses,
            (Expect::Error(expected), _) => error == expected,
            (Expect::Success, wire::EIO) => {
                // A journal that could not be written once is not written again, and the log of changes fills up.
                let changes = asked.command != wire::READ && moves;
                let commits = asked.command == wire::FLUSH || asked.flags & wire::FUA != 0;
                let is_stuck = context.is_image && (changes || commits) && faults.no_space > 0.0;
                let works = moves || context.fails || context.is_image;
                (works && (fails || context.shutting_down)) || is_stuck
            }
            (Expect::Success, wire::ENOSPC) => {
                let may = writes || (context.is_image && matches!(asked.command, wire::TRIM | wire::FLUSH));
                may && faults.no_space > 0.0
            }
            (Expect::Success, wire::ENOTSUP) => {
                asked.flags & wire::FAST_ZERO != 0 && asked.command == wire::WRITE_ZEROES
            }
            (Expect::Success, _) => false,
        };
        if right { Ok(()) } else { Err(format!("error {error} that nothing explains")) }
    }
}
