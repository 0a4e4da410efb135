//! What edits mean, what a file of them says after every kind of damage, and its rewriting.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::units::{BrokerId, Generation, LifeId, Lsn, Offset, PartitionId};

const SHARD: ShardId = ShardId(3);

/// Files in memory; operation `fail_at` (counted from 0) fails with `error`.
#[derive(Clone, Debug, Default)]
struct MemoryDisk {
    files: BTreeMap<FileName, Vec<u8>>,
    operations: usize,
    fail: Option<(usize, DiskError)>,
}

impl MemoryDisk {
    fn run(&mut self, op: DiskOp) -> DiskDone {
        let token = op.token();
        let at = self.operations;
        self.operations += 1;
        if let Some((_, error)) = self.fail.filter(|(fail_at, _)| *fail_at == at) {
            return DiskDone {
                token,
                buffer: None,
                result: Err(error),
            };
        }
        let mut returned = None;
        let result = match op {
            DiskOp::Create { file, bytes, .. } => {
                let bytes = usize::try_from(bytes).expect("small");
                self.files.insert(file, vec![0; bytes]);
                Ok(DiskOutcome::Done)
            }
            DiskOp::Write {
                file,
                position,
                buffer,
                ..
            } => {
                let at = usize::try_from(position.0).expect("small");
                let content = self.files.get_mut(&file).expect("created before");
                content[at..at + buffer.len()].copy_from_slice(&buffer);
                returned = Some(buffer);
                Ok(DiskOutcome::Done)
            }
            DiskOp::Read {
                file,
                position,
                mut buffer,
                ..
            } => {
                let at = usize::try_from(position.0).expect("small");
                let length = buffer.len();
                buffer.copy_from_slice(&self.files[&file][at..at + length]);
                returned = Some(buffer);
                Ok(DiskOutcome::Done)
            }
            DiskOp::Rename { from, to, .. } => {
                let content = self.files.remove(&from).expect("renames what is there");
                self.files.insert(to, content);
                Ok(DiskOutcome::Done)
            }
            DiskOp::Remove { file, .. } => match self.files.remove(&file) {
                Some(_) => Ok(DiskOutcome::Done),
                None => Err(DiskError::NotFound),
            },
            _ => Ok(DiskOutcome::Done),
        };
        DiskDone {
            token,
            buffer: returned,
            result,
        }
    }

    fn listing(&self) -> Listing {
        let files = self.files.iter();
        Listing {
            files: files.map(|(f, b)| (*f, file_length(b.len()))).collect(),
            foreign: Vec::new(),
        }
    }

    fn open(&mut self) -> Result<Option<Manifest>, StorageError> {
        let listing = self.listing();
        let found = Manifest::read(&mut |op| self.run(op), SHARD, &listing, 1 << 20)?;
        let secure = |found: ReadManifest| found.secure(&mut |op| self.run(op));
        found.map(secure).transpose()
    }

    fn create(&mut self) -> Manifest {
        Manifest::create(&mut |op| self.run(op), SHARD, chain_start(1), 1 << 20).expect("created")
    }

    fn commit(&mut self, manifest: &mut Manifest, edits: Vec<ManifestEdit>) {
        manifest
            .commit_blocking(&mut |op| self.run(op), edits)
            .expect("committed");
    }
}

fn chain_start(life: u64) -> ChainStart {
    ChainStart {
        slot: 7,
        life: LifeId(life),
        generation: Generation(0x1122_3344_5566_7788),
    }
}

fn pack(id: u64) -> (PackId, PackEntry) {
    let entry = PackEntry {
        file: FileName::Pack(PackId(id)),
        bytes: 1 << 20,
        footer: FilePosition(8192),
        footer_bytes: 100,
        footer_checksum: 0xdead_beef,
        dropped: BTreeSet::new(),
        shared: false,
    };
    (PackId(id), entry)
}

fn settled(id: u64) -> ManifestEdit {
    ManifestEdit::Settled {
        settled_lsn: Lsn(id * 4096),
        chain_start: chain_start(id + 1),
        packs: vec![pack(id)],
        snapshot: Some(SnapshotRef {
            pack: PackId(id),
            section: 2,
            as_of: Lsn(id * 4096 + 1),
        }),
        log_starts: vec![(PartitionId(5), Offset(id * 10))],
    }
}

