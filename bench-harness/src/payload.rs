//! A message of the generator: who sent it, which one it is, when it was due, and a checksum.
//!
//! | offset | bytes | type | field    | unit or meaning                                        |
//! |-------:|------:|------|----------|--------------------------------------------------------|
//! |      0 |     4 |      | magic    | "mrb1"                                                 |
//! |      4 |     4 | u32  | checksum | CRC-32C of everything after it                         |
//! |      8 |     4 | u32  | run      | random per run: another run's messages are foreign     |
//! |     12 |     4 | u32  | stream   | the sending connection                                 |
//! |     16 |     8 | u64  | sequence | the stream's message number, from 0, without gaps      |
//! |     24 |     8 | u64  | due      | when it was to be sent, ns on the run's clock          |
//! |     32 |       |      | filler   | noise, or words where a codec is to have work          |
//!
//! All numbers are little-endian.

use crate::sizes::mix;

/// Bytes before the filler: the least size of a message.
pub(crate) const HEADER_BYTES: usize = 32;
const MAGIC: [u8; 4] = *b"mrb1";
const CHECKSUMMED_FROM: usize = 8;
/// Different words.
const WORDS: usize = 1_000;
/// Text from which messages take their parts: longer than any codec's window that matters here.
const WORDS_BYTES: usize = 1 << 20;

/// What a message says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) run: u32,
    pub(crate) stream: u32,
    pub(crate) sequence: u64,
    pub(crate) due_ns: u64,
}

/// What a received value turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// Sent by this run, whole.
    Ours(Stamp),
    /// Not sent by this run.
    Foreign,
    /// Carries the magic, but its bytes do not match its checksum.
    Damaged,
}

/// What messages are filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filler {
    /// The same pseudo-random bytes in every message: cheap, and no layer below compresses one.
    Noise,
    /// Made-up words, other ones in each message: codecs shrink them about as they shrink text.
    Words,
}

/// Makes messages of up to one size.
pub(crate) struct Template {
    filler: Vec<u8>,
    /// Bytes of `filler` of which a message's part begins at one by chance.
    begins: usize,
}

impl Template {
    pub(crate) fn new(message_bytes_max: usize, seed: u32, filler: Filler) -> Self {
        assert!(
            message_bytes_max >= HEADER_BYTES,
            "the scenario checked --size"
        );
        let filler_bytes = message_bytes_max - HEADER_BYTES;
        let mut noise = Noise::new(seed);
        match filler {
            Filler::Noise => Self {
                filler: (0..filler_bytes).map(|_| noise.byte()).collect(),
                begins: 1,
            },
            Filler::Words => Self {
                filler: words(filler_bytes + WORDS_BYTES, &mut noise),
                begins: WORDS_BYTES,
            },
        }
    }

    /// Appends one message of `message_bytes`, header included.
    pub(crate) fn put(&self, out: &mut Vec<u8>, stamp: Stamp, message_bytes: usize) {
        let start = out.len();
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&stamp.run.to_le_bytes());
        header[12..16].copy_from_slice(&stamp.stream.to_le_bytes());
        header[16..24].copy_from_slice(&stamp.sequence.to_le_bytes());
        header[24..32].copy_from_slice(&stamp.due_ns.to_le_bytes());
        out.extend_from_slice(&header);
        let begin = match self.begins {
            1 => 0,
            begins => usize::try_from(mix(stamp.sequence)).expect("64-bit targets only") % begins,
        };
        out.extend_from_slice(&self.filler[begin..begin + message_bytes - HEADER_BYTES]);
        let checksum = crc_fast::crc32_iscsi(&out[start + CHECKSUMMED_FROM..]);
        out[start + 4..start + CHECKSUMMED_FROM].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Made-up words of two to nine letters, some far more common than others.
fn words(bytes: usize, noise: &mut Noise) -> Vec<u8> {
    let lexicon: Vec<Vec<u8>> = (0..WORDS)
        .map(|_| {
            let letters = 2 + noise.byte() % 8;
            (0..letters).map(|_| b'a' + noise.byte() % 26).collect()
        })
        .collect();
    let mut text = Vec::with_capacity(bytes + 10);
    while text.len() < bytes {
        // The product of two even draws prefers the lexicon's beginning.
        let (left, right) = (usize::from(noise.byte()), usize::from(noise.byte()));
        text.extend_from_slice(&lexicon[left * right * WORDS / (256 * 256)]);
        text.push(b' ');
    }
    text.truncate(bytes);
    text
}

/// xorshift64*: quick, and as good as noise to a compressor.
struct Noise {
    state: u64,
}

impl Noise {
    fn new(seed: u32) -> Self {
        let state = (u64::from(seed) << 1) | 1;
        Self { state }
    }

