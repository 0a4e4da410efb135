//! Settling, cold reads, retention and restarts of whole stores on the simulated disk.

mod ahead;
mod damage;
mod deletes;
mod retention;
mod room;

use std::collections::BTreeMap;

use crate::config::StoreConfig;
use crate::disk::{DiskOp, FileName};
use crate::error::{AppendError, ReadError, StorageError};
use crate::log_index::LogConfig;
use crate::record::{Batch, BatchHeader};
use crate::request::{
    Append, ReadOutcome, ReadRequest, ReadTicket, Records, Replayed, StoreEvent, TimePoint,
    TimeRequest,
};
use crate::section::tests::batch;
use crate::settle::{SETTLE_OUTPUT_TAG, SETTLE_TAG};
use crate::store::Store;
use crate::testing::{Fault, Lasting, PlannedFault, SimDisk, Survival};
use crate::units::{BootTime, LeaderEpoch, Lsn, Now, Offset, PartitionId, ShardId};

pub(crate) const SHARD: ShardId = ShardId(0);
pub(crate) const A: PartitionId = PartitionId(7);
pub(crate) const B: PartitionId = PartitionId(8);

/// What a log should hold: batches from its start on, by base offset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) batches: BTreeMap<u64, Vec<u8>>,
}

/// A store, its disk, and what it should say.
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) store: Store,
    pub(crate) config: StoreConfig,
    pub(crate) ms: u64,
    pub(crate) logs: BTreeMap<PartitionId, Model>,
    /// The engine's state: how many changes it took. Its snapshot is the number.
    state: u64,
    pub(crate) settled: u64,
    ticket: u64,
    pub(crate) poisoned: bool,
    /// Why.
    pub(crate) reason: Option<StorageError>,
    /// Fails the operation on a pack's file after so many others that could fail so.
    pack_fault: Option<(Fault, u32)>,
    /// Reads of passes, and how many of them had writes of a pass beside them.
    loads: usize,
    loads_beside_output: usize,
    outputs: usize,
}

pub(crate) fn config() -> StoreConfig {
    StoreConfig {
        wal_file_bytes: 64 << 10,
        wal_files: 8,
        commit_buffer_bytes: 16 << 10,
        batch_bytes_max: 32 << 10,
        tail_cache_bytes: 32 << 10,
        unsettled_cache_bytes: 0,
        read_cache_bytes: 64 << 10,
        segment_bytes_min: 40 << 10,
        reserve_bytes: 0,
        ..StoreConfig::default()
    }
}

impl World {
    pub(crate) fn new(seed: u64, config: StoreConfig) -> Self {
        let mut disk = SimDisk::new(seed);
        let now = Self::now_at(0);
        let store = Store::open(config.clone(), now, &mut *disk.blocking(SHARD), &mut |_| {});
        let mut world = Self {
            store: store.expect("a new store opens"),
            disk,
            config,
            ms: 0,
            logs: BTreeMap::new(),
            state: 0,
            settled: 0,
            ticket: 0,
            poisoned: false,
            reason: None,
            pack_fault: None,
            loads: 0,
            loads_beside_output: 0,
            outputs: 0,
        };
        for log in [A, B] {
            world.store.create_log(log, LogConfig::default());
            world.logs.insert(log, Model::default());
        }
        world
    }

