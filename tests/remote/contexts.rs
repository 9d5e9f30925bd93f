//! Meta contexts of another server, offered and answered by ours.
//!
//! Oracles: what nbdinfo is told by the other server itself; numbers that the test chose.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::far::{Far, Kind};
use super::{SIZE, near};
use crate::client::fake::{greeting, reply};
use crate::images::Store;
use crate::peers;
use crate::support::server::{Options, Server};
use ringnbd::internal::client::{Client, ClientError, Timeouts, info};

const BITMAP: &str = "qemu:dirty-bitmap:b0";
const DEPTH: &str = "qemu:allocation-depth";

fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    let mut command = peers::command(name)?;
    Some(peers::run(command.args(arguments)).ok())
}

/// A context as nbdinfo is told of it: offset, length and number of each extent, those that are equal merged.
fn map_of(uri: &str, context: &str) -> Option<Vec<(u64, u64, u64)>> {
    let text = tool("nbdinfo", &["--json", &format!("--map={context}"), uri])?;
    let parts: Value = serde_json::from_str(&text).unwrap();
    let mut merged: Vec<(u64, u64, u64)> = Vec::new();
    for part in parts.as_array().unwrap() {
        let [offset, length, number] = ["offset", "length", "type"].map(|key| part[key].as_u64().unwrap());
        match merged.last_mut() {
            Some(last) if last.2 == number => last.1 += length,
            _ => merged.push((offset, length, number)),
        }
    }
    Some(merged)
}

fn offered(server: &Server) -> Vec<String> {
    let uri = server.uri("x").parse().unwrap();
    info(&uri, Timeouts::default()).unwrap().1.contexts.expect("it tells")
}

fn select(server: &Server, contexts: &[&str]) -> Client {
    let contexts: Vec<_> = contexts.iter().map(|context| (*context).to_owned()).collect();
    let client = Client::open(&server.uri("x").parse().unwrap(), &contexts, Timeouts::default()).unwrap();
    assert_eq!(client.transmission().contexts.len(), contexts.len(), "each is there to be selected");
    client
}

fn id(client: &Client, name: &str) -> u32 {
    let contexts = &client.transmission().contexts;
    contexts.iter().find(|context| context.name == name).expect("it was selected").id
}

fn errno<T: std::fmt::Debug>(result: Result<T, ClientError>) -> i32 {
    match result {
        Err(ClientError::Request { error, .. }) => error.errno(),
        other => panic!("an error reply was expected: {other:?}"),
    }
}

/// A qcow2 on another one, written in both, with a bitmap of what was written last.
fn qcow2(directory: &Path) -> Option<std::path::PathBuf> {
    let (base, top) = (directory.join("base.qcow2"), directory.join("top.qcow2"));
    let (base, top) = (base.to_str().unwrap(), top.to_str().unwrap());
    tool("qemu-img", &["create", "-q", "-f", "qcow2", base, &SIZE.to_string()])?;
    tool("qemu-io", &["-f", "qcow2", "-c", "write -P 1 1M 1M", base])?;
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, top])?;
    tool("qemu-io", &["-f", "qcow2", "-c", "write -P 2 8M 192k", top])?;
    tool("qemu-img", &["bitmap", "--add", "-f", "qcow2", top, "b0"])?;
    tool("qemu-io", &["-f", "qcow2", "-c", "write -P 3 3M 64k", "-c", "write -P 3 12M 256k", top])?;
    // A bitmap that goes on is of no use after a kill.
    tool("qemu-img", &["bitmap", "--disable", "-f", "qcow2", top, "b0"])?;
    Some(top.into())
}

/// What structured and extended clients are told, by filters of a list and by a status.
const ASK: &str = r#"
import os
def entered(extended):
    h = nbd.NBD()
    h.set_request_extended_headers(extended)
    h.set_opt_mode(True)
    h.connect_uri(os.environ["URI"])
    return h
for extended in [True, False]:
    h = entered(extended)
    h.set_export_name(os.environ["EXPORT"])
    for queries in [[], ["qemu:"], ["qemu:dirty-bitmap:"], ["qemu:dirty-bitmap:b0"], ["x-other:"]]:
        found = []
        h.opt_list_meta_context_queries(queries, found.append)
        print(extended, queries, sorted(found))
    h.add_meta_context("base:allocation")
    h.add_meta_context("qemu:dirty-bitmap:b0")
    h.opt_go()
    assert h.get_extended_headers_negotiated() == extended
    told = []
    def note(context, offset, entries, error):
        told.append((context, offset, entries))
    h.block_status(4 << 20, 2 << 20, note)
    h.block_status(1 << 20, 3 << 20, note, nbd.CMD_FLAG_REQ_ONE)
    print(sorted(told))
    h.shutdown()
