//! The manifest's bytes: a header page, then runs of edits, each written twice.
//!
//! Header page: two equal copies, at 0 and 2048.
//!
//! | offset | bytes | type | field          | meaning                                        |
//! |-------:|------:|------|----------------|------------------------------------------------|
//! |      0 |     4 | u32  | magic          | "MRmf"                                         |
//! |      4 |     4 | u32  | crc            | CRC-32C of bytes 8..2048                       |
//! |      8 |     4 | u32  | format         | 1                                              |
//! |     12 |     4 | u32  | features       | unknown bits refuse the file                   |
//! |     16 |     8 | u64  | number         | the N of `manifest-N`                          |
//! |     24 |     8 | u64  | first sequence | of the run that follows                        |
//! |     32 |     2 | u16  | shard          |                                                |
//! |     34 |       |      | zeros          | to 2048                                        |
//!
//! Run, padded with zeros to whole pages, directly followed by a second equal copy of itself:
//!
//! | offset | bytes | type | field          | meaning                                        |
//! |-------:|------:|------|----------------|------------------------------------------------|
//! |      0 |     4 | u32  | magic          | "MRrn"                                         |
//! |      4 |     4 | u32  | crc            | CRC-32C of bytes 8..run bytes                  |
//! |      8 |     8 | u64  | number         | as in the header: a foreign run never passes   |
//! |     16 |     8 | u64  | sequence       | one more than the run before                   |
//! |     24 |     4 | u32  | previous crc   | the run before's, or the header's              |
//! |     28 |     4 | u32  | run bytes      | with padding; whole pages                      |
//! |     32 |     4 | u32  | payload bytes  | of edits                                       |
//! |     36 |     2 | u16  | shard          |                                                |
//! |     38 |     2 | u16  | zero           |                                                |
//! |     40 |       |      | edits          | each: kind u16, zero u16, body bytes u32, body |
//!
//! Why two copies: an edit may stand for data that is nowhere else any more, so the last run must
//! survive one damaged page, although a torn last run (never reported as done) must not stop a
//! start. One good copy is enough; two bad ones at the end are a torn run.

use std::collections::{BTreeMap, BTreeSet};

use super::{ChainStart, ManifestEdit, ManifestState, PackEntry, SnapshotRef};
use crate::buf::AlignedBuf;
use crate::codec::{Reader, Writer};
use crate::disk::FileName;
use crate::record::checksum;
use crate::units::{
    BrokerId, FilePosition, Generation, LifeId, Lsn, Offset, PAGE_BYTES, PackId, PartitionId,
    ShardId, page_ceil,
};

const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"MRmf");
const RUN_MAGIC: u32 = u32::from_le_bytes(*b"MRrn");
/// The only format so far.
pub(super) const FORMAT: u32 = 1;
const RUN_HEADER_BYTES: usize = 40;
const HEADER_COPY_BYTES: usize = PAGE_BYTES / 2;
/// What a log's start takes in an edit.
pub(super) const LOG_START_BYTES: usize = 12;

/// The fields of the header page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) shard: ShardId,
    pub(super) number: u64,
    pub(super) first_sequence: u64,
    /// The page's checksum: the first run chains to it.
    pub(super) crc: u32,
}

/// What tells one run from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunIdentity {
    pub(super) shard: ShardId,
    pub(super) number: u64,
    pub(super) sequence: u64,
    pub(super) previous_crc: u32,
}

/// A run whose checksum was found good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    pub(super) identity: RunIdentity,
    pub(super) crc: u32,
    /// Padded length of one copy.
    pub(super) run_bytes: usize,
    pub(super) edits: &'a [u8],
}

/// The header page of `manifest-number`, and its checksum.
pub(super) fn encode_header(shard: ShardId, number: u64, first_sequence: u64) -> (Vec<u8>, u32) {
    let mut out = Writer::default();
    out.u32(HEADER_MAGIC);
    out.u32(0);
    out.u32(FORMAT);
    out.u32(0);
    out.u64(number);
    out.u64(first_sequence);
    out.u16(shard.0);
    let mut copy = out.into_bytes();
    copy.resize(HEADER_COPY_BYTES, 0);
    let crc = checksum(&copy[8..]);
    copy[4..8].copy_from_slice(&crc.to_le_bytes());
    let mut page = copy.clone();
    page.extend_from_slice(&copy);
    (page, crc)
}

