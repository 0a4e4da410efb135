//! Deleting the first records of a partition, and what stops do to that.

use super::*;

impl World {
    fn submit_delete(&mut self, shard: u16, partition: PartitionId, keep_from: u64) -> u64 {
        let keep_from = Some(Offset(keep_from));
        let delete = Command::DeleteRecords {
            partition,
            keep_from,
        };
        self.submit(shard, delete)
    }

    /// Deletes what is below `keep_from`, and tells where the partition begins.
    pub(super) fn delete(
        &mut self,
        shard: u16,
        partition: PartitionId,
        keep_from: Option<u64>,
    ) -> Result<u64, Refusal> {
        let keep_from = keep_from.map(Offset);
        let delete = Command::DeleteRecords {
            partition,
            keep_from,
        };
        match self.ask(shard, delete) {
            Ok(Outcome::RecordsDeleted(start)) => Ok(start.0),
            Err(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// The partition holds `start` up to `end`, exclusive: everybody says so.
    pub(super) fn check_range(&mut self, partition: PartitionId, start: u64, end: u64) {
        let earliest = self.find(0, partition, OffsetQuery::Earliest);
        assert_eq!(earliest.map(|found| found.offset), Some(Offset(start)));
        if let Some(below) = start.checked_sub(1) {
            let refused = Refusal::OffsetOutOfRange {
                first: Offset(start),
                next: Offset(end),
            };
            assert_eq!(self.read(0, partition, below).err(), Some(refused));
        }
        let fetched = self.read(0, partition, start).expect("held");
        assert_eq!(fetched.log_start, Offset(start));
        assert_eq!(fetched.high_watermark, Offset(end));
        let expected: Vec<u64> = (start..end).collect();
        assert_eq!(bases(&fetched), expected);
    }

    fn append_ones(&mut self, partition: PartitionId, count: u64) {
        for _ in 0..count {
            assert!(self.append(0, partition, &BatchMaker::new(1)).is_ok());
        }
    }
}

#[test]
fn records_are_deleted_up_to_an_offset_or_all_that_are_readable() {
    let mut world = World::new(2);
    for partition in world.create("t", 2) {
        world.append_ones(partition, 6);
        assert_eq!(world.delete(0, partition, Some(2)), Ok(2));
        world.check_range(partition, 2, 6);
        assert_eq!(world.delete(1, partition, Some(1)), Ok(2), "never back");
        let beyond = Refusal::OffsetOutOfRange {
            first: Offset(2),
            next: Offset(6),
        };
        assert_eq!(world.delete(0, partition, Some(7)), Err(beyond));
        assert_eq!(world.delete(1, partition, None), Ok(6));
        world.check_range(partition, 6, 6);
        world.append_ones(partition, 1);
        world.check_range(partition, 6, 7);
        world.power_cut();
        world.check_range(partition, 6, 7);
    }
    let nowhere = world.delete(0, PartitionId(77), Some(0));
    assert_eq!(nowhere, Err(Refusal::UnknownPartition));
}

#[test]
fn a_deletion_in_the_middle_of_a_batch_keeps_the_batch_and_hides_its_front() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    assert!(world.append(0, partition, &BatchMaker::new(4)).is_ok());
    assert_eq!(world.delete(0, partition, Some(2)), Ok(2));
    let fetched = world.read(0, partition, 2).expect("held");
    assert_eq!((bases(&fetched), fetched.log_start), (vec![0], Offset(2)));
    assert!(world.read(0, partition, 1).is_err());
}

#[test]
fn nothing_is_promised_before_it_is_durable_and_nothing_promised_is_undone() {
    for stop in 0..40 {
        let mut world = World::new(1);
        let partition = world.create("t", 1)[0];
        world.append_ones(partition, 5);
        let started = world.disk.ops_started();
        world.disk.power_off_at(started + stop);
        // The second one changes nothing, but is not to be heard before the first one stays.
        let asked = [4, 3].map(|keep_from| world.submit_delete(0, partition, keep_from));
        world.turn();
        for sequence in asked {
            let early = world.ended(sequence);
            assert!(early.is_none(), "{early:?} before anything was written");
        }
        world.run();
        let ends = asked.map(|sequence| world.ended(sequence));
        let promised = ends.iter().any(|end| matches!(end, Some(Ok(_))));
        world.power_cut();
        let found = world.find(0, partition, OffsetQuery::Earliest);
        let found = found.expect("there").offset.0;
        assert!(
            found == 4 || !promised && found == 0,
            "stop {stop}: {found}"
        );
        world.check_range(partition, found, 5);
    }
}

#[test]
fn a_deletion_after_retention_is_promised_by_the_log_itself() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    world.append_ones(partition, 5);
    // As retention does it: nothing in the log says so yet.
    let found = world.shards[0].partitions.get_mut(&partition);
    found.expect("homed here").raise_log_start(Offset(3));
    assert_eq!(world.delete(0, partition, Some(2)), Ok(3));
    world.power_cut();
    world.check_range(partition, 3, 5);
}

#[test]
fn a_deletion_outlives_settling_and_moves_with_the_partition() {
    let mut world = World::new(2);
    let partitions = world.create("t", 4);
    for partition in &partitions {
        world.append_ones(*partition, 5);
        assert_eq!(world.delete(1, *partition, Some(3)), Ok(3));
    }
    let emptied = partitions[3];
    assert_eq!(world.delete(0, emptied, None), Ok(5));
    for shards in [2, 1, 3, 1] {
        // Long enough for everything to be settled.
        for _ in 0..100 {
            world.pass_ms(1_000);
        }
        world.config.shards = shards;
        world.power_cut();
        for partition in &partitions {
            let start = if *partition == emptied { 5 } else { 3 };
            world.check_range(*partition, start, 5);
        }
    }
    world.append_ones(emptied, 1);
    world.check_range(emptied, 5, 6);
}

#[test]
fn what_is_too_old_is_gone_to_the_last_and_the_offsets_go_on() {
    let mut world = World::new(2);
    let config = [("retention.ms", "10000")];
    for partition in world.create_with("t", 2, &config) {
        for sequence in 0..5 {
            let batch = BatchMaker::new(1).producer(9, 0, sequence);
            assert!(world.append(0, partition, &batch).is_ok());
        }
    }
    let partitions = world.partitions("t");
    // Long enough for everything to be settled.
    for _ in 0..100 {
        world.pass_ms(1_000);
    }
    for shards in [2, 1, 3] {
        world.config.shards = shards;
        world.power_cut();
        for partition in &partitions {
            world.check_range(*partition, 5, 5);
            assert_eq!(world.bytes_of(*partition), 0);
        }
    }
    for partition in &partitions {
        let again = world.append(0, *partition, &BatchMaker::new(1).producer(9, 0, 4));
        assert_eq!(again.map(|known| known.base_offset), Ok(Offset(4)));
        let next = world.append(0, *partition, &BatchMaker::new(1).producer(9, 0, 5));
        assert_eq!(next.map(|new| new.base_offset), Ok(Offset(5)));
        world.check_range(*partition, 5, 6);
    }
}

#[test]
fn what_was_deleted_counts_no_more() {
    let mut world = World::new(2);
    for partition in world.create("t", 2) {
        let batch = BatchMaker::new(1).attributes(1).payload(vec![7; 20 << 10]);
        for _ in 0..6 {
            assert!(world.append(0, partition, &batch).is_ok());
        }
        let before = world.bytes_of(partition);
        assert!(before > 120 << 10, "{before}");
        assert_eq!(world.delete(0, partition, Some(5)), Ok(5));
        let after = world.bytes_of(partition);
        assert!(after < 24 << 10, "{after}");
        assert_eq!(world.delete(0, partition, None), Ok(6));
        assert_eq!(world.bytes_of(partition), 0);
    }
}

impl World {
    /// What the partition takes, as its home says.
    fn bytes_of(&mut self, partition: PartitionId) -> u64 {
        let place = self.shards[0].catalog().place(partition);
        let home = place.expect("in the catalog").home;
        match self.ask(0, Command::MeasureLogs { home }) {
            Ok(Outcome::LogsMeasured(sizes)) => {
                let own = sizes.partitions.iter().find(|(id, _)| *id == partition);
                own.expect("homed there").1
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn producers_are_listed_with_their_last_batch_after_every_kind_of_start() {
    let mut world = World::new(2);
    let partition = world.create("t", 1)[0];
    let batches = [
        BatchMaker::new(3).producer(9, 0, 0),
        BatchMaker::new(2).producer(9, 1, 0),
        BatchMaker::new(1).producer(4, 0, 0).timestamps(-1, -1),
        BatchMaker::new(1),
    ];
    for batch in &batches {
        assert!(world.append(1, partition, batch).is_ok());
    }
    let listing = |id, epoch, last_sequence, last_timestamp_ms| ProducerListing {
        id,
        epoch,
        last_sequence,
        last_timestamp_ms,
    };
    let expected = [listing(4, 0, 0, None), listing(9, 1, 1, Some(WALL_MS))];
    for shards in [2, 1] {
        assert_eq!(world.producers_of(partition), expected);
        world.power_cut();
        assert_eq!(world.producers_of(partition), expected, "from the log");
        for _ in 0..100 {
            world.pass_ms(1_000);
        }
        world.config.shards = shards;
        world.power_cut();
        assert_eq!(world.producers_of(partition), expected, "from a snapshot");
    }
}

impl World {
    fn producers_of(&mut self, partition: PartitionId) -> Vec<ProducerListing> {
        match self.ask(0, Command::ListProducers { partition }) {
            Ok(Outcome::ProducersListed(listed)) => listed,
            other => panic!("{other:?}"),
        }
    }
}
