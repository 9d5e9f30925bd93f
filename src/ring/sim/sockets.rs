//! Simulated sockets: two streams of bytes, and who has left.

use std::collections::VecDeque;
use std::io::Read;

use super::handle::{SocketId, World};
use super::parts::ClientEnd;
use super::work::{SendPiece, SimWork};
use super::world::WorldState;
use crate::ring::operation::SendMode;

/// The first `length` bytes, which must be there.
fn take(stream: &mut VecDeque<u8>, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("they are there");
    bytes
}

impl WorldState {
    /// The other end did something: operations that wait for it try again.
    pub(super) fn wake_socket(&mut self, socket: usize) {
        for serial in std::mem::take(&mut self.sockets[socket].waiting) {
            self.try_later(serial);
        }
    }

    /// What a receive finds: a count of bytes that are there, the end (0), an error; `None` to wait.
    fn receivable(&mut self, socket: usize) -> Option<Result<usize, i32>> {
        let socket = &self.sockets[socket];
        match socket.client {
            _ if socket.server_shut => Some(Ok(0)),
            ClientEnd::Reset => Some(Err(libc::ECONNRESET)),
            _ if !socket.to_server.is_empty() => Some(Ok(socket.to_server.len())),
            ClientEnd::Here => None,
            ClientEnd::HalfClosed | ClientEnd::Closed => Some(Ok(0)),
        }
    }

    pub(super) fn try_receive(&mut self, serial: u64, socket: usize, fault: Option<i32>) {
        let there = match (self.receivable(socket), fault) {
            (None, _) => return self.sockets[socket].waiting.push(serial),
            (Some(_), Some(errno)) => return self.complete(serial, Err(errno)),
            (Some(Err(errno)), _) => return self.complete(serial, Err(errno)),
            (Some(Ok(0)), _) => return self.complete(serial, Ok(0)),
            (Some(Ok(there)), _) => there,
        };
        let there = self.shortened(there);
        let ring = self.operations[&serial].ring;
        let bytes = &mut self.sockets[socket].to_server;
        let filled = self.rings[ring].receive.fill(|buffer| {
            let length = there.min(buffer.len());
            bytes.read_exact(&mut buffer[..length]).expect("they are there");
            length
        });
        match filled {
            None => self.complete(serial, Err(libc::ENOBUFS)),
            Some((buffer, length)) => {
                let nonempty = !self.sockets[socket].to_server.is_empty();
                self.complete_with(serial, Ok(length), Some(buffer), nonempty);
            }
        }
    }

    pub(super) fn try_receive_into(&mut self, serial: u64) {
        let SimWork::ReceiveInto { socket, memory, moved, whole } = self.operations[&serial].work else {
            unreachable!("the kind of an operation does not change")
        };
        let there = match self.receivable(socket) {
            None => return self.sockets[socket].waiting.push(serial),
            Some(Ok(0)) => return self.complete(serial, Ok(moved as u32)),
            Some(Err(_)) if moved > 0 => return self.complete(serial, Ok(moved as u32)),
            Some(Err(errno)) => return self.complete(serial, Err(errno)),
            Some(Ok(there)) => there,
        };
        let length = self.shortened(there).min(memory.length - moved);
        let bytes = take(&mut self.sockets[socket].to_server, length);
        memory.put(moved, &bytes);
        let now = moved + length;
        if let Some(SimWork::ReceiveInto { moved, .. }) = self.work(serial) {
            *moved = now;
        }
        let short = self.faults.short / 8.0;
        if now == memory.length || !whole || self.random.chance(short) {
            let nonempty = !self.sockets[socket].to_server.is_empty();
            self.complete_with(serial, Ok(now as u32), None, nonempty);
        } else {
            self.try_later(serial);
        }
    }

    /// Whether both directions have ended, or that from the client.
    pub(super) fn try_hang_up(&mut self, serial: u64, socket: usize) {
        let end = &mut self.sockets[socket];
        if end.server_shut || matches!(end.client, ClientEnd::Closed | ClientEnd::Reset) {
            return self.complete(serial, Ok(libc::POLLHUP as u32));
        }
        if end.client == ClientEnd::HalfClosed {
            return self.complete(serial, Ok(libc::POLLRDHUP as u32));
        }
        end.waiting.push(serial);
    }

    pub(super) fn try_send(&mut self, serial: u64) {
        let SimWork::Send { socket, ref pieces, moved, total, mode } = self.operations[&serial].work else {
            unreachable!("the kind of an operation does not change")
        };
        let pieces = pieces.clone();
        let end = &self.sockets[socket];
        if end.sends_no_more || matches!(end.client, ClientEnd::Closed | ClientEnd::Reset) {
            let result = if moved > 0 { Ok(moved as u32) } else { Err(libc::EPIPE) };
            return self.complete(serial, result);
        }
        let room = end.capacity.saturating_sub(end.to_client.len()).min(total - moved);
        if room == 0 && mode == SendMode::Now {
            return self.complete(serial, Err(libc::EAGAIN));
        }
        if room == 0 && total > moved {
            return self.sockets[socket].waiting.push(serial);
        }
        let broken = self.random.chance(self.faults.cut_send).then_some(libc::ETIMEDOUT);
        if moved == 0
            && let Some(errno) = self.small_fault().or(broken)
        {
            return self.complete(serial, Err(errno));
        }
        let length = self.shortened(room);
        let (bytes, faulted) = self.pieces(serial, &pieces, moved, length);
        let length = bytes.len();
        self.sockets[socket].to_client.extend(bytes);
        if faulted {
            let moved = moved + length;
            return self.complete(serial, if moved > 0 { Ok(moved as u32) } else { Err(libc::EFAULT) });
        }
        let now = moved + length;
        if let Some(SimWork::Send { moved, .. }) = self.work(serial) {
            *moved = now;
        }
        if now == total || mode != SendMode::Whole {
            self.complete(serial, Ok(now as u32));
        } else {
            self.try_later(serial);
        }
    }

