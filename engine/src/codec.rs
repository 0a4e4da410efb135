//! How the engine's own state becomes bytes in the log and in snapshots, and back.
//!
//! Little-endian numbers, counted strings and lists. Storage has checked the bytes against their
//! checksum, so a failure here means another format or a fault of ours; it is reported by name and
//! never taken for an empty state. Counts are checked against the bytes left before anything is
//! allocated for them.

/// Why bytes are not the state that they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end inside a value.
    #[error("the state ends within {0}")]
    Short(&'static str),
    /// Bytes follow the last value.
    #[error("{0} bytes follow the state")]
    Trailing(usize),
    /// Written by a later version of the program.
    #[error("{what} of format {found}, but this program knows formats up to {known}")]
    Newer {
        /// What was read.
        what: &'static str,
        /// The format found.
        found: u16,
        /// The newest format known.
        known: u16,
    },
    /// A value that cannot stand there.
    #[error("{0}")]
    Invalid(String),
}

/// Appends values to a byte vector.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes of a known length.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The length of a list whose items follow.
    pub(crate) fn count(&mut self, items: usize) {
        self.u32(u32::try_from(items).expect("a list of the state fits 32 bits"));
    }

    /// A counted string.
    pub(crate) fn string(&mut self, text: &str) {
        self.count(text.len());
        self.raw(text.as_bytes());
    }

    /// Counted bytes.
    pub(crate) fn blob(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes values from the front of a slice.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `bytes` bytes.
    pub(crate) fn raw(&mut self, bytes: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(bytes)
            .ok_or(CodecError::Short(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(CodecError::Short(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn i16(&mut self, what: &'static str) -> Result<i16, CodecError> {
        Ok(i16::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn i32(&mut self, what: &'static str) -> Result<i32, CodecError> {
        Ok(i32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64, CodecError> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    /// The length of a list whose items take at least `item_bytes_min` each: a count that the
    /// bytes left cannot hold is refused here, so that a list may be allocated from it.
    pub(crate) fn count(
        &mut self,
        item_bytes_min: usize,
        what: &'static str,
    ) -> Result<usize, CodecError> {
        assert!(item_bytes_min > 0, "an item takes room");
        let items = self.u32(what)? as usize;
        if items > self.rest.len() / item_bytes_min {
            return Err(CodecError::Short(what));
        }
        Ok(items)
    }

    pub(crate) fn string(&mut self, what: &'static str) -> Result<&'a str, CodecError> {
        let bytes = self.blob(what)?;
        std::str::from_utf8(bytes).map_err(|_| CodecError::Invalid(format!("{what} is not UTF-8")))
    }

    pub(crate) fn blob(&mut self, what: &'static str) -> Result<&'a [u8], CodecError> {
        let bytes = self.count(1, what)?;
        self.raw(bytes, what)
    }

    /// Checks a leading format number: 1 to `known`.
    pub(crate) fn format(&mut self, known: u16, what: &'static str) -> Result<u16, CodecError> {
        let found = self.u16(what)?;
        if found == 0 {
            return Err(CodecError::Invalid(format!("{what} of format 0")));
        }
        if found > known {
            return Err(CodecError::Newer { what, found, known });
        }
        Ok(found)
    }

    /// Whether everything was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Ends the reading: everything must have been taken.
    pub(crate) fn finish(self) -> Result<(), CodecError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(CodecError::Trailing(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_a_round_trip() {
        let mut out = Encoder::default();
        out.u16(1);
        out.u8(7);
        out.i64(-5);
        out.string("name");
        out.count(2);
        out.i16(-1);
        out.i16(2);
        let bytes = out.into_bytes();
        let mut input = Decoder::new(&bytes);
        assert_eq!(input.format(1, "test"), Ok(1));
        assert_eq!(input.u8("a"), Ok(7));
        assert_eq!(input.i64("b"), Ok(-5));
        assert_eq!(input.string("c"), Ok("name"));
        assert_eq!(input.count(2, "d"), Ok(2));
        assert_eq!(input.i16("e"), Ok(-1));
        assert_eq!(input.i16("e"), Ok(2));
        assert_eq!(input.finish(), Ok(()));
    }

    #[test]
    fn a_count_larger_than_the_bytes_left_is_refused() {
        let mut input = Decoder::new(&[0xff, 0xff, 0xff, 0x7f, 1, 2]);
        assert_eq!(input.count(1, "list"), Err(CodecError::Short("list")));
    }

    #[test]
    fn a_later_format_is_refused_by_name() {
        let mut input = Decoder::new(&[9, 0]);
        assert_eq!(
            input.format(1, "catalog change"),
            Err(CodecError::Newer {
                what: "catalog change",
                found: 9,
                known: 1
            })
        );
        assert!(Decoder::new(&[0, 0]).format(1, "x").is_err());
        assert_eq!(Decoder::new(&[1]).finish(), Err(CodecError::Trailing(1)));
    }
}
