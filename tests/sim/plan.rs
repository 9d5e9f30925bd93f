//! What a seed decides at the start: how many of everything, how large, and how it ends.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ringnbd::internal::backend::{Export, ExportId};
use ringnbd::internal::config::{Limits, Pinning, Shutdown};
use ringnbd::internal::identity::PeerIdentity;
use ringnbd::internal::nbd::meta_context::MetaContext;
use ringnbd::internal::nbd::session::{ExportInfo, ReplyMode, SelectedContext, Session};
use ringnbd::internal::ring::sim::{Random, mixed};
use ringnbd::internal::shard::{NewConnection, ShardConfig};

use super::application::Manner;
use super::image::Shape;
use super::oracle::fill;
use super::request::Setting;
use super::run::weighing::WeightPlan;
use super::wire::Form;

pub(crate) struct Plan {
    pub(crate) shards: usize,
    pub(crate) disks: Vec<Disk>,
    pub(crate) limits: Arc<Limits>,
    /// At once.
    pub(crate) clients: usize,
    /// In all.
    pub(crate) sessions: usize,
    pub(crate) socket_bytes: usize,
    /// Clients flush a lot.
    pub(crate) cautious: bool,
    /// Clients send and fetch long requests slowly and steadily.
    pub(crate) steady: bool,
    /// Bytes of the longest request; beyond 1 MiB its memory comes from another zone.
    pub(crate) longest: u64,
    /// How often pages leave the page cache, by step.
    pub(crate) evictions: f64,
    /// How often an export is removed, to come back when all shards have given it up, by step.
    pub(crate) removals: f64,
    /// How often a file that nobody may write is cut, or is whole again, by step.
    pub(crate) cuts: f64,
    /// How often a snapshot of some images is begun, by step.
    pub(crate) snapshots: f64,
    /// How often an image becomes larger, by step.
    pub(crate) growths: f64,
    /// With each of these comes one more client.
    pub(crate) newcomers: bool,
    /// How often the catalogue does not say at once that it has it.
    pub(crate) unrecorded: f64,
    /// How many clients have TLS.
    pub(crate) encrypted: f64,
    /// Steps of the run after which the power fails, or the server is asked to end.
    pub(crate) power_cut_at: Option<u64>,
    pub(crate) shutdown_at: Option<u64>,
    /// Before that: how earlier servers end, one after the other.
    pub(crate) restarts: Vec<Restart>,
    /// Weights that change.
    pub(crate) weights: Option<WeightPlan>,
}

/// A server ends at once, under load, and another one opens what is left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restart {
    /// Steps that the server takes, if its clients do not leave before.
    pub(crate) after: u64,
    pub(crate) interruption: Interruption,
    /// What is left is also read through the next server, before its first client comes.
    pub(crate) is_read: bool,
    /// Clients that the next server has in all.
    pub(crate) sessions: usize,
}

/// What ends a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// What no sync covered may be lost.
    PowerCut,
    /// The page cache stays.
    ProcessDeath,
}

/// A simulated disk.
pub(crate) struct Disk {
    pub(crate) size: u64,
    pub(crate) grain: u64,
    /// It has a direct descriptor.
    pub(crate) alignment: Option<u32>,
    /// It is a block device.
    pub(crate) sector: Option<u32>,
    pub(crate) read_only: bool,
    /// It is a device of the application.
    pub(crate) application: Option<Manner>,
    /// Nobody looks at its files: what it holds is read through a server.
    pub(crate) is_opaque: bool,
    /// It is an image.
    pub(crate) image: Option<Shape>,
}

