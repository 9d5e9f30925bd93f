//! Numbers, texts and uuids as the bytes of a row. Little-endian; lengths are bounded before anything is
//! copied.

use uuid::Uuid;

/// Why bytes are no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    #[error("it ends too early")]
    Short,
    #[error("{0} bytes follow its end")]
    Long(usize),
    #[error("a text is too long or not UTF-8")]
    Text,
    #[error("a value is out of its range")]
    Value,
    #[error("it has version {0}, which this program does not know")]
    Version(u16),
    #[error("its checksum is wrong")]
    Checksum,
}

#[derive(Debug, Default)]
pub(super) struct RowWriter {
    bytes: Vec<u8>,
}

impl RowWriter {
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(value.into())
    }

    pub(super) fn uuid(&mut self, uuid: Uuid) -> &mut Self {
        self.bytes(uuid.as_bytes())
    }

    pub(super) fn optional_uuid(&mut self, uuid: Option<Uuid>) -> &mut Self {
        self.bool(uuid.is_some()).uuid(uuid.unwrap_or_default())
    }

    pub(super) fn optional_u64(&mut self, value: Option<u64>) -> &mut Self {
        self.bool(value.is_some()).u64(value.unwrap_or_default())
    }

    /// Texts of rows are bounded when they are taken in, far below what the length can tell.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        let length = u16::try_from(text.len()).expect("texts of rows are bounded");
        self.u16(length).bytes(text.as_bytes())
    }

    pub(super) fn zeroes(&mut self, count: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[derive(Debug)]
pub(super) struct RowReader<'a> {
    bytes: &'a [u8],
}

impl<'a> RowReader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], RowError> {
        let (front, rest) = self.bytes.split_at_checked(count).ok_or(RowError::Short)?;
        self.bytes = rest;
        Ok(front)
    }

    pub(super) fn array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], RowError> {
        self.bytes(COUNT).map(|bytes| bytes.try_into().expect("as many as asked for"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, RowError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, RowError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, RowError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, RowError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bool(&mut self) -> Result<bool, RowError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RowError::Value),
        }
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, RowError> {
        self.array().map(Uuid::from_bytes)
    }

    pub(super) fn optional_uuid(&mut self) -> Result<Option<Uuid>, RowError> {
        let (is_some, uuid) = (self.bool()?, self.uuid()?);
        Ok(is_some.then_some(uuid))
    }

    pub(super) fn optional_u64(&mut self) -> Result<Option<u64>, RowError> {
        let (is_some, value) = (self.bool()?, self.u64()?);
        Ok(is_some.then_some(value))
    }

    /// A text of at most `longest` bytes.
    pub(super) fn text(&mut self, longest: usize) -> Result<&'a str, RowError> {
        let length = usize::from(self.u16()?);
        if length > longest {
            return Err(RowError::Text);
        }
        std::str::from_utf8(self.bytes(length)?).map_err(|_| RowError::Text)
    }

    /// Reserved bytes: a program that uses them sets a feature bit, so here they are zero.
    pub(super) fn zeroes(&mut self, count: usize) -> Result<(), RowError> {
        if self.bytes(count)?.iter().any(|byte| *byte != 0) {
            return Err(RowError::Value);
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), RowError> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(RowError::Long(left)),
        }
    }
}
