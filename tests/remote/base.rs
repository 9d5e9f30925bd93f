//! Overlays whose base is an export of another server.

use super::far::{Far, Kind};
use super::{SIZE, client, error_of};
use crate::http::Address;
use crate::support::image::{Image, pattern};
use crate::support::server::{Options, Server};
use ringnbd::internal::client::ClientError;

fn overlay(far: &Far, parameters: &str) -> Server {
    let base = format!("{}&{parameters}", far.uri()).replace('&', "%26");
    Options::new().export(format!("x=overlay:temp?base={base}")).args(["--admin", "127.0.0.1:0"]).start()
}

/// Reads and writes of all sizes against a copy in memory, over a base that is killed in between; the base stays as it is.
fn an_overlay_on(kind: Kind) -> Option<()> {
    let image = Image::random(SIZE / 2, 7);
    // A hole, which is one of the overlay too.
    image.write(2 << 20, &vec![0; 1 << 20]);
    let mut expected = image.read(0, SIZE as usize / 2);
    let mut far = Far::start(kind, &image)?;
    let near = overlay(&far, "reconnect=60s&connections=2");
    let mut client = client(&near);
    assert_eq!(client.transmission().export.size, SIZE / 2);
    let mut seed = 99_u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    for round in 0..120 {
        let length = 1 + next(200_000);
        let at = next(SIZE / 2 - length);
        let (start, end) = (at as usize, (at + length) as usize);
        if next(3) == 0 {
            let bytes = pattern(round, at, length as usize);
            client.write_at(at, &bytes).unwrap();
            expected[start..end].copy_from_slice(&bytes);
        } else {
            let mut read = vec![0; length as usize];
            client.read_at(at, &mut read).unwrap();
            assert!(read == expected[start..end], "{kind:?}: {length} bytes at {at} in round {round}");
        }
        if round == 60 {
            far.restart()?;
        }
    }
    client.flush().expect("nothing of the base is to be flushed");
    let mut read = vec![0; SIZE as usize / 2];
    client.read_at(0, &mut read).unwrap();
    assert!(read == expected);
    assert!(image.read(0, SIZE as usize / 2) != expected, "the base was written");
    assert_eq!(image.read(0, 2 << 20), pattern(7, 0, 2 << 20), "the base was written");
    let page = Address::of(&near).get("/metrics").body;
    assert!(page.contains("ringnbd_remote_losses_total{export=\"x\"}"), "{page}");
    Some(())
}

#[test]
fn an_overlay_on_ringnbd() {
    an_overlay_on(Kind::Ringnbd).expect("it needs no peer");
}

#[test]
fn an_overlay_on_qemu_nbd() {
    let _ = an_overlay_on(Kind::QemuNbd);
}

#[test]
fn an_overlay_on_nbdkit() {
    let _ = an_overlay_on(Kind::NbdkitSlow);
}

#[test]
fn an_overlay_on_nbd_server() {
    let _ = an_overlay_on(Kind::NbdServer);
}

/// What the overlay has is read without the base. The rest fails after the delay.
#[test]
fn an_overlay_whose_base_is_gone() {
    let image = Image::random(SIZE, 7);
    let mut far = Far::start(Kind::Ringnbd, &image).unwrap();
    let near = overlay(&far, "reconnect=300ms");
    let mut client = client(&near);
    client.write_at(1 << 20, &[3; 1 << 20]).unwrap();
    far.kill();
    assert_eq!(error_of(client.read_at(0, &mut [0; 4096])), 5);
    let mut read = vec![0; 1 << 20];
    client.read_at(1 << 20, &mut read).unwrap();
    assert!(read.iter().all(|byte| *byte == 3));
    client.write_at(4 << 20, &[4; 1 << 20]).expect("whole blocks need no base");
    client.flush().unwrap();
}

/// Holes of the base are holes of the overlay, and what is behind its end.
#[test]
fn an_overlay_knows_the_holes_of_its_base() {
    let image = Image::sparse(SIZE);
    image.write(4 << 20, &pattern(1, 4 << 20, 1 << 20));
    let far = Far::start(Kind::Ringnbd, &image).unwrap();
    let export = format!("x=overlay:temp?base={}&size={}", far.uri(), SIZE * 2);
    let near = Options::new().export(export).start();
    let mut client = client(&near);
    client.write_at(8 << 20, &[1; 1 << 20]).unwrap();
    let context = client.transmission().contexts[0].id;
    let mut data = Vec::new();
    client
        .walk(context, |extent| -> Result<(), ClientError> {
            if extent.flags == 0 {
                data.push((extent.offset >> 20, extent.length >> 20));
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(data, [(4, 1), (8, 1)]);
    let mut read = vec![1; 1 << 20];
    client.read_at(SIZE + (1 << 20), &mut read).unwrap();
    assert!(read.iter().all(|byte| *byte == 0), "behind the base");
}
