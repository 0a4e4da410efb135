//! Starts over directories that went missing, or that are another broker's.

use millrace_storage::buf::AlignedBuf;
use millrace_storage::disk::{DiskOp, DiskToken, FileName, WriteSync};
use millrace_storage::units::{FilePosition, LeaderEpoch};
use millrace_storage::{LossRange, Tenancy};

use super::*;

/// A topic with a partition for each shard and three records in each, and a power cut.
fn stopped(shards: u16) -> (World, Vec<PartitionId>) {
    let mut world = World::new(shards);
    let partitions = world.create("t", u32::from(shards));
    for _ in 0..3 {
        for partition in &partitions {
            assert!(world.append(0, *partition, &BatchMaker::new(1)).is_ok());
        }
    }
    world.disk = world.disk.after_power_cut(Survival::Nothing, 3);
    (world, partitions)
}

impl World {
    /// Empties a shard's directory: its disk was not mounted.
    fn lose_shard(&mut self, shard: u16) {
        for file in self.disk.files(ShardId(shard)) {
            self.disk.lose(ShardId(shard), file);
        }
    }

    fn home(&self, partition: PartitionId) -> ShardId {
        let place = self.shards[0].catalog().place(partition);
        place.expect("in the catalog").home
    }

    /// The start names the shard as lost, and changes nothing anywhere.
    fn expect_lost(&mut self, shard: u16) {
        let files = |disk: &SimDisk| -> Vec<Vec<FileName>> {
            (0..4).map(|at| disk.files(ShardId(at))).collect()
        };
        let before = files(&self.disk);
        match self.try_start() {
            Err(OpenError::Lost { shard: named, .. }) => assert_eq!(named, ShardId(shard)),
            other => panic!("a lost directory refuses the start: {other:?}"),
        }
        if shard == 0 {
            assert_eq!(files(&self.disk), before);
        }
        assert!(self.disk.files(ShardId(shard)).is_empty());
    }

    fn give_up(&mut self, shard: u16) {
        self.config.accept_loss = vec![(ShardId(shard), LossRange::WHOLE)];
    }
}

#[test]
fn without_shard_0_nothing_is_thrown_away() {
    let (mut world, partitions) = stopped(2);
    let complete = world.disk.after_power_cut(Survival::Nothing, 1);
    world.lose_shard(0);
    world.expect_lost(0);
    world.give_up(0);
    world.expect_lost(0);
    // The disk is mounted again.
    world.disk = complete;
    world.start();
    for partition in partitions {
        assert_eq!(world.read_all(1, partition), [0, 1, 2]);
    }
}

#[test]
fn a_lost_directory_that_has_partitions_refuses_whether_or_not_its_shard_runs() {
    let (mut world, partitions) = stopped(2);
    world.start();
    let lost = world.home(partitions[1]);
    assert_eq!(lost, ShardId(1), "partitions spread");
    world.disk = world.disk.after_power_cut(Survival::Nothing, 4);
    world.lose_shard(1);
    world.expect_lost(1);
    world.config.shards = 1;
    world.expect_lost(1);
    // The directory itself is gone.
    world.directories = 1;
    world.expect_lost(1);
    world.config.shards = 3;
    world.expect_lost(1);
}

#[test]
fn a_directory_that_holds_nothing_may_go() {
    let (mut world, partitions) = stopped(2);
    world.config.shards = 1;
    world.start();
    world.disk = world.disk.after_power_cut(Survival::Nothing, 4);
    world.lose_shard(1);
    world.config.shards = 2;
    world.start();
    for partition in partitions {
        assert_eq!(world.read_all(1, partition), [0, 1, 2]);
    }
}

#[test]
fn a_given_up_directory_begins_again_where_no_offset_was() {
    for shards in [2, 1] {
        let (mut world, partitions) = stopped(2);
        world.lose_shard(1);
        world.config.shards = shards;
        world.give_up(1);
        world.start();
        world.config.accept_loss.clear();
        for _ in 0..2 {
            assert_eq!(world.read_all(0, partitions[0]), [0, 1, 2]);
            let topic = world.shards[0].catalog().topic("t").expect("there");
            let epoch = topic.partitions[1].leader_epoch;
            assert!(epoch > LeaderEpoch(1_000_000), "{epoch:?}");
            world.power_cut();
        }
        let appended = world.append(0, partitions[1], &BatchMaker::new(1));
        let first = appended.expect("taken").base_offset;
        assert!(first > Offset(1 << 50), "{first}");
        world.power_cut();
        // A reader that stands where records were comes across the gap.
        let behind = world.read(0, partitions[1], 2).expect("held");
        assert_eq!(bases(&behind), [first.0]);
        // The next such loss goes on beyond this one.
        world.disk = world.disk.after_power_cut(Survival::Nothing, 4);
        if shards == 2 {
            world.now.wall_ms += 60_000;
            world.lose_shard(1);
            world.expect_lost(1);
            world.give_up(1);
            world.start();
            let again = world.append(0, partitions[1], &BatchMaker::new(1));
            assert!(again.expect("taken").base_offset > first);
        }
    }
}

