//! Logs that move between shards, with the machine stopping anywhere on the way.

use super::*;
use crate::config::StoreConfig;
use crate::disk::{DiskDone, DiskOp};
use crate::log_index::LogConfig;
use crate::record::{Batch, BatchHeader};
use crate::request::{Append, ReadOutcome, ReadRequest, ReadTicket};
use crate::section::tests::batch;
use crate::testing::{SimDisk, Survival};
use crate::units::{BootTime, LeaderEpoch, Offset};

const HOME: ShardId = ShardId(0);
const OLD: ShardId = ShardId(1);
/// The first and the last one move; the middle one stays.
const LOGS: [PartitionId; 3] = [PartitionId(1), PartitionId(2), PartitionId(3)];
const MOVED: [PartitionId; 2] = [LOGS[0], LOGS[2]];
const BATCHES: u64 = 30;
const NOW: Now = Now {
    boot: BootTime(0),
    wall_ms: 1_000_000,
};

fn config(shard: ShardId, seed: u64) -> StoreConfig {
    StoreConfig {
        shard,
        wal_file_bytes: 64 << 10,
        wal_files: 8,
        commit_buffer_bytes: 16 << 10,
        batch_bytes_max: 32 << 10,
        segment_bytes_min: 40 << 10,
        reserve_bytes: 0,
        seed,
        ..StoreConfig::default()
    }
}

fn open(disk: &mut SimDisk, shard: ShardId, seed: u64) -> Result<Store, StorageError> {
    Store::open(
        config(shard, seed),
        NOW,
        &mut *disk.blocking(shard),
        &mut |_| {},
    )
}

fn bytes_of(log: PartitionId, number: u64) -> Vec<u8> {
    batch(number, 1, i64::from(log.0), 1000 + 900 * log.0 as usize)
}

/// A disk on which the old shard has all logs, partly settled.
fn full() -> SimDisk {
    let mut disk = SimDisk::new(1);
    let mut store = open(&mut disk, OLD, 1).expect("new");
    for log in LOGS {
        store.create_log(log, LogConfig::default());
    }
    for number in 0..BATCHES {
        for log in LOGS {
            let bytes = bytes_of(log, number);
            let append = Append {
                partition: log,
                base_offset: Offset(number),
                leader_epoch: LeaderEpoch(0),
                append_time_ms: None,
                batch: Batch::check(&bytes).expect("good"),
            };
            store.append(NOW, append).expect("taken");
            store.drive(NOW, &mut *disk.blocking(OLD));
        }
    }
    disk
}

/// What a start does after the core count changed.
fn move_logs(disk: &mut SimDisk, seed: u64) -> Result<(Store, Store), StorageError> {
    let mut old = open(disk, OLD, seed)?;
    let mut home = open(disk, HOME, seed + 1)?;
    old.settle_everything(NOW, &mut *disk.blocking(OLD), &mut Vec::new)?;
    let here: Vec<PartitionId> = MOVED
        .into_iter()
        .filter(|log| old.log(*log).is_some())
        .collect();
    let offer = old.export(&mut *disk.blocking(OLD), &here)?;
    home.adopt(&mut *disk.blocking(HOME), &offer)?;
    old.release(NOW, &mut *disk.blocking(OLD), &here)?;
    Ok((old, home))
}

/// Every batch of `log` is in `store`, byte for byte.
fn check(store: &mut Store, disk: &mut SimDisk, shard: ShardId, log: PartitionId) {
    assert_eq!(
        store.log(log).map(|s| s.end),
        Some(Offset(BATCHES)),
        "{log}"
    );
    let mut at = 0;
    while at < BATCHES {
        let request = ReadRequest {
            ticket: ReadTicket(at),
            partition: log,
            from: Offset(at),
            end: Offset(BATCHES),
            bytes_max: 1 << 20,
        };
        let records = match store.read(NOW, request) {
            ReadOutcome::Ready(records) => records,
            ReadOutcome::Pending => {
                store.drive(NOW, &mut *disk.blocking(shard));
                store.poll_read().expect("answered").1
            }
        };
        for bytes in records.expect("readable").batches {
            assert_eq!(bytes, bytes_of(log, at), "{log} at {at}");
            at = BatchHeader::parse(&bytes).expect("good").next_offset().0;
        }
    }
}

fn check_moved(disk: &mut SimDisk, old: &mut Store, home: &mut Store) {
    for log in MOVED {
        check(home, disk, HOME, log);
        assert!(old.log(log).is_none());
    }
    check(old, disk, OLD, LOGS[1]);
    assert!(home.log(LOGS[1]).is_none());
}

#[test]
fn a_moved_log_is_whole_at_its_new_home_and_gone_from_the_old_one() {
    let mut disk = full();
    let (mut old, mut home) = move_logs(&mut disk, 10).expect("moved");
    check_moved(&mut disk, &mut old, &mut home);
    let mut disk = disk.after_power_cut(Survival::Nothing, 1);
    let mut old = open(&mut disk, OLD, 20).expect("opens");
    let mut home = open(&mut disk, HOME, 21).expect("opens");
    check_moved(&mut disk, &mut old, &mut home);
}

