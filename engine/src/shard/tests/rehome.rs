//! Starts with other core counts.

use super::*;

impl World {
    /// Stops as a crash does, and starts with `shards`.
    fn restart_with(&mut self, shards: u16) {
        self.config.shards = shards;
        self.power_cut();
    }

    /// Appends the next batch of an idempotent producer to each partition.
    fn append_round(&mut self, partitions: &[PartitionId], round: i32) {
        for (at, partition) in partitions.iter().enumerate() {
            let shard = u16::try_from(at % self.shards.len()).expect("a few shards");
            let batch = BatchMaker::new(1).producer(3, 0, round);
            let appended = self.append(shard, *partition, &batch).expect("taken");
            assert_eq!(
                appended.base_offset,
                Offset(u64::from(round.unsigned_abs()))
            );
        }
    }

    /// Every partition holds `rounds` batches, and the last of them is known as such.
    fn check_rounds(&mut self, partitions: &[PartitionId], rounds: i32) {
        for partition in partitions {
            let expected: Vec<u64> = (0..).take(rounds as usize).collect();
            assert_eq!(self.read_all(0, *partition), expected, "{partition}");
            let last = BatchMaker::new(1).producer(3, 0, rounds - 1);
            let again = self.append(0, *partition, &last).expect("known");
            assert_eq!(
                again.base_offset,
                Offset(u64::from((rounds - 1).unsigned_abs()))
            );
        }
    }
}

#[test]
fn what_was_written_with_other_core_counts_is_all_there() {
    let mut world = World::new(1);
    let mut partitions = world.create("a", 3);
    let mut round = 0;
    world.append_round(&partitions, round);
    round += 1;
    for (shards, name) in [(2, "b"), (4, "c"), (1, "d"), (3, "e"), (2, "f")] {
        world.restart_with(shards);
        world.check_rounds(&partitions, round);
        world.append_round(&partitions, round);
        round += 1;
        // A topic created late catches up with the others.
        let new = world.create(name, 3);
        for catch_up in 0..round {
            world.append_round(&new, catch_up);
        }
        partitions.extend(&new);
    }
    for shard in &world.shards {
        let own = shard.catalog().homed(shard.id()).count();
        assert!(own >= 4, "partitions spread: {own}");
    }
    world.restart_with(2);
    world.check_rounds(&partitions, round);
}

#[test]
fn a_move_killed_at_any_disk_operation_is_done_again() {
    let mut before = World::new(3);
    let partitions = before.create("t", 6);
    for round in 0..3 {
        before.append_round(&partitions, round);
    }
    before.power_cut();
    before.append_round(&partitions, 3);
    let disk = before.disk.after_power_cut(Survival::Nothing, 3);
    let mut completed = false;
    let mut stop = 0;
    while !completed {
        assert!(stop < 5_000, "the move ends");
        let mut world = World::new(1);
        world.disk = disk.after_power_cut(Survival::Nothing, stop);
        world.directories = 3;
        let start = world.disk.ops_started();
        world.disk.power_off_at(start + stop);
        completed = world.try_start().is_ok();
        world.disk = world.disk.after_power_cut(Survival::Random, stop);
        // Whether it goes on with as few cores or with the old number: nothing is missing.
        world.restart_with(if stop % 2 == 0 { 1 } else { 3 });
        world.check_rounds(&partitions, 4);
        world.restart_with(2);
        world.check_rounds(&partitions, 4);
        world.append_round(&partitions, 4);
        stop += 1;
    }
    assert!(stop > 40, "the move takes many operations");
}
