//! This API as OpenAPI has it (3.1), of the table of routes: for generators of clients and of tests.

use hyper::Method;
use serde_json::{Map, Value, json};

use super::routes::{ROUTES, Verb};
use crate::config::{RATE_NAMES, Weight};
use crate::control::events::EventKind;
use crate::control::http::body::BODY_BYTES;

/// What is said of a verb beside its route.
struct VerbDescription {
    summary: &'static str,
    /// Parameters of the query: what they are, and whether they must be there.
    query: Vec<(&'static str, Value, bool)>,
    body: Option<RequestBody>,
    /// `If-Match` and `If-None-Match`.
    has_conditions: bool,
    /// Statuses of an answer that did what was asked.
    done: &'static [u16],
    /// Those of one that did not, beside those that every request may get.
    refused: &'static [u16],
}

struct RequestBody {
    schema: Value,
    is_required: bool,
}

impl VerbDescription {
    fn new(summary: &'static str, refused: &'static [u16]) -> Self {
        Self { summary, query: Vec::new(), body: None, has_conditions: false, done: &[200], refused }
    }

    fn query(mut self, name: &'static str, schema: Value, is_required: bool) -> Self {
        self.query.push((name, schema, is_required));
        self
    }

    fn body(mut self, schema: Value) -> Self {
        self.body = Some(RequestBody { schema, is_required: true });
        self
    }
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn flag() -> Value {
    json!({ "type": "boolean" })
}

fn bytes() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

fn list(of: &Value) -> Value {
    json!({ "type": "array", "items": of })
}

/// The same, or null.
fn or_null(of: &Value) -> Value {
    json!({ "anyOf": [of, { "type": "null" }] })
}

/// An object that may have no other keys. Those with a `!` behind them must be there.
fn object(keys: &[(&str, Value)]) -> Value {
    let name = |key: &str| key.trim_end_matches('!').to_owned();
    let required: Vec<_> =
        keys.iter().filter(|(key, _)| key.ends_with('!')).map(|(key, _)| name(key)).collect();
    let properties: Map<_, _> = keys.iter().map(|(key, of)| (name(key), of.clone())).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn weight() -> Value {
    or_null(&json!({ "type": "integer", "minimum": Weight::LEAST, "maximum": Weight::MOST }))
}

/// What a tenant's exports share.
fn tenant() -> Value {
    let mut rates = rates();
    rates["properties"]["weight"] = weight();
    or_null(&rates)
}

fn limit() -> Value {
    or_null(&rates())
}

fn rates() -> Value {
    let rate = json!({ "anyOf": [
        { "type": "integer", "minimum": 1 }, { "type": "string", "examples": ["100M"] }, { "type": "null" },
    ] });
    let keys = RATE_NAMES.into_iter().flat_map(|name| [name.to_owned(), format!("{name}_burst")]);
    let keys: Map<_, _> = keys.map(|key| (key, rate.clone())).collect();
    json!({ "type": "object", "properties": keys, "additionalProperties": false })
}

fn export(is_new: bool) -> Value {
    let uri = json!({ "type": "string", "examples": ["mem:1M", "null:1G"] });
    let rules =
        json!({ "type": "array", "items": { "type": "string", "examples": ["uid=1000", "ip=10.0.0.0/8"] } });
    object(&[
        (if is_new { "uri!" } else { "uri" }, uri),
        ("description", or_null(&text())),
        ("read_only", or_null(&flag())),
        ("allow", or_null(&rules)),
        ("write", or_null(&rules)),
        ("listed", or_null(&one_of(&["always", "allowed", "never"]))),
        ("tls", or_null(&one_of(&["required"]))),
        ("limit", limit()),
        ("tenant", or_null(&text())),
        ("weight", weight()),
    ])
}

/// What may come of a request about an export that exists, or not.
const OF_EXPORTS: &[u16] = &[404, 409, 412, 422, 503];
const OF_STORES: &[u16] = &[404, 409, 422, 424, 503];

fn describe(verb: Verb) -> VerbDescription {
    let new = VerbDescription::new;
    match verb {
        Verb::ListExports => new("The exports", &[]),
        Verb::ShowExport => new("An export", &[404]),
        Verb::PutExport => {
            let of = new("Serve an export, which is as the body says", OF_EXPORTS).body(export(true));
            VerbDescription { has_conditions: true, done: &[200, 201], ..of }
        }
        Verb::PatchExport => {
            let of = new("Change what the body says of an export", OF_EXPORTS).body(export(false));
            VerbDescription { has_conditions: true, ..of }
        }
        Verb::RemoveExport => {
            let of = new("Serve an export no more", OF_EXPORTS);
            let of = of.query("mode", one_of(&["hide", "soft", "hard"]), false);
            VerbDescription { has_conditions: true, ..of }
        }
        Verb::Resize => {
            let body = object(&[("size", or_null(&bytes())), ("shrink", flag()), ("cut_off", flag())]);
            let of = new("Give an export another size, or look at its file or device again", OF_EXPORTS);
            VerbDescription { has_conditions: true, ..of.body(body) }
        }
        Verb::ListTenants => new("The tenants", &[]),
        Verb::ShowTenant => new("A tenant", &[404]),
        Verb::PatchTenant => new("Change rates or the weight of a tenant", &[404, 422]).body(tenant()),
        Verb::ListConnections => new("The connections", &[]),
        Verb::ShowConnection => new("A connection", &[404]),
        Verb::EndConnection => new("Cut a connection off", &[404, 503]),
        Verb::Health => new("How the server is", &[]),
        Verb::ShowFigures => {
            new("What a terminal shows each second", &[]).query("since_unix_ms", bytes(), false)
        }
        Verb::Drain => VerbDescription { done: &[202], ..new("Finish what has begun, and end", &[]) },
        Verb::ShowHandover => new("What would move to a new process", &[]),
        Verb::HandOver => {
            VerbDescription { done: &[101], ..new("Begin a hand-over to a new process", &[409, 426]) }
        }
        Verb::Reload => {
            let of = new("Read the configuration again", &[409, 422, 503]);
            let of = of.query("dry_run", one_of(&["true", "false"]), false);
            let body = RequestBody { schema: object(&[("enforce", flag())]), is_required: false };
            VerbDescription { body: Some(body), ..of }
        }
        Verb::FollowEvents => {
            let of = new("Server-sent events: what happens from now on, or since an event", &[503]);
            of.query("since", text(), false)
        }
        Verb::ShowDescription => new("This description", &[]),
        Verb::ListStores => new("The stores that are open", &[]),
        Verb::AskStore(name) => ask_store(name),
        Verb::ChangeStore(name) => change_store(name),
    }
}

fn ask_store(name: &str) -> VerbDescription {
    let of = |summary| VerbDescription::new(summary, OF_STORES).query("store", text(), false);
    match name {
        "store" => of("A store as a whole"),
        "sealed" => of("What of a store is not written any more"),
        "images" => of("All images and snapshots"),
        "image" => of("An image or a snapshot").query("node", text(), true),
        "layers" => of("What snapshots consist of").query("node", text(), true).query("other", text(), false),
        _ => unreachable!("the test below asks for all"),
    }
}

fn change_store(name: &str) -> VerbDescription {
    let of = |summary, keys: &[(&str, Value)]| {
        let keys: Vec<_> = keys.iter().cloned().chain([("store", text())]).collect();
        VerbDescription::new(summary, OF_STORES).body(object(&keys))
    };
    match name {
        "gc" => of("Remove what was lost, and what nothing needs of packs", &[("grace!", bytes())]),
        "push" => {
            let keys = [("pause", or_null(&flag())), ("rate", or_null(&bytes()))];
            of("Whether snapshots come to the tier by themselves, and how fast", &keys)
        }
        "ingest" => of("Whether layers come into packs by themselves", &[("pause", or_null(&flag()))]),
        "create" => {
            let remote = or_null(&json!({ "type": "object" }));
            let keys = [
                ("image!", text()),
                ("size", or_null(&bytes())),
                ("base", or_null(&text())),
                ("remote", remote),
            ];
            of("A new image", &keys)
        }
        "snapshot" => {
            let keys = [("nodes!", list(&text())), ("changes_only", flag())];
            of("Snapshots at one point in time", &keys)
        }
        "checkpoint" => of("A snapshot, and its contents in packs", &[("node!", text())]),
        "clone_from_tier" => {
            let from = json!({ "type": "object" });
            of("Images that begin as a snapshot on a tier", &[("from!", from), ("to!", list(&text()))])
        }
        "clone" => of("Images that begin as a snapshot", &[("from!", text()), ("to!", list(&text()))]),
        "remove" => of("Remove images and snapshots", &[("nodes!", list(&text())), ("snapshots", flag())]),
        "rename" => of("Another name", &[("node!", text()), ("to!", text())]),
        "resize" => of("Another size", &[("image!", text()), ("size!", bytes()), ("shrink", flag())]),
        "rollback" => of("An image as its snapshot was", &[("node!", text()), ("force", flag())]),
        "flatten" => of("A layer of its own", &[("image!", text()), ("stop", flag())]),
        "rebase" => {
            let base = json!({ "type": "object" });
            of("Another base", &[("image!", text()), ("base!", base), ("is_unsafe", flag())])
        }
        "import" => {
            let delta = json!({ "type": "object" });
            of("A snapshot of what has changed", &[("delta!", delta), ("complete!", flag())])
        }
        _ => unreachable!("the test below asks for all"),
    }
}

/// All of it.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for (method, path, verb) in &ROUTES {
        let has_name = path.ends_with('/');
        let path = if has_name { format!("{path}{{name}}") } else { (*path).to_owned() };
        let of_path = paths.entry(path).or_insert_with(|| json!({}));
        of_path[method.as_str().to_ascii_lowercase()] = operation((method, has_name), *verb);
    }
    let error = json!({ "type": "object", "properties": { "error": text() }, "required": ["error"] });
    let events: Map<_, _> =
        EventKind::ALL.map(|(kind, keys)| (kind.name().to_owned(), json!(keys))).into_iter().collect();
    json!({
        "openapi": "3.1.0",
        "info": { "title": "ringnbd's control socket", "version": env!("CARGO_PKG_VERSION") },
        "servers": [{ "url": "http://localhost", "description": "on the unix socket of --control" }],
        "paths": paths,
        "components": { "schemas": { "Error": error } },
        "x-events": events,
        "x-longest-body": BODY_BYTES,
    })
}

fn operation((method, has_name): (&Method, bool), verb: Verb) -> Value {
    let VerbDescription { summary, query, body, has_conditions, done, refused } = describe(verb);
    let mut parameters = Vec::new();
    if has_name {
        parameters.push(json!({ "name": "name", "in": "path", "required": true, "schema": text() }));
    }
    for (name, schema, is_required) in query {
        parameters.push(json!({ "name": name, "in": "query", "required": is_required, "schema": schema }));
    }
    if has_conditions {
        for name in ["If-Match", "If-None-Match"] {
            parameters.push(json!({ "name": name, "in": "header", "required": false, "schema": text() }));
        }
    }
    let media = if verb == Verb::FollowEvents { "text/event-stream" } else { "application/json" };
    let answer = |status: u16| {
        let content = match (done.contains(&status), status) {
            (_, 101) => return (status.to_string(), json!({ "description": "HTTP ends here" })),
            (true, _) => json!({ media: { "schema": {} } }),
            // Of a reload it says more.
            (false, _) => {
                json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } })
            }
        };
        (status.to_string(), json!({ "description": meaning(status), "content": content }))
    };
    // 400: of HTTP, or a wrong condition; 403: who asks may not; 408, 413: of the body; 404: a name that is
    // no UTF-8.
    let always: &[u16] = if has_name { &[400, 403, 404, 408, 413] } else { &[400, 403, 408, 413] };
    let responses: Map<_, _> =
        done.iter().chain(refused).chain(always).map(|status| answer(*status)).collect();
    let mut all = json!({ "summary": summary, "operationId": operation_id(method, verb), "parameters": parameters, "responses": responses });
    if let Some(RequestBody { schema, is_required }) = body {
        all["requestBody"] =
            json!({ "required": is_required, "content": { "application/json": { "schema": schema } } });
    }
    all
}

