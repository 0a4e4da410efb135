//! The simulated disk against the rules that it stands for.

use super::*;
use crate::buf::AlignedBuf;
use crate::disk::{DiskDone, DiskError, DiskOp, DiskOutcome, DiskToken, FileName, WriteSync};
use crate::units::{FilePosition, PAGE_BYTES, ShardId};

const SHARD: ShardId = ShardId(0);
const WAL: FileName = FileName::Wal(0);
const TOKEN: DiskToken = DiskToken(0);

fn page_of(byte: u8) -> AlignedBuf {
    let mut buffer = AlignedBuf::zeroed(PAGE_BYTES);
    buffer.fill(byte);
    buffer
}

fn write_op(token: u64, page: u64, byte: u8, sync: WriteSync) -> DiskOp {
    DiskOp::Write {
        token: DiskToken(token),
        file: WAL,
        position: FilePosition(page * PAGE_BYTES as u64),
        buffer: page_of(byte),
        sync,
    }
}

fn write(disk: &mut SimDisk, page: u64, byte: u8, sync: WriteSync) -> DiskDone {
    disk.run(SHARD, write_op(0, page, byte, sync))
}

fn sync(disk: &mut SimDisk) -> DiskDone {
    disk.run(
        SHARD,
        DiskOp::Sync {
            token: TOKEN,
            file: WAL,
        },
    )
}

fn sync_directory(disk: &mut SimDisk) {
    assert!(
        disk.run(SHARD, DiskOp::SyncDirectory { token: TOKEN })
            .result
            .is_ok()
    );
}

/// A disk with one durable, zeroed file of `pages`.
fn disk_with_file(pages: u64) -> SimDisk {
    let mut disk = SimDisk::new(1);
    let bytes = pages * PAGE_BYTES as u64;
    let done = disk.run(
        SHARD,
        DiskOp::Create {
            token: TOKEN,
            file: WAL,
            bytes,
        },
    );
    assert_eq!(done.result, Ok(DiskOutcome::Done));
    assert!(sync(&mut disk).result.is_ok());
    sync_directory(&mut disk);
    disk
}

/// First byte of each page, and whether every page is of one byte.
fn pages(disk: &SimDisk) -> (Vec<u8>, bool) {
    let bytes = disk.contents(SHARD, WAL).expect("the file is there");
    let pages: Vec<&[u8]> = bytes.chunks(PAGE_BYTES).collect();
    let whole = pages
        .iter()
        .all(|page| page.iter().all(|byte| *byte == page[0]));
    (pages.iter().map(|page| page[0]).collect(), whole)
}

#[test]
fn an_unsynced_write_is_read_back_and_lost_with_the_power() {
    let mut disk = disk_with_file(2);
    write(&mut disk, 0, 7, WriteSync::None);
    assert_eq!(pages(&disk).0, [7, 0]);
    assert_eq!(pages(&disk.after_power_cut(Survival::Nothing, 1)).0, [0, 0]);
    assert_eq!(
        pages(&disk.after_power_cut(Survival::Everything, 1)).0,
        [7, 0]
    );
    assert_eq!(pages(&disk.after_kill(1)).0, [7, 0]);
    sync(&mut disk);
    assert_eq!(pages(&disk.after_power_cut(Survival::Nothing, 1)).0, [7, 0]);
}

#[test]
fn dsync_makes_one_write_durable_and_a_linked_fdatasync_the_whole_file() {
    let mut disk = disk_with_file(3);
    write(&mut disk, 0, 1, WriteSync::None);
    write(&mut disk, 1, 2, WriteSync::Dsync);
    assert_eq!(
        pages(&disk.after_power_cut(Survival::Nothing, 1)).0,
        [0, 2, 0]
    );
    write(&mut disk, 2, 3, WriteSync::LinkedFdatasync);
    assert_eq!(
        pages(&disk.after_power_cut(Survival::Nothing, 1)).0,
        [1, 2, 3]
    );
}

#[test]
fn an_unawaited_chain_is_reported_before_its_fdatasync() {
    let mut disk = disk_with_file(1);
    let op = write_op(1, 0, 1, WriteSync::LinkedFdatasyncUnawaited);
    disk.submit(SHARD, op);
    let (_, done) = disk.complete_one().expect("the write ends");
    assert_eq!(done.result, Ok(DiskOutcome::Done));
    assert_eq!(pages(&disk.after_power_cut(Survival::Nothing, 1)).0, [0]);
    assert!(disk.complete_one().is_none(), "nobody is told of the sync");
    assert_eq!(pages(&disk.after_power_cut(Survival::Nothing, 1)).0, [1]);
}

#[test]
fn a_durable_write_is_never_undone_by_an_older_unsynced_one() {
    let mut disk = disk_with_file(1);
    write(&mut disk, 0, 1, WriteSync::None);
    write(&mut disk, 0, 2, WriteSync::Dsync);
    for seed in 0..32 {
        assert_eq!(pages(&disk.after_power_cut(Survival::Random, seed)).0, [2]);
    }
}

