//! Durability on the real kernel: the real binary is killed under load, thousands of times, and every acknowledged write is found.
//!
//!     cargo test --test integration durability                       some seconds
//!     RINGNBD_KILLS=3000 cargo test --test integration durability    a campaign
//!
//! What a write must leave behind is told by its contents (`durability/content.rs`): who wrote it, when and where.

mod block_log;
mod content;
mod history;
mod kill;
mod killed_image;
mod killed_snapshot;
mod load;
mod machine;
mod model;
mod power_cut;
mod victim;

use kill::{Disk, campaign};
use killed_image::Origin;

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

#[test]
fn killed_over_an_overlay() {
    killed_image::campaign(Origin::Overlay, 1);
}

#[test]
fn killed_over_a_clone() {
    killed_image::campaign(Origin::Clone, 2);
}