fn operation_id(method: &Method, verb: Verb) -> String {
    match verb {
        Verb::AskStore(name) | Verb::ChangeStore(name) => {
            format!("{}_{name}", method.as_str().to_ascii_lowercase())
        }
        verb => format!("{verb:?}"),
    }
}

fn meaning(status: u16) -> &'static str {
    match status {
        200 => "Done, or as asked",
        201 => "It was added",
        202 => "It has begun",
        400 => "No HTTP, or a condition that is none",
        403 => "Whoever asks may not",
        404 => "There is none of that name",
        408 => "The body did not come in time",
        409 => "It cannot be done, and nothing was changed",
        412 => "It is not as If-Match or If-None-Match expects it",
        413 => "The body is too long",
        422 => "The request is not understood",
        424 => "A part of it was done, and the rest is refused",
        426 => "It is for a new process: serve --takeover",
        503 => "Not now",
        _ => unreachable!("no route answers it"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (method, path, verb) in &ROUTES {
            let path = if path.ends_with('/') { format!("{path}{{name}}") } else { (*path).to_owned() };
            let of = &document["paths"][&path][method.as_str().to_ascii_lowercase()];
            assert!(of["summary"].is_string(), "{method} {path}");
            assert!(ids.insert(of["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
            let has_body = !of["requestBody"].is_null();
            assert!(!(has_body && matches!(*method, Method::GET | Method::DELETE)), "{path}");
            let responses = of["responses"].as_object().unwrap();
            assert!(responses.len() >= 5 && !responses.contains_key("500"), "{path}");
            if let Verb::ChangeStore(_) = verb {
                assert!(of["requestBody"]["required"].as_bool().unwrap(), "{path}");
            }
        }
    }

    /// A value of a schema: the least that it allows.
    fn least(schema: &Value) -> Value {
        match schema["type"].as_str() {
            Some("string") => "vm1@a".into(),
            Some("integer") => 512.into(),
            Some("boolean") => true.into(),
            Some("array") => json!([least(&schema["items"])]),
            Some("object") => {
                let required = schema["required"].as_array().cloned().unwrap_or_default();
                let value = |key: &str| match key {
                    "image" | "to" if schema["properties"][key]["type"] == "string" => "vm1".into(),
                    "to" => json!(["vm2"]),
                    key => least(&schema["properties"][key]),
                };
                required
                    .iter()
                    .map(|key| (key.as_str().unwrap().to_owned(), value(key.as_str().unwrap())))
                    .collect::<Map<_, _>>()
                    .into()
            }
            _ => Value::Null,
        }
    }

    /// What is described of stores is what is understood.
    #[test]
    fn bodies_that_are_described_are_requests() {
        for (_, path, verb) in &ROUTES {
            let Verb::ChangeStore(name) = verb else { continue };
            // What they bring is described by the client that looked at it.
            if ["rebase", "import", "clone_from_tier"].contains(name) {
                continue;
            }
            let schema = describe(*verb).body.unwrap().schema;
            let mut body = least(&schema);
            body["verb"] = (*name).into();
            let read = serde_json::from_value::<crate::store::request::StoreRequest>(body.clone());
            assert!(read.is_ok(), "{path}: {body}: {read:?}");
            for key in schema["required"].as_array().unwrap() {
                let mut short = body.clone();
                short.as_object_mut().unwrap().remove(key.as_str().unwrap());
                let read = serde_json::from_value::<crate::store::request::StoreRequest>(short);
                assert!(read.is_err(), "{path}: {key} is no must");
            }
        }
    }
}
