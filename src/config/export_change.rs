//! What a client of the control socket says of an export: a JSON object, which may be hostile.
//!
//! A key that is missing leaves a value as it is, and `null` gives it back its default, as a merge patch
//! does (RFC 7396).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::export::{ExportConfig, ExportError};
use super::export_uri::ExportUri;
use super::rate::{RateError, RateLimits};
use super::weight::{Weight, WeightError};
use crate::rights::{Listing, Rule, RuleError, RuleList};

/// Why it is no export; a sentence.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum ExportChangeError {
    #[error("the body is no JSON object with the keys {KEYS}: {0}")]
    Json(String),
    #[error("\"{0}\" is no key of an export; there are {KEYS}")]
    Key(String),
    #[error("{0} is {1}, or null")]
    Kind(&'static str, &'static str),
    #[error("an export needs a uri, such as \"mem:1G\" or \"file:/srv/a.img\"")]
    NoUri,
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error("limit: {0}")]
    Rate(#[from] RateError),
    #[error(transparent)]
    Weight(#[from] WeightError),
    #[error("{0}: {1}")]
    Rule(&'static str, RuleError),
}

const KEYS: &str = "uri, description, read_only, allow, write, listed, tls, limit, tenant, weight";
/// Those that hold requests back and nothing else.
const RATE_KEYS: [&str; 3] = ["limit", "tenant", "weight"];
/// Rules of a list.
const RULES: usize = 4096;

/// Values that are to change.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ExportChange(Map<String, Value>);

impl ExportChange {
    /// Reads a body. What its values mean is looked at later.
    ///
    /// # Errors
    /// [`ExportChangeError`].
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ExportChangeError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(all)) => Ok(Self(all)),
            Ok(_) => Err(ExportChangeError::Json("it is something else".to_owned())),
            Err(error) => Err(ExportChangeError::Json(error.to_string())),
        }
    }

    /// Whether it is about nothing but rates.
    pub(crate) fn is_about_rates(&self) -> bool {
        !self.0.is_empty() && self.0.keys().all(|key| RATE_KEYS.contains(&&**key))
    }

    /// The export that comes of it: another one than `known`, or a new one.
    ///
    /// # Errors
    /// [`ExportChangeError`].
    pub(crate) fn of(
        &self,
        name: &str,
        known: Option<&ExportConfig>,
    ) -> Result<ExportConfig, ExportChangeError> {
        let mut export = match (known, self.0.get("uri")) {
            (_, Some(Value::String(text))) => {
                let uri: ExportUri = text.parse().map_err(ExportError::Uri)?;
                let own = ExportConfig::new(name, uri, None, false)?;
                match known {
                    None => own,
                    Some(known) => ExportConfig { uri: own.uri, ..known.clone() },
                }
            }
            (_, Some(_)) => return Err(ExportChangeError::Kind("uri", "a text")),
            (Some(known), None) => known.clone(),
            (None, None) => return Err(ExportChangeError::NoUri),
        };
        for (key, value) in &self.0 {
            set(&mut export, key, value)?;
        }
        Ok(export)
    }
}

/// What a tenant's rates and weight become by a body, which has the rates as `limit` of an export has them,
/// and `weight` among them. Null takes the rates away.
///
/// # Errors
/// [`ExportChangeError`].
pub(crate) fn changed_tenant(
    (limits, weight): (RateLimits, Option<Weight>),
    body: &[u8],
) -> Result<(RateLimits, Option<Weight>), ExportChangeError> {
    let mut body: Value = serde_json::from_slice(body).map_err(|_| RateError::Kind)?;
    let said = body.as_object_mut().and_then(|all| all.remove("weight"));
    let weight = said.map_or(Ok(weight), |said| Weight::patched(&said))?;
    Ok((limits.patched(&body)?, weight))
}

fn set(export: &mut ExportConfig, key: &str, value: &Value) -> Result<(), ExportChangeError> {
    match (key, value) {
        ("uri", _) => {}
        ("description", Value::Null) => export.description.clear(),
        ("description", Value::String(text)) => {
            let checked = ExportConfig::new(&export.name, export.uri.clone(), Some(text), false)?;
            export.description = checked.description;
        }
        ("description", _) => return Err(ExportChangeError::Kind("description", "a text")),
        ("read_only", Value::Null) => export.read_only = false,
        ("read_only", Value::Bool(read_only)) => export.read_only = *read_only,
        ("read_only", _) => return Err(ExportChangeError::Kind("read_only", "true or false")),
        ("allow", value) => export.rights.allow = rules("allow", value)?,
        ("write", value) => export.rights.write = rules("write", value)?,
        ("listed", value) => {
            export.rights.listed = match value.as_str() {
                None if value.is_null() => None,
                Some("always") => Some(Listing::Always),
                Some("allowed") => Some(Listing::Allowed),
                Some("never") => Some(Listing::Never),
                _ => return Err(ExportChangeError::Kind("listed", "always, allowed or never")),
            }
        }
        ("tls", Value::Null) => export.requires_tls = false,
        ("tls", Value::String(text)) if text == "required" => export.requires_tls = true,
        ("tls", _) => return Err(ExportChangeError::Kind("tls", "required")),
        ("limit", value) => export.rates.limits = export.rates.limits.patched(value)?,
        ("tenant", Value::Null) => export.rates.tenant = None,
        ("tenant", Value::String(name)) => export.rates.tenant = Some(name.clone()),
        ("tenant", _) => return Err(ExportChangeError::Kind("tenant", "the name of a tenant")),
        ("weight", value) => export.rates.weight = Weight::patched(value)?,
        (key, _) => return Err(ExportChangeError::Key(shortened(key))),
    }
    Ok(())
}

