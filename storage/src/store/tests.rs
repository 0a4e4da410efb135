//! Questions to a store that runs: order of acknowledgement, reads, poison.

use std::collections::BTreeMap;

use super::*;
use crate::config::SeededBug;
use crate::disk::DiskOutcome;
use crate::record::Batch;
use crate::record::tests::hello;
use crate::request::TimePoint;
use crate::testing::SimDisk;
use crate::units::{LeaderEpoch, PAGE_BYTES, ShardId};

pub(crate) const SHARD: ShardId = ShardId(0);
pub(crate) const LOG: PartitionId = PartitionId(7);

pub(crate) fn now(ms: u64) -> Now {
    Now {
        boot: BootTime(ms * 1_000_000),
        wall_ms: 1_700_000_000_000,
    }
}

/// A store of small files, so that every boundary is met often.
pub(crate) fn small() -> StoreConfig {
    StoreConfig {
        wal_file_bytes: 64 << 10,
        wal_files: 6,
        commit_buffer_bytes: 16 << 10,
        batch_bytes_max: 32 << 10,
        tail_cache_bytes: 32 << 10,
        unsettled_cache_bytes: 0,
        read_cache_bytes: 64 << 10,
        // These tests ask about the log itself: nothing is settled.
        settle_files_max: usize::MAX,
        settle_after_ms: u64::MAX,
        ..StoreConfig::default()
    }
}

/// A batch of one record that is told from every other by its timestamp; `bytes` in all.
pub(crate) fn batch(id: u64, bytes: usize) -> Vec<u8> {
    let mut batch = hello();
    batch.resize(bytes.max(batch.len()), 0xa5);
    let length = i32::try_from(batch.len() - 12).expect("small");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    for at in [27, 35] {
        batch[at..at + 8].copy_from_slice(&id.to_be_bytes());
    }
    let sum = record::checksum(&batch[21..]);
    batch[17..21].copy_from_slice(&sum.to_be_bytes());
    batch
}

impl Store {
    /// Bytes of each section of `log`.
    pub(crate) fn section_bytes(&self, log: PartitionId) -> Vec<u64> {
        let sections = self.packs.sections(log);
        sections.map(|(_, section)| section.bytes).collect()
    }

    /// Whether the manifest has something to say and no room for it.
    pub(crate) fn lacks_room(&self) -> bool {
        self.manifest.is_out_of_space()
    }
}

fn open(disk: &mut SimDisk) -> Store {
    Store::open(small(), now(0), &mut *disk.blocking(SHARD), &mut |_| {}).expect("opens")
}

/// Carries operations until none is left.
fn settle_disk(store: &mut Store, disk: &mut SimDisk, at: Now) {
    loop {
        while let Some(op) = store.poll_disk() {
            disk.submit(SHARD, op);
        }
        let Some((_, done)) = disk.complete_one() else {
            return;
        };
        store.handle_disk(at, done);
    }
}

fn append(store: &mut Store, offset: u64) -> Lsn {
    append_at(store, offset, now(0))
}

fn append_at(store: &mut Store, offset: u64, at: Now) -> Lsn {
    let bytes = hello();
    let append = Append {
        partition: LOG,
        base_offset: Offset(offset),
        leader_epoch: LeaderEpoch(0),
        append_time_ms: None,
        batch: Batch::check(&bytes).expect("good"),
    };
    store.append(at, append).expect("taken")
}

fn request(from: u64, end: u64) -> ReadRequest {
    ReadRequest {
        ticket: ReadTicket(1),
        partition: LOG,
        from: Offset(from),
        end: Offset(end),
        bytes_max: 1 << 20,
    }
}

fn offsets(records: &Records) -> Vec<u64> {
    let header = |batch: &bytes::Bytes| BatchHeader::parse(batch).expect("a batch").base_offset.0;
    records.batches.iter().map(header).collect()
}

