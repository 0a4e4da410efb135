//! `bench disk`: what the disk itself can do, the way the broker's log uses it: the floor under
//! every acknowledgement.
//!
//! A commit is one direct write, durable when it returns, into a file that was filled with zeros
//! before, from memory that the kernel knows. With several in flight a commit counts, as in the
//! log, when it and all before it are done. The file is opened with O_DSYNC, which makes each write
//! what the log's RWF_DSYNC makes it. Each completion passes through the generator's runtime, some
//! microseconds that the broker's own ring does not need, and more on busy cores: so a lone commit
//! is measured as a blocking call too, which waits for nobody but the disk: back to back, which
//! keeps disk and cores awake, and at a message's pace, between which they fall asleep.
//!
//! A broker has its bytes from somewhere. So the largest commits are measured once more by a thread
//! that receives each from a socket first and does nothing else with it: what is left of the disk
//! beside that is the most that one shard can accept in a burst.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::fs::OFlags;
use rustix::io::{ReadWriteFlags, pwritev2};
use serde::Serialize;

use crate::args::DiskArgs;
use crate::machine::{Machine, Storage};
use crate::recorder::Latency;
use crate::report::LatencyReport;
use crate::schedule::Clock;
use crate::table::{micros_text, rate_text};
use crate::transport::{self, DIRECT_BYTES, DirectFile};

const SCHEMA_VERSION: u32 = 1;
/// The file that is written round and round; larger than what a disk's own cache hides.
const FILE_BYTES: u64 = 256 << 20;
const COMMIT_BYTES: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];
/// Bytes of a commit that was received.
const RECEIVED_BYTES: usize = 1 << 20;
/// Bytes of a commit at a message's pace.
const PACED_BYTES: usize = 4 << 10;
const GROUPS_IN_FLIGHT: [usize; 2] = [1, 4];
const READ_BYTES: usize = 1 << 20;
const READS_IN_FLIGHT: usize = 4;

/// The floor, as measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DiskReport {
    schema_version: u32,
    tool: &'static str,
    tool_version: &'static str,
    machine: Machine,
    storage: Storage,
    commits: Vec<CommitReport>,
    sequential_read: ReadReport,
}

/// How a commit is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Call {
    /// Through a ring.
    Ring,
    /// By a thread that sleeps until it is done; one in flight.
    Blocking,
    /// The same, at a given rate.
    Paced,
    /// Through a ring, by a thread that first receives the bytes from a socket.
    Received,
}

/// One way of committing.
#[derive(Clone, Debug, Serialize)]
struct CommitReport {
    call: Call,
    commit_bytes: usize,
    groups_in_flight: usize,
    commits_per_s: f64,
    bytes_per_s: f64,
    latency: LatencyReport,
}

#[derive(Clone, Debug, Serialize)]
struct ReadReport {
    read_bytes: usize,
    reads_in_flight: usize,
    bytes_per_s: f64,
}

/// Measures the disk under `--dir`.
pub(crate) fn run(args: &DiskArgs) -> anyhow::Result<DiskReport> {
    let storage = Storage::of(&args.dir)?;
    eprintln!(
        "disk under {}: {} ({})",
        storage.directory.display(),
        storage.file_system,
        storage.device
    );
    let file = create(&args.dir)?;
    let mut commits = Vec::new();
    let lone = |bytes, pace| commit_blocking(&file, bytes, pace, args.duration);
    eprintln!("commits of {PACED_BYTES} B, {} a second", args.rate);
    commits.push(lone(PACED_BYTES, Some(Duration::from_secs(1) / args.rate))?);
    for commit_bytes in COMMIT_BYTES {
        eprintln!("commits of {commit_bytes} B, blocking");
        commits.push(lone(commit_bytes, None)?);
        for groups_in_flight in GROUPS_IN_FLIGHT {
            eprintln!("commits of {commit_bytes} B, {groups_in_flight} in flight");
            let way = Way {
                bytes: commit_bytes,
                in_flight: groups_in_flight,
            };
            commits.push(commit(file.try_clone()?, way, None, args.duration)?);
        }
    }
    eprintln!("commits of {RECEIVED_BYTES} B, received from a socket");
    let way = Way {
        bytes: RECEIVED_BYTES,
        in_flight: GROUPS_IN_FLIGHT[1],
    };
    commits.push(commit(
        file.try_clone()?,
        way,
        Some(stream()?),
        args.duration,
    )?);
    eprintln!("sequential reads of {READ_BYTES} B, {READS_IN_FLIGHT} in flight");
    let sequential_read = read(file)?;
    Ok(DiskReport {
        schema_version: SCHEMA_VERSION,
        tool: "millrace bench disk",
        tool_version: env!("CARGO_PKG_VERSION"),
        machine: Machine::describe(),
        storage,
        commits,
        sequential_read,
    })
}

