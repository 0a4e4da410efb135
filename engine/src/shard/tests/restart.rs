//! Starts: from packs and snapshots, after every kind of stop.

use millrace_storage::LossRange;
use millrace_storage::disk::FileName;
use millrace_storage::error::StorageError;
use millrace_storage::manifest;
use millrace_storage::units::{LeaderEpoch, Lsn};

use super::*;

/// An append large enough that a few fill a WAL file.
fn large(producer: i64, sequence: i32) -> BatchMaker {
    BatchMaker::new(1)
        .attributes(1)
        .payload(vec![7; 20 << 10])
        .producer(producer, 0, sequence)
}

fn counter(world: &World, shard: usize, name: &str) -> u64 {
    let counters = world.shards[shard].report().counters;
    let found = counters.iter().find(|(counter, _)| *counter == name);
    found.expect("a counter of that name").1
}

#[test]
fn settled_state_and_data_are_found_again() {
    const BATCHES: i32 = 80;
    let mut world = World::new(2);
    let partitions = world.create("t", 2);
    for sequence in 0..BATCHES {
        for partition in &partitions {
            let appended = world.append(0, *partition, &large(5, sequence));
            let offset = Offset(u64::from(sequence.unsigned_abs()));
            assert_eq!(appended.map(|one| one.base_offset), Ok(offset));
        }
        world.pass_ms(100);
    }
    for shard in 0..2 {
        assert!(
            counter(&world, shard, "snapshots") > 0,
            "shard {shard} settled"
        );
    }
    let cluster = world.shards[0].catalog().cluster_id();
    for _ in 0..2 {
        world.power_cut();
        assert_eq!(world.shards[0].catalog().cluster_id(), cluster);
        for partition in &partitions {
            let all: Vec<u64> = (0..).take(BATCHES as usize).collect();
            assert_eq!(world.read_all(1, *partition), all);
            // The last five batches are known, wherever they lie.
            for sequence in BATCHES - 5..BATCHES {
                let again = world.append(1, *partition, &large(5, sequence));
                let offset = Offset(u64::from(sequence.unsigned_abs()));
                assert_eq!(again.map(|one| one.base_offset), Ok(offset));
            }
            let forgotten = world.append(1, *partition, &large(5, 2));
            assert_eq!(forgotten, Err(Refusal::DuplicateSequence));
        }
    }
    for partition in partitions {
        let next = world
            .append(0, partition, &large(5, BATCHES))
            .expect("the next");
        assert_eq!(next.base_offset, Offset(u64::from(BATCHES.unsigned_abs())));
    }
}

#[test]
fn a_stop_at_any_disk_operation_loses_nothing_acknowledged() {
    // Topics are created, appended to and deleted while the power may go at any moment.
    for stop in (0..120).step_by(3) {
        let mut world = World::new(2);
        let start = world.disk.ops_started();
        world.disk.power_off_at(start + stop);
        let mut acknowledged: BTreeMap<PartitionId, u64> = BTreeMap::new();
        let created = world.try_create("t", 2);
        for step in 0..6 {
            for partition in &created {
                let batch = BatchMaker::new(1).producer(7, 0, step).bytes();
                let batch = batch.as_slice();
                let partition = *partition;
                let sequence = world.submit(0, Command::Append { partition, batch });
                world.run();
                if let Some(Ok(Outcome::Appended(appended))) = world.ended(sequence) {
                    acknowledged.insert(partition, appended.base_offset.0 + 1);
                }
            }
        }
        world.power_cut();
        for (partition, end) in &acknowledged {
            let held = world.read_all(1, *partition);
            let expected: Vec<u64> = (0..*end).collect();
            assert!(
                held.starts_with(&expected),
                "stop {stop}: {held:?} lacks some of {end}"
            );
        }
        if !created.is_empty() {
            assert_eq!(world.partitions("t"), created, "an answered creation stays");
        }
    }
}

impl World {
    /// Creates a topic unless the machine stops first; its partitions if that was answered.
    fn try_create(&mut self, name: &str, partitions: u32) -> Vec<PartitionId> {
        let topic = NewTopic {
            name: name.to_owned(),
            partitions: Some(partitions),
            homes: Vec::new(),
            config: Vec::new(),
        };
        let request = CatalogRequest::CreateTopics {
            topics: vec![topic],
            validate_only: false,
        };
        let sequence = self.submit(0, Command::WriteCatalog(request));
        self.run();
        match self.ended(sequence) {
            Some(Ok(_)) => self.partitions(name),
            _ => Vec::new(),
        }
    }
}

