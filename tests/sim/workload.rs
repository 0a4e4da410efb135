//! What a shard does with its store in one turn, drawn at random.

use millrace_storage::error::{AppendError, ReadError};
use millrace_storage::record::{Batch, stamp};
use millrace_storage::testing::{Dice, Stream};
use millrace_storage::units::{BootTime, LeaderEpoch, Offset, PartitionId};
use millrace_storage::{Append, ReadOutcome, ReadRequest, Records, StoreEvent};

use crate::batches::batch;
use crate::failure::{Checked, ensure};
use crate::machine::{Machine, SHARD};
use crate::oracle::Entry;
use crate::setup::Setup;

/// Sizes and frequencies of one run.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// Most appends in a turn.
    pub(crate) appends_max: u64,
    /// Most bytes of values in an ordinary batch.
    pub(crate) value_bytes_max: u64,
    /// One append in so many is of `large_bytes`, more than a commit buffer holds.
    pub(crate) large_one_in: u32,
    pub(crate) large_bytes: usize,
    /// One append in so many is a state event instead.
    pub(crate) state_one_in: u32,
    /// One turn in so many deletes records.
    pub(crate) delete_one_in: u32,
    /// One turn in so many reads.
    pub(crate) read_one_in: u32,
    /// One turn in so many is followed by a pause long enough for every timer.
    pub(crate) idle_one_in: u32,
}

impl Workload {
    /// A workload drawn from `dice`, small enough for thousands of runs.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        Self {
            appends_max: dice.between(1, 6),
            value_bytes_max: *dice.pick(&[40, 600, 3_000, 9_000]),
            large_one_in: *dice.pick(&[0, 12, 40]),
            large_bytes: usize::try_from(dice.between(17_000, 40_000)).expect("small"),
            state_one_in: *dice.pick(&[0, 4, 9]),
            delete_one_in: *dice.pick(&[0, 0, 30]),
            read_one_in: *dice.pick(&[1, 3, 8]),
            idle_one_in: *dice.pick(&[4, 12, 40]),
        }
    }
}

impl Machine {
    /// One turn of a shard: appends, closes the group, hands out I/O, completes some of it.
    pub(crate) fn turn(&mut self, workload: &Workload, dice: &mut Dice) -> Checked<()> {
        let ops_before = self.disk.ops_started();
        self.pass_time(workload, dice);
        for _ in 0..dice.below(workload.appends_max + 1) {
            if self.store.accepts_appends() {
                self.append_something(workload, dice)?;
            }
        }
        if dice.one_in(workload.delete_one_in) {
            self.delete_something(dice)?;
        }
        if dice.one_in(workload.read_one_in) {
            self.read_something(dice)?;
        }
        self.store.close_group(self.now);
        self.hand_out();
        for _ in 0..dice.below(4) {
            self.complete_one()?;
        }
        let is_idle = self.disk.ops_started() == ops_before;
        self.idle_turns = if is_idle { self.idle_turns + 1 } else { 0 };
        self.check_turn()
    }

    /// Nothing has happened for long: the log is full.
    pub(crate) fn is_stuck(&self) -> bool {
        self.idle_turns > 100
    }

    fn pass_time(&mut self, workload: &Workload, dice: &mut Dice) {
        let idle = dice.one_in(workload.idle_one_in);
        let nanoseconds = if idle {
            2_000_000_000
        } else {
            dice.between(1_000, 400_000)
        };
        self.advance(nanoseconds);
    }

    /// Moves the clock and lets due timers run.
    pub(crate) fn advance(&mut self, nanoseconds: u64) {
        self.now.boot = BootTime(self.now.boot.0 + nanoseconds);
        self.now.wall_ms += i64::try_from(nanoseconds / 1_000_000).expect("small steps");
        if self
            .store
            .poll_timeout()
            .is_some_and(|due| due <= self.now.boot)
        {
            self.store.handle_timeout(self.now);
        }
    }

    fn append_something(&mut self, workload: &Workload, dice: &mut Dice) -> Checked<()> {
        self.next_id += 1;
        if dice.one_in(workload.state_one_in) {
            let bytes = vec![self.next_id.to_le_bytes()[0]; dice.between(0, 200) as usize];
            return self.append_state(bytes);
        }
        let partition = PartitionId(dice.below(u64::from(self.partitions)) as u32);
        let large = dice.one_in(workload.large_one_in);
        let value_bytes = if large {
            workload.large_bytes
        } else {
            dice.between(12, workload.value_bytes_max) as usize
        };
        let records = dice.between(1, 5) as u32;
        self.append_batch(partition, records, value_bytes)
    }