impl Plan {
    pub(crate) fn random(random: &mut Random) -> Self {
        let shards = random.between(1, 3) as usize;
        let longest: u64 = if random.chance(0.05) { 3 << 20 } else { 256 << 10 };
        let disks = (0..random.between(1, 4)).map(|_| Disk::random(random, longest)).collect();
        let clients = random.pick(&[1, 2, 3, 4, 6, 14]);
        let at = |random: &mut Random| {
            let end = random.pick(&[1_000, 10_000, 50_000]);
            Some(random.below(end))
        };
        let power_cut_at = if random.chance(0.4) { at(random) } else { None };
        let shutdown_at = if random.chance(0.15) { at(random) } else { None };
        Self {
            shards,
            disks,
            limits: Arc::new(random_limits(random, longest)),
            clients,
            sessions: clients + random.below(8) as usize,
            longest,
            steady: false,
            cautious: random.chance(0.05),
            evictions: random.pick(&[0.0, 0.0003, 0.003]),
            removals: random.pick(&[0.0, 0.0005, 0.005]),
            cuts: random.pick(&[0.0, 0.0, 0.001]),
            socket_bytes: random.pick(&[100, 4096, 65_536, 1 << 20]),
            snapshots: 0.0,
            growths: 0.0,
            newcomers: false,
            unrecorded: 0.0,
            encrypted: 0.0,
            power_cut_at,
            shutdown_at,
            restarts: Vec::new(),
            weights: None,
        }
    }

    /// The configuration of a shard.
    pub(crate) fn shard(&self, index: usize) -> ShardConfig {
        ShardConfig {
            index,
            cpu: None,
            limits: Arc::clone(&self.limits),
            // Snapshots add layers.
            files: self.disks.len() * if self.snapshots > 0.0 { 9 } else { 1 },
            busy_poll: Duration::ZERO,
            record: true,
            slow: None,
            on_exit: Box::new(|_| {}),
        }
    }

    /// What a new client negotiated.
    pub(crate) fn setting(&self, random: &mut Random) -> Setting {
        let export = random.below(self.disks.len() as u64) as usize;
        let disk = &self.disks[export];
        let form = random.pick(&[Form::Simple, Form::Structured, Form::Extended]);
        let with_context = form != Form::Simple && random.chance(0.7);
        let unit = disk.alignment.or(disk.sector).map(u64::from);
        let whole = unit.is_some_and(|unit| disk.size.is_multiple_of(unit));
        Setting {
            form,
            export,
            generation: 0,
            shard: random.below(self.shards as u64) as usize,
            size: disk.size,
            grain: disk.grain,
            read_only: disk.read_only,
            enforced: unit.filter(|_| whole && random.chance(0.3)),
            crowded: disk.alignment.is_some() && random.chance(0.3),
            longest: (self.socket_bytes as u64 * 100).min(self.longest),
            cautious: self.cautious,
            steady: self.steady,
            over_tcp: random.chance(0.5),
            is_secure: self.encrypted > 0.0 && random.chance(self.encrypted),
            context: with_context.then_some(7),
        }
    }
}

impl Restart {
    /// None in most worlds, else one or two. Numbers of their own: the rest of a world is as it would be without.
    pub(crate) fn some(seed: u64) -> Vec<Self> {
        let mut random = Random::new(mixed(seed ^ 0x2e57_a275));
        if !random.chance(0.2) {
            return Vec::new();
        }
        let count = random.between(1, 2);
        (0..count).map(|_| Self::random(&mut random)).collect()
    }

    pub(crate) fn random(random: &mut Random) -> Self {
        let most = random.pick(&[300, 2_000, 10_000]);
        Self {
            after: random.below(most),
            interruption: random.pick(&[Interruption::PowerCut, Interruption::ProcessDeath]),
            is_read: random.chance(0.3),
            sessions: random.between(1, 8) as usize,
        }
    }
}

