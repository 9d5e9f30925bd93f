//! Ranges of internet addresses.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::error::{RuleError, shown};

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AddressRange {
    first: IpAddr,
    length: u8,
}

/// The bits of an IPv4 address that is written as one of IPv6.
const MAPPED: u8 = 96;

impl AddressRange {
    /// The range of a length that an address is in; the length is one of its family.
    pub(super) fn around(address: IpAddr, length: u8) -> Self {
        let first = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Self { first, length }
    }

    pub(super) fn length(self) -> u8 {
        self.length
    }

    pub(super) fn is_v4(self) -> bool {
        self.first.is_ipv4()
    }

    /// Whether all of another range is in it.
    pub(super) fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.has(other.first)
    }

    /// Whether an address is in it, which is not an IPv4 address in the form of IPv6.
    pub(super) fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_v4() && Self::around(address, self.length) == self
    }
}

impl FromStr for AddressRange {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let bad = || RuleError::Range(shown(text));
        let (address, length) = match text.split_once('/') {
            Some((address, length)) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                (address, Some(length.parse::<u8>().map_err(|_| bad())?))
            }
            Some(_) => return Err(bad()),
            None => (text, None),
        };
        let given: IpAddr = address.parse().map_err(|_| bad())?;
        let all = if given.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(all);
        if length > all {
            return Err(bad());
        }
        // Clients that come as such addresses are looked at as what they are.
        let (address, length) = match given.to_canonical() {
            IpAddr::V4(address) if given.is_ipv6() && length >= MAPPED => {
                (IpAddr::V4(address), length - MAPPED)
            }
            _ => (given, length),
        };
        let range = Self::around(address, length);
        match range.first == address {
            true => Ok(range),
            false => Err(RuleError::HostBits { given: shown(text), meant: range.to_string() }),
        }
    }
}

impl Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_shown() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ] {
            assert_eq!(
                text.parse::<AddressRange>().map(|range| range.to_string()),
                Ok(shown.to_owned()),
                "{text}"
            );
        }
        for text in [
            "",
            "10",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "a",
            "fe80::1%1",
            "010.0.0.1",
            " 10.0.0.1",
            "10.0.0.0/256",
        ] {
            assert_eq!(text.parse::<AddressRange>(), Err(RuleError::Range(text.to_owned())), "{text}");
        }
        let meant = "10.0.0.0/8".to_owned();
        assert_eq!(
            "10.0.0.1/8".parse::<AddressRange>(),
            Err(RuleError::HostBits { given: "10.0.0.1/8".to_owned(), meant })
        );
    }

    #[test]
    fn families_are_kept_apart() {
        let has =
            |range: &str, address: &str| range.parse::<AddressRange>().unwrap().has(address.parse().unwrap());
        assert!(has("0.0.0.0/0", "255.255.255.255") && has("::/0", "::1"));
        assert!(!has("0.0.0.0/0", "::1") && !has("::/0", "1.2.3.4"));
        assert!(has("10.0.0.0/9", "10.127.255.255") && !has("10.0.0.0/9", "10.128.0.0"));
        assert!(has("fd00::/8", "fdff::1") && !has("fd00::/8", "fe00::"));
    }
}