/// One edit of every kind, in an order in which they fit.
fn every_edit() -> Vec<ManifestEdit> {
    vec![
        settled(1),
        settled(2),
        ManifestEdit::SectionsDropped {
            pack: PackId(1),
            sections: vec![0, 9],
        },
        ManifestEdit::PacksAdopted {
            packs: vec![pack(3), pack(4)],
        },
        ManifestEdit::PacksShared {
            packs: vec![PackId(1)],
        },
        ManifestEdit::PackDropped { pack: PackId(3) },
        ManifestEdit::LogStarts(vec![
            (PartitionId(6), Offset(1)),
            (PartitionId(5), Offset(1)),
        ]),
        ManifestEdit::LogsRemoved(vec![PartitionId(6)]),
        ManifestEdit::Owned(BrokerId(u128::MAX - 1)),
        ManifestEdit::Merged {
            removed: vec![PackId(2), PackId(4)],
            added: vec![pack(5)],
            snapshot: Some(SnapshotRef {
                pack: PackId(5),
                section: 0,
                as_of: Lsn(2 * 4096 + 1),
            }),
        },
    ]
}

fn file_of(disk: &mut MemoryDisk) -> &mut Vec<u8> {
    let mut files = disk.files.iter_mut();
    files.next_back().expect("one manifest").1
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let mut disk = MemoryDisk::default();
    assert!(disk.open().expect("nothing to read").is_none());
    let mut manifest = disk.create();
    for edit in every_edit() {
        disk.commit(&mut manifest, vec![edit]);
        let opened = disk.clone().open().expect("good").expect("there");
        assert_eq!(opened.state(), manifest.state());
    }
    let state = manifest.state();
    assert_eq!(state.settled_lsn, Lsn(8192));
    assert_eq!(
        state.packs.keys().copied().collect::<Vec<_>>(),
        [PackId(1), PackId(5)]
    );
    assert_eq!(state.packs[&PackId(1)].dropped, BTreeSet::from([0, 9]));
    assert!(state.packs[&PackId(1)].shared && !state.packs[&PackId(5)].shared);
    assert_eq!(state.next_pack, PackId(6));
    assert_eq!(state.owner, Some(BrokerId(u128::MAX - 1)));
    assert_eq!(
        state.log_starts,
        BTreeMap::from([(PartitionId(5), Offset(20))])
    );
}

#[test]
fn submissions_share_a_run_and_end_in_order() {
    let mut disk = MemoryDisk::default();
    let mut manifest = disk.create();
    let before = disk.operations;
    let tickets: Vec<_> = [settled(1), settled(2)]
        .map(|edit| manifest.submit(vec![edit]))
        .into();
    assert!(!manifest.is_quiet());
    let op = manifest.poll_disk().expect("one run");
    assert!(manifest.poll_disk().is_none(), "one operation at a time");
    assert_eq!(manifest.state().settled_lsn, Lsn(0), "not durable yet");
    manifest.handle_disk(disk.run(op)).expect("written");
    assert_eq!(disk.operations, before + 1);
    assert_eq!(
        [manifest.poll_done(), manifest.poll_done()].to_vec(),
        tickets.into_iter().map(Some).collect::<Vec<_>>()
    );
    assert_eq!(manifest.state().settled_lsn, Lsn(8192));
    assert!(manifest.is_quiet());
}

#[test]
fn a_full_file_is_rewritten_and_the_old_one_goes() {
    let mut disk = MemoryDisk::default();
    let mut manifest = disk.create();
    manifest.room_bytes = 16 << 10;
    manifest.rewrite_from = 0;
    for id in 1..40 {
        disk.commit(&mut manifest, vec![settled(id)]);
        assert_eq!(disk.files.len(), 1);
        let opened = disk.clone().open().expect("good").expect("there");
        assert_eq!(opened.state(), manifest.state());
    }
    assert!(manifest.number > 5);
}

