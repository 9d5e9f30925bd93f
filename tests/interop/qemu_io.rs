//! `qemu-io`: writes, zeros and discards of every kind, against a model.

use std::process::Command;

use crate::peers::{self, Finished, run};
use crate::picture::{Picture, assert_same};
use crate::subject::{Disk, Subject, Transport};
use ringnbd::internal::random::Random;

const SIZE: usize = 16 << 20;
const MIB: usize = 1 << 20;
/// What a file system may add to or keep from a freed range: its own map, partial blocks.
const SLACK: u64 = 256 << 10;

/// Runs qemu-io's `commands` on the served disk; panics when one fails or reads something else than its pattern.
#[track_caller]
fn qemu_io(subject: &Subject, commands: &[String]) -> Option<String> {
    let finished = attempt(subject, commands)?;
    let said = finished.ok();
    assert!(!said.contains("failed"), "{said}");
    Some(said)
}

fn attempt(subject: &Subject, commands: &[String]) -> Option<Finished> {
    let mut command: Command = peers::command("qemu-io")?;
    command.args(["-f", "raw", "-d", "unmap"]);
    for line in commands {
        command.args(["-c", line]);
    }
    Some(run(command.arg(subject.uri())))
}

/// What the disk must hold. `None` where a discard left it open.
struct Model {
    bytes: Vec<Option<u8>>,
    random: Random,
    commands: Vec<String>,
}

impl Model {
    fn set(&mut self, at: usize, length: usize, value: Option<u8>) {
        self.bytes[at..at + length].fill(value);
    }

    /// Adds one random command, and a read that checks it.
    fn step(&mut self) {
        let is_odd = self.random.below(4) == 0;
        let grain = if is_odd { 1 } else { 512 };
        let length = grain * (1 + self.random.below(if is_odd { 9_000 } else { 512 }) as usize);
        let at = self.random.below(((SIZE - length) / grain) as u64) as usize * grain;
        let pattern = 1 + self.random.below(255) as u8;
        let (line, value) = match self.random.below(8) {
            0 | 1 => (format!("write -P {pattern:#x} {at} {length}"), Some(pattern)),
            2 => (format!("write -f -P {pattern:#x} {at} {length}"), Some(pattern)),
            3 => (format!("aio_write -P {pattern:#x} {at} {length}"), Some(pattern)),
            4 => (format!("write -z {at} {length}"), Some(0)),
            5 => (format!("write -z -u {at} {length}"), Some(0)),
            6 => (format!("write -z -u -f {at} {length}"), Some(0)),
            // Not at odd places: unlike a write, qemu passes it on as it is, and an export with a larger minimum refuses it.
            _ if is_odd => (format!("write -z {at} {length}"), Some(0)),
            _ => (format!("discard {at} {length}"), None),
        };
        self.set(at, length, value);
        let is_async = line.starts_with("aio");
        self.commands.push(line);
        if is_async {
            self.commands.push("aio_flush".into());
        }
        match value {
            Some(value) => self.commands.push(format!("read -P {value:#x} {at} {length}")),
            None => self.commands.push("flush".into()),
        }
    }
}

/// A random sequence of commands at aligned and odd places leaves exactly what it should.
pub(crate) fn random_script(transport: Transport, disk: Disk) -> Option<()> {
    let before = Picture::full(SIZE);
    let subject = Subject::holding(&before, transport, disk)?;
    let mut model = Model {
        bytes: before.bytes.iter().copied().map(Some).collect(),
        random: Random::new(before.seed),
        commands: Vec::new(),
    };
    for _ in 0..60 {
        model.step();
    }
    qemu_io(&subject, &model.commands)?;
    let found = subject.stop_and_read()?;
    // Where the model leaves it open, anything is right.
    let expected: Vec<u8> = model.bytes.iter().zip(&found).map(|(want, got)| want.unwrap_or(*got)).collect();
    assert_same(&expected, &found, "the disk after the script");
    Some(())
}

/// DISCARD and WRITE_ZEROES with MAY_UNMAP free the file's blocks, WRITE_ZEROES without keeps them (NO_HOLE), and
/// a FAST_ZERO either zeroes or leaves everything as it was.
pub(crate) fn allocation(transport: Transport, disk: Disk) -> Option<()> {
    let before = Picture::full(SIZE);
    let subject = Subject::holding(&before, transport, disk)?;
    let full = subject.allocated()?;
    assert!(full >= SIZE as u64, "{full}");
    let freed = |what: &str, line: String, expected: u64| {
        let before = subject.allocated()?;
        qemu_io(&subject, &[line])?;
        let freed = before.saturating_sub(subject.allocated()?);
        assert!(freed.abs_diff(expected) <= SLACK, "{what} freed {freed}, not {expected}");
        Some(())
    };
    let four_mib = 4 * MIB as u64;
    freed("discard", format!("discard 0 {}", 4 * MIB), four_mib)?;
    freed("write -z -u", format!("write -z -u {} {}", 4 * MIB, 4 * MIB), four_mib)?;
    freed("write -z", format!("write -z {} {}", 8 * MIB, 4 * MIB), 0)?;

    let fast = attempt(&subject, &[format!("write -z -n {} {MIB}", 12 * MIB)])?;
    let refused = (fast.stdout.clone() + &fast.stderr).contains("not supported");
    assert!(refused || fast.status.success(), "neither done nor refused: {fast}");

    let mut expected = before.bytes.clone();
    expected[4 * MIB..12 * MIB].fill(0);
    if !refused {
        expected[12 * MIB..13 * MIB].fill(0);
    }
    let found = subject.stop_and_read()?;
    assert_same(&expected[4 * MIB..], &found[4 * MIB..], "the disk behind the discarded part");
    Some(())
}

/// qemu asks for extended headers, gets them, and works with them.
pub(crate) fn extended_headers(transport: Transport, disk: Disk) -> Option<()> {
    let subject = Subject::empty(6 << 30, transport, disk)?;
    let far = 5_u64 << 30;
    let commands = [
        format!("write -P 0x5a {far} 64k"),
        format!("read -P 0x5a {far} 64k"),
        "write -z -u 0 2147483136".to_owned(),
        "discard 2147483136 2147483136".to_owned(),
        format!("read -P 0x5a {far} 64k"),
        format!("read -P 0 {} 64k", far - 65536),
    ];
    let mut command = peers::command("qemu-io")?;
    command.args(["-f", "raw", "-d", "unmap", "-T", "nbd_*"]);
    for line in &commands {
        command.args(["-c", line]);
    }
    let finished = run(command.arg(subject.uri()));
    let trace = finished.stdout.clone() + &finished.stderr;
    finished.ok();
    let agreed = "Received option reply 11 (extended headers), type 1 (ack)";
    assert!(trace.contains(agreed), "no extended headers: {trace}");
    assert!(!trace.contains("failed"), "{trace}");
    Some(())
}
