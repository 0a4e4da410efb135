//! CRC-32C over bytes of which parts were summed before.
//!
//! A batch arrives with a checksum that was just verified, and every layer around it has one of its
//! own: the block in the log, the chunk in a pack. Joining known sums costs a fraction of a
//! microsecond whatever the length, so large bodies are summed once on their way in and once on
//! their way back, and no more. The sums themselves are `crc_fast`'s; its joining squares a matrix
//! for each bit of the length, some 80 µs for a mebibyte, so that part is here.

use crc_fast::{CrcAlgorithm, Digest};

use crate::record::checksum;

/// The Castagnoli polynomial, reflected: bit 31 is the coefficient of x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// 1, as such a polynomial.
const ONE: u32 = 1 << 31;
/// `POWERS[n]` is x^(2^n) modulo the polynomial.
const POWERS: [u32; 64] = {
    let mut powers = [ONE >> 1; 64];
    let mut n = 1;
    while n < 64 {
        powers[n] = multiply(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};
/// Shorter parts are cheaper to sum again than to join.
pub(crate) const KNOWN_BYTES_MIN: usize = 8 << 10;

/// `a` times `b` modulo the polynomial, by shifting and adding.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        bit >>= 1;
        b = if b & 1 == 0 {
            b >> 1
        } else {
            (b >> 1) ^ POLYNOMIAL
        };
    }
    product
}

/// The CRC-32C of two byte strings in a row, from their own and the second one's length.
pub(crate) fn join(first: u32, second: u32, second_bytes: u64) -> u32 {
    // Appending n bytes multiplies by x^(8n).
    let mut shift = ONE;
    let mut rest = second_bytes;
    let mut n = 3;
    while rest != 0 {
        if rest & 1 == 1 {
            shift = multiply(POWERS[n], shift);
        }
        rest >>= 1;
        n += 1;
    }
    multiply(shift, first) ^ second
}

/// A running CRC-32C that takes bytes, and sums of bytes.
pub(crate) struct Sum {
    /// Of everything before `tail`.
    joined: u32,
    tail: Option<(Digest, u64)>,
}

impl Sum {
    pub(crate) fn new() -> Self {
        Self {
            joined: 0,
            tail: None,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let (digest, length) = self
            .tail
            .get_or_insert_with(|| (Digest::new(CrcAlgorithm::Crc32Iscsi), 0));
        digest.update(bytes);
        *length += bytes.len() as u64;
    }

    /// Takes `bytes` bytes whose own CRC-32C is `sum`.
    pub(crate) fn update_known(&mut self, sum: u32, bytes: u64) {
        self.joined = join(self.finish(), sum, bytes);
        self.tail = None;
    }

    /// The sum of everything so far.
    pub(crate) fn finish(&self) -> u32 {
        match &self.tail {
            // A 32-bit algorithm's checksum fits 32 bits.
            Some((digest, bytes)) => join(self.joined, digest.finalize() as u32, *bytes),
            None => self.joined,
        }
    }
}

impl std::fmt::Debug for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sum({:08x})", self.finish())
    }
}

/// A part of some bytes whose CRC-32C is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) sum: u32,
}

/// Adds all of `bytes` to `sum`; the `known` parts, ascending and apart, are not read.
pub(crate) fn update_with(sum: &mut Sum, bytes: &[u8], known: &[Known]) {
    let mut at = 0;
    for part in known {
        debug_assert_eq!(checksum(&bytes[part.start..part.end]), part.sum);
        sum.update(&bytes[at..part.start]);
        sum.update_known(part.sum, (part.end - part.start) as u64);
        at = part.end;
    }
    sum.update(&bytes[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_le_bytes()[3]
        };
        (0..bytes).map(|_| next()).collect()
    }

    #[test]
    fn joined_sums_are_the_sum_of_the_whole_at_every_cut() {
        let bytes = noise(1000);
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let joined = join(checksum(first), checksum(second), second.len() as u64);
            assert_eq!(joined, checksum(&bytes), "{cut}");
        }
    }

    #[test]
    fn joining_agrees_with_the_library_at_large_lengths() {
        for length in [1, 4096, (1 << 20) + 7, 1 << 31, u64::from(u32::MAX) + 12] {
            let algorithm = CrcAlgorithm::Crc32Iscsi;
            let wanted = crc_fast::checksum_combine(algorithm, 0x1234_5678, 0x9abc_def0, length);
            let joined = join(0x1234_5678, 0x9abc_def0, length);
            assert_eq!(u64::from(joined), wanted, "{length}");
        }
    }

    #[test]
    fn bytes_and_known_sums_mix() {
        let bytes = noise(5000);
        let known = |start: usize, end: usize| Known {
            start,
            end,
            sum: checksum(&bytes[start..end]),
        };
        let parts = [
            vec![],
            vec![known(0, 5000)],
            vec![known(0, 1), known(1, 2), known(4000, 4000)],
            vec![known(17, 3000), known(3008, 4999)],
        ];
        for parts in parts {
            let mut sum = Sum::new();
            update_with(&mut sum, &bytes, &parts);
            assert_eq!(sum.finish(), checksum(&bytes), "{parts:?}");
        }
        assert_eq!(Sum::new().finish(), checksum(b""));
    }
}