/// A key that may be as long as a body.
fn shortened(key: &str) -> String {
    key[..key.floor_char_boundary(40)].escape_debug().collect()
}

fn rules(key: &'static str, value: &Value) -> Result<Option<Arc<RuleList>>, ExportChangeError> {
    const KIND: &str = "a list of rules, such as [\"uid=1000\"]";
    let texts = match value {
        Value::Null => return Ok(None),
        Value::Array(texts) if texts.len() <= RULES => texts,
        _ => return Err(ExportChangeError::Kind(key, KIND)),
    };
    let parse = |text: &Value| {
        let text = text.as_str().ok_or(ExportChangeError::Kind(key, KIND))?;
        text.parse::<Rule>().map_err(|error| ExportChangeError::Rule(key, error))
    };
    Ok(Some(Arc::new(RuleList::new(texts.iter().map(parse).collect::<Result<_, _>>()?))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str, known: Option<&ExportConfig>) -> Result<ExportConfig, ExportChangeError> {
        ExportChange::parse(text.as_bytes())?.of("a", known)
    }

    #[test]
    fn what_is_missing_stays_and_null_is_the_default() {
        let text = r#"{"uri": "mem:1M", "description": "d", "read_only": true, "allow": ["uid=1"], "listed": "never", "tls": "required"}"#;
        let first = of(text, None).unwrap();
        assert_eq!(
            (&*first.name, &*first.description, first.read_only, first.requires_tls),
            ("a", "d", true, true)
        );
        assert!(first.rights.allow.is_some() && first.rights.write.is_none());
        assert_eq!(of("{}", Some(&first)), Ok(first.clone()));
        let text = r#"{"uri": "mem:2M", "description": null, "read_only": null, "allow": null, "write": [], "listed": null, "tls": null}"#;
        let second = of(text, Some(&first)).unwrap();
        assert_eq!(second.uri, "mem:2M".parse().unwrap());
        assert_eq!((&*second.description, second.read_only, second.requires_tls), ("", false, false));
        assert!(
            second.rights.allow.is_none() && second.rights.write.is_some() && second.rights.listed.is_none()
        );
    }

    #[test]
    fn hostile_bodies_are_refused_in_a_sentence() {
        let long = format!(r#"{{"uri": "mem:1M", "{}": 1}}"#, "é".repeat(10_000));
        for (text, words) in [
            ("", "no JSON object"),
            ("[]", "no JSON object"),
            ("{\"uri\": \"mem:1M\"", "no JSON object"),
            ("{}", "needs a uri"),
            (r#"{"uri": 5}"#, "uri is a text"),
            (r#"{"uri": null}"#, "uri is a text"),
            (r#"{"uri": "mem:10GB"}"#, "10GiB"),
            (r#"{"uri": "mem:1M", "description": "\u0000"}"#, "description"),
            (r#"{"uri": "mem:1M", "read_only": "yes"}"#, "true or false"),
            (r#"{"uri": "mem:1M", "allow": "uid=1"}"#, "list of rules"),
            (r#"{"uri": "mem:1M", "allow": [5]}"#, "list of rules"),
            (r#"{"uri": "mem:1M", "write": ["uid=x"]}"#, "write: "),
            (r#"{"uri": "mem:1M", "listed": "sometimes"}"#, "always, allowed or never"),
            (r#"{"uri": "mem:1M", "tls": "no"}"#, "tls is required"),
            (r#"{"uri": "mem:1M", "name": "b"}"#, "no key of an export"),
            (r#"{"uri": "mem:1M", "limit": {"iops": 0}}"#, "limit: iops cannot be 0"),
            (r#"{"uri": "mem:1M", "limit": [1]}"#, "limit is an object"),
            (r#"{"uri": "mem:1M", "tenant": 1}"#, "name of a tenant"),
            (r#"{"uri": "mem:1M", "weight": 0}"#, "from 1 to 1000"),
            (r#"{"uri": "mem:1M", "weight": "3"}"#, "from 1 to 1000"),
            (&long, "no key of an export"),
            (&"[".repeat(60_000), "no JSON object"),
        ] {
            let refused = of(text, None).unwrap_err().to_string();
            assert!(refused.contains(words) && refused.len() < 400, "{text:.80}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_export_or_a_sentence(bytes: Vec<u8>, key in "uri|description|allow|x", value in ".{0,40}") {
            let text = serde_json::json!({ "uri": "mem:1M", key: value }).to_string();
            for body in [&bytes[..], text.as_bytes()] {
                let _either = ExportChange::parse(body).and_then(|change| change.of("a", None));
            }
        }
    }
}
