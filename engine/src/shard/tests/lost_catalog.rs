//! Accepted losses in shard 0's log: what the catalog forgot, the other shards keep.

use millrace_storage::LossRange;
use millrace_storage::disk::FileName;
use millrace_storage::error::StorageError;

use super::*;
use crate::command::TopicRef;

impl World {
    /// Damages every place of shard 0's log files that holds `bytes`.
    fn damage_catalog(&mut self, bytes: &[u8]) {
        let shard = ShardId(0);
        let mut damaged = 0;
        for file in self.disk.files(shard) {
            let content = self.disk.contents(shard, file).expect("listed");
            if !matches!(file, FileName::Wal(_)) {
                continue;
            }
            for (at, window) in (0..).zip(content.windows(bytes.len())) {
                if window == bytes {
                    self.disk.damage(shard, file, at, &vec![0xff; bytes.len()]);
                    damaged += 1;
                }
            }
        }
        assert!(damaged > 0, "the log holds the change");
    }

    /// Starts, accepting the loss that the first attempt names.
    fn start_accepting(&mut self) {
        let (from, to) = match self.try_start() {
            Err(OpenError::Quarantine {
                error: StorageError::Quarantine { from, to, .. },
                ..
            }) => (from, to),
            other => panic!("damage refuses the start: {other:?}"),
        };
        self.config.accept_loss = vec![(ShardId(0), LossRange { from, to })];
        self.start();
        self.config.accept_loss.clear();
    }

    /// Appends to a partition of shard 0 until its log notes that what came before is durable.
    fn go_on(&mut self, partition: PartitionId) {
        for _ in 0..3 {
            assert!(self.append(0, partition, &BatchMaker::new(1)).is_ok());
            self.pass_ms(20);
        }
    }
}

#[test]
fn logs_of_a_forgotten_topic_are_kept_and_their_ids_are_not_given_again() {
    let mut world = World::new(2);
    let known = world.create("known", 2);
    world.go_on(known[0]);
    let forgotten = world.create("forgotten", 2);
    for partition in &forgotten {
        assert!(world.append(0, *partition, &BatchMaker::new(1)).is_ok());
    }
    let on_one: Vec<PartitionId> = world.shards[1].catalog().homed(ShardId(1)).collect();
    let kept = *forgotten
        .iter()
        .find(|id| on_one.contains(id))
        .expect("they spread");
    world.go_on(known[0]);
    world.disk = world.disk.after_power_cut(Survival::Nothing, 3);
    world.damage_catalog(b"forgotten");
    world.start_accepting();

    let mut given = Vec::new();
    for round in 0..3 {
        assert!(world.shards[0].catalog().topic("forgotten").is_none());
        let log = world.shards[1].store.log(kept).expect("kept");
        assert_eq!((log.start, log.end), (Offset(0), Offset(1)));
        given.extend(world.create(["a", "b", "c"][round], 2));
        world.power_cut();
    }
    assert!(given.iter().all(|id| *id > forgotten[1]), "{given:?}");
    // Other topics go as ever.
    let gone = given[0];
    let id = world.shards[0].catalog().topic("a").expect("there").id;
    assert!(
        world
            .ask(
                0,
                Command::WriteCatalog(CatalogRequest::DeleteTopics {
                    topics: vec![TopicRef::Id(id)]
                })
            )
            .is_ok()
    );
    world.power_cut();
    assert!(
        world
            .shards
            .iter()
            .all(|shard| shard.store.log(gone).is_none())
    );
    assert!(world.shards[1].store.log(kept).is_some());
}

#[test]
fn a_partition_whose_move_is_forgotten_is_at_home_where_its_log_is() {
    let mut world = World::new(2);
    let partitions = world.create("t", 2);
    let moved = partitions[1];
    for _ in 0..3 {
        assert!(world.append(0, moved, &BatchMaker::new(1)).is_ok());
    }
    world.config.shards = 1;
    world.power_cut();
    world.go_on(partitions[0]);
    world.disk = world.disk.after_power_cut(Survival::Nothing, 3);
    // A change of one operation: one partition, to shard 0.
    let mut change = vec![1, 0, 0, 0, 8, 1, 0, 0, 0];
    change.extend(moved.0.to_le_bytes());
    change.extend([0, 0]);
    world.damage_catalog(&change);
    world.config.shards = 2;
    world.start_accepting();
    for _ in 0..2 {
        let place = world.shards[0].catalog().place(moved).expect("known");
        assert_eq!(place.home, ShardId(0));
        let held = world.read(1, moved, 0).expect("held");
        assert_eq!(bases(&held), [0, 1, 2]);
        world.power_cut();
    }
}
