//! An export as it is asked for: `[NAME=]URI`.

use std::path::Path;
use std::str::FromStr;

use super::export_uri::{ExportUri, ExportUriError};
use super::image_uri::ImagePlace;
use super::rate::ExportRates;
use crate::rights::Rights;

/// The longest name and the longest description, in bytes: the longest string of the protocol.
const LONGEST_STRING: usize = 4096;

/// An export to serve.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportConfig {
    /// At most 4,096 bytes without NUL; `""` is the default export.
    pub name: String,
    pub uri: ExportUri,
    /// A text for people.
    pub description: String,
    /// Writes are refused, whatever the URI says.
    pub read_only: bool,
    /// Who may do what with it; what is not said here is as the defaults say.
    pub rights: Rights,
    /// Only clients that encrypt find it.
    pub requires_tls: bool,
    /// How fast it may be used.
    pub rates: ExportRates,
}

/// What holds for exports that say nothing else.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExportDefaults {
    pub rights: Rights,
    /// All exports are read-only.
    pub read_only: bool,
}

impl ExportDefaults {
    /// An export as it is served.
    pub fn in_force(&self, export: &ExportConfig) -> ExportConfig {
        ExportConfig {
            read_only: export.read_only || self.read_only,
            rights: export.rights.clone().or(&self.rights),
            ..export.clone()
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Uri(#[from] ExportUriError),
    #[error("an export's name is at most 4096 bytes and has no zero byte")]
    Name,
    #[error("an export's description is at most 4096 bytes and has no zero byte")]
    Description,
}

impl ExportConfig {
    /// Checks the texts; a description given here wins over the URI's.
    pub fn new(
        name: &str,
        uri: ExportUri,
        description: Option<&str>,
        read_only: bool,
    ) -> Result<Self, ExportError> {
        let is_bad = |text: &str| text.len() > LONGEST_STRING || text.contains('\0');
        let description = description.or(uri.description()).unwrap_or_default();
        if is_bad(name) {
            return Err(ExportError::Name);
        }
        if is_bad(description) {
            return Err(ExportError::Description);
        }
        let (name, description) = (name.to_owned(), description.to_owned());
        let (rights, rates) = (Rights::default(), ExportRates::default());
        Ok(Self { name, description, uri, read_only, requires_tls: false, rights, rates })
    }

    /// A store, or what is in one: only its directory tells.
    pub fn store(&self) -> Option<&Path> {
        let ExportUri::Image(image) = &self.uri else { return None };
        match &image.place {
            ImagePlace::Store(path) => Some(path),
            ImagePlace::Overlay(_) | ImagePlace::Temporary => None,
        }
    }

    /// Whether it may stand for all images of a store.
    pub fn may_be_a_store(&self) -> bool {
        self.store().is_some() && self.name.is_empty()
    }

    /// The export that is served if none is named: a gigabyte of memory.
    pub fn example() -> Self {
        let uri = ExportUri::Memory { size: 1 << 30 };
        let (name, description) = (String::new(), String::new());
        let (rights, rates) = (Rights::default(), ExportRates::default());
        Self { name, uri, description, read_only: false, requires_tls: false, rights, rates }
    }
}

/// `[NAME=]URI`: what stands before the first `=` is a name unless it contains `/`, `:` or `?`, for then it
/// is already the beginning of a path or URI.
///
/// So `disk=/data/a.img` has a name, and `/data/a=b.img`, `./a=b.img` and `file:a=b.img` have none. `=URI`
/// spells out the empty name. Names with one of the three characters are for the configuration file.
impl FromStr for ExportConfig {
    type Err = ExportError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, uri) = match text.split_once('=') {
            Some((name, uri)) if !name.contains(['/', ':', '?']) => (name, uri),
            _ => ("", text),
        };
        Self::new(name, uri.parse()?, None, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_before_the_first_equals_sign() {
        for (text, name, uri) in [
            ("a.img", "", "a.img"),
            ("disk=a.img", "disk", "a.img"),
            ("disk=/data/a=b.img", "disk", "/data/a=b.img"),
            ("/data/a=b.img", "", "/data/a=b.img"),
            ("./a=b.img", "", "./a=b.img"),
            ("=a=b.img", "", "a=b.img"),
            ("file:a=b.img", "", "file:a=b.img"),
            ("fault:delay=5ms:mem:1G", "", "fault:delay=5ms:mem:1G"),
            ("my disk=mem:1G", "my disk", "mem:1G"),
        ] {
            let export: ExportConfig = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((export.name.as_str(), export.uri), (name, uri.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn texts_are_limited() {
        let memory = ExportUri::Memory { size: 1 };
        let long = "x".repeat(4097);
        let new = |name, description| ExportConfig::new(name, memory.clone(), description, false);
        assert_eq!(new(&long, None), Err(ExportError::Name));
        assert_eq!(new("a\0", None), Err(ExportError::Name));
        assert_eq!(new("", Some(&long)), Err(ExportError::Description));
        assert!(new(&long[1..], Some(&long[1..])).is_ok());
        assert!("disk=".parse::<ExportConfig>().is_err());
    }

    #[test]
    fn a_description_may_come_with_the_uri() {
        let export: ExportConfig = "file:/x?description=one".parse().unwrap();
        assert_eq!(export.description, "one");
        assert_eq!(ExportConfig::new("", export.uri, Some("two"), false).unwrap().description, "two");
    }
}
