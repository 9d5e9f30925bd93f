//! The mutant's transmission phase.

use std::collections::VecDeque;
use std::io::{self, Read};

use super::bugs::Bug;
use super::mutant::{Client, MAXIMUM, SIZE, end};
use crate::nbd::wire::*;

static ZEROES: [u8; 65536] = [0; 65536];

/// A request as it came.
pub(super) struct Order {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
    payload: Vec<u8>,
    /// It is refused before it is looked at.
    refusal: u32,
}

/// What is answered: an error, or the chunks of a success as type and payload, and the data of a simple
/// reply.
type Answer = Result<(Vec<(u16, Vec<u8>)>, Vec<u8>), u32>;

impl Order {
    /// The same without its payload.
    fn copy(&self) -> Self {
        let Self { flags, command, cookie, offset, length, refusal, .. } = *self;
        Self { flags, command, cookie, offset, length, payload: Vec::new(), refusal }
    }
}

impl Client {
    pub(super) fn transmit(&mut self, export: &[u8]) -> io::Result<()> {
        if self.selected.as_deref().is_some_and(|name| name != export) && !self.has(Bug::ContextsOfOthers) {
            self.selected = None;
        }
        let (mut answered, mut cookies) = (0, VecDeque::new());
        let mut held: Option<Order> = None;
        loop {
            let Some(order) = self.order()? else { continue };
            if order.command == NBD_CMD_DISC {
                if self.has(Bug::DiscIgnored) {
                    continue;
                }
                return Ok(());
            }
            answered += 1;
            if self.has(Bug::TiresOfRequests) && answered > 100 {
                return end();
            }
            if self.has(Bug::SameCookieOnce) && cookies.contains(&order.cookie) {
                continue;
            }
            cookies.push_back(order.cookie);
            let world = std::sync::Arc::clone(&self.world);
            let _turn = self.has(Bug::OneClientAtATime).then(|| world.turn.lock().unwrap());
            let order = match self.has(Bug::HoldsOneBack) && answered > 4 {
                true => match held.replace(order) {
                    Some(order) => order,
                    None => continue,
                },
                false => order,
            };
            let answer = self.carry_out(&order);
            self.answer(&order, answer)?;
        }
    }

