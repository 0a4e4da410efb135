//! The codecs of Kafka's batches: what a producer's records are packed with, and the way back.

use std::io::{self, Read, Write};

use crate::args::Compression;

/// Most bytes that the records of one batch may unpack to: what a producer may send at all.
const UNPACKED_BYTES_MAX: u64 = 256 << 20;

/// The codec's number in a batch's attributes.
pub(crate) fn code(compression: Compression) -> i16 {
    match compression {
        Compression::None => 0,
        Compression::Gzip => 1,
        Compression::Snappy => 2,
        Compression::Lz4 => 3,
        Compression::Zstd => 4,
    }
}

/// Packs `records`; `None` leaves them as they are.
pub(crate) fn pack(records: &[u8], compression: Compression) -> Option<Vec<u8>> {
    const IN_MEMORY: &str = "memory takes everything";
    Some(match compression {
        Compression::None => return None,
        Compression::Gzip => {
            let level = flate2::Compression::default();
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), level);
            packer.write_all(records).expect(IN_MEMORY);
            packer.finish().expect(IN_MEMORY)
        }
        Compression::Snappy => snap::raw::Encoder::new()
            .compress_vec(records)
            .expect("a batch is far below snappy's 4 GiB"),
        Compression::Lz4 => {
            let mut packer = lz4_flex::frame::FrameEncoder::new(Vec::new());
            packer.write_all(records).expect(IN_MEMORY);
            packer.finish().expect(IN_MEMORY)
        }
        Compression::Zstd => {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            ruzstd::encoding::compress_to_vec(records, level)
        }
    })
}

/// Unpacks the records of a batch whose codec has number `code`, not 0.
pub(crate) fn unpack(packed: &[u8], code: i16) -> io::Result<Vec<u8>> {
    match code {
        1 => read_all(flate2::read::GzDecoder::new(packed)),
        2 => {
            let unpacked_bytes = snap::raw::decompress_len(packed)?;
            if u64::try_from(unpacked_bytes).is_ok_and(|bytes| bytes > UNPACKED_BYTES_MAX) {
                return Err(too_long());
            }
            Ok(snap::raw::Decoder::new().decompress_vec(packed)?)
        }
        3 => read_all(lz4_flex::frame::FrameDecoder::new(packed)),
        4 => {
            let unpacker = ruzstd::decoding::StreamingDecoder::new(packed);
            read_all(unpacker.map_err(io::Error::other)?)
        }
        _ => Err(io::Error::other("no codec has this number")),
    }
}

fn read_all(unpacker: impl Read) -> io::Result<Vec<u8>> {
    let mut records = Vec::new();
    let mut limited = unpacker.take(UNPACKED_BYTES_MAX + 1);
    limited.read_to_end(&mut records)?;
    if limited.limit() == 0 {
        return Err(too_long());
    }
    Ok(records)
}

fn too_long() -> io::Error {
    io::Error::other("the records unpack to more than any producer may send")
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn what_is_packed_comes_back_and_is_smaller() {
        let records = b"what comes down the race turns the wheel. ".repeat(500);
        for compression in Compression::value_variants() {
            let Some(packed) = pack(&records, *compression) else {
                assert_eq!(*compression, Compression::None);
                continue;
            };
            assert!(packed.len() < records.len() / 4, "{compression:?}");
            let unpacked = unpack(&packed, code(*compression)).expect("packed above");
            assert!(unpacked == records, "{compression:?}");
            assert!(unpack(&packed[..packed.len() / 2], code(*compression)).is_err());
        }
        assert!(unpack(b"abc", 7).is_err());
    }
}
