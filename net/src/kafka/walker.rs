//! Walks a request body by its schema before the message crate decodes it.
//!
//! The crate reserves memory for as many items as the wire says. Here every length and count is
//! held against the bytes that are left, and all items against one limit, so that a count of 2^31
//! costs a comparison and the decoded form has a bound.

use super::config::KafkaConfig;
use super::versions::Api;
use super::wire::{DecodeError, Reader};

/// A field of a request, and the versions that have it.
#[derive(Debug)]
pub(super) struct Field {
    since: i16,
    until: i16,
    kind: Kind,
}

/// What a field looks like on the wire.
#[derive(Debug)]
pub(super) enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// A string; null is the decoder's business.
    Text,
    /// Bytes with a length; null is the decoder's business.
    Bytes,
    /// Values, one after another.
    Values(&'static Kind),
    /// Structures, each with its tagged fields.
    Structures(&'static [Field]),
    /// A byte that says whether there is one, negative for none, and a structure if so.
    Optional(&'static [Field]),
}

impl Field {
    /// In every version.
    pub(super) const fn new(kind: Kind) -> Self {
        Self::between(0, i16::MAX, kind)
    }

    /// From `since` on.
    pub(super) const fn since(since: i16, kind: Kind) -> Self {
        Self::between(since, i16::MAX, kind)
    }

    /// From `since` to `until`, both included.
    pub(super) const fn between(since: i16, until: i16, kind: Kind) -> Self {
        Self { since, until, kind }
    }
}

/// Checks that the front of `body` is a structure of these fields.
///
/// # Errors
/// The first thing found wrong.
pub(super) fn check(
    fields: &[Field],
    version: i16,
    reader: &mut Reader<'_>,
) -> Result<(), DecodeError> {
    for field in fields {
        if (field.since..=field.until).contains(&version) {
            check_value(&field.kind, version, reader)?;
        }
    }
    reader.tags()
}

/// Walks any bytes: the first chooses the API, the second the version, the others are the body.
pub fn fuzz_decode(bytes: &[u8]) {
    let [key, version, body @ ..] = bytes else {
        return;
    };
    let Some(api) = Api::from_key(i16::from(*key)) else {
        return;
    };
    let version = i16::from(*version).clamp(api.versions().first, api.versions().last);
    let items_max = KafkaConfig::default().request_items_max;
    let mut reader = Reader::new(body, api.is_flexible(version), items_max);
    if check(api.schema(), version, &mut reader).is_ok() {
        assert!(reader.rest().len() <= body.len());
    }
}

/// Recurses as deep as the schema, never as deep as the input says.
fn check_value(kind: &Kind, version: i16, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    match kind {
        Kind::Fixed(bytes) => reader.take(*bytes).map(drop),
        Kind::Text => reader.nullable_text().map(drop),
        Kind::Bytes => reader.nullable_bytes().map(drop),
        Kind::Values(item) => {
            for _ in 0..reader.nullable_count()?.unwrap_or(0) {
                check_value(item, version, reader)?;
            }
            Ok(())
        }
        Kind::Optional(fields) => match reader.i8()? {
            1 => check(fields, version, reader),
            -1 => Ok(()),
            other => Err(DecodeError::Length(other.into())),
        },
        Kind::Structures(fields) => {
            for _ in 0..reader.nullable_count()?.unwrap_or(0) {
                check(fields, version, reader)?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[Field] = &[
        Field::new(Kind::Structures(&[
            Field::since(2, Kind::Fixed(16)),
            Field::new(Kind::Text),
        ])),
        Field::between(1, 1, Kind::Fixed(4)),
        Field::new(Kind::Values(&Kind::Fixed(4))),
    ];

    fn walk(version: i16, flexible: bool, bytes: &[u8]) -> Result<usize, DecodeError> {
        let mut reader = Reader::new(bytes, flexible, 50);
        check(NAMES, version, &mut reader)?;
        Ok(reader.rest().len())
    }

    #[test]
    fn fields_are_looked_for_in_their_versions_only() {
        let zero = [0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 0];
        assert_eq!(walk(0, false, &zero), Ok(0));
        let one = [0, 0, 0, 1, 0, 1, b'a', 9, 9, 9, 9, 0, 0, 0, 0];
        assert_eq!(walk(1, false, &one), Ok(0));
        let mut two = vec![2];
        two.extend([7; 16]);
        two.extend([2, b'a', 0, 2, 0, 0, 0, 5, 1, 3, 2, 8, 8]);
        assert_eq!(walk(2, true, &two), Ok(0));
        for end in 0..two.len() {
            assert_eq!(walk(2, true, &two[..end]), Err(DecodeError::Short), "{end}");
        }
    }

    #[test]
    fn counts_past_the_bytes_or_the_limit_are_refused() {
        let huge = [0x7f, 0xff, 0xff, 0xff, 0, 1];
        assert_eq!(walk(0, false, &huge), Err(DecodeError::Short));
        let mut many = vec![0, 0, 0, 51];
        many.extend([0; 300]);
        assert_eq!(walk(0, false, &many), Err(DecodeError::Items(50)));
        let negative = [0xff, 0xff, 0xff, 0xfe];
        assert_eq!(walk(0, false, &negative), Err(DecodeError::Length(-2)));
    }
}
