//! Sizes and durations as people write them.

use std::fmt::{self, Display};
use std::time::Duration;

/// Why a size or a duration could not be read; its text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("\"{0}\" is not a size: write a number of bytes, or one with K, M, G, T, P or E, such as 10G")]
    NotASize(String),
    /// KB, MB, ... mean 1000 to some and 1024 to others.
    #[error(
        "\"{text}\" is ambiguous: write {number}{unit} or {number}{unit}iB for powers of 1024, or the bytes in full"
    )]
    Ambiguous {
        text: String,
        /// Its digits.
        number: String,
        /// Its unit, one letter.
        unit: char,
    },
    #[error("\"{0}\" is too large: a size is less than 16E")]
    TooLarge(String),
    #[error("\"{0}\" is not a duration: write a number with ns, us, ms, s, m or h, such as 50us or 10s")]
    NotADuration(String),
}

const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];

/// Reads a size in bytes: `4096`, `64K`, `10G`, `10GiB`. Units are powers of 1024, upper or lower case.
///
/// `10GB` is refused, because it means two things.
pub fn parse_size(text: &str) -> Result<u64, QuantityError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(QuantityError::NotASize(text.to_owned()));
    }
    let too_large = || QuantityError::TooLarge(text.to_owned());
    let count: u64 = number.parse().map_err(|_| too_large())?;
    let unit = unit.to_ascii_uppercase();
    let mut letters = unit.chars();
    let shift = match (letters.next(), letters.as_str()) {
        (None, _) | (Some('B'), "") => 0,
        (Some(letter), rest) => match (UNITS.iter().position(|&known| known == letter), rest) {
            (Some(index), "" | "IB") => 10 * (index as u32 + 1),
            (Some(_), "B") => {
                return Err(QuantityError::Ambiguous {
                    text: text.to_owned(),
                    number: number.to_owned(),
                    unit: letter,
                });
            }
            _ => return Err(QuantityError::NotASize(text.to_owned())),
        },
    };
    count.checked_mul(1 << shift).ok_or_else(too_large)
}

/// Reads a duration: `50us`, `10s`, `1m 30s`, `0`.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|_| QuantityError::NotADuration(text.to_owned()))
}

/// Shows a size so that [`parse_size`] reads the same number: with the largest unit that divides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = if self.0 == 0 { 0 } else { (self.0.trailing_zeros() / 10).min(UNITS.len() as u32) };
        write!(f, "{}", self.0 >> (10 * steps))?;
        match steps {
            0 => Ok(()),
            steps => write!(f, "{}", UNITS[steps as usize - 1]),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512B", 512),
            ("64K", 65_536),
            ("64k", 65_536),
            ("10G", 10_737_418_240),
            ("10GiB", 10_737_418_240),
            ("15E", 17_293_822_569_102_704_640),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_a_remedy() {
        for text in ["", "G", "-1", "1.5G", "10Q", "10Gi", "10 G", "0x10", "10GG"] {
            assert_eq!(parse_size(text), Err(QuantityError::NotASize(text.to_owned())), "{text}");
        }
        for text in ["16E", "18446744073709551616", "99999999999999999999T"] {
            assert_eq!(parse_size(text), Err(QuantityError::TooLarge(text.to_owned())), "{text}");
        }
        let ambiguous = parse_size("10GB").unwrap_err().to_string();
        assert!(ambiguous.contains("10GiB"), "{ambiguous}");
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        for text in ["", "5", "5 parsecs", "-1s", "99999999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_shown_size_reads_as_itself(bytes in any::<u64>(), shift in 0u32..60) {
            for bytes in [bytes, bytes >> shift << shift] {
                prop_assert_eq!(parse_size(&Size(bytes).to_string()), Ok(bytes));
            }
        }
    }
}
