//! What a URI says about TLS, made into a connector: files are found where libnbd looks for them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::uri::{NbdUri, ServerAddress, TlsParameters};
use crate::tls::{ConnectorError, ServerTrust, TlsConnector, TlsVersion};

/// Bytes of one file at most.
const LONGEST_FILE: u64 = 16 << 20;
/// Below the home directory.
const HOME_PLACES: [&str; 2] = [".config/pki/libnbd", ".pki/libnbd"];
const MACHINE_PLACE: &str = "/etc/pki/libnbd";
/// Where systems have the authorities that they trust, all in one file.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Where another one is named, as for OpenSSL.
const SYSTEM_VARIABLE: &str = "SSL_CERT_FILE";

/// Keys may be in it.
type FileContents = Zeroizing<Vec<u8>>;

/// Why a connection cannot be encrypted as its URI says; each a sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialsError {
    #[error("cannot read {what} {}: {error}", path.display())]
    Read { what: &'static str, path: PathBuf, error: io::Error },
    #[error("{what} {} has more than 16 MiB: is it another file?", path.display())]
    TooLong { what: &'static str, path: PathBuf },
    #[error(
        "there is neither ca-cert.pem nor client-cert.pem in {}: name the directory of certificates by \
         tls-certificates", .0.display()
    )]
    Nothing(PathBuf),
    #[error(
        "this machine has no list of authorities to trust: name the directory of ca-cert.pem by tls-certificates"
    )]
    NoAuthorities,
    #[error("{}: {error}", path.display())]
    Setup { path: PathBuf, error: ConnectorError },
}

/// What a connection is encrypted with.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) connector: TlsConnector,
    /// The name that the server has to have.
    pub(super) server: String,
}

impl Credentials {
    pub(super) fn load(uri: &NbdUri, tls: &TlsParameters) -> Result<Self, CredentialsError> {
        let connector = match &tls.psk_file {
            Some(path) => shared_key(path, tls.username.as_deref())?,
            None => certificates(tls)?,
        };
        let server = match (&tls.hostname, &uri.address) {
            (Some(name), _) => name.clone(),
            (None, ServerAddress::Tcp { host, .. }) => host.clone(),
            (None, ServerAddress::Unix(_) | ServerAddress::Abstract(_)) => "localhost".into(),
        };
        Ok(Self { connector, server })
    }
}

fn shared_key(path: &Path, name: Option<&str>) -> Result<TlsConnector, CredentialsError> {
    let keys = must_read("the file of shared keys", path)?;
    TlsConnector::with_shared_key(&keys, name)
        .map_err(|error| CredentialsError::Setup { path: path.into(), error })
}

fn certificates(tls: &TlsParameters) -> Result<TlsConnector, CredentialsError> {
    let directory = tls.certificates.clone().or_else(usual_directory);
    let file = |what, name| match &directory {
        Some(directory) => read(what, &directory.join(name)),
        None => Ok(None),
    };
    let own = match file("the client's certificate", "client-cert.pem")? {
        Some(certificate) => {
            let path = directory.as_deref().unwrap_or(Path::new("")).join("client-key.pem");
            Some((certificate, must_read("the client's key", &path)?))
        }
        None => None,
    };
    let authorities = file("the certificate of the server's authority", "ca-cert.pem")?;
    let revoked = file("the list of revoked certificates", "ca-crl.pem")?;
    if let Some(named) = &tls.certificates
        && authorities.is_none()
        && own.is_none()
    {
        return Err(CredentialsError::Nothing(named.clone()));
    }
    let is_of_directory = authorities.is_some();
    let (authorities, path) = match authorities {
        Some(authorities) => (authorities, directory.unwrap_or_default()),
        None if !tls.verify_peer => (FileContents::default(), directory.unwrap_or_default()),
        None => system_authorities()?,
    };
    let trust = match tls.verify_peer {
        false => ServerTrust::Anybody,
        true => ServerTrust::Authorities {
            authorities: &authorities,
            are_of_system: !is_of_directory,
            revoked: revoked.as_ref().map(|revoked| revoked.as_slice()),
        },
    };
    let own = own.as_ref().map(|(certificate, key)| (certificate.as_slice(), key.as_slice()));
    let oldest = if tls.allows_tls_12 { TlsVersion::Tls12 } else { TlsVersion::Tls13 };
    TlsConnector::with_certificates(trust, own, oldest)
        .map_err(|error| CredentialsError::Setup { path, error })
}

/// The first usual place that has an authority or a certificate.
fn usual_directory() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let below = home.iter().flat_map(|home| HOME_PLACES.map(|place| home.join(place)));
    below
        .chain([PathBuf::from(MACHINE_PLACE)])
        .find(|place| place.join("ca-cert.pem").exists() || place.join("client-cert.pem").exists())
}

fn system_authorities() -> Result<(FileContents, PathBuf), CredentialsError> {
    const WHAT: &str = "the authorities that this machine trusts";
    if let Some(path) = std::env::var_os(SYSTEM_VARIABLE).map(PathBuf::from) {
        return Ok((must_read(WHAT, &path)?, path));
    }
    for path in SYSTEM_AUTHORITIES.map(PathBuf::from) {
        if let Some(found) = read(WHAT, &path)? {
            return Ok((found, path));
        }
    }
    Err(CredentialsError::NoAuthorities)
}

/// A file; `None` when it is not there.
fn read(what: &'static str, path: &Path) -> Result<Option<FileContents>, CredentialsError> {
    match must_read(what, path) {
        Err(CredentialsError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn must_read(what: &'static str, path: &Path) -> Result<FileContents, CredentialsError> {
    let mut contents = FileContents::default();
    match File::open(path).and_then(|file| file.take(LONGEST_FILE + 1).read_to_end(&mut contents)) {
        Ok(length) if length as u64 > LONGEST_FILE => {
            Err(CredentialsError::TooLong { what, path: path.into() })
        }
        Ok(_) => Ok(contents),
        Err(error) => Err(CredentialsError::Read { what, path: path.into(), error }),
    }
}
