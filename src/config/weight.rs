//! What an export or a tenant gets of a device beside others: as it is written in the configuration file and
//! in JSON.

use std::fmt;

use serde_json::Value;

/// A part of a device, beside the weights of all others that want it. What says none has the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Weight(u16);

/// Why it is none; a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("weight is a whole number from 1 to 1000; leave it out to have 1, the least")]
pub(crate) struct WeightError;

impl Weight {
    /// What an export or tenant has that says nothing.
    pub const LEAST: Self = Self(1);
    pub(crate) const MOST: Self = Self(1000);

    /// It as a number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// A weight of so much.
    ///
    /// # Errors
    /// [`WeightError`].
    pub(crate) fn new(number: u64) -> Result<Self, WeightError> {
        let weight = u16::try_from(number).map(Self).map_err(|_| WeightError)?;
        if (Self::LEAST..=Self::MOST).contains(&weight) { Ok(weight) } else { Err(WeightError) }
    }

    /// Reads a value of JSON; null is none.
    ///
    /// # Errors
    /// [`WeightError`].
    pub(crate) fn patched(value: &Value) -> Result<Option<Self>, WeightError> {
        match value {
            Value::Null => Ok(None),
            Value::Number(number) => Self::new(number.as_u64().ok_or(WeightError)?).map(Some),
            _ => Err(WeightError),
        }
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `weight = 3`.
impl<'de> serde::Deserialize<'de> for Weight {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        u64::try_from(number).map_err(|_| WeightError).and_then(Self::new).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_weight_is_a_number_from_1_to_1000() {
        for (value, weight) in [(json!(1), Some(1)), (json!(1000), Some(1000)), (json!(null), None)] {
            assert_eq!(Weight::patched(&value).unwrap().map(Weight::get), weight);
        }
        for value in [
            json!(0),
            json!(1001),
            json!(65537),
            json!(-1),
            json!(1.5),
            json!("3"),
            json!([3]),
            json!(u64::MAX),
        ] {
            let error = Weight::patched(&value).unwrap_err().to_string();
            assert!(error.contains("from 1 to 1000"), "{value}: {error}");
        }
    }
}