/// What its own turn does besides keeps a group from nothing; a group on its way does.
#[test]
fn a_group_waits_from_the_end_of_its_turn_on() {
    let config = StoreConfig {
        groups_in_flight_max: 1,
        ..small()
    };
    let mut disk = SimDisk::new(1);
    let store = Store::open(config, now(0), &mut *disk.blocking(SHARD), &mut |_| {});
    let mut store = store.expect("opens");
    store.create_log(LOG, LogConfig::default());
    append_at(&mut store, 0, now(10));
    store.close_group(now(12));
    append_at(&mut store, 1, now(13));
    store.close_group(now(15));
    settle_disk(&mut store, &mut disk, now(20));
    store.close_group(now(22));
    settle_disk(&mut store, &mut disk, now(30));
    let mut told = Vec::new();
    while let Some(group) = store.poll_group() {
        told.push([group.opened, group.submitted, group.durable]);
    }
    let expected = [[12, 12, 20], [15, 22, 30]];
    assert_eq!(told, expected.map(|times| times.map(|ms| now(ms).boot)));
}

#[test]
fn what_is_durable_is_read_from_memory() {
    let mut disk = SimDisk::new(1);
    let mut store = open(&mut disk);
    store.create_log(LOG, LogConfig::default());
    let end = (0..3).map(|offset| append(&mut store, offset)).last();
    let end = end.expect("three");
    assert!(store.durable_lsn() < end, "nothing was written yet");
    store.close_group(now(0));
    settle_disk(&mut store, &mut disk, now(0));
    assert!(store.durable_lsn() >= end);
    let ReadOutcome::Ready(Ok(records)) = store.read(now(0), request(1, 3)) else {
        panic!("the block is in memory");
    };
    assert_eq!(offsets(&records), [1, 2]);
}

/// Closes what is open and takes every operation that the store has.
fn take_ops(store: &mut Store) -> Vec<DiskOp> {
    store.close_group(now(0));
    std::iter::from_fn(|| store.poll_disk()).collect()
}

fn done(op: DiskOp, result: Result<DiskOutcome, DiskError>) -> DiskDone {
    let token = op.token();
    let buffer = match op {
        DiskOp::Write { buffer, .. } | DiskOp::Read { buffer, .. } => Some(buffer),
        _ => None,
    };
    DiskDone {
        token,
        buffer,
        result,
    }
}

/// A store with nothing in flight, and one log.
fn quiet(disk: &mut SimDisk) -> Store {
    let mut store = open(disk);
    store.create_log(LOG, LogConfig::default());
    settle_disk(&mut store, disk, now(0));
    store
}

#[test]
fn completions_out_of_order_are_acknowledged_in_order() {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    let mut ops = Vec::new();
    let mut ends = Vec::new();
    for offset in 0..3 {
        ends.push(append(&mut store, offset));
        ops.append(&mut take_ops(&mut store));
    }
    let [first, second, third] = <[DiskOp; 3]>::try_from(ops).expect("three groups");
    store.handle_disk(now(0), done(third, Ok(DiskOutcome::Done)));
    assert!(store.durable_lsn() < ends[0], "a hole in front");
    store.handle_disk(now(0), done(first, Ok(DiskOutcome::Done)));
    assert!(store.durable_lsn() >= ends[0] && store.durable_lsn() < ends[1]);
    store.handle_disk(now(0), done(second, Ok(DiskOutcome::Done)));
    assert!(store.durable_lsn() >= ends[2]);
}

#[test]
fn a_group_grows_while_as_many_as_allowed_are_in_flight() {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    let max = small().groups_in_flight_max as u64;
    let mut ops = Vec::new();
    for offset in 0..max + 10 {
        append(&mut store, offset);
        ops.append(&mut take_ops(&mut store));
    }
    assert_eq!(ops.len() as u64, max);
    store.handle_disk(now(0), done(ops.remove(0), Ok(DiskOutcome::Done)));
    let next = take_ops(&mut store);
    let [DiskOp::Write { buffer, .. }] = &next[..] else {
        panic!("{next:?}");
    };
    let entries = u32::from_le_bytes(buffer[68..72].try_into().expect("four bytes"));
    assert_eq!(entries, 10);
}