    pub(crate) fn now_at(ms: u64) -> Now {
        Now {
            boot: BootTime(ms * 1_000_000),
            wall_ms: 1_000_000 + i64::try_from(ms).expect("small"),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Self::now_at(self.ms)
    }

    pub(crate) fn model(&mut self, log: PartitionId) -> &mut Model {
        self.logs.get_mut(&log).expect("a known log")
    }

    /// Appends a batch of three records whose timestamps are the wall clock's.
    pub(crate) fn append(&mut self, log: PartitionId, bytes: usize) -> Result<Lsn, AppendError> {
        self.append_of(log, bytes, self.now().wall_ms)
    }

    /// Appends a batch of three records of that time.
    pub(crate) fn append_of(
        &mut self,
        log: PartitionId,
        bytes: usize,
        timestamp_ms: i64,
    ) -> Result<Lsn, AppendError> {
        let now = self.now();
        let base = self.model(log).end;
        let bytes = batch(base, 3, timestamp_ms, bytes);
        let append = Append {
            partition: log,
            base_offset: Offset(base),
            leader_epoch: LeaderEpoch(0),
            append_time_ms: None,
            batch: Batch::check(&bytes).expect("good"),
        };
        let lsn = self.store.append(now, append)?;
        let model = self.model(log);
        model.batches.insert(base, bytes);
        model.end = base + 3;
        Ok(lsn)
    }

    /// Appends `count` batches, letting the disk run in between, and one change of state each.
    pub(crate) fn produce(&mut self, log: PartitionId, count: usize, bytes: usize) {
        for _ in 0..count {
            self.ms += 1;
            while self.append(log, bytes).is_err() {
                if self.disk.is_off() {
                    return;
                }
                self.ms += 100;
                self.run();
            }
            self.change_state();
            self.turn();
        }
        self.run();
    }

    pub(crate) fn change_state(&mut self) {
        let bytes = (self.state + 1).to_le_bytes();
        if self.store.append_state(self.now(), 1, &bytes).is_ok() {
            self.state += 1;
        }
    }

    /// Stops the store, as far as that gets in a thousand turns.
    fn stop(&mut self) {
        let now = self.now();
        for _ in 0..1000 {
            self.store.close(now);
            while let Some(op) = self.store.poll_disk() {
                self.disk.submit(SHARD, op);
            }
            match self.disk.complete_one() {
                Some((_, done)) => self.store.handle_disk(now, done),
                None => break,
            }
        }
    }

    /// One turn: everything due, then one completion. Returns whether anything happened.
    pub(crate) fn turn(&mut self) -> bool {
        let now = self.now();
        self.store.close_group(now);
        self.store.handle_timeout(now);
        while let Some(event) = self.store.poll_event() {
            match event {
                StoreEvent::WantsSnapshot => {
                    let state = self.state.to_le_bytes().to_vec();
                    self.store.provide_snapshot(now, state);
                }
                StoreEvent::Settled { .. } => self.settled += 1,
                StoreEvent::LogStartMoved { partition, offset } => {
                    self.model(partition).start = offset.0;
                }
                StoreEvent::Poisoned(reason) => {
                    self.poisoned = true;
                    self.reason = Some(reason);
                }
                StoreEvent::DiskFull(_) | StoreEvent::Damaged { .. } => {}
            }
        }
        let mut busy = self.store.has_work_now();
        while let Some(op) = self.store.poll_disk() {
            self.count(&op);
            self.plan_fault(&op);
            self.disk.submit(SHARD, op);
            busy = true;
        }
        if let Some((_, done)) = self.disk.complete_one() {
            self.outputs -= usize::from(done.token.tag() == SETTLE_OUTPUT_TAG);
            self.store.handle_disk(now, done);
            busy = true;
        }
        busy
    }

    fn count(&mut self, op: &DiskOp) {
        match op.token().tag() {
            SETTLE_TAG => {
                self.loads += 1;
                self.loads_beside_output += usize::from(self.outputs > 0);
            }
            SETTLE_OUTPUT_TAG => self.outputs += 1,
            _ => {}
        }
    }

    /// Lets `op` fail if it is the pack operation that should.
    pub(crate) fn plan_fault(&mut self, op: &DiskOp) {
        let Some((fault, left)) = self.pack_fault else {
            return;
        };
        if op.token().tag() != SETTLE_OUTPUT_TAG || !fault.fits(op) {
            return;
        }
        self.pack_fault = left.checked_sub(1).map(|left| (fault, left));
        if left == 0 {
            self.disk.plan(PlannedFault {
                op: self.disk.ops_started(),
                fault,
                lasting: Lasting::Once,
            });
        }
    }

    /// Turns until nothing more happens by itself, passes that take their time included.
    pub(crate) fn run(&mut self) {
        for _ in 0..100_000 {
            if self.turn() {
                continue;
            }
            match self.store.pace_timeout() {
                Some(at) => self.ms = self.ms.max(at.0.div_ceil(1_000_000)),
                None => return,
            }
        }
        panic!("the store does not come to rest");
    }

    /// Another life of the store on what `disk` holds.
    pub(crate) fn reopen(&mut self, mut disk: SimDisk) -> Result<(), StorageError> {
        let (mut state, mut starts) = (0, Vec::new());
        let mut replay = |replayed: Replayed<'_>| match replayed {
            Replayed::Snapshot { bytes, .. } | Replayed::State { bytes, .. } => {
                let said = u64::from_le_bytes(bytes.try_into().expect("a number"));
                state = state.max(said);
            }
            Replayed::LogStart {
                partition, offset, ..
            } => starts.push((partition, offset)),
            Replayed::Batch { .. } | Replayed::LossAccepted { .. } => {}
        };
        self.config.seed += 1;
        let store = {
            let blocking = &mut *disk.blocking(SHARD);
            Store::open(self.config.clone(), self.now(), blocking, &mut replay)
        };
        self.disk = disk;
        self.store = store?;
        assert!(state <= self.state, "state that was never appended");
        self.state = state;
        Ok(())
    }

