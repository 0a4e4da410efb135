//! Kafka's primitive types on slices: what our own codecs read and write.
//!
//! Two encodings exist of strings, byte fields and arrays: a fixed-width length in old versions,
//! an unsigned varint of length + 1 in "flexible" ones, which also end every structure with tagged
//! fields. A reader or writer is told once which of the two it speaks. Every length is checked
//! against the bytes that are left before it is used for anything.

use millrace_engine::catalog::names::NAME_BYTES_MAX;
use thiserror::Error;
use uuid::Uuid;

/// A varint of 32 bits takes five bytes at most.
const VARINT_BYTES_MAX: u32 = 5;
/// A string is at most what a 16-bit length can say, also where the length is a varint.
const TEXT_BYTES_MAX: usize = i16::MAX as usize;

/// Why bytes are not the message that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum DecodeError {
    /// A field reaches past the end of the request.
    #[error("a field reaches past the end of the request")]
    Short,
    /// A length that cannot be.
    #[error("a length of {0} cannot be")]
    Length(i64),
    /// A variable-length number of more than 32 bits.
    #[error("a variable-length number has more than 32 bits")]
    Varint,
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    Text,
    /// Null where a value is needed.
    #[error("null where a value is needed")]
    Null,
    /// A topic's name that is longer than topics' names are.
    #[error("a topic's name of more than {NAME_BYTES_MAX} bytes")]
    TopicName,
    /// More items than the limit.
    #[error("more items than listeners.kafka.request_items_max = {0}")]
    Items(usize),
}

/// A response is longer than its length field can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a response of {0} bytes is longer than a length can say")]
pub(crate) struct FrameTooLong(usize);

/// Reads fields from the front of a slice.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    flexible: bool,
    items_left: usize,
    items_max: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; arrays and tagged fields may hold `items_max` items, all together.
    pub(crate) fn new(bytes: &'a [u8], flexible: bool, items_max: usize) -> Self {
        Self {
            rest: bytes,
            flexible,
            items_left: items_max,
            items_max,
        }
    }

    /// Bytes not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (front, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (front, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(*front)
    }

    /// An 8-bit number.
    pub(crate) fn i8(&mut self) -> Result<i8, DecodeError> {
        self.array().map(i8::from_be_bytes)
    }

    /// A 16-bit number.
    pub(crate) fn i16(&mut self) -> Result<i16, DecodeError> {
        self.array().map(i16::from_be_bytes)
    }

    /// A 32-bit number.
    pub(crate) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    /// A 64-bit number.
    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A UUID, of which all zeros mean none.
    pub(crate) fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.array().map(Uuid::from_bytes)
    }

    /// An unsigned number of 7 bits a byte, low bits first.
    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0_u64;
        for index in 0..VARINT_BYTES_MAX {
            let [byte] = self.array::<1>()?;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| DecodeError::Varint);
            }
        }
        Err(DecodeError::Varint)
    }

    /// A string, `None` when null.
    pub(crate) fn nullable_text(&mut self) -> Result<Option<&'a str>, DecodeError> {
        let length = if self.flexible {
            self.compact_length()?
        } else {
            fixed_length(self.i16()?.into())?
        };
        let Some(length) = length else {
            return Ok(None);
        };
        // Kafka's rule too. It also means that whatever was read can be echoed in any version.
        if length > TEXT_BYTES_MAX {
            return Err(DecodeError::Length(
                i64::try_from(length).unwrap_or(i64::MAX),
            ));
        }
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| DecodeError::Text)?;
        Ok(Some(text))
    }

    /// A string.
    pub(crate) fn text(&mut self) -> Result<&'a str, DecodeError> {
        self.nullable_text()?.ok_or(DecodeError::Null)
    }

    /// Bytes with a 32-bit length, `None` when null.
    pub(crate) fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.long_length()? {
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    /// How many items an array has, `None` when null. Never more than bytes are left, and counted
    /// against the limit: what it returns may be used to reserve memory.
    pub(crate) fn nullable_count(&mut self) -> Result<Option<usize>, DecodeError> {
        let Some(count) = self.long_length()? else {
            return Ok(None);
        };
        self.spend(count)?;
        Ok(Some(count))
    }

    /// How many items an array has.
    pub(crate) fn count(&mut self) -> Result<usize, DecodeError> {
        self.nullable_count()?.ok_or(DecodeError::Null)
    }

    /// Skips the tagged fields that end a structure in flexible versions. None that a client may
    /// send means anything to us.
    pub(crate) fn tags(&mut self) -> Result<(), DecodeError> {
        if !self.flexible {
            return Ok(());
        }
        let count = usize::try_from(self.varint()?).map_err(|_| DecodeError::Varint)?;
        self.spend(count)?;
        for _ in 0..count {
            let _tag = self.varint()?;
            let bytes = usize::try_from(self.varint()?).map_err(|_| DecodeError::Varint)?;
            self.take(bytes)?;
        }
        Ok(())
    }

    /// Counts `count` items of at least one byte each.
    fn spend(&mut self, count: usize) -> Result<(), DecodeError> {
        if count > self.rest.len() {
            return Err(DecodeError::Short);
        }
        let left = self.items_left.checked_sub(count);
        self.items_left = left.ok_or(DecodeError::Items(self.items_max))?;
        Ok(())
    }

    fn long_length(&mut self) -> Result<Option<usize>, DecodeError> {
        if self.flexible {
            self.compact_length()
        } else {
            fixed_length(self.i32()?.into())
        }
    }

    fn compact_length(&mut self) -> Result<Option<usize>, DecodeError> {
        let length = self.varint()?.checked_sub(1);
        length
            .map(usize::try_from)
            .transpose()
            .map_err(|_| DecodeError::Varint)
    }
}

