//! Names of images and snapshots: `vm1`, `vm1@monday`.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes of a name.
pub(super) const LONGEST_NAME: usize = 128;

/// Why a text is no name; it says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name is missing: write one as in vm1, or vm1@monday for a snapshot")]
    Empty,
    #[error("a name of {0} bytes is too long: it has at most {LONGEST_NAME}")]
    TooLong(usize),
    #[error(
        "\"{0}\" is not a name: write letters, digits, \"-\", \"_\" and \".\", with a letter or a digit first, and no \"..\""
    )]
    Characters(String),
    #[error("\"{0}\" names a snapshot: write the name of an image, without \"@\"")]
    NotAnImage(String),
    #[error("\"{0}\" names an image: write a snapshot of it, as in {0}@monday")]
    NotASnapshot(String),
}

/// The name of an image within its store, or of a snapshot within its image.
///
/// Nothing of it has a meaning in a path, a URI, a shell or a list, so it can be written anywhere. `..`
/// stands between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreName(String);

impl StoreName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Before every name in order, and none itself.
    pub(super) const fn before_all() -> Self {
        Self(String::new())
    }
}

impl FromStr for StoreName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some(first) = text.bytes().next() else { return Err(NameError::Empty) };
        if text.len() > LONGEST_NAME {
            return Err(NameError::TooLong(text.len()));
        }
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !first.is_ascii_alphanumeric() || !text.bytes().all(is_known) || text.contains("..") {
            return Err(NameError::Characters(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image, or a snapshot of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName {
    pub image: StoreName,
    pub snapshot: Option<StoreName>,
}

impl NodeName {
    /// The name, if it is an image's.
    ///
    /// # Errors
    /// It is a snapshot's.
    pub fn into_image(self) -> Result<StoreName, NameError> {
        match self.snapshot {
            None => Ok(self.image),
            Some(_) => Err(NameError::NotAnImage(self.to_string())),
        }
    }

    /// Both parts, if it is a snapshot's.
    ///
    /// # Errors
    /// It is an image's.
    pub fn into_snapshot(self) -> Result<(StoreName, StoreName), NameError> {
        match self.snapshot {
            Some(snapshot) => Ok((self.image, snapshot)),
            None => Err(NameError::NotASnapshot(self.image.to_string())),
        }
    }
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (image, snapshot) = match text.split_once('@') {
            Some((image, snapshot)) => (image, Some(snapshot.parse()?)),
            None => (text, None),
        };
        Ok(Self { image: image.parse()?, snapshot })
    }
}

impl Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.image),
            None => self.image.fmt(f),
        }
    }
}

macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    )*};
}

as_text!(StoreName NodeName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_have_harmless_characters_only() {
        for name in ["vm1", "0", "golden-2.1_x", "A.b", &"x".repeat(LONGEST_NAME)] {
            assert_eq!(name.parse::<StoreName>().unwrap().as_str(), name);
        }
        for name in ["-v", ".", "..", "a..b", "a/b", "a b", "a@b", "a\0", "ä", "a:b", "a\n", "_x"] {
            assert_eq!(name.parse::<StoreName>(), Err(NameError::Characters(name.to_owned())), "{name}");
        }
        assert_eq!("".parse::<StoreName>(), Err(NameError::Empty));
        let long = "x".repeat(LONGEST_NAME + 1);
        assert_eq!(long.parse::<StoreName>(), Err(NameError::TooLong(LONGEST_NAME + 1)));
    }

    #[test]
    fn a_snapshot_stands_behind_an_at() {
        let node: NodeName = "vm1@monday".parse().unwrap();
        assert_eq!(node.to_string(), "vm1@monday");
        assert!(node.clone().into_image().unwrap_err().to_string().contains("without \"@\""));
        let (image, snapshot) = node.into_snapshot().unwrap();
        assert_eq!((image.as_str(), snapshot.as_str()), ("vm1", "monday"));
        let image: NodeName = "vm1".parse().unwrap();
        assert!(image.clone().into_snapshot().unwrap_err().to_string().contains("vm1@monday"));
        assert_eq!(image.into_image().unwrap().as_str(), "vm1");
        for text in ["@", "a@", "@b", "a@b@c", ""] {
            assert!(text.parse::<NodeName>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_that_reads_as_itself_or_none(text in ".{0,200}") {
            if let Ok(node) = text.parse::<NodeName>() {
                prop_assert_eq!(node.to_string(), text);
            }
        }
    }
}
