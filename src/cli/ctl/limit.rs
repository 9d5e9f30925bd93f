//! `ringnbd ctl limit`.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::question::{Form, Question, refused};
use crate::cli::Outcome;
use crate::cli::http::HttpAnswer;
use crate::cli::text::{json, print};
use crate::nbd::printable::printable;

/// Whose rates, and what they are from now on.
#[derive(Debug, clap::Args)]
pub(crate) struct LimitCommand {
    /// Of this export; '' is the default export
    #[arg(required_unless_present = "tenant", conflicts_with = "tenant")]
    export: Option<String>,
    /// Of this tenant: its exports share them
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// A rate, such as iops=1000, read_bytes=100M, iops_burst=500, or iops=off; the others stay
    #[arg(long = "set", value_name = "RATE=VALUE")]
    set: Vec<String>,
    /// No rate at all
    #[arg(long, conflicts_with_all = ["set", "weight"])]
    off: bool,
    /// Its part of each device, beside the weights of others: 1 to 1000, or off, which is 1; the rates stay
    #[arg(long, value_name = "N")]
    weight: Option<String>,
    #[command(flatten)]
    pub(super) form: Form,
}

pub(super) fn question(command: &LimitCommand) -> Result<Question, String> {
    let (kind, name) = match (&command.tenant, &command.export) {
        (Some(tenant), _) => ("tenants", tenant),
        (None, Some(export)) => ("exports", export),
        (None, None) => return Err("name an export, or a tenant with --tenant".to_owned()),
    };
    let target = format!("/api/v1/{kind}/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
    if command.set.is_empty() && !command.off && command.weight.is_none() {
        return Ok(Question::new("GET", target));
    }
    let mut limit = Map::new();
    for text in &command.set {
        let (rate, value) = text.split_once('=').ok_or_else(|| format!("{text} is not RATE=VALUE"))?;
        limit.insert(rate.to_owned(), if value == "off" { Value::Null } else { value.into() });
    }
    let weight = command.weight.as_deref().map(weight).transpose()?;
    let weight = weight.map(|weight| ("weight".to_owned(), weight));
    let limit = if command.off { Value::Null } else { Value::Object(limit) };
    let body = match limit {
        Value::Object(rates) if kind == "tenants" => Value::Object(rates.into_iter().chain(weight).collect()),
        null if kind == "tenants" => null,
        Value::Object(rates) if rates.is_empty() => Value::Object(weight.into_iter().collect()),
        limit => Value::Object(std::iter::once(("limit".to_owned(), limit)).chain(weight).collect()),
    };
    Ok(Question { body: body.to_string(), ..Question::new("PATCH", target) })
}

/// What is sent for a weight; the server says which ones there are.
fn weight(text: &str) -> Result<Value, String> {
    match text {
        "off" => Ok(Value::Null),
        _ => text
            .parse::<u64>()
            .map(Value::from)
            .map_err(|_| format!("{text} is no weight: say 1 to 1000, or off")),
    }
}

pub(super) fn show(command: &LimitCommand, answer: &HttpAnswer) -> Outcome {
    match answer.status {
        200 if command.form.json => print(&json(&answer.body)),
        200 => print(&in_lines(&answer.body)),
        _ => refused(answer),
    }
}

fn in_lines(body: &Value) -> String {
    let mut lines = String::new();
    if let Some(tenant) = body["export"].as_str().and(body["tenant"].as_str()) {
        lines += &format!("tenant {}\n", printable(tenant));
    }
    for (rate, value) in body["limit"].as_object().into_iter().flatten() {
        lines += &format!("{} {value}\n", printable(rate));
    }
    if let Some(weight) = body["weight"].as_u64() {
        lines += &format!("weight {weight}\n");
    }
    if lines.is_empty() { "No limit.\n".to_owned() } else { lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(tenant: bool, set: &[&str], off: bool) -> LimitCommand {
        let name = Some("a b".to_owned());
        let (export, tenant) = if tenant { (None, name) } else { (name, None) };
        let set = set.iter().map(|text| (*text).to_owned()).collect();
        LimitCommand { export, tenant, set, off, weight: None, form: Form { json: false } }
    }

    #[test]
    fn weights_are_requests() {
        let weighed = |tenant, set: &[&str], weight: &str| {
            question(&LimitCommand { weight: Some(weight.to_owned()), ..command(tenant, set, false) })
        };
        assert_eq!(weighed(false, &[], "3").unwrap().body, r#"{"weight":3}"#);
        assert_eq!(
            weighed(false, &["iops=5"], "off").unwrap().body,
            r#"{"limit":{"iops":"5"},"weight":null}"#
        );
        assert_eq!(weighed(true, &["iops=5"], "3").unwrap().body, r#"{"iops":"5","weight":3}"#);
        assert_eq!(weighed(true, &[], "off").unwrap().body, r#"{"weight":null}"#);
        assert_eq!(weighed(true, &[], "3").unwrap().method, "PATCH");
        assert!(weighed(false, &[], "much").err().unwrap().contains("1 to 1000"));
    }

    #[test]
    fn limits_are_requests() {
        let asked = question(&command(false, &["iops=1000", "bytes=off"], false)).unwrap();
        assert_eq!((asked.method, &*asked.target), ("PATCH", "/api/v1/exports/a%20b"));
        assert_eq!(asked.body, r#"{"limit":{"bytes":null,"iops":"1000"}}"#);
        let asked = question(&command(true, &[], true)).unwrap();
        assert_eq!((asked.method, &*asked.target, &*asked.body), ("PATCH", "/api/v1/tenants/a%20b", "null"));
        assert_eq!(question(&command(true, &[], false)).unwrap().method, "GET");
        assert!(question(&command(false, &["iops"], false)).is_err());
    }

    #[test]
    fn limits_have_a_line_each() {
        let body = serde_json::json!({"export": "a", "tenant": "t\u{1b}", "limit": {"iops": 10}});
        assert_eq!(in_lines(&body), "tenant t\\u{1b}\niops 10\n");
        assert_eq!(in_lines(&serde_json::json!({"tenant": "t", "limit": {}, "weight": null})), "No limit.\n");
        assert_eq!(in_lines(&serde_json::json!({"tenant": "t", "limit": {}, "weight": 3})), "weight 3\n");
    }
}