    /// Another world that goes on from what `other` holds on its disk.
    pub(crate) fn reopened(other: &Self) -> Self {
        let mut world = Self::new(1, other.config.clone());
        world.logs = other.logs.clone();
        world.state = other.state;
        world.ms = other.ms;
        let disk = other.disk.after_kill(1);
        world.reopen(disk).expect("opens");
        world
    }

    pub(crate) fn restart(&mut self) {
        self.run();
        let disk = self
            .disk
            .after_power_cut(Survival::Nothing, self.config.seed);
        let state = self.state;
        self.reopen(disk).expect("what is durable is there");
        assert_eq!(self.state, state, "acknowledged state is there");
    }

    pub(crate) fn read(&mut self, request: ReadRequest) -> Result<Records, ReadError> {
        let outcome = self.store.read(self.now(), request);
        self.await_read(request.ticket, outcome)
    }

    pub(crate) fn find(
        &mut self,
        log: PartitionId,
        point: TimePoint,
    ) -> Result<Records, ReadError> {
        self.ticket += 1;
        let request = TimeRequest {
            ticket: ReadTicket(self.ticket),
            partition: log,
            point,
            from: Offset(0),
            end: Offset(self.logs[&log].end),
        };
        let outcome = self.store.find_time(self.now(), request);
        self.await_read(request.ticket, outcome)
    }

    /// Damages byte `position` of `file`.
    pub(crate) fn damage(&mut self, file: FileName, position: u64) {
        let content = self.disk.contents(SHARD, file).expect("a file");
        let at = usize::try_from(position).expect("small");
        let spoiled = [content[at] ^ 0x10];
        self.disk.damage(SHARD, file, position, &spoiled);
    }

    pub(crate) fn await_read(
        &mut self,
        ticket: ReadTicket,
        outcome: ReadOutcome,
    ) -> Result<Records, ReadError> {
        if let ReadOutcome::Ready(result) = outcome {
            return result;
        }
        for _ in 0..10_000 {
            self.turn();
            if let Some((answered, result)) = self.store.poll_read() {
                assert_eq!(answered, ticket);
                return result;
            }
        }
        panic!("a read without an answer");
    }

    pub(crate) fn request(&mut self, log: PartitionId, from: u64, bytes_max: usize) -> ReadRequest {
        self.ticket += 1;
        ReadRequest {
            ticket: ReadTicket(self.ticket),
            partition: log,
            from: Offset(from),
            end: Offset(self.logs[&log].end),
            bytes_max,
        }
    }

    /// Reads every log from its start to its end and compares each batch.
    pub(crate) fn check(&mut self, bytes_max: usize) {
        for (log, model) in self.logs.clone() {
            let status = self.store.log(log).expect("a known log");
            assert_eq!(
                (status.start.0, status.end.0),
                (model.start, model.end),
                "{log}"
            );
            let mut at = model.start;
            while at < model.end {
                let request = self.request(log, at, bytes_max);
                let records = self.read(request).expect("readable");
                assert!(!records.batches.is_empty(), "log {log} from {at}");
                for bytes in &records.batches {
                    let header = BatchHeader::parse(bytes).expect("a batch");
                    let known = model.batches.get(&header.base_offset.0);
                    assert_eq!(known.map(Vec::as_slice), Some(&bytes[..]), "log {log}");
                    assert!(header.base_offset.0 <= at && header.next_offset().0 > at);
                    at = header.next_offset().0;
                }
            }
        }
    }

    pub(crate) fn file_bytes(&self, file: FileName) -> usize {
        let content = self.disk.contents(SHARD, file);
        content.expect("a file").len()
    }

