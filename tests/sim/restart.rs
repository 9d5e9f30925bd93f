//! A server ends at once, and another one opens what is left: the power has failed, or the process was killed.

use std::sync::Arc;
use std::time::Duration;

use ringnbd::internal::backend::Export;
use ringnbd::internal::ring::sim::{Faults, SocketId};
use ringnbd::internal::shard::SteppedShard;

use super::super::plan::{Interruption, Restart, negotiated};
use super::super::request::Setting;
use super::super::wire::{self, Form, READ};
use super::{Context, Life, Shutdown, Simulation};

/// Bytes of one request of who reads a whole disk.
const PIECE: u64 = 64 << 10;

impl Simulation {
    /// Opens all disks, and starts shards, on which nothing is open yet.
    pub(super) fn start_server(&mut self) {
        let world = &self.world;
        self.exports = self.media.iter_mut().map(|medium| medium.open(world)).collect();
        let rings = world.rings();
        let start = |index| SteppedShard::start(self.plan.shard(index), rings + index);
        self.shards = (0..self.plan.shards).map(start).collect::<Result<_, _>>().expect("shards start");
        self.take_sizes();
        self.lives = self.plan.disks.iter().map(|_| Life::default()).collect();
        self.off_cpu = None;
    }

    /// The server ends as it is told to, and the next one starts.
    pub(super) fn restart(&mut self, restart: &Restart) -> Result<(), String> {
        self.end_server(restart.interruption)?;
        self.start_server();
        self.look_at_what_is_left(restart)
            .map_err(|error| format!("after {:?}: {error}", restart.interruption))?;
        self.sessions_left = restart.sessions;
        self.restarts += 1;
        Ok(())
    }

    /// Shards and clients are gone at once. What the clients were sent until then was told to them.
    fn end_server(&mut self, interruption: Interruption) -> Result<(), String> {
        for index in 0..self.clients.len() {
            let setting = &self.clients[index].setting;
            let (export, generation) = (setting.export, setting.generation);
            let mut context = context!(self, export, generation);
            self.clients[index].hear_the_last(&mut context)?;
        }
        match interruption {
            Interruption::PowerCut => self.world.power_cut(),
            Interruption::ProcessDeath => self.world.process_death(),
        }
        self.media.iter_mut().for_each(|medium| medium.interrupted(&self.world, interruption));
        self.end_snapshots();
        self.end_growths();
        self.drop_server();
        for client in std::mem::take(&mut self.clients) {
            let (export, generation) = (client.setting.export, client.setting.generation);
            let writes = client.unanswered_writes(&mut context!(self, export, generation));
            self.answered += client.answered;
            self.tick += 1;
            writes.iter().for_each(|write| self.oracles[export].lost(self.tick, *write));
        }
        for closing in std::mem::take(&mut self.closing) {
            self.tick += 1;
            closing.writes.iter().for_each(|write| self.oracles[closing.export].lost(self.tick, *write));
        }
        Ok(())
    }

    /// The memory of the process is gone, and its clients do no more.
    pub(super) fn drop_server(&mut self) {
        self.shards.clear();
        self.exports = Vec::new().into();
        self.wakes.clear();
    }

    /// What must be there is, and stays from now on.
    fn look_at_what_is_left(&mut self, restart: &Restart) -> Result<(), String> {
        for export in 0..self.media.len() {
            let content = self.content(export)?;
            if restart.is_read && self.is_readable(export) {
                let read = self.read_through(export)?;
                let differs = read.iter().zip(&content).position(|(one, other)| one != other);
                if let Some(offset) = differs {
                    return Err(format!("export {export} reads otherwise than it is at {offset}"));
                }
            }
            self.tick += 1;
            let oracle = &mut self.oracles[export];
            let is_image = self.plan.disks[export].image.is_some();
            match restart.interruption {
                // What is found the next server has made durable.
                Interruption::ProcessDeath if is_image => {
                    oracle.check_content(self.tick, &content)?;
                    oracle.begin_again(&content);
                }
                Interruption::PowerCut => {
                    oracle.check_survival(&content)?;
                    oracle.begin_again(&content);
                }
                Interruption::ProcessDeath => {
                    oracle.check_content(self.tick, &content)?;
                    let files = self.media[export].files(&self.world);
                    if files.iter().any(|(_, file)| self.world.has_lost_data(*file)) {
                        oracle.forgive(self.tick);
                    }
                }
            }
        }
        self.check_snapshots()
    }

