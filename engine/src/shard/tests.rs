//! Shards at work on a simulated disk, with the mesh delivered by hand.

mod catalog;
mod deletes;
mod fetches;
mod groups;
mod lost_catalog;
mod presence;
mod produce;
mod random;
mod rehome;
mod restart;

use std::cell::RefCell;
use std::collections::BTreeMap;

use millrace_storage::StoreConfig;
use millrace_storage::record::BatchHeader;
use millrace_storage::testing::{SimDisk, Survival};
use millrace_storage::units::{BootTime, Now, Offset, PartitionId, ShardId};

use super::Shard;
use crate::command::{
    CatalogRequest, Command, ConnectionId, FetchPartition, FetchRequest, Isolation, NewTopic,
    OffsetQuery, RequestId,
};
use crate::event::{
    Appended, Event, Fetched, FetchedPartition, FoundOffset, Outcome, ProducerListing, Refusal,
};
use crate::jobs;
use crate::limits::EngineConfig;
use crate::start::{OpenError, ShardDirectory, StartConfig, open_all};
use crate::testing::{BatchMaker, WALL_MS};

/// A broker's shards, their disk and their clock.
struct World {
    shards: Vec<Shard>,
    disk: SimDisk,
    config: StartConfig,
    now: Now,
    /// Shards that ever ran.
    directories: u16,
    sequence: u64,
    ended: BTreeMap<u64, Result<Outcome, Refusal>>,
}

impl World {
    fn new(shards: u16) -> Self {
        Self::with(shards, EngineConfig::default())
    }

    fn with(shards: u16, engine: EngineConfig) -> Self {
        let store = StoreConfig {
            wal_file_bytes: 256 << 10,
            wal_files: 8,
            commit_buffer_bytes: 32 << 10,
            batch_bytes_max: 64 << 10,
            ..StoreConfig::default()
        };
        let config = StartConfig {
            shards,
            engine,
            store,
            owner: None,
            accept_loss: Vec::new(),
            seed: 1,
        };
        let now = Now {
            boot: BootTime(1_000_000_000),
            wall_ms: WALL_MS,
        };
        let mut world = Self {
            shards: Vec::new(),
            disk: SimDisk::new(7),
            config,
            now,
            directories: 0,
            sequence: 0,
            ended: BTreeMap::new(),
        };
        world.start();
        world
    }

    fn start(&mut self) {
        self.try_start().expect("opens");
    }

    fn try_start(&mut self) -> Result<(), OpenError> {
        self.config.seed += 1;
        self.directories = self.directories.max(self.config.shards);
        let disk = &RefCell::new(&mut self.disk);
        let ids = (0..self.directories).map(ShardId);
        let directories = ids.map(|shard| ShardDirectory {
            shard,
            disk: Box::new(move |op| disk.borrow_mut().run(shard, op)),
        });
        self.shards = open_all(&self.config, self.now, directories.collect())?;
        Ok(())
    }

    /// Pulls the plug, and starts again from what the disk kept.
    fn power_cut(&mut self) {
        self.disk = self.disk.after_power_cut(Survival::Nothing, 3);
        self.ended.clear();
        self.start();
    }

    /// Submits to `shard` and returns the number to ask the end by.
    fn submit(&mut self, shard: u16, command: Command<'_>) -> u64 {
        self.sequence += 1;
        let request = self.request(shard, self.sequence);
        self.shards[usize::from(shard)].submit(self.now, request, command);
        self.sequence
    }

    fn request(&self, shard: u16, sequence: u64) -> RequestId {
        RequestId {
            origin: ShardId(shard),
            connection: ConnectionId { slot: 4, life: 0 },
            sequence,
        }
    }

