//! One condition of a rule.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::str::FromStr;

use super::address::AddressRange;
use super::distinguished::DistinguishedName;
use super::error::{RuleError, shown};

/// What the kernel shows instead of a user or group that has no number here.
pub(super) const OVERFLOW: u32 = 65_534;

/// One thing that is known of a client, or that a rule wants to be known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Term {
    /// The common name of its certificate.
    CommonName(String),
    /// The whole name of its certificate.
    Name(DistinguishedName),
    /// The name of the key that it proved to know.
    SharedKey(Vec<u8>),
    /// The effective user of the process that connected.
    User(u32),
    /// The effective group of that process: one, not all that its user is in.
    Group(u32),
    /// One of the alternative names of its certificate.
    Alternative(AlternativeName),
    /// Addresses, among which its own is.
    Address(AddressRange),
}

/// An alternative name of a certificate, in the form in which it is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum AlternativeName {
    /// In small letters.
    Dns(String),
    Uri(String),
    /// What stands behind its last `@` is in small letters.
    Email(String),
    /// Not an IPv4 address in the form of IPv6.
    Ip(IpAddr),
}

impl AlternativeName {
    pub(super) fn dns(name: &str) -> Self {
        Self::Dns(name.to_ascii_lowercase())
    }

    pub(super) fn email(address: &str) -> Self {
        Self::Email(match address.rsplit_once('@') {
            Some((mailbox, host)) => format!("{mailbox}@{}", host.to_ascii_lowercase()),
            None => address.to_owned(),
        })
    }
}

impl Term {
    /// What a client has at most one of, in words; and of those that exclude each other, which it is.
    pub(super) fn single(&self) -> Option<&'static str> {
        match self {
            Self::CommonName(_) => Some("cert.cn"),
            Self::Name(_) => Some("cert.dn"),
            Self::SharedKey(_) => Some("psk"),
            Self::User(_) => Some("uid"),
            Self::Group(_) => Some("gid"),
            Self::Alternative(_) | Self::Address(_) => None,
        }
    }

    /// Whether no client has both.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        let is_unix = |term: &Self| matches!(term, Self::User(_) | Self::Group(_));
        let is_address = |term: &Self| matches!(term, Self::Address(_));
        let is_key = |term: &Self| matches!(term, Self::SharedKey(_));
        let is_certificate =
            |term: &Self| matches!(term, Self::CommonName(_) | Self::Name(_) | Self::Alternative(_));
        match (self, other) {
            (Self::Address(one), Self::Address(two)) => {
                let (wide, narrow) = if one.length() <= two.length() { (one, two) } else { (two, one) };
                !wide.covers(*narrow)
            }
            _ if self.single().is_some() && self.single() == other.single() => self != other,
            _ => {
                let either = |one: &dyn Fn(&Self) -> bool, two: &dyn Fn(&Self) -> bool| {
                    (one(self) && two(other)) || (two(self) && one(other))
                };
                either(&is_unix, &is_address) || either(&is_key, &is_certificate)
            }
        }
    }
}

impl FromStr for Term {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let unknown = || RuleError::Kind(shown(text));
        let (kind, value) = text.split_once('=').ok_or_else(unknown)?;
        let value = value.trim();
        let kinds = ["cert.cn", "cert.san", "cert.dn", "psk", "uid", "gid", "ip"];
        let kind = kinds.into_iter().find(|known| *known == kind.trim()).ok_or_else(unknown)?;
        if value.is_empty() {
            return Err(RuleError::NoValue(kind));
        }
        Ok(match kind {
            "cert.cn" => Self::CommonName(without_star(value)?.to_owned()),
            "cert.san" => Self::Alternative(value.parse()?),
            "cert.dn" => Self::Name(value.parse()?),
            "psk" => Self::SharedKey(value.as_bytes().to_vec()),
            "uid" => Self::User(number(kind, value)?),
            "gid" => Self::Group(number(kind, value)?),
            _ => Self::Address(value.parse()?),
        })
    }
}

impl FromStr for AlternativeName {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let unknown = || RuleError::AlternativeName(shown(text));
        let (kind, value) = text.split_once(':').ok_or_else(unknown)?;
        let value = value.trim();
        if value.is_empty() {
            return Err(unknown());
        }
        match kind.trim() {
            "dns" => Ok(Self::dns(without_star(value)?)),
            "uri" => Ok(Self::Uri(value.to_owned())),
            "email" => Ok(Self::email(value)),
            "ip" => {
                let address: IpAddr = value.parse().map_err(|_| unknown())?;
                Ok(Self::Ip(address.to_canonical()))
            }
            _ => Err(unknown()),
        }
    }
}

fn without_star(value: &str) -> Result<&str, RuleError> {
    if value.contains('*') { Err(RuleError::Wildcard(shown(value))) } else { Ok(value) }
}

fn number(kind: &'static str, value: &str) -> Result<u32, RuleError> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().ok().filter(|number| is_number && *number != u32::MAX);
    match number {
        Some(OVERFLOW) => Err(RuleError::Overflow(kind)),
        Some(number) => Ok(number),
        None => Err(RuleError::Number { kind, value: shown(value) }),
    }
}

/// As a rule says it.
impl Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommonName(name) => write!(f, "cert.cn={}", quoted(name)),
            Self::Name(name) => write!(f, "cert.dn={name}"),
            Self::SharedKey(name) => write!(f, "psk={}", quoted(&String::from_utf8_lossy(name))),
            Self::User(number) => write!(f, "uid={number}"),
            Self::Group(number) => write!(f, "gid={number}"),
            Self::Address(range) => write!(f, "ip={range}"),
            Self::Alternative(AlternativeName::Dns(name)) => write!(f, "cert.san=dns:{}", quoted(name)),
            Self::Alternative(AlternativeName::Uri(name)) => write!(f, "cert.san=uri:{}", quoted(name)),
            Self::Alternative(AlternativeName::Email(name)) => write!(f, "cert.san=email:{}", quoted(name)),
            Self::Alternative(AlternativeName::Ip(address)) => write!(f, "cert.san=ip:{address}"),
        }
    }
}

/// A client chose it: no character of it may steer a terminal, nor look like another condition.
fn quoted(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("\\&"),
            character if character.is_control() => safe.extend(character.escape_default()),
            character => safe.push(character),
        }
    }
    safe
}