"#;

fn asked(server_uri: &str, export: &str) -> Option<String> {
    let mut nbdsh = peers::command("nbdsh")?;
    nbdsh.args(["-n", "-c", ASK]).env("URI", server_uri).env("EXPORT", export);
    Some(peers::run(&mut nbdsh).ok())
}

#[test]
fn contexts_of_qemu_nbd_say_what_it_says_itself() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = qcow2(directory.path()) else { return };
    let arguments = ["--read-only", "--allocation-depth", "--bitmap=b0"];
    let Some(mut far) = Far::of_file(Kind::QemuNbd, &disk, &arguments) else { return };
    let near = near(&far, "connections=2&reconnect=60s");
    assert_eq!(offered(&near), ["base:allocation", DEPTH, BITMAP]);
    for context in ["base:allocation", DEPTH, BITMAP] {
        let direct = map_of(&far.uri(), context).unwrap();
        assert!(direct.len() > 3, "{context} tells something: {direct:?}");
        assert_eq!(map_of(&near.uri("x"), context).unwrap(), direct, "{context}");
    }
    let (direct, through) = (asked(&far.uri(), "disk").unwrap(), asked(&near.uri("x"), "x").unwrap());
    assert!(direct.contains("('qemu:dirty-bitmap:b0', 2097152,"), "{direct}");
    assert_eq!(through, direct);

    // Without its bitmap it says nothing of that, and what it says of the rest is passed on.
    let mut client = select(&near, &["base:allocation", BITMAP]);
    let mut others = select(&near, &[DEPTH]);
    far.set_arguments(&arguments[..2]);
    far.restart().unwrap();
    assert_eq!(errno(client.block_status(id(&client, BITMAP), 0, SIZE)), 5);
    client.block_status(id(&client, "base:allocation"), 0, SIZE).expect("that is still there");
    others.block_status(id(&others, DEPTH), 0, SIZE).expect("that too");
    // It has another id now, perhaps.
    far.set_arguments(&["--read-only", "--bitmap=b0"]);
    far.restart().unwrap();
    let direct = map_of(&far.uri(), BITMAP).unwrap();
    assert_eq!(map_of(&near.uri("x"), BITMAP).unwrap(), direct);
    client.block_status(id(&client, BITMAP), 0, SIZE).expect("it is there again");
    assert!(!near.complaints().iter().any(|line| line.contains("protocol")), "{:?}", near.complaints());
}

/// One of our servers in front of another one, which has an image with snapshots.
#[test]
fn contexts_of_an_image_come_through_two_servers() {
    let store = Store::init();
    std::fs::write(store.directory().join("base.raw"), vec![7; SIZE as usize / 2]).unwrap();
    store.run("image create STORE/vm --base file:DIR/base.raw").ok();
    for (snapshot, at) in [("a", 64_u64 << 10), ("b", 1 << 20)] {
        let mut server = Options::new().export(format!("x=store:{}/vm", store.path().display())).start();
        select(&server, &[]).write_at(at, &[1; 8192]).unwrap();
        server.stop();
        store.run(&format!("image snapshot STORE/vm@{snapshot}")).ok();
    }
    let far = Options::new().export(format!("disk=store:{}/vm", store.path().display())).start();
    let middle = Options::new().export(format!("disk={}&reconnect=60s", far.uri("disk"))).start();
    let near = Options::new().export(format!("x={}&reconnect=60s", middle.uri("disk"))).start();
    select(&near, &[]).write_at(2 << 20, &[2; 4096]).unwrap();
    let (since_a, since_b) = ("qemu:dirty-bitmap:a", "qemu:dirty-bitmap:b");
    assert_eq!(offered(&near), ["base:allocation", DEPTH, since_a, since_b]);
    let mut client = select(&near, &["base:allocation", DEPTH, since_a, since_b]);
    let mut direct = Client::open(
        &far.uri("disk").parse().unwrap(),
        &["base:allocation", DEPTH, since_a, since_b].map(str::to_owned),
        Timeouts::default(),
    )
    .unwrap();
    let walked = |client: &mut Client, context: &str| {
        let (id, mut parts) = (id(client, context), Vec::<(u64, u64)>::new());
        let walked = client.walk(id, |extent| -> Result<(), ClientError> {
            match parts.last_mut() {
                Some(last) if last.1 == extent.flags => last.0 += extent.length,
                _ => parts.push((extent.length, extent.flags)),
            }
            Ok(())
        });
        walked.unwrap();
        parts
    };
    for context in [DEPTH, since_a, since_b] {
        let told = walked(&mut client, context);
        assert_eq!(told, walked(&mut direct, context), "{context}");
        assert!(told.len() >= 3, "{context} tells something: {told:?}");
    }
    assert_eq!(walked(&mut client, since_b), [(2 << 20, 0), (4096, 1), ((6 << 20) - 4096, 0)]);
}