#[test]
fn giving_up_killed_at_any_disk_operation_is_done_again() {
    let (mut before, partitions) = stopped(2);
    before.lose_shard(1);
    before.give_up(1);
    let mut completed = false;
    let mut stop = 0;
    while !completed {
        let (mut world, _) = stopped(2);
        world.disk = before.disk.after_power_cut(Survival::Nothing, stop);
        let start = world.disk.ops_started();
        world.disk.power_off_at(start + stop);
        world.give_up(1);
        completed = world.try_start().is_ok();
        world.disk = world.disk.after_power_cut(Survival::Random, stop);
        world.start();
        let appended = world.append(0, partitions[1], &BatchMaker::new(1));
        assert!(appended.expect("taken").base_offset > Offset(1 << 50));
        stop += 1;
    }
    assert!(stop > 20, "it takes many operations");
}

#[test]
fn a_first_start_killed_at_any_disk_operation_is_followed_by_one() {
    let mut completed = false;
    let mut stop = 0;
    while !completed {
        let mut world = World::new(3);
        world.disk = SimDisk::new(stop);
        world.disk.power_off_at(stop);
        completed = world.try_start().is_ok();
        let survival = [Survival::Nothing, Survival::Random][usize::from(stop % 2 == 0)];
        world.disk = world.disk.after_power_cut(survival, stop);
        world.start();
        let partitions = world.create("t", 3);
        assert!(world.append(2, partitions[0], &BatchMaker::new(1)).is_ok());
        stop += 1;
    }
    assert!(stop > 30, "a first start takes many operations");
}

#[test]
fn another_brokers_directory_is_named_as_such() {
    let (mut world, _) = stopped(2);
    let (own, _) = stopped(2);
    let mut other = World::new(2);
    other.config.seed = 77;
    other.disk = SimDisk::new(9);
    other.start();
    world.lose_shard(1);
    copy(&other.disk, &mut world.disk, ShardId(1));
    let complaint = world.try_start().expect_err("two brokers").to_string();
    let (expected, found) = (cluster(&own), cluster(&other));
    assert_ne!(expected, found);
    assert!(complaint.starts_with("shard 1: "), "{complaint}");
    assert!(
        complaint.contains(&expected) && complaint.contains(&found),
        "{complaint}"
    );
}

fn cluster(world: &World) -> String {
    world.shards[0].catalog().cluster_id()
}

/// Copies a shard's directory from one machine's disk to another's.
fn copy(from: &SimDisk, to: &mut SimDisk, shard: ShardId) {
    let mut tokens = (1 << 40..).map(DiskToken);
    let mut token = || tokens.next().expect("plenty");
    for file in from.files(shard) {
        let content = from.contents(shard, file).expect("listed");
        let mut buffer = AlignedBuf::zeroed(content.len());
        buffer.copy_from_slice(&content);
        let ops = [
            DiskOp::Create {
                token: token(),
                file,
                bytes: content.len() as u64,
            },
            DiskOp::Write {
                token: token(),
                file,
                position: FilePosition(0),
                buffer,
                sync: WriteSync::Dsync,
            },
            DiskOp::SyncDirectory { token: token() },
        ];
        for op in ops {
            to.run(shard, op).result.expect("there is room");
        }
    }
}

#[test]
fn a_start_marks_every_directory() {
    let (mut world, _) = stopped(2);
    let tenancies: Vec<Tenancy> = (0..2)
        .map(|shard| {
            let mut disk = world.disk.blocking(ShardId(shard));
            millrace_storage::Store::look(&mut *disk, ShardId(shard)).expect("readable")
        })
        .collect();
    assert!(matches!(tenancies[0], Tenancy::Owned(_)), "{tenancies:?}");
    assert_eq!(tenancies[0], tenancies[1]);
}
