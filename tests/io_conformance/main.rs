//! One body of disk operations, run on every disk there is: the simulated one, plain system calls
//! as at start-up, and the ring. What a store can see must be the same on all of them, or the
//! simulation proves nothing.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use millrace_net::uring::disk::Disk;
use millrace_net::uring::files::Files;
use millrace_net::uring::ring::Ring;
use millrace_storage::buf::AlignedBuf;
use millrace_storage::disk::{
    BlockingDisk, DiskDone, DiskError, DiskOp, DiskOutcome, DiskToken, FileName, WriteSync,
};
use millrace_storage::testing::SimDisk;
use millrace_storage::units::{FilePosition, PAGE_BYTES, PackId, ShardId};

const SHARD: ShardId = ShardId(1);
const OTHER_SHARD: ShardId = ShardId(0);

/// A question put to every disk.
type Body = fn(machine: &mut dyn Machine);

/// One machine with the directories of two shards.
trait Machine {
    fn run(&mut self, shard: ShardId, op: DiskOp) -> DiskDone;
}

const BODIES: [(&str, Body); 7] = [
    ("writes_are_read_back", writes_are_read_back),
    ("a_read_stops_at_the_end", a_read_stops_at_the_end),
    ("missing_files_are_named_so", missing_files_are_named_so),
    ("creation_is_exclusive", creation_is_exclusive),
    ("a_rename_replaces", a_rename_replaces),
    ("a_link_outlives_its_source", a_link_outlives_its_source),
    (
        "a_punched_range_reads_as_zeros",
        a_punched_range_reads_as_zeros,
    ),
];

#[test]
fn the_simulated_disk_conforms() {
    struct Simulated(SimDisk);
    impl Machine for Simulated {
        fn run(&mut self, shard: ShardId, op: DiskOp) -> DiskDone {
            self.0.run(shard, op)
        }
    }
    for (_, body) in BODIES {
        body(&mut Simulated(SimDisk::new(1)));
    }
}

#[test]
fn plain_system_calls_conform() {
    struct Plain([Files; 2]);
    impl Machine for Plain {
        fn run(&mut self, shard: ShardId, op: DiskOp) -> DiskDone {
            self.0[usize::from(shard.0)].run(op)
        }
    }
    for (name, body) in BODIES {
        let directory = Scratch::new(&format!("plain-{name}"));
        body(&mut Plain(directory.shards(2)));
    }
}

#[test]
fn the_ring_conforms() {
    for (name, body) in BODIES {
        let directory = Scratch::new(&format!("ring-{name}"));
        body(&mut OnRing::new(directory.shards(2)));
    }
}

#[test]
fn the_ring_conforms_with_one_descriptor() {
    for (name, body) in BODIES {
        let directory = Scratch::new(&format!("few-{name}"));
        body(&mut OnRing::new(directory.shards(1)));
    }
}

/// A limit on file sizes makes the kernel itself write short: the rest of the tests would suffer,
/// so this one runs again in a process of its own.
#[test]
fn a_short_write_is_never_done() {
    const LIMITED: &str = "MILLRACE_TEST_DIRECTORY_UNDER_A_LIMIT";
    const FILE: FileName = FileName::Wal(0);
    if let Ok(path) = std::env::var(LIMITED) {
        return short_writes_are_told(&Scratch(PathBuf::from(path)), FILE);
    }
    let directory = Scratch::new("short");
    let [_, mut files] = directory.shards(2);
    let mut disk = Session {
        disk: Box::new(move |op| files.run(op)),
        token: 0,
    };
    assert_eq!(disk.create(FILE, 8), DONE);
    let test = std::env::current_exe().expect("a test knows itself");
    // 48 blocks of 512 bytes: six pages.
    // Its words through pipes: a file that this test writes to may be past the limit.
    let inner = Command::new("sh")
        .args([
            "-c",
            "ulimit -f 48; exec \"$0\" --exact a_short_write_is_never_done",
        ])
        .arg(test)
        .env(LIMITED, &directory.0)
        .output()
        .expect("a shell starts");
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (words(&inner.stdout), words(&inner.stderr));
    assert!(inner.status.success(), "{out}{err}");
    std::mem::forget(directory); // The inner process removed it.
}

/// Descriptors of this process on packs under `directory`.
fn packs_open(directory: &Scratch) -> usize {
    let links = fs::read_dir("/proc/self/fd").expect("a process sees its descriptors");
    let files = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    let is_pack = |path: &PathBuf| path.to_string_lossy().contains("/pack-");
    files
        .filter(|path| path.starts_with(&directory.0) && is_pack(path))
        .count()
}

