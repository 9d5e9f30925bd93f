//! Other servers as clients: they attach to ours and serve it on, and what goes through them is compared.

use std::path::Path;
use std::process::Command;

use crate::peers::{self, Daemon, run};
use crate::picture::Picture;
use crate::subject::{Disk, Subject, Transport};

const SIZE: usize = (16 << 20) + (4 << 10);

/// nbdkit's nbd plugin, which is libnbd again but drives it its own way: many requests of many threads.
pub(crate) fn nbdkit(transport: Transport, disk: Disk) -> Option<()> {
    relay(transport, disk, |uri, socket| {
        let mut command = peers::command("nbdkit")?;
        command.arg("--foreground").arg("--unix").arg(socket).arg("nbd").arg(format!("uri={uri}"));
        Some(command)
    })
}

/// qemu's block layer as the client.
pub(crate) fn qemu_nbd(transport: Transport, disk: Disk) -> Option<()> {
    relay(transport, disk, |uri, socket| {
        let mut command = peers::command("qemu-nbd")?;
        command.args(["--persistent", "--shared=8", "--format=raw", "--discard=unmap", "--cache=none"]);
        command.arg("--socket").arg(socket).arg(uri);
        Some(command)
    })
}

/// The same from a storage daemon, with its own reconnecting client options.
pub(crate) fn storage_daemon(transport: Transport, disk: Disk) -> Option<()> {
    relay(transport, disk, |uri, socket| {
        let mut command = peers::command("qemu-storage-daemon")?;
        let server = match uri.strip_prefix("nbd://") {
            Some(rest) => {
                let (host, port) = rest.trim_end_matches('/').rsplit_once(':').unwrap();
                format!("server.type=inet,server.host={host},server.port={port}")
            }
            None => format!("server.type=unix,server.path={}", uri.split_once("socket=").unwrap().1),
        };
        command.arg("--blockdev").arg(format!(
            "driver=nbd,node-name=disk,{server},export=,reconnect-delay=1,discard=unmap,cache.direct=on"
        ));
        command.arg("--nbd-server").arg(format!("addr.type=unix,addr.path={}", socket.display()));
        command.args(["--export", "type=nbd,id=out,node-name=disk,name=,writable=on"]);
        Some(command)
    })
}

/// Reads a disk through a relay, replaces its contents through it, and compares both with the pictures.
fn relay(transport: Transport, disk: Disk, daemon: impl Fn(&str, &Path) -> Option<Command>) -> Option<()> {
    let (before, after) = (Picture::sparse(SIZE), Picture::sparse(SIZE));
    let subject = Subject::holding(&before, transport, disk)?;
    let socket = subject.socket("relay.sock");
    let command = daemon(&subject.uri(), &socket)?;
    // A connection that says nothing shows that it accepts, and not only that the socket's file is there.
    let relay = Daemon::start(command, || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let (source, target) = (subject.scratch("source.img"), subject.scratch("target.img"));
    after.save(&source);
    run(peers::command("nbdcopy")?.arg(&uri).arg(&target)).ok();
    before.assert_is(&std::fs::read(&target).unwrap(), "what came through the relay");
    run(peers::command("nbdcopy")?.arg("--flush").arg(&source).arg(&uri)).ok();
    drop(relay);
    after.assert_is(&subject.stop_and_read()?, "the disk written through the relay");
    Some(())
}