    /// Everything but the disk runs until nothing moves.
    fn turn(&mut self) {
        loop {
            let mut moved = false;
            for at in 0..self.shards.len() {
                self.shards[at].end_turn(self.now);
                let from = self.shards[at].id();
                while let Some((to, message)) = self.shards[at].poll_mesh() {
                    moved = true;
                    let to = &mut self.shards[usize::from(to.0)];
                    to.handle_mesh(self.now, from, message);
                }
                while let Some(op) = self.shards[at].poll_job() {
                    moved = true;
                    self.shards[at].handle_job(self.now, jobs::perform(op));
                }
                while let Some(Event { request, outcome }) = self.shards[at].poll_event() {
                    let before = self.ended.insert(request.sequence, outcome);
                    assert!(before.is_none(), "a request ends once");
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Performs one disk operation, whichever.
    fn disk_step(&mut self) -> bool {
        for shard in &mut self.shards {
            while let Some(op) = shard.poll_disk() {
                self.disk.submit(shard.id(), op);
            }
        }
        let Some((shard, done)) = self.disk.complete_one() else {
            return false;
        };
        self.shards[usize::from(shard.0)].handle_disk(self.now, done);
        true
    }

    /// Runs until nothing moves.
    fn run(&mut self) {
        loop {
            self.turn();
            if !self.disk_step() {
                return;
            }
        }
    }

    /// Lets time pass, then runs.
    fn pass_ms(&mut self, ms: u64) {
        self.now.boot = self.now.boot.after_ms(ms);
        self.now.wall_ms += i64::try_from(ms).expect("a short while");
        for shard in &mut self.shards {
            shard.handle_timeout(self.now);
        }
        self.run();
    }

    fn ended(&mut self, sequence: u64) -> Option<Result<Outcome, Refusal>> {
        self.ended.remove(&sequence)
    }

    /// Submits, runs, and returns the end.
    fn ask(&mut self, shard: u16, command: Command<'_>) -> Result<Outcome, Refusal> {
        let sequence = self.submit(shard, command);
        self.run();
        self.ended(sequence).expect("the request ended")
    }

    fn create(&mut self, name: &str, partitions: u32) -> Vec<PartitionId> {
        self.create_with(name, partitions, &[])
    }

    fn create_with(
        &mut self,
        name: &str,
        partitions: u32,
        config: &[(&str, &str)],
    ) -> Vec<PartitionId> {
        let config = config.iter();
        let topic = NewTopic {
            name: name.to_owned(),
            partitions: Some(partitions),
            homes: Vec::new(),
            config: config
                .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())))
                .collect(),
        };
        let request = CatalogRequest::CreateTopics {
            topics: vec![topic],
            validate_only: false,
        };
        match self.ask(0, Command::WriteCatalog(request)) {
            Ok(Outcome::CatalogWritten(answers)) => assert!(answers[0].is_ok(), "{answers:?}"),
            other => panic!("{other:?}"),
        }
        self.partitions(name)
    }

    fn partitions(&self, name: &str) -> Vec<PartitionId> {
        let topic = self.shards[0].catalog().topic(name).expect("exists");
        topic.partitions.iter().map(|one| one.id).collect()
    }

    fn append(
        &mut self,
        shard: u16,
        partition: PartitionId,
        batch: &BatchMaker,
    ) -> Result<Appended, Refusal> {
        let batch = batch.bytes();
        let batch = batch.as_slice();
        match self.ask(shard, Command::Append { partition, batch }) {
            Ok(Outcome::Appended(appended)) => Ok(appended),
            Err(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    fn fetch(&mut self, shard: u16, fetch: FetchRequest) -> Vec<FetchedPartition> {
        match self.ask(shard, Command::Fetch(fetch)) {
            Ok(Outcome::Fetched(partitions)) => partitions,
            other => panic!("{other:?}"),
        }
    }

    /// Everything that a partition holds from `from` on, without waiting.
    fn read(&mut self, shard: u16, partition: PartitionId, from: u64) -> Result<Fetched, Refusal> {
        let fetch = self.wanted(&[(partition, from)], 0);
        let answer = self.fetch(shard, fetch);
        answer.into_iter().next().expect("one partition").result
    }

    /// Base offsets of everything that a partition holds, in as many fetches as it takes.
    fn read_all(&mut self, shard: u16, partition: PartitionId) -> Vec<u64> {
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            let fetched = self.read(shard, partition, from).expect("held");
            all.extend(bases(&fetched));
            let Some(last) = fetched.batches.last() else {
                assert_eq!(Offset(from), fetched.high_watermark, "read to the end");
                return all;
            };
            let header = BatchHeader::parse(last).expect("a whole batch");
            from = header.next_offset().0;
        }
    }

    fn wanted(&self, partitions: &[(PartitionId, u64)], wait_ms: u64) -> FetchRequest {
        let wanted = |(partition, from): &(PartitionId, u64)| FetchPartition {
            partition: *partition,
            from: Offset(*from),
            bytes_max: 1 << 20,
            leader_epoch: None,
        };
        FetchRequest {
            partitions: partitions.iter().map(wanted).collect(),
            bytes_min: 1,
            bytes_max: 1 << 20,
            deadline: self.now.boot.after_ms(wait_ms),
            isolation: Isolation::Uncommitted,
        }
    }

    fn find(&mut self, shard: u16, partition: PartitionId, at: OffsetQuery) -> Option<FoundOffset> {
        let command = Command::FindOffset {
            partition,
            at,
            isolation: Isolation::Uncommitted,
        };
        match self.ask(shard, command) {
            Ok(Outcome::OffsetFound(found)) => found,
            other => panic!("{other:?}"),
        }
    }
}

/// Base offsets of fetched batches.
fn bases(fetched: &Fetched) -> Vec<u64> {
    let base = |batch: &bytes::Bytes| {
        u64::from_be_bytes(*batch.first_chunk().expect("a batch begins with its offset"))
    };
    fetched.batches.iter().map(base).collect()
}
