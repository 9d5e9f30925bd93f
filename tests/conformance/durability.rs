//! Transmission statements T28 to T30: what FLUSH and FUA promise, on one connection and across several.
//!
//! A killed server leaves its writes in the page cache, so killing alone proves little. A loop device has a page cache
//! of its own in front of its backing file: what a FLUSH or FUA has not pushed down is not in that file. The file is
//! therefore the disk as a power cut would leave it, and the tests read it, or mount a copy, right after the reply.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Disks, Medium, assert_same, assert_zero};
use crate::support::image::{Image, LoopDevice, SmallFileSystem, pattern, unmount};
use crate::support::raw::{CHUNKED, Connection, MODES, Mode, Request, spoken};
use crate::support::server::{Options, Server};
use crate::support::wire::*;

#[test]
fn t28_flush_survives_a_crash() {
    const SIZE: usize = 8 << 20;
    let mut disks = Disks::of(SIZE as u64);
    let mut models = Vec::new();
    for (seed, disk) in disks.disks.iter().enumerate() {
        let mut client = Connection::attach(&disks.server, disk.name, Mode::Simple);
        let mut model = vec![0; SIZE];
        for index in 0..16usize {
            let start = index * 262_144 + 512 * index;
            let data = pattern(seed as u64, start as u64, 65536);
            client.write(start as u64, &data);
            model[start..start + 65536].copy_from_slice(&data);
        }
        client.succeed(&Request::zeroes(512 * KIB, 4096));
        model[512 << 10..516 << 10].fill(0);
        client.flush();
        models.push(model);
    }
    disks.server.crash();
    for (disk, model) in disks.disks.iter().zip(&models) {
        match &disk.medium {
            Medium::File(image) => assert_same(&image.read(0, SIZE), model, disk.name),
            // The backing file: below the device's own cache.
            Medium::Loop(device) => assert_same(&device.image.read(0, SIZE), model, disk.name),
            Medium::Memory => {}
        }
    }
}

#[test]
fn t28_flush_pushes_writes_through_the_device_cache() {
    let Some(device) = LoopDevice::over(Image::sparse(8 * MIB)) else { return };
    let server = Server::serve(&[format!("file:{}", device.path.display())]);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    for round in 0..20u64 {
        let offset = round * 16384;
        client.write(offset, &pattern(round, offset, 16384));
        client.flush();
        assert_same(
            &device.image.read(offset, 16384),
            &pattern(round, offset, 16384),
            "below the device's cache",
        );
    }
}

#[test]
fn t28_flush_covers_writes_of_other_connections() {
    let Some(device) = LoopDevice::over(Image::sparse(8 * MIB)) else { return };
    let server =
        Options::new().export(format!("file:{}", device.path.display())).shards(2).memory("160M").start();
    let mut writers: Vec<Connection> =
        MODES.iter().chain(&CHUNKED).map(|&mode| Connection::attach(&server, "", mode)).collect();
    let mut flusher = Connection::attach(&server, "", Mode::Simple);
    if !flusher.export.has(NBD_FLAG_CAN_MULTI_CONN) {
        panic!("CAN_MULTI_CONN is not offered");
    }
    for round in 0..10u64 {
        for (index, writer) in writers.iter_mut().enumerate() {
            let offset = (round * 5 + index as u64) * 8192;
            writer.write(offset, &pattern(round, offset, 8192));
        }
        flusher.flush();
        for index in 0..writers.len() as u64 {
            let offset = (round * 5 + index) * 8192;
            assert_same(&device.image.read(offset, 8192), &pattern(round, offset, 8192), "written elsewhere");
        }
    }
}

#[test]
fn t28_direct_file_is_on_the_disk() {
    let image = Image::sparse(4 * MIB);
    let mut server = Server::serve(&[format!("file:{}?direct=true", image.path.display())]);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    client.write(4096, &pattern(3, 4096, 1 << 20));
    client.write(2 * MIB + 512, &pattern(3, 2 * MIB + 512, 1024));
    client.flush();
    server.crash();
    assert_same(&image.read_direct(4096, 1 << 20), &pattern(3, 4096, 1 << 20), "after the crash");
    assert_same(
        &image.read_direct(2 * MIB, 4096)[512..1536],
        &pattern(3, 2 * MIB + 512, 1024),
        "a small write",
    );
}

#[test]
fn t29_fua_write_is_below_the_device_cache() {
    let Some(device) = LoopDevice::over(Image::random(8 * MIB, 99)) else { return };
    let path = device.path.display();
    for uri in [format!("file:{path}"), format!("file:{path}?direct=true")] {
        let mut server = Server::serve(&[uri]);
        for mode in spoken(MODES) {
            let mut client = Connection::attach(&server, "", mode);
            for (round, length) in [512usize, 4096, 1 << 20, 12_800].into_iter().enumerate() {
                let offset = (round as u64) << 20;
                let request =
                    Request::write(offset, pattern(round as u64, offset, length)).flags(NBD_CMD_FLAG_FUA);
                client.succeed(&request);
                assert_same(&device.image.read(offset, length), &request.payload, "a FUA write");
                client.succeed(&Request::zeroes(offset, length as u64).flags(NBD_CMD_FLAG_FUA));
                assert_zero(&device.image.read(offset, length), "FUA zeroes");
                let no_hole =
                    Request::zeroes(offset, length as u64).flags(NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE);
                client.write(offset, &vec![7; length]);
                client.succeed(&no_hole);
                assert_zero(&device.image.read(offset, length), "FUA zeroes without a hole");
            }
        }
        server.crash();
    }
}