/// Far more contexts than anybody needs, with numbers of more than 32 bits, and one extent where nothing is asked.
struct ManyContexts {
    /// How many queries there were in each SET_META_CONTEXT.
    selected: Arc<Mutex<Vec<usize>>>,
}

const OFFERED: usize = 3000;

impl ManyContexts {
    fn listen(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let selected = Arc::<Mutex<Vec<usize>>>::default();
        let noted = Arc::clone(&selected);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let noted = Arc::clone(&noted);
                std::thread::spawn(move || talk(stream, &noted));
            }
        });
        Self { selected }
    }
}

fn talk(mut stream: UnixStream, noted: &Mutex<Vec<usize>>) -> std::io::Result<()> {
    stream.write_all(&greeting())?;
    stream.read_exact(&mut [0; 4])?;
    let export = [&[0, 0][..], &SIZE.to_be_bytes(), &[0, 1]].concat();
    let mut selected: Vec<String> = Vec::new();
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let option = u32::from_be_bytes(header[8..12].try_into().unwrap());
        let mut data = vec![0; u32::from_be_bytes(header[12..].try_into().unwrap()) as usize];
        stream.read_exact(&mut data)?;
        let told = |names: &[String]| -> Vec<u8> {
            let context = |(number, name): (usize, &String)| {
                reply(option, 4, &[&(number as u32 + 1).to_be_bytes(), name.as_bytes()].concat())
            };
            names.iter().enumerate().flat_map(context).collect()
        };
        let mut answer = match option {
            9 => told(&(0..OFFERED).map(|number| format!("x:{number}")).collect::<Vec<_>>()),
            10 => {
                selected = queries(&data).into_iter().filter(|name| name.starts_with("x:")).collect();
                noted.lock().unwrap().push(selected.len());
                told(&selected)
            }
            6 | 7 => reply(option, 3, &export),
            _ => Vec::new(),
        };
        answer.extend(reply(option, 1, &[]));
        stream.write_all(&answer)?;
        match option {
            2 => return Ok(()),
            7 => break,
            _ => {}
        }
    }
    loop {
        let mut request = [0; 32];
        stream.read_exact(&mut request)?;
        if request[6..8] != [0, 7] {
            return Ok(());
        }
        let mut answer = Vec::new();
        for (place, name) in selected.iter().enumerate() {
            let done = u16::from(place + 1 == selected.len());
            let number: u64 = name[2..].parse().unwrap();
            answer.extend(0x6e8a_278c_u32.to_be_bytes());
            answer.extend([done, 6].map(u16::to_be_bytes).concat());
            answer.extend_from_slice(&request[8..24]);
            answer.extend(40_u64.to_be_bytes());
            answer.extend([place as u32 + 1, 2].map(u32::to_be_bytes).concat());
            answer.extend([4096, 1 << 40 | number, SIZE, number].map(u64::to_be_bytes).concat());
        }
        stream.write_all(&answer)?;
    }
}

/// The names of a SET_META_CONTEXT.
fn queries(mut data: &[u8]) -> Vec<String> {
    let number = |data: &mut &[u8]| {
        let (front, rest) = data.split_first_chunk().unwrap();
        *data = rest;
        u32::from_be_bytes(*front) as usize
    };
    let text = |data: &mut &[u8]| {
        let length = number(data);
        let (text, rest) = data.split_at(length);
        *data = rest;
        String::from_utf8(text.to_vec()).unwrap()
    };
    text(&mut data);
    (0..number(&mut data)).map(|_| text(&mut data)).collect()
}

#[test]
fn thousands_of_contexts_are_cut_to_what_a_client_can_select() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let remote = ManyContexts::listen(&socket);
    let near = Options::new().export(format!("x=nbd+unix:///d?socket={}", socket.display())).start();
    let names = offered(&near);
    assert_eq!(names.len(), 63, "base:allocation, and 62 more");
    assert_eq!((names[1].as_str(), names[62].as_str()), ("x:0", "x:61"));
    assert_eq!(*remote.selected.lock().unwrap(), [62]);
    crate::support::wait_until("it is told", || near.stderr().contains("no more than 62"));
    // All 64 bits of what they say come through, and none of what another one says.
    let mut client = select(&near, &["x:7", "base:allocation", "x:61"]);
    for number in [7, 61] {
        let context = id(&client, &format!("x:{number}"));
        let told = client.block_status(context, 0, 1 << 20).unwrap();
        let told: Vec<_> = told.iter().map(|extent| (extent.length, extent.flags)).collect();
        assert_eq!(told, [(4096, 1 << 40 | number), ((1 << 20) - 4096, number)]);
    }
}
