//! The client (`ringnbd info`, `list`, `map`, and the library under them) against servers of others, of every age.
//!
//! Oracles: nbdinfo, which is another client, for what a server says of itself; and the test's own knowledge of the file for its bytes
//! and its map.

mod failures;
pub(crate) mod fake;
mod secure;
pub(crate) mod subject;

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::peers;
use crate::support::image::pattern;
use ringnbd::internal::client::{Client, Timeouts};
use serde_json::Value;
use subject::{Kind, Layout, Subject};

/// The command under test.
fn ringnbd(arguments: &[&str]) -> peers::Finished {
    peers::run(Command::new(env!("CARGO_BIN_EXE_ringnbd")).args(arguments))
}

#[track_caller]
fn json_of(arguments: &[&str]) -> Value {
    serde_json::from_str(&ringnbd(arguments).ok()).expect("the answer is JSON")
}

/// Makes one test of each line's check for each kind of server.
macro_rules! matrix {
    ($($check:ident => $($kind:ident)+;)+) => {$(
        mod $check {
            $(#[test] fn $kind() {
                // `None` is a skip, which has named itself.
                let _ = crate::client::subject::Kind::$kind().and_then(crate::client::$check);
            })+
        }
    )+};
}

matrix! {
    info_agrees_with_nbdinfo        => qemu_nbd nbdkit nbdkit_simple nbdkit_plain nbd_server ringnbd;
    info_is_a_table                 => qemu_nbd nbdkit nbdkit_simple nbdkit_plain nbd_server ringnbd;
    list_names_the_exports          => qemu_nbd nbdkit nbdkit_simple nbd_server ringnbd;
    qemus_list_is_the_same          => qemu_nbd nbdkit nbdkit_simple nbd_server ringnbd;
    map_is_that_of_the_file         => qemu_nbd nbdkit ringnbd;
    map_needs_a_context             => nbdkit_simple nbdkit_plain nbd_server;
    bytes_go_there_and_back         => qemu_nbd nbdkit nbdkit_simple nbdkit_plain ringnbd;
    an_unknown_export_is_named      => qemu_nbd nbd_server ringnbd;
}

fn info_agrees_with_nbdinfo(kind: Kind) -> Option<()> {
    let subject = Subject::serve(kind, &Layout::small())?;
    let ours = json_of(&["info", "--json", &subject.uri()]);
    assert_eq!(ours["reply_mode"], kind.reply_mode());
    assert_eq!(ours["handshake"], kind.handshake());

    let mut nbdinfo = peers::command("nbdinfo")?;
    // Without --no-content it reads the export for file(1).
    let theirs = peers::run(nbdinfo.args(["--json", "--no-content", &subject.uri()])).ok();
    let theirs: Value = serde_json::from_str(&theirs).expect("nbdinfo prints JSON");
    let export = &theirs["exports"][0];
    assert_eq!(ours["size"], Layout::small().size());
    if kind.tells_size_in_info() {
        assert_eq!(ours["size"], export["export-size"], "{export:#}");
    }
    assert_eq!(ours["read_only"], export["is_read_only"]);
    let has = |flag: &str| ours["flags"].as_array().unwrap().iter().any(|name| name == flag);
    for (flag, question) in [
        ("read_only", "is_read_only"),
        ("rotational", "is_rotational"),
        ("send_flush", "can_flush"),
        ("send_fua", "can_fua"),
        ("send_trim", "can_trim"),
        ("send_write_zeroes", "can_zero"),
        ("send_df", "can_df"),
        ("can_multi_conn", "can_multi_conn"),
        ("send_cache", "can_cache"),
        ("send_fast_zero", "can_fast_zero"),
        ("block_status_payload", "can_block_status_payload"),
    ] {
        let answer = export.get(question).and_then(Value::as_bool).unwrap_or(false);
        assert_eq!(has(flag), answer, "{flag}: {export:#}");
    }
    for size in ["minimum", "preferred", "maximum"] {
        let theirs = export.get(format!("block_size_{size}"));
        // nbdinfo has null or nothing where the server told nothing.
        assert_eq!(&ours["block_sizes"][size], theirs.unwrap_or(&Value::Null), "{export:#}");
    }
    let contexts = |list: &Value| {
        let mut names: Vec<String> = serde_json::from_value(list.clone()).unwrap_or_default();
        names.sort();
        names
    };
    // nbdinfo asks for them without structured replies too, which one "SHOULD NOT".
    if kind.reply_mode() != "simple" {
        assert_eq!(contexts(&ours["meta_contexts"]), contexts(&export["contexts"]));
    }
    let description = export.get("description").and_then(Value::as_str);
    assert_eq!(ours["description"].as_str(), description);
    Some(())
}

fn info_is_a_table(kind: Kind) -> Option<()> {
    let subject = Subject::serve(kind, &Layout::small())?;
    let table = ringnbd(&["info", &subject.uri()]).ok();
    let value = |name: &str| {
        let line = table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{table}"));
        line[name.len()..].trim().to_owned()
    };
    assert!(value("export").contains(kind.export()), "{table}");
    let flags = json_of(&["info", "--json", &subject.uri()])["flags"].clone();
    let flags: Vec<String> = serde_json::from_value(flags).unwrap();
    assert_eq!(value("flags"), flags.join(" "));
    assert_eq!(value("handshake"), kind.handshake().replace('_', " "));
    assert!(value("reply mode").starts_with(kind.reply_mode()));
    assert_eq!(value("size"), "16777216 bytes (16 MiB)");
    Some(())
}

