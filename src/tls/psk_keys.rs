//! Shared keys by name, as `psktool` writes them: a line `NAME:HEXADECIMAL KEY` for each.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

/// Bytes of a key at least: a shorter one can be guessed.
const SHORTEST_KEY: usize = 16;
/// Bytes of a key at most.
const LONGEST_KEY: usize = 512;
/// Bytes of a name at most.
const LONGEST_NAME: usize = 1024;
/// Keys in one file at most.
const MOST_KEYS: usize = 100_000;

/// Why a file of shared keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PskError {
    /// No name, or no key.
    #[error("line {0} is not NAME:KEY: write it with psktool -u NAME -p FILE")]
    Form(usize),
    /// The part that has to be hexadecimal is not.
    #[error("line {0} is not hexadecimal where it has to be: write it with psktool -u NAME -p FILE")]
    NotHexadecimal(usize),
    /// Too short or too long.
    #[error("the key in line {0} has {1} bytes: it needs {SHORTEST_KEY} to {LONGEST_KEY}; psktool makes 32")]
    Length(usize, usize),
    /// A name of nothing, or a very long one.
    #[error("the name in line {0} has {1} bytes: it needs 1 to {LONGEST_NAME}")]
    Name(usize, usize),
    /// Two keys of one name.
    #[error("line {0} has the same name as a line before it: remove one")]
    Twice(usize),
    /// Nothing to use.
    #[error("there is no key in it: add one with psktool -u NAME -p FILE")]
    Empty,
    /// Beyond all need.
    #[error("it has more than {MOST_KEYS} keys")]
    TooMany,
}

/// The shared keys of a server.
#[derive(Default)]
pub(in crate::tls) struct PskKeys(BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>);

impl PskKeys {
    pub(in crate::tls) fn parse(text: &[u8]) -> Result<Self, PskError> {
        let mut keys = BTreeMap::new();
        for (line, number) in text.split(|&byte| byte == b'\n').zip(1..) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let (name, key) = key_of_line(line, number)?;
            if keys.len() == MOST_KEYS {
                return Err(PskError::TooMany);
            }
            if keys.insert(name, key).is_some() {
                return Err(PskError::Twice(number));
            }
        }
        if keys.is_empty() { Err(PskError::Empty) } else { Ok(Self(keys)) }
    }

    pub(in crate::tls) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(in crate::tls) fn has(&self, name: &[u8]) -> bool {
        self.0.contains_key(name)
    }

    /// A client's name and key: the one of this name, or the only one.
    pub(in crate::tls) fn one(&self, name: Option<&[u8]>) -> Option<(&[u8], &[u8])> {
        let mut all = self.0.iter().map(|(name, key)| (name.as_slice(), key.as_slice()));
        match name {
            Some(name) => all.find(|(of, _)| *of == name),
            None if self.0.len() == 1 => all.next(),
            None => None,
        }
    }

    /// A hash of the key of this name, if there is one.
    pub(in crate::tls) fn hash_of(&self, name: &[u8]) -> Option<[u8; 32]> {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.0.get(name)?);
        Some(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// The key of this name. A name that there is not has one that nobody knows, so that a client cannot tell
    /// it from a wrong key.
    pub(in crate::tls) fn key_of(&self, name: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut unknown = Zeroizing::new(vec![0; 32]);
        rand::fill(&mut unknown).expect("the system has random bytes");
        self.0.get(name).cloned().unwrap_or(unknown)
    }
}

fn key_of_line(line: &[u8], number: usize) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), PskError> {
    let colon = line.iter().rposition(|&byte| byte == b':').ok_or(PskError::Form(number))?;
    let (name, key) = (&line[..colon], &line[colon + 1..]);
    let not_hexadecimal = PskError::NotHexadecimal(number);
    let name = match name.strip_prefix(b"#") {
        Some(hexadecimal) => decoded(hexadecimal).ok_or(not_hexadecimal.clone())?.to_vec(),
        None => name.to_vec(),
    };
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(PskError::Name(number, name.len()));
    }
    let key = decoded(key).ok_or(not_hexadecimal)?;
    if !(SHORTEST_KEY..=LONGEST_KEY).contains(&key.len()) {
        return Err(PskError::Length(number, key.len()));
    }
    Ok((name, key))
}

fn decoded(hexadecimal: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if !hexadecimal.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = hexadecimal.chunks_exact(2).map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8));
    let mut bytes = Zeroizing::new(Vec::with_capacity(hexadecimal.len() / 2));
    for byte in pairs {
        bytes.push(byte?);
    }
    Some(bytes)
}

/// Without names and keys.
impl fmt::Debug for PskKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PskKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_psktool_are_read() {
        let text = b"vm1:000102030405060708090a0b0c0d0e0f\r\n\n#00ff:FFfefdfcfbfaf9f8f7f6f5f4f3f2f1f0\na:b:00112233445566778899aabbccddeeff";
        let keys = PskKeys::parse(text).unwrap();
        assert_eq!(keys.key_of(b"vm1")[..4], [0, 1, 2, 3]);
        assert_eq!(keys.key_of(&[0, 0xff])[..2], [0xff, 0xfe]);
        assert!(keys.has(b"a:b") && !keys.has(b"a"));
        assert_ne!(keys.key_of(b"nobody"), keys.key_of(b"nobody"), "no key that could be guessed");
        assert_eq!(format!("{keys:?}"), "PskKeys(3)");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let key = "00112233445566778899aabbccddeeff";
        for (text, wrong) in [
            ("\n\n".to_owned(), PskError::Empty),
            ("name".to_owned(), PskError::Form(1)),
            (format!("a:{key}\nb:0g"), PskError::NotHexadecimal(2)),
            ("b:000".to_owned(), PskError::NotHexadecimal(1)),
            (format!("#0:{key}"), PskError::NotHexadecimal(1)),
            ("b:0011".to_owned(), PskError::Length(1, 2)),
            (format!(":{key}"), PskError::Name(1, 0)),
            (format!("{}:{key}", "n".repeat(1025)), PskError::Name(1, 1025)),
            (format!("a:{key}\n\na:{key}"), PskError::Twice(3)),
        ] {
            assert_eq!(PskKeys::parse(text.as_bytes()).unwrap_err(), wrong);
        }
    }
}
