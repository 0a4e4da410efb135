//! The numbers that storage deals in, each a type of its own so that none is taken for another.

use std::fmt;
use std::ops::{Add, Sub};

/// What time it is, read by the driver, twice a turn, and passed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// `CLOCK_BOOTTIME`: counts through suspend and never jumps. For deadlines.
    pub boot: BootTime,
    /// Wall clock, milliseconds since the Unix epoch. For stamps and retention only: it may jump.
    pub wall_ms: i64,
}

/// A point of `CLOCK_BOOTTIME`, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(pub u64);

impl BootTime {
    /// This point moved `ms` milliseconds into the future, saturating.
    #[must_use]
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Nanoseconds from `earlier` to this point; 0 when `earlier` is later.
    #[must_use]
    pub const fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The broker that a shard's directory belongs to: random, given at its first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerId(pub u128);

/// A byte address in a shard's log. Blocks are numbered by the address of their first byte; ranges
/// exclude their end. Monotone over the life of a shard directory; a new generation may jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// This address rounded up to whole pages.
    #[must_use]
    pub const fn page_ceil(self) -> Self {
        Self(self.0.next_multiple_of(PAGE_BYTES as u64))
    }
}

impl Add<u64> for Lsn {
    type Output = Self;
    fn add(self, bytes: u64) -> Self {
        Self(self.0.checked_add(bytes).expect("an LSN fits 64 bits"))
    }
}

impl Sub for Lsn {
    type Output = u64;
    fn sub(self, earlier: Self) -> u64 {
        self.0
            .checked_sub(earlier.0)
            .expect("LSN ranges run forward")
    }
}

/// A record's number in its partition. Dense: appends take consecutive offsets, and only an
/// operator-accepted loss jumps. At most `i64::MAX`, Kafka's range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Add<u64> for Offset {
    type Output = Self;
    fn add(self, records: u64) -> Self {
        Self(self.0.checked_add(records).expect("an offset fits 64 bits"))
    }
}

impl Sub for Offset {
    type Output = u64;
    fn sub(self, earlier: Self) -> u64 {
        self.0
            .checked_sub(earlier.0)
            .expect("offset ranges run forward")
    }
}

/// A byte position in one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePosition(pub u64);

/// An ordered log of records: a partition of a topic, or the log under a queue. Given out by the
/// catalog, unique in the broker, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

/// One core's engine and its directory `shard-N`. Directories outlive the core count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// The random number drawn for one life of a WAL file. It seeds every checksum in the file, so a
/// block that an earlier life left behind never passes for one of this life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation(pub u64);

/// One life of a WAL file: rises by one each time a slot is put into use. Never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LifeId(pub u64);

/// Names a pack or segment file in one shard's directory. Never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId(pub u64);

/// The leader epoch of a partition. Rises only when an operator accepted a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderEpoch(pub i32);

macro_rules! shown_as_number {
    ($($name:ident),+) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        })+
    };
}
shown_as_number!(
    Lsn,
    Offset,
    FilePosition,
    PartitionId,
    ShardId,
    LifeId,
    PackId,
    LeaderEpoch
);

/// The unit of every O_DIRECT transfer: positions, lengths and memory are multiples of it.
pub const PAGE_BYTES: usize = 4096;

/// `bytes` rounded up to whole pages.
#[must_use]
pub const fn page_ceil(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES
}