    /// Bytes of each section of `log`.
    pub(crate) fn sections(&self, log: PartitionId) -> Vec<u64> {
        self.store.section_bytes(log)
    }

    pub(crate) fn files(&self, wanted: fn(&FileName) -> bool) -> usize {
        let files = self.disk.files(SHARD);
        files.iter().filter(|file| wanted(file)).count()
    }
}

pub(crate) fn is_pack(file: &FileName) -> bool {
    matches!(file, FileName::Pack(_))
}

pub(crate) fn is_segment(file: &FileName) -> bool {
    matches!(file, FileName::Segment(_))
}

#[test]
fn settled_batches_are_read_back_before_and_after_a_restart() {
    let mut world = World::new(1, config());
    for _ in 0..20 {
        world.produce(A, 3, 5000);
        world.produce(B, 7, 300);
    }
    assert!(world.settled > 3, "{} passes", world.settled);
    assert!(world.files(is_pack) > 3);
    for bytes_max in [1, 10_000, 1 << 20] {
        world.check(bytes_max);
    }
    world.restart();
    world.check(10_000);
    world.produce(A, 10, 5000);
    world.check(1 << 20);
}

#[test]
fn a_log_with_enough_data_gets_segments_of_its_own() {
    let mut world = World::new(2, config());
    world.produce(A, 40, 8000);
    world.produce(B, 3, 300);
    assert!(world.files(is_segment) > 2);
    world.check(1 << 20);
    world.restart();
    world.check(1 << 20);
}

#[test]
fn a_log_that_asks_for_tiny_sections_takes_no_more_room_than_its_batches() {
    let large = StoreConfig {
        wal_file_bytes: 4 << 20,
        segment_bytes_min: 64 << 20,
        ..config()
    };
    let mut world = World::new(13, large);
    let tiny = LogConfig {
        segment_bytes: Some(14),
        ..LogConfig::default()
    };
    world.store.create_log(A, tiny);
    world.produce(A, 200, 30_000);
    world.ms += 60_000;
    world.run();
    assert!(world.store.is_settled());
    let sections = world.sections(A);
    let batches: u64 = sections.iter().sum();
    assert_eq!(batches, 200 * 30_000);
    let largest = sections.iter().max();
    assert!(largest.is_some_and(|largest| (900_000..=1 << 20).contains(largest)));
    let files = world.disk.files(SHARD).into_iter().filter(is_pack);
    let bytes: usize = files.map(|file| world.file_bytes(file)).sum();
    let pages = 8 * sections.len() * 4096;
    assert!(
        bytes < 200 * 30_000 + pages,
        "{bytes} bytes for {sections:?}"
    );
    world.check(1 << 20);
}

#[test]
fn times_are_found_in_packs_as_in_the_wal() {
    let mut world = World::new(3, config());
    for _ in 0..15 {
        world.produce(A, 5, 4000);
    }
    let times: Vec<(u64, i64)> = world.logs[&A]
        .batches
        .iter()
        .map(|(base, bytes)| {
            (
                *base,
                BatchHeader::parse(bytes).expect("good").max_timestamp_ms,
            )
        })
        .collect();
    assert!(world.settled > 3);
    let newest = times.last().expect("not empty").1;
    for time in [0, times[10].1, times[10].1 + 1, times[40].1, newest] {
        let expected = times
            .iter()
            .find(|(_, t)| *t >= time)
            .map(|(base, _)| *base);
        let found = world.find(A, TimePoint::AtLeast(time)).expect("readable");
        assert_eq!(base_of(&found), expected, "{time}");
    }
    let late = world.find(A, TimePoint::AtLeast(newest + 1));
    assert_eq!(base_of(&late.expect("readable")), None);
    let max = world.find(A, TimePoint::Max).expect("readable");
    assert_eq!(base_of(&max), times.last().map(|(base, _)| *base));
}

fn base_of(records: &Records) -> Option<u64> {
    assert!(records.batches.len() <= 1, "one batch at most");
    let batch = records.batches.first()?;
    Some(BatchHeader::parse(batch).expect("good").base_offset.0)
}