/// How much at once, and how often at once.
#[derive(Clone, Copy, Debug)]
struct Way {
    bytes: usize,
    in_flight: usize,
}

/// Makes a file of zeros, durable, that goes when it is closed, whatever ends this process.
fn create(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join(format!("millrace-bench-disk-{}", std::process::id()));
    let mut zeros = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    let flags = OFlags::DIRECT | OFlags::DSYNC;
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(flags.bits()).expect("open flags are a C int"))
        .open(&path)
        .with_context(|| format!("{} takes no direct writes", directory.display()));
    fs::remove_file(&path)?;
    let direct = direct?;
    let zero = vec![0; READ_BYTES];
    let mut written = 0;
    while written < FILE_BYTES {
        zeros.write_all(&zero).context("cannot fill the file")?;
        written += u64::try_from(zero.len())?;
    }
    zeros.sync_all()?;
    Ok(direct)
}

/// A connection on which bytes never end.
fn stream() -> anyhow::Result<TcpStream> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    let mut sender = TcpStream::connect(listener.local_addr()?).context("cannot connect")?;
    let bytes = vec![0x5a; RECEIVED_BYTES];
    // Ends with the connection.
    std::thread::spawn(move || while sender.write_all(&bytes).is_ok() {});
    Ok(listener.accept().context("cannot accept")?.0)
}

/// Commits for `duration`, one after the other through the file, round and round; what `source`
/// brings, if there is one.
fn commit(
    file: File,
    way: Way,
    source: Option<TcpStream>,
    duration: Duration,
) -> anyhow::Result<CommitReport> {
    let call = source.as_ref().map_or(Call::Ring, |_| Call::Received);
    let (latency, lasted) = transport::run(async {
        let file = DirectFile::new(file, way.in_flight, way.bytes)
            .context("cannot register buffers; is the locked-memory limit too low?")?;
        let commits = Rc::new(Commits {
            file,
            way,
            source: RefCell::new(source),
            clock: Clock::start(),
            until: Instant::now() + duration,
            queue: RefCell::default(),
            latency: RefCell::new(Latency::new()),
        });
        let tasks: Vec<_> = (0..way.in_flight)
            .map(|slot| transport::spawn(commits.clone().run(slot)))
            .collect();
        for task in tasks {
            task.await?.context("a commit failed")?;
        }
        let latency = commits.latency.replace(Latency::new());
        let lasted = Duration::from_nanos(commits.clock.now_ns());
        anyhow::Ok((latency, lasted.as_secs_f64()))
    })?;
    CommitReport::new(call, way, &latency, lasted)
}

/// The same, one after the other, without a ring; each is due `pace` after the last, and begins
/// at once when that is past. The time counts from the call: a late waking is not the disk's.
fn commit_blocking(
    file: &File,
    bytes: usize,
    pace: Option<Duration>,
    duration: Duration,
) -> anyhow::Result<CommitReport> {
    let memory = vec![0x5a; bytes + DIRECT_BYTES];
    let at = memory.as_ptr().align_offset(DIRECT_BYTES);
    let block = [IoSlice::new(&memory[at..at + bytes])];
    let commit_bytes = u64::try_from(bytes)?;
    let clock = Clock::start();
    let mut latency = Latency::new();
    let mut position = 0;
    let until_ns = u64::try_from(duration.as_nanos())?;
    let mut due = Duration::ZERO;
    loop {
        let early = due.saturating_sub(Duration::from_nanos(clock.now_ns()));
        if !early.is_zero() {
            std::thread::sleep(early);
        }
        let begun_ns = clock.now_ns();
        if begun_ns >= until_ns {
            break;
        }
        due += pace.unwrap_or_default();
        let written = pwritev2(file, &block, position, ReadWriteFlags::DSYNC);
        ensure!(
            written.context("a commit failed")? == bytes,
            "a commit was cut short"
        );
        latency.record(clock.now_ns() - begun_ns, 1);
        position = (position + commit_bytes) % FILE_BYTES;
    }
    let lasted = Duration::from_nanos(clock.now_ns()).as_secs_f64();
    let call = pace.map_or(Call::Blocking, |_| Call::Paced);
    let in_flight = 1;
    CommitReport::new(call, Way { bytes, in_flight }, &latency, lasted)
}

