//! SIGKILL of a server with an image. Which blocks the image has of its own is known to nobody but the server and what it has left: so
//! what is there is read through the next one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rustix::process::Signal;

use super::content::{self, Dice, SECTOR};
use super::kill::{SIZE, kill_under_load, kills};
use super::model::{Effect, Model};
use super::victim::Victim;
use crate::support::image::disk_dir;
use crate::support::wire::*;

/// Where the image comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// It is an overlay, and begins with a file.
    Overlay,
    /// It is a clone of a snapshot.
    Clone,
}

/// After so many kills another image is begun: few first writes are left in an old one.
const KILLS_PER_IMAGE: u64 = 12;

/// Kills a server again and again, and reads through the next one each time.
#[track_caller]
pub(crate) fn campaign(origin: Origin, shards: u32) {
    let seed = content::seed();
    let mut dice = Dice::new(seed);
    let (kills, mut answered, mut cut_off) = (kills(), 0, 0);
    for first in (0..kills).step_by(KILLS_PER_IMAGE as usize) {
        let directory = disk_dir();
        let mut model = Model::new(seed, SIZE / SECTOR as u64);
        let sectors = model.sectors();
        let number = model.submit(Effect::Written, 0, sectors);
        model.answer(number, 0, sectors);
        let base = directory.path().join("base.raw");
        std::fs::write(&base, content::written(seed, number, 0, sectors)).expect("write the base");
        let image = Image::of(origin, directory.path(), &base);
        let victim = Victim::new(&image.uri, shards);
        let mut life = Life { seed, model: Mutex::new(model), victim, image };
        for kill in first..kills.min(first + KILLS_PER_IMAGE) {
            life.is_killed(&mut dice).unwrap_or_else(|wrong| {
                panic!("{origin:?}, RINGNBD_SEED={seed}, before kill {kill}: {wrong}");
            });
        }
        let model = life
            .ends()
            .unwrap_or_else(|wrong| panic!("{origin:?}, RINGNBD_SEED={seed}, at the end: {wrong}"));
        (answered, cut_off) = (answered + model.answered - 1, cut_off + model.cut_off);
    }
    eprintln!(
        "-- {origin:?}, {shards} shards: {kills} kills, {answered} answered writes found, {cut_off} cut off"
    );
}

struct Image {
    uri: String,
    /// The image in its store, for commands.
    node: PathBuf,
}

impl Image {
    fn of(origin: Origin, directory: &Path, base: &Path) -> Self {
        let store = directory.join("store");
        match origin {
            Origin::Overlay => {
                let uri = format!("overlay:{}?base={}", store.display(), base.display());
                Self { uri, node: store.join("disk") }
            }
            Origin::Clone => {
                let image = |name: &str| store.join(name).display().to_string();
                ringnbd(&["store", "init", &store.display().to_string()]);
                ringnbd(&["image", "create", &image("golden"), "--from", &base.display().to_string()]);
                ringnbd(&["image", "snapshot", &image("golden@v1")]);
                ringnbd(&["image", "clone", &image("golden@v1"), &image("vm")]);
                Self { uri: format!("store:{}", image("vm")), node: store.join("vm") }
            }
        }
    }
}

#[track_caller]
fn ringnbd(arguments: &[&str]) {
    let done = Command::new(env!("CARGO_BIN_EXE_ringnbd")).args(arguments).output().expect("run ringnbd");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An image from its beginning to its end.
struct Life {
    seed: u64,
    model: Mutex<Model>,
    victim: Victim,
    image: Image,
}

impl Life {
    /// A server finds what the one before it has left, and is killed.
    fn is_killed(&mut self, dice: &mut Dice) -> Result<(), String> {
        self.victim.spawn();
        // One in a while does not even come up.
        if dice.one_in(10) {
            self.victim.signal(Signal::KILL);
        } else {
            self.finds_everything()?;
            kill_under_load(self.seed, &self.victim, &self.model, dice);
        }
        self.victim.bury();
        Ok(())
    }

    fn finds_everything(&mut self) -> Result<(), String> {
        self.victim.wait_ready();
        let disk = read(&self.victim);
        self.model.lock().expect("no client failed").settle(&disk)
    }

    /// A command seals what was left, and the last server finds it.
    fn ends(mut self) -> Result<Model, String> {
        ringnbd(&["image", "snapshot", &format!("{}@end", self.image.node.display())]);
        self.victim.spawn();
        self.finds_everything()?;
        self.victim.stop();
        Ok(self.model.into_inner().expect("no client failed"))
    }
}

fn read(victim: &Victim) -> Vec<u8> {
    const PIECE: usize = 256 << 10;
    let mut client = victim.connect();
    client.greet(MODERN);
    client.go("");
    assert_eq!(client.export.size, SIZE);
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < SIZE {
        let piece = client.read(bytes.len() as u64, PIECE);
        bytes.extend(piece);
    }
    client.disconnect();
    bytes
}
