//! Requests, bytes, errors and connections are counted, and an independent parser reads them.

use serde_json::json;

use crate::support::image::{Image, LoopDevice};
use crate::support::raw::{Connection, Mode, Request};
use crate::support::server::Options;
use crate::support::wait_until;
use crate::support::wire::{NBD_EINVAL, NBD_ENOSPC, NBD_EPERM};
use crate::{Subject, python};

/// Names that need escaping wherever they go.
const STRANGE: &str = "a \"b\\c, é";

/// Reads metrics with Prometheus' own client library and prints `{name: [[labels, value], ...]}`.
const PARSER: &str = r#"
import json, sys
if sys.argv[2] == "openmetrics":
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
else:
    from prometheus_client.parser import text_string_to_metric_families as parse
found = {}
for family in parse(open(sys.argv[1], newline="").read()):
    assert family.documentation and family.type != "unknown", family
    for sample in family.samples:
        found.setdefault(sample.name, []).append([sample.labels, sample.value])
print(json.dumps(found))
"#;

fn load(subject: &Subject) {
    let mut client = Connection::attach(&subject.server, STRANGE, Mode::Simple);
    (0..5).for_each(|block| drop(client.read(block * 4096, 4096)));
    (0..3).for_each(|block| client.write(block * 8192, &[7; 8192]));
    client.flush();
    client.succeed(&Request::trim(0, 4096));
    client.fail(&Request::read(1 << 20, 512), NBD_EINVAL);
    client.fail(&Request::write((1 << 20) - 512, vec![1; 1024]), NBD_ENOSPC);
    client.disconnect();
    let mut client = Connection::attach(&subject.server, "ro", Mode::Structured);
    client.fail(&Request::write(0, vec![1; 2048]), NBD_EPERM);
    client.disconnect();
}

fn subject() -> Subject {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let read_only = format!("ro=file:{}?readonly=true", image.display());
    Subject::serve(&[&format!("{STRANGE}=mem:1M"), &read_only, "mem:1M"])
}

#[test]
fn requests_bytes_and_errors_are_counted_by_export() {
    let subject = subject();
    load(&subject);
    wait_until("all replies are counted", || {
        subject.export(STRANGE)["commands"]["trim"]["requests"] == 1
            && subject.json("/api/v1/connections")["count"] == 0
    });
    let export = subject.export(STRANGE);
    assert_eq!(export["commands"]["read"], json!({"requests": 5, "bytes": 5 * 4096}), "{export}");
    assert_eq!(export["commands"]["write"], json!({"requests": 3, "bytes": 3 * 8192}), "{export}");
    assert_eq!(export["commands"]["flush"]["requests"], 1);
    assert_eq!(
        (&export["errors"]["EINVAL"], &export["errors"]["ENOSPC"]),
        (&json!(1), &json!(1)),
        "{export}"
    );
    assert_eq!((&export["refused_requests"], &export["discarded_bytes"]), (&json!(2), &json!(1024)));
    assert_eq!((&export["size_bytes"], &export["read_only"]), (&json!(1 << 20), &json!(false)));
    let by_command = json!({"read": {"EINVAL": 1}, "write": {"ENOSPC": 1}});
    assert_eq!(export["errors_by_command"], by_command);
    let export = subject.export("ro");
    assert_eq!((&export["errors"]["EPERM"], &export["discarded_bytes"]), (&json!(1), &json!(2048)));
    assert_eq!(export["read_only"], true);
}

