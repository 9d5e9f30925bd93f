//! What a device carries so that it is found again: whose it is, and of what export.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::client::uri::NbdUri;

/// The first word of an identifier, with the version of its form.
const MARK: &str = "ringnbd/1";
/// The kernel shows an identifier in a page of memory.
pub(super) const LONGEST: usize = 2048;

/// The identifier of a device: this program's mark, a number of this attaching alone, and the export.
///
/// The kernel compares it whenever connections are offered. So a supervisor never gives connections to a
/// device that was detached and attached again behind its back, even to the same export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identifier {
    uuid: Uuid,
    pub(crate) uri: NbdUri,
}

impl Identifier {
    /// A new one, which no other device has.
    pub(super) fn new(uri: NbdUri) -> Self {
        use rustix::rand::{GetRandomFlags, getrandom};
        let mut bytes = [0; 16];
        while getrandom(&mut bytes[..], GetRandomFlags::empty()) != Ok(bytes.len()) {}
        Self { uuid: uuid::Builder::from_random_bytes(bytes).into_uuid(), uri }
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.to_string().len() > LONGEST
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK} {} {}", self.uuid, self.uri)
    }
}

/// An identifier of something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Foreign;

impl FromStr for Identifier {
    type Err = Foreign;

    /// Takes nothing but what `Display` gives: what is sent back to the kernel must be what it has.
    fn from_str(text: &str) -> Result<Self, Foreign> {
        let mut words = text.splitn(3, ' ');
        let (Some(MARK), Some(uuid), Some(uri)) = (words.next(), words.next(), words.next()) else {
            return Err(Foreign);
        };
        let uuid = Uuid::try_parse(uuid).map_err(|_| Foreign)?;
        let parsed = Self { uuid, uri: uri.parse().map_err(|_| Foreign)? };
        if parsed.to_string() == text { Ok(parsed) } else { Err(Foreign) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_read_back_and_unique() {
        for uri in ["nbd://localhost/a%20b", "nbd+unix:///?socket=/run/x.sock", "nbd://[::1]:99/"] {
            let uri: NbdUri = uri.parse().unwrap();
            let identifier = Identifier::new(uri.clone());
            assert_eq!(identifier.to_string().parse(), Ok(identifier.clone()));
            assert_ne!(identifier, Identifier::new(uri));
        }
    }

    #[test]
    fn foreign_ones_are_foreign() {
        let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        for text in [
            "",
            "ringnbd/1",
            "ringnbd/1  nbd://a/",
            &format!("ringnbd/2 {uuid} nbd://a/"),
            &format!("ringnbd/1 {} nbd://a/", uuid.to_uppercase()),
            &format!("ringnbd/1 {uuid} nbd://a:10809/"),
            &format!("ringnbd/1 {uuid} /dev/sda"),
            "somebody else's",
        ] {
            assert_eq!(text.parse::<Identifier>(), Err(Foreign), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_foreign_or_itself(text in "(ringnbd/1 )?\\PC{0,80}") {
            if let Ok(identifier) = text.parse::<Identifier>() {
                prop_assert_eq!(identifier.to_string(), text);
            }
        }
    }
}
