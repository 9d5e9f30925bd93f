//! A client: reads the first bytes of an export, or of a server that it starts itself.
//!
//!     cargo run --example client [URI]

use std::error::Error;

use ringnbd::{Client, NbdUri, ServerBuilder, Timeouts};

fn main() -> Result<(), Box<dyn Error>> {
    let (uri, _server): (NbdUri, _) = match std::env::args().nth(1) {
        Some(uri) => (uri.parse()?, None),
        None => {
            let server =
                ServerBuilder::new().export("", "mem:1M").tcp("127.0.0.1:0").shards(1).unpinned().start()?;
            (server.exports()[0].uris[0].parse()?, Some(server))
        }
    };
    let mut client = Client::open(&uri, &[], Timeouts::default())?;
    let size = client.transmission().export.size;
    let mut bytes = vec![0; size.min(16) as usize];
    client.read_at(0, &mut bytes)?;
    println!("{uri}: {size} bytes, the first {bytes:02x?}");
    Ok(())
}