/// Mounts a copy of a file system's backing file, made as it stands: the journal replays, as after a power cut.
struct AfterPowerCut {
    _image: Image,
    mount_point: PathBuf,
}

impl AfterPowerCut {
    fn of(backing: &Path) -> Self {
        let image = Image::sparse(0);
        let copied = Command::new("cp").arg("--sparse=always").arg(backing).arg(&image.path).status();
        assert!(copied.is_ok_and(|status| status.success()), "copy the file system");
        let mount_point = image.dir().join("mnt");
        std::fs::create_dir(&mount_point).expect("make a mount point");
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image.path).arg(&mount_point).status();
        assert!(mounted.is_ok_and(|status| status.success()), "mount the copy");
        Self { _image: image, mount_point }
    }

    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; length];
        let file = std::fs::File::open(self.mount_point.join("disk.img")).expect("the image is there");
        file.read_exact_at(&mut bytes, offset).expect("read it");
        bytes
    }
}

impl Drop for AfterPowerCut {
    fn drop(&mut self) {
        unmount(&self.mount_point);
    }
}

/// Serves a sparse file in a small journalled file system, and after each durable write looks at the disk as a power
/// cut at that moment would have left it: data in new blocks needs its metadata too.
fn power_cut(query: &str, make_durable: impl Fn(&mut Connection, Request)) {
    let Some(system) = SmallFileSystem::with_journal(32 * MIB) else { return };
    let file = system.mount_point.join("disk.img");
    std::fs::File::create(&file).and_then(|file| file.set_len(8 << 20)).expect("create the image");
    // The file itself exists safely before the server comes; what is tested is what the server writes.
    rustix::fs::syncfs(std::fs::File::open(&system.mount_point).expect("open the mount point"))
        .expect("syncfs");
    let mut server = Server::serve(&[format!("file:{}{query}", file.display())]);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    for round in 0..3u64 {
        let offset = round * 2 * MIB + 4096;
        make_durable(&mut client, Request::write(offset, pattern(round, offset, 200 * 1024)));
        let after = AfterPowerCut::of(&system.image.path);
        assert_same(
            &after.read(offset, 200 * 1024),
            &pattern(round, offset, 200 * 1024),
            "after the power cut",
        );
    }
    server.crash();
}

#[test]
fn t28_flush_survives_a_power_cut() {
    power_cut("", |client, write| {
        client.succeed(&write);
        client.flush();
    });
}

#[test]
fn t28_flush_survives_a_power_cut_direct() {
    power_cut("?direct=true", |client, write| {
        client.succeed(&write);
        client.flush();
    });
}

#[test]
fn t29_fua_survives_a_power_cut() {
    power_cut("", |client, write| {
        client.succeed(&write.flags(NBD_CMD_FLAG_FUA));
    });
}

#[test]
fn t29_fua_survives_a_power_cut_direct() {
    power_cut("?direct=true", |client, write| {
        client.succeed(&write.flags(NBD_CMD_FLAG_FUA));
    });
}

#[test]
fn t30_connections_see_each_others_writes() {
    let disks = Disks::with(4 * MIB, Options::new().shards(2).memory("160M"));
    for disk in &disks.disks {
        eprintln!("-- {}", disk.name);
        let mut clients = MODES.map(|mode| Connection::attach(&disks.server, disk.name, mode));
        assert!(clients.iter().all(|client| client.export.has(NBD_FLAG_CAN_MULTI_CONN)), "CAN_MULTI_CONN");
        for round in 0..60u64 {
            let [a, b, c] = &mut clients;
            let offset = round % 32 * 65536 + round * 512;
            let data = pattern(round, offset, 9 * 512);
            // An acked write is visible to a read issued afterwards elsewhere, with and without a flush in between.
            a.write(offset, &data);
            assert_same(&b.read(offset, data.len()), &data, "written on A, read on B");
            b.flush();
            assert_same(&c.read(offset, data.len()), &data, "written on A, flushed on B, read on C");
            b.succeed(&Request::zeroes(offset, data.len() as u64));
            assert_zero(&a.read(offset, data.len()), "zeroed on B, read on A");
            c.succeed(&Request::write(offset, data.clone()).flags(NBD_CMD_FLAG_FUA));
            assert_same(&a.read(offset, data.len()), &data, "FUA on C, read on A");
            clients.rotate_left(1);
        }
    }
}