/// Reads a header page; the flag says that one of its copies is damaged.
pub(super) fn decode_header(page: &[u8]) -> Result<(Header, bool), &'static str> {
    let copies = [0, HEADER_COPY_BYTES].map(|at| {
        let copy = page.get(at..at + HEADER_COPY_BYTES)?;
        decode_header_copy(copy)
    });
    match copies {
        [Some(first), Some(second)] if first == second => first.map(|header| (header, false)),
        [Some(_), Some(_)] => Err("the header's two copies contradict each other"),
        [Some(one), None] | [None, Some(one)] => one.map(|header| (header, true)),
        [None, None] => Err("the header is damaged"),
    }
}

/// `None` for a damaged copy; an error for a good copy that this program must not read.
fn decode_header_copy(copy: &[u8]) -> Option<Result<Header, &'static str>> {
    let mut reader = Reader::new(copy);
    let magic = reader.u32()?;
    let crc = reader.u32()?;
    if magic != HEADER_MAGIC || checksum(copy.get(8..)?) != crc {
        return None;
    }
    let (format, features) = (reader.u32()?, reader.u32()?);
    if format != FORMAT || features != 0 {
        return Some(Err("the file is of a newer format"));
    }
    let number = reader.u64()?;
    let first_sequence = reader.u64()?;
    let shard = ShardId(reader.u16()?);
    Some(Ok(Header {
        shard,
        number,
        first_sequence,
        crc,
    }))
}

/// One run holding `edits`, as one padded copy, and its checksum.
pub(super) fn encode_run(identity: RunIdentity, edits: &[u8]) -> (Vec<u8>, u32) {
    let run_bytes = page_ceil(RUN_HEADER_BYTES + edits.len());
    let mut out = Writer::default();
    out.u32(RUN_MAGIC);
    out.u32(0);
    out.u64(identity.number);
    out.u64(identity.sequence);
    out.u32(identity.previous_crc);
    out.count(run_bytes);
    out.count(edits.len());
    out.u16(identity.shard.0);
    out.u16(0);
    assert_eq!(out.len(), RUN_HEADER_BYTES);
    out.bytes(edits);
    let mut copy = out.into_bytes();
    copy.resize(run_bytes, 0);
    let crc = checksum(&copy[8..]);
    copy[4..8].copy_from_slice(&crc.to_le_bytes());
    (copy, crc)
}

/// The good run at the start of `bytes`, if there is one.
pub(super) fn decode_run(bytes: &[u8]) -> Option<Run<'_>> {
    let mut reader = Reader::new(bytes);
    if reader.u32()? != RUN_MAGIC {
        return None;
    }
    let crc = reader.u32()?;
    let (number, sequence) = (reader.u64()?, reader.u64()?);
    let previous_crc = reader.u32()?;
    let run_bytes = usize::try_from(reader.u32()?).ok()?;
    let payload_bytes = usize::try_from(reader.u32()?).ok()?;
    let shard = ShardId(reader.u16()?);
    let copy = bytes.get(..run_bytes)?;
    if checksum(copy.get(8..)?) != crc || !run_bytes.is_multiple_of(PAGE_BYTES) {
        return None;
    }
    let edits_end = RUN_HEADER_BYTES.checked_add(payload_bytes)?;
    Some(Run {
        identity: RunIdentity {
            shard,
            number,
            sequence,
            previous_crc,
        },
        crc,
        run_bytes,
        edits: copy.get(RUN_HEADER_BYTES..edits_end)?,
    })
}

