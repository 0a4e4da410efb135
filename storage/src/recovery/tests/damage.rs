//! Questions to recovery when the disk lies: it refuses, or nothing is missing.

use super::*;
use crate::block::{BLOCK_HEADER_BYTES, BlockHeader, FIRST_BLOCK, FileHeader, Seeding};
use crate::config::LossRange;
use crate::disk::{DiskOp, DiskToken, FileName};
use crate::error::StorageError;
use crate::units::{FilePosition, Generation, LifeId, PAGE_BYTES, PackId};

/// A machine whose log holds `groups` acknowledged groups and is sealed.
fn sealed(groups: u64) -> (Machine, Model) {
    let mut machine = Machine::new(7, small());
    let mut model = Model::default();
    let mut store = machine.open(&mut model).expect("opens");
    machine.carry(&mut store);
    for group in 0..groups {
        machine
            .append_of(&mut store, &mut model, 3000 + 100 * group as usize)
            .expect("taken");
        store.close_group(now(0));
        machine.carry(&mut store);
    }
    assert!(!store.is_quiet(), "a seal is due");
    store.handle_timeout(store.poll_timeout().map(at).expect("a seal is due"));
    machine.carry(&mut store);
    assert!(store.is_quiet());
    model.sure = model.ids.len();
    (machine, model)
}

fn at(boot: crate::units::BootTime) -> crate::units::Now {
    crate::units::Now { boot, ..now(0) }
}

/// What a start makes of `disk`: the batches that it tells, or why it refuses.
fn start(disk: &SimDisk, config: &StoreConfig) -> (SimDisk, Result<Told, StorageError>) {
    let mut disk = disk.after_power_cut(Survival::Everything, 1);
    let mut told = Told::default();
    let opened = Store::open(
        config.clone(),
        now(0),
        &mut *disk.blocking(SHARD),
        &mut |replayed| match replayed {
            Replayed::Batch { header, .. } => {
                told.ids.push(header.max_timestamp_ms.cast_unsigned());
            }
            Replayed::LossAccepted { from, to } => told.losses.push(LossRange { from, to }),
            _ => {}
        },
    );
    (disk, opened.map(|_| told))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    ids: Vec<u64>,
    losses: Vec<LossRange>,
}

fn told(ids: &[u64]) -> Told {
    Told {
        ids: ids.to_vec(),
        losses: Vec::new(),
    }
}

/// The file that holds the log's blocks.
const FILE: FileName = FileName::Wal(0);

fn flip(disk: &mut SimDisk, file: FileName, byte: usize, bit: u32) {
    let contents = disk.contents(SHARD, file).expect("the file is there");
    disk.damage(SHARD, file, byte as u64, &[contents[byte] ^ (1 << bit)]);
}

