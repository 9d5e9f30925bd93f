//! Durability on the real kernel: the real binary is killed under load, thousands of times, and every acknowledged write is found.
//!
//!     cargo test --test durability                      some seconds
//!     RINGNBD_KILLS=3000 cargo test --test durability   a campaign
//!
//! What a write must leave behind is told by its contents (`durability/content.rs`): who wrote it, when and where.

#[path = "support/peers.rs"]
mod peers;
mod support;

#[path = "vm/cpio.rs"]
mod cpio;
#[path = "vm/guest.rs"]
mod guest;

#[path = "durability/block_log.rs"]
mod block_log;
#[path = "durability/content.rs"]
mod content;
#[path = "durability/history.rs"]
mod history;
#[path = "durability/kill.rs"]
mod kill;
#[path = "durability/load.rs"]
mod load;
#[path = "durability/machine.rs"]
mod machine;
#[path = "durability/model.rs"]
mod model;
#[path = "durability/power_cut.rs"]
mod power_cut;
#[path = "durability/victim.rs"]
mod victim;

use kill::{Disk, campaign};

#[test]
fn killed_over_a_file() {
    campaign(Disk::File, 1);
}

#[test]
fn killed_over_a_file_with_two_shards() {
    campaign(Disk::File, 2);
}

#[test]
fn killed_over_a_direct_file() {
    campaign(Disk::Direct, 1);
}

#[test]
fn killed_over_a_direct_file_with_two_shards() {
    campaign(Disk::Direct, 2);
}

#[test]
fn killed_over_a_loop_device() {
    campaign(Disk::Loop, 1);
}

#[test]
fn killed_over_a_loop_device_with_two_shards() {
    campaign(Disk::Loop, 2);
}
