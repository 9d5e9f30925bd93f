//! Responses, and what a query says.

use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;

pub(in crate::control) const HTML: &str = "text/html; charset=utf-8";
pub(in crate::control) const JSON: &str = "application/json";
pub(in crate::control) const TEXT: &str = "text/plain; charset=utf-8";

/// The dashboard's own script and style, and nothing else from anywhere.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The values of a name in the query, as they came.
fn values<'a, B>(request: &'a Request<B>, name: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value)
}

/// A number of the query.
pub(in crate::control) fn number<B>(request: &Request<B>, name: &str) -> Option<u64> {
    values(request, name).find_map(|value| value.parse().ok())
}

/// A text of the query, percent-encoded as encodeURIComponent does it.
pub(in crate::control) fn text<B>(request: &Request<B>, name: &str) -> Option<String> {
    let text = percent_encoding::percent_decode_str(values(request, name).next()?);
    Some(text.decode_utf8_lossy().into_owned())
}

/// Plain data as JSON.
pub(in crate::control) fn json(status: StatusCode, value: &impl Serialize) -> Response<String> {
    let text = serde_json::to_string(value).expect("plain data has a JSON form");
    reply(status, JSON, text)
}

/// Why there is no other answer, as JSON.
pub(in crate::control) fn error(status: StatusCode, sentence: &str) -> Response<String> {
    json(status, &serde_json::json!({ "error": sentence }))
}

pub(in crate::control) fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fields = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
    ];
    for (name, value) in fields {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_query() {
        let request = |uri: &str| Request::builder().uri(uri).body(()).unwrap();
        assert_eq!(number(&request("/x?limit=5"), "limit"), Some(5));
        assert_eq!(number(&request("/x?a=1&limit=7&limit=8"), "limit"), Some(7));
        for uri in ["/x", "/x?", "/x?limit", "/x?limit=", "/x?limit=-1", "/x?limit=1e9", "/x?%6cimit=1"] {
            assert_eq!(number(&request(uri), "limit"), None, "{uri}");
        }
    }

    #[test]
    fn texts_of_the_query_are_decoded() {
        let request = |uri: &str| Request::builder().uri(uri).body(()).unwrap();
        let of = |uri: &str| text(&request(uri), "export");
        assert_eq!(of("/x?a=1&export=a%20%22b%26%C3%A9").as_deref(), Some("a \"b&é"));
        assert_eq!(of("/x?export=").as_deref(), Some(""), "the default export");
        assert_eq!((of("/x"), of("/x?export")), (None, None));
    }
}