#[test]
fn what_one_shard_drops_stays_whole_for_the_other() {
    let mut disk = full();
    let (mut old, mut home) = move_logs(&mut disk, 10).expect("moved");
    assert!(old.remove_log(LOGS[1]));
    old.drive(NOW, &mut *disk.blocking(OLD));
    for log in MOVED {
        check(&mut home, &mut disk, HOME, log);
    }
    assert!(home.remove_log(MOVED[0]));
    home.drive(NOW, &mut *disk.blocking(HOME));
    check(&mut home, &mut disk, HOME, MOVED[1]);
    assert!(home.remove_log(MOVED[1]));
    home.drive(NOW, &mut *disk.blocking(HOME));
    let packs = |shard| {
        let files = disk.files(shard);
        let is_pack = |f: &&FileName| matches!(f, FileName::Pack(_) | FileName::Segment(_));
        files.iter().filter(is_pack).count()
    };
    assert_eq!((packs(HOME), packs(OLD)), (0, 0));
}

#[test]
fn logs_move_there_and_back_one_at_a_time() {
    let mut disk = full();
    let mut old = open(&mut disk, OLD, 5).expect("opens");
    let mut home = open(&mut disk, HOME, 6).expect("opens");
    old.settle_everything(NOW, &mut *disk.blocking(OLD), &mut Vec::new)
        .expect("settled");
    for log in LOGS {
        let offer = old
            .export(&mut *disk.blocking(OLD), &[log])
            .expect("offered");
        for _ in 0..2 {
            home.adopt(&mut *disk.blocking(HOME), &offer)
                .expect("adopted, once");
        }
        old.release(NOW, &mut *disk.blocking(OLD), &[log])
            .expect("released");
    }
    for log in LOGS {
        check(&mut home, &mut disk, HOME, log);
        let offer = home
            .export(&mut *disk.blocking(HOME), &[log])
            .expect("offered");
        old.adopt(&mut *disk.blocking(OLD), &offer)
            .expect("adopted");
        home.release(NOW, &mut *disk.blocking(HOME), &[log])
            .expect("released");
        check(&mut old, &mut disk, OLD, log);
    }
}

/// The disk without room for any file of a kind.
fn without_room(
    disk: &mut dyn FnMut(DiskOp) -> DiskDone,
    is_kind: impl Fn(&FileName) -> bool,
) -> impl FnMut(DiskOp) -> DiskDone {
    move |op| match op {
        DiskOp::Create { token, file, .. } if is_kind(&file) => DiskDone {
            token,
            result: Err(DiskError::NoSpace),
            buffer: None,
        },
        op => disk(op),
    }
}

#[test]
fn settling_everything_ends_when_the_manifest_finds_no_room() {
    let mut disk = full();
    let small = StoreConfig {
        manifest_bytes_max: 16 << 10,
        ..config(OLD, 5)
    };
    let mut old = Store::open(small, NOW, &mut *disk.blocking(OLD), &mut |_| {}).expect("opens");
    let mut failed = None;
    for number in BATCHES..BATCHES + 50 {
        let bytes = bytes_of(LOGS[0], number);
        let append = Append {
            partition: LOGS[0],
            base_offset: Offset(number),
            leader_epoch: LeaderEpoch(0),
            append_time_ms: None,
            batch: Batch::check(&bytes).expect("good"),
        };
        old.append(NOW, append).expect("taken");
        let mut disk = disk.blocking(OLD);
        let mut without_room =
            without_room(&mut *disk, |file| matches!(file, FileName::Temporary(_)));
        let settled = old.settle_everything(NOW, &mut without_room, &mut Vec::new);
        if let Err(error) = settled {
            failed = Some(error);
            break;
        }
    }
    let Some(StorageError::Io { error, .. }) = failed else {
        panic!("the manifest was rewritten without room, or never: {failed:?}");
    };
    assert_eq!(error, DiskError::NoSpace);
}