#[test]
fn every_failed_operation_leaves_a_manifest_that_opens() {
    for fail_at in 0..60 {
        let mut disk = MemoryDisk::default();
        let mut manifest = disk.create();
        manifest.room_bytes = 16 << 10;
        manifest.rewrite_from = 0;
        disk.fail = Some((disk.operations + fail_at, DiskError::Io { errno: 5 }));
        let mut known = manifest.state().clone();
        for id in 1..10 {
            let edits = vec![settled(id)];
            if manifest
                .commit_blocking(&mut |op| disk.run(op), edits)
                .is_err()
            {
                assert!(
                    manifest.poll_disk().is_none(),
                    "nothing is written after a failure"
                );
                break;
            }
            known = manifest.state().clone();
        }
        disk.fail = None;
        disk.files
            .retain(|file, _| !matches!(file, FileName::Temporary(_)));
        let opened = disk.open().expect("good").expect("there");
        assert_eq!(opened.state(), &known, "operation {fail_at}");
        assert_eq!(disk.files.len(), 1, "older manifests are gone");
    }
}

#[test]
fn a_rewrite_that_something_is_short_for_waits() {
    let emfile = DiskError::Io { errno: 24 };
    for error in [DiskError::NoSpace, emfile] {
        let mut disk = MemoryDisk::default();
        let mut manifest = disk.create();
        manifest.rewrite_from = 0;
        // Operation 0 of the rewrite removes a temporary, operation 1 creates one.
        disk.fail = Some((disk.operations + 1, error));
        disk.commit(&mut manifest, vec![settled(1)]);
        assert_eq!(manifest.number, 1, "the old file had room left");
        manifest.position = manifest.file_bytes;
        let full = manifest.commit_blocking(&mut |op| disk.run(op), vec![settled(2)]);
        assert!(matches!(full, Err(StorageError::Io { error: told, .. }) if told == error));
        assert_eq!(manifest.blocked_by(), Some(error));
        let is_full = error == DiskError::NoSpace;
        assert_eq!(manifest.is_out_of_space(), is_full, "no reserve helps else");
        manifest.retry_rewrite();
        manifest.drive(&mut |op| disk.run(op)).expect("it is back");
        assert_eq!(manifest.number, 2);
        assert_eq!(manifest.state().settled_lsn, Lsn(8192));
    }
}

#[test]
fn any_damaged_bit_is_survived_by_the_other_copy() {
    let mut disk = MemoryDisk::default();
    let mut manifest = disk.create();
    disk.commit(&mut manifest, every_edit());
    let last = usize::try_from(manifest.position).expect("small");
    disk.commit(&mut manifest, vec![settled(9)]);
    let whole = disk.clone();
    let end = usize::try_from(manifest.position).expect("small");
    // Every bit of the used bytes near each structure's start, then a stride over the padding.
    for bit in (0..end * 8).filter(|bit| bit / 8 % 2048 < 300 || bit % 509 == 0) {
        let mut bytes = file_of(&mut whole.clone()).clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let replayed = replay::replay(SHARD, 1, &bytes).expect("one copy is good");
        assert_eq!(&replayed.state, manifest.state(), "bit {bit}");
        assert!(replayed.copy_damaged, "bit {bit} was noticed");
        let told = replayed.damaged_copy.map(|position| position.0);
        let is_last = bit / 8 >= last;
        assert_eq!(
            told.is_some(),
            !is_last,
            "bit {bit}: a torn last run is no damage"
        );
        assert!(told.is_none_or(|position| position <= bit as u64 / 8));
    }
    let mut damaged = whole;
    file_of(&mut damaged)[5000] ^= 1;
    let opened = damaged.open().expect("good").expect("there");
    assert_eq!((opened.number, opened.state()), (2, manifest.state()));
    let healed = replay::replay(SHARD, 2, file_of(&mut damaged)).expect("good");
    assert!(!healed.copy_damaged);
}

#[test]
fn a_torn_last_run_is_dropped_and_an_earlier_one_is_corrupt() {
    let mut disk = MemoryDisk::default();
    let mut manifest = disk.create();
    let first = usize::try_from(manifest.position).expect("small");
    disk.commit(&mut manifest, vec![settled(1)]);
    let known = manifest.state().clone();
    let last = usize::try_from(manifest.position).expect("small");
    disk.commit(&mut manifest, vec![settled(2)]);
    let whole = file_of(&mut disk).clone();
    for sectors in 0..15 {
        // A prefix of the run's sixteen sectors, which ends before the second copy does, and so
        // that the first copy is not whole.
        let mut bytes = whole.clone();
        bytes[last + sectors * 512..last + 8192].fill(0);
        let replayed = replay::replay(SHARD, 1, &bytes).expect("a torn tail is normal");
        // The run's used bytes fit one sector; the padding of the copy must be zero anyway.
        let expected = if sectors == 0 {
            &known
        } else {
            manifest.state()
        };
        assert_eq!(&replayed.state, expected, "{sectors} sectors");
    }
    let mut bytes = whole;
    for page in [first, first + 4096] {
        bytes[page + 50] ^= 4;
    }
    let damage = replay::replay(SHARD, 1, &bytes).expect_err("a later run is good");
    assert_eq!(damage.found, "a run is damaged, and later runs follow it");
    assert_eq!(damage.position.0, file_length(first));
}

