//! Netlink's frames and attributes: values to bytes, and bytes to values.
//!
//! Sources: `linux/netlink.h` and `linux/genetlink.h`. Numbers are in the byte order of the machine, and
//! everything begins at a multiple of four.

/// `struct nlmsghdr`, `struct genlmsghdr` and `struct nlattr`, in bytes.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The bits of an attribute's type that are flags.
const TYPE_MASK: u16 = 0x3fff;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;

/// Bytes that are not what netlink sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's message is not understood")]
pub(crate) struct NotNetlink;

/// One message of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KernelReply<'a> {
    /// The command is done, or failed with this error number.
    Acknowledged { sequence: u32, errno: i32 },
    /// A message of a family.
    Message { family: u16, sequence: u32, command: u8, attributes: &'a [u8] },
    /// Something else, which may be skipped.
    Other,
}

/// Appends attributes to bytes.
#[derive(Debug, Default)]
pub(super) struct AttributeWriter(Vec<u8>);

impl AttributeWriter {
    /// `value` is shorter than 64 KiB.
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).expect("an attribute is short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(super) fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A text with the NUL that the kernel expects.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat())
    }

    pub(super) fn nested(self, kind: u16, inner: Self) -> Self {
        self.bytes(kind, &inner.0)
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A command of generic netlink that asks for an acknowledgement.
pub(super) fn request(family: u16, sequence: u32, command: u8, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER + GENERIC_HEADER + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    // The kernel fills in whose it is.
    message.extend([0; 4]);
    let version = 1;
    message.extend([command, version, 0, 0]);
    message.extend(attributes);
    message
}

/// Takes one message off the front of a datagram; `None` at its end.
pub(super) fn next_reply<'a>(datagram: &mut &'a [u8]) -> Result<Option<KernelReply<'a>>, NotNetlink> {
    if datagram.is_empty() {
        return Ok(None);
    }
    let length = u32_at(datagram, 0)? as usize;
    if length < HEADER {
        return Err(NotNetlink);
    }
    let message = datagram.get(..length).ok_or(NotNetlink)?;
    let kind = u16_at(message, 4)?;
    let sequence = u32_at(message, 8)?;
    *datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok(Some(match kind {
        NLMSG_ERROR => {
            let errno = (u32_at(message, HEADER)? as i32).checked_neg().ok_or(NotNetlink)?;
            KernelReply::Acknowledged { sequence, errno }
        }
        NLMSG_DONE => KernelReply::Acknowledged { sequence, errno: 0 },
        // The numbers below are netlink's own.
        0..0x10 => KernelReply::Other,
        family => {
            let command = *message.get(HEADER).ok_or(NotNetlink)?;
            let attributes = message.get(HEADER + GENERIC_HEADER..).ok_or(NotNetlink)?;
            KernelReply::Message { family, sequence, command, attributes }
        }
    }))
}

/// The attributes of a message or of an attribute, by type; ends after the first that is malformed.
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), NotNetlink>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = take_attribute(&mut self.0);
        if taken.is_err() {
            self.0 = &[];
        }
        Some(taken)
    }
}

fn take_attribute<'a>(bytes: &mut &'a [u8]) -> Result<(u16, &'a [u8]), NotNetlink> {
    let length = usize::from(u16_at(bytes, 0)?);
    let kind = u16_at(bytes, 2)? & TYPE_MASK;
    let value = bytes.get(ATTRIBUTE_HEADER..length).ok_or(NotNetlink)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok((kind, value))
}

/// The value of the first attribute of a type.
pub(super) fn find(attributes: &[u8], wanted: u16) -> Result<Option<&[u8]>, NotNetlink> {
    for attribute in Attributes(attributes) {
        let (kind, value) = attribute?;
        if kind == wanted {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Result<u32, NotNetlink> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(NotNetlink)?;
    Ok(u32::from_ne_bytes(*bytes))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Result<u16, NotNetlink> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(NotNetlink)?;
    Ok(u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_by_hand() {
        let attributes = AttributeWriter::default().u32(1, 7).text(10, "ab").finish();
        let message = request(0x1f, 5, 2, &attributes);
        let mut expected = Vec::new();
        for word in [36_u32, 0x1f | (5 << 16), 5, 0, 2 | (1 << 8), 8 | (1 << 16), 7, 7 | (10 << 16)] {
            expected.extend(word.to_ne_bytes());
        }
        expected.extend(b"ab\0\0");
        if cfg!(target_endian = "little") {
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn an_error_is_negative_in_the_message() {
        let mut message = request(NLMSG_ERROR, 9, 0, &[]);
        message[HEADER..].copy_from_slice(&(-16_i32).to_ne_bytes());
        let mut datagram = &message[..];
        let reply = next_reply(&mut datagram).unwrap();
        assert_eq!(reply, Some(KernelReply::Acknowledged { sequence: 9, errno: 16 }));
        assert_eq!(next_reply(&mut datagram), Ok(None));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in prop::collection::vec((0_u16..0x4000, prop::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let writer = values.iter().fold(AttributeWriter::default(), |writer, (kind, value)| writer.bytes(*kind, value));
            let attributes = writer.finish();
            let message = request(0x20, 3, 4, &attributes);
            let mut datagram = &message[..];
            let reply = next_reply(&mut datagram).unwrap().unwrap();
            prop_assert_eq!(reply, KernelReply::Message { family: 0x20, sequence: 3, command: 4, attributes: &attributes });
            let read: Vec<_> = Attributes(&attributes).map(|attribute| attribute.unwrap()).collect();
            let written: Vec<_> = values.iter().map(|(kind, value)| (*kind, &value[..])).collect();
            prop_assert_eq!(read, written);
        }

        /// Every loop over what another process sent ends.
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..24], 0..200)) {
            let mut datagram = &bytes[..];
            let mut steps = 0;
            while let Ok(Some(reply)) = next_reply(&mut datagram) {
                if let KernelReply::Message { attributes, .. } = reply {
                    prop_assert!(Attributes(attributes).count() <= attributes.len() / 4 + 1);
                }
                steps += 1;
            }
            prop_assert!(steps <= bytes.len() / HEADER);
            prop_assert!(Attributes(&bytes).count() <= bytes.len() / 4 + 1);
        }
    }
}