/// Reads of more files than may be open at once wait for each other, and for nobody else; a log
/// that takes all descriptors leaves one.
#[test]
fn a_crowd_of_reads_keeps_to_its_descriptors() {
    const PACKS: u64 = 40;
    const OPEN_MAX: usize = 6;
    for (logs, packs_max) in [(0, 6), (2, 4), (8, 1)] {
        let directory = Scratch::new(&format!("crowd-{logs}"));
        let mut ring = OnRing::new(directory.shards(OPEN_MAX));
        let mut session = Session::new(&mut ring, SHARD);
        for log in 0..logs {
            let file = FileName::Wal(log);
            assert_eq!(session.create(file, 1), DONE);
        }
        for pack in 0..PACKS {
            let file = FileName::Pack(PackId(pack));
            assert_eq!(session.create(file, 1), DONE);
        }
        drop(session);
        let disk = &mut ring.disks[usize::from(SHARD.0)];
        for token in 0..2 * PACKS {
            let read = DiskOp::Read {
                token: DiskToken(token),
                file: FileName::Pack(PackId(token % PACKS)),
                position: FilePosition(0),
                buffer: AlignedBuf::zeroed(PAGE_BYTES),
            };
            disk.submit(&mut ring.ring, read);
        }
        let (mut completions, mut answered) = (Vec::new(), 0);
        while answered < 2 * PACKS {
            ring.ring.submit_and_wait(Duration::from_secs(10));
            let open = packs_open(&directory);
            assert!(open <= packs_max, "{open} beside {logs} log files");
            ring.ring.reap(&mut completions);
            for completion in completions.drain(..) {
                disk.handle(&mut ring.ring, completion);
            }
            while let Some(done) = disk.poll_done() {
                assert_eq!(done.result, DONE);
                answered += 1;
            }
        }
        assert_eq!(disk.in_flight(), 0);
    }
}

fn short_writes_are_told(directory: &Scratch, file: FileName) {
    let [_, mut files] = directory.shards(2);
    let mut ring = OnRing::new(directory.shards(2));
    let disks: [Box<BlockingDisk<'_>>; 2] = [
        Box::new(move |op| files.run(op)),
        Box::new(move |op| ring.run(SHARD, op)),
    ];
    for disk in disks {
        let mut disk = Session { disk, token: 0 };
        for sync in [
            WriteSync::None,
            WriteSync::Dsync,
            WriteSync::LinkedFdatasync,
        ] {
            assert_eq!(disk.write(file, 2, pages(4, 1), sync), DONE);
            let short = Ok(DiskOutcome::Transferred(2 * PAGE_BYTES));
            assert_eq!(disk.write(file, 4, pages(4, 1), sync), short);
            let refused = Err(DiskError::Io { errno: 27 });
            assert_eq!(disk.write(file, 6, pages(1, 1), sync), refused);
        }
    }
}

/// Two disks on one ring.
struct OnRing {
    // Declared before the disks: the ring goes first.
    ring: Ring,
    disks: [Disk; 2],
}

impl OnRing {
    fn new(files: [Files; 2]) -> Self {
        let mut ring = Ring::new(8).expect("the kernel gives a ring");
        ring.enable().expect("the ring is enabled once");
        Self {
            ring,
            disks: files.map(Disk::new),
        }
    }
}

impl Machine for OnRing {
    fn run(&mut self, shard: ShardId, op: DiskOp) -> DiskDone {
        let disk = &mut self.disks[usize::from(shard.0)];
        disk.submit(&mut self.ring, op);
        let mut completions = Vec::new();
        loop {
            if let Some(done) = disk.poll_done() {
                return done;
            }
            self.ring.submit_and_wait(Duration::from_secs(10));
            self.ring.reap(&mut completions);
            for completion in completions.drain(..) {
                disk.handle(&mut self.ring, completion);
            }
        }
    }
}

