//! Distinguished names: compared as sequences of their parts, never as text that was put together.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::str::FromStr;

use super::error::{RuleError, shown};

/// One part of a name: attributes that belong together, by their object identifiers. Mostly it is one.
pub(super) type NamePart = BTreeSet<(String, String)>;

/// The name of a certificate's holder: its parts in the order of the certificate, the widest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DistinguishedName(pub(super) Vec<NamePart>);

/// The object identifier of a common name.
pub(super) const COMMON_NAME: &str = "2.5.4.3";

/// Short names of attributes (RFC 4514, section 3, and what `openssl` shows beside them).
const ATTRIBUTES: [(&str, &str); 15] = [
    ("CN", COMMON_NAME),
    ("SN", "2.5.4.4"),
    ("serialNumber", "2.5.4.5"),
    ("C", "2.5.4.6"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("street", "2.5.4.9"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("title", "2.5.4.12"),
    ("GN", "2.5.4.42"),
    ("pseudonym", "2.5.4.65"),
    ("DC", "0.9.2342.19200300.100.1.25"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("emailAddress", "1.2.840.113549.1.9.1"),
];

impl DistinguishedName {
    /// The common name, if there is one and no other, and it is not empty.
    #[cfg(any(test, feature = "tls"))]
    pub(super) fn common_name(&self) -> Option<&str> {
        let mut names = self.0.iter().flatten().filter(|(kind, _)| kind == COMMON_NAME);
        match (names.next(), names.next()) {
            (Some((_, name)), None) if !name.is_empty() => Some(name),
            _ => None,
        }
    }
}

/// As RFC 4514 writes it: the narrowest part first.
impl FromStr for DistinguishedName {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let bad = |why| RuleError::DistinguishedName { text: shown(text), why };
        let mut reader = NameReader(text);
        let mut parts = vec![NamePart::new()];
        loop {
            let attribute = reader.attribute().map_err(bad)?;
            if !parts.last_mut().expect("there is one").insert(attribute) {
                return Err(bad("a part has the same attribute twice"));
            }
            match reader.separator().map_err(bad)? {
                None => break,
                Some('+') => {}
                Some(_) => parts.push(NamePart::new()),
            }
        }
        parts.reverse();
        Ok(Self(parts))
    }
}

/// Takes a text apart.
struct NameReader<'a>(&'a str);

impl NameReader<'_> {
    /// `TYPE=VALUE`, up to what separates it from the next.
    fn attribute(&mut self) -> Result<(String, String), &'static str> {
        let (kind, rest) = self.0.split_once('=').ok_or("a part has no =")?;
        self.0 = rest;
        Ok((identifier(kind.trim())?, self.value()?))
    }

    fn separator(&mut self) -> Result<Option<char>, &'static str> {
        let mut rest = self.0.chars();
        let separator = rest.next();
        self.0 = rest.as_str();
        Ok(separator)
    }

    /// A value, without the blanks around it that are not escaped.
    fn value(&mut self) -> Result<String, &'static str> {
        self.0 = self.0.trim_start_matches(' ');
        if self.0.starts_with(['#', '"']) {
            return Err("a value begins with # or a quote, which needs a backslash before it");
        }
        let (mut bytes, mut kept) = (Vec::new(), 0);
        while let Some(next) = self.0.chars().next() {
            match next {
                ',' | ';' | '+' => break,
                '\\' => {
                    let (byte, rest) = escaped(&self.0[1..])?;
                    bytes.push(byte);
                    self.0 = rest;
                    kept = bytes.len();
                }
                '<' | '>' | '"' | '=' if next != '=' => {
                    return Err("one of < > and quotes needs a backslash before it");
                }
                _ => {
                    let (taken, rest) = self.0.split_at(next.len_utf8());
                    bytes.extend_from_slice(taken.as_bytes());
                    self.0 = rest;
                    if next != ' ' {
                        kept = bytes.len();
                    }
                }
            }
        }
        bytes.truncate(kept);
        if bytes.is_empty() {
            return Err("a part has no value");
        }
        String::from_utf8(bytes).map_err(|_| "a value is not UTF-8")
    }
}

