//! The names in a certificate (X.509 in DER), as far as rules ask for them.
//!
//! The bytes are those of a client. TLS has checked the signature, so an authority vouches for them; they
//! are read as if it did not. What is not quite as it has to be is not known, and so grants nothing.

use x509_parser::asn1_rs::{Any, Class, FromDer, Tag};
use x509_parser::certificate::{X509Certificate, X509CertificateParser};
use x509_parser::nom::Parser as _;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::x509::X509Name;

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

impl CertificateNames {
    /// Reads a certificate; none if it is not one.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        // Extensions that nobody asks for are not looked into.
        let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
        let (behind, certificate) = parser.parse(der).ok()?;
        if !behind.is_empty() {
            return None;
        }
        let alternatives = alternatives(&certificate).unwrap_or_default();
        Some(Self { subject: name(certificate.subject()), alternatives })
    }
}

/// A name: a sequence of sets of attributes. The library stops where it does not understand one and gives
/// what it has by then, which may be the name of somebody else; so it only says where the name is.
fn name(subject: &X509Name<'_>) -> Option<DistinguishedName> {
    let mut parts = Vec::new();
    for set in elements(subject.as_raw(), Tag::Sequence)? {
        let mut part = NamePart::new();
        for attribute in elements_of(&set, Tag::Set)? {
            let attribute = elements_of(&attribute, Tag::Sequence)?;
            let [kind, value] = attribute.as_slice() else { return None };
            part.insert((identifier(kind)?, text(value)?));
        }
        if part.is_empty() {
            return None;
        }
        parts.push(part);
    }
    (!parts.is_empty()).then_some(DistinguishedName(parts))
}

/// What stands in an element, all of it.
fn elements(der: &[u8], tag: Tag) -> Option<Vec<Any<'_>>> {
    let (behind, element) = Any::from_der(der).ok()?;
    if behind.is_empty() { elements_of(&element, tag) } else { None }
}

fn elements_of<'a>(element: &Any<'a>, tag: Tag) -> Option<Vec<Any<'a>>> {
    let is_it =
        element.class() == Class::Universal && element.header.is_constructed() && element.tag() == tag;
    let (mut found, mut rest) = (Vec::new(), element.data);
    while is_it && !rest.is_empty() {
        let (behind, element) = Any::from_der(rest).ok()?;
        found.push(element);
        rest = behind;
    }
    is_it.then_some(found)
}

/// An object identifier with its points. The library takes 2.40 for 3.0.
fn identifier(element: &Any<'_>) -> Option<String> {
    let is_one = element.class() == Class::Universal && element.tag() == Tag::Oid;
    points(element.data).filter(|_| is_one && !element.header.is_constructed())
}

fn points(bytes: &[u8]) -> Option<String> {
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

/// A text of one of the kinds that names have.
fn text(value: &Any<'_>) -> Option<String> {
    const UTF8: u32 = 12;
    const PRINTABLE: u32 = 19;
    const TELETEX: u32 = 20;
    const IA5: u32 = 22;
    const UNIVERSAL: u32 = 28;
    const BMP: u32 = 30;
    if value.class() != Class::Universal || value.header.is_constructed() {
        return None;
    }
    let bytes = value.data;
    match value.tag().0 {
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

/// The alternative names among the extensions; none if there are two such extensions.
fn alternatives(certificate: &X509Certificate<'_>) -> Option<Vec<AlternativeName>> {
    let of_names = |oid| oid == &OID_X509_EXT_SUBJECT_ALT_NAME;
    let mut extensions = certificate.extensions().iter().filter(|extension| of_names(&extension.oid));
    let (Some(extension), None) = (extensions.next(), extensions.next()) else { return None };
    let mut names = Vec::new();
    for value in elements(extension.value, Tag::Sequence)? {
        names.extend(alternative(&value)?);
    }
    Some(names)
}

/// One of them; `Some(None)` for a kind that no rule asks for.
fn alternative(value: &Any<'_>) -> Option<Option<AlternativeName>> {
    const EMAIL: u32 = 1;
    const DNS: u32 = 2;
    const URI: u32 = 6;
    const IP: u32 = 7;
    let bytes = value.data;
    if bytes.is_empty() {
        return None;
    }
    if value.class() != Class::ContextSpecific || value.header.is_constructed() {
        return Some(None);
    }
    Some(Some(match value.tag().0 {
        EMAIL => AlternativeName::email(ascii(bytes)?),
        DNS => AlternativeName::dns(ascii(bytes)?),
        URI => AlternativeName::Uri(ascii(bytes)?.to_owned()),
        IP => match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (Ok(bytes), _) => AlternativeName::Ip(bytes.into()),
            (_, Ok(bytes)) => AlternativeName::Ip(std::net::IpAddr::from(bytes).to_canonical()),
            _ => return None,
        },
        _ => return Some(None),
    }))
}

#[cfg(test)]
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
        assert_eq!(points(&[0x55, 4, 3]).as_deref(), Some("2.5.4.3"));
        let email = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];
        assert_eq!(points(&email).as_deref(), Some("1.2.840.113549.1.9.1"));
        assert_eq!(points(&[0x88, 0x37, 1]).as_deref(), Some("2.999.1"));
        assert_eq!(points(&[]), None);
        assert_eq!(points(&[0x55, 0x84]), None, "it ends too early");
        assert_eq!(points(&[0xff; 20]), None, "it is too large");
    }

    /// Half a name would be the name of somebody else.
    #[test]
    fn a_name_that_is_spoiled_in_part_is_none() {
        let mut der = made();
        let organization = [0x06, 3, 0x55, 4, 10];
        let places: Vec<_> = (0..der.len()).filter(|at| der[*at..].starts_with(&organization)).collect();
        assert_eq!(places.len(), 2, "of issuer and subject");
        for at in places {
            assert_eq!(der[at - 4], 0x31, "the tag of its set");
            der[at - 4] = 0;
        }
        assert_eq!(CertificateNames::read(&der).and_then(|names| names.subject), None);
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