    /// The next request; `None` when a wrong one was answered already.
    fn order(&mut self) -> io::Result<Option<Order>> {
        let length = if self.is_extended { 32 } else { 28 };
        let header = match self.has(Bug::WholeHeadersOnly) {
            true => {
                let mut header = vec![0; length];
                let got = self.stream.read(&mut header)?;
                if got < length {
                    return end();
                }
                header
            }
            false => self.take(length)?,
        };
        let word = |at: usize, size: usize| {
            header[at..at + size].iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte))
        };
        let magic = if self.is_extended { NBD_EXTENDED_REQUEST_MAGIC } else { NBD_REQUEST_MAGIC };
        let mut order = Order {
            flags: word(4, 2) as u16,
            command: word(6, 2) as u16,
            cookie: word(8, 8),
            offset: word(16, 8),
            length: if self.is_extended { word(24, 8) } else { word(24, 4) },
            payload: Vec::new(),
            refusal: 0,
        };
        if word(0, 4) != u64::from(magic) {
            if self.has(Bug::BadMagicAnswered) {
                self.answer(&order, Err(NBD_EINVAL))?;
                return Ok(None);
            }
            return end();
        }
        if self.has(Bug::LengthCut) {
            order.length &= 0xffff_ffff;
        }
        let has_payload = order.command == NBD_CMD_WRITE
            || (self.is_extended && order.flags & NBD_CMD_FLAG_PAYLOAD_LEN != 0);
        if has_payload {
            if order.length > 32 << 20 {
                return end();
            }
            let is_stray = ![NBD_CMD_WRITE, NBD_CMD_BLOCK_STATUS].contains(&order.command);
            if !(is_stray && self.has(Bug::StrayPayloadKept)) {
                order.payload = self.take(order.length as usize)?;
            }
            if is_stray {
                order.refusal = NBD_EINVAL;
            }
        }
        if order.length == 0 && order.command == NBD_CMD_READ && self.has(Bug::EmptyRequestCloses) {
            return end();
        }
        if order.command == NBD_CMD_READ && order.length > u64::from(MAXIMUM) && self.has(Bug::OversizeCloses)
        {
            return end();
        }
        Ok(Some(order))
    }

    fn allowed(&self, command: u16) -> u16 {
        let chunked = |flag| if self.is_structured { flag } else { 0 };
        let extended = if self.is_extended { NBD_CMD_FLAG_PAYLOAD_LEN } else { 0 };
        let own = match command {
            NBD_CMD_READ => chunked(NBD_CMD_FLAG_DF),
            NBD_CMD_WRITE => extended,
            NBD_CMD_WRITE_ZEROES if self.has(Bug::FastZeroUnasked) => {
                NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO
            }
            NBD_CMD_WRITE_ZEROES => NBD_CMD_FLAG_NO_HOLE,
            NBD_CMD_BLOCK_STATUS => NBD_CMD_FLAG_REQ_ONE | extended,
            _ => 0,
        };
        own | if self.has(Bug::FuaRefused) { 0 } else { NBD_CMD_FLAG_FUA }
    }

    fn refusal(&self, order: &Order) -> u32 {
        let writes = [NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES].contains(&order.command);
        if order.refusal != 0 {
            return order.refusal;
        }
        if order.command > NBD_CMD_BLOCK_STATUS {
            return if self.has(Bug::UnknownCommandSucceeds) { 0 } else { NBD_EINVAL };
        }
        if order.flags & !self.allowed(order.command) != 0 && !self.has(Bug::FlagsIgnored) {
            return NBD_EINVAL;
        }
        if writes && self.world.is_read_only && !self.has(Bug::ReadOnlyIsIgnored) {
            return NBD_EPERM;
        }
        let payload_is_filter = order.command == NBD_CMD_BLOCK_STATUS && !order.payload.is_empty();
        if [NBD_CMD_READ, NBD_CMD_WRITE].contains(&order.command)
            && order.length > u64::from(MAXIMUM)
            && !self.has(Bug::LongWritesAccepted)
        {
            return NBD_EINVAL;
        }
        let ends = match self.has(Bug::OffsetWraps) {
            true => Some(order.offset.wrapping_add(order.length)),
            false => order.offset.checked_add(order.length),
        };
        let is_inside = payload_is_filter || ends.is_some_and(|end| end <= SIZE);
        match order.command {
            _ if is_inside => 0,
            NBD_CMD_FLUSH => 0,
            NBD_CMD_READ if self.has(Bug::PastTheEndIsZeroes) => 0,
            NBD_CMD_WRITE if !self.has(Bug::WritePastIsEinval) => NBD_ENOSPC,
            NBD_CMD_WRITE_ZEROES if !self.has(Bug::ZeroesPastIsEinval) => NBD_ENOSPC,
            _ => NBD_EINVAL,
        }
    }

    fn carry_out(&mut self, order: &Order) -> Answer {
        let refusal = self.refusal(order);
        if refusal != 0 {
            return Err(if self.has(Bug::RawErrno) { 61 } else { refusal });
        }
        let world = std::sync::Arc::clone(&self.world);
        let mut own = self.own_disk.take();
        let mut shared = world.disk.lock().unwrap();
        let disk = own.as_mut().unwrap_or(&mut shared);
        let answer = match order.command {
            NBD_CMD_READ if self.has(Bug::DataOfAnother) => {
                let data = disk[order.offset as usize..][..order.length as usize].to_vec();
                let before = std::mem::replace(&mut self.last_read, data);
                let is_mixed_up = order.cookie.is_multiple_of(61) && before.len() == order.length as usize;
                match is_mixed_up {
                    true => self.read(&Order { offset: 0, ..order.copy() }, &before).map(|(_, data)| {
                        let content = [&order.offset.to_be_bytes()[..], &data].concat();
                        let end = (NBD_REPLY_TYPE_NONE, Vec::new());
                        (vec![(NBD_REPLY_TYPE_OFFSET_DATA, content), end], data)
                    }),
                    false => self.read(order, disk),
                }
            }
            NBD_CMD_READ => self.read(order, disk),
            NBD_CMD_BLOCK_STATUS => self.status(order, disk),
            command => {
                self.change(command, order, disk);
                self.settle(order);
                Ok((vec![(NBD_REPLY_TYPE_NONE, Vec::new())], Vec::new()))
            }
        };
        self.own_disk = own;
        answer
    }

    fn change(&self, command: u16, order: &Order, disk: &mut [u8]) {
        if !self.note(order, disk) {
            return;
        }
        let mut start = order.offset as usize;
        if self.has(Bug::OddWritesRounded) {
            start &= !511;
        }
        let length = order.length as usize;
        match command {
            NBD_CMD_WRITE => disk[start..start + length].copy_from_slice(&order.payload),
            NBD_CMD_WRITE_ZEROES if self.has(Bug::ZeroesForgotten) => {}
            NBD_CMD_WRITE_ZEROES => {
                let most = if self.has(Bug::LongZeroesCut) { 64 << 20 } else { usize::MAX };
                disk[start..start + length.min(most)].fill(0);
            }
            _ => {}
        }
    }

    fn read(&self, order: &Order, disk: &[u8]) -> Answer {
        let (start, length) = (order.offset as usize, order.length as usize);
        let is_odd = start % 512 != 0 || length % 512 != 0;
        if is_odd && self.has(Bug::OddReadsAreEio) {
            return Err(NBD_EIO);
        }
        if is_odd && self.has(Bug::OddReadsRefused) {
            return Err(NBD_EINVAL);
        }
        if length > MAXIMUM as usize {
            return Err(NBD_EINVAL);
        }
        let inside = disk.get(start..).and_then(|rest| rest.get(..length));
        let mut data = inside.map_or_else(|| vec![0; length], <[u8]>::to_vec);
        if self.has(Bug::OldBuffers) && order.cookie > 100 && order.cookie < 1000 {
            data.copy_from_slice(&disk[..length]);
        }
        let chunk = |from: usize, to: usize| {
            let at = order.offset + from as u64;
            (NBD_REPLY_TYPE_OFFSET_DATA, [&at.to_be_bytes()[..], &data[from..to]].concat())
        };
        let mut chunks = Vec::new();
        let is_df = order.flags & NBD_CMD_FLAG_DF != 0;
        match length {
            0 => {}
            _ if self.has(Bug::ChunkTwice) => chunks.extend([chunk(0, length), chunk(0, length)]),
            _ if self.has(Bug::ReadEndsEarly) => chunks.push(chunk(0, length - 1)),
            _ if self.has(Bug::ChunksOfOtherBytes) => {
                let hole = [&order.offset.to_be_bytes()[..], &(length as u32).to_be_bytes()].concat();
                chunks.push((NBD_REPLY_TYPE_OFFSET_HOLE, hole));
            }
            2.. if !is_df || self.has(Bug::DfSplit) => {
                chunks.extend([chunk(length / 2, length), chunk(0, length / 2)]);
            }
            _ => chunks.push(chunk(0, length)),
        }
        chunks.push((NBD_REPLY_TYPE_NONE, Vec::new()));
        Ok((chunks, data))
    }

    fn status(&self, order: &Order, disk: &[u8]) -> Answer {
        let mut length = order.length;
        if self.selected.is_none() && !self.has(Bug::StatusWithoutContext) {
            return Err(NBD_EINVAL);
        }
        if !order.payload.is_empty() {
            let ids: Vec<&[u8]> = order.payload[8..].chunks(4).collect();
            let is_right = ids == [7u32.to_be_bytes()] || self.has(Bug::DoubledContexts);
            if !is_right {
                return Err(NBD_EINVAL);
            }
            length = u64::from_be_bytes(order.payload[..8].try_into().unwrap());
        }
        if length == 0 {
            return Err(NBD_EINVAL);
        }
        let ends_at_the_end = order.offset + length == SIZE && order.length > 512;
        if ends_at_the_end && self.has(Bug::NoStatusOfTheTail) {
            return Err(NBD_EINVAL);
        }
        let mut extents = self.extents(order.offset, length, disk);
        if order.flags & NBD_CMD_FLAG_REQ_ONE != 0 && !self.has(Bug::ReqOneIgnored) {
            extents.truncate(1);
        }
        let mut payload = 7u32.to_be_bytes().to_vec();
        if self.is_extended {
            payload.extend((extents.len() as u32).to_be_bytes());
        }
        for (length, flags) in extents {
            match self.is_extended {
                true => payload.extend([length.to_be_bytes(), u64::from(flags).to_be_bytes()].concat()),
                false => payload.extend([(length as u32).to_be_bytes(), flags.to_be_bytes()].concat()),
            }
        }
        let kind =
            if self.is_extended { NBD_REPLY_TYPE_BLOCK_STATUS_EXT } else { NBD_REPLY_TYPE_BLOCK_STATUS };
        Ok((vec![(kind, payload)], Vec::new()))
    }

    /// Pieces of 64 KiB that are zero, or not; with the bug, holes where none may be.
    fn extents(&self, offset: u64, length: u64, disk: &[u8]) -> Vec<(u64, u32)> {
        let end = offset + length;
        let mut extents: Vec<(u64, u32)> = Vec::new();
        let mut at = offset;
        while at < end {
            let next = (at / 65536 * 65536 + 65536).min(end);
            let is_zero = disk[at as usize..next as usize] == ZEROES[..(next - at) as usize];
            let hole = if self.has(Bug::NoHoleIgnored) && is_zero { NBD_STATE_HOLE } else { 0 };
            let flags = if is_zero || self.has(Bug::ZeroFlagLies) { NBD_STATE_ZERO | hole } else { 0 };
            match extents.last_mut() {
                Some((sum, last)) if *last == flags && !self.has(Bug::EqualNeighbours) => *sum += next - at,
                _ => extents.push((next - at, flags)),
            }
            at = next;
        }
        if self.has(Bug::ExtentBeyondTheEnd) {
            extents.last_mut().unwrap().0 += SIZE;
        }
        if self.has(Bug::EmptyExtent) {
            extents.push((0, 9));
        }
        if self.has(Bug::ReqOneIgnored) {
            extents.push((512, 1));
        }
        extents
    }

    fn answer(&mut self, order: &Order, answer: Answer) -> io::Result<()> {
        let cookie = if self.has(Bug::CookieCut) { order.cookie & 0xffff_ffff } else { order.cookie };
        let is_simple =
            !self.is_structured || (answer.is_err() && self.has(Bug::SimpleErrors) && !self.is_extended);
        if is_simple {
            let error = answer.as_ref().err().copied().unwrap_or(0);
            let mut bytes = NBD_SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
            bytes.extend(error.to_be_bytes());
            bytes.extend(cookie.to_be_bytes());
            match answer {
                Ok((_, data)) => bytes.extend(data),
                Err(_) if self.has(Bug::PayloadAfterError) && order.command == NBD_CMD_READ => {
                    bytes.extend(vec![0; order.length.min(4096) as usize]);
                }
                Err(_) => {}
            }
            return self.say(&bytes);
        }
        let chunks = match answer {
            Ok((chunks, _)) => chunks,
            Err(error) => {
                let text = b"refused";
                let length = text.len() as u16 + u16::from(self.has(Bug::ErrorLengthWrong));
                let payload = [&error.to_be_bytes()[..], &length.to_be_bytes(), text].concat();
                vec![(NBD_REPLY_TYPE_ERROR, payload)]
            }
        };
        let count = chunks.len();
        for (index, (kind, payload)) in chunks.into_iter().enumerate() {
            let done = u16::from(index + 1 == count);
            let magic = if self.is_extended { NBD_EXTENDED_REPLY_MAGIC } else { NBD_STRUCTURED_REPLY_MAGIC };
            let mut bytes = magic.to_be_bytes().to_vec();
            bytes.extend(done.to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend(cookie.to_be_bytes());
            if self.is_extended {
                let echo = if self.has(Bug::EchoIsZero) { 0 } else { order.offset };
                bytes.extend(echo.to_be_bytes());
                bytes.extend((payload.len() as u64).to_be_bytes());
            } else {
                bytes.extend((payload.len() as u32).to_be_bytes());
            }
            bytes.extend(payload);
            self.say(&bytes)?;
        }
        Ok(())
    }
}
