//! Kafka's primitive types on slices: big-endian integers, strings, byte strings and arrays of the
//! non-flexible encodings, and the length-prefixed frame around every message.
//!
//! A frame that has not arrived whole is [`Decoded::Incomplete`]; a frame that arrived whole but
//! runs short inside is the peer's fault and a [`WireError`].

use crate::client::Decoded;

/// Bytes of the length in front of every frame.
pub(crate) const FRAME_PREFIX_BYTES: usize = 4;
/// Longest frame believed: a fetch of the largest size that Kafka's own clients ask for, and room.
pub(crate) const FRAME_BYTES_MAX: usize = 128 << 20;

/// What a whole frame can still do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("a frame of {0} bytes is announced; Kafka's are 4 to {FRAME_BYTES_MAX}")]
    FrameLength(i32),
    #[error("the frame ends {missing} bytes inside a field")]
    Short { missing: usize },
    #[error("a negative length ({0}) where none is allowed")]
    NegativeLength(i64),
    #[error("a string is not UTF-8")]
    NotUtf8,
}

/// Splits one frame off the front of `bytes`; the value is the body without its length.
pub(crate) fn frame(bytes: &[u8]) -> Result<Decoded<&[u8]>, WireError> {
    let Some(prefix) = bytes.first_chunk::<FRAME_PREFIX_BYTES>() else {
        return Ok(Decoded::Incomplete {
            need_bytes: FRAME_PREFIX_BYTES,
        });
    };
    let announced = i32::from_be_bytes(*prefix);
    let body_bytes = usize::try_from(announced).map_err(|_| WireError::FrameLength(announced))?;
    if !(4..=FRAME_BYTES_MAX).contains(&body_bytes) {
        return Err(WireError::FrameLength(announced));
    }
    let frame_bytes = FRAME_PREFIX_BYTES + body_bytes;
    match bytes.get(FRAME_PREFIX_BYTES..frame_bytes) {
        Some(body) => Ok(Decoded::Complete {
            value: body,
            bytes: frame_bytes,
        }),
        None => Ok(Decoded::Incomplete {
            need_bytes: frame_bytes,
        }),
    }
}

/// Reads fields off the front of a frame's body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self
            .rest
            .split_at_checked(bytes)
            .ok_or_else(|| WireError::Short {
                missing: bytes - self.rest.len(),
            })?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| WireError::Short {
                missing: N - self.rest.len(),
            })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn i8(&mut self) -> Result<i8, WireError> {
        self.array().map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, WireError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, WireError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, WireError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A length or count that may be -1 for null.
    fn length(&mut self, raw: i64) -> Result<Option<usize>, WireError> {
        match raw {
            -1 => Ok(None),
            raw => usize::try_from(raw)
                .map(Some)
                .map_err(|_| WireError::NegativeLength(raw)),
        }
    }

    pub(crate) fn nullable_string(&mut self) -> Result<Option<&'a str>, WireError> {
        let raw = self.i16()?;
        let Some(bytes) = self.length(i64::from(raw))? else {
            return Ok(None);
        };
        std::str::from_utf8(self.take(bytes)?)
            .map(Some)
            .map_err(|_| WireError::NotUtf8)
    }

    pub(crate) fn string(&mut self) -> Result<&'a str, WireError> {
        self.nullable_string()?.ok_or(WireError::NegativeLength(-1))
    }

    pub(crate) fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, WireError> {
        let raw = self.i32()?;
        let Some(bytes) = self.length(i64::from(raw))? else {
            return Ok(None);
        };
        self.take(bytes).map(Some)
    }

    /// An array's count, null as none. Never used to reserve memory: it is the peer's word.
    pub(crate) fn count(&mut self) -> Result<usize, WireError> {
        let raw = self.i32()?;
        Ok(self.length(i64::from(raw))?.unwrap_or(0))
    }

    /// A zigzag varint of up to 64 bits, as records use.
    pub(crate) fn varint(&mut self) -> Result<i64, WireError> {
        let mut raw = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array::<1>()?;
            raw |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
            }
        }
        Err(WireError::NegativeLength(raw.cast_signed()))
    }

    /// A varint length, -1 as null.
    pub(crate) fn varint_bytes(&mut self) -> Result<Option<&'a [u8]>, WireError> {
        let raw = self.varint()?;
        match self.length(raw)? {
            Some(bytes) => self.take(bytes).map(Some),
            None => Ok(None),
        }
    }
}

pub(crate) fn put_i8(out: &mut Vec<u8>, value: i8) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_i16(out: &mut Vec<u8>, value: i16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// A count or a length that the format keeps in an i32.
pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_i32(
        out,
        i32::try_from(count).expect("counts and lengths are bounded by FRAME_BYTES_MAX"),
    );
}

pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    put_i16(
        out,
        i16::try_from(text.len()).expect("names are checked to be short"),
    );
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while raw >= 0x80 {
        out.push(u8::try_from(raw & 0x7f).expect("seven bits") | 0x80);
        raw >>= 7;
    }
    out.push(u8::try_from(raw).expect("seven bits"));
}

/// Starts a frame: the length is filled in by [`end_frame`] with what this returns.
pub(crate) fn begin_frame(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    put_i32(out, 0);
    start
}

pub(crate) fn end_frame(out: &mut [u8], start: usize) {
    let body_bytes = out.len() - start - FRAME_PREFIX_BYTES;
    assert!(
        body_bytes <= FRAME_BYTES_MAX,
        "a request is bounded by --batch and --partitions"
    );
    patch_i32(out, start, body_bytes);
}

/// Overwrites the four bytes at `position` with a count known only now.
pub(crate) fn patch_i32(out: &mut [u8], position: usize, value: usize) {
    let value = i32::try_from(value).expect("lengths are bounded by FRAME_BYTES_MAX");
    out[position..position + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_zigzag_both_ways() {
        let golden: [(i64, &[u8]); 6] = [
            (0, &[0]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[0x7e]),
            (64, &[0x80, 0x01]),
            (
                i64::MIN,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            ),
        ];
        for (value, bytes) in golden {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes, "{value}");
            assert_eq!(Reader::new(bytes).varint(), Ok(value));
        }
    }

    #[test]
    fn every_prefix_of_a_frame_is_incomplete() {
        let whole = [0, 0, 0, 6, 1, 2, 3, 4, 5, 6];
        for end in 0..whole.len() {
            let need_bytes = if end < 4 { 4 } else { whole.len() };
            assert_eq!(
                frame(&whole[..end]),
                Ok(Decoded::Incomplete { need_bytes }),
                "{end}"
            );
        }
        let complete = Decoded::Complete {
            value: &whole[4..],
            bytes: whole.len(),
        };
        assert_eq!(frame(&whole), Ok(complete));
    }

    #[test]
    fn a_frame_length_that_no_broker_sends_is_refused() {
        assert_eq!(
            frame(b"HTTP/1.1 400"),
            Err(WireError::FrameLength(0x4854_5450))
        );
        assert_eq!(frame(&[0xff; 8]), Err(WireError::FrameLength(-1)));
        assert_eq!(
            frame(&[0, 0, 0, 3, 0, 0, 0]),
            Err(WireError::FrameLength(3))
        );
    }

    #[test]
    fn a_length_past_the_end_names_what_is_missing() {
        let mut reader = Reader::new(&[0, 5, b'a', b'b']);
        assert_eq!(reader.string(), Err(WireError::Short { missing: 3 }));
        let mut reader = Reader::new(&[0x80, 0, 0, 0]);
        assert_eq!(
            reader.count(),
            Err(WireError::NegativeLength(i64::from(i32::MIN)))
        );
    }
}
