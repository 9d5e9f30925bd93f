//! The names in a certificate (X.509 in DER), as far as rules ask for them.
//!
//! The bytes are those of a client. TLS has checked the signature, so an authority vouches for them; they
//! are read as if it did not.

use super::distinguished::{DistinguishedName, NamePart};
use super::term::AlternativeName;

/// Whom a certificate is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificateNames {
    /// None if it is empty, or if part of it cannot be read.
    pub(super) subject: Option<DistinguishedName>,
    /// Those of kinds that rules know. None at all if one of these cannot be read.
    pub(super) alternatives: Vec<AlternativeName>,
}

const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTETS: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `version [0]`, and `extensions [3]`.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `id-ce-subjectAltName`, 2.5.29.17.
const SUBJECT_ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

impl CertificateNames {
    /// Reads a certificate; none if it is not one.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let certificate = Elements(der).take(SEQUENCE)?;
        let mut fields = Elements(Elements(certificate).take(SEQUENCE)?);
        if fields.tag() == Some(VERSION) {
            fields.next()?;
        }
        // Serial number, algorithm, issuer, validity.
        for _ in 0..4 {
            fields.next()?;
        }
        let subject = fields.take(SEQUENCE)?;
        let _public_key = fields.take(SEQUENCE)?;
        let mut extensions = None;
        while let Some((tag, content)) = fields.next() {
            if tag == EXTENSIONS {
                extensions = Some(Elements(content).take(SEQUENCE)?);
            }
        }
        let alternatives = extensions.and_then(alternatives).unwrap_or_default();
        Some(Self { subject: name(subject), alternatives })
    }
}

/// The elements of DER that stand one after the other.
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    fn tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next one: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        // A tag of several bytes is in no certificate.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first & 0x80 != 0 {
            let (bytes, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if bytes.is_empty() || bytes.len() > 4 {
                return None;
            }
            length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest = behind;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next one, which has this tag.
    fn take(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }
}

/// A name: a sequence of sets of attributes.
fn name(content: &[u8]) -> Option<DistinguishedName> {
    let (mut parts, mut rest) = (Vec::new(), Elements(content));
    while !rest.0.is_empty() {
        let mut part = NamePart::new();
        let mut attributes = Elements(rest.take(SET)?);
        while !attributes.0.is_empty() {
            let mut attribute = Elements(attributes.take(SEQUENCE)?);
            let kind = identifier(attribute.take(OBJECT_IDENTIFIER)?)?;
            let (tag, value) = attribute.next()?;
            part.insert((kind, text(tag, value)?));
        }
        if part.is_empty() {
            return None;
        }
        parts.push(part);
    }
    (!parts.is_empty()).then_some(DistinguishedName(parts))
}

/// A text of one of the kinds that names have.
fn text(tag: u8, bytes: &[u8]) -> Option<String> {
    const UTF8: u8 = 0x0c;
    const PRINTABLE: u8 = 0x13;
    const TELETEX: u8 = 0x14;
    const IA5: u8 = 0x16;
    const UNIVERSAL: u8 = 0x1c;
    const BMP: u8 = 0x1e;
    match tag {
        UTF8 => str::from_utf8(bytes).ok().map(str::to_owned),
        // Beyond ASCII nobody agrees on what a Teletex string says.
        PRINTABLE | TELETEX | IA5 => ascii(bytes).map(str::to_owned),
        UNIVERSAL => {
            let (characters, []) = bytes.as_chunks::<4>() else { return None };
            characters.iter().map(|bytes| char::from_u32(u32::from_be_bytes(*bytes))).collect()
        }
        BMP => {
            let (units, []) = bytes.as_chunks::<2>() else { return None };
            char::decode_utf16(units.iter().map(|bytes| u16::from_be_bytes(*bytes)))
                .collect::<Result<_, _>>()
                .ok()
        }
        _ => None,
    }
}

fn ascii(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes).ok().filter(|text| text.is_ascii())
}

/// An object identifier with its points.
fn identifier(bytes: &[u8]) -> Option<String> {
    let (mut arcs, mut arc) = (Vec::new(), 0u64);
    for byte in bytes {
        arc = arc.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
    }
    // The first number holds two.
    let (&first, others) =
        arcs.split_first().filter(|_| bytes.last().is_some_and(|byte| byte & 0x80 == 0))?;
    let top = (first / 40).min(2);
    let arcs = [top, first - 40 * top].into_iter().chain(others.iter().copied());
    Some(arcs.map(|arc| arc.to_string()).collect::<Vec<_>>().join("."))
}

