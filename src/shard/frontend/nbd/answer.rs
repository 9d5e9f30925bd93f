//! Answers become replies.

use crate::nbd::server::reply::ReplyTo;
use crate::nbd::server::request::Cookie;
use crate::ring::Payload;
use crate::shard::frontend::nbd::batches::Batches;
use crate::shard::frontend::nbd::connection::Connection;
use crate::shard::frontend::nbd::reply::Reply;
use crate::shard::request::answer::Answer;
use crate::shard::request::table::{Record, RequestId};
use crate::stats;

impl Connection {
    /// What replies to a request have in common.
    #[inline(always)]
    fn reply_to(&self, id: RequestId, record: &Record) -> ReplyTo {
        let timing = record.timing.as_ref().expect("it was admitted");
        let chunked = timing.is(stats::Operation::Read) || timing.is(stats::Operation::BlockStatus);
        let mut cookie = Cookie(record.cookie);
        if canary!(WrongCookie) && id.0 % 8 == 7 {
            cookie.0 ^= 1;
        }
        ReplyTo { mode: self.session.reply_mode, cookie, offset: timing.offset, chunked }
    }

    /// Queues what carries an answer to the client.
    pub(crate) fn reply(
        &mut self,
        id: RequestId,
        answer: Answer,
        record: &Record,
        now: u64,
        batches: &mut Batches,
    ) {
        match answer {
            Answer::Data(payload) => self.reply_data(id, payload, record, now, batches),
            answer => {
                let to = self.reply_to(id, record);
                self.push_reply(Reply::of(answer, &to), id);
            }
        }
    }

    /// The same for all the data of a READ.
    #[inline(always)]
    pub(crate) fn reply_data(
        &mut self,
        id: RequestId,
        payload: Payload,
        record: &Record,
        now: u64,
        batches: &mut Batches,
    ) {
        let to = self.reply_to(id, record);
        let header = to.data(to.offset, payload.length() as u32, true);
        if self.secure.is_some() {
            return self.push_sealed_data(header, payload, id, batches);
        }
        self.outbound.push_one(header, payload, id, now, batches);
    }

    /// Queues a reply.
    #[inline]
    pub(crate) fn push_reply(&mut self, reply: Reply, id: RequestId) {
        match self.secure {
            None => self.outbound.push(reply, id),
            Some(_) => self.push_sealed(reply, id),
        }
    }

    /// Queues the reply that was held back, if there is one.
    pub(crate) fn let_go(&mut self) {
        if let Some((reply, id)) = self.outbound.take_held_back() {
            self.push_reply(reply, id);
        }
    }

    /// A reply is out, or will never be.
    pub(crate) fn count(&mut self, record: &Record) {
        self.requests += 1;
        self.bytes += record.timing.as_ref().map_or(0, |timing| timing.length);
    }
}