#[test]
fn any_failed_or_short_write_poisons_and_acknowledges_nothing_more() {
    let eio = Err(DiskError::Io { errno: 5 });
    let outcomes = [
        eio,
        Err(DiskError::NoSpace),
        Ok(DiskOutcome::Transferred(512)),
    ];
    for outcome in outcomes {
        let mut disk = SimDisk::new(1);
        let mut store = quiet(&mut disk);
        let mut ops = Vec::new();
        for offset in 0..2 {
            append(&mut store, offset);
            ops.append(&mut take_ops(&mut store));
        }
        let durable = store.durable_lsn();
        store.handle_disk(now(0), done(ops.remove(0), outcome));
        store.handle_disk(now(0), done(ops.remove(0), Ok(DiskOutcome::Done)));
        assert!(store.is_poisoned().is_some());
        assert!(matches!(store.poll_event(), Some(StoreEvent::Poisoned(_))));
        assert_eq!(store.poll_event(), None, "told once");
        assert_eq!(store.durable_lsn(), durable);
        assert!(take_ops(&mut store).is_empty(), "nothing is tried again");
        let refused = store.append_state(now(0), 1, b"");
        assert_eq!(refused, Err(AppendError::Poisoned));
        assert!(!store.accepts_appends());
    }
}

#[test]
fn an_idle_log_is_sealed_once() {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    assert!(store.is_quiet(), "an empty log needs no seal");
    append(&mut store, 0);
    store.close_group(now(0));
    settle_disk(&mut store, &mut disk, now(0));
    assert_eq!(store.commit.timeout(), Some(now(10).boot));
    store.handle_timeout(now(9));
    assert_eq!(store.counters().commit.groups, 1);
    store.handle_timeout(now(10));
    settle_disk(&mut store, &mut disk, now(10));
    assert_eq!(store.counters().commit.seals, 1);
    assert!(store.is_quiet());
    assert_eq!(store.commit.timeout(), None, "a seal needs no seal");
}

#[test]
fn a_clean_stop_seals_without_waiting() {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    append(&mut store, 0);
    while !store.is_quiet() {
        store.close(now(0));
        settle_disk(&mut store, &mut disk, now(0));
    }
    assert_eq!(store.durable_lsn(), store.append_lsn());
    assert_eq!(store.counters().commit.seals, 1);
}

/// Fills the log with groups of its own for each batch until it refuses; how many it took.
fn fill(store: &mut Store, disk: &mut SimDisk) -> u64 {
    fill_from(store, disk, 0)
}

fn fill_from(store: &mut Store, disk: &mut SimDisk, mut offset: u64) -> u64 {
    loop {
        let bytes = batch(offset, 3000);
        let append = Append {
            partition: LOG,
            base_offset: Offset(offset),
            leader_epoch: LeaderEpoch(0),
            append_time_ms: None,
            batch: Batch::check(&bytes).expect("good"),
        };
        if store.append(now(0), append).is_err() {
            return offset;
        }
        store.close_group(now(0));
        settle_disk(store, disk, now(0));
        offset += 1;
    }
}

#[test]
fn the_log_rolls_through_its_slots_until_one_is_left() {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    let taken = fill(&mut store, &mut disk);
    // Five files of sixteen pages, less header and seal page each.
    assert_eq!(taken, 5 * 14);
    assert_eq!(store.counters().commit.rolls, 4);
    assert!(!store.accepts_appends());
    assert_eq!(store.wal.slots.free(), 1);
}

#[test]
fn batches_out_of_memory_come_back_from_their_files() {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    let end = fill(&mut store, &mut disk);
    let request = ReadRequest {
        bytes_max: 1,
        ..request(0, end)
    };
    assert_eq!(store.read(now(0), request), ReadOutcome::Pending);
    settle_disk(&mut store, &mut disk, now(0));
    let (ticket, records) = store.poll_read().expect("answered");
    assert_eq!(ticket, request.ticket);
    assert_eq!(offsets(&records.expect("readable")), [0]);
    let again = store.read(now(0), request);
    assert!(matches!(again, ReadOutcome::Ready(Ok(_))), "kept in memory");
}

