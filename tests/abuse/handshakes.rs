//! Handshakes that are begun and not ended.

use crate::siege::{Again, Door, Siege, figures_wanted};
use crate::support::raw::{Connection, MODES, Mode, Request};
use crate::support::wait_until;
use crate::support::wire::*;

/// How far a handshake got when its client fell silent.
const STAGES: usize = 8;

/// A client that stops at a stage.
fn stuck(siege: &Siege, stage: usize) -> Connection {
    let mut client = siege.door().open();
    if stage == 0 {
        return client; // not even the greeting is read
    }
    client.read_greeting();
    match stage {
        1 => {}
        2 => client.send(&MODERN.to_be_bytes()[..2]),
        3 => client.send(&MODERN.to_be_bytes()),
        _ => {
            client.send(&MODERN.to_be_bytes());
            match stage {
                4 => client.send(&option(NBD_OPT_LIST, b"")[..7]),
                5 => client.send(&option(NBD_OPT_GO, &info_data(b"", &[]))[..20]),
                6 => client.expect_in_step(),
                _ => client.send(&option(NBD_OPT_LIST, b"")), // the answer is not read
            }
        }
    }
    client
}

#[test]
fn half_open_handshakes_end_by_themselves() {
    const CONNECTIONS: usize = 202;
    let mut siege = Siege::with(|options| {
        options.args(["--handshake-timeout", "1s", "--max-connections", &CONNECTIONS.to_string()])
    });
    siege.endure("200 handshakes that stop halfway", |siege| {
        let mut clients: Vec<Connection> = (0..200).map(|index| stuck(siege, index % STAGES)).collect();
        // One place is left: who knows what he wants gets it.
        Connection::attach(&siege.server, "", Mode::Simple).expect_alive();
        siege.good_client_goes_on();
        for client in &mut clients {
            client.drain_to_close("the handshake took too long");
        }
        drop(clients);
        // All places taken: the next one waits until one of them gives up.
        let clients: Vec<Connection> =
            (0..CONNECTIONS - 1).map(|index| stuck(siege, index % STAGES)).collect();
        Connection::attach(&siege.server, "", Mode::Structured).expect_alive();
        clients
    });
}

/// Each would keep 64 KiB and more, 2,000 of them several times what the server may have.
#[test]
fn options_one_byte_short() {
    const CONNECTIONS: usize = 2000;
    const LENGTH: usize = 64 << 10;
    let mut siege = Siege::with(|options| options.args(["--handshake-timeout", "5s"]));
    siege.endure("2,000 handshakes, each one byte short of an option of 64 KiB", |siege| {
        let data = vec![7; LENGTH - 1];
        let mut clients: Vec<Connection> = (0..CONNECTIONS)
            .map(|_| {
                let mut client = siege.door().open();
                client.greet(MODERN);
                client
            })
            .collect();
        for client in &mut clients {
            client.patience(std::time::Duration::from_millis(1));
            // What is not read stays in the socket.
            let _waits = client.try_send(&option_claiming(NBD_OPT_GO, LENGTH as u32, &data));
            siege.look();
        }
        // Whoever needs little is served meanwhile.
        Connection::attach(&siege.server, "", Mode::Structured).expect_alive();
        clients
    });
}

/// Clients that come, go to some stage, and leave.
#[track_caller]
fn visitors(name: &str, leave: impl Fn(&Door, usize) + Send + 'static) {
    // There are three stages.
    let visits = if figures_wanted() { 5000 } else { 1700 };
    let mut siege = Siege::lay();
    siege.endure_busy(&format!("{visits} clients that leave {name}"), 1, |siege| {
        let door = siege.door();
        for visit in 0..visits {
            leave(&door, visit);
            if visit % 500 == 0 {
                siege.look();
            }
        }
        let mut visit = 0;
        Again::and_again(move || {
            visit += 1;
            leave(&door, visit);
        })
    });
}

#[test]
fn thousands_leave_before_the_handshake() {
    visitors("before the handshake", |door, visit| {
        let mut client = door.open();
        if visit % 2 == 0 {
            client.read_greeting();
        }
    });
}

#[test]
fn thousands_leave_amid_options() {
    visitors("amid options", |door, visit| {
        let mut client = door.open();
        client.greet(MODERN);
        match visit % 4 {
            0 => client.send(&option(NBD_OPT_LIST, b"")),
            1 => client.send(&option(NBD_OPT_GO, &info_data(b"", &[]))[..19]),
            2 => client.choose(Mode::Structured),
            _ => client.send(&option(NBD_OPT_ABORT, b"")),
        }
    });
}

#[test]
fn thousands_leave_with_requests_in_flight() {
    visitors("with requests in flight", |door, visit| {
        let mut client = door.attach(MODES[visit % 3]);
        let mut requests: Vec<Request> =
            (0..8).map(|cookie| Request::read(cookie * 4096, 65536).cookie(cookie)).collect();
        requests.push(Request::write(GIB, vec![1; 4096]).cookie(8));
        // Few: a FLUSH makes writes to the disk wait, which a good rival does not do.
        requests.extend((visit % 100 == 0).then(|| Request::flush().cookie(9)));
        let mut bytes: Vec<u8> = requests.iter().flat_map(|request| request.encode(client.mode)).collect();
        // The last one's payload never comes whole.
        let cut = Request::write(GIB, vec![1; 100_000]).encode(client.mode);
        bytes.extend(&cut[..cut.len() / 2]);
        let _full = client.try_send(&bytes[..if visit % 2 == 0 { bytes.len() } else { 40 }]);
    });
}

#[test]
fn a_thousand_at_once() {
    let mut siege = Siege::lay();
    siege.endure("1,000 connections at once, each with requests in flight, dropped together", |siege| {
        for _ in 0..3 {
            let mut clients: Vec<Connection> =
                (0..1000).map(|index| Connection::attach(&siege.server, "", MODES[index % 3])).collect();
            for client in &mut clients {
                let reads =
                    (0..4).flat_map(|cookie| Request::read(0, 4096).cookie(cookie).encode(client.mode));
                let bytes: Vec<u8> = reads.collect();
                client.send(&bytes);
            }
            siege.look();
        }
        wait_until("most of them to be gone", || siege.connections() < 100);
    });
}