fn random_limits(random: &mut Random, longest: u64) -> Limits {
    // With less, a request of 1 MiB would never find memory beside the zeroes of the shard; the server itself asks for 48 MiB.
    let least = Limits::DEVICE_MEMORY + if longest > 256 << 10 { 40 << 20 } else { 37 << 20 };
    Limits {
        connections: 64,
        requests_per_connection: random.pick(&[1, 3, 16, 1024]),
        requests_per_shard: random.pick(&[2, 16, 1024]),
        memory_per_shard: random.pick(&[least, least + (1 << 20), (42 << 20) + Limits::DEVICE_MEMORY]),
        receive_buffer: random.pick(&[4096, 65_536, 512 << 10]),
        completions_per_turn: random.pick(&[1, 7, 4096]),
        connections_per_turn: random.pick(&[1, 1024]),
        pieces_per_send: random.pick(&[80, 1024]),
        extents_per_reply: random.pick(&[1, 3, 1024]),
        workers_per_export: random.pick(&[1, 2, 32]),
        longest_request: 32 << 20,
        pinned: Pinning::Off,
        shutdown: random.pick(&[Shutdown::Close, Shutdown::Errors]),
        ..Limits::DEFAULT
    }
}

impl Disk {
    fn random(random: &mut Random, longest: u64) -> Self {
        let grain = random.pick(&[64, 512]);
        let (alignment, sector) = match random.below(6) {
            0 | 1 => (None, None),
            2 => (None, Some(512)),
            3 => (Some(4096), None),
            _ => (Some(512), None),
        };
        let odd = if sector.is_none() && random.chance(0.2) { grain * random.below(8) } else { 0 };
        let most = if longest > 1 << 20 { 4 << 20 } else { 1 << 20 };
        let size = random.pick(&[64 << 10, 64 << 10, 256 << 10, 256 << 10, most]) + odd;
        Self {
            size,
            grain,
            alignment,
            sector,
            read_only: random.chance(0.1),
            application: None,
            is_opaque: false,
            image: None,
        }
    }

    /// What it holds at first, and the value of each unit.
    pub(crate) fn content(&self, random: &mut Random) -> (Vec<u8>, Vec<u64>) {
        let mut content = vec![0; self.size as usize];
        let mut values = Vec::new();
        let run = random.pick(&[1, 16, 256]);
        let filled = random.pick(&[0.0, 0.5, 1.0]);
        let mut value = 0;
        for (unit, bytes) in content.chunks_mut(self.grain as usize).enumerate() {
            if unit.is_multiple_of(run) {
                value = u64::from(random.chance(filled));
            }
            values.push(value);
            fill(value, unit as u64 * self.grain, bytes);
        }
        (content, values)
    }
}

/// The connection as the control plane would hand it over.
pub(crate) fn negotiated(socket: OwnedFd, setting: &Setting, exports: &[Arc<Export>]) -> NewConnection {
    let reply_mode = match setting.form {
        Form::Simple => ReplyMode::Simple,
        Form::Structured => ReplyMode::Structured,
        Form::Extended => ReplyMode::Extended,
    };
    let mut facts = exports[setting.export].facts().clone();
    if let Some(unit) = setting.enforced {
        facts.block_sizes.minimum = unit as u32;
    }
    let info = ExportInfo {
        name: String::new(),
        description: String::new(),
        facts,
        contexts: vec![MetaContext::BaseAllocation],
        require_block_size: false,
    };
    let contexts = setting.context.map(|id| SelectedContext { id, context: MetaContext::BaseAllocation });
    let session = Session {
        reply_mode,
        transmission_flags: info.transmission_flags(reply_mode),
        size: setting.size,
        block_sizes: info.facts.block_sizes,
        enforce_alignment: setting.enforced.is_some(),
        contexts: contexts.into_iter().collect(),
    };
    let (permit, socket_permit) = (Box::new(()), Box::new(()));
    let id = ExportId { index: setting.export as u32, generation: setting.generation };
    let (export, peer) = (Arc::clone(&exports[setting.export]), PeerIdentity::default());
    let (number, leftover, over_tcp) = (1, Vec::new(), setting.over_tcp);
    NewConnection {
        number,
        socket,
        over_tcp,
        id,
        export,
        limits: Arc::default(),
        session,
        leftover,
        secure: None,
        peer,
        permit,
        socket_permit,
    }
}
