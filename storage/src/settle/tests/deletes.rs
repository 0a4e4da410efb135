//! Deletions that a pass sees before they are durable.

use super::*;
use crate::commit::COMMIT_TAG;

#[test]
fn a_deletion_that_is_not_durable_when_a_pass_is_committed_is_whole_after_it() {
    let waiting = StoreConfig {
        settle_files_max: usize::MAX,
        ..config()
    };
    let mut world = World::new(3, waiting);
    world.logs.remove(&B);
    world.produce(A, 20, 4000);
    let end = world.logs[&A].end;
    assert_eq!(world.settled, 0);
    // A pass over the oldest file is due, and everything is deleted. The log's writes do not end.
    world.ms += 61_000;
    let now = world.now();
    let deleted = world.store.append_log_start(now, A, Offset(end));
    let lsn = deleted.expect("taken");
    while world.settled == 0 {
        assert!(world.turn_without_commits(), "the pass gets to its end");
    }
    assert!(world.store.durable_lsn() < lsn);
    let disk = world.disk.after_power_cut(Survival::Nothing, 1);
    world.reopen(disk).expect("opens");
    world.model(A).start = end;
    world.check(1 << 20);
}

impl World {
    /// One turn in which no write to the log gets to the disk. Returns whether anything happened.
    fn turn_without_commits(&mut self) -> bool {
        let now = self.now();
        self.store.close_group(now);
        self.store.handle_timeout(now);
        while let Some(event) = self.store.poll_event() {
            match event {
                StoreEvent::WantsSnapshot => self.store.provide_snapshot(now, Vec::new()),
                StoreEvent::Settled { .. } => self.settled += 1,
                _ => {}
            }
        }
        let mut busy = self.store.has_work_now();
        while let Some(op) = self.store.poll_disk() {
            if op.token().tag() != COMMIT_TAG {
                self.disk.submit(SHARD, op);
            }
        }
        if let Some((_, done)) = self.disk.complete_one() {
            self.store.handle_disk(now, done);
            busy = true;
        }
        if let Some(at) = self.store.pace_timeout().filter(|_| !busy) {
            self.ms = self.ms.max(at.0.div_ceil(1_000_000));
            busy = true;
        }
        busy
    }
}