/// Starts a read of the first batch, settles its file under it, appends until every free slot is
/// in use, and only then lets the read reach the disk.
fn first_batch_read_late(config: StoreConfig) -> Vec<u64> {
    let mut disk = SimDisk::new(1);
    let opened = Store::open(config, now(0), &mut *disk.blocking(SHARD), &mut |_| {});
    let mut store = opened.expect("opens");
    store.create_log(LOG, LogConfig::default());
    settle_disk(&mut store, &mut disk, now(0));
    let end = fill(&mut store, &mut disk);
    assert_eq!(store.read(now(0), request(0, end)), ReadOutcome::Pending);
    let read = store.poll_disk().expect("the read");
    let second = store.wal.closed()[1].life;
    store.wal.release_before(second, &mut store.ops);
    fill_from(&mut store, &mut disk, end);
    let done = disk.run(SHARD, read);
    store.handle_disk(now(0), done);
    let (_, records) = store.poll_read().expect("answered");
    offsets(&records.expect("readable"))
}

#[test]
fn a_slot_is_not_reused_under_a_read() {
    assert_eq!(first_batch_read_late(small())[0], 0);
}

#[test]
fn reading_from_a_recycled_file_is_caught() {
    let config = StoreConfig {
        seeded_bug: Some(SeededBug::ReadFromRecycledFile),
        ..small()
    };
    assert_ne!(first_batch_read_late(config).first(), Some(&0));
}

#[test]
fn damage_under_a_cold_read_is_an_error_and_an_event() {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    let end = fill(&mut store, &mut disk);
    disk.damage(SHARD, crate::disk::FileName::Wal(0), 4096 + 500, &[0; 4]);
    assert_eq!(store.read(now(0), request(0, end)), ReadOutcome::Pending);
    settle_disk(&mut store, &mut disk, now(0));
    let (_, records) = store.poll_read().expect("answered");
    assert!(matches!(records, Err(ReadError::Damaged { .. })));
    let event = store.poll_event();
    assert!(matches!(event, Some(StoreEvent::Damaged { .. })));
    assert!(store.is_poisoned().is_none(), "only this range is hurt");
}

#[test]
fn places_are_found_by_time() {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    let end = fill(&mut store, &mut disk);
    let mut find_from = |from, point, end| {
        let request = TimeRequest {
            ticket: ReadTicket(9),
            partition: LOG,
            point,
            from: Offset(from),
            end: Offset(end),
        };
        let records = match store.find_time(now(0), request) {
            ReadOutcome::Ready(records) => records,
            ReadOutcome::Pending => {
                settle_disk(&mut store, &mut disk, now(0));
                store.poll_read().expect("answered").1
            }
        };
        offsets(&records.expect("readable"))
    };
    // The batches' timestamps are their offsets.
    assert_eq!(find_from(40, TimePoint::AtLeast(33), end), [40]);
    assert_eq!(find_from(end - 1, TimePoint::Max, end), [end - 1]);
    assert!(find_from(end, TimePoint::Max, end).is_empty());
    assert!(find_from(end, TimePoint::AtLeast(0), end).is_empty());
    let mut find = |point, end| find_from(0, point, end);
    assert_eq!(find(TimePoint::AtLeast(33), end), [33]);
    assert_eq!(find(TimePoint::AtLeast(-1), end), [0]);
    assert!(find(TimePoint::AtLeast(33), 33).is_empty());
    assert_eq!(find(TimePoint::Max, end), [end - 1]);
    assert_eq!(find(TimePoint::Max, 20), [19]);
    assert!(find(TimePoint::Max, 0).is_empty());
}

#[test]
fn deleted_records_are_out_of_range_and_stay_deleted() {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    for offset in 0..3 {
        append(&mut store, offset);
    }
    let deleted = store.append_log_start(now(0), LOG, Offset(2));
    deleted.expect("taken");
    store.close_group(now(0));
    settle_disk(&mut store, &mut disk, now(0));
    let below = store.read(now(0), request(1, 3));
    assert_eq!(below, ReadOutcome::Ready(Err(ReadError::OutOfRange)));
    let mut store = open(&mut disk);
    let status = store.log(LOG).expect("replayed");
    assert_eq!((status.start, status.end), (Offset(2), Offset(3)));
    let below = store.read(now(0), request(1, 3));
    assert_eq!(below, ReadOutcome::Ready(Err(ReadError::OutOfRange)));
}

