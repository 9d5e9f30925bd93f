//! A server of objects as Google's XML API is documented: conditional PUTs by generation, ranges, lists.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::bucket::{read_message, value};

#[derive(Default)]
struct GoogleState {
    /// Generation and bytes, by key.
    objects: Mutex<BTreeMap<String, (u64, Vec<u8>)>>,
    /// Parts of uploads, by the names of these and their numbers.
    parts: Mutex<BTreeMap<(String, usize), Vec<u8>>>,
    generations: AtomicU64,
    conditions: AtomicU64,
    /// Uploads in parts that became objects.
    wholes: AtomicU64,
}

pub(super) struct FakeGoogle {
    port: u16,
    state: Arc<GoogleState>,
}

impl FakeGoogle {
    /// It ends with the process.
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(GoogleState::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.unwrap(), Arc::clone(&shared));
                std::thread::spawn(move || drop(state.answer(stream)));
            }
        });
        Self { port, state }
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Uploads in parts that became objects.
    pub(super) fn wholes(&self) -> u64 {
        self.state.wholes.load(Ordering::SeqCst)
    }

    /// Writes that had a condition.
    pub(super) fn conditions(&self) -> u64 {
        self.state.conditions.load(Ordering::SeqCst)
    }
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned()
}

fn reply(to: &mut TcpStream, status: &str, headers: &str, body: &[u8], length: usize) -> std::io::Result<()> {
    write!(to, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n")?;
    to.write_all(body)
}

impl GoogleState {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let (head, body) = read_message(&mut stream)?;
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let key = decoded(path.strip_prefix("/tier").expect("the bucket").trim_start_matches('/'));
        if key.is_empty() {
            return self.list(&mut stream, query);
        }
        if query.contains("upload") {
            return self.upload(&mut stream, (method, &key, query), body);
        }
        let mut objects = self.objects.lock().unwrap();
        let there = objects.get(&key).map_or(0, |(generation, _)| *generation);
        match method {
            "PUT" => {
                if let Some(wanted) = value(&head, "x-goog-if-generation-match") {
                    self.conditions.fetch_add(1, Ordering::SeqCst);
                    if wanted.parse::<u64>().unwrap() != there {
                        return reply(&mut stream, "412 Precondition Failed", "", b"", 0);
                    }
                }
                let generation = self.generations.fetch_add(1, Ordering::SeqCst) + 1;
                objects.insert(key, (generation, body));
                reply(&mut stream, "200 OK", &about(generation), b"", 0)
            }
            "DELETE" if there > 0 => {
                objects.remove(&key);
                reply(&mut stream, "204 No Content", "", b"", 0)
            }
            "GET" | "HEAD" if there > 0 => {
                let (generation, bytes) = objects[&key].clone();
                drop(objects);
                let range =
                    value(&head, "range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
                let (mut status, mut headers, mut part) = ("200 OK", about(generation), bytes.as_slice());
                if let Some((start, last)) = range {
                    status = "206 Partial Content";
                    headers += &format!("Content-Range: bytes {start}-{last}/{}\r\n", bytes.len());
                    part = &bytes[start.parse().unwrap()..last.parse::<usize>().unwrap() + 1];
                }
                reply(&mut stream, status, &headers, if method == "HEAD" { b"" } else { part }, part.len())
            }
            _ => reply(&mut stream, "404 Not Found", "", b"", 0),
        }
    }

    /// An object that comes in parts: it is named, its parts come, and they become one or go.
    fn upload(
        &self,
        stream: &mut TcpStream,
        (method, key, query): (&str, &str, &str),
        body: Vec<u8>,
    ) -> std::io::Result<()> {
        let of = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name));
        let id = of("uploadId=").map(decoded);
        let number = of("partNumber=").map(|number| number.parse::<usize>().unwrap());
        let mut parts = self.parts.lock().unwrap();
        match (method, id, number) {
            ("POST", None, None) => {
                let id = format!("{key}+{}", self.generations.fetch_add(1, Ordering::SeqCst));
                let text = format!(
                    "<InitiateMultipartUploadResult><Bucket>tier</Bucket><Key>{key}</Key><UploadId>{id}</UploadId>\
                     </InitiateMultipartUploadResult>"
                );
                reply(stream, "200 OK", "Content-Type: application/xml\r\n", text.as_bytes(), text.len())
            }
            ("PUT", Some(id), Some(number)) => {
                parts.insert((id, number), body);
                reply(stream, "200 OK", &about(number as u64), b"", 0)
            }
            ("POST", Some(id), None) => {
                let told = String::from_utf8(body).unwrap();
                let mine: Vec<_> = parts.range((id.clone(), 0)..=(id.clone(), usize::MAX)).collect();
                // All that came are named, in their order.
                let named = told.matches("<PartNumber>").count();
                assert!(
                    named == mine.len() && mine.iter().map(|((_, number), _)| *number).eq(1..=named),
                    "{told}"
                );
                let whole = mine.into_iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
                parts.retain(|(of, _), _| *of != id);
                let generation = self.generations.fetch_add(1, Ordering::SeqCst) + 1;
                self.objects.lock().unwrap().insert(key.to_owned(), (generation, whole));
                self.wholes.fetch_add(1, Ordering::SeqCst);
                let text = format!(
                    "<CompleteMultipartUploadResult><ETag>\"{generation}\"</ETag></CompleteMultipartUploadResult>"
                );
                reply(stream, "200 OK", &about(generation), text.as_bytes(), text.len())
            }
            ("DELETE", Some(id), None) => {
                parts.retain(|(of, _), _| *of != id);
                reply(stream, "204 No Content", "", b"", 0)
            }
            other => panic!("{other:?}"),
        }
    }

    fn list(&self, stream: &mut TcpStream, query: &str) -> std::io::Result<()> {
        let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix=")).map(decoded);
        let prefix = prefix.unwrap_or_default();
        let mut text = "<?xml version=\"1.0\"?><ListBucketResult>".to_owned();
        for (key, (generation, bytes)) in self.objects.lock().unwrap().range(prefix.clone()..) {
            if key.starts_with(&prefix) {
                text += &format!(
                    "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00Z</LastModified><ETag>\"{generation}\"</ETag></Contents>",
                    bytes.len()
                );
            }
        }
        text += "</ListBucketResult>";
        reply(stream, "200 OK", "Content-Type: application/xml\r\n", text.as_bytes(), text.len())
    }
}

fn about(generation: u64) -> String {
    format!(
        "ETag: \"{generation}\"\r\nx-goog-generation: {generation}\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    )
}