#[test]
fn any_damaged_byte_of_a_sealed_log_refuses_or_changes_nothing() {
    let (machine, model) = sealed(3);
    let mut refused = 0;
    let headers = |byte: &usize| byte % PAGE_BYTES < 90 || byte.is_multiple_of(13);
    for byte in (0..5 * PAGE_BYTES).filter(headers) {
        let mut disk = machine.disk.after_power_cut(Survival::Everything, 1);
        flip(&mut disk, FILE, byte, byte as u32 % 8);
        match start(&disk, &small()).1 {
            Ok(found) => assert_eq!(found, told(&model.ids), "byte {byte}"),
            Err(StorageError::Quarantine { .. }) => refused += 1,
            Err(error) => panic!("byte {byte}: {error}"),
        }
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn any_lost_page_of_a_sealed_log_refuses_or_changes_nothing() {
    let (machine, model) = sealed(4);
    for page in 0..6_u64 {
        let mut disk = machine.disk.after_power_cut(Survival::Everything, 1);
        disk.damage(SHARD, FILE, page * PAGE_BYTES as u64, &[0; PAGE_BYTES]);
        match (page, start(&disk, &small()).1) {
            (0..=4, Err(StorageError::Quarantine { .. })) => {}
            (5, Ok(found)) => assert_eq!(found, told(&model.ids), "only the seal is lost"),
            (page, other) => panic!("page {page}: {other:?}"),
        }
    }
}

#[test]
fn any_two_swapped_pages_refuse_or_change_nothing() {
    let (machine, model) = sealed(4);
    let contents = machine.disk.contents(SHARD, FILE).expect("there");
    let page = |number: usize| &contents[number * PAGE_BYTES..(number + 1) * PAGE_BYTES];
    for first in 0..6 {
        for second in first + 1..7 {
            let mut disk = machine.disk.after_power_cut(Survival::Everything, 1);
            disk.damage(SHARD, FILE, (first * PAGE_BYTES) as u64, page(second));
            disk.damage(SHARD, FILE, (second * PAGE_BYTES) as u64, page(first));
            match start(&disk, &small()).1 {
                Ok(found) => assert_eq!(found, told(&model.ids), "{first} {second}"),
                Err(StorageError::Quarantine { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_header_that_was_lost_or_misdirected_does_not_hide_what_its_file_holds() {
    let (machine, _) = sealed(20);
    let headers = machine.disk.files(SHARD).into_iter().filter_map(|file| {
        let contents = machine.disk.contents(SHARD, file)?;
        let is_wal = matches!(file, FileName::Wal(_));
        let header = FileHeader::decode(contents.first_chunk::<PAGE_BYTES>()?);
        is_wal.then_some((file, header.ok()?))
    });
    let (file, last) = headers
        .max_by_key(|(_, header)| header.life)
        .expect("a log has a file");
    assert!(last.life > LifeId(1), "the log rolled");
    let mut earlier = vec![0; PAGE_BYTES];
    let life = LifeId(1);
    FileHeader { life, ..last }.encode(&mut earlier);
    let mut disk = machine.disk.after_power_cut(Survival::Everything, 1);
    disk.damage(SHARD, file, 0, &earlier);
    let is_refused = |disk: &SimDisk| {
        let (_, started) = start(disk, &machine.config);
        matches!(started, Err(StorageError::Quarantine { .. }))
    };
    assert!(is_refused(&disk), "lost");
    let mut page = vec![0; PAGE_BYTES];
    last.encode(&mut page);
    disk.damage(SHARD, file, FIRST_BLOCK.0, &page);
    assert!(is_refused(&disk), "misdirected");
    disk.damage(SHARD, file, FIRST_BLOCK.0, &[0xaa; PAGE_BYTES]);
    assert!(is_refused(&disk), "lost, and the first block damaged");
}

#[test]
fn blocks_of_files_without_names_are_not_taken_for_a_new_store() {
    let (machine, model) = sealed(2);
    let mut disk = machine.disk.after_power_cut(Survival::Everything, 1);
    // Each start is a life: no number of them is too high for what a lost manifest knew.
    for _ in 0..12 {
        let (started, found) = start(&disk, &machine.config);
        assert_eq!(found, Ok(told(&model.ids)));
        disk = started;
    }
    for file in disk.files(SHARD) {
        match file {
            FileName::Wal(_) => {
                disk.damage(SHARD, file, 0, &[0xaa; PAGE_BYTES]);
                disk.damage(SHARD, file, FIRST_BLOCK.0, &[0xaa; PAGE_BYTES]);
            }
            _ => disk.lose(SHARD, file),
        }
    }
    let (_, started) = start(&disk, &machine.config);
    assert!(matches!(started, Err(StorageError::Corrupt { .. })));
}

/// What a client may send within a batch: the image of a block of `life`, which says that very
/// much more than there is was durable.
fn image_of_a_block(life: LifeId) -> Vec<u8> {
    let mut image = vec![0; PAGE_BYTES];
    let header = BlockHeader {
        generation: Generation(7),
        life,
        position: FilePosition(9 * PAGE_BYTES as u64),
        first_lsn: Lsn(1 << 40),
        durable_lsn: Lsn(1 << 40),
        block_bytes: PAGE_BYTES as u32,
        payload_bytes: 0,
        payload_crc: 0,
        prev_header_crc: 0,
        shard: SHARD,
        entries: 0,
    };
    header.encode(&mut image, Seeding::Generation);
    image
}

#[test]
fn what_a_client_sent_is_no_witness() {
    let (machine, model) = sealed(20);
    let header_of = |file: FileName| {
        let contents = machine.disk.contents(SHARD, file)?;
        FileHeader::decode(contents.first_chunk::<PAGE_BYTES>()?).ok()
    };
    let files = machine.disk.files(SHARD).into_iter();
    let logs: Vec<FileName> = files.filter(|f| matches!(f, FileName::Wal(_))).collect();
    let lives = logs.iter().filter_map(|file| header_of(*file));
    let last = lives.map(|header| header.life).max().expect("a log");
    for life in [LifeId(last.0 + 1), LifeId(u64::MAX)] {
        let mut disk = machine.disk.after_power_cut(Survival::Everything, 1);
        // An early file is settled and used again; its new header was torn by the crash.
        let mut recycled = disk.contents(SHARD, FILE).expect("there");
        recycled.truncate(9 * PAGE_BYTES);
        recycled[..PAGE_BYTES].fill(0xaa);
        recycled.extend(image_of_a_block(life));
        let spare = logs.iter().find(|file| header_of(**file).is_none());
        disk.damage(SHARD, *spare.expect("one is ready"), 0, &recycled);
        let (_, found) = start(&disk, &small());
        assert_eq!(found, Ok(told(&model.ids)), "{life:?}");
    }
}

#[test]
fn what_a_client_sent_is_no_witness_in_a_file_of_which_the_beginning_is_missing() {
    let (machine, model) = sealed(4);
    let mut disk = machine.disk.after_power_cut(Survival::Everything, 1);
    let is_blank = |file: &FileName| {
        let contents = disk.contents(SHARD, *file).expect("listed");
        matches!(file, FileName::Wal(_)) && contents.iter().all(|byte| *byte == 0)
    };
    let spare = disk.files(SHARD).into_iter().find(is_blank);
    // The log had rolled into that file. Of the groups in flight only the third reached the disk,
    // neither the header nor the first block.
    let life = LifeId(4);
    let mut block = vec![0; 2 * PAGE_BYTES];
    block[PAGE_BYTES..].copy_from_slice(&image_of_a_block(life));
    let payload = &block[BLOCK_HEADER_BYTES..];
    let header = BlockHeader {
        generation: Generation(99),
        life,
        position: FilePosition(4 * PAGE_BYTES as u64),
        first_lsn: Lsn(20 * PAGE_BYTES as u64),
        durable_lsn: Lsn(0),
        block_bytes: 2 * PAGE_BYTES as u32,
        payload_bytes: payload.len() as u32,
        payload_crc: Seeding::Generation.payload_crc(Generation(99), payload),
        prev_header_crc: 0,
        shard: SHARD,
        entries: 1,
    };
    header.encode(&mut block, Seeding::Generation);
    let position = header.position.0;
    disk.damage(SHARD, spare.expect("one is ready"), position, &block);
    let (_, found) = start(&disk, &small());
    assert_eq!(found, Ok(told(&model.ids)));
}

#[test]
fn a_refusal_changes_nothing_and_its_own_range_gets_past_it() {
    let (machine, mut model) = sealed(4);
    let mut disk = machine.disk.after_power_cut(Survival::Everything, 1);
    flip(&mut disk, FILE, 2 * PAGE_BYTES + 200, 3);
    let (disk, refused) = start(&disk, &small());
    let Err(StorageError::Quarantine {
        from,
        to,
        ref intact,
        ..
    }) = refused
    else {
        panic!("{refused:?}");
    };
    let page = PAGE_BYTES as u64;
    // Two groups and the seal.
    assert_eq!((intact.blocks, intact.bytes), (3, 3 * page));
    assert_eq!(intact.partitions, [LOG]);
    assert_eq!((from, to), (Lsn(page), Lsn(5 * page)));
    assert_eq!(start(&disk, &small()).1, refused, "refused for ever");

    let other = LossRange { from, to: Lsn(1) };
    let accept = |range| StoreConfig {
        accept_loss: vec![range],
        ..small()
    };
    assert_eq!(start(&disk, &accept(other)).1, refused, "another range");
    let lost = LossRange { from, to };
    let (disk, found) = start(&disk, &accept(lost));
    let expected = Told {
        ids: model.ids[..1].to_vec(),
        losses: vec![lost],
    };
    assert_eq!(found, Ok(expected));

    // From now on without the flag; the log goes on above what was lost.
    let mut machine = Machine::new(8, small());
    machine.disk = disk;
    model.sure = 1;
    let mut store = machine.open(&mut model).expect("opens");
    assert_eq!(store.durable_lsn(), to);
    machine.append(&mut store, &mut model).expect("taken");
    store.close_group(now(0));
    machine.carry(&mut store);
    model.sure = 2;
    let (_, found) = start(&machine.disk, &small());
    assert_eq!(found.expect("opens").losses, [lost], "told again");
    let mut store = machine.open(&mut model).expect("opens");
    machine.read_all(&mut store, &model);
}

#[test]
fn a_refusal_leaves_every_file_as_it_is() {
    let (mut machine, _) = sealed(5);
    // A pass over the log had written its pack when the power went.
    let token = DiskToken(1);
    let file = FileName::Pack(PackId(99));
    for op in [
        DiskOp::Create {
            token,
            file,
            bytes: 2 * PAGE_BYTES as u64,
        },
        DiskOp::SyncDirectory { token },
    ] {
        let done = machine.disk.run(SHARD, op);
        assert!(done.result.is_ok());
    }
    flip(&mut machine.disk, FILE, PAGE_BYTES + 200, 3);
    let (disk, refused) = start(&machine.disk, &small());
    assert!(matches!(refused, Err(StorageError::Quarantine { .. })));
    let files = machine.disk.files(SHARD);
    assert_eq!(disk.files(SHARD), files);
    for file in files {
        let before = machine.disk.contents(SHARD, file);
        assert_eq!(disk.contents(SHARD, file), before, "{file}");
    }
}

#[test]
fn a_lost_manifest_or_first_file_is_never_taken_for_a_new_store() {
    let (machine, model) = sealed(2);
    let without = |lost: &dyn Fn(FileName) -> bool| {
        let mut disk = machine.disk.after_power_cut(Survival::Everything, 1);
        for file in disk.files(SHARD).into_iter().filter(|file| lost(*file)) {
            disk.lose(SHARD, file);
        }
        start(&disk, &small()).1
    };
    let manifest = without(&|file| matches!(file, FileName::Manifest(_)));
    assert!(matches!(manifest, Err(StorageError::Corrupt { .. })));
    let first = without(&|file| file == FILE);
    assert!(matches!(first, Err(StorageError::Quarantine { .. })));
    let unused = without(&|file| matches!(file, FileName::Wal(1..)));
    assert_eq!(unused, Ok(told(&model.ids)));
}

#[test]
fn truncating_damaged_acknowledged_data_is_caught() {
    let (machine, model) = sealed(3);
    let mut disk = machine.disk.after_power_cut(Survival::Everything, 1);
    flip(&mut disk, FILE, PAGE_BYTES + 200, 3);
    let config = StoreConfig {
        seeded_bug: Some(SeededBug::TruncateBelowDurable),
        ..small()
    };
    let (_, found) = start(&disk, &config);
    assert_ne!(found, Ok(told(&model.ids)), "the bug loses data");
    assert!(found.is_ok(), "and does not notice");
}