    /// Whether nothing but the world's faults keeps a client from reading all of an export.
    fn is_readable(&self, export: usize) -> bool {
        let disk = &self.plan.disks[export];
        let is_sound = disk.application.is_none_or(|manner| manner.drops + manner.panics == 0.0);
        is_sound && !(disk.read_only && self.plan.cuts > 0.0)
    }

    /// What clients would read of an export now. If only a server can tell, and none runs, one is started.
    pub(super) fn content(&mut self, export: usize) -> Result<Vec<u8>, String> {
        match self.media[export].content(&self.world) {
            Some(content) => Ok(content),
            None => {
                if self.shards.is_empty() {
                    self.start_server();
                }
                self.read_through(export)
            }
        }
    }

    /// Reads all of an export as a client, while nothing fails.
    pub(super) fn read_through(&mut self, export: usize) -> Result<Vec<u8>, String> {
        let Faults { latency_ns, submission_entries, no_punch, no_zero_range, .. } = self.faults;
        let calm = Faults { latency_ns, submission_entries, no_punch, no_zero_range, ..Faults::none() };
        let faults = self.world.set_faults(calm);
        let mut setting = self.plan.setting(&mut self.random);
        (setting.export, setting.generation) = (export, self.lives[export].generation);
        setting.size = self.plan.disks[export].size;
        self.go_home(&mut setting);
        let exports = Arc::clone(&self.exports);
        let content = self.read_calmly(setting, &exports);
        self.world.set_faults(faults);
        content
    }

    pub(super) fn read_calmly(
        &mut self,
        mut setting: Setting,
        exports: &[Arc<Export>],
    ) -> Result<Vec<u8>, String> {
        let (socket, token) = self.world.socket(1 << 20, false);
        (setting.form, setting.context, setting.enforced) = (Form::Simple, None, None);
        let negotiated = negotiated(token, &setting, exports);
        assert!(self.shards[setting.shard].connect(negotiated).is_ok(), "the mailbox has room");
        let size = setting.size;
        let mut content = Vec::new();
        while (content.len() as u64) < size {
            let offset = content.len() as u64;
            let length = PIECE.min(size - offset);
            let request = wire::request(Form::Simple, 0, READ, offset, offset, length);
            assert_eq!(self.world.client_send(socket, &request), request.len(), "the socket has room");
            let reply = self.receive(socket, 16 + length as usize)?;
            content.extend_from_slice(&reply[16..]);
        }
        self.world.client_close(socket);
        while !self.world.is_released(socket) {
            self.something_happens()?;
        }
        Ok(content)
    }

    /// A simple reply with data.
    fn receive(&mut self, socket: SocketId, length: usize) -> Result<Vec<u8>, String> {
        let patience = self.world.now() + Duration::from_secs(60);
        let mut reply = Vec::new();
        loop {
            reply.extend(self.world.client_receive(socket, length - reply.len()));
            if reply.len() >= 16 && reply[4..8] != [0; 4] {
                return Err(format!("a read fails though nothing is wrong: {:02x?}", &reply[..16]));
            }
            if reply.len() == length {
                return Ok(reply);
            }
            if self.world.now() > patience || self.world.client_is_at_end(socket) {
                return Err("a read is not answered".into());
            }
            self.something_happens()?;
        }
    }

    /// A shard's turn, a step of a device, or an event.
    fn something_happens(&mut self) -> Result<(), String> {
        match self.takes_turn() || self.step_devices() || self.world.step() {
            true => Ok(()),
            false => Err("nothing will ever happen again".into()),
        }
    }
}
