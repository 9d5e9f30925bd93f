//! `nbd-client -l`: the list of exports, asked by the oldest of the clients.

use crate::peers::{self, run};
use crate::subject::{Disk, Subject, Transport};
use crate::support::peer::Peer;

pub(crate) fn nbd_client(transport: Transport, disk: Disk) -> Option<()> {
    // Other servers of the harness have one export only.
    let others: &[&str] = match Peer::from_env() {
        Peer::Ringnbd => &["second=mem:1M", "a longer name=mem:2M"],
        _ => &[],
    };
    let subject = Subject::with_others(1 << 20, transport, disk, others)?;
    let said = run(peers::command("nbd-client")?.arg("-l").args(subject.nbd_client_address())).ok();
    let listed: Vec<&str> = said.lines().skip_while(|line| line.starts_with("Negotiation")).collect();
    for other in others {
        let name = other.split('=').next().unwrap();
        assert!(listed.contains(&name), "{name:?} is not in {said:?}");
    }
    assert!(listed.contains(&""), "the default export is not in {said:?}");
    Some(())
}