#[test]
fn every_cut_is_refused_or_read_up_to_its_last_whole_run() {
    let mut disk = MemoryDisk::default();
    let mut manifest = disk.create();
    let mut states = vec![manifest.state().clone()];
    for edit in every_edit() {
        disk.commit(&mut manifest, vec![edit]);
        states.push(manifest.state().clone());
    }
    let end = usize::try_from(manifest.position).expect("small");
    let whole = file_of(&mut disk).clone();
    let mut seen = 0;
    for cut in (0..end).step_by(512) {
        match replay::replay(SHARD, 1, &whole[..cut]) {
            Ok(replayed) => {
                // Two states may be equal: the file never gets shorter than what was seen.
                let later = states[seen..].iter().position(|s| *s == replayed.state);
                seen += later.expect("a state that was committed, never an older one");
            }
            Err(_) => assert!(cut < 2 * 4096, "{cut}"),
        }
    }
    assert_eq!(seen, states.len() - 1);
}

#[test]
fn a_file_of_another_shard_name_or_format_is_refused() {
    let mut disk = MemoryDisk::default();
    disk.create();
    let bytes = file_of(&mut disk).clone();
    assert!(replay::replay(ShardId(4), 1, &bytes).is_err());
    assert!(replay::replay(SHARD, 2, &bytes).is_err());
    let mut newer = bytes;
    for copy in newer[..4096].chunks_exact_mut(2048) {
        copy[8] = 2;
        let crc = crate::record::checksum(&copy[8..]);
        copy[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    let damage = replay::replay(SHARD, 1, &newer).expect_err("newer");
    assert_eq!(damage.found, "the file is of a newer format");
}

#[test]
fn golden_bytes_of_a_run() {
    let identity = RunIdentity {
        shard: SHARD,
        number: 1,
        sequence: 2,
        previous_crc: 0x0403_0201,
    };
    let edits = format::encode_edits(&[ManifestEdit::LogStarts(vec![(PartitionId(5), Offset(6))])]);
    let (copy, crc) = format::encode_run(identity, &edits);
    let mut golden = b"MRrn".to_vec();
    golden.extend_from_slice(&crc.to_le_bytes());
    golden.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    golden.extend_from_slice(&[1, 2, 3, 4, 0, 16, 0, 0, 24, 0, 0, 0, 3, 0, 0, 0]);
    golden.extend_from_slice(&[6, 0, 0, 0, 16, 0, 0, 0]);
    golden.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
    golden.resize(4096, 0);
    assert_eq!(copy, golden);
    assert_eq!(crc, crate::record::checksum(&golden[8..]));
    for edit in every_edit() {
        let bytes = format::encode_edits(std::slice::from_ref(&edit));
        assert_eq!(format::decode_edits(&bytes), Ok(vec![edit]));
        for cut in 1..bytes.len() {
            assert!(format::decode_edits(&bytes[..cut]).is_err());
        }
    }
}

#[test]
fn a_full_disk_does_not_keep_a_manifest_from_opening() {
    let mut disk = MemoryDisk::default();
    let mut manifest = disk.create();
    disk.commit(&mut manifest, every_edit());
    // A start reads in operations 0 and 1, removes a temporary in 2 and creates one in 3.
    disk.fail = Some((disk.operations + 3, DiskError::NoSpace));
    let before = disk.files.clone();
    let mut opened = disk.open().expect("good").expect("there");
    assert_eq!((opened.number, opened.state()), (1, manifest.state()));
    assert_eq!(disk.files, before, "rewritten in place, byte for byte");
    disk.commit(&mut opened, vec![settled(9)]);
    let opened = disk.open().expect("good").expect("there");
    assert_eq!(opened.number, 2);
    assert_eq!(opened.state().settled_lsn, Lsn(9 * 4096));
}
