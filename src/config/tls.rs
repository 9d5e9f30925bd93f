//! Encryption, as it is asked for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer};

use super::error::ConfigError;
use super::export::ExportConfig;
use super::size::parse_duration;

/// Which clients have to encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum TlsPolicy {
    /// Nobody can.
    Off,
    /// Who wants to; exports with `tls = "required"` are not there for the others
    Selective,
    /// Everybody
    Required,
}

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum OldestTls {
    /// For clients that have nothing later; with certificates only
    #[serde(rename = "1.2")]
    #[cfg_attr(feature = "cli", value(name = "1.2"))]
    Tls12,
    /// The usual one
    #[default]
    #[serde(rename = "1.3")]
    #[cfg_attr(feature = "cli", value(name = "1.3"))]
    Tls13,
}

/// Records that a key may make: with AES-GCM it is renewed before 2^24.5 (RFC 8446, 5.5).
const LONGEST_KEY: u64 = 1 << 24;

/// Sessions that are shorter are more handshakes than anything else.
const SHORTEST_SESSION: Duration = Duration::from_secs(1);

/// `tls` of an export. It says what it says, so that there is room for more words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ExportTls {
    Required,
}

/// `[tls]`, `--tls`, `--tls-mode` and `--tls-min-version`.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct TlsSettings {
    /// Where the files are that are not named, under the names that QEMU gives them.
    pub directory: Option<PathBuf>,
    pub mode: Option<TlsPolicy>,
    pub min_version: Option<OldestTls>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub client_ca: Option<PathBuf>,
    pub crl: Option<PathBuf>,
    pub psk: Option<PathBuf>,
    /// Records of ours after which a key is renewed.
    pub renew_after: Option<u64>,
    /// How long a session goes on: certificates end, and rights are taken away.
    #[serde(deserialize_with = "duration")]
    pub max_session: Option<Duration>,
}

/// A duration with its unit.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

/// What is known of encryption before any file was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// Not [`TlsPolicy::Off`].
    pub mode: TlsPolicy,
    pub oldest: OldestTls,
    /// The server's certificate and its key.
    pub certificate: Option<(TlsFile, TlsFile)>,
    /// The authorities of clients.
    pub client_authorities: Option<TlsFile>,
    /// Client certificates that were revoked.
    pub revoked: Option<TlsFile>,
    pub shared_keys: Option<TlsFile>,
    /// Records of ours after which a key is renewed.
    pub renew_after: u64,
    /// How long a session goes on.
    pub max_session: Option<Duration>,
}

impl TlsConfig {
    fn files(&self) -> impl Iterator<Item = &TlsFile> {
        let identity = self.certificate.iter().flat_map(|(certificate, key)| [certificate, key]);
        identity.chain(&self.client_authorities).chain(&self.revoked).chain(&self.shared_keys)
    }

    /// Its files.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files().map(|file| file.path.as_path())
    }

    /// The same files wherever the process is.
    #[must_use]
    pub(crate) fn with_absolute_paths(mut self) -> Self {
        let absolute = |file: &mut TlsFile| {
            if let Ok(path) = std::path::absolute(&file.path) {
                file.path = path;
            }
        };
        if let Some((certificate, key)) = &mut self.certificate {
            absolute(certificate);
            absolute(key);
        }
        let others = [&mut self.client_authorities, &mut self.revoked, &mut self.shared_keys];
        others.into_iter().flatten().for_each(absolute);
        self
    }
}

/// A file, and whether it has to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFile {
    pub path: PathBuf,
    /// It was named; one in a directory may be missing.
    pub is_named: bool,
}

impl TlsSettings {
    /// These, with those of `below` where these have none. A directory given here replaces all of `below`'s
    /// files.
    pub(super) fn or(self, below: Self) -> Self {
        let (mode, min_version) = (self.mode.or(below.mode), self.min_version.or(below.min_version));
        let renew_after = self.renew_after.or(below.renew_after);
        let max_session = self.max_session.or(below.max_session);
        if self.directory.is_some() {
            return Self { mode, min_version, renew_after, max_session, ..self };
        }
        Self {
            directory: below.directory,
            mode,
            min_version,
            cert: self.cert.or(below.cert),
            key: self.key.or(below.key),
            client_ca: self.client_ca.or(below.client_ca),
            crl: self.crl.or(below.crl),
            psk: self.psk.or(below.psk),
            renew_after,
            max_session,
        }
    }

    pub(super) fn make_relative_to(&mut self, directory: &Path) {
        let paths = [&mut self.directory, &mut self.cert, &mut self.key, &mut self.client_ca];
        for path in paths.into_iter().chain([&mut self.crl, &mut self.psk]).flatten() {
            *path = directory.join(&*path);
        }
    }