/// QEMU's own program is the oracle for what is printed under its name.
fn qemus_list_is_the_same(kind: Kind) -> Option<()> {
    let subject = Subject::serve(kind, &Layout::small())?;
    let listed = |mut command: Command| peers::run(command.args(["--list", "-k"]).arg(subject.socket()));
    let theirs = listed(peers::command("qemu-nbd")?);
    let mut ours = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    ours.arg0("qemu-nbd");
    let ours = listed(ours);
    assert_eq!(ours.ok(), theirs.ok());
    Some(())
}

fn list_names_the_exports(kind: Kind) -> Option<()> {
    let subject = Subject::serve(kind, &Layout::small())?;
    let list = json_of(&["list", "--json", &subject.uri()]);
    let exports = list["exports"].as_array().unwrap();
    let names: Vec<&str> = exports.iter().map(|export| export["export"].as_str().unwrap()).collect();
    assert_eq!(names, kind.listed());
    let human = ringnbd(&["list", &subject.uri()]).ok();
    for export in exports {
        assert!(export["error"].is_null(), "{export:#}");
        if kind.tells_size_in_info() {
            assert_eq!(export["size"], Layout::small().size());
            assert!(human.contains(" 16 MiB "), "{human}");
        }
        // The URI of the list leads to the export.
        let info = json_of(&["info", "--json", export["uri"].as_str().unwrap()]);
        assert_eq!(info["flags"], export["flags"]);
        assert_eq!(info["block_sizes"], export["block_sizes"]);
        assert!(human.contains(export["export"].as_str().unwrap()), "{human}");
    }
    Some(())
}

fn map_is_that_of_the_file(kind: Kind) -> Option<()> {
    // The second is longer than 32 bits can tell: one request with extended headers, several without.
    for layout in [Layout::small(), Layout::large()] {
        let subject = Subject::serve(kind, &layout)?;
        let map = json_of(&["map", "--json", &subject.uri()]);
        let extents: Vec<(u64, u64, String)> = map["extents"]
            .as_array()
            .unwrap()
            .iter()
            .map(|extent| {
                let number = |key: &str| extent[key].as_u64().unwrap();
                (number("offset"), number("length"), extent["type"].as_str().unwrap().to_owned())
            })
            .collect();
        assert_eq!(extents, layout.extents());
        let total = |kind: &str| {
            let totals = map["totals"].as_array().unwrap().iter();
            totals
                .filter(|total| total["type"] == kind)
                .map(|total| total["length"].as_u64().unwrap())
                .sum::<u64>()
        };
        let data: u64 =
            layout.extents().iter().filter(|(_, _, kind)| kind == "data").map(|(_, length, _)| length).sum();
        assert_eq!((total("data"), total("hole,zero")), (data, layout.size() - data));

        let table = ringnbd(&["map", &subject.uri()]).ok();
        let rows: Vec<String> =
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(rows[0], "OFFSET LENGTH TYPE");
        for (row, (offset, length, kind)) in rows[1..].iter().zip(layout.extents()) {
            assert_eq!(*row, format!("{offset} {length} {kind}"));
        }
        let elsewhere = ringnbd(&["map", "--context", "x-test:none", &subject.uri()]);
        assert_eq!(elsewhere.status.code(), Some(2), "{elsewhere}");
        assert!(
            elsewhere.stderr.contains("choose one of these with --context: base:allocation"),
            "{elsewhere}"
        );
    }
    Some(())
}

fn map_needs_a_context(kind: Kind) -> Option<()> {
    let subject = Subject::serve(kind, &Layout::small())?;
    let finished = ringnbd(&["map", &subject.uri()]);
    assert_eq!(finished.status.code(), Some(2), "{finished}");
    assert_eq!(finished.stdout, "");
    let why = if kind.reply_mode() == "simple" { "simple replies only" } else { "offers no meta contexts" };
    assert!(finished.stderr.contains(why), "{finished}");
    Some(())
}

fn bytes_go_there_and_back(kind: Kind) -> Option<()> {
    let layout = Layout::small();
    let subject = Subject::serve(kind, &layout)?;
    let uri = subject.uri().parse().unwrap();
    let mut connection = Client::open(&uri, &[], Timeouts::default()).expect("the peer lets us in");
    let mut expected = subject.image.read(0, layout.size() as usize);
    let mut seen = vec![0xee; expected.len()];
    connection.read_at(0, &mut seen).unwrap();
    assert!(seen == expected, "the whole export, data and holes");

    for (offset, length) in [(0, 512), (65_536 - 512, 131_072), (layout.size() as usize - 4096, 4096)] {
        let data = pattern(99, offset as u64, length);
        connection.write_at(offset as u64, &data).unwrap();
        expected[offset..offset + length].copy_from_slice(&data);
        let mut back = vec![0; length];
        connection.read_at(offset as u64, &mut back).unwrap();
        assert!(back == data, "{length} bytes at {offset}");
    }
    connection.flush().unwrap();
    let beyond = connection.read_at(layout.size() - 512, &mut [0; 1024]).unwrap_err().to_string();
    assert!(beyond.contains("beyond the end"), "{beyond}");
    connection.read_at(0, &mut seen).expect("a refused range sends nothing and harms nothing");
    drop(connection);
    assert!(subject.image.read(0, layout.size() as usize) == expected, "the file behind the server's back");
    Some(())
}

fn an_unknown_export_is_named(kind: Kind) -> Option<()> {
    let subject = Subject::serve(kind, &Layout::small())?;
    for command in ["info", "map"] {
        let finished = ringnbd(&[command, &subject.uri_of("no such export")]);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains("no such export"), "{finished}");
        assert!(finished.stderr.contains("ringnbd list"), "{finished}");
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
    }
    Some(())
}