#[test]
fn producers_idle_at_a_restart_get_their_whole_time_again() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    assert!(
        world
            .append(0, partition, &BatchMaker::new(1).producer(9, 0, 0))
            .is_ok()
    );
    world.now.boot = world.now.boot.after_ms(23 * 60 * 60 * 1_000);
    world.power_cut();
    world.pass_ms(2 * 60 * 60 * 1_000);
    assert!(
        world
            .append(0, partition, &BatchMaker::new(1).producer(9, 0, 1))
            .is_ok()
    );
}

#[test]
fn an_accepted_loss_jumps_offsets_once_and_raises_the_epoch() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    for round in 0..12 {
        let appended = world
            .append(0, partition, &BatchMaker::new(1))
            .expect("taken");
        assert_eq!(appended.base_offset, Offset(round));
        world.pass_ms(20); // Long enough for the log to note what is durable.
    }
    // Each append was a block of its own, a page long: damage the header of one in the middle.
    world.disk = world.disk.after_power_cut(Survival::Nothing, 3);
    world
        .disk
        .damage(ShardId(0), FileName::Wal(0), 4_096 * 10 + 8, &[0xff; 8]);
    let (from, to) = match world.try_start() {
        Err(refusal) => {
            let said = refusal.to_string();
            assert!(said.contains("can be read: t)"), "{said}");
            refused_range(refusal)
        }
        Ok(()) => panic!("damage refuses the start"),
    };
    world.config.accept_loss = vec![(ShardId(0), LossRange { from, to })];
    world.start();
    world.config.accept_loss.clear();

    let held = world.read_prefix(partition);
    assert!(held.iter().copied().eq(0..held.len() as u64), "{held:?}");
    assert!(
        !held.is_empty() && held.len() < 12,
        "some of it is lost: {held:?}"
    );
    let next = world
        .append(0, partition, &BatchMaker::new(1))
        .expect("taken");
    assert!(
        next.base_offset > Offset(12),
        "no offset that was given out comes again"
    );
    let (from, epoch) = (next.base_offset, LeaderEpoch(1));
    for _ in 0..2 {
        let topic = world.shards[0].catalog().topic("t").expect("there");
        assert_eq!(
            topic.partitions[0].leader_epoch, epoch,
            "metadata tells of it"
        );
        let mut fetch = world.wanted(&[(partition, from.0)], 0);
        fetch.partitions[0].leader_epoch = Some(LeaderEpoch(0));
        assert_eq!(
            world.fetch(0, fetch.clone())[0].result.as_ref().err(),
            Some(&Refusal::FencedLeaderEpoch { current: epoch })
        );
        fetch.partitions[0].leader_epoch = Some(epoch);
        let found = world.fetch(0, fetch).remove(0).result.expect("held");
        assert_eq!(bases(&found), [from.0]);
        // A later start does not jump again.
        world.power_cut();
    }
    let after = world
        .append(0, partition, &BatchMaker::new(1))
        .expect("taken");
    assert_eq!(after.base_offset, from + 1);
    world.check_epochs(partition, (LeaderEpoch(0), epoch));
    // A reader that stands before the gap comes across it.
    let behind = world.read(0, partition, held.len() as u64).expect("held");
    assert_eq!(bases(&behind)[0], from.0);
}

impl World {
    /// What is found goes with the epoch of its own record.
    fn check_epochs(&mut self, partition: PartitionId, (first, last): (LeaderEpoch, LeaderEpoch)) {
        for (at, epoch) in [
            (OffsetQuery::Earliest, first),
            (OffsetQuery::AtOrAfter(0), first),
            (OffsetQuery::Latest, last),
        ] {
            let found = self.find(0, partition, at).expect("there");
            assert_eq!(found.leader_epoch, epoch, "{at:?}");
        }
    }
}