#[test]
fn a_power_cut_tears_writes_in_every_way() {
    let mut disk = disk_with_file(1);
    write(&mut disk, 0, 9, WriteSync::None);
    let mut images = std::collections::BTreeSet::new();
    for mask in 0..256 {
        let after = disk.after_power_cut(Survival::Parts(mask), 1);
        images.insert(after.contents(SHARD, WAL));
    }
    assert_eq!(images.len(), 256);
    let outcomes: std::collections::BTreeSet<(u8, bool)> = (0..64)
        .map(|seed| pages(&disk.after_power_cut(Survival::Random, seed)))
        .map(|(first, whole)| (first[0], whole))
        .collect();
    assert!(
        outcomes.is_superset(&[(0, true), (9, true), (0, false)].into()),
        "{outcomes:?}"
    );
}

#[test]
fn every_subset_of_the_writes_in_flight_can_survive() {
    let mut disk = disk_with_file(3);
    for page in 0..3 {
        disk.submit(SHARD, write_op(page, page, 5, WriteSync::Dsync));
    }
    for mask in 0..8_u64 {
        let (left, whole) = pages(&disk.after_power_cut(Survival::InFlight(mask), 1));
        let expected: Vec<u8> = (0..3)
            .map(|page| if mask >> page & 1 == 1 { 5 } else { 0 })
            .collect();
        assert_eq!((left, whole), (expected, true));
    }
}

#[test]
fn names_need_a_directory_sync_of_their_own() {
    let mut disk = SimDisk::new(1);
    let file = FileName::Temporary(1);
    disk.run(
        SHARD,
        DiskOp::Create {
            token: TOKEN,
            file,
            bytes: 4096,
        },
    );
    disk.run(SHARD, DiskOp::Sync { token: TOKEN, file });
    assert_eq!(disk.after_power_cut(Survival::Nothing, 1).files(SHARD), []);
    sync_directory(&mut disk);
    let to = FileName::Manifest(1);
    disk.run(
        SHARD,
        DiskOp::Rename {
            token: TOKEN,
            from: file,
            to,
        },
    );
    assert_eq!(disk.files(SHARD), [to]);
    assert_eq!(
        disk.after_power_cut(Survival::Nothing, 1).files(SHARD),
        [file]
    );
    assert_eq!(
        disk.after_power_cut(Survival::Everything, 1).files(SHARD),
        [to]
    );
    sync_directory(&mut disk);
    assert_eq!(
        disk.after_power_cut(Survival::Nothing, 1).files(SHARD),
        [to]
    );
}

#[test]
fn a_link_shares_content_and_outlives_the_first_name() {
    let mut disk = disk_with_file(1);
    write(&mut disk, 0, 3, WriteSync::Dsync);
    let used = disk.used_bytes();
    let op = DiskOp::Link {
        token: TOKEN,
        from_shard: SHARD,
        from: WAL,
        to: FileName::Wal(9),
    };
    assert!(disk.run(ShardId(1), op).result.is_ok());
    assert_eq!(disk.used_bytes(), used);
    disk.run(
        SHARD,
        DiskOp::Remove {
            token: TOKEN,
            file: WAL,
        },
    );
    disk.run(ShardId(1), DiskOp::SyncDirectory { token: TOKEN });
    sync_directory(&mut disk);
    let after = disk.after_power_cut(Survival::Nothing, 1);
    assert_eq!(after.contents(SHARD, WAL), None);
    assert_eq!(
        after.contents(ShardId(1), FileName::Wal(9)),
        Some(vec![3; PAGE_BYTES])
    );
}

#[test]
fn a_failed_sync_loses_readable_pages_and_the_next_one_succeeds() {
    for kind in [
        WriteSync::None,
        WriteSync::Dsync,
        WriteSync::LinkedFdatasync,
    ] {
        let mut disk = disk_with_file(1);
        let op = disk.ops_started();
        disk.plan(PlannedFault {
            op,
            fault: Fault::SyncInVain,
            lasting: Lasting::Once,
        });
        let wrote = write(&mut disk, 0, 4, kind).result;
        let synced = sync(&mut disk).result;
        let failed = Err(DiskError::Io { errno: 5 });
        let expected = if kind == WriteSync::None {
            (Ok(DiskOutcome::Done), failed)
        } else {
            (failed, Ok(DiskOutcome::Done))
        };
        assert_eq!((wrote, synced), expected);
        assert!(sync(&mut disk).result.is_ok());
        assert_eq!(pages(&disk).0, [4]);
        assert_eq!(pages(&disk.after_power_cut(Survival::Everything, 1)).0, [0]);
    }
}