impl CommitReport {
    fn new(call: Call, way: Way, latency: &Latency, lasted_s: f64) -> anyhow::Result<Self> {
        let commits_per_s = latency.count() as f64 / lasted_s;
        Ok(Self {
            call,
            commit_bytes: way.bytes,
            groups_in_flight: way.in_flight,
            commits_per_s,
            bytes_per_s: commits_per_s * way.bytes as f64,
            latency: LatencyReport::of(latency).context("not one commit in the time")?,
        })
    }
}

/// What the slots of one measurement share.
struct Commits {
    file: DirectFile,
    way: Way,
    source: RefCell<Option<TcpStream>>,
    clock: Clock,
    until: Instant,
    queue: RefCell<Queue>,
    latency: RefCell<Latency>,
}

/// Commits on their way, oldest first.
#[derive(Default)]
struct Queue {
    /// Number of the first in `begun`.
    first: u64,
    /// When each began, and whether its write is done.
    begun: VecDeque<(u64, bool)>,
}

impl Commits {
    async fn run(self: Rc<Self>, slot: usize) -> std::io::Result<()> {
        let commit_bytes = u64::try_from(self.way.bytes).expect("64-bit targets only");
        while Instant::now() < self.until {
            if let Some(source) = &mut *self.source.borrow_mut() {
                self.file.fill(slot, source)?;
            }
            let number = self.queue.borrow_mut().begin(self.clock.now_ns());
            let position = number % (FILE_BYTES / commit_bytes) * commit_bytes;
            self.file.write(slot, position).await?;
            let now_ns = self.clock.now_ns();
            let mut latency = self.latency.borrow_mut();
            self.queue.borrow_mut().finish(number, |begun_ns| {
                latency.record(now_ns - begun_ns, 1);
            });
        }
        Ok(())
    }
}

impl Queue {
    fn begin(&mut self, now_ns: u64) -> u64 {
        self.begun.push_back((now_ns, false));
        self.first + u64::try_from(self.begun.len()).expect("64-bit targets only") - 1
    }

    /// Marks a write as done and calls `acknowledge` for every commit that this makes durable.
    fn finish(&mut self, number: u64, mut acknowledge: impl FnMut(u64)) {
        let index = usize::try_from(number - self.first).expect("64-bit targets only");
        self.begun[index].1 = true;
        while let Some((begun_ns, true)) = self.begun.front().copied() {
            acknowledge(begun_ns);
            self.begun.pop_front();
            self.first += 1;
        }
    }
}

/// Reads the file once from front to back.
fn read(file: File) -> anyhow::Result<ReadReport> {
    let blocks = FILE_BYTES / u64::try_from(READ_BYTES)?;
    let lasted = transport::run(async {
        let file = Rc::new(DirectFile::new(file, READS_IN_FLIGHT, READ_BYTES)?);
        let next = Rc::new(RefCell::new(0));
        let begun = Instant::now();
        let tasks: Vec<_> = (0..READS_IN_FLIGHT)
            .map(|slot| transport::spawn(read_blocks(file.clone(), next.clone(), slot, blocks)))
            .collect();
        for task in tasks {
            task.await?.context("a read failed")?;
        }
        anyhow::Ok(begun.elapsed().as_secs_f64())
    })?;
    ensure!(lasted > 0.0, "the clock stood still");
    Ok(ReadReport {
        read_bytes: READ_BYTES,
        reads_in_flight: READS_IN_FLIGHT,
        bytes_per_s: FILE_BYTES as f64 / lasted,
    })
}