#[test]
fn a_start_after_one_that_was_cut_short_offers_the_packs_that_were_adopted() {
    let roomy = |shard, seed| StoreConfig {
        wal_file_bytes: 4 << 20,
        batch_bytes_max: 64 << 10,
        segment_bytes_min: 8 << 20,
        ..config(shard, seed)
    };
    let open = |disk: &mut SimDisk, shard, seed| {
        Store::open(
            roomy(shard, seed),
            NOW,
            &mut *disk.blocking(shard),
            &mut |_| {},
        )
        .expect("opens")
    };
    let mut disk = SimDisk::new(1);
    let mut old = open(&mut disk, OLD, 1);
    // All in one pack, of which most is dead soon: worth a merge once it is shared.
    let dead = PartitionId(9);
    for log in LOGS.into_iter().chain([dead]) {
        old.create_log(log, LogConfig::default());
        for number in 0..BATCHES {
            let bytes = match log {
                _ if log == dead => batch(number, 1, 9, 60_000),
                log => bytes_of(log, number),
            };
            let append = Append {
                partition: log,
                base_offset: Offset(number),
                leader_epoch: LeaderEpoch(0),
                append_time_ms: None,
                batch: Batch::check(&bytes).expect("good"),
            };
            old.append(NOW, append).expect("taken");
            old.drive(NOW, &mut *disk.blocking(OLD));
        }
    }
    old.settle_everything(NOW, &mut *disk.blocking(OLD), &mut Vec::new)
        .expect("settled");
    old.remove_log(dead);
    old.drive(NOW, &mut *disk.blocking(OLD));
    let mut home = open(&mut disk, HOME, 2);
    let offer = old.export(&mut *disk.blocking(OLD), &MOVED);
    home.adopt(&mut *disk.blocking(HOME), &offer.expect("offered"))
        .expect("adopted");
    // Ends before the catalog says that the logs moved: the next start does it all again.
    let mut disk = disk.after_power_cut(Survival::Nothing, 1);
    let mut old = open(&mut disk, OLD, 3);
    let mut home = open(&mut disk, HOME, 4);
    old.settle_everything(NOW, &mut *disk.blocking(OLD), &mut Vec::new)
        .expect("settled");
    let offer = old.export(&mut *disk.blocking(OLD), &MOVED);
    home.adopt(&mut *disk.blocking(HOME), &offer.expect("offered"))
        .expect("what is here already is left");
    old.release(NOW, &mut *disk.blocking(OLD), &MOVED)
        .expect("released");
    check_moved(&mut disk, &mut old, &mut home);
    serve(&mut old, &mut disk, OLD);
    let merges = old.counters().merge.merges;
    assert_eq!(merges, 1, "a shard that serves gives the space back");
}

/// A few seconds of a shard that serves, without requests.
fn serve(store: &mut Store, disk: &mut SimDisk, shard: ShardId) {
    for second in 1..5 {
        let boot = NOW.boot.after_ms(1_000 * second);
        let now = Now { boot, ..NOW };
        let mut busy = true;
        while busy {
            store.handle_timeout(now);
            busy = false;
            while let Some(op) = store.poll_disk() {
                store.handle_disk(now, disk.run(shard, op));
                busy = true;
            }
        }
    }
}

#[test]
fn settling_everything_ends_when_the_log_finds_no_room() {
    let mut disk = SimDisk::new(1);
    let mut old = open(&mut disk, OLD, 1).expect("new");
    old.create_log(LOGS[0], LogConfig::default());
    let bytes = bytes_of(LOGS[0], 0);
    let append = Append {
        partition: LOGS[0],
        base_offset: Offset(0),
        leader_epoch: LeaderEpoch(0),
        append_time_ms: None,
        batch: Batch::check(&bytes).expect("good"),
    };
    old.append(NOW, append).expect("taken");
    let mut disk = disk.blocking(OLD);
    let mut without_room = without_room(&mut *disk, |file| matches!(file, FileName::Wal(_)));
    let settled = old.settle_everything(NOW, &mut without_room, &mut Vec::new);
    let Err(StorageError::Io { error, .. }) = settled else {
        panic!("it has no file to go on with: {settled:?}");
    };
    assert_eq!(error, DiskError::NoSpace);
}

#[test]
fn a_power_cut_anywhere_on_the_way_loses_nothing() {
    let survivals = [
        Survival::Nothing,
        Survival::Everything,
        Survival::Random,
        Survival::Prefix,
    ];
    let start = full();
    for op in 0.. {
        let mut disk = start.after_power_cut(Survival::Everything, op);
        disk.power_off_at(op);
        let finished = move_logs(&mut disk, 100 * op).is_ok();
        let survival = survivals[usize::try_from(op).expect("small") % survivals.len()];
        let mut disk = disk.after_power_cut(survival, op);
        let moved = move_logs(&mut disk, 100 * op + 50);
        let (mut old, mut home) = moved.unwrap_or_else(|error| panic!("cut at {op}: {error}"));
        check_moved(&mut disk, &mut old, &mut home);
        if finished {
            assert!(op > 50, "{op}");
            return;
        }
    }
}

#[test]
fn directories_on_two_file_systems_are_named_and_nothing_is_lost() {
    let mut disk = full();
    let mut old = open(&mut disk, OLD, 10).expect("opens");
    let mut home = open(&mut disk, HOME, 11).expect("opens");
    let settled = old.settle_everything(NOW, &mut *disk.blocking(OLD), &mut Vec::new);
    settled.expect("there is room");
    let offer = old.export(&mut *disk.blocking(OLD), &MOVED);
    let mut apart = |op: DiskOp| match op {
        DiskOp::Link { token, .. } => DiskDone {
            token,
            buffer: None,
            result: Err(DiskError::OtherFileSystem),
        },
        op => disk.run(HOME, op),
    };
    let refused = home.adopt(&mut apart, &offer.expect("the disk works"));
    let refused = refused.expect_err("files are not linked across file systems");
    let (shard, from) = (HOME, OLD);
    assert_eq!(refused, StorageError::Apart { shard, from });
    assert!(refused.to_string().contains("--cores"), "{refused}");
    // The old shard serves what it has, if it runs again.
    let mut old = open(&mut disk, OLD, 20).expect("opens");
    for log in LOGS {
        check(&mut old, &mut disk, OLD, log);
    }
}