    /// Bytes of a send from `start` on, and whether they end early because a mapped file no longer has them.
    /// Then some bytes before are lost too, because the kernel copies a piece of the stream as a whole.
    fn pieces(&mut self, serial: u64, pieces: &[SendPiece], start: usize, length: usize) -> (Vec<u8>, bool) {
        let ring = self.operations[&serial].ring;
        let (mut start, mut left, mut at, mut bytes) = (start, length, 0, Vec::with_capacity(length));
        for piece in pieces {
            let skip = start.saturating_sub(at).min(piece.length());
            let take = left.min(piece.length() - skip);
            match piece {
                SendPiece::Memory(memory) => bytes.extend_from_slice(memory.get(skip, take)),
                SendPiece::File { file, offset, .. } => {
                    let (read, whole) = self.mapped_bytes(ring, *file, offset + skip, offset + skip + take);
                    bytes.extend(read);
                    if !whole {
                        let kept = self.random.below(bytes.len() as u64 + 1) as usize;
                        bytes.truncate(kept / self.faults.send_unit * self.faults.send_unit);
                        return (bytes, true);
                    }
                }
            }
            at += piece.length();
            start += take;
            left -= take;
        }
        (bytes, false)
    }

    pub(super) fn try_await_room(&mut self, serial: u64, socket: usize) {
        let end = &self.sockets[socket];
        let ended = end.sends_no_more || matches!(end.client, ClientEnd::Closed | ClientEnd::Reset);
        if ended || end.to_client.len() < end.capacity {
            self.complete(serial, Ok(libc::POLLOUT as u32));
        } else {
            self.sockets[socket].waiting.push(serial);
        }
    }

    /// The shard lets go of a socket.
    pub(super) fn release_socket(&mut self, socket: usize) {
        let busy = self.operations.values().any(|operation| match operation.work {
            SimWork::Receive { socket: other, .. }
            | SimWork::ReceiveInto { socket: other, .. }
            | SimWork::Send { socket: other, .. }
            | SimWork::AwaitHangUp { socket: other }
            | SimWork::AwaitRoom { socket: other }
            | SimWork::Shutdown { socket: other, .. } => other == socket,
            _ => false,
        });
        assert!(!busy, "a socket is released while an operation on it is in flight");
        let end = &mut self.sockets[socket];
        end.released = true;
        if end.over_tcp && !end.server_shut && !end.to_server.is_empty() {
            end.taken_back = end.to_client.len();
            end.to_client.clear();
        }
    }

    pub(super) fn shut_down(&mut self, socket: usize, how: std::net::Shutdown) {
        let end = &mut self.sockets[socket];
        end.sends_no_more = true;
        end.server_shut |= how != std::net::Shutdown::Write;
        self.wake_socket(socket);
    }
}

/// The client's end of a socket.
impl World {
    /// Takes as many of the bytes as there is room for.
    pub fn client_send(&self, socket: SocketId, bytes: &[u8]) -> usize {
        let mut state = self.state();
        let end = &mut state.sockets[socket.0];
        if end.released || end.server_shut {
            return 0;
        }
        let length = bytes.len().min(end.capacity.saturating_sub(end.to_server.len()));
        end.to_server.extend(&bytes[..length]);
        state.wake_socket(socket.0);
        length
    }

    /// At most `most` bytes that have arrived.
    pub fn client_receive(&self, socket: SocketId, most: usize) -> Vec<u8> {
        let mut state = self.state();
        let end = &mut state.sockets[socket.0];
        let length = most.min(end.to_client.len());
        let bytes = take(&mut end.to_client, length);
        state.note_bytes(&bytes);
        state.wake_socket(socket.0);
        bytes
    }

    /// Whether the server has told the end of the connection and everything that it sent was received. That
    /// it has let go of the socket tells nothing: a kernel before 6.13 closes it when all operations of the
    /// ring have ended that began before.
    pub fn client_is_at_end(&self, socket: SocketId) -> bool {
        let state = self.state();
        let end = &state.sockets[socket.0];
        end.sends_no_more && end.to_client.is_empty()
    }

    /// Bytes of replies that were sent but never arrived, because the socket was closed while bytes were
    /// unread.
    pub fn taken_back(&self, socket: SocketId) -> usize {
        self.state().sockets[socket.0].taken_back
    }

    /// Sends no more; the server can still answer.
    pub fn client_half_close(&self, socket: SocketId) {
        self.leave(socket, ClientEnd::HalfClosed);
    }

    /// Closes the socket: what was sent arrives.
    pub fn client_close(&self, socket: SocketId) {
        self.leave(socket, ClientEnd::Closed);
    }

    /// Breaks the connection: what was sent and has not been received is lost.
    pub fn client_reset(&self, socket: SocketId) {
        self.leave(socket, ClientEnd::Reset);
    }

    fn leave(&self, socket: SocketId, how: ClientEnd) {
        let mut state = self.state();
        let end = &mut state.sockets[socket.0];
        end.client = how;
        if how != ClientEnd::HalfClosed {
            end.to_client.clear();
        }
        if how == ClientEnd::Reset {
            end.to_server.clear();
        }
        state.wake_socket(socket.0);
    }

    /// Whether a shard has taken the socket over.
    pub fn is_taken(&self, socket: SocketId) -> bool {
        self.state().sockets[socket.0].taken
    }

    /// True if the shard has released the socket: nothing of the connection is in flight any more.
    pub fn is_released(&self, socket: SocketId) -> bool {
        self.state().sockets[socket.0].released
    }
}