async fn read_blocks(
    file: Rc<DirectFile>,
    next: Rc<RefCell<u64>>,
    slot: usize,
    blocks: u64,
) -> std::io::Result<()> {
    let read_bytes = u64::try_from(READ_BYTES).expect("64-bit targets only");
    loop {
        let block = next.replace_with(|next| *next + 1);
        if block >= blocks {
            return Ok(());
        }
        file.read(slot, block * read_bytes).await?;
    }
}

impl DiskReport {
    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut out = format!(
            "\ndurable commits, direct into a zero-filled file, {} ({})\n",
            self.storage.file_system, self.storage.device
        );
        if !self.storage.durable {
            out += "NOT DURABLE: files are in memory\n";
        }
        writeln!(
            out,
            "\n{:>10}{:>10}{:>11}{:>14}{:>14}{:>10}{:>10}{:>10}",
            "bytes", "call", "in flight", "commits/s", "MB/s", "p50", "p99", "max"
        )
        .expect("a string takes everything");
        for commit in &self.commits {
            let latency = &commit.latency;
            writeln!(
                out,
                "{:>10}{:>10}{:>11}{:>14}{:>14.1}{:>10}{:>10}{:>10}",
                commit.commit_bytes,
                match commit.call {
                    Call::Ring => "ring",
                    Call::Blocking => "blocking",
                    Call::Paced => "paced",
                    Call::Received => "received",
                },
                commit.groups_in_flight,
                rate_text(commit.commits_per_s),
                commit.bytes_per_s / 1e6,
                micros_text(latency.p50_us),
                micros_text(latency.p99_us),
                micros_text(latency.max_us),
            )
            .expect("a string takes everything");
        }
        writeln!(
            out,
            "\nsequential reads of {} B, {} in flight: {:.1} MB/s",
            self.sequential_read.read_bytes,
            self.sequential_read.reads_in_flight,
            self.sequential_read.bytes_per_s / 1e6
        )
        .expect("a string takes everything");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_count_in_order_whatever_order_their_writes_end_in() {
        let mut queue = Queue::default();
        let numbers = [queue.begin(10), queue.begin(20), queue.begin(30)];
        assert_eq!(numbers, [0, 1, 2]);
        let mut acknowledged = Vec::new();
        queue.finish(1, |begun_ns| acknowledged.push(begun_ns));
        assert!(acknowledged.is_empty(), "the first is still on its way");
        queue.finish(0, |begun_ns| acknowledged.push(begun_ns));
        assert_eq!(acknowledged, [10, 20]);
        assert_eq!(queue.begin(40), 3);
        queue.finish(3, |_| panic!("2 is still on its way"));
        queue.finish(2, |begun_ns| acknowledged.push(begun_ns));
        assert_eq!(acknowledged, [10, 20, 30, 40]);
    }

    #[test]
    fn the_floor_can_be_measured_on_the_disk_under_this_crate() {
        let way = Way {
            bytes: 4096,
            in_flight: 2,
        };
        // A file system without direct I/O cannot be measured, and says so.
        let Ok(file) = create(Path::new(env!("CARGO_MANIFEST_DIR"))) else {
            return;
        };
        for source in [None, Some(stream().expect("connected"))] {
            let call = source.as_ref().map_or(Call::Ring, |_| Call::Received);
            let file = file.try_clone().expect("one more handle");
            let report = commit(file, way, source, Duration::from_millis(200));
            let report = report.expect("measured");
            assert_eq!(report.call, call);
            assert!(report.commits_per_s > 0.0 && report.latency.p50_us > 0.0);
        }
        let lone = |pace| commit_blocking(&file, 4096, pace, Duration::from_millis(200));
        assert!(lone(None).expect("measured").latency.p50_us > 0.0);
        let paced = lone(Some(Duration::from_millis(10))).expect("measured");
        assert!(paced.call == Call::Paced && paced.latency.p50_us > 0.0);
        assert!(paced.commits_per_s <= 110.0, "not more than was asked for");
        assert!(read(file).expect("read").bytes_per_s > 0.0);
    }
}
