//! SIGKILL at random moments. What the kernel took survives a process, with FLUSH or without: every write that was answered is there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

use rustix::process::Signal;

use super::content::{self, Dice, SECTOR};
use super::load::{self, LOOK, Load};
use super::model::Model;
use super::victim::Victim;
use crate::support::image::{Image, LoopDevice};
use crate::support::raw::{Connection, MODES};
use crate::support::wire::*;

/// What the server works on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disk {
    File,
    Direct,
    Loop,
}

/// Bytes of the disk: small, so that writes meet each other.
pub(crate) const SIZE: u64 = 2 * MIB;
/// Tests that share the kills of a campaign.
const CAMPAIGNS: u64 = 8;

/// Kills of this test: its share of `RINGNBD_KILLS`.
pub(crate) fn kills() -> u64 {
    let given = std::env::var("RINGNBD_KILLS")
        .ok()
        .map(|text| text.parse::<u64>().expect("RINGNBD_KILLS is a number"));
    given.unwrap_or(64).div_ceil(CAMPAIGNS)
}

/// Kills a server again and again, and looks at its disk each time.
#[track_caller]
pub(crate) fn campaign(disk: Disk, shards: u32) {
    let seed = content::seed();
    let image = Image::sparse(SIZE);
    let path = image.path.clone();
    match disk {
        Disk::File => kill_often(seed, &path, &format!("file:{}", path.display()), shards),
        Disk::Direct => kill_often(seed, &path, &format!("file:{}?direct=true", path.display()), shards),
        Disk::Loop => {
            let Some(device) = LoopDevice::over(image) else { return };
            let path = &device.path;
            // Half of the campaigns through the device's page cache, half around it.
            let query = if shards == 1 { "" } else { "?direct=true" };
            kill_often(seed, path, &format!("file:{}{query}", path.display()), shards);
        }
    }
}

fn kill_often(seed: u64, path: &Path, uri: &str, shards: u32) {
    let mut dice = Dice::new(seed);
    let model = Mutex::new(Model::new(seed, SIZE / SECTOR as u64));
    let mut victim = Victim::new(uri, shards);
    let kills = kills();
    for kill in 0..kills {
        victim.spawn();
        // One in a while does not even come up.
        if !dice.one_in(20) {
            victim.wait_ready();
            let disk = read(path);
            same_through_the_server(&victim, &disk, &mut dice);
            kill_under_load(seed, &victim, &model, &mut dice);
        } else {
            victim.signal(Signal::KILL);
        }
        victim.bury();
        let settled = model.lock().expect("no client failed").settle(&read(path));
        if let Err(wrong) = settled {
            panic!("{uri}, RINGNBD_SEED={seed}, kill {kill}: {wrong}");
        }
    }
    // The last start finds all of it too, and ends in order.
    victim.spawn();
    victim.wait_ready();
    let disk = read(path);
    same_through_the_server(&victim, &disk, &mut dice);
    victim.stop();
    let mut model = model.lock().expect("no client failed");
    model.settle(&read(path)).expect("nothing changes when a server ends");
    let Model { answered, cut_off, .. } = *model;
    eprintln!(
        "-- {uri}, {shards} shards: {kills} kills, {answered} answered writes found, {cut_off} cut off"
    );
}

/// Several clients at once, until so many requests were answered.
pub(crate) fn kill_under_load(seed: u64, victim: &Victim, model: &Mutex<Model>, dice: &mut Dice) {
    let most = 1 << dice.below(12);
    let limit = 1 + dice.below(most);
    let kill = || victim.signal(Signal::KILL);
    let (answered, is_killed) = (AtomicU64::new(0), AtomicBool::new(false));
    let load = Load { seed, model, answered, limit, kill: &kill, is_killed };
    let clients = 1 + dice.below(5);
    let attach = |index: u64| {
        let mut client = victim.connect();
        client.greet(MODERN);
        client.choose(MODES[index as usize % MODES.len()]);
        client.go("");
        client.patience_to_read(LOOK);
        client
    };
    // All are there before the first one may end the server.
    let clients: Vec<Connection> = (0..clients).map(attach).collect();
    std::thread::scope(|scope| {
        for client in clients {
            let dice = Dice::new(dice.below(u64::MAX));
            let load = &load;
            scope.spawn(move || load::run(load, client, dice));
        }
    });
}

/// What the server reads is what is there.
fn same_through_the_server(victim: &Victim, disk: &[u8], dice: &mut Dice) {
    let mut client = victim.connect();
    client.greet(MODERN);
    client.go("");
    assert_eq!(client.export.size, SIZE);
    for _ in 0..4 {
        let sectors = 1 + dice.below(200);
        let offset = dice.below(SIZE / SECTOR as u64 - sectors) * SECTOR as u64;
        let length = sectors as usize * SECTOR;
        let expected = &disk[offset as usize..offset as usize + length];
        assert!(
            client.read(offset, length) == expected,
            "{length} bytes at {offset} through the restarted server"
        );
    }
    client.disconnect();
}

fn read(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    let file = File::open(path).expect("open the disk");
    file.read_exact_at(&mut bytes, 0).expect("read the disk");
    bytes
}
