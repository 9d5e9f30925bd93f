//! A server in 15 lines: an application serves 64 MiB of memory to whoever connects, until a line is read or the input ends.

use ringnbd::{ServerBuilder, ServerError};

fn main() -> Result<(), ServerError> {
    let server =
        ServerBuilder::new().export("scratch", "mem:64M").tcp("127.0.0.1:0").shards(1).unpinned().start()?;
    for export in server.exports() {
        println!("{} bytes at {}; Enter ends it", export.size, export.uris[0]);
    }
    let _line = std::io::stdin().read_line(&mut String::new());
    let ending = server.stop();
    println!("{ending:?}");
    Ok(())
}