#[test]
fn a_cold_read_takes_neighbours_along_and_does_without_an_unreadable_one() {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    let end = fill(&mut store, &mut disk);
    assert_eq!(store.read(now(0), request(0, end)), ReadOutcome::Pending);
    let mut ops: Vec<_> = std::iter::from_fn(|| store.poll_disk()).collect();
    let eio = Err(DiskError::Io { errno: 5 });
    store.handle_disk(now(0), done(ops.remove(0), eio));
    assert_eq!(store.poll_read(), None, "one of fourteen blocks may be bad");
    settle_disk(&mut store, &mut disk, now(0));
    let (_, records) = store.poll_read().expect("answered");
    assert_eq!(offsets(&records.expect("readable")), [0]);

    assert_eq!(store.read(now(0), request(1, end)), ReadOutcome::Pending);
    settle_disk(&mut store, &mut disk, now(0));
    let (_, records) = store.poll_read().expect("answered");
    let expected: Vec<u64> = (1..14).collect();
    assert_eq!(offsets(&records.expect("readable")), expected);
}

/// Operations that the store has, of which the first is a read's.
fn fetches(store: &mut Store) -> Vec<DiskOp> {
    let ops: Vec<_> = std::iter::from_fn(|| store.poll_disk()).collect();
    assert!(matches!(ops[0], DiskOp::Read { .. }));
    ops
}

fn read_as(store: &mut Store, ticket: u64, from: u64, end: u64) {
    let request = ReadRequest {
        ticket: ReadTicket(ticket),
        bytes_max: 1,
        ..request(from, end)
    };
    assert_eq!(store.read(now(0), request), ReadOutcome::Pending);
}

/// What the reads of offsets 0 and 1, in neighbouring blocks, come to when they share one fetch.
fn neighbours(
    damage: &dyn Fn(&mut SimDisk),
    failure: Option<DiskError>,
) -> BTreeMap<u64, Result<Vec<u64>, ReadError>> {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    let end = fill(&mut store, &mut disk);
    damage(&mut disk);
    read_as(&mut store, 1, 0, end);
    read_as(&mut store, 2, 1, end);
    let mut ops = fetches(&mut store);
    assert_eq!(ops.len(), 1, "one fetch brings both blocks");
    let op = ops.remove(0);
    let done = match failure {
        None => disk.run(SHARD, op),
        Some(error) => done(op, Err(error)),
    };
    store.handle_disk(now(0), done);
    settle_disk(&mut store, &mut disk, now(0));
    let answers = std::iter::from_fn(|| store.poll_read());
    let answers = answers.map(|(ticket, records)| (ticket.0, records.map(|r| offsets(&r))));
    answers.collect()
}

#[test]
fn reads_that_share_a_fetch_share_neither_damage_nor_failure() {
    let page = PAGE_BYTES as u64;
    let file = crate::disk::FileName::Wal(0);
    let first = |disk: &mut SimDisk| disk.damage(SHARD, file, page + 500, &[0; 4]);
    let found = neighbours(&first, None);
    assert!(matches!(found[&1], Err(ReadError::Damaged { .. })));
    assert_eq!(found[&2], Ok(vec![1]), "its own block is whole");

    let second = |disk: &mut SimDisk| disk.damage(SHARD, file, 2 * page + 500, &[0; 4]);
    let found = neighbours(&second, None);
    assert_eq!(found[&1], Ok(vec![0]));
    assert!(matches!(found[&2], Err(ReadError::Damaged { .. })));

    let found = neighbours(&|_| {}, Some(DiskError::Io { errno: 5 }));
    assert_eq!((&found[&1], &found[&2]), (&Ok(vec![0]), &Ok(vec![1])));
}

