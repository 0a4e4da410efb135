//! Entries of state that are larger than what the log takes at once, in pieces.
//!
//! A start has to write what it has found, whatever the largest batch is set to. One piece:
//!
//! | bytes | type | field                                                               |
//! |------:|------|---------------------------------------------------------------------|
//! |     2 | u16  | format, 1                                                           |
//! |     8 | u64  | the entry's own key                                                 |
//! |     4 | u32  | bytes of the whole entry                                            |
//! |     4 | u32  | where in it this piece begins                                       |
//! |     4 | blob | the piece                                                           |
//!
//! The entry takes effect with its last piece. Pieces of one entry follow each other. A start that
//! did not get to the last one left some behind; the next start begins the entry anew, and with its
//! first piece what was left counts no more. No snapshot is taken between two pieces: starts alone
//! write them.

use super::{FORMAT, PIECE_KEY};
use crate::codec::{CodecError, Decoder, Encoder};

/// Bytes of a piece before what it carries.
const HEADER_BYTES: usize = 22;

/// The entry `bytes` under `key`, as entries of at most `bytes_max` each: itself, if it is no
/// larger.
pub(crate) fn in_pieces(key: u64, bytes: Vec<u8>, bytes_max: usize) -> Vec<(u64, Vec<u8>)> {
    assert!(bytes_max > HEADER_BYTES, "a piece carries something");
    if bytes.len() <= bytes_max {
        return vec![(key, bytes)];
    }
    let total = u32::try_from(bytes.len()).expect("state is far below 4 GiB");
    let mut from = 0;
    let pieces = bytes.chunks(bytes_max - HEADER_BYTES).map(|piece| {
        let mut out = Encoder::default();
        out.u16(FORMAT);
        out.u64(key);
        out.u32(total);
        out.u32(from);
        out.blob(piece);
        from += u32::try_from(piece.len()).expect("part of the total");
        (PIECE_KEY, out.into_bytes())
    });
    pieces.collect()
}

/// The pieces of one entry, as far as they have come.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    key: u64,
    bytes: Vec<u8>,
}

impl Gathered {
    /// Takes a piece. With the last one, gives the entry: its key and bytes.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<Option<(u64, Vec<u8>)>, CodecError> {
        let mut input = Decoder::new(piece);
        input.format(FORMAT, "a piece of state")?;
        let key = input.u64("the key of a piece")?;
        let total = input.u32("the length of an entry in pieces")? as usize;
        let from = input.u32("the place of a piece")? as usize;
        let carried = input.blob("a piece")?;
        input.finish()?;
        if from == 0 {
            self.key = key;
            self.bytes.clear();
        }
        let end = self.bytes.len() + carried.len();
        if key != self.key || from != self.bytes.len() || end > total || carried.is_empty() {
            let found = format!("a piece of state from {from} of {total} does not follow");
            return Err(CodecError::Invalid(found));
        }
        self.bytes.extend_from_slice(carried);
        Ok((end == total).then(|| (key, std::mem::take(&mut self.bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = HEADER_BYTES + 10;

    #[test]
    fn an_entry_comes_back_from_its_pieces_whatever_its_size() {
        for bytes in [0, 1, BYTES_MAX - 1, BYTES_MAX, BYTES_MAX + 1, 40, 41, 999] {
            let whole: Vec<u8> = (0..bytes).map(|byte| byte as u8).collect();
            let pieces = in_pieces(7, whole.clone(), BYTES_MAX);
            assert!(pieces.iter().all(|(_, piece)| piece.len() <= BYTES_MAX));
            if bytes <= BYTES_MAX {
                assert_eq!(pieces, [(7, whole)]);
                continue;
            }
            let mut gathered = Gathered::default();
            let (last, first) = pieces.split_last().expect("several");
            for (key, piece) in first {
                assert_eq!((*key, gathered.take(piece)), (PIECE_KEY, Ok(None)));
            }
            assert_eq!(gathered.take(&last.1), Ok(Some((7, whole))));
        }
    }

    #[test]
    fn what_a_start_left_unfinished_counts_no_more_and_gaps_are_refused() {
        let left = in_pieces(7, vec![1; 60], BYTES_MAX);
        let whole = in_pieces(8, vec![2; 33], BYTES_MAX);
        let mut gathered = Gathered::default();
        assert_eq!(gathered.take(&left[0].1), Ok(None));
        assert!(gathered.take(&left[2].1).is_err());
        assert_eq!(gathered.take(&left[1].1), Ok(None));
        assert!(gathered.take(&whole[1].1).is_err(), "of another entry");
        assert_eq!(gathered.take(&whole[0].1), Ok(None));
        assert_eq!(gathered.take(&whole[1].1), Ok(None));
        assert_eq!(gathered.take(&whole[2].1), Ok(None));
        assert_eq!(gathered.take(&whole[3].1), Ok(Some((8, vec![2; 33]))));
        for end in 0..whole[0].1.len() {
            assert!(gathered.take(&whole[0].1[..end]).is_err(), "{end}");
        }
    }
}
