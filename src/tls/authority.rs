//! A private authority and what it signs, for a first try: the files that QEMU and libnbd look for.

use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a shared key.
const SHARED_KEY_BYTES: usize = 32;

/// What a new authority is asked for.
#[derive(Debug)]
pub struct AuthorityOrder<'a> {
    /// Names and addresses of the server, the first of which is its common name.
    pub server: &'a [String],
    /// The common name of the client, and the name of the shared key.
    pub client: &'a str,
    /// The time, since 1970.
    pub now: Duration,
    /// How long all of it is good.
    pub days: u32,
}

/// A file to write.
#[derive(Debug)]
pub struct MadeFile {
    /// Its name, below a directory.
    pub name: &'static str,
    /// Nobody else may read it.
    pub is_secret: bool,
    /// All of it.
    pub contents: Zeroizing<Vec<u8>>,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A name of the server, or the client's.
    #[error(
        "{0:?} is no name for a certificate: use letters, digits, \"-\" and \".\"; for a server also an address"
    )]
    Name(String),
    /// The times have no date.
    #[error("a certificate cannot be good for {0} days from now on: use fewer")]
    Days(u32),
    /// The library.
    #[error("cannot make keys and certificates: {0}")]
    Make(#[from] rcgen::Error),
    /// The random numbers.
    #[error("this machine gives no random numbers")]
    Random,
}

/// Makes keys, certificates and a shared key.
///
/// # Errors
/// [`AuthorityError`].
pub fn make_authority(order: &AuthorityOrder<'_>) -> Result<Vec<MadeFile>, AuthorityError> {
    let wrong = order.server.iter().map(String::as_str).chain([order.client]).find(|name| !is_name(name));
    // In a file of shared keys the name ends with the first colon.
    if let Some(name) = wrong.or(Some(order.client).filter(|client| client.contains(':'))) {
        return Err(AuthorityError::Name(name.to_owned()));
    }
    let mut made = Vec::new();
    let mut authority = of_days(CertificateParams::new(Vec::new())?, order)?;
    authority.distinguished_name.push(DnType::CommonName, "ringnbd authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    made.push(public("ca-cert.pem", authority.self_signed(&key)?.pem()));
    made.push(secret("ca-key.pem", key.serialize_pem()));
    let issuer = Issuer::new(authority, key);
    let client = [order.client.to_owned()];
    for (files, names, purpose) in [
        (["server-cert.pem", "server-key.pem"], order.server, ExtendedKeyUsagePurpose::ServerAuth),
        (["client-cert.pem", "client-key.pem"], &client[..], ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let mut params = of_days(CertificateParams::new(names.to_vec())?, order)?;
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("server", String::as_str));
        params.extended_key_usages = vec![purpose];
        // The second is a thing of TLS 1.2, but QEMU looks for it.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate()?;
        made.push(public(files[0], params.signed_by(&key, &issuer)?.pem()));
        made.push(secret(files[1], key.serialize_pem()));
    }
    made.push(secret("keys.psk", shared_key(order.client)?));
    Ok(made)
}

/// What is a name in a certificate and in a file of shared keys.
fn is_name(name: &str) -> bool {
    let is_known = |character: char| character.is_ascii_alphanumeric() || "-.:_".contains(character);
    (1..=64).contains(&name.len()) && name.chars().all(is_known)
}

/// A line of psktool's format.
fn shared_key(client: &str) -> Result<String, AuthorityError> {
    let mut key = Zeroizing::new([0; SHARED_KEY_BYTES]);
    rand::fill(&mut *key).map_err(|_| AuthorityError::Random)?;
    let mut line = String::with_capacity(client.len() + 2 * SHARED_KEY_BYTES + 2);
    line.push_str(client);
    line.push(':');
    for byte in *key {
        line.push(char::from_digit(u32::from(byte >> 4), 16).expect("a digit"));
        line.push(char::from_digit(u32::from(byte & 15), 16).expect("a digit"));
    }
    line.push('\n');
    Ok(line)
}

/// Good from yesterday on, because clocks differ.
fn of_days(
    mut params: CertificateParams,
    order: &AuthorityOrder<'_>,
) -> Result<CertificateParams, AuthorityError> {
    let days = AuthorityError::Days(order.days);
    let end = order.now.checked_add(DAY * order.days);
    let dates = date(order.now.saturating_sub(DAY)).zip(end.and_then(date));
    let (start, end) = dates.ok_or(days)?;
    params.not_before = date_time_ymd(start.0, start.1, start.2);
    params.not_after = date_time_ymd(end.0, end.1, end.2);
    Ok(params)
}

/// Year, month and day; none after the year 9999.
fn date(time: Duration) -> Option<(i32, u8, u8)> {
    // The last second that has four digits for its year.
    if time.as_secs() > 253_402_300_799 {
        return None;
    }
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + time).to_string();
    let mut parts = text.split(['-', 'T']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn public(name: &'static str, text: String) -> MadeFile {
    MadeFile { name, is_secret: false, contents: Zeroizing::new(text.into_bytes()) }
}

fn secret(name: &'static str, text: String) -> MadeFile {
    MadeFile { name, is_secret: true, contents: Zeroizing::new(text.into_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::acceptor::{TlsAcceptor, TlsMaterial};

    fn order<'a>(server: &'a [String], client: &'a str, days: u32) -> AuthorityOrder<'a> {
        AuthorityOrder { server, client, now: Duration::from_secs(1_750_000_000), days }
    }

    #[test]
    fn what_is_made_is_what_a_server_takes() {
        let made = make_authority(&order(&["localhost".to_owned(), "::1".to_owned()], "vm1", 30)).unwrap();
        let file = |name: &str| made.iter().find(|file| file.name == name).expect(name).contents.as_slice();
        let material = TlsMaterial {
            certificate: Some((file("server-cert.pem"), file("server-key.pem"))),
            client_authorities: Some(file("ca-cert.pem")),
            shared_keys: Some(file("keys.psk")),
            ..TlsMaterial::default()
        };
        TlsAcceptor::new(&material).unwrap();
        let secret: Vec<_> = made.iter().filter(|file| file.is_secret).map(|file| file.name).collect();
        assert_eq!(secret, ["ca-key.pem", "server-key.pem", "client-key.pem", "keys.psk"]);
        let key = String::from_utf8(file("keys.psk").to_vec()).unwrap();
        assert!(key.starts_with("vm1:") && key.trim_end().len() == 4 + 64, "{}", key.len());
    }

    #[test]
    fn impossible_orders_are_refused() {
        let names = ["localhost".to_owned()];
        for client in ["", "a b", "a:b", &"a".repeat(65)] {
            let made = make_authority(&order(&names, client, 1));
            assert!(matches!(made, Err(AuthorityError::Name(_))), "{client:?}");
        }
        assert!(matches!(make_authority(&order(&names, "a", u32::MAX)), Err(AuthorityError::Days(_))));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(Duration::ZERO), Some((1970, 1, 1)));
        assert_eq!(date(Duration::from_secs(951_782_399)), Some((2000, 2, 28)));
        assert_eq!(date(Duration::from_secs(951_782_400)), Some((2000, 2, 29)));
        assert_eq!(date(Duration::from_secs(253_402_300_800)), None);
    }
}
