//! The API's own description, and requests that a generator makes of it, right ones and wrong ones.
//!
//! Oracles: the description says which statuses an answer may have, and 500 is none of them. The server goes on,
//! and has no more descriptors and little more memory in the end.
//!
//! `RINGNBD_FUZZ_SEED` and `RINGNBD_FUZZ_REQUESTS` (for each operation) choose another run.

use serde_json::{Map, Value, json};

use crate::control::{Subject, body};
use crate::images;
use crate::live::put;
use crate::support::raw::{Connection, Mode};
use crate::support::server::Options;
use crate::support::wait_until;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

/// Names and texts that mean something to the server of this test, and others.
const TEXTS: [&str; 16] = [
    "",
    "a",
    "new",
    "golden",
    "vm1",
    "vm1@monday",
    "golden@v1",
    "vm9",
    "vm9@x",
    "0.1",
    "../etc/passwd",
    "a/b ü\u{1F4BE}",
    "\u{0}",
    "true",
    "18446744073709551616",
    "%00%ff",
];

/// A value of a schema, or, now and then, one of none.
fn value(schema: &Value, random: &mut Random) -> Value {
    if random.once_in(12) {
        let deep = (0..random.below(200)).fold(json!(1), |inner, _| json!([inner]));
        return random.pick(&[
            json!(null),
            json!(-1),
            json!(1e300),
            json!([]),
            json!({}),
            json!("x"),
            json!(u64::MAX),
            json!(true),
            deep,
        ]);
    }
    if let Some(all) = schema["anyOf"].as_array() {
        return value(&random.pick(all), random);
    }
    if let Some(all) = schema["enum"].as_array() {
        return random.pick(all);
    }
    match schema["type"].as_str() {
        Some("string") => match schema["examples"].as_array() {
            Some(examples) if !random.once_in(4) => random.pick(examples),
            _ => random.pick(&TEXTS).into(),
        },
        Some("integer") if schema["maximum"].is_u64() && !random.once_in(4) => {
            let bound = |name: &str| schema[name].as_u64().unwrap_or(0);
            random.pick(&[bound("minimum"), bound("maximum"), bound("maximum") / 2 + 1]).into()
        }
        Some("integer") => {
            random.pick(&[0, 1, 512, 4096, 1 << 20, 8 << 20, i64::MAX as u64, u64::MAX]).into()
        }
        Some("boolean") => random.once_in(2).into(),
        Some("array") => {
            (0..random.below(4)).map(|_| value(&schema["items"], random)).collect::<Vec<_>>().into()
        }
        Some("object") => {
            let mut made = Map::new();
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            for (key, of) in schema["properties"].as_object().into_iter().flatten() {
                let is_required = required.iter().any(|name| name == key);
                if (is_required && !random.once_in(12)) || random.once_in(2) {
                    made.insert(key.clone(), value(of, random));
                }
            }
            if random.once_in(16) {
                made.insert("strange".to_owned(), json!(1));
            }
            made.into()
        }
        _ => json!(null),
    }
}

/// Percent-encoded, or, now and then, as it is where that is HTTP still.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// One request for an operation, as bytes.
fn request((method, path, operation): (&str, &str, &Value), random: &mut Random) -> String {
    let (mut path, mut query, mut headers) = (path.to_owned(), Vec::new(), String::new());
    for parameter in operation["parameters"].as_array().unwrap() {
        let name = parameter["name"].as_str().unwrap();
        let value = match value(&parameter["schema"], random) {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let is_there = parameter["required"] == true && !random.once_in(12) || random.once_in(2);
        match parameter["in"].as_str().unwrap() {
            "path" => path = path.replace("{name}", &encoded(&value)),
            "query" if is_there => query.push(format!("{name}={}", encoded(&value))),
            "header" if random.once_in(6) => {
                headers += &format!(
                    "{name}: {}\r\n",
                    random.pick(&["*", "\"0.0.1\"", "\"1.0.1\"", "x", "\"a\", \"b\""])
                );
            }
            _ => {}
        }
    }
    if !query.is_empty() {
        path = format!("{path}?{}", query.join("&"));
    }
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let body = match schema {
        Value::Null => String::new(),
        schema => {
            let mut text = value(schema, random).to_string();
            if random.once_in(12) {
                text.truncate(text.floor_char_boundary(random.below(text.len() + 1)));
            }
            text
        }
    };
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).map_or(or, |text| text.parse().unwrap())
}

/// All operations of a description, but those that end the server or have no end.
fn operations(description: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            if !["Drain", "FollowEvents"].contains(&id) {
                found.push((method.to_ascii_uppercase(), path.clone(), operation.clone()));
            }
        }
    }
    found
}

#[test]
fn requests_made_of_the_description_are_answered_as_it_says() {
    let (seed, count) = (number("RINGNBD_FUZZ_SEED", 0x5eed), number("RINGNBD_FUZZ_REQUESTS", 25));
    println!("RINGNBD_FUZZ_SEED={seed} RINGNBD_FUZZ_REQUESTS={count}");
    let (_house, store) = images::store(&["vm1"]);
    let subject = Subject::start(
        Options::new().export("mem:1M").export("a=mem:1M").export(format!("store:{}", store.display())),
    );
    let description = body(&subject.socket().get("/api/v1/openapi.json"));
    assert_eq!(description["openapi"], "3.1.0");
    let operations = operations(&description);
    assert!(operations.len() > 30, "{}", operations.len());
    let mut client = Connection::attach(&subject.server, "", Mode::Simple);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", subject.server.pid())).unwrap().count();
    let mut random = Random(seed);
    let mut round = |rounds: u64| {
        let mut succeeded = std::collections::BTreeSet::new();
        for _ in 0..rounds {
            for (method, path, operation) in &operations {
                let text = request((method, path, operation), &mut random);
                let answer = subject.socket().raw(text.as_bytes());
                let status = answer.status.to_string();
                let is_described = !operation["responses"][&status].is_null();
                assert!(
                    is_described,
                    "{status} is not described:\n{text:.2000}\n\n{answer:?}\n{:?}",
                    subject.server.complaints()
                );
                assert_eq!(answer.header("content-type"), "application/json", "{text:.2000}");
                let told: Value =
                    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
                if answer.status >= 400 {
                    assert!(
                        told["error"].is_string() && answer.body.len() < 8 << 10,
                        "{text:.2000}\n\n{answer:?}"
                    );
                } else {
                    succeeded.insert(operation["operationId"].as_str().unwrap().to_owned());
                }
            }
        }
        succeeded
    };
    // What stays open afterwards: an image that somebody looked at, memory that was touched.
    round(2);
    let (before, resident) = (descriptors(), subject.server.resident());
    let succeeded = round(count);
    assert!(
        succeeded.len() * 2 > operations.len(),
        "the generator makes little that is right: {succeeded:?}"
    );
    // All that it has added goes again.
    for export in body(&subject.socket().get("/api/v1/exports"))["exports"].as_array().unwrap() {
        let name = encoded(export["export"].as_str().unwrap());
        if export["export"] != "" {
            drop(subject.socket().ask("DELETE", &format!("/api/v1/exports/{name}?mode=hard"), ""));
        }
    }
    // An image that was made has files of its own while it is open.
    wait_until("its descriptors to go", || descriptors() <= before + 24);
    let grown = subject.server.resident().saturating_sub(resident);
    assert!(grown < 64 << 20, "{grown} bytes");
    drop(put(&subject, "", &json!({"uri": "mem:1M"})));
    drop(client.try_send(b""));
    assert_eq!(subject.socket().get("/api/v1/health").status, 200);
}