/// A length of which -1 means null.
fn fixed_length(length: i64) -> Result<Option<usize>, DecodeError> {
    match length {
        -1 => Ok(None),
        _ => usize::try_from(length)
            .map(Some)
            .map_err(|_| DecodeError::Length(length)),
    }
}

/// Writes one response: length, header, then fields.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    flexible: bool,
}

impl<'a> Writer<'a> {
    /// Begins a response frame at the end of `out`. The header of a flexible response has tagged
    /// fields too.
    pub(crate) fn begin(out: &'a mut Vec<u8>, correlation: i32, flexible: bool) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&correlation.to_be_bytes());
        let mut writer = Self {
            out,
            start,
            flexible,
        };
        writer.tags();
        writer
    }

    /// Lets `write` put the rest of the body at the end of the frame.
    pub(crate) fn with_body<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        write(self.out)
    }

    /// Bytes of the frame so far.
    pub(crate) fn bytes(&self) -> usize {
        self.out.len() - self.start
    }

    /// Ends the frame by filling in its length.
    ///
    /// # Errors
    /// It cannot be said; the frame is of no use.
    pub(crate) fn end(self) -> Result<(), FrameTooLong> {
        let bytes = self.out.len() - self.start - 4;
        let length = i32::try_from(bytes).map_err(|_| FrameTooLong(bytes))?;
        self.out[self.start..self.start + 4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// A 16-bit number.
    pub(crate) fn i16(&mut self, value: i16) {
        self.raw(&value.to_be_bytes());
    }

    /// A 32-bit number.
    pub(crate) fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    /// A 64-bit number.
    pub(crate) fn i64(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    /// Bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A string, or null.
    pub(crate) fn nullable_text(&mut self, text: Option<&str>) {
        let length = text.map(str::len);
        if self.flexible {
            self.compact_length(length);
        } else {
            let length = length.map(|length| i16::try_from(length).expect("a short string"));
            self.i16(length.unwrap_or(-1));
        }
        self.raw(text.unwrap_or_default().as_bytes());
    }

    /// A string.
    pub(crate) fn text(&mut self, text: &str) {
        self.nullable_text(Some(text));
    }

    /// The length of an array, or of bytes that follow; `None` for null.
    pub(crate) fn length(&mut self, length: Option<usize>) {
        if self.flexible {
            self.compact_length(length);
        } else {
            let length = length.map(|length| i32::try_from(length).expect("below 2 GiB"));
            self.i32(length.unwrap_or(-1));
        }
    }

    /// No tagged fields.
    pub(crate) fn tags(&mut self) {
        if self.flexible {
            self.out.push(0);
        }
    }

    fn compact_length(&mut self, length: Option<usize>) {
        let mut value = length.map_or(0, |length| u32::try_from(length + 1).expect("below 2 GiB"));
        while value >= 0x80 {
            self.out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flexible(bytes: &[u8]) -> Reader<'_> {
        Reader::new(bytes, true, 100)
    }

    fn fixed(bytes: &[u8]) -> Reader<'_> {
        Reader::new(bytes, false, 100)
    }

    #[test]
    fn a_varint_is_at_most_32_bits() {
        assert_eq!(flexible(&[0x7f]).varint(), Ok(127));
        assert_eq!(
            flexible(&[0xff, 0xff, 0xff, 0xff, 0x0f]).varint(),
            Ok(u32::MAX)
        );
        let over = [0xff, 0xff, 0xff, 0xff, 0x1f];
        assert_eq!(flexible(&over).varint(), Err(DecodeError::Varint));
        let endless = [0x80, 0x80, 0x80, 0x80, 0x80, 0x00];
        assert_eq!(flexible(&endless).varint(), Err(DecodeError::Varint));
        assert_eq!(flexible(&[0x80]).varint(), Err(DecodeError::Short));
    }

    #[test]
    fn lengths_at_their_edges_never_pass_the_end() {
        for length in [i32::MIN, -2] {
            let bytes = length.to_be_bytes();
            let refused = Err(DecodeError::Length(length.into()));
            assert_eq!(fixed(&bytes).nullable_bytes(), refused);
        }
        assert_eq!(fixed(&(-1_i32).to_be_bytes()).nullable_bytes(), Ok(None));
        assert_eq!(
            fixed(&0_i32.to_be_bytes()).nullable_bytes(),
            Ok(Some(&[][..]))
        );
        for length in [1, i32::MAX] {
            let bytes = length.to_be_bytes();
            assert_eq!(fixed(&bytes).nullable_bytes(), Err(DecodeError::Short));
            assert_eq!(fixed(&bytes).count(), Err(DecodeError::Short));
        }
        let most = [0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(flexible(&most).count(), Err(DecodeError::Short));
        assert_eq!(flexible(&most).tags(), Err(DecodeError::Short));
        let refused = Err(DecodeError::Length(i64::from(u32::MAX) - 1));
        assert_eq!(flexible(&most).text(), refused);
        assert_eq!(fixed(&[0x80, 0]).text(), Err(DecodeError::Length(-32768)));
    }

    #[test]
    fn items_of_nested_arrays_share_one_limit() {
        let mut bytes = vec![0, 0, 0, 60];
        bytes.extend([0; 200]);
        let mut reader = fixed(&bytes);
        assert_eq!(reader.count(), Ok(60));
        reader.rest = &bytes;
        assert_eq!(reader.count(), Err(DecodeError::Items(100)));
    }

    #[test]
    fn what_is_written_reads_back_in_both_encodings() {
        for flexible in [false, true] {
            let mut out = vec![9];
            let mut writer = Writer::begin(&mut out, 77, flexible);
            writer.text("name");
            writer.nullable_text(None);
            writer.length(Some(300));
            writer.raw(&[1; 300]);
            writer.length(None);
            writer.raw(&[0xfd]);
            writer.i16(-2);
            writer.i64(5);
            writer.tags();
            writer.end().expect("short");
            let mut reader = Reader::new(&out[1..], flexible, 10);
            let length = reader.i32().expect("there");
            assert_eq!(usize::try_from(length).expect("positive"), out.len() - 5);
            assert_eq!(reader.i32(), Ok(77));
            reader.tags().expect("header tags");
            assert_eq!(reader.text(), Ok("name"));
            assert_eq!(reader.nullable_text(), Ok(None));
            assert_eq!(reader.nullable_bytes(), Ok(Some(&[1; 300][..])));
            assert_eq!(reader.nullable_count(), Ok(None));
            assert_eq!(reader.i8(), Ok(-3));
            assert_eq!(reader.i16(), Ok(-2));
            assert_eq!(reader.i64(), Ok(5));
            reader.tags().expect("body tags");
            assert_eq!(reader.rest(), &[] as &[u8]);
        }
    }
}