#[test]
fn an_independent_parser_reads_the_metrics_in_both_formats() {
    let subject = subject();
    load(&subject);
    wait_until("all replies are counted", || subject.export("ro")["errors"]["EPERM"] == 1);
    for (format, accept) in [
        ("prometheus", "text/plain"),
        ("openmetrics", "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"),
    ] {
        let answer = subject.admin.ask("GET", "/metrics", &format!("Accept: {accept}\r\n"));
        assert!(answer.header("content-type").contains(accept.split(';').next().unwrap()), "{}", answer.head);
        let file = subject.server.dir().join("metrics");
        std::fs::write(&file, &answer.body).unwrap();
        let Some(found) = python::json(PARSER, &[file.to_str().unwrap(), format]) else { return };
        let value = |name: &str, labels: serde_json::Value| {
            let samples = found[name].as_array().unwrap_or_else(|| panic!("no {name}: {found}"));
            let sample = samples.iter().find(|sample| sample[0] == labels);
            sample.unwrap_or_else(|| panic!("no {name}{labels}: {samples:?}"))[1].as_f64().unwrap()
        };
        let read = || json!({"export": STRANGE, "command": "read"});
        assert_eq!(value("ringnbd_requests_total", read()), 5.0);
        assert_eq!(value("ringnbd_request_bytes_total", read()), 5.0 * 4096.0);
        let total = json!({"export": STRANGE, "command": "read"});
        assert_eq!(value("ringnbd_request_duration_seconds_count", total.clone()), 5.0);
        assert!(value("ringnbd_request_duration_seconds_sum", total) > 0.0);
        let all = json!({"export": STRANGE, "command": "read", "le": "+Inf"});
        assert_eq!(value("ringnbd_request_duration_seconds_bucket", all), 5.0);
        let backend = json!({"export": STRANGE, "command": "read", "phase": "backend"});
        assert_eq!(value("ringnbd_request_phase_seconds_count", backend), 5.0);
        // As a dashboard sums it up: each request once.
        let sum = |name: &str| -> f64 {
            found[name].as_array().unwrap().iter().map(|sample| sample[1].as_f64().unwrap()).sum()
        };
        assert_eq!(sum("ringnbd_request_duration_seconds_count"), sum("ringnbd_requests_total"));
        assert_eq!(
            value("ringnbd_errors_total", json!({"export": "ro", "command": "write", "error": "EPERM"})),
            1.0
        );
        assert_eq!(
            value("ringnbd_errors_total", json!({"export": "ro", "command": "read", "error": "EPERM"})),
            0.0
        );
        assert_eq!(sum("ringnbd_errors_total"), 3.0);
        assert_eq!(value("ringnbd_export_size_bytes", json!({"export": "(default)"})), f64::from(1 << 20));
        process(&value);
        assert_eq!(value("ringnbd_discarded_bytes_total", json!({"export": STRANGE})), 1024.0);
        assert_eq!(value("ringnbd_attachments_total", json!({})), 2.0);
        assert!(value("ringnbd_handshakes_total", json!({})) >= 2.0);
        assert!(value("ringnbd_buffer_memory_bytes", json!({"shard": "0"})) > 1e6);
        assert_eq!(value("ringnbd_up", json!({})), 1.0);
    }
}

/// What all exporters tell of their process, from a server in its sandbox.
fn process(value: &dyn Fn(&str, serde_json::Value) -> f64) {
    let of = |name: &str| value(name, json!({}));
    assert!(of("process_cpu_seconds_total") > 0.0);
    let (resident, all) = (of("process_resident_memory_bytes"), of("process_virtual_memory_bytes"));
    assert!(resident > 1e6 && resident <= all, "{resident} of {all}");
    assert!(of("process_threads") >= 2.0);
    assert!((of("process_start_time_seconds") - of("ringnbd_start_time_seconds")).abs() < 60.0);
    assert!(of("process_max_fds") >= 64.0);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = kernel.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 2) {
        let open = of("process_open_fds");
        assert!(open > 5.0 && open < of("process_max_fds"), "{open}");
    }
}

#[test]
fn reads_from_the_page_cache_are_counted() {
    let subject = subject();
    let mut client = Connection::attach(&subject.server, "ro", Mode::Structured);
    (0..7).for_each(|block| drop(client.read(block * 4096, 512)));
    wait_until("all replies are counted", || subject.export("ro")["commands"]["read"]["requests"] == 7);
    let counted = subject.export("ro")["page_cache_reads"].as_u64().unwrap();
    // What was never read is not in the page cache: those reads went to the file.
    assert!(counted < 7, "{counted} of 7 reads of a new, empty file");
    (0..7).for_each(|block| drop(client.read(block * 4096, 512)));
    wait_until("all replies are counted", || subject.export("ro")["commands"]["read"]["requests"] == 14);
    let again = subject.export("ro")["page_cache_reads"].as_u64().unwrap() - counted;
    let file_system = rustix::fs::statfs(std::env::temp_dir()).unwrap().f_type as u64;
    assert!(again == 7 || ![0xef53, 0x5846_5342].contains(&file_system), "{again} of 7");
}

