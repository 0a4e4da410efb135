//! Questions to the block codec: the layout by golden bytes, and every damaged bit.

use super::*;

fn file_header() -> FileHeader {
    FileHeader {
        shard: ShardId(3),
        slot: 5,
        life: LifeId(7),
        generation: Generation(0x1122_3344_5566_7788),
        first_lsn: Lsn(0x9000),
        predecessor: ChainPoint {
            slot: 4,
            life: LifeId(6),
            generation: Generation(0x0102_0304_0506_0708),
            end_lsn: Lsn(0x8000),
            header_crc: 0xa1b2_c3d4,
        },
        file_bytes: 0x1_0000,
    }
}

fn block_header(payload: &[u8]) -> BlockHeader {
    let generation = Generation(0x1122_3344_5566_7788);
    BlockHeader {
        generation,
        life: LifeId(7),
        position: FilePosition(0x3000),
        first_lsn: Lsn(0xb000),
        durable_lsn: Lsn(0xa000),
        block_bytes: 4096,
        payload_bytes: u32::try_from(payload.len()).expect("small"),
        payload_crc: Seeding::Generation.payload_crc(generation, payload),
        prev_header_crc: 0xa1b2_c3d4,
        shard: ShardId(3),
        entries: 2,
    }
}

fn block(payload: &[u8]) -> Vec<u8> {
    let mut block = vec![0; PAGE_BYTES];
    block[BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + payload.len()].copy_from_slice(payload);
    block_header(payload).encode(&mut block, Seeding::Generation);
    block
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> = digits.chunks(16).map(|line| line.concat()).collect();
    lines.join("\n")
}

#[test]
fn a_file_header_is_these_bytes_twice() {
    let mut page = vec![0xff; PAGE_BYTES];
    file_header().encode(&mut page);
    assert_eq!(hex(&page[..FILE_HEADER_BYTES]), FILE_HEADER_GOLDEN.trim());
    assert_eq!(
        page[2048..2048 + FILE_HEADER_BYTES],
        page[..FILE_HEADER_BYTES]
    );
    assert_eq!(FileHeader::decode(&page), Ok(file_header()));
}

#[test]
fn a_block_header_is_these_bytes() {
    let block = block(b"payload!");
    assert_eq!(
        hex(&block[..BLOCK_HEADER_BYTES]),
        BLOCK_HEADER_GOLDEN.trim()
    );
    let (header, crc) = BlockHeader::decode(&block, Seeding::Generation).expect("whole");
    assert_eq!(header, block_header(b"payload!"));
    assert_eq!(crc.to_le_bytes(), block[4..8]);
    assert_eq!(
        header.payload(&block, Seeding::Generation),
        Ok(&b"payload!"[..])
    );
}

#[test]
fn one_damaged_copy_of_a_file_header_is_survived_and_two_are_not() {
    let mut page = vec![0; PAGE_BYTES];
    assert_eq!(FileHeader::decode(&page), Err(FileHeaderError::Blank));
    file_header().encode(&mut page);
    for bit in 0..FILE_HEADER_BYTES * 8 {
        let mut bad = page.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(FileHeader::decode(&bad), Ok(file_header()), "bit {bit}");
        bad[2048 + bit / 8] ^= 1 << (bit % 8);
        assert_eq!(FileHeader::decode(&bad), Err(FileHeaderError::Damaged));
    }
}

#[test]
fn of_two_lives_in_one_page_the_later_counts() {
    let (mut old, mut new) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
    file_header().encode(&mut old);
    let later = FileHeader {
        life: LifeId(8),
        ..file_header()
    };
    later.encode(&mut new);
    let torn = [&new[..2048], &old[2048..]].concat();
    assert_eq!(FileHeader::decode(&torn), Ok(later));
    let torn = [&old[..2048], &new[2048..]].concat();
    assert_eq!(FileHeader::decode(&torn), Ok(later));
}

#[test]
fn a_file_of_a_newer_version_is_called_that() {
    for (at, value) in [(12, 2), (16, 1)] {
        let mut page = vec![0; PAGE_BYTES];
        file_header().encode(&mut page);
        page[at] = value;
        let sum = checksum(&page[FILE_CHECKSUMMED_FROM..FILE_HEADER_BYTES]);
        page[8..12].copy_from_slice(&sum.to_le_bytes());
        page[2048] ^= 1;
        assert_eq!(FileHeader::decode(&page), Err(FileHeaderError::Newer));
    }
}

#[test]
fn every_flipped_bit_and_every_prefix_of_a_block_is_found() {
    let payload: Vec<u8> = (0..=255).collect();
    let good = block(&payload);
    let whole = |bytes: &[u8]| {
        let (header, _) = BlockHeader::decode(bytes, Seeding::Generation)?;
        header.payload(bytes, Seeding::Generation).map(drop)
    };
    assert_eq!(whole(&good), Ok(()));
    let end = BLOCK_HEADER_BYTES + payload.len();
    for bit in 0..end * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(whole(&bad).is_err(), "bit {bit}");
    }
    for bytes in 0..end {
        assert!(whole(&good[..bytes]).is_err(), "{bytes} bytes");
    }
}

#[test]
fn lengths_at_their_edges_are_refused_under_a_good_checksum() {
    let edges = [(0, 0), (100, 0), (4096, 4017), (4096, u32::MAX), (4095, 8)];
    for (block_bytes, payload_bytes) in edges {
        let mut bad = block(b"payload!");
        bad[48..52].copy_from_slice(&u32::to_le_bytes(block_bytes));
        bad[52..56].copy_from_slice(&u32::to_le_bytes(payload_bytes));
        let crc = Seeding::Generation.header_crc(&bad[..BLOCK_HEADER_BYTES]);
        bad[4..8].copy_from_slice(&crc.to_le_bytes());
        let decoded = BlockHeader::decode(&bad, Seeding::Generation);
        assert_eq!(decoded, Err(BlockError::Lengths), "{block_bytes}");
    }
}

#[test]
fn a_block_of_another_generation_fails_its_payload_too() {
    let good = block(b"payload!");
    let (mut header, _) = BlockHeader::decode(&good, Seeding::Generation).expect("whole");
    header.generation = Generation(1);
    let payload = header.payload(&good, Seeding::Generation);
    assert_eq!(payload, Err(BlockError::Payload));
}

const FILE_HEADER_GOLDEN: &str = "
4d5257414c484452ba96062d01000300
00000000050000000700000000000000
88776655443322110090000000000000
06000000000000000807060504030201
0080000000000000d4c3b2a104000000
0000010000000000
";

const BLOCK_HEADER_GOLDEN: &str = "
4d52424b7ce1dcfc8877665544332211
07000000000000000030000000000000
00b000000000000000a0000000000000
001000000800000066341e11d4c3b2a1
03000100020000000000000000000000
";
