//! What a client expects of an export before it is changed: `If-Match` and `If-None-Match` (RFC 9110, 13.1).

use hyper::HeaderMap;
use hyper::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};

/// What must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::control) struct Condition {
    /// The export has one of these tags, or, when there are none, any.
    if_match: Option<Vec<String>>,
    /// There is no export of the name.
    is_new: bool,
}

impl Condition {
    /// The fields of a request; a sentence for what is none of them.
    pub(in crate::control) fn of(headers: &HeaderMap) -> Result<Self, &'static str> {
        let is_new = match texts(headers, &IF_NONE_MATCH)?.as_slice() {
            [] => false,
            [any] if any == "*" => true,
            _ => return Err("If-None-Match can only be *: that there is no export of that name"),
        };
        let tags = texts(headers, &IF_MATCH)?;
        let if_match = match tags.as_slice() {
            [] => None,
            [any] if any == "*" => Some(Vec::new()),
            tags => Some(tags.iter().map(|tag| unquoted(tag)).collect::<Option<_>>().ok_or(TAGS)?),
        };
        Ok(Self { if_match, is_new })
    }

    /// Whether it holds for an export with a tag, or for one that is not there.
    pub(in crate::control) fn holds(&self, tag: Option<&str>) -> bool {
        let matches = match (&self.if_match, tag) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(tags), Some(tag)) => tags.is_empty() || tags.iter().any(|of| of == tag),
        };
        matches && !(self.is_new && tag.is_some())
    }
}

const TAGS: &str = "If-Match is * or a list of tags in quotes, each the etag of an export";

/// The parts of a field, which may stand there several times.
fn texts(headers: &HeaderMap, name: &HeaderName) -> Result<Vec<String>, &'static str> {
    let mut texts = Vec::new();
    for value in headers.get_all(name) {
        let value = value.to_str().map_err(|_| TAGS)?;
        texts.extend(value.split(',').map(|text| text.trim().to_owned()));
    }
    Ok(texts)
}

fn unquoted(text: &str) -> Option<String> {
    let tag = text.strip_prefix('"')?.strip_suffix('"')?;
    (!tag.contains('"')).then(|| tag.to_owned())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn condition(fields: &[(HeaderName, &str)]) -> Result<Condition, &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        Condition::of(&headers)
    }

    #[test]
    fn an_export_is_as_its_client_has_seen_it() {
        for (fields, of_none, of_this, of_another) in [
            (&[][..], true, true, true),
            (&[(IF_MATCH, "*")], false, true, true),
            (&[(IF_MATCH, "\"1.0.2\"")], false, true, false),
            (&[(IF_MATCH, "\"9.9.9\" , \"1.0.2\"")], false, true, false),
            (&[(IF_MATCH, "\"9.9.9\""), (IF_MATCH, "\"1.0.2\"")], false, true, false),
            (&[(IF_NONE_MATCH, "*")], true, false, false),
            (&[(IF_NONE_MATCH, "*"), (IF_MATCH, "*")], false, false, false),
        ] {
            let condition = condition(fields).unwrap();
            let found = [None, Some("1.0.2"), Some("1.0.3")].map(|tag| condition.holds(tag));
            assert_eq!(found, [of_none, of_this, of_another], "{fields:?}");
        }
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        for field in [
            (IF_MATCH, "1.0.2"),
            (IF_MATCH, ""),
            (IF_MATCH, "\""),
            (IF_MATCH, "W/\"1.0.2\""),
            (IF_MATCH, "*, \"1.0.2\""),
            (IF_MATCH, "\"a\"b\""),
            (IF_NONE_MATCH, "\"1.0.2\""),
        ] {
            assert!(condition(std::slice::from_ref(&field)).is_err(), "{field:?}");
        }
    }
}