/// `parts` one after the other in memory that the disk takes.
pub(super) fn aligned(parts: &[&[u8]]) -> AlignedBuf {
    let bytes = parts.iter().map(|part| part.len()).sum();
    let mut buffer = AlignedBuf::zeroed(bytes);
    let mut at = 0;
    for part in parts {
        buffer[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    buffer
}

const KIND_STATE: u16 = 1;
const KIND_SETTLED: u16 = 2;
const KIND_SECTIONS_DROPPED: u16 = 3;
const KIND_PACK_DROPPED: u16 = 4;
const KIND_PACKS_ADOPTED: u16 = 5;
const KIND_LOG_STARTS: u16 = 6;
const KIND_LOGS_REMOVED: u16 = 7;
const KIND_MERGED: u16 = 8;
const KIND_PACKS_SHARED: u16 = 9;
const KIND_OWNED: u16 = 10;

/// Bits of a pack's flags.
const PACK_IS_SEGMENT: u8 = 1;
const PACK_IS_SHARED: u8 = 2;

const NEWER_EDIT: &str = "an edit is of a newer format";
const BAD_EDIT: &str = "an edit's fields contradict its length";

/// Appends `edits` in their stored form.
pub(super) fn encode_edits(edits: &[ManifestEdit]) -> Vec<u8> {
    let mut out = Writer::default();
    for edit in edits {
        let (kind, body) = encode_edit(edit);
        encode_framed(&mut out, kind, &body);
    }
    out.into_bytes()
}

/// The whole state as the one edit that opens a manifest file.
pub(super) fn encode_state(state: &ManifestState) -> Vec<u8> {
    let mut body = Writer::default();
    put_chain_start(&mut body, state.chain_start);
    body.u64(state.settled_lsn.0);
    body.u64(state.next_pack.0);
    put_snapshot(&mut body, state.snapshot);
    body.count(state.packs.len());
    for (pack, entry) in &state.packs {
        put_pack(&mut body, *pack, entry);
    }
    let starts: Vec<_> = state.log_starts.iter().map(|(p, o)| (*p, *o)).collect();
    put_log_starts(&mut body, &starts);
    // Nothing follows in a directory without an owner.
    if let Some(owner) = state.owner {
        put_owner(&mut body, owner);
    }
    let mut out = Writer::default();
    encode_framed(&mut out, KIND_STATE, &body.into_bytes());
    out.into_bytes()
}

fn encode_framed(out: &mut Writer, kind: u16, body: &[u8]) {
    out.u16(kind);
    out.u16(0);
    out.count(body.len());
    out.bytes(body);
}

fn encode_edit(edit: &ManifestEdit) -> (u16, Vec<u8>) {
    let mut body = Writer::default();
    let kind = match edit {
        ManifestEdit::Settled {
            settled_lsn,
            chain_start,
            packs,
            snapshot,
            log_starts,
        } => {
            body.u64(settled_lsn.0);
            put_chain_start(&mut body, *chain_start);
            put_snapshot(&mut body, *snapshot);
            put_packs(&mut body, packs);
            put_log_starts(&mut body, log_starts);
            KIND_SETTLED
        }
        ManifestEdit::SectionsDropped { pack, sections } => {
            body.u64(pack.0);
            put_numbers(&mut body, sections.iter().copied());
            KIND_SECTIONS_DROPPED
        }
        ManifestEdit::PackDropped { pack } => {
            body.u64(pack.0);
            KIND_PACK_DROPPED
        }
        ManifestEdit::PacksShared { packs } => {
            put_ids(&mut body, packs);
            KIND_PACKS_SHARED
        }
        ManifestEdit::PacksAdopted { packs } => {
            put_packs(&mut body, packs);
            KIND_PACKS_ADOPTED
        }
        ManifestEdit::LogStarts(log_starts) => {
            put_log_starts(&mut body, log_starts);
            KIND_LOG_STARTS
        }
        ManifestEdit::LogsRemoved(partitions) => {
            put_numbers(&mut body, partitions.iter().map(|partition| partition.0));
            KIND_LOGS_REMOVED
        }
        ManifestEdit::Owned(owner) => {
            put_owner(&mut body, *owner);
            KIND_OWNED
        }
        ManifestEdit::Merged {
            removed,
            added,
            snapshot,
        } => {
            put_ids(&mut body, removed);
            put_packs(&mut body, added);
            put_snapshot(&mut body, *snapshot);
            KIND_MERGED
        }
    };
    (kind, body.into_bytes())
}

/// Reads the one edit that opens a manifest file.
pub(super) fn decode_state(edits: &[u8]) -> Result<ManifestState, &'static str> {
    let mut reader = Reader::new(edits);
    let (kind, body) = next_framed(&mut reader)?;
    if kind != KIND_STATE || !reader.is_empty() {
        return Err("the first run is not a whole state");
    }
    let mut body = Reader::new(body);
    let state = get_state(&mut body).ok_or(BAD_EDIT)?;
    if !body.is_empty() {
        return Err(BAD_EDIT);
    }
    Ok(state)
}

/// Reads all of a later run's edits.
pub(super) fn decode_edits(edits: &[u8]) -> Result<Vec<ManifestEdit>, &'static str> {
    let mut reader = Reader::new(edits);
    let mut decoded = Vec::new();
    while !reader.is_empty() {
        let (kind, body) = next_framed(&mut reader)?;
        if !(KIND_SETTLED..=KIND_OWNED).contains(&kind) {
            return Err(NEWER_EDIT);
        }
        let mut body = Reader::new(body);
        let edit = get_edit(kind, &mut body).ok_or(BAD_EDIT)?;
        if !body.is_empty() {
            return Err(BAD_EDIT);
        }
        decoded.push(edit);
    }
    Ok(decoded)
}

