//! One store on a simulated disk, driven turn by turn as a shard drives it.

use millrace_storage::error::{ReadError, StorageError};
use millrace_storage::testing::SimDisk;
use millrace_storage::units::{Lsn, Now, Offset, PartitionId, ShardId};
use millrace_storage::{
    LogConfig, ReadOutcome, ReadRequest, ReadTicket, Replayed, Store, StoreConfig,
};

use crate::failure::{Checked, Failure, ensure};
use crate::oracle::{EngineState, Entry, Oracle};

pub(crate) const SHARD: ShardId = ShardId(0);

/// A store, the disk under it, and what must be true of them.
pub(crate) struct Machine {
    pub(crate) disk: SimDisk,
    pub(crate) store: Store,
    pub(crate) oracle: Oracle,
    pub(crate) now: Now,
    pub(crate) partitions: u32,
    /// Highest durable LSN seen in this life.
    pub(crate) durable: Lsn,
    /// `durable` when the store was first seen poisoned: it must stay there.
    pub(crate) poisoned_at: Option<Lsn>,
    /// Reads under way: what each asked for.
    pub(crate) reads: Vec<(ReadTicket, PartitionId, Offset)>,
    next_ticket: u64,
    pub(crate) next_id: u64,
    /// Settle passes that ended.
    pub(crate) settles: u64,
    /// Turns in a row without any I/O.
    pub(crate) idle_turns: u64,
}

impl Machine {
    /// Starts a machine on `disk` and checks what it found against `oracle`. A refusal to start is
    /// the inner error.
    pub(crate) fn start(
        mut disk: SimDisk,
        mut oracle: Oracle,
        config: StoreConfig,
        partitions: u32,
        now: Now,
    ) -> Checked<Result<Self, (SimDisk, StorageError)>> {
        let mut replay = Replay::new(&oracle);
        let opened = {
            let mut blocking = disk.blocking(SHARD);
            Store::open(config, now, &mut *blocking, &mut |entry| {
                replay.take(&entry)
            })
        };
        let found = replay.finish()?;
        let store = match opened {
            Ok(store) => store,
            Err(error) => return Ok(Err((disk, error))),
        };
        let count = oracle.check_state(&found)?;
        oracle.resume(count);
        let mut machine = Self {
            durable: store.durable_lsn(),
            disk,
            store,
            oracle,
            now,
            partitions,
            poisoned_at: None,
            reads: Vec::new(),
            next_ticket: 0,
            next_id: now.boot.0,
            settles: 0,
            idle_turns: 0,
        };
        for partition in (0..partitions).map(PartitionId) {
            machine.store.create_log(partition, LogConfig::default());
        }
        Ok(Ok(machine))
    }

    /// Reads every partition from its start and compares it with the oracle.
    pub(crate) fn check_contents(&mut self) -> Checked<()> {
        self.check_contents_with(|_| false).map(|_| ())
    }

    /// The same, but what `is_honest` calls an honest error is counted instead: the reader knows
    /// that something is missing.
    pub(crate) fn check_contents_with(
        &mut self,
        is_honest: impl Fn(&ReadError) -> bool,
    ) -> Checked<u64> {
        let mut errors = 0;
        for partition in (0..self.partitions).map(PartitionId) {
            let visible = self.oracle.visible();
            let end = self.oracle.visible_end(partition);
            let start = self.oracle.log_start(partition, visible);
            let Some(status) = self.store.log(partition) else {
                return Err(Failure(format!("partition {partition} is gone")));
            };
            ensure!(
                status.end >= end,
                "partition {partition} ends at {}, not {end}",
                status.end
            );
            let asked = self.oracle.asked_start(partition);
            ensure!(
                status.start >= start && status.start <= asked,
                "partition {partition} starts at {}, not between {start} and {asked}",
                status.start
            );
            let mut from = status.start;
            while from < end {
                match self.read_to_the_end(partition, from, end)? {
                    Ok(next) => from = next,
                    Err(error) if is_honest(&error) => {
                        errors += 1;
                        break;
                    }
                    Err(error) => {
                        return Err(Failure(format!("partition {partition} at {from}: {error}")));
                    }
                }
            }
        }
        Ok(errors)
    }

