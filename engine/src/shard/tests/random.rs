//! Random worlds: any order of disk completions, mesh deliveries and turns, power cuts, other core
//! counts; what was acknowledged or seen stays as it was. One seed replays a run.

use std::collections::{BTreeMap, VecDeque};

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;
use crate::mesh::{Lane, MeshMessage};

/// What the world must keep to.
#[derive(Default)]
struct Oracle {
    /// Appends under way: what each would store where.
    asked: BTreeMap<u64, (PartitionId, i64)>,
    /// Batches that were acknowledged or read, by partition and base offset. Never changed.
    fixed: BTreeMap<(PartitionId, u64), i64>,
    /// Those of them that were acknowledged.
    acknowledged: Vec<(PartitionId, u64)>,
    /// The number of the next batch: its base timestamp less [`WALL_MS`].
    next_batch: i64,
}

impl Oracle {
    fn fix(&mut self, partition: PartitionId, offset: u64, batch: i64) {
        let before = *self.fixed.entry((partition, offset)).or_insert(batch);
        assert_eq!(before, batch, "{partition} at {offset} changed");
    }

    fn take(&mut self, sequence: u64, outcome: Result<Outcome, Refusal>) {
        let asked = self.asked.remove(&sequence);
        match outcome {
            Ok(Outcome::Appended(appended)) => {
                let (partition, batch) = asked.expect("it was asked for");
                self.fix(partition, appended.base_offset.0, batch);
                self.acknowledged.push((partition, appended.base_offset.0));
            }
            Ok(Outcome::Fetched(partitions)) => {
                for found in partitions {
                    let Ok(fetched) = found.result else { continue };
                    for batch in &fetched.batches {
                        let header = BatchHeader::parse(batch).expect("a whole batch");
                        assert!(header.next_offset() <= fetched.high_watermark);
                        let number = header.base_timestamp_ms - WALL_MS;
                        self.fix(found.partition, header.base_offset.0, number);
                    }
                }
            }
            _ => {}
        }
    }
}

/// A world whose mesh delivers when it likes.
struct Chaos {
    world: World,
    oracle: Oracle,
    random: Pcg64Mcg,
    /// Messages on their way: each queue is in order.
    mesh: BTreeMap<(u16, u16, bool), VecDeque<MeshMessage>>,
    partitions: Vec<PartitionId>,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut world = World::new(2);
        world.disk = SimDisk::new(seed);
        world.start();
        let partitions = world.create("t", 5);
        Self {
            world,
            oracle: Oracle::default(),
            random: Pcg64Mcg::seed_from_u64(seed),
            mesh: BTreeMap::new(),
            partitions,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.next_u64() as usize % bound
    }

    fn step(&mut self) {
        match self.below(100) {
            0..25 => self.append(),
            25..35 => self.fetch(),
            35..60 => drop(self.world.disk_step()),
            60..80 => self.deliver(),
            80..97 => self.end_turn(),
            97 => self.pass_time(),
            _ if self.below(12) == 0 => self.restart(),
            _ => {}
        }
    }

    fn append(&mut self) {
        let shard = self.below(self.world.shards.len());
        let at = self.below(self.partitions.len());
        let records = 1 + self.below(3) as u32;
        let partition = self.partitions[at];
        let number = self.oracle.next_batch;
        self.oracle.next_batch += 1;
        let stamp = WALL_MS + number;
        let bytes = BatchMaker::new(records).timestamps(stamp, stamp).bytes();
        let batch = bytes.as_slice();
        let shard = u16::try_from(shard).expect("few shards");
        let sequence = self
            .world
            .submit(shard, Command::Append { partition, batch });
        self.oracle.asked.insert(sequence, (partition, number));
    }

    fn fetch(&mut self) {
        let shard = u16::try_from(self.below(self.world.shards.len())).expect("few shards");
        let mut wanted = Vec::new();
        for partition in self.partitions.clone() {
            if self.below(2) == 0 {
                let last = self
                    .oracle
                    .fixed
                    .range((partition, 0)..(partition, u64::MAX))
                    .last();
                let end = last.map_or(0, |((_, offset), _)| *offset);
                wanted.push((partition, self.below(end as usize + 1) as u64));
            }
        }
        let mut fetch = self.world.wanted(&wanted, 40);
        fetch.bytes_min = self.below(3_000);
        fetch.bytes_max = 1 + self.below(5_000);
        self.world.submit(shard, Command::Fetch(fetch));
    }

