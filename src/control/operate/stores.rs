//! Requests about stores: from HTTP to [`StoreRequest`], and back.

use std::path::PathBuf;

use hyper::{Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::Operator;
use crate::control::events::EventKind;
use crate::control::http::reply::{error, json};
use crate::identity::PeerIdentity;
use crate::store::request::StoreRequest;

/// What a request says: which store, and what.
#[derive(Debug, PartialEq)]
struct StoreQuestion {
    store: Option<PathBuf>,
    request: StoreRequest,
}

/// Reads the parameters of a request. A GET has them in its query, and a POST in its body.
fn question(verb: &str, query: Option<&str>, body: &[u8]) -> Result<StoreQuestion, String> {
    let mut all = match query {
        Some(query) => from_query(query)?,
        None => match serde_json::from_slice(body) {
            Ok(Value::Object(all)) => all,
            Ok(_) => return Err("the body is no JSON object".to_owned()),
            Err(error) => return Err(format!("the body is no JSON object: {error}")),
        },
    };
    let store = match all.remove("store") {
        None => None,
        Some(Value::String(path)) if path.starts_with('/') => Some(PathBuf::from(path)),
        Some(_) => return Err("store is the absolute path of the directory of a store".to_owned()),
    };
    if all.insert("verb".to_owned(), verb.into()).is_some() {
        return Err("verb stands in the path, and nowhere else".to_owned());
    }
    let request = serde_json::from_value(Value::Object(all));
    let request = request.map_err(|error| format!("the request is not understood: {error}"))?;
    Ok(StoreQuestion { store, request })
}

/// `a=b&c=d`, percent-encoded.
fn from_query(query: &str) -> Result<Map<String, Value>, String> {
    let mut all = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = percent_decode_str(value).decode_utf8();
        let text = decoded.map_err(|_| format!("{name} is not UTF-8"))?;
        if all.insert(name.to_owned(), text.into_owned().into()).is_some() {
            return Err(format!("{name} stands in the query twice"));
        }
    }
    Ok(all)
}

impl Operator {
    /// Carries a request about a store out.
    pub(super) async fn of_store(
        &self,
        verb: &'static str,
        (query, body): (Option<&str>, &[u8]),
        peer: &PeerIdentity,
    ) -> Response<String> {
        let StoreQuestion { store, request } = match question(verb, query, body) {
            Ok(question) => question,
            Err(sentence) => return error(StatusCode::UNPROCESSABLE_ENTITY, &sentence),
        };
        if query.is_none() {
            let store = store.as_deref().map(|store| tracing::field::display(store.display()));
            tracing::info!(%peer, store, verb, "a change of a store was asked for");
        }
        let told = store.as_ref().map(|store| store.display().to_string());
        match self.stores.perform(store, request).await {
            Ok(answer) => {
                if query.is_none() {
                    let told = serde_json::json!({ "store": told, "verb": verb });
                    self.plane.events.tell(EventKind::StoreChanged, told);
                }
                json(StatusCode::OK, &answer)
            }
            Err(refusal) => {
                if refusal.status() == StatusCode::INTERNAL_SERVER_ERROR {
                    tracing::error!(error = %refusal, "a request about a store failed");
                }
                error(refusal.status(), &refusal.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_come_in_the_query_or_in_the_body() {
        let found = question("image", Some("store=%2Fsrv%2Fa%20b&node=vm1%40monday"), b"").unwrap();
        let node = "vm1@monday".parse().unwrap();
        assert_eq!(found.store.unwrap().to_str(), Some("/srv/a b"));
        assert_eq!(found.request, StoreRequest::Image { node });
        let body = br#"{"image": "vm1", "size": 512}"#;
        let found = question("resize", None, body).unwrap();
        assert_eq!(found.store, None);
        let image = "vm1".parse().unwrap();
        assert_eq!(found.request, StoreRequest::Resize { image, size: 512, shrink: false });
    }

    #[test]
    fn hostile_parameters_are_refused_in_a_sentence() {
        for (verb, query, body, words) in [
            ("image", Some("node=..%2F..%2Fetc"), "", "is not a name"),
            ("image", Some("node=%ff"), "", "not UTF-8"),
            ("image", Some("node=a&node=b"), "", "twice"),
            ("images", Some("store=relative"), "", "absolute"),
            ("image", Some(""), "", "missing field"),
            ("remove", None, "[1]", "no JSON object"),
            ("remove", None, "{", "no JSON object"),
            ("remove", None, r#"{"nodes": ["a"], "verb": "images"}"#, "verb"),
            ("remove", None, r#"{"nodes": ["a"], "all": true}"#, "unknown field"),
            ("remove", None, r#"{"nodes": ["a"], "store": 5}"#, "absolute"),
            ("resize", None, r#"{"image": "a", "size": 1e40}"#, "not understood"),
        ] {
            let refused = question(verb, query, body.as_bytes()).unwrap_err();
            assert!(refused.contains(words), "{verb} {query:?} {body}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_a_sentence(query in ".{0,80}", body: Vec<u8>) {
            for verb in ["images", "image", "create", "snapshot", "clone", "remove", "gc", "nothing"] {
                let _either = question(verb, Some(&query), b"");
                let _either = question(verb, None, &body);
            }
        }
    }
}