#[test]
fn space_runs_out_and_comes_back_by_punching_and_removing() {
    let mut disk = disk_with_file(4);
    disk.set_capacity(5 * PAGE_BYTES as u64);
    let create = |bytes| DiskOp::Create {
        token: TOKEN,
        file: FileName::Reserve,
        bytes,
    };
    assert_eq!(
        disk.run(SHARD, create(8192)).result,
        Err(DiskError::NoSpace)
    );
    let op = DiskOp::PunchHole {
        token: TOKEN,
        file: WAL,
        position: FilePosition(0),
        bytes: 8192,
    };
    assert!(disk.run(SHARD, op).result.is_ok());
    assert!(disk.run(SHARD, create(8192)).result.is_ok());
    assert!(write(&mut disk, 0, 1, WriteSync::None).result.is_ok());
    assert_eq!(
        write(&mut disk, 1, 1, WriteSync::None).result,
        Err(DiskError::NoSpace)
    );
    disk.run(
        SHARD,
        DiskOp::Remove {
            token: TOKEN,
            file: FileName::Reserve,
        },
    );
    assert!(write(&mut disk, 1, 1, WriteSync::None).result.is_ok());
    assert_eq!(disk.fault_counts().out_of_space, 2);
}

#[test]
fn a_short_write_is_never_done_and_reads_at_the_end_say_how_much() {
    let mut disk = disk_with_file(2);
    let op = disk.ops_started();
    disk.plan(PlannedFault {
        op,
        fault: Fault::ShortWrite,
        lasting: Lasting::Forever,
    });
    for _ in 0..8 {
        let done = write(&mut disk, 0, 1, WriteSync::Dsync);
        assert!(matches!(done.result, Ok(DiskOutcome::Transferred(bytes)) if bytes < PAGE_BYTES));
    }
    let buffer = AlignedBuf::zeroed(4 * PAGE_BYTES);
    let position = FilePosition(PAGE_BYTES as u64);
    let done = disk.run(
        SHARD,
        DiskOp::Read {
            token: TOKEN,
            file: WAL,
            position,
            buffer,
        },
    );
    assert_eq!(done.result, Ok(DiskOutcome::Transferred(PAGE_BYTES)));
}

#[test]
fn the_machine_stops_in_the_middle_of_an_operation() {
    let mut disk = disk_with_file(1);
    disk.power_off_at(disk.ops_started());
    assert_eq!(
        write(&mut disk, 0, 1, WriteSync::Dsync).result,
        Err(DiskError::Crashed)
    );
    assert!(disk.is_off());
    assert_eq!(sync(&mut disk).result, Err(DiskError::Crashed));
    assert_eq!(pages(&disk.after_power_cut(Survival::Nothing, 1)).0, [0]);
    let mut after = disk.after_power_cut(Survival::Everything, 1);
    assert_eq!(pages(&after).0, [1]);
    assert!(write(&mut after, 0, 2, WriteSync::Dsync).result.is_ok());
}

#[test]
fn equal_seeds_complete_in_equal_order() {
    let order = |seed| -> Vec<u64> {
        let mut disk = SimDisk::new(seed);
        for token in 0..16 {
            disk.submit(
                SHARD,
                DiskOp::Space {
                    token: DiskToken(token),
                },
            );
        }
        std::iter::from_fn(|| disk.complete_one())
            .map(|(_, done)| done.token.0)
            .collect()
    };
    assert_eq!(order(3), order(3));
    assert_ne!(order(3), order(4));
}

#[test]
#[should_panic(expected = "still in flight")]
fn a_sync_before_its_writes_completed_is_refused() {
    let mut disk = disk_with_file(1);
    disk.submit(SHARD, write_op(1, 0, 1, WriteSync::None));
    disk.submit(
        SHARD,
        DiskOp::Sync {
            token: DiskToken(2),
            file: WAL,
        },
    );
}

#[test]
fn lies_are_told_once_and_counted() {
    let mut disk = disk_with_file(3);
    let at = |disk: &SimDisk, fault| PlannedFault {
        op: disk.ops_started(),
        fault,
        lasting: Lasting::Once,
    };
    disk.plan(at(&disk, Fault::LostWrite));
    assert_eq!(
        write(&mut disk, 0, 1, WriteSync::Dsync).result,
        Ok(DiskOutcome::Done)
    );
    disk.plan(at(&disk, Fault::MisdirectedWrite));
    assert_eq!(
        write(&mut disk, 0, 1, WriteSync::Dsync).result,
        Ok(DiskOutcome::Done)
    );
    assert_eq!(pages(&disk).0, [0, 1, 0]);
    disk.plan(at(&disk, Fault::BitRot));
    let read = |disk: &mut SimDisk| {
        let buffer = AlignedBuf::zeroed(PAGE_BYTES);
        let position = FilePosition(0);
        disk.run(
            SHARD,
            DiskOp::Read {
                token: TOKEN,
                file: WAL,
                position,
                buffer,
            },
        )
        .buffer
    };
    let flipped = |buffer: Option<AlignedBuf>| -> u32 {
        buffer
            .expect("read")
            .iter()
            .map(|byte| byte.count_ones())
            .sum()
    };
    assert_eq!(flipped(read(&mut disk)), 1);
    assert_eq!(flipped(read(&mut disk)), 1);
    assert_eq!(disk.fault_counts().silent, 3);
}
