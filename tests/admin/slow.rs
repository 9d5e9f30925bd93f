//! The log of slow requests.

use serde_json::Value;

use crate::support::raw::{Connection, Mode, Request};
use crate::support::server::{Options, Server};
use crate::support::wait_until;

fn lines(server: &Server) -> Vec<Value> {
    server.log().into_iter().filter(|line| line["target"] == "ringnbd::slow").collect()
}

fn serve(exports: &[&str]) -> Server {
    let options = exports.iter().fold(Options::new(), |options, export| options.export(*export));
    options.args(["--slow", "10ms"]).start()
}

#[test]
fn a_slow_request_is_logged_with_where_its_time_went() {
    let server = serve(&["mem:1M", "v m=fault:delay.read=60ms:mem:1M"]);
    let mut client = Connection::attach(&server, "v m", Mode::Simple);
    client.write(8192, &[1; 512]);
    client.read(8192, 4096);
    // Busy machines make fast requests slow, so others may be logged too.
    let read = || lines(&server).into_iter().find(|line| line["command"] == "read");
    wait_until("the line of the slow request", || read().is_some());
    let line = read().unwrap();
    assert_eq!(
        (&line["export"], &line["offset"], &line["length"]),
        (&"v m".into(), &8192.into(), &4096.into())
    );
    let microseconds = |phase: &str| line[format!("{phase}_us")].as_u64().unwrap();
    assert!(microseconds("backend") >= 60_000, "{line}");
    let parts = microseconds("queue") + microseconds("backend") + microseconds("send");
    assert!(microseconds("total").abs_diff(parts) <= 3, "{line}");
    assert!(line["peer"].as_str().is_some_and(|peer| !peer.is_empty()), "{line}");
    assert_eq!(line["level"], "WARN");
    let wrong =
        lines(&server).into_iter().find(|line| line["total_us"].as_u64().is_some_and(|total| total < 10_000));
    assert!(wrong.is_none(), "{wrong:?}");
}

#[test]
fn many_slow_requests_are_counted_and_few_are_told_apart() {
    const REQUESTS: u64 = 1000;
    let server = serve(&["fault:delay.read=50ms:mem:1M"]);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    let mut in_flight: Vec<_> =
        (0..REQUESTS).map(|index| Request::read(index * 512, 512).cookie(index)).collect();
    let bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(Mode::Simple)).collect();
    client.send(&bytes);
    while !in_flight.is_empty() {
        client.next_reply(&mut in_flight);
    }
    let told = || lines(&server).iter().filter(|line| line["message"] == "slow request").count() as u64;
    let more = || lines(&server).iter().filter_map(|line| line["requests"].as_u64()).sum::<u64>();
    wait_until("all are accounted for", || told() + more() == REQUESTS);
    assert!(told() < REQUESTS / 2, "{} lines", told());
}

#[test]
fn nothing_is_logged_when_nobody_asked() {
    let server = Server::serve(&["fault:delay.read=60ms:mem:1M"]);
    Connection::attach(&server, "", Mode::Simple).read(0, 512);
    assert!(lines(&server).is_empty());
}
