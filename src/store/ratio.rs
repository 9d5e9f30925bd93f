//! How many bytes stand for each byte that is stored.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A ratio in hundredths, rounded. As JSON it is a number such as `2.08`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceRatio(u64);

impl SpaceRatio {
    /// Of so many bytes to those that are stored; none if none are.
    #[must_use]
    pub fn of(bytes: u64, stored: u64) -> Option<Self> {
        let hundredths = (u128::from(bytes) * 100 + u128::from(stored) / 2).checked_div(stored.into())?;
        Some(Self(u64::try_from(hundredths).unwrap_or(u64::MAX)))
    }
}

impl Display for SpaceRatio {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl Serialize for SpaceRatio {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(self.0 as f64 / 100.0)
    }
}

impl<'de> Deserialize<'de> for SpaceRatio {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        f64::deserialize(from).map(|ratio| Self((ratio * 100.0).round() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_rounded_and_read_as_they_are_written() {
        assert_eq!(SpaceRatio::of(5, 0), None);
        for (bytes, stored, text) in
            [(0, 3, "0.00"), (2, 3, "0.67"), (208, 100, "2.08"), (1 << 40, 2, "549755813888.00")]
        {
            let ratio = SpaceRatio::of(bytes, stored).unwrap();
            assert_eq!(ratio.to_string(), text);
            let json = serde_json::to_string(&ratio).unwrap();
            assert_eq!(serde_json::from_str::<SpaceRatio>(&json).unwrap(), ratio, "{json}");
        }
        assert!(SpaceRatio::of(u64::MAX, 1).is_some());
    }
}