    fn append_state(&mut self, bytes: Vec<u8>) -> Checked<()> {
        let key = self.next_id;
        match self.store.append_state(self.now, key, &bytes) {
            Ok(lsn) => self.oracle.append(lsn, Entry::State { key, bytes }),
            Err(error) => self.check_refusal(error),
        }
    }

    /// Appends one batch, if the store takes it.
    pub(crate) fn append_batch(
        &mut self,
        partition: PartitionId,
        records: u32,
        value_bytes: usize,
    ) -> Checked<()> {
        let mut bytes = batch(self.next_id, records, value_bytes, self.now.wall_ms);
        let base = self.oracle.next(partition);
        let append = Append {
            partition,
            base_offset: base,
            leader_epoch: LeaderEpoch(0),
            append_time_ms: None,
            batch: Batch::check(&bytes).expect("a good batch"),
        };
        match self.store.append(self.now, append) {
            Ok(lsn) => {
                stamp(&mut bytes, base, LeaderEpoch(0), None);
                let next = base + u64::from(records);
                self.oracle.append(
                    lsn,
                    Entry::Batch {
                        partition,
                        base,
                        next,
                        bytes,
                    },
                )
            }
            Err(error) => self.check_refusal(error),
        }
    }

    fn check_refusal(&self, error: AppendError) -> Checked<()> {
        match error {
            AppendError::WalFull => Ok(()),
            AppendError::DiskFull => {
                ensure!(
                    self.disk.fault_counts().total() > 0,
                    "the disk is said to be full"
                );
                Ok(())
            }
            AppendError::TooLarge { bytes, bytes_max } => {
                ensure!(
                    bytes > bytes_max,
                    "{bytes} bytes are too large for {bytes_max}"
                );
                Ok(())
            }
            AppendError::Poisoned => {
                ensure!(
                    self.store.is_poisoned().is_some(),
                    "poisoned without saying so"
                );
                Ok(())
            }
        }
    }

    /// Deletes the records of some partition up to a batch border.
    fn delete_something(&mut self, dice: &mut Dice) -> Checked<()> {
        let partition = PartitionId(dice.below(u64::from(self.partitions)) as u32);
        let visible = self.oracle.visible();
        let borders: Vec<Offset> = self
            .oracle
            .batches(partition, visible)
            .map(|(_, next, _)| next)
            .collect();
        if borders.is_empty() {
            return Ok(());
        }
        let offset = *dice.pick(&borders);
        match self.store.append_log_start(self.now, partition, offset) {
            Ok(lsn) => self
                .oracle
                .append(lsn, Entry::LogStart { partition, offset }),
            Err(error) => self.check_refusal(error),
        }
    }

    fn read_something(&mut self, dice: &mut Dice) -> Checked<()> {
        let partition = PartitionId(dice.below(u64::from(self.partitions)) as u32);
        let end = self.oracle.visible_end(partition);
        let Some(status) = self.store.log(partition) else {
            return Ok(());
        };
        if status.start >= end {
            return Ok(());
        }
        let from = Offset(dice.between(status.start.0, end.0 - 1));
        let ticket = self.ticket();
        let bytes_max = dice.between(1, 20_000) as usize;
        let request = ReadRequest {
            ticket,
            partition,
            from,
            end,
            bytes_max,
        };
        match self.store.read(self.now, request) {
            ReadOutcome::Ready(records) => self.check_read(partition, from, records),
            ReadOutcome::Pending => {
                self.reads.push((ticket, partition, from));
                Ok(())
            }
        }
    }

    fn check_read(
        &self,
        partition: PartitionId,
        from: Offset,
        records: Result<Records, ReadError>,
    ) -> Checked<()> {
        match records {
            Ok(records) => self
                .check_records(partition, from, &records.batches)
                .map(|_| ()),
            // Deleted between the question and the answer.
            Err(ReadError::OutOfRange) => {
                let start = self.oracle.asked_start(partition);
                ensure!(
                    from < start,
                    "partition {partition}: {from} is out of range"
                );
                Ok(())
            }
            Err(error) => {
                let faults = self.disk.fault_counts().total();
                ensure!(faults > 0, "partition {partition} at {from}: {error}");
                Ok(())
            }
        }
    }

