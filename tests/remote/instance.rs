//! `ringnbd:instance`: which opening of an export a client is connected to, and what a lost connection costs then.

use super::cut::{metric, near};
use super::far::{Far, Kind};
use super::proxy::Proxy;
use super::{SIZE, client, error_of};
use crate::support::image::Image;
use crate::support::server::{Options, Server};
use ringnbd::internal::client::{Client, Timeouts, info};

const INSTANCE: &str = "ringnbd:instance";

/// The number of an export, whatever part of it is asked about.
fn number(server: &Server, export: &str) -> u64 {
    let contexts = ["base:allocation".to_owned(), INSTANCE.to_owned()];
    let mut client =
        Client::open(&server.uri(export).parse().unwrap(), &contexts, Timeouts::default()).unwrap();
    let selected = &client.transmission().contexts;
    let id = selected.iter().find(|context| context.name == INSTANCE).expect("it is there").id;
    let told = [(0, SIZE), (4096, 512)].map(|(offset, length)| {
        let told = client.block_status(id, offset, length).unwrap();
        assert_eq!((told.len(), told[0].length), (1, length));
        told[0].flags
    });
    assert_eq!(told[0], told[1]);
    told[0]
}

#[test]
fn each_opening_of_an_export_has_a_number_that_only_who_asks_is_told() {
    let image = Image::sparse(SIZE);
    let file = image.path.display();
    let start =
        || Options::new().export(format!("x={file}")).export("m=mem:16M").shards(2).memory("128M").start();
    let server = start();
    let numbers = ["x", "m"].map(|export| number(&server, export));
    assert_ne!(numbers[0], numbers[1]);
    assert_eq!(["x", "m"].map(|export| number(&server, export)), numbers, "on any shard");
    let details = info(&server.uri("x").parse().unwrap(), Timeouts::default()).unwrap().1;
    assert_eq!(details.contexts.unwrap(), ["base:allocation"]);
    drop(server);
    let server = start();
    assert_ne!(number(&server, "x"), numbers[0], "another process");
    // What is behind it may be lost while it lives.
    let front = Options::new().export(format!("x={}", server.uri("x"))).start();
    let contexts = [INSTANCE.to_owned()];
    let client = Client::open(&front.uri("x").parse().unwrap(), &contexts, Timeouts::default()).unwrap();
    assert!(client.transmission().contexts.is_empty());
}

/// All connections are lost, and the other server lives: nothing is lost of what it has answered. It is killed, and
/// what it has answered may be lost.
#[test]
fn only_a_server_that_was_killed_costs_a_flush() {
    let image = Image::sparse(SIZE);
    let mut far = Far::start(Kind::Ringnbd, &image).unwrap();
    let proxy = Proxy::to(far.socket());
    let near = near(&proxy, "connections=2&reconnect=60s");
    let mut client = client(&near);
    for round in 1..=2 {
        client.write_at(0, &[round; 4096]).unwrap();
        (0..proxy.connections()).for_each(|number| proxy.cut(number));
        let mut read = [0; 4096];
        client.read_at(0, &mut read).expect("it connects again");
        assert_eq!(read, [round; 4096]);
        client.flush().expect("nothing is lost");
    }
    assert!(metric(&near, "losses_total") >= 2);
    assert_eq!(metric(&near, "failed_flushes_total"), 0);
    // Not flushed when connections are lost for the first time, nor when the server is killed then.
    client.write_at(4096, &[3; 4096]).unwrap();
    (0..proxy.connections()).for_each(|number| proxy.cut(number));
    client.read_at(0, &mut [0; 4096]).expect("it connects again");
    far.restart().unwrap();
    client.read_at(0, &mut [0; 4096]).expect("it connects again");
    assert_eq!(error_of(client.flush()), 5);
    client.flush().expect("it has been told");
    assert_eq!(metric(&near, "failed_flushes_total"), 1);
}