#[test]
fn a_loss_accepted_by_a_start_that_did_not_get_to_its_end_is_not_forgotten() {
    let mut world = World::new(2);
    let partitions = world.create("t", 2);
    let mut next: u64 = 0;
    for _ in 0..40 {
        for partition in &partitions {
            let appended = world.append(0, *partition, &large(-1, -1));
            assert_eq!(appended.map(|one| one.base_offset), Ok(Offset(next)));
        }
        next += 1;
        world.pass_ms(100);
    }
    for shard in 0..2 {
        assert!(counter(&world, shard, "snapshots") > 0);
    }
    let moved = world.shards[0].catalog().next_partition();
    // What is not settled stands at the beginning of the log, and the first block of it is bad.
    world.disk = world.disk.after_power_cut(Survival::Nothing, 3);
    for shard in [0, 1].map(ShardId) {
        for file in world.disk.files(shard) {
            if matches!(file, FileName::Wal(_)) {
                world.disk.damage(shard, file, 4_096 + 8, &[0xff; 8]);
            }
        }
    }
    for shard in [0, 1].map(ShardId) {
        let (of, range) = match world.try_start() {
            Err(OpenError::Quarantine {
                error:
                    StorageError::Quarantine {
                        shard, from, to, ..
                    },
                ..
            }) => (shard, LossRange { from, to }),
            other => panic!("damage refuses the start: {other:?}"),
        };
        assert_eq!(of, shard, "the loss before counts");
        // The start of shard 1 is tried without the word for shard 0, which did what it said.
        world.config.accept_loss = vec![(of, range)];
    }
    world.start();
    world.config.accept_loss.clear();
    for _ in 0..2 {
        for partition in &partitions {
            let appended = world.append(0, *partition, &BatchMaker::new(1));
            let appended = appended.expect("taken");
            assert!(appended.base_offset > Offset(next), "given out before");
            let fenced = Some(&Refusal::FencedLeaderEpoch {
                current: LeaderEpoch(1),
            });
            let mut fetch = world.wanted(&[(*partition, appended.base_offset.0)], 0);
            fetch.partitions[0].leader_epoch = Some(LeaderEpoch(0));
            assert_eq!(world.fetch(0, fetch)[0].result.as_ref().err(), fenced);
        }
        assert!(
            world.shards[0].catalog().next_partition() > moved,
            "no id is given again"
        );
        world.power_cut();
    }
}

#[test]
fn a_lost_log_file_counts_as_far_as_the_snapshot_knows_of_it() {
    let mut world = World::new(2);
    let shard = ShardId(1);
    let partitions = world.create("t", 2);
    let homed: Vec<PartitionId> = world.shards[1].catalog().homed(shard).collect();
    let partition = partitions.into_iter().find(|id| homed.contains(id));
    let partition = partition.expect("each shard has one");
    let mut acknowledged = 0;
    while world.oldest_log_file(shard).1 == Lsn(0) {
        let appended = world.append(0, partition, &large(5, acknowledged));
        appended.expect("taken");
        acknowledged += 1;
        world.pass_ms(20);
    }
    world.disk = world.disk.after_power_cut(Survival::Nothing, 3);
    let (current, settled) = world.oldest_log_file(shard);
    world.disk.lose(shard, current);
    let (from, to) = match world.try_start() {
        Err(refusal) => refused_range(refusal),
        Ok(()) => panic!("damage refuses the start"),
    };
    assert_eq!(from, settled);
    world.config.accept_loss = vec![(shard, LossRange { from, to })];
    world.start();
    world.config.accept_loss.clear();

    let given_out = Offset(u64::from(acknowledged.unsigned_abs()));
    let next = world.append(0, partition, &BatchMaker::new(1));
    let next = next.expect("taken").base_offset;
    assert!(next >= given_out, "{next} was given out: {given_out} were");
    let mut fetch = world.wanted(&[(partition, next.0)], 0);
    fetch.partitions[0].leader_epoch = Some(LeaderEpoch(0));
    let current = LeaderEpoch(1);
    assert_eq!(
        world.fetch(0, fetch)[0].result.as_ref().err(),
        Some(&Refusal::FencedLeaderEpoch { current })
    );
    // What is acknowledged from now on is found by the next start.
    let batch = BatchMaker::new(1).producer(77, 0, 0);
    let first = world.append(0, partition, &batch).expect("taken");
    world.power_cut();
    let again = world.append(0, partition, &batch).expect("known");
    assert_eq!(again.base_offset, first.base_offset);
}