    /// Gives the disk what the store wants done.
    pub(crate) fn hand_out(&mut self) {
        while let Some(op) = self.store.poll_disk() {
            self.disk.submit(SHARD, op);
        }
    }

    /// Completes one operation and takes what follows from it. False when there was none.
    pub(crate) fn complete_one(&mut self) -> Checked<bool> {
        let Some((_, done)) = self.disk.complete_one() else {
            return Ok(false);
        };
        self.store.handle_disk(self.now, done);
        self.drain_events();
        while let Some((ticket, records)) = self.store.poll_read() {
            let at = self
                .reads
                .iter()
                .position(|(waiting, _, _)| *waiting == ticket);
            ensure!(at.is_some(), "a read came back that nobody asked for");
            let (_, partition, from) = self.reads.swap_remove(at.expect("found"));
            self.check_read(partition, from, records)?;
        }
        self.check_turn()?;
        Ok(true)
    }

    fn drain_events(&mut self) {
        while let Some(event) = self.store.poll_event() {
            match event {
                StoreEvent::WantsSnapshot => {
                    let state = self.oracle.state().encode();
                    self.store.provide_snapshot(self.now, state);
                }
                StoreEvent::Settled { .. } => self.settles += 1,
                _ => {}
            }
        }
    }

    /// The rules that hold at every moment.
    pub(crate) fn check_turn(&mut self) -> Checked<()> {
        let durable = self.store.durable_lsn();
        ensure!(
            durable >= self.durable,
            "durable LSN went from {} to {durable}",
            self.durable
        );
        ensure!(
            durable <= self.store.append_lsn(),
            "durable LSN {durable} beyond the end"
        );
        self.durable = durable;
        if let Some(at) = self.poisoned_at {
            ensure!(
                durable == at,
                "acknowledged up to {durable} after the failure at {at}"
            );
        } else if self.store.is_poisoned().is_some() {
            self.poisoned_at = Some(durable);
        }
        self.oracle.acknowledge(durable);
        Ok(())
    }

    /// Turns until the disk has begun `ios` more operations, or the store is poisoned.
    pub(crate) fn run_ios(&mut self, setup: &Setup, ios: u64) -> Checked<()> {
        let mut dice = Dice::new(setup.seed ^ self.now.boot.0, Stream::Workload);
        let end = self.disk.ops_started() + ios;
        while self.disk.ops_started() < end && self.store.is_poisoned().is_none() {
            self.turn(&setup.workload, &mut dice)?;
            if self.is_stuck() {
                break;
            }
        }
        Ok(())
    }

    /// An append is taken and becomes durable, now that nothing fails any more.
    pub(crate) fn prove_alive(&mut self) -> Checked<()> {
        let before = self.oracle.len();
        for _ in 0..200 {
            if self.oracle.len() == before {
                self.next_id += 1;
                self.append_batch(PartitionId(0), 1, 100)?;
            } else if self.oracle.visible() == self.oracle.len() {
                return Ok(());
            }
            self.store.close_group(self.now);
            self.hand_out();
            while self.complete_one()? {
                self.hand_out();
            }
            self.advance(20_000_000);
        }
        ensure!(
            self.oracle.len() > before && self.oracle.visible() == self.oracle.len(),
            "no append became durable any more\n{}",
            self.disk.trace()
        );
        Ok(())
    }

    /// Appends and closes groups without completing any, until no more go out.
    pub(crate) fn fill_flight(&mut self, setup: &Setup) -> Checked<()> {
        for group in 0..setup.config.groups_in_flight_max as u64 {
            if self.store.accepts_appends() {
                self.next_id += 1;
                let partition = PartitionId((group % u64::from(self.partitions)) as u32);
                self.append_batch(partition, 1, 100)?;
            }
            self.store.close_group(self.now);
            self.hand_out();
        }
        Ok(())
    }

    /// Lets everything come to rest: all I/O completed, all timers run, `pause` long.
    pub(crate) fn come_to_rest(&mut self) -> Checked<()> {
        for _ in 0..64 {
            for _ in 0..8 {
                self.store.close_group(self.now);
                self.hand_out();
                let in_flight = self.disk.in_flight();
                for _ in 0..in_flight {
                    self.complete_one()?;
                }
                if in_flight == 0 {
                    break;
                }
            }
            self.advance(5_000_000);
        }
        Ok(())
    }
}