/// The alternative names among the extensions; none if there are two such extensions.
fn alternatives(extensions: &[u8]) -> Option<Vec<AlternativeName>> {
    let (mut found, mut rest) = (None, Elements(extensions));
    while !rest.0.is_empty() {
        let mut extension = Elements(rest.take(SEQUENCE)?);
        if extension.take(OBJECT_IDENTIFIER)? != SUBJECT_ALTERNATIVE_NAMES {
            continue;
        }
        let mut value = extension.next()?;
        const BOOLEAN: u8 = 0x01;
        if value.0 == BOOLEAN {
            value = extension.next()?;
        }
        if value.0 != OCTETS || found.replace(value.1).is_some() {
            return None;
        }
    }
    let mut names = Vec::new();
    let mut rest = Elements(Elements(found?).take(SEQUENCE)?);
    while !rest.0.is_empty() {
        let (tag, value) = rest.next()?;
        names.extend(alternative(tag, value)?);
    }
    Some(names)
}

/// One of them; `Some(None)` for a kind that no rule asks for.
fn alternative(tag: u8, value: &[u8]) -> Option<Option<AlternativeName>> {
    const EMAIL: u8 = 0x81;
    const DNS: u8 = 0x82;
    const URI: u8 = 0x86;
    const IP: u8 = 0x87;
    if value.is_empty() {
        return None;
    }
    Some(Some(match tag {
        EMAIL => AlternativeName::email(ascii(value)?),
        DNS => AlternativeName::dns(ascii(value)?),
        URI => AlternativeName::Uri(ascii(value)?.to_owned()),
        IP => match (<[u8; 4]>::try_from(value), <[u8; 16]>::try_from(value)) {
            (Ok(bytes), _) => AlternativeName::Ip(bytes.into()),
            (_, Ok(bytes)) => AlternativeName::Ip(std::net::IpAddr::from(bytes).to_canonical()),
            _ => return None,
        },
        _ => return Some(None),
    }))
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName as Written, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn made() -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = Written::new();
        params.distinguished_name.push(DnType::CountryName, "DE");
        params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, DnValue::BmpString("ü".try_into().unwrap()));
        params.distinguished_name.push(DnType::CommonName, "vm1");
        params.subject_alt_names = vec![
            SanType::DnsName("Host1.Example".try_into().unwrap()),
            SanType::URI("spiffe://x/vm1".try_into().unwrap()),
            SanType::Rfc822Name("Me@Example.ORG".try_into().unwrap()),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
            SanType::IpAddress("fd00::1".parse().unwrap()),
        ];
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_are_those_that_were_written() {
        let names = CertificateNames::read(&made()).unwrap();
        let subject = names.subject.unwrap();
        assert_eq!(subject.to_string(), r"CN=vm1,OU=ü,O=Example\, Inc.,C=DE");
        assert_eq!(subject.common_name(), Some("vm1"));
        let expected =
            ["dns:host1.example", "uri:spiffe://x/vm1", "email:Me@example.org", "ip:10.0.0.1", "ip:fd00::1"];
        let expected: Vec<AlternativeName> = expected.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(names.alternatives, expected);
    }

    #[test]
    fn a_certificate_without_names_has_none() {
        let mut params = CertificateParams::default();
        params.distinguished_name = Written::new();
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        assert_eq!(
            CertificateNames::read(&der),
            Some(CertificateNames { subject: None, alternatives: Vec::new() })
        );
    }

    #[test]
    fn object_identifiers_have_points() {
        assert_eq!(identifier(&[0x55, 4, 3]).as_deref(), Some("2.5.4.3"));
        let email = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];
        assert_eq!(identifier(&email).as_deref(), Some("1.2.840.113549.1.9.1"));
        assert_eq!(identifier(&[]), None);
        assert_eq!(identifier(&[0x55, 0x84]), None, "it ends too early");
        assert_eq!(identifier(&[0xff; 20]), None, "it is too large");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _names = CertificateNames::read(&bytes);
        }

        #[test]
        fn a_changed_certificate_is_read_or_not(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            use std::sync::LazyLock;
            static MADE: LazyLock<Vec<u8>> = LazyLock::new(made);
            let mut der = MADE.clone();
            let at = at.index(der.len());
            der[at] = byte;
            let _names = CertificateNames::read(&der);
            der.truncate(cut.index(der.len()));
            let _names = CertificateNames::read(&der);
        }
    }
}