/// What stands behind a backslash: two hexadecimal digits, or the character itself.
fn escaped(rest: &str) -> Result<(u8, &str), &'static str> {
    if let Some(pair) = rest.get(..2)
        && pair.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        let byte = u8::from_str_radix(pair, 16).map_err(|_| "a backslash escapes nothing")?;
        return Ok((byte, &rest[2..]));
    }
    match rest.as_bytes().first() {
        Some(byte) if byte.is_ascii() && !byte.is_ascii_alphanumeric() => Ok((*byte, &rest[1..])),
        _ => Err("a backslash escapes nothing"),
    }
}

/// The object identifier of an attribute.
fn identifier(kind: &str) -> Result<String, &'static str> {
    if let Some((_, identifier)) = ATTRIBUTES.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind)) {
        return Ok((*identifier).to_owned());
    }
    let arcs = || kind.split('.');
    let is_number = |arc: &str| {
        let canonical = arc == "0" || !arc.starts_with('0');
        !arc.is_empty() && canonical && arc.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_identifier = arcs().count() > 1 && arcs().all(is_number);
    if is_identifier {
        Ok(kind.to_owned())
    } else {
        Err("an attribute has no name that is known, such as CN or O")
    }
}

impl Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().rev().enumerate() {
            for (place, (kind, value)) in part.iter().enumerate() {
                let separator = if place > 0 {
                    "+"
                } else if index > 0 {
                    ","
                } else {
                    ""
                };
                let name = ATTRIBUTES.iter().find(|(_, identifier)| identifier == kind);
                write!(f, "{separator}{}=", name.map_or(kind.as_str(), |(name, _)| name))?;
                write_value(f, value)?;
            }
        }
        Ok(())
    }
}

fn write_value(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    let last = value.chars().count().saturating_sub(1);
    for (place, character) in value.chars().enumerate() {
        match character {
            ' ' if place == 0 || place == last => f.write_str("\\ ")?,
            '#' if place == 0 => f.write_str("\\#")?,
            ',' | ';' | '+' | '"' | '\\' | '<' | '>' | '&' => write!(f, "\\{character}")?,
            character if character.is_control() => {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    write!(f, "\\{byte:02x}")?;
                }
            }
            character => write!(f, "{character}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Result<DistinguishedName, RuleError> {
        text.parse()
    }

    #[test]
    fn parts_are_compared_and_not_text() {
        let plain = name("CN=vm1,O=Example").unwrap();
        assert_eq!(name(" cn = vm1 , 2.5.4.10=Example "), Ok(plain.clone()));
        assert_eq!(plain.0.len(), 2);
        assert_eq!(plain.common_name(), Some("vm1"));
        // One value that looks like two parts.
        let joined = name(r"CN=vm1\,O=Example").unwrap();
        assert_ne!(joined, plain);
        assert_eq!((joined.0.len(), joined.common_name()), (1, Some("vm1,O=Example")));
        assert_ne!(name("O=Example,CN=vm1").unwrap(), plain, "the order counts");
        assert_eq!(name("CN=a+UID=b"), name("UID=b+CN=a"), "but not within a part");
        assert_ne!(name("CN=a+UID=b"), name("CN=a,UID=b"));
        assert_eq!(name(r"CN=\e4\b8\ad\ "), name("CN=中\\ "));
        assert_eq!(name("CN=a=b").unwrap().common_name(), Some("a=b"));
    }

    #[test]
    fn two_common_names_are_none() {
        assert_eq!(name("CN=a,CN=b").unwrap().common_name(), None);
        assert_eq!(name("O=a").unwrap().common_name(), None);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "CN",
            "CN=",
            "CN=a,",
            ",CN=a",
            "X=a",
            "2=a",
            "2..5=a",
            "02.5=a",
            "CN=#04",
            "CN=\"a\"",
            "CN=a\\",
            "CN=a\\x",
            "CN=\\ff",
            "CN=a+CN=a",
            "CN=a<b",
            "CN= ",
            "=a",
        ] {
            assert!(matches!(name(text), Err(RuleError::DistinguishedName { .. })), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(
            parts in prop::collection::vec(
                prop::collection::btree_set((prop::sample::select(&ATTRIBUTES[..]), "[ -~äß\\n中]{1,6}"), 1..3),
                1..4,
            )
        ) {
            let part = |part: std::collections::BTreeSet<((&str, &str), String)>| -> NamePart {
                part.into_iter().map(|((_, kind), value)| (kind.to_owned(), value)).collect()
            };
            let name = DistinguishedName(parts.into_iter().map(part).collect());
            prop_assert_eq!(name.to_string().parse::<DistinguishedName>(), Ok(name.clone()), "{}", name);
        }
    }
}
