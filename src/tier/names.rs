//! Names that become parts of keys.

use super::error::TierError;

/// Bytes of a name at most, as in stores.
const MOST_BYTES: usize = 128;

/// Whether a name can be a part of a key: those of stores can.
pub(super) fn checked(name: &str) -> Result<(), TierError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_good =
        (1..=MOST_BYTES).contains(&name.len()) && name.bytes().all(is_plain) && !name.starts_with('.');
    if is_good { Ok(()) } else { Err(TierError::Name(name.to_owned())) }
}