    /// `None`: there is no encryption.
    pub(super) fn resolve(self, exports: &[ExportConfig]) -> Result<Option<TlsConfig>, ConfigError> {
        let Self { directory, mode, min_version, cert, key, client_ca, crl, psk, renew_after, max_session } =
            self;
        let has_files = directory.is_some() || cert.is_some() || key.is_some() || psk.is_some();
        let mode = match mode {
            Some(TlsPolicy::Off) => None,
            Some(_) if !has_files => return Err(ConfigError::NoTlsFiles),
            None if !has_files && min_version.is_some() => return Err(ConfigError::NoTlsFiles),
            None if !has_files => None,
            mode => Some(mode.unwrap_or(TlsPolicy::Required)),
        };
        let Some(mode) = mode else {
            return match exports.iter().find(|export| export.requires_tls) {
                Some(export) => Err(ConfigError::ExportNeedsTls(export.name.clone())),
                None => Ok(None),
            };
        };
        if cfg!(not(feature = "tls")) {
            return Err(ConfigError::BuiltWithoutTls);
        }
        if directory.is_none() && cert.is_some() != key.is_some() {
            return Err(ConfigError::HalfOfAnIdentity);
        }
        let renew_after = renew_after.unwrap_or(LONGEST_KEY);
        if !(1..=LONGEST_KEY).contains(&renew_after) {
            return Err(ConfigError::RenewAfter(renew_after));
        }
        let oldest = min_version.unwrap_or_default();
        if oldest == OldestTls::Tls12 && directory.is_none() && cert.is_none() {
            return Err(ConfigError::OldTlsNeedsCertificate);
        }
        if let Some(time) = max_session.filter(|time| *time < SHORTEST_SESSION) {
            return Err(ConfigError::MaxSession(time));
        }
        if mode == TlsPolicy::Selective
            && exports.iter().any(|export| export.requires_tls && export.may_be_a_store())
        {
            return Err(ConfigError::StoreNeedsTls);
        }
        let file = |named: Option<PathBuf>, usual: &str| match (named, &directory) {
            (Some(path), _) => Some(TlsFile { path, is_named: true }),
            (None, Some(directory)) => Some(TlsFile { path: directory.join(usual), is_named: false }),
            (None, None) => None,
        };
        Ok(Some(TlsConfig {
            mode,
            oldest,
            certificate: file(cert, "server-cert.pem").zip(file(key, "server-key.pem")),
            client_authorities: file(client_ca, "ca-cert.pem"),
            revoked: file(crl, "ca-crl.pem"),
            shared_keys: file(psk, "keys.psk"),
            renew_after,
            max_session,
        }))
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;

    fn resolve(settings: TlsSettings) -> Result<Option<TlsConfig>, ConfigError> {
        settings.resolve(&[ExportConfig::example()])
    }

    #[test]
    fn a_directory_has_files_of_known_names_and_what_is_named_wins() {
        let settings =
            TlsSettings { directory: Some("/t".into()), psk: Some("/k".into()), ..TlsSettings::default() };
        let config = resolve(settings).unwrap().unwrap();
        assert_eq!(config.mode, TlsPolicy::Required);
        let (certificate, key) = config.certificate.unwrap();
        assert_eq!(certificate, TlsFile { path: "/t/server-cert.pem".into(), is_named: false });
        assert_eq!(key.path, Path::new("/t/server-key.pem"));
        assert_eq!(config.shared_keys, Some(TlsFile { path: "/k".into(), is_named: true }));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mode = |mode| TlsSettings { mode: Some(mode), ..TlsSettings::default() };
        assert_eq!(resolve(TlsSettings::default()), Ok(None));
        assert_eq!(resolve(mode(TlsPolicy::Off)), Ok(None));
        assert_eq!(resolve(mode(TlsPolicy::Selective)), Err(ConfigError::NoTlsFiles));
        let half = TlsSettings { cert: Some("/c".into()), ..TlsSettings::default() };
        assert_eq!(resolve(half), Err(ConfigError::HalfOfAnIdentity));
        let old = |settings| TlsSettings { min_version: Some(OldestTls::Tls12), ..settings };
        assert_eq!(resolve(old(TlsSettings::default())), Err(ConfigError::NoTlsFiles));
        let shared = TlsSettings { psk: Some("/k".into()), ..TlsSettings::default() };
        assert_eq!(resolve(old(shared)), Err(ConfigError::OldTlsNeedsCertificate));
        let short = TlsSettings {
            directory: Some("/t".into()),
            max_session: Some(Duration::ZERO),
            ..TlsSettings::default()
        };
        assert_eq!(resolve(short), Err(ConfigError::MaxSession(Duration::ZERO)));
        let needs = ExportConfig { requires_tls: true, ..ExportConfig::example() };
        let error = TlsSettings::default().resolve(&[needs]);
        assert_eq!(error, Err(ConfigError::ExportNeedsTls(String::new())));
    }

    #[test]
    fn a_directory_on_the_command_line_replaces_the_files_of_the_configuration() {
        let file = TlsSettings {
            cert: Some("/c".into()),
            mode: Some(TlsPolicy::Selective),
            min_version: Some(OldestTls::Tls12),
            ..TlsSettings::default()
        };
        let flags = TlsSettings { directory: Some("/t".into()), ..TlsSettings::default() };
        let merged = flags.or(file.clone());
        assert_eq!((merged.cert, merged.mode), (None, Some(TlsPolicy::Selective)));
        assert_eq!(merged.min_version, Some(OldestTls::Tls12));
        assert_eq!(TlsSettings::default().or(file.clone()), file);
    }
}
