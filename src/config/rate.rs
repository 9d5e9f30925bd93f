//! How many requests and bytes a second an export may have: as it is written in the configuration file and in
//! JSON.

use std::fmt;

use serde_json::{Map, Value};

use super::size::parse_size;
use super::weight::Weight;

/// How much, and how much at once after a rest. In requests or in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// At least one.
    pub per_second: u64,
    pub burst: u64,
}

/// What a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RateUnit {
    Requests,
    Bytes,
}

/// Which requests a rate holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RateScope {
    Total,
    Read,
    Write,
}

/// A rate's unit and scope, and what it is called.
pub(crate) const RATE_KINDS: [(&str, RateUnit, RateScope); 6] = [
    ("iops", RateUnit::Requests, RateScope::Total),
    ("read_iops", RateUnit::Requests, RateScope::Read),
    ("write_iops", RateUnit::Requests, RateScope::Write),
    ("bytes", RateUnit::Bytes, RateScope::Total),
    ("read_bytes", RateUnit::Bytes, RateScope::Read),
    ("write_bytes", RateUnit::Bytes, RateScope::Write),
];

/// What they are called.
pub(crate) const RATE_NAMES: [&str; RATE_KINDS.len()] =
    ["iops", "read_iops", "write_iops", "bytes", "read_bytes", "write_bytes"];

/// All that holds the requests of an export or a tenant back; by default nothing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits([Option<Rate>; RATE_KINDS.len()]);

/// What an export says of rates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportRates {
    /// Its own.
    pub limits: RateLimits,
    /// It shares the rates of this tenant, and its part of each device.
    pub tenant: Option<String>,
    /// What it gets of a device beside others.
    pub weight: Option<Weight>,
}

/// `[[tenant]]`: exports that share rates, and one part of each device.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    /// By which exports name it.
    pub name: String,
    #[serde(default)]
    pub limit: RateLimits,
    pub weight: Option<Weight>,
}

/// Why it is none; a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RateError {
    #[error("{0} is a number that is at least 1, such as 1000, or a text with a unit, such as \"100M\"")]
    Number(String),
    #[error("{0} cannot be 0: nothing would ever begin; leave it out to have no limit")]
    Zero(String),
    #[error("{0} needs a rate: say {1} too")]
    BurstAlone(String, String),
    #[error(
        "\"{0}\" is no limit; there are iops, bytes, read_iops, read_bytes, write_iops, write_bytes, each with _burst too"
    )]
    Key(String),
    #[error("limit is an object, such as {{\"iops\": 1000, \"bytes\": \"100M\"}}, or null")]
    Kind,
}

const BURST: &str = "_burst";

impl RateLimits {
    /// Whether nothing is held back.
    pub fn is_unlimited(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The rates that there are.
    pub(crate) fn rates(&self) -> impl Iterator<Item = (RateUnit, RateScope, Rate)> {
        let all = RATE_KINDS.into_iter().zip(self.0);
        all.filter_map(|((_, unit, scope), rate)| Some((unit, scope, rate?)))
    }

    /// Reads values by their names. What is not said stays as it is here, and null takes a limit away, as a
    /// merge patch does (RFC 7396). A rate that goes takes its burst along.
    ///
    /// # Errors
    /// [`RateError`].
    pub(crate) fn changed<'a>(
        self,
        values: impl Iterator<Item = (&'a str, &'a Value)>,
    ) -> Result<Self, RateError> {
        let mut rates = self.0.map(|rate| rate.map(|rate| rate.per_second));
        let mut bursts = self.0.map(|rate| rate.map(|rate| rate.burst));
        let mut said = [false; RATE_KINDS.len()];
        for (key, value) in values {
            let name = key.replace('-', "_");
            let (stem, is_burst) = match name.strip_suffix(BURST) {
                Some(stem) => (stem, true),
                None => (&*name, false),
            };
            let index = RATE_KINDS.iter().position(|(known, ..)| *known == stem);
            let index = index.ok_or_else(|| RateError::Key(shortened(key)))?;
            let number = number(key, value)?;
            match (is_burst, number) {
                (true, number) => {
                    said[index] = number.is_some();
                    bursts[index] = number;
                }
                (false, Some(0)) => return Err(RateError::Zero(name)),
                (false, number) => rates[index] = number,
            }
        }
        let mut limits = Self::default();
        for (index, (name, ..)) in RATE_KINDS.into_iter().enumerate() {
            limits.0[index] = match rates[index] {
                None if said[index] => {
                    return Err(RateError::BurstAlone(format!("{name}{BURST}"), name.to_owned()));
                }
                None => None,
                Some(per_second) => Some(Rate { per_second, burst: bursts[index].unwrap_or(0) }),
            };
        }
        Ok(limits)
    }

