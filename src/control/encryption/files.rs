//! Certificates and keys, read from their files.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::{OldestTls, TlsConfig, TlsFile};
use crate::tls::{TlsAcceptor, TlsMaterial, TlsSetupError};

/// Bytes of one file at most.
const LONGEST_FILE: u64 = 16 << 20;

/// Why there is no TLS; each a sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// A file.
    #[error("cannot read {what} {}: {error}", path.display())]
    Read {
        /// What it should have.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file of another kind.
    #[error("{what} {} has more than 16 MiB: is it another file?", path.display())]
    TooLong {
        /// What it should have.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// A directory without files.
    #[error(
        "there is neither a certificate with its key ({}) nor a file of shared keys ({}): put one of them there, under \
         the names that QEMU has for them", certificate.display(), keys.display()
    )]
    Nothing {
        /// Where the certificate would be.
        certificate: PathBuf,
        /// Where the keys would be.
        keys: PathBuf,
    },
    /// A file with something else in it.
    #[error("{path}: {error}")]
    Setup {
        /// Which file, or which two.
        path: String,
        /// Why.
        error: TlsSetupError,
    },
}

type SecretFile = Option<Zeroizing<Vec<u8>>>;

/// A file; `None` when it is not there and need not be.
fn read(
    open: &impl Fn(&Path) -> io::Result<File>,
    (what, file): (&'static str, Option<&TlsFile>),
    must_be: bool,
) -> Result<SecretFile, EncryptionError> {
    let Some(TlsFile { path, is_named }) = file else { return Ok(None) };
    let mut contents = Zeroizing::new(Vec::new());
    match open(path).and_then(|file| file.take(LONGEST_FILE + 1).read_to_end(&mut contents)) {
        Ok(length) if length as u64 > LONGEST_FILE => {
            Err(EncryptionError::TooLong { what, path: path.clone() })
        }
        Ok(_) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named && !must_be => Ok(None),
        Err(error) => Err(EncryptionError::Read { what, path: path.clone(), error }),
    }
}

/// Reads all files, which `open` opens.
pub(super) fn load(
    tls: &TlsConfig,
    open: impl Fn(&Path) -> io::Result<File>,
) -> Result<TlsAcceptor, EncryptionError> {
    let read = |what, file, must_be| read(&open, (what, file), must_be);
    let (certificate_file, key_file) = tls.certificate.as_ref().map(|(one, other)| (one, other)).unzip();
    let certificate = read("the server's certificate", certificate_file, false)?;
    let key = read("the server's key", key_file, certificate.is_some())?;
    if key.is_some() && certificate.is_none() {
        read("the server's certificate", certificate_file, true)?;
    }
    let authorities =
        read("the certificate of the clients' authority", tls.client_authorities.as_ref(), false)?;
    let revoked = read("the list of revoked certificates", tls.revoked.as_ref(), false)?;
    let shared_keys = read("the file of shared keys", tls.shared_keys.as_ref(), false)?;
    if certificate.is_none() && shared_keys.is_none() {
        let path = |file: Option<&TlsFile>| file.map(|file| file.path.clone()).unwrap_or_default();
        let (certificate, keys) = (path(certificate_file), path(tls.shared_keys.as_ref()));
        return Err(EncryptionError::Nothing { certificate, keys });
    }
    let material = TlsMaterial {
        certificate: certificate
            .as_ref()
            .zip(key.as_ref())
            .map(|(one, other)| (one.as_slice(), other.as_slice())),
        client_authorities: authorities.as_ref().map(|bytes| bytes.as_slice()),
        revoked: revoked.as_ref().map(|bytes| bytes.as_slice()),
        // Without rights by client everybody may come whom an export lets in.
        certificate_is_required: false,
        allows_tls_12: tls.oldest == OldestTls::Tls12,
        shared_keys: shared_keys.as_ref().map(|bytes| bytes.as_slice()),
    };
    TlsAcceptor::new(&material).map_err(|error| EncryptionError::Setup { path: place(&error, tls), error })
}

/// The file that an error is about.
fn place(error: &TlsSetupError, tls: &TlsConfig) -> String {
    let show = |file: Option<&Path>| file.map_or(String::new(), |path| path.display().to_string());
    let path = |file: &Option<TlsFile>| show(file.as_ref().map(|file| file.path.as_path()));
    let (certificate, key) = tls.certificate.clone().unzip();
    match error {
        TlsSetupError::Certificate(_) | TlsSetupError::Nothing => path(&certificate),
        TlsSetupError::Key(_) => path(&key),
        TlsSetupError::Pair(_) => format!("{} and {}", path(&certificate), path(&key)),
        TlsSetupError::Authorities(_) => path(&tls.client_authorities),
        TlsSetupError::Revoked(_) | TlsSetupError::NoAuthorities => path(&tls.revoked),
        TlsSetupError::SharedKeys(_) => path(&tls.shared_keys),
    }
}