#[test]
fn the_largest_timestamp_is_found_wherever_it_is() {
    let mut world = World::new(4, config());
    world.produce(A, 20, 4000);
    // A clock that jumps forward for one batch, then back.
    world.ms += 1_000_000;
    world.produce(A, 1, 4000);
    let base = world.logs[&A].end - 3;
    world.ms -= 1_000_000;
    for _ in 0..10 {
        let max = world.find(A, TimePoint::Max).expect("readable");
        assert_eq!(base_of(&max), Some(base));
        world.produce(A, 5, 4000);
    }
    let start = base + 3;
    let now = world.now();
    let appended = world.store.append_log_start(now, A, Offset(start));
    appended.expect("taken");
    let max = world.find(A, TimePoint::Max).expect("readable");
    assert_eq!(base_of(&max), Some(world.logs[&A].end - 3));
}

#[test]
fn idle_data_is_settled_after_its_time() {
    let mut world = World::new(8, config());
    world.produce(A, 2, 300);
    assert_eq!(world.settled, 0);
    world.ms += 60_000;
    world.run();
    assert_eq!(world.settled, 1);
    assert!(world.store.is_settled());
    world.check(1 << 20);
    world.ms += 600_000;
    world.run();
    assert_eq!(world.settled, 1, "nothing new, nothing to settle");
}

#[test]
fn a_pass_that_fails_anywhere_is_repeated_and_loses_nothing() {
    for fault in [
        Fault::Error,
        Fault::NoSpace,
        Fault::ShortWrite,
        Fault::SyncInVain,
    ] {
        for nth in 0..12 {
            let mut world = World::new(9, config());
            world.produce(A, 9, 4000);
            world.produce(B, 9, 300);
            world.pack_fault = Some((fault, nth));
            world.produce(A, 20, 4000);
            world.ms += 200_000;
            world.run();
            assert!(!world.poisoned, "{fault:?} {nth}");
            assert!(world.settled > 0, "{fault:?} {nth}");
            let failed = u64::from(world.pack_fault.is_none());
            assert_eq!(world.store.counters().settle.discarded, failed);
            world.check(1 << 20);
            world.restart();
            world.check(1 << 20);
        }
    }
}

#[test]
fn a_power_cut_at_any_operation_leaves_everything_acknowledged() {
    let survivals = [
        Survival::Nothing,
        Survival::Everything,
        Survival::Random,
        Survival::Prefix,
    ];
    let mut settled = 0;
    for op in (0..1200).step_by(7) {
        let mut world = World::new(op, config());
        let from = world.disk.ops_started();
        world.disk.power_off_at(from + op);
        while !world.disk.is_off() {
            let acknowledged = world.logs.clone();
            world.produce(A, 1, 4000);
            world.produce(B, 2, 300);
            if world.disk.is_off() {
                world.logs = acknowledged;
            }
        }
        settled += world.settled;
        let survival = survivals[usize::try_from(op).expect("small") % survivals.len()];
        let disk = world.disk.after_power_cut(survival, op);
        world.state += 10;
        world.reopen(disk).expect("a power cut is no damage");
        // What was in doubt may be there: the log may be longer than what was acknowledged.
        for (log, model) in &world.logs {
            let status = world.store.log(*log);
            let end = status.map_or(0, |status| status.end.0);
            assert!(
                end >= model.end,
                "log {log} ends at {end}, not {}",
                model.end
            );
        }
        let ends: Vec<(PartitionId, u64)> = world.logs.iter().map(|(l, m)| (*l, m.end)).collect();
        for (log, end) in ends {
            let mut at = 0;
            while at < end {
                let request = world.request(log, at, 1 << 20);
                let records = world.read(request).expect("readable");
                let last = records
                    .batches
                    .last()
                    .expect("acknowledged batches are there");
                at = BatchHeader::parse(last).expect("good").next_offset().0;
            }
        }
    }
    assert!(settled > 100, "{settled} passes were survived");
}