    /// The same of a value that is an object, or null for no limit at all.
    ///
    /// # Errors
    /// [`RateError`].
    pub(crate) fn patched(self, value: &Value) -> Result<Self, RateError> {
        match value {
            Value::Null => Ok(Self::default()),
            Value::Object(all) => self.changed(all.iter().map(|(key, value)| (&**key, value))),
            _ => Err(RateError::Kind),
        }
    }

    /// As JSON has it: only what there is.
    pub(crate) fn to_json(self) -> Value {
        let mut all = Map::new();
        for ((name, ..), rate) in RATE_KINDS.into_iter().zip(self.0) {
            let Some(Rate { per_second, burst }) = rate else { continue };
            all.insert(name.to_owned(), per_second.into());
            if burst > 0 {
                all.insert(format!("{name}{BURST}"), burst.into());
            }
        }
        Value::Object(all)
    }
}

/// A number, or a text that is one with a unit; `None` is null.
fn number(key: &str, value: &Value) -> Result<Option<u64>, RateError> {
    let number = match value {
        Value::Null => return Ok(None),
        Value::Number(number) => number.as_u64(),
        Value::String(text) => parse_size(text).ok(),
        _ => None,
    };
    number.map(Some).ok_or_else(|| RateError::Number(shortened(key)))
}

/// A key that may be as long as a body.
fn shortened(key: &str) -> String {
    key[..key.floor_char_boundary(40)].escape_debug().collect()
}

/// `[export.limit]` and `[tenant.limit]`.
impl<'de> serde::Deserialize<'de> for RateLimits {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Limits;
        impl<'de> serde::de::Visitor<'de> for Limits {
            type Value = RateLimits;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of limits, such as { iops = 1000 }")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<RateLimits, A::Error> {
                let mut all = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, RateValue>()? {
                    all.push((key, value.0));
                }
                let values = all.iter().map(|(key, value)| (&**key, value));
                RateLimits::default().changed(values).map_err(serde::de::Error::custom)
            }
        }
        deserializer.deserialize_map(Limits)
    }
}

/// A value of a limit; what it means is looked at later.
struct RateValue(Value);

impl<'de> serde::Deserialize<'de> for RateValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = RateValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number such as 1000, or a text with a unit such as \"100M\"")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<RateValue, E> {
                Ok(RateValue(number.into()))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<RateValue, E> {
                Ok(RateValue(number.into()))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RateValue, E> {
                Ok(RateValue(text.into()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_those_of_the_kinds() {
        assert_eq!(super::RATE_NAMES, super::RATE_KINDS.map(|(name, ..)| name));
    }

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn patched(limits: RateLimits, value: &Value) -> Result<RateLimits, String> {
        limits.patched(value).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_missing_stays_and_null_takes_away() {
        let first = patched(RateLimits::default(), &json!({"iops": 10, "iops_burst": 5, "read_bytes": "1M"}))
            .unwrap();
        let rates: Vec<_> = first.rates().collect();
        let expected = [
            (RateUnit::Requests, RateScope::Total, Rate { per_second: 10, burst: 5 }),
            (RateUnit::Bytes, RateScope::Read, Rate { per_second: 1 << 20, burst: 0 }),
        ];
        assert_eq!(rates, expected);
        let second = patched(first, &json!({"iops": 20, "read_bytes": null})).unwrap();
        assert_eq!(second.to_json(), json!({"iops": 20, "iops_burst": 5}));
        let third = patched(second, &json!({"iops": null})).unwrap();
        assert!(third.is_unlimited(), "a rate that goes takes its burst along");
        assert!(patched(first, &Value::Null).unwrap().is_unlimited());
        assert_eq!(patched(first, &json!({})), Ok(first));
    }

    #[test]
    fn what_is_no_limit_is_refused_in_a_sentence() {
        for (value, words) in [
            (json!({"iops": 0}), "cannot be 0"),
            (json!({"iops": -1}), "at least 1"),
            (json!({"iops": 1.5}), "at least 1"),
            (json!({"iops": "10GB"}), "at least 1"),
            (json!({"iops": [1]}), "at least 1"),
            (json!({"iops_burst": 5}), "say iops too"),
            (json!({"ops": 5}), "\"ops\" is no limit"),
            (json!({"iops_burst_burst": 5}), "is no limit"),
            (json!(7), "limit is an object"),
        ] {
            let error = patched(RateLimits::default(), &value).unwrap_err();
            assert!(error.contains(words), "{value}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(rates in prop::array::uniform6(prop::option::of((1_u64.., any::<u64>())))) {
            let limits = RateLimits(rates.map(|rate| rate.map(|(per_second, burst)| Rate { per_second, burst })));
            prop_assert_eq!(patched(RateLimits::default(), &limits.to_json()), Ok(limits));
        }
    }
}