/// A data directory on a real file system, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        if path.exists() {
            fs::remove_dir_all(&path).expect("an earlier run's files go");
        }
        fs::create_dir_all(&path).expect("the target directory is writable");
        Self(path)
    }

    fn shards(&self, files_open_max: usize) -> [Files; 2] {
        [OTHER_SHARD, SHARD]
            .map(|shard| Files::open(&self.0, shard, files_open_max).expect("the directory opens"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.0);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

const PACK: FileName = FileName::Pack(PackId(3));
const DONE: Result<DiskOutcome, DiskError> = Ok(DiskOutcome::Done);

fn pages(count: usize, fill: u8) -> AlignedBuf {
    let mut buffer = AlignedBuf::zeroed(count * PAGE_BYTES);
    buffer.fill(fill);
    buffer
}

/// Operations on one shard, each with a token of its own.
struct Session<'a> {
    disk: Box<BlockingDisk<'a>>,
    token: u64,
}

impl<'a> Session<'a> {
    fn new(machine: &'a mut dyn Machine, shard: ShardId) -> Self {
        Self {
            disk: Box::new(move |op| machine.run(shard, op)),
            token: 0,
        }
    }

    fn run(&mut self, make: impl FnOnce(DiskToken) -> DiskOp) -> DiskDone {
        self.token += 1;
        let done = (self.disk)(make(DiskToken(self.token)));
        assert_eq!(done.token, DiskToken(self.token));
        done
    }

    fn result(&mut self, make: impl FnOnce(DiskToken) -> DiskOp) -> Result<DiskOutcome, DiskError> {
        self.run(make).result
    }

    fn create(&mut self, file: FileName, pages: usize) -> Result<DiskOutcome, DiskError> {
        let bytes = (pages * PAGE_BYTES) as u64;
        self.result(|token| DiskOp::Create { token, file, bytes })
    }

    fn write(
        &mut self,
        file: FileName,
        page: usize,
        buffer: AlignedBuf,
        sync: WriteSync,
    ) -> Result<DiskOutcome, DiskError> {
        let position = FilePosition((page * PAGE_BYTES) as u64);
        let sent = buffer.to_vec();
        let done = self.run(|token| DiskOp::Write {
            token,
            file,
            position,
            buffer,
            sync,
        });
        assert_eq!(*done.buffer.expect("the buffer comes back"), *sent);
        done.result
    }

    fn read(
        &mut self,
        file: FileName,
        page: usize,
        pages: usize,
    ) -> (Result<DiskOutcome, DiskError>, AlignedBuf) {
        let position = FilePosition((page * PAGE_BYTES) as u64);
        let done = self.run(|token| DiskOp::Read {
            token,
            file,
            position,
            buffer: AlignedBuf::zeroed(pages * PAGE_BYTES),
        });
        (done.result, done.buffer.expect("the buffer comes back"))
    }

    fn names(&mut self) -> Vec<(FileName, u64)> {
        match self.result(|token| DiskOp::List { token }) {
            Ok(DiskOutcome::Listed(listing)) => listing.files,
            other => panic!("a listing, not {other:?}"),
        }
    }
}

fn writes_are_read_back(machine: &mut dyn Machine) {
    let mut disk = Session::new(machine, SHARD);
    let file = FileName::Wal(0);
    assert_eq!(disk.create(file, 8), DONE);
    assert_eq!(disk.write(file, 0, pages(1, 1), WriteSync::Dsync), DONE);
    assert_eq!(
        disk.write(file, 1, pages(2, 2), WriteSync::LinkedFdatasync),
        DONE
    );
    assert_eq!(disk.write(file, 3, pages(1, 3), WriteSync::None), DONE);
    assert_eq!(disk.result(|token| DiskOp::Sync { token, file }), DONE);
    assert_eq!(disk.result(|token| DiskOp::SyncDirectory { token }), DONE);
    let (result, buffer) = disk.read(file, 0, 5);
    assert_eq!(result, DONE);
    for (page, fill) in [1, 2, 2, 3, 0].into_iter().enumerate() {
        let bytes = &buffer[page * PAGE_BYTES..][..PAGE_BYTES];
        assert!(bytes.iter().all(|byte| *byte == fill), "page {page}");
    }
    assert_eq!(disk.names(), [(file, 8 * PAGE_BYTES as u64)]);
    let space = disk.result(|token| DiskOp::Space { token });
    assert!(matches!(space, Ok(DiskOutcome::Space(space)) if space.available_bytes > 0));
}

fn a_read_stops_at_the_end(machine: &mut dyn Machine) {
    let mut disk = Session::new(machine, SHARD);
    assert_eq!(disk.create(PACK, 3), DONE);
    let (result, _) = disk.read(PACK, 1, 4);
    assert_eq!(result, Ok(DiskOutcome::Transferred(2 * PAGE_BYTES)));
    let (result, _) = disk.read(PACK, 3, 1);
    assert_eq!(result, Ok(DiskOutcome::Transferred(0)));
    // A file grows by writing past its end; what is skipped reads as zeros.
    assert_eq!(disk.write(PACK, 5, pages(1, 9), WriteSync::None), DONE);
    let (result, buffer) = disk.read(PACK, 4, 2);
    assert_eq!(result, DONE);
    assert_eq!((buffer[0], buffer[PAGE_BYTES]), (0, 9));
}

fn missing_files_are_named_so(machine: &mut dyn Machine) {
    let mut disk = Session::new(machine, SHARD);
    let missing = Err(DiskError::NotFound);
    let file = PACK;
    assert_eq!(disk.read(file, 0, 1).0, missing);
    assert_eq!(disk.write(file, 0, pages(1, 1), WriteSync::Dsync), missing);
    assert_eq!(disk.result(|token| DiskOp::Sync { token, file }), missing);
    assert_eq!(disk.result(|token| DiskOp::Remove { token, file }), missing);
    let to = FileName::Temporary(1);
    let rename = |token| DiskOp::Rename {
        token,
        from: file,
        to,
    };
    assert_eq!(disk.result(rename), missing);
    assert_eq!(disk.names(), []);
}

fn creation_is_exclusive(machine: &mut dyn Machine) {
    let mut disk = Session::new(machine, SHARD);
    assert_eq!(disk.create(PACK, 1), DONE);
    assert_eq!(disk.write(PACK, 0, pages(1, 4), WriteSync::Dsync), DONE);
    assert_eq!(disk.create(PACK, 1), Err(DiskError::AlreadyExists));
    assert_eq!(disk.read(PACK, 0, 1).1[0], 4);
    assert_eq!(
        disk.result(|token| DiskOp::Remove { token, file: PACK }),
        DONE
    );
    assert_eq!(disk.create(PACK, 2), DONE);
    assert_eq!(disk.read(PACK, 0, 2).1[0], 0);
    assert_eq!(disk.create(FileName::Temporary(0), 0), DONE);
    let sizes = [(PACK, 2 * PAGE_BYTES as u64), (FileName::Temporary(0), 0)];
    assert_eq!(disk.names(), sizes);
}

fn a_rename_replaces(machine: &mut dyn Machine) {
    let mut disk = Session::new(machine, SHARD);
    let (from, to) = (FileName::Temporary(1), FileName::Manifest(1));
    for (file, fill) in [(from, 5), (to, 6)] {
        assert_eq!(disk.create(file, 1), DONE);
        assert_eq!(disk.write(file, 0, pages(1, fill), WriteSync::Dsync), DONE);
    }
    assert_eq!(
        disk.result(|token| DiskOp::Rename { token, from, to }),
        DONE
    );
    assert_eq!(disk.read(to, 0, 1).1[0], 5);
    assert_eq!(disk.read(from, 0, 1).0, Err(DiskError::NotFound));
    assert_eq!(disk.names(), [(to, PAGE_BYTES as u64)]);
}

fn a_link_outlives_its_source(machine: &mut dyn Machine) {
    let from = FileName::Pack(PackId(8));
    let mut source = Session::new(machine, OTHER_SHARD);
    assert_eq!(source.create(from, 1), DONE);
    assert_eq!(source.write(from, 0, pages(1, 7), WriteSync::Dsync), DONE);
    drop(source);
    let link = |token| DiskOp::Link {
        token,
        from_shard: OTHER_SHARD,
        from,
        to: PACK,
    };
    let mut disk = Session::new(machine, SHARD);
    assert_eq!(disk.result(link), DONE);
    assert_eq!(disk.result(link), Err(DiskError::AlreadyExists));
    drop(disk);
    let mut source = Session::new(machine, OTHER_SHARD);
    assert_eq!(
        source.result(|token| DiskOp::Remove { token, file: from }),
        DONE
    );
    drop(source);
    let mut disk = Session::new(machine, SHARD);
    assert_eq!(disk.read(PACK, 0, 1).1[0], 7);
}

fn a_punched_range_reads_as_zeros(machine: &mut dyn Machine) {
    let mut disk = Session::new(machine, SHARD);
    assert_eq!(disk.create(PACK, 4), DONE);
    assert_eq!(disk.write(PACK, 0, pages(4, 1), WriteSync::Dsync), DONE);
    let punch = |token| DiskOp::PunchHole {
        token,
        file: PACK,
        position: FilePosition(PAGE_BYTES as u64),
        bytes: 2 * PAGE_BYTES as u64,
    };
    assert_eq!(disk.result(punch), DONE);
    let (result, buffer) = disk.read(PACK, 0, 4);
    assert_eq!(result, DONE);
    let firsts = [0, 1, 2, 3].map(|page| buffer[page * PAGE_BYTES]);
    assert_eq!(firsts, [1, 0, 0, 1]);
    assert_eq!(disk.names(), [(PACK, 4 * PAGE_BYTES as u64)]);
}