#[test]
fn connections_are_listed_with_what_they_have_in_flight() {
    let subject = Subject::start(
        crate::Options::new()
            .export("slow=fault:delay.read=600s:mem:1M")
            .export("mem:1M")
            .shards(2)
            .memory("160M"),
    );
    let idle = Connection::attach(&subject.server, "", Mode::Simple);
    let mut busy = Connection::attach(&subject.server, "slow", Mode::Simple);
    (0..3).for_each(|block| busy.send_request(&Request::read(block * 512, 512)));
    let in_flight = |list: &serde_json::Value| list["connections"][0]["in_flight"].as_u64();
    // Each shard reports by itself, so that one may be a report behind.
    let mut list = json!(null);
    wait_until("both are listed, with three requests in flight", || {
        list = subject.json("/api/v1/connections");
        in_flight(&list) == Some(3) && list["count"] == 2
    });
    let [first, second] = &list["connections"].as_array().unwrap()[..] else { panic!("{list}") };
    assert_eq!((&first["export"], &second["export"]), (&json!("slow"), &json!("")), "{list}");
    assert_eq!(second["in_flight"], 0);
    assert_ne!(first["shard"], second["shard"], "{list}");
    for entry in [first, second] {
        let (peer, unix) = (entry["peer"].as_str().unwrap(), &entry["unix"]);
        if peer.starts_with("127.0.0.1:") {
            assert!(unix.is_null(), "{list}");
        } else {
            let (pid, uid) = (std::process::id(), rustix::process::geteuid().as_raw());
            let gid = rustix::process::getegid().as_raw();
            assert_eq!(peer, format!("unix:pid={pid},uid={uid}"));
            assert_eq!(*unix, json!({"pid": pid, "uid": uid, "gid": gid}));
        }
        assert!(entry["age_seconds"].as_f64().unwrap() > 0.0, "{list}");
    }
    let few = subject.json("/api/v1/connections?limit=1");
    assert_eq!((&few["count"], few["connections"].as_array().unwrap().len()), (&json!(2), 1));
    let of_one = subject.json("/api/v1/connections?export=slow");
    assert_eq!((&of_one["count"], &of_one["connections"][0]["id"]), (&json!(1), &first["id"]));
    let of_default = subject.json("/api/v1/connections?limit=9&export=");
    assert_eq!((&of_default["count"], &of_default["connections"][0]["id"]), (&json!(1), &second["id"]));
    assert_eq!(subject.admin.get("/api/v1/connections?export=none").status, 404);
    assert_ne!(first["id"], second["id"]);
    let mut idle = idle;
    (0..4).for_each(|block| drop(idle.read(block * 4096, 4096)));
    let of_idle = || {
        let list = subject.json("/api/v1/connections");
        let found = list["connections"].as_array().unwrap().iter().find(|of| of["id"] == second["id"]);
        found.map(|of| (of["requests"].clone(), of["bytes"].clone()))
    };
    wait_until("its requests are counted", || of_idle() == Some((json!(4), json!(4 * 4096))));
    drop(idle);
    wait_until("one connection", || subject.json("/api/v1/connections")["count"] == 1);
    assert!(subject.admin.get("/metrics").body.contains("ringnbd_requests_in_flight{shard="));
    let shards = subject.json("/api/v1/server");
    let sum: u64 =
        shards["shards"].as_array().unwrap().iter().map(|of| of["in_flight"].as_u64().unwrap()).sum();
    assert_eq!(sum, 3, "{shards}");
    // Nobody waits ten minutes.
    drop(busy);
    let mut server = subject.server;
    server.crash();
}