    fn byte(&mut self) -> u8 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let mixed = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        mixed.to_le_bytes()[7]
    }
}

/// Judges a received value.
pub(crate) fn check(value: &[u8], run: u32) -> Checked {
    let Some(header) = value.first_chunk::<HEADER_BYTES>() else {
        return Checked::Foreign;
    };
    if header[..4] != MAGIC {
        return Checked::Foreign;
    }
    if crc_fast::crc32_iscsi(&value[CHECKSUMMED_FROM..]) != u32_at(header, 4) {
        return Checked::Damaged;
    }
    let stamp = Stamp {
        run: u32_at(header, 8),
        stream: u32_at(header, 12),
        sequence: u64_at(header, 16),
        due_ns: u64_at(header, 24),
    };
    if stamp.run == run {
        Checked::Ours(stamp)
    } else {
        Checked::Foreign
    }
}

fn u32_at(header: &[u8; HEADER_BYTES], position: usize) -> u32 {
    u32::from_le_bytes(
        header[position..position + 4]
            .try_into()
            .expect("four bytes"),
    )
}

fn u64_at(header: &[u8; HEADER_BYTES], position: usize) -> u64 {
    u64::from_le_bytes(
        header[position..position + 8]
            .try_into()
            .expect("eight bytes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        run: 7,
        stream: 3,
        sequence: 1 << 40,
        due_ns: 123_456_789,
    };

    fn message(message_bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        Template::new(message_bytes, 7, Filler::Noise).put(&mut out, STAMP, message_bytes);
        out
    }

    #[test]
    fn a_message_comes_back_as_it_was_stamped() {
        for message_bytes in [HEADER_BYTES, HEADER_BYTES + 1, 1024] {
            let message = message(message_bytes);
            assert_eq!(message.len(), message_bytes);
            assert_eq!(check(&message, 7), Checked::Ours(STAMP));
        }
    }

    #[test]
    fn messages_of_every_size_and_filler_are_whole() {
        for filler in [Filler::Noise, Filler::Words] {
            let template = Template::new(2_000, 7, filler);
            for message_bytes in [HEADER_BYTES, 100, 1_999, 2_000] {
                let mut out = Vec::new();
                template.put(&mut out, STAMP, message_bytes);
                assert_eq!(out.len(), message_bytes);
                assert_eq!(check(&out, 7), Checked::Ours(STAMP));
            }
        }
    }

    #[test]
    fn words_differ_between_messages_and_look_like_text() {
        let template = Template::new(1_024, 7, Filler::Words);
        let message = |sequence| {
            let mut out = Vec::new();
            template.put(&mut out, Stamp { sequence, ..STAMP }, 1_024);
            out
        };
        let (one, other) = (message(1), message(2));
        assert!(one[HEADER_BYTES..] != other[HEADER_BYTES..]);
        let text = &one[HEADER_BYTES..];
        assert!(text.iter().all(|b| b.is_ascii_lowercase() || *b == b' '));
    }

    #[test]
    fn any_flipped_bit_after_the_magic_is_damage() {
        for position in 4..64 {
            let mut message = message(64);
            message[position] ^= 1;
            assert_eq!(check(&message, 7), Checked::Damaged, "{position}");
        }
    }

    #[test]
    fn another_run_and_other_programs_are_foreign() {
        assert_eq!(check(&message(64), 8), Checked::Foreign);
        assert_eq!(check(&[b'x'; 64], 7), Checked::Foreign);
        assert_eq!(check(&message(64)[..31], 7), Checked::Foreign);
    }
}