    fn end_turn(&mut self) {
        let at = self.below(self.world.shards.len());
        let now = self.world.now;
        let shard = &mut self.world.shards[at];
        shard.end_turn(now);
        let from = shard.id().0;
        while let Some((to, message)) = shard.poll_mesh() {
            let way = (from, to.0, message.lane() == Lane::Replies);
            self.mesh.entry(way).or_default().push_back(message);
        }
        while let Some(op) = shard.poll_job() {
            shard.handle_job(now, jobs::perform(op));
        }
        while let Some(Event { request, outcome }) = shard.poll_event() {
            self.oracle.take(request.sequence, outcome);
        }
    }

    fn deliver(&mut self) {
        let ways: Vec<(u16, u16, bool)> = self.mesh.keys().copied().collect();
        if ways.is_empty() {
            return;
        }
        let way = ways[self.below(ways.len())];
        let queue = self.mesh.get_mut(&way).expect("listed");
        let message = queue.pop_front().expect("no queue is empty");
        if queue.is_empty() {
            self.mesh.remove(&way);
        }
        let to = &mut self.world.shards[usize::from(way.1)];
        to.handle_mesh(self.world.now, ShardId(way.0), message);
    }

    fn pass_time(&mut self) {
        let ms = self.below(60) as u64;
        self.world.now.boot = self.world.now.boot.after_ms(ms);
        for shard in &mut self.world.shards {
            shard.handle_timeout(self.world.now);
        }
    }

    /// Pulls the plug and goes on with some number of shards.
    fn restart(&mut self) {
        let seed = self.random.next_u64();
        self.mesh.clear();
        self.oracle.asked.clear();
        self.world.disk = self.world.disk.after_power_cut(Survival::Random, seed);
        self.world.config.shards = 1 + self.below(4) as u16;
        self.world.start();
    }

    /// Stops the chaos and looks whether everything is there.
    fn finish(mut self) {
        self.restart();
        self.world.ended.clear();
        let mut seen: BTreeMap<i64, (PartitionId, u64)> = BTreeMap::new();
        for partition in self.partitions.clone() {
            let held = self.world.read_batches(0, partition);
            for (offset, stamp) in held {
                let number = stamp - WALL_MS;
                self.oracle.fix(partition, offset, number);
                let twice = seen.insert(number, (partition, offset));
                assert!(twice.is_none(), "batch {number} is stored twice");
            }
        }
        for at in &self.oracle.acknowledged {
            let number = self.oracle.fixed[at];
            assert_eq!(
                seen.get(&number),
                Some(at),
                "an acknowledged batch is there"
            );
        }
    }
}

impl World {
    /// Base offset and base timestamp of every batch that a partition holds.
    fn read_batches(&mut self, shard: u16, partition: PartitionId) -> Vec<(u64, i64)> {
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            let fetched = self.read(shard, partition, from).expect("held");
            for batch in &fetched.batches {
                let header = BatchHeader::parse(batch).expect("a whole batch");
                all.push((header.base_offset.0, header.base_timestamp_ms));
                from = header.next_offset().0;
            }
            if fetched.batches.is_empty() {
                assert_eq!(Offset(from), fetched.high_watermark, "read to the end");
                return all;
            }
        }
    }
}

/// Raise `ENGINE_SEEDS` in the environment for more than `cargo test` has time for.
#[test]
fn what_was_acknowledged_or_seen_stays_in_any_order_of_events() {
    let seeds = std::env::var("ENGINE_SEEDS").map_or(30, |text| text.parse().expect("a count"));
    let first = std::env::var("ENGINE_SEED").map_or(0, |text| text.parse().expect("a seed"));
    let mut acknowledged = 0;
    for seed in first..first + seeds {
        let attempt = std::panic::catch_unwind(|| {
            let mut chaos = Chaos::new(seed);
            for _ in 0..1_500 {
                chaos.step();
            }
            let acknowledged = chaos.oracle.acknowledged.len();
            chaos.finish();
            acknowledged
        });
        acknowledged += attempt.unwrap_or_else(|_| panic!("seed {seed}: ENGINE_SEED={seed}"));
    }
    assert!(
        acknowledged > seeds as usize * 20,
        "the worlds did something: {acknowledged}"
    );
}