#[test]
fn a_full_disk_refuses_batches_takes_deletes_and_resumes() {
    let small = StoreConfig {
        reserve_bytes: 300_000,
        disk_low_bytes: 200_000,
        ..config()
    };
    let mut world = World::new(10, small);
    world.logs.remove(&B);
    world.disk.set_capacity(5 << 20);
    world.ms += 1000;
    world.run();
    assert!(world.disk.files(SHARD).contains(&FileName::Reserve));
    let mut refused = false;
    for _ in 0..2000 {
        world.ms += 100;
        match world.append(A, 8000) {
            Ok(_) => {}
            Err(AppendError::DiskFull) => {
                refused = true;
                break;
            }
            Err(_) => world.run(),
        }
        world.turn();
    }
    assert!(refused, "the disk was filled");
    world.run();
    world.check(1 << 20);
    // State and deletes still go, and a start works with what room there is.
    let state = world.state;
    world.change_state();
    assert_eq!(world.state, state + 1);
    world.run();
    world.disk.set_capacity(world.disk.used_bytes());
    world.restart();
    world.check(1 << 20);
    let end = world.logs[&A].end;
    let now = world.now();
    let deleted = world.store.append_log_start(now, A, Offset(end));
    deleted.expect("a full disk takes deletes");
    world.model(A).start = end;
    for _ in 0..200 {
        world.ms += 1000;
        world.run();
    }
    let appended = world.append(A, 8000);
    appended.expect("there is room again");
    world.run();
    world.check(1 << 20);
    world.restart();
    world.check(1 << 20);
}

#[test]
fn a_log_that_cannot_be_settled_for_want_of_space_refuses_instead_of_waiting() {
    let small = StoreConfig {
        reserve_bytes: 0,
        disk_low_bytes: 200_000,
        ..config()
    };
    let mut world = World::new(13, small);
    world.logs.remove(&B);
    world.run();
    // The log's own files are there; a pack finds no room.
    world.disk.set_capacity(world.disk.used_bytes());
    let refused = loop {
        match world.append(A, 8000) {
            Ok(_) => world.run(),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::DiskFull);
    assert!(world.store.accepts_appends(), "producers must hear it");
    assert_eq!(world.append(A, 8000), Err(AppendError::DiskFull));
    world.disk.set_capacity(u64::MAX);
    for _ in 0..100 {
        world.ms += 1000;
        world.run();
    }
    world.append(A, 8000).expect("there is room again");
    world.run();
    world.check(1 << 20);
}

#[test]
fn a_clean_stop_gives_up_a_pass_and_leaves_nothing_behind() {
    for turns in 0..120 {
        let mut world = World::new(11, config());
        world.logs.remove(&B);
        world.produce(A, 30, 4000);
        world.run();
        while world.store.counters().commit.rolls < 3 {
            world.ms += 1;
            world.append(A, 8000).expect("there is room");
            world.turn();
        }
        for _ in 0..turns {
            world.turn();
        }
        world.stop();
        assert!(world.store.is_quiet(), "{turns}");
        let packs = world.files(is_pack) + world.files(is_segment);
        let disk = world.disk.after_power_cut(Survival::Nothing, 1);
        world.reopen(disk).expect("opens");
        let kept = world.files(is_pack) + world.files(is_segment);
        assert_eq!(packs, kept, "what was given up is gone already");
        world.check(1 << 20);
    }
}

#[test]
fn a_clean_stop_does_not_wait_for_room_on_the_disk() {
    let tight = StoreConfig {
        manifest_bytes_max: 16 << 10,
        ..config()
    };
    let mut world = World::new(14, tight);
    world.logs.remove(&B);
    world.produce(A, 200, 8000);
    world.ms += 60_000;
    world.run();
    // What dies is told to the manifest until that is full and finds no room for the next one.
    let end = world.logs[&A].end;
    for start in (0..end).step_by(6) {
        world.disk.set_capacity(world.disk.used_bytes());
        let now = world.now();
        let deleted = world.store.append_log_start(now, A, Offset(start));
        deleted.expect("a full disk takes deletes");
        world.model(A).start = start;
        world.run();
        if world.store.lacks_room() {
            break;
        }
    }
    assert!(world.store.lacks_room());
    world.stop();
    assert!(world.store.is_quiet(), "the stop ends");
    world.disk.set_capacity(u64::MAX);
    let disk = world.disk.after_power_cut(Survival::Nothing, 1);
    world.reopen(disk).expect("opens");
    world.check(1 << 20);
}

#[test]
fn a_limit_above_the_number_of_files_does_not_hold_the_log_up() {
    let patient = StoreConfig {
        settle_files_max: 100,
        ..config()
    };
    let mut world = World::new(12, patient);
    world.produce(A, 200, 8000);
    assert!(world.ms < 10_000, "nobody waited for age: {} ms", world.ms);
    assert!(world.settled > 10);
    world.check(1 << 20);
}