#[test]
fn shards_share_one_mapping_of_a_file() {
    const SIZE: u64 = 4 << 20;
    // In the file system of the build: what is mapped must be a file of the page cache.
    let image = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::write(image.path(), vec![7; SIZE as usize]).unwrap();
    let path = image.path().display();
    let exports = [format!("a={path}"), format!("b=file:{path}?mapped=false"), "c=mem:1M".to_owned()];
    let subject = Subject::start(
        exports.iter().fold(Options::new().shards(2).memory("96M"), |options, export| options.export(export)),
    );
    let mut clients = [0, 1].map(|_| Connection::attach(&subject.server, "a", Mode::Simple));
    for client in &mut clients {
        (0..SIZE / 65_536).for_each(|block| assert_eq!(client.read(block * 65_536, 65_536), [7; 65_536]));
    }
    wait_until("all replies are counted", || {
        subject.export("a")["commands"]["read"]["requests"] == 2 * SIZE / 65_536
    });
    let all = subject.json("/api/v1/connections");
    let mut shards: Vec<_> =
        all["connections"].as_array().unwrap().iter().map(|of| of["shard"].as_u64()).collect();
    shards.sort_unstable();
    assert_eq!(shards, [Some(0), Some(1)], "{all}");
    assert_eq!(subject.export("a")["page_cache_reads"], 2 * SIZE / 65_536);
    // What the kernel says.
    let mapped = mapped_by(&subject, image.path());
    assert_eq!(mapped.len(), 1, "one mapping for two shards: {mapped:?}");
    assert!(mapped[0] >= SIZE, "{mapped:?}");
    // And what the server says.
    let bytes = ["a", "b", "c"].map(|name| subject.export(name)["mapped_bytes"].as_u64().unwrap());
    assert_eq!(bytes, [mapped[0], 0, 0]);
    let line = format!("ringnbd_export_mapped_bytes{{export=\"a\"}} {}\n", mapped[0]);
    let metrics = subject.admin.get("/metrics").body;
    assert!(metrics.contains(&line), "{metrics}");
}

/// Its size is asked in each turn, which the sandbox must let pass.
#[test]
fn a_block_device_is_read_from_the_page_cache() {
    let Some(device) = LoopDevice::over(Image::random(1 << 20, 5)) else { return };
    let subject = Subject::start(Options::new().export(format!("a={}", device.path.display())));
    let mut client = Connection::attach(&subject.server, "a", Mode::Simple);
    (0..2).for_each(|_| drop(client.read(4096, 65_536)));
    let counted = || subject.export("a")["commands"]["read"]["requests"].as_u64().unwrap();
    wait_until("all replies are counted", || counted() == 2);
    let before = subject.export("a")["page_cache_reads"].as_u64().unwrap();
    (0..7).for_each(|_| drop(client.read(4096, 65_536)));
    wait_until("all replies are counted", || counted() == 9);
    assert_eq!(subject.export("a")["page_cache_reads"], before + 7);
}

#[test]
fn exports_of_one_file_have_mappings_of_their_own() {
    const SIZE: u64 = 4 << 20;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, link) = (directory.path().join("image"), directory.path().join("link"));
    std::fs::write(&path, vec![7; SIZE as usize]).unwrap();
    std::fs::hard_link(&path, &link).unwrap();
    let exports = [&path, &link].map(|path| format!("file:{}?readonly=true", path.display()));
    let options = Options::new().shards(1).export(format!("a={}", exports[0]));
    let subject = Subject::start(options.export(format!("b={}", exports[1])));
    assert!(mapped_by(&subject, directory.path()).is_empty(), "nobody has used them");
    let _clients = ["a", "b"].map(|name| {
        let mut client = Connection::attach(&subject.server, name, Mode::Simple);
        assert_eq!(client.read(0, 512), [7; 512]);
        client
    });
    let mapped = mapped_by(&subject, directory.path());
    assert_eq!(mapped.len(), 2, "{mapped:?}");
    let bytes = ["a", "b"].map(|name| subject.export(name)["mapped_bytes"].as_u64().unwrap());
    assert!(bytes.iter().all(|bytes| *bytes >= SIZE), "{bytes:?}");
    assert_eq!(bytes.iter().sum::<u64>(), mapped.iter().sum::<u64>(), "a sum counts nothing twice");
}

/// Sizes of the mappings of files below a path, as the kernel tells them.
fn mapped_by(subject: &Subject, path: &std::path::Path) -> Vec<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", subject.server.pid())).unwrap();
    let mapped = maps.lines().filter(|line| line.contains(&path.display().to_string())).map(|line| {
        let (first, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        u64::from_str_radix(end, 16).unwrap() - u64::from_str_radix(first, 16).unwrap()
    });
    mapped.collect()
}