    /// One read, with the disk driven until it ends; the offset after what it gave.
    fn read_to_the_end(
        &mut self,
        partition: PartitionId,
        from: Offset,
        end: Offset,
    ) -> Checked<Result<Offset, ReadError>> {
        let ticket = self.ticket();
        let request = ReadRequest {
            ticket,
            partition,
            from,
            end,
            bytes_max: 1 << 16,
        };
        let records = match self.store.read(self.now, request) {
            ReadOutcome::Ready(records) => records,
            ReadOutcome::Pending => loop {
                self.hand_out();
                if let Some((done, records)) = self.store.poll_read() {
                    ensure!(done == ticket, "a read came back that nobody asked for");
                    break records;
                }
                let Some((_, done)) = self.disk.complete_one() else {
                    return Err(Failure("a read waits for nothing".to_owned()));
                };
                self.store.handle_disk(self.now, done);
            },
        };
        match records {
            Ok(records) => self
                .check_records(partition, from, &records.batches)
                .map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    pub(crate) fn ticket(&mut self) -> ReadTicket {
        self.next_ticket += 1;
        ReadTicket(self.next_ticket)
    }

    /// Compares what a read from `from` gave with what was written; returns the offset after it.
    pub(crate) fn check_records(
        &self,
        partition: PartitionId,
        from: Offset,
        found: &[bytes::Bytes],
    ) -> Checked<Offset> {
        let visible = self.oracle.visible();
        let written = self.oracle.batches(partition, visible);
        let mut written = written.skip_while(|(_, next, _)| *next <= from);
        let mut end = from;
        ensure!(
            !found.is_empty(),
            "partition {partition}: nothing at {from}"
        );
        for found in found {
            // One piece may hold several batches: contiguous as they lie in a pack.
            let mut rest: &[u8] = found;
            while !rest.is_empty() {
                let Some((_, next, bytes)) = written.next() else {
                    return Err(Failure(format!(
                        "partition {partition}: records beyond the end at {end}"
                    )));
                };
                ensure!(
                    rest.starts_with(bytes),
                    "partition {partition}: other bytes at {end} than were written"
                );
                rest = &rest[bytes.len()..];
                end = next;
            }
        }
        Ok(end)
    }
}

/// Takes what a store replays, and compares it with the oracle as it comes.
struct Replay<'a> {
    oracle: &'a Oracle,
    state: EngineState,
    as_of: Lsn,
    last: Lsn,
    failure: Option<Failure>,
}

impl<'a> Replay<'a> {
    fn new(oracle: &'a Oracle) -> Self {
        Self {
            oracle,
            state: EngineState::default(),
            as_of: Lsn(0),
            last: Lsn(0),
            failure: None,
        }
    }

    fn take(&mut self, entry: &Replayed<'_>) {
        if self.failure.is_none() {
            self.failure = self.check(entry).err();
        }
    }

    fn check(&mut self, replayed: &Replayed<'_>) -> Checked<()> {
        if let Replayed::Snapshot { as_of, bytes } = replayed {
            self.as_of = *as_of;
            self.state = EngineState::decode(bytes)?;
            return Ok(());
        }
        let (lsn, entry) = entry_of(replayed)?;
        ensure!(
            lsn > self.last,
            "replay went from LSN {} back to {lsn}",
            self.last
        );
        self.last = lsn;
        if lsn <= self.as_of {
            return Ok(());
        }
        let index = usize::try_from(self.state.entries).unwrap_or(usize::MAX);
        match self.oracle.get(index) {
            None => return Err(Failure(format!("entry {index} was never written"))),
            Some((written_lsn, written)) => {
                ensure!(
                    *written == entry,
                    "entry {index} came back as {}",
                    brief(&entry)
                );
                ensure!(
                    *written_lsn == lsn,
                    "entry {index} of LSN {written_lsn} came back at {lsn}"
                );
            }
        }
        self.state.apply(&entry);
        Ok(())
    }

    fn finish(self) -> Checked<EngineState> {
        match self.failure {
            None => Ok(self.state),
            Some(failure) => Err(failure),
        }
    }
}

/// What was replayed, with the address after it.
fn entry_of(replayed: &Replayed<'_>) -> Checked<(Lsn, Entry)> {
    match *replayed {
        Replayed::Batch {
            lsn,
            partition,
            ref header,
            bytes,
        } => {
            let entry = Entry::Batch {
                partition,
                base: header.base_offset,
                next: header.next_offset(),
                bytes: bytes.to_vec(),
            };
            Ok((lsn, entry))
        }
        Replayed::State { lsn, key, bytes } => {
            let bytes = bytes.to_vec();
            Ok((lsn, Entry::State { key, bytes }))
        }
        Replayed::LogStart {
            lsn,
            partition,
            offset,
        } => Ok((lsn, Entry::LogStart { partition, offset })),
        Replayed::Snapshot { as_of, .. } => {
            Err(Failure(format!("a second snapshot, of LSN {as_of}")))
        }
        Replayed::LossAccepted { from, to } => Err(Failure(format!(
            "a loss from {from} to {to} was accepted by nobody"
        ))),
    }
}

fn brief(entry: &Entry) -> String {
    match entry {
        Entry::Batch {
            partition,
            base,
            next,
            bytes,
        } => {
            format!(
                "records {base} to {next} of partition {partition}, {} bytes",
                bytes.len()
            )
        }
        Entry::State { key, bytes } => format!("state {key}, {} bytes", bytes.len()),
        Entry::LogStart { partition, offset } => format!("start {offset} of partition {partition}"),
    }
}