#[test]
fn what_a_loss_took_can_be_deleted_as_well() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    for _ in 0..12 {
        let taken = world.append(0, partition, &BatchMaker::new(1));
        assert!(taken.is_ok());
        world.pass_ms(20);
    }
    let (from, to) = world.damage_last_blocks();
    world.config.accept_loss = vec![(ShardId(0), LossRange { from, to })];
    world.start();
    world.config.accept_loss.clear();
    let end = world.find(0, partition, OffsetQuery::Latest);
    let end = end.expect("there").offset.0;
    assert!(end > 12, "past all that may have been given out: {end}");
    assert_eq!(world.delete(0, partition, None), Ok(end));
    world.check_range(partition, end, end);
    world.power_cut();
    world.check_range(partition, end, end);
    let next = world.append(0, partition, &BatchMaker::new(1));
    assert_eq!(next.expect("taken").base_offset, Offset(end));
}

#[test]
fn state_larger_than_the_largest_entry_stops_no_start() {
    // The smallest that can be configured.
    let mut world = World::new(2);
    assert_eq!(world.config.store.batch_bytes_max, 64 << 10);
    let partitions: Vec<PartitionId> = ["t", "u", "v"]
        .iter()
        .flat_map(|topic| world.create(topic, 3_000))
        .collect();
    for round in 0..12 {
        let appended = world.append(0, partitions[0], &BatchMaker::new(1));
        assert_eq!(appended.map(|one| one.base_offset), Ok(Offset(round)));
        world.pass_ms(20);
    }
    // All partitions move to the only shard left: their states are one large entry.
    world.config.shards = 1;
    world.power_cut();
    assert_eq!(world.read_all(0, partitions[0]).len(), 12);
    // A loss raises the epoch of each: another large entry.
    for _ in 0..3 {
        world
            .append(0, partitions[0], &BatchMaker::new(1))
            .expect("taken");
        world.pass_ms(20);
    }
    world.disk = world.disk.after_power_cut(Survival::Nothing, 3);
    let (from, to) = world.damage_last_blocks();
    world.config.accept_loss = vec![(ShardId(0), LossRange { from, to })];
    world.start();
    world.config.accept_loss.clear();
    for _ in 0..2 {
        let catalog = world.shards[0].catalog();
        for topic in ["t", "u", "v"] {
            let topic = catalog.topic(topic).expect("there");
            let mut epochs = topic.partitions.iter().map(|one| one.leader_epoch);
            assert!(epochs.all(|epoch| epoch == LeaderEpoch(1)));
        }
        world.power_cut();
    }
}

fn refused_range(refusal: OpenError) -> (Lsn, Lsn) {
    match refusal {
        OpenError::Quarantine {
            error: StorageError::Quarantine { from, to, .. },
            ..
        } => (from, to),
        other => panic!("{other}"),
    }
}

impl World {
    /// Damages the last block but one or two of shard 0's log, and says what a start refuses then.
    pub(super) fn damage_last_blocks(&mut self) -> (Lsn, Lsn) {
        let whole = self.disk.after_power_cut(Survival::Nothing, 3);
        let files = whole.files(ShardId(0)).into_iter();
        let logs = files.filter(|file| matches!(file, FileName::Wal(_)));
        for (file, page) in logs.flat_map(|file| (1..64).rev().map(move |page| (file, page))) {
            self.disk
                .damage(ShardId(0), file, page * 4_096 + 8, &[0xff; 8]);
            match self.try_start() {
                Err(refusal) => return refused_range(refusal),
                Ok(()) => self.disk = whole.after_power_cut(Survival::Nothing, 3),
            }
        }
        panic!("no block of the log was acknowledged");
    }

    /// The log file that the manifest of `shard` names, and where what is settled ends.
    fn oldest_log_file(&self, shard: ShardId) -> (FileName, Lsn) {
        let files = self.disk.files(shard).into_iter();
        let numbers = files.filter_map(|file| match file {
            FileName::Manifest(number) => Some(number),
            _ => None,
        });
        let number = numbers.max().expect("a store has a manifest");
        let bytes = self.disk.contents(shard, FileName::Manifest(number));
        let bytes = bytes.expect("listed");
        let state = manifest::read_state(shard, number, &bytes).expect("whole");
        (FileName::Wal(state.chain_start.slot), state.settled_lsn)
    }

    /// Base offsets of what a partition holds up to the first gap.
    fn read_prefix(&mut self, partition: PartitionId) -> Vec<u64> {
        let mut all = Vec::new();
        loop {
            let fetched = self.read(0, partition, all.len() as u64).expect("held");
            if fetched.batches.is_empty() {
                return all;
            }
            all.extend(bases(&fetched));
        }
    }
}
