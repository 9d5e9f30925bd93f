//! The parameters of `nbds://`, by the names that libnbd gives them; the oldest version is ours.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::error::UriError;

const CERTIFICATES: &str = "tls-certificates";
const PSK_FILE: &str = "tls-psk-file";
const USERNAME: &str = "tls-username";
const HOSTNAME: &str = "tls-hostname";
const VERIFY_PEER: &str = "tls-verify-peer";
const MIN_VERSION: &str = "tls-min-version";

/// How a connection is encrypted: with certificates, or with a shared key if there is a file of those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsParameters {
    /// The directory of `ca-cert.pem`, `client-cert.pem` and `client-key.pem`.
    pub certificates: Option<PathBuf>,
    /// A file of shared keys, as `psktool` writes it.
    pub psk_file: Option<PathBuf>,
    /// Which of the keys; `None`: the only one.
    pub username: Option<String>,
    /// The name that the server's certificate has to have; `None`: the host of the URI, and `localhost` for a
    /// unix socket.
    pub hostname: Option<String>,
    /// False: any certificate of a server will do, so that somebody in between can read and change all.
    pub verify_peer: bool,
    /// A server with certificates may speak TLS 1.2 if it has nothing later.
    pub allows_tls_12: bool,
}

impl Default for TlsParameters {
    fn default() -> Self {
        let (certificates, psk_file, username, hostname) = (None, None, None, None);
        Self { certificates, psk_file, username, hostname, verify_peer: true, allows_tls_12: false }
    }
}

impl TlsParameters {
    /// Takes a parameter; false when it is none of TLS.
    pub(super) fn set(&mut self, key: &str, value: Vec<u8>) -> Result<bool, UriError> {
        let wrong = |value: &[u8]| UriError::Value(key.into(), String::from_utf8_lossy(value).into_owned());
        if key.starts_with("tls-") && (value.is_empty() || value.contains(&0)) {
            return Err(wrong(&value));
        }
        let path = |value| Some(PathBuf::from(OsString::from_vec(value)));
        let text = |value| String::from_utf8(value).map_err(|error| wrong(error.as_bytes()));
        match key {
            CERTIFICATES => self.certificates = path(value),
            PSK_FILE => self.psk_file = path(value),
            // It may stand before the host, too.
            USERNAME if self.username.is_some() => return Err(UriError::Parameter(key.into())),
            USERNAME => self.username = Some(text(value)?),
            HOSTNAME => self.hostname = Some(text(value)?),
            VERIFY_PEER => {
                self.verify_peer = match value.to_ascii_lowercase().as_slice() {
                    b"1" | b"true" | b"yes" | b"on" => true,
                    b"0" | b"false" | b"no" | b"off" => false,
                    _ => return Err(wrong(&value)),
                };
            }
            MIN_VERSION => {
                self.allows_tls_12 = match value.as_slice() {
                    b"1.2" => true,
                    b"1.3" => false,
                    _ => return Err(wrong(&value)),
                };
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether the parameters go together.
    pub(super) fn check(&self) -> Result<(), UriError> {
        match self.psk_file {
            None if self.username.is_some() => Err(UriError::UserName),
            Some(_) if self.certificates.is_some() => Err(UriError::WithSharedKey(CERTIFICATES)),
            Some(_) if !self.verify_peer => Err(UriError::WithSharedKey(VERIFY_PEER)),
            Some(_) if self.allows_tls_12 => Err(UriError::WithSharedKey(MIN_VERSION)),
            _ => Ok(()),
        }
    }

    /// The parameters that differ from what holds without them, but for the name before the host.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&'static str, Cow<'_, [u8]>)> {
        let path = |path: &Option<PathBuf>| {
            path.as_ref().map(|path| Cow::Owned(path.as_os_str().as_bytes().to_vec()))
        };
        let hostname = self.hostname.as_ref().map(|name| Cow::Borrowed(name.as_bytes()));
        let verify = (!self.verify_peer).then_some(Cow::Borrowed(&b"no"[..]));
        let version = self.allows_tls_12.then_some(Cow::Borrowed(&b"1.2"[..]));
        [
            (CERTIFICATES, path(&self.certificates)),
            (PSK_FILE, path(&self.psk_file)),
            (HOSTNAME, hostname),
            (VERIFY_PEER, verify),
            (MIN_VERSION, version),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
    }
}