#[test]
fn an_answer_keeps_no_more_memory_than_its_batches_are_worth() {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    let other = PartitionId(LOG.0 + 1);
    store.create_log(other, LogConfig::default());
    append(&mut store, 0);
    let large = batch(1, 8_000);
    let beside = Append {
        partition: other,
        base_offset: Offset(0),
        leader_epoch: LeaderEpoch(0),
        append_time_ms: None,
        batch: Batch::check(&large).expect("good"),
    };
    store.append(now(0), beside).expect("taken");
    store.close_group(now(0));
    settle_disk(&mut store, &mut disk, now(0));
    let read = |store: &mut Store, request| match store.read(now(0), request) {
        ReadOutcome::Ready(records) => records.expect("readable"),
        ReadOutcome::Pending => panic!("the block is in memory"),
    };
    let small = read(&mut store, request(0, 1));
    assert_eq!(offsets(&small), [0]);
    let found = store.find_time(
        now(0),
        TimeRequest {
            ticket: ReadTicket(9),
            partition: LOG,
            point: TimePoint::Max,
            from: Offset(0),
            end: Offset(1),
        },
    );
    let ReadOutcome::Ready(Ok(found)) = found else {
        panic!("the block is in memory");
    };
    let most = ReadRequest {
        partition: other,
        ..request(0, 1)
    };
    let most = read(&mut store, most);
    let block = store.cache.get(Lsn(0)).expect("kept");
    let lies_in_block = |records: &Records| {
        let bounds = block.as_ptr_range();
        bounds.contains(&records.batches[0].as_ptr())
    };
    assert!(!lies_in_block(&small) && !lies_in_block(&found));
    assert!(lies_in_block(&most), "without a copy");
}

#[test]
fn a_kept_block_of_a_fetch_keeps_none_of_its_neighbours() {
    let mut disk = SimDisk::new(1);
    let mut store = quiet(&mut disk);
    let end = fill(&mut store, &mut disk);
    read_as(&mut store, 1, 0, end);
    settle_disk(&mut store, &mut disk, now(0));
    assert!(store.poll_read().is_some());
    let blocks = store.counters().reads.blocks;
    assert!(blocks > 2, "neighbours came along");
    let lsns: Vec<Lsn> = store.wal.closed()[0].block_lsns().collect();
    let kept = lsns.iter().filter_map(|lsn| store.cache.get(*lsn));
    let mut kept: Vec<_> = kept.map(|block| block.as_ptr_range()).collect();
    assert!(kept.len() > 2);
    kept.sort_by_key(|range| range.start);
    let touch = kept.windows(2).any(|pair| pair[0].end == pair[1].start);
    assert!(!touch, "each has memory of its own");
}

#[test]
fn the_first_file_is_small_and_goes_when_it_is_settled() {
    let config = StoreConfig {
        wal_file_bytes: 16 << 20,
        commit_buffer_bytes: 1 << 20,
        batch_bytes_max: 1 << 20,
        ..small()
    };
    let mut disk = SimDisk::new(1);
    let opened = Store::open(config, now(0), &mut *disk.blocking(SHARD), &mut |_| {});
    let mut store = opened.expect("opens");
    store.create_log(LOG, LogConfig::default());
    let first = crate::disk::FileName::Wal(0);
    let size = |disk: &SimDisk| disk.contents(SHARD, first).map(|bytes| bytes.len());
    assert_eq!(size(&disk), Some(8 << 20));
    settle_disk(&mut store, &mut disk, now(0));
    for offset in 0..12 {
        let bytes = batch(offset, 1_000_000);
        let append = Append {
            partition: LOG,
            base_offset: Offset(offset),
            leader_epoch: LeaderEpoch(0),
            append_time_ms: None,
            batch: Batch::check(&bytes).expect("good"),
        };
        store.append(now(0), append).expect("taken");
        store.close_group(now(0));
        settle_disk(&mut store, &mut disk, now(0));
    }
    assert_eq!(store.counters().commit.rolls, 1);
    let second = store.wal.current().life;
    store.wal.release_before(second, &mut store.ops);
    settle_disk(&mut store, &mut disk, now(0));
    assert_eq!(size(&disk), None);
}
