//! `[[attach]]` and `--attach`: exports of the server that become disks of this machine's kernel.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::export::ExportConfig;
use super::size::parse_duration;

/// The most connections of a device.
const MOST_CONNECTIONS: u8 = 64;
/// Requests wait for so long when the server is gone.
const DEAD_TIMEOUT: Duration = Duration::from_secs(300);
const NAME: &str = "/dev/nbd";

/// An export that the server attaches when it is up, and detaches when it stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachConfig {
    /// The name of the export.
    pub export: String,
    /// The number of its device; any free one without.
    pub device: Option<u32>,
    /// How many connections; as many as there are processors without, 2 to 4.
    pub connections: Option<u8>,
    /// A request without a reply for so long ends its connection; zero: never.
    pub timeout: Duration,
    /// Requests wait for so long when all connections are dead.
    pub dead_timeout: Duration,
    pub read_only: bool,
}

/// Why it cannot be attached; a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachConfigError {
    #[error("\"{0}\" is not a device: write it as /dev/nbd3")]
    Device(String),
    #[error("{0} connections are not possible: choose 1 to {MOST_CONNECTIONS}")]
    Connections(u8),
    #[error("\"{0}\" is not a duration: {1}")]
    Duration(String, String),
    #[error("\"{0}\" is to be attached and is no export: name an export of this server")]
    NoExport(String),
    #[error("\"{0}\" is to be attached twice: a disk with two devices would be overwritten")]
    Twice(String),
    #[error("two exports are to be attached to /dev/nbd{0}: give each its own device")]
    DeviceTwice(u32),
    #[error(
        "\"{0}\" cannot be attached: the kernel's client cannot encrypt, and the export is for clients that do"
    )]
    Encrypted(String),
}

impl AttachConfig {
    fn new(export: &str, device: Option<&str>) -> Result<Self, AttachConfigError> {
        let number = |text: &str| {
            let digits =
                text.strip_prefix(NAME).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            let number = digits.and_then(|digits| digits.parse().ok());
            number.ok_or_else(|| AttachConfigError::Device(text.to_owned()))
        };
        Ok(Self {
            export: export.to_owned(),
            device: device.map(number).transpose()?,
            connections: None,
            timeout: Duration::ZERO,
            dead_timeout: DEAD_TIMEOUT,
            read_only: false,
        })
    }
}

/// `EXPORT[=/dev/nbdN]`. A name may contain `=`, so what stands behind the last one counts.
impl FromStr for AttachConfig {
    type Err = AttachConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.rsplit_once('=') {
            Some((export, device)) if device.starts_with(NAME) => Self::new(export, Some(device)),
            _ => Self::new(text, None),
        }
    }
}

/// `[[attach]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct AttachTable {
    export: String,
    device: Option<String>,
    connections: Option<u8>,
    timeout: Option<String>,
    dead_timeout: Option<String>,
    #[serde(default)]
    read_only: bool,
}

impl AttachTable {
    pub(super) fn checked(self) -> Result<AttachConfig, AttachConfigError> {
        let duration = |text: Option<String>, otherwise| {
            let Some(text) = text else { return Ok(otherwise) };
            parse_duration(&text).map_err(|error| AttachConfigError::Duration(text, error.to_string()))
        };
        if let Some(wrong) = self.connections.filter(|number| !(1..=MOST_CONNECTIONS).contains(number)) {
            return Err(AttachConfigError::Connections(wrong));
        }
        Ok(AttachConfig {
            connections: self.connections,
            timeout: duration(self.timeout, Duration::ZERO)?,
            dead_timeout: duration(self.dead_timeout, DEAD_TIMEOUT)?,
            read_only: self.read_only,
            ..AttachConfig::new(&self.export, self.device.as_deref())?
        })
    }
}

/// Checks what is to be attached against the exports that there are.
pub(super) fn check(
    attach: &[AttachConfig],
    exports: &[ExportConfig],
    needs_tls: bool,
) -> Result<(), AttachConfigError> {
    for (index, one) in attach.iter().enumerate() {
        let export = exports.iter().find(|export| export.name == one.export);
        let export = export.ok_or_else(|| AttachConfigError::NoExport(one.export.clone()))?;
        if needs_tls || export.requires_tls {
            return Err(AttachConfigError::Encrypted(one.export.clone()));
        }
        let before = &attach[..index];
        if before.iter().any(|other| other.export == one.export) {
            return Err(AttachConfigError::Twice(one.export.clone()));
        }
        if let Some(device) = one.device
            && before.iter().any(|other| other.device == Some(device))
        {
            return Err(AttachConfigError::DeviceTwice(device));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_stands_behind_the_last_equals_sign() {
        for (text, export, device) in [
            ("vm1", "vm1", None),
            ("vm1=/dev/nbd3", "vm1", Some(3)),
            ("a=b", "a=b", None),
            ("a=b=/dev/nbd0", "a=b", Some(0)),
            ("", "", None),
            ("=/dev/nbd12", "", Some(12)),
        ] {
            let attach: AttachConfig = text.parse().unwrap();
            assert_eq!((&*attach.export, attach.device), (export, device), "{text}");
        }
        for text in ["a=/dev/nbd", "a=/dev/nbdx", "a=/dev/nbd-1", "a=/dev/nbd99999999999", "a=/dev/nbd0p1"] {
            assert!(matches!(text.parse::<AttachConfig>(), Err(AttachConfigError::Device(_))), "{text}");
        }
    }

    #[test]
    fn each_export_and_each_device_once() {
        let exports =
            |text: &str| text.split(' ').map(|export| export.parse().unwrap()).collect::<Vec<ExportConfig>>();
        let attach =
            |text: &str| text.split(' ').map(|one| one.parse().unwrap()).collect::<Vec<AttachConfig>>();
        let checked = |wanted: &str| check(&attach(wanted), &exports("a=mem:1M b=mem:1M"), false);
        assert_eq!(checked("a=/dev/nbd1 b=/dev/nbd2"), Ok(()));
        assert_eq!(checked("a b=/dev/nbd2"), Ok(()));
        assert_eq!(checked("c"), Err(AttachConfigError::NoExport("c".into())));
        assert_eq!(checked("a a"), Err(AttachConfigError::Twice("a".into())));
        assert_eq!(checked("a=/dev/nbd1 b=/dev/nbd1"), Err(AttachConfigError::DeviceTwice(1)));
        let mut secret = exports("a=mem:1M");
        secret[0].requires_tls = true;
        for (exports, needs_tls) in [(secret, false), (exports("a=mem:1M"), true)] {
            let encrypted = check(&attach("a"), &exports, needs_tls);
            assert_eq!(encrypted, Err(AttachConfigError::Encrypted("a".into())));
        }
    }
}