fn next_framed<'a>(reader: &mut Reader<'a>) -> Result<(u16, &'a [u8]), &'static str> {
    let kind = reader.u16().ok_or(BAD_EDIT)?;
    if reader.u16() != Some(0) {
        return Err(NEWER_EDIT);
    }
    let bytes = reader.count(1).ok_or(BAD_EDIT)?;
    Ok((kind, reader.take(bytes).ok_or(BAD_EDIT)?))
}

fn get_edit(kind: u16, body: &mut Reader<'_>) -> Option<ManifestEdit> {
    Some(match kind {
        KIND_SETTLED => ManifestEdit::Settled {
            settled_lsn: Lsn(body.u64()?),
            chain_start: get_chain_start(body)?,
            snapshot: get_snapshot(body)?,
            packs: get_packs(body)?,
            log_starts: get_log_starts(body)?,
        },
        KIND_SECTIONS_DROPPED => ManifestEdit::SectionsDropped {
            pack: PackId(body.u64()?),
            sections: get_numbers(body)?.collect(),
        },
        KIND_PACK_DROPPED => ManifestEdit::PackDropped {
            pack: PackId(body.u64()?),
        },
        KIND_PACKS_ADOPTED => ManifestEdit::PacksAdopted {
            packs: get_packs(body)?,
        },
        KIND_LOG_STARTS => ManifestEdit::LogStarts(get_log_starts(body)?),
        KIND_LOGS_REMOVED => {
            ManifestEdit::LogsRemoved(get_numbers(body)?.map(PartitionId).collect())
        }
        KIND_MERGED => ManifestEdit::Merged {
            removed: get_ids(body)?,
            added: get_packs(body)?,
            snapshot: get_snapshot(body)?,
        },
        KIND_PACKS_SHARED => ManifestEdit::PacksShared {
            packs: get_ids(body)?,
        },
        KIND_OWNED => ManifestEdit::Owned(get_owner(body)?),
        _ => return None,
    })
}

fn get_state(body: &mut Reader<'_>) -> Option<ManifestState> {
    let chain_start = get_chain_start(body)?;
    let settled_lsn = Lsn(body.u64()?);
    let next_pack = PackId(body.u64()?);
    let snapshot = get_snapshot(body)?;
    let packs: BTreeMap<_, _> = get_packs(body)?.into_iter().collect();
    let log_starts = get_log_starts(body)?.into_iter().collect();
    let owner = if body.is_empty() {
        None
    } else {
        Some(get_owner(body)?)
    };
    Some(ManifestState {
        chain_start,
        settled_lsn,
        packs,
        snapshot,
        next_pack,
        log_starts,
        owner,
        format: FORMAT,
    })
}

fn put_chain_start(out: &mut Writer, start: ChainStart) {
    out.u32(start.slot);
    out.u64(start.life.0);
    out.u64(start.generation.0);
}

fn get_chain_start(body: &mut Reader<'_>) -> Option<ChainStart> {
    Some(ChainStart {
        slot: body.u32()?,
        life: LifeId(body.u64()?),
        generation: Generation(body.u64()?),
    })
}

fn put_owner(out: &mut Writer, owner: BrokerId) {
    out.bytes(&owner.0.to_le_bytes());
}

fn get_owner(body: &mut Reader<'_>) -> Option<BrokerId> {
    let bytes = body.take(16)?.first_chunk()?;
    Some(BrokerId(u128::from_le_bytes(*bytes)))
}

fn put_snapshot(out: &mut Writer, snapshot: Option<SnapshotRef>) {
    out.u8(u8::from(snapshot.is_some()));
    if let Some(snapshot) = snapshot {
        out.u64(snapshot.pack.0);
        out.u32(snapshot.section);
        out.u64(snapshot.as_of.0);
    }
}

fn get_snapshot(body: &mut Reader<'_>) -> Option<Option<SnapshotRef>> {
    match body.u8()? {
        0 => Some(None),
        1 => Some(Some(SnapshotRef {
            pack: PackId(body.u64()?),
            section: body.u32()?,
            as_of: Lsn(body.u64()?),
        })),
        _ => None,
    }
}

/// Bytes of a pack's entry without its dropped sections.
const PACK_ENTRY_BYTES_MIN: usize = 8 + 1 + 8 + 8 + 4 + 4 + 4;

fn put_packs(out: &mut Writer, packs: &[(PackId, PackEntry)]) {
    out.count(packs.len());
    for (pack, entry) in packs {
        put_pack(out, *pack, entry);
    }
}

fn put_pack(out: &mut Writer, pack: PackId, entry: &PackEntry) {
    out.u64(pack.0);
    let segment = u8::from(entry.file == FileName::Segment(pack)) * PACK_IS_SEGMENT;
    let shared = u8::from(entry.shared) * PACK_IS_SHARED;
    out.u8(segment | shared);
    out.u64(entry.bytes);
    out.u64(entry.footer.0);
    out.u32(entry.footer_bytes);
    out.u32(entry.footer_checksum);
    put_numbers(out, entry.dropped.iter().copied());
}

fn get_packs(body: &mut Reader<'_>) -> Option<Vec<(PackId, PackEntry)>> {
    let count = body.count(PACK_ENTRY_BYTES_MIN)?;
    (0..count).map(|_| get_pack(body)).collect()
}

fn get_pack(body: &mut Reader<'_>) -> Option<(PackId, PackEntry)> {
    let pack = PackId(body.u64()?);
    let flags = body.u8()?;
    if flags & !(PACK_IS_SEGMENT | PACK_IS_SHARED) != 0 {
        return None;
    }
    let file = match flags & PACK_IS_SEGMENT {
        0 => FileName::Pack(pack),
        _ => FileName::Segment(pack),
    };
    let entry = PackEntry {
        file,
        bytes: body.u64()?,
        footer: FilePosition(body.u64()?),
        footer_bytes: body.u32()?,
        footer_checksum: body.u32()?,
        dropped: get_numbers(body)?.collect::<BTreeSet<_>>(),
        shared: flags & PACK_IS_SHARED != 0,
    };
    Some((pack, entry))
}

fn put_log_starts(out: &mut Writer, log_starts: &[(PartitionId, Offset)]) {
    out.count(log_starts.len());
    for (partition, start) in log_starts {
        out.u32(partition.0);
        out.u64(start.0);
    }
}

fn get_log_starts(body: &mut Reader<'_>) -> Option<Vec<(PartitionId, Offset)>> {
    let count = body.count(LOG_START_BYTES)?;
    (0..count)
        .map(|_| Some((PartitionId(body.u32()?), Offset(body.u64()?))))
        .collect()
}

fn put_ids(out: &mut Writer, packs: &[PackId]) {
    out.count(packs.len());
    for pack in packs {
        out.u64(pack.0);
    }
}

fn get_ids(body: &mut Reader<'_>) -> Option<Vec<PackId>> {
    let count = body.count(8)?;
    (0..count).map(|_| body.u64().map(PackId)).collect()
}

fn put_numbers(out: &mut Writer, numbers: impl ExactSizeIterator<Item = u32>) {
    out.count(numbers.len());
    for number in numbers {
        out.u32(number);
    }
}

fn get_numbers(body: &mut Reader<'_>) -> Option<std::vec::IntoIter<u32>> {
    let count = body.count(4)?;
    let numbers: Option<Vec<u32>> = (0..count).map(|_| body.u32()).collect();
    numbers.map(Vec::into_iter)
}
