//! Room on the disk: when producers are refused, and the reserve that keeps the rest working.
//!
//! The `reserve` is a preallocated file of no content. While there is room it is held; when
//! something that must go on finds none, it is removed so that settling, and with it deletes and
//! retention, can go on; it is taken again when there is room for it and for some more. Only a file
//! of the wanted size counts: a process that ends between creating and allocating it leaves an
//! empty one, and the wanted size is the operator's to change.
//!
//! Batches are refused from the low-water mark on, until there is a little more room than that;
//! and, wherever the mark is, from when a settle pass, a manifest or a log file that nothing else
//! makes up for found no room, until the reserve is whole again. A disk without room for the
//! reserve takes batches until then. Entries of state (acknowledgements, deletes) are taken all the
//! time: they go into WAL files that exist already.

use std::collections::VecDeque;

use crate::blocking::StartDisk;
use crate::config::StoreConfig;
use crate::disk::{
    DiskDone, DiskError, DiskOp, DiskOutcome, DiskSpace, DiskToken, DiskTokens, FileName, Listing,
};
use crate::error::StorageError;
use crate::units::{BootTime, Now, PAGE_BYTES, ShardId};

/// The tag of these tokens.
pub(crate) const SPACE_TAG: u8 = 36;
/// How often the file system is asked.
const ASK_AFTER_MS: u64 = 1000;
/// On a small disk neither reserve nor low-water mark is more than this part of it.
const SMALL_DISK_PART: u64 = 16;
/// What a start may need: a manifest, and a WAL file when none is free.
const START_SLACK_BYTES: u64 = 4 << 20;

/// What is known of the disk's room.
#[derive(Debug)]
pub(crate) struct Space {
    shard: ShardId,
    reserve_bytes_max: u64,
    low_bytes_max: u64,
    tokens: DiskTokens,
    last: Option<DiskSpace>,
    ask_at: BootTime,
    asking: Option<DiskToken>,
    reserve: Reserve,
    /// Batches are refused.
    is_full: bool,
    /// They are until the reserve is whole again.
    awaits_reserve: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserve {
    Missing,
    Taking(DiskToken),
    Held,
    Releasing(DiskToken),
}

/// What a completion changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpaceNews {
    Nothing,
    /// There is room that was not there before: what found none may try again.
    Room,
    /// The disk came down to its low-water mark, or has room again.
    Full(bool),
}

impl Space {
    pub(crate) fn new(config: &StoreConfig, now: Now, has_reserve: bool) -> Self {
        Self {
            shard: config.shard,
            reserve_bytes_max: config.reserve_bytes,
            low_bytes_max: config.disk_low_bytes,
            tokens: DiskTokens::new(SPACE_TAG),
            last: None,
            ask_at: now.boot.after_ms(ASK_AFTER_MS),
            asking: None,
            reserve: if has_reserve {
                Reserve::Held
            } else {
                Reserve::Missing
            },
            is_full: false,
            awaits_reserve: false,
        }
    }

    /// Whether batches are refused.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Whether the disk has room for `bytes` beside everything that must go on: known, not hoped.
    pub(crate) fn has_plenty(&self, bytes: u64) -> bool {
        let is_calm = self.reserve == Reserve::Held && !self.is_full && !self.awaits_reserve;
        is_calm
            && self.last.is_some_and(|space| {
                let (_, enough) = self.marks(space);
                space.available_bytes >= enough.saturating_add(bytes)
            })
    }

    /// The low-water mark, and a little more than that, so that it does not flap.
    fn marks(&self, space: DiskSpace) -> (u64, u64) {
        let low = self.low_bytes_max.min(small_part(space));
        (low, low + low / 4)
    }

    /// What the file system said last.
    pub(crate) fn last(&self) -> Option<DiskSpace> {
        self.last
    }

    /// Whether no operation is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_moving = matches!(self.reserve, Reserve::Taking(_) | Reserve::Releasing(_));
        self.asking.is_none() && !is_moving
    }

    /// When the file system is to be asked again.
    pub(crate) fn timeout(&self) -> Option<BootTime> {
        self.asking.is_none().then_some(self.ask_at)
    }

    /// Asks the file system when that is due.
    pub(crate) fn tick(&mut self, now: Now, ops: &mut VecDeque<DiskOp>) {
        if self.asking.is_none() && self.ask_at <= now.boot {
            self.ask_at = now.boot.after_ms(ASK_AFTER_MS);
            let token = self.tokens.issue();
            self.asking = Some(token);
            ops.push_back(DiskOp::Space { token });
        }
    }

    /// Something that must go on found no room: the reserve is there for that, and batches are
    /// refused until it is whole again, also if there was none.
    pub(crate) fn out_of_space(&mut self, ops: &mut VecDeque<DiskOp>) -> SpaceNews {
        if self.reserve == Reserve::Held {
            tracing::warn!(shard = %self.shard, "no room left: giving up the reserve");
            self.release(ops);
        }
        self.awaits_reserve = true;
        self.set_full(true)
    }

    fn release(&mut self, ops: &mut VecDeque<DiskOp>) {
        let token = self.tokens.issue();
        self.reserve = Reserve::Releasing(token);
        let file = FileName::Reserve;
        ops.push_back(DiskOp::Remove { token, file });
    }

    /// Takes a completion. The log waits for `wanted` bytes, which count as too little room.
    pub(crate) fn handle(
        &mut self,
        done: &DiskDone,
        wanted: u64,
        ops: &mut VecDeque<DiskOp>,
    ) -> SpaceNews {
        if self.asking == Some(done.token) {
            self.asking = None;
            return match &done.result {
                Ok(DiskOutcome::Space(space)) => self.judge(*space, wanted, ops),
                _ => SpaceNews::Nothing,
            };
        }
        match (self.reserve, &done.result) {
            (Reserve::Taking(_), Ok(_)) => {
                self.reserve = Reserve::Held;
                self.awaits_reserve = false;
                self.set_full(false)
            }
            (Reserve::Taking(_), Err(DiskError::AlreadyExists)) => {
                // It could not be removed before, whole or half made: nobody knows its size.
                self.release(ops);
                SpaceNews::Nothing
            }
            (Reserve::Taking(_), Err(_)) => {
                self.reserve = Reserve::Missing;
                SpaceNews::Nothing
            }
            (Reserve::Releasing(_), _) => {
                // Gone, or not there; if it could not be removed, taking it finds it, and it is
                // tried again.
                self.reserve = Reserve::Missing;
                SpaceNews::Room
            }
            _ => unreachable!("no other operation is issued"),
        }
    }

    fn judge(&mut self, space: DiskSpace, wanted: u64, ops: &mut VecDeque<DiskOp>) -> SpaceNews {
        self.last = Some(space);
        let (low, enough) = self.marks(space);
        let enough = enough.saturating_add(wanted);
        let reserve = reserve_bytes(self.reserve_bytes_max, space);
        if self.reserve == Reserve::Missing && space.available_bytes >= enough + reserve {
            self.take(reserve, ops);
        }
        match self.reserve {
            Reserve::Missing | Reserve::Held if space.available_bytes < low => self.set_full(true),
            Reserve::Missing | Reserve::Held | Reserve::Taking(_)
                if space.available_bytes >= enough && !self.awaits_reserve =>
            {
                self.set_full(false)
            }
            _ => SpaceNews::Nothing,
        }
    }

    fn take(&mut self, bytes: u64, ops: &mut VecDeque<DiskOp>) {
        if bytes == 0 {
            self.reserve = Reserve::Held; // Configured without one.
            self.awaits_reserve = false;
            return;
        }
        let token = self.tokens.issue();
        self.reserve = Reserve::Taking(token);
        let file = FileName::Reserve;
        ops.push_back(DiskOp::Create { token, file, bytes });
    }

    fn set_full(&mut self, is_full: bool) -> SpaceNews {
        if self.is_full == is_full {
            return SpaceNews::Nothing;
        }
        self.is_full = is_full;
        SpaceNews::Full(is_full)
    }
}

/// What reserve and low-water mark may be at most.
fn small_part(space: DiskSpace) -> u64 {
    space.total_bytes / SMALL_DISK_PART
}

/// How large the reserve is to be, in whole pages.
fn reserve_bytes(reserve_bytes_max: u64, space: DiskSpace) -> u64 {
    let bytes = reserve_bytes_max.min(small_part(space));
    bytes - bytes % PAGE_BYTES as u64
}

/// Makes room for a start on a full disk, out of the reserve, and removes one of another size than
/// is wanted. Returns whether a whole one is left.
pub(crate) fn prepare_start(
    disk: &mut StartDisk<'_, '_>,
    config: &StoreConfig,
    listing: &Listing,
) -> Result<bool, StorageError> {
    let mut files = listing.files.iter();
    let Some((_, held_bytes)) = files.find(|(file, _)| *file == FileName::Reserve) else {
        return Ok(false);
    };
    let space = disk.space()?;
    let is_whole = *held_bytes == reserve_bytes(config.reserve_bytes, space);
    if is_whole && space.available_bytes >= config.wal_file_bytes + START_SLACK_BYTES {
        return Ok(true);
    }
    disk.remove_if_there(FileName::Reserve)?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SimDisk;

    const MIB: u64 = 1 << 20;

    const START: Now = Now {
        boot: BootTime(0),
        wall_ms: 0,
    };

    fn space(available_bytes: u64) -> DiskOutcome {
        DiskOutcome::Space(DiskSpace {
            available_bytes,
            total_bytes: 1000 * MIB,
        })
    }

    fn config() -> StoreConfig {
        StoreConfig {
            reserve_bytes: 20 * MIB,
            disk_low_bytes: 8 * MIB,
            ..StoreConfig::default()
        }
    }

    /// Lets a second pass, answers the question for space, and gives what that led to.
    fn second(
        space_: &mut Space,
        at: &mut u64,
        available: u64,
        ops: &mut VecDeque<DiskOp>,
    ) -> SpaceNews {
        *at += ASK_AFTER_MS;
        let now = Now {
            boot: BootTime(0).after_ms(*at),
            wall_ms: 0,
        };
        space_.tick(now, ops);
        let op = ops.pop_front().expect("asked");
        finish(space_, &op, Ok(space(available)), ops)
    }

    fn finish(
        space: &mut Space,
        op: &DiskOp,
        result: Result<DiskOutcome, DiskError>,
        ops: &mut VecDeque<DiskOp>,
    ) -> SpaceNews {
        let done = DiskDone {
            token: op.token(),
            buffer: None,
            result,
        };
        space.handle(&done, 0, ops)
    }

    #[test]
    fn the_reserve_is_taken_released_and_taken_again() {
        let (mut s, mut ops, mut at) = (Space::new(&config(), START, false), VecDeque::new(), 0);
        assert_eq!(
            second(&mut s, &mut at, 500 * MIB, &mut ops),
            SpaceNews::Nothing
        );
        let create = ops.pop_front().expect("taken");
        assert!(matches!(create, DiskOp::Create { bytes, .. } if bytes == 20 * MIB));
        assert!(!s.has_plenty(0), "the reserve is not there yet");
        finish(&mut s, &create, Ok(DiskOutcome::Done), &mut ops);
        assert!(!s.is_full());
        assert!(s.has_plenty(490 * MIB) && !s.has_plenty(491 * MIB));

        assert_eq!(s.out_of_space(&mut ops), SpaceNews::Full(true));
        assert!(!s.has_plenty(0));
        let remove = ops.pop_front().expect("released");
        assert!(matches!(remove, DiskOp::Remove { .. }));
        let news = finish(&mut s, &remove, Ok(DiskOutcome::Done), &mut ops);
        assert_eq!(news, SpaceNews::Room);

        assert_eq!(
            second(&mut s, &mut at, 25 * MIB, &mut ops),
            SpaceNews::Nothing
        );
        assert!(
            ops.is_empty() && s.is_full(),
            "not enough for mark and reserve"
        );
        second(&mut s, &mut at, 30 * MIB, &mut ops);
        let create = ops.pop_front().expect("taken again");
        let news = finish(&mut s, &create, Ok(DiskOutcome::Done), &mut ops);
        assert_eq!(news, SpaceNews::Full(false));
        assert!(s.is_quiet());
    }

    #[test]
    fn batches_are_refused_without_a_reserve_too_until_it_can_be_taken() {
        let (mut s, mut ops, mut at) = (Space::new(&config(), START, false), VecDeque::new(), 0);
        second(&mut s, &mut at, 25 * MIB, &mut ops);
        assert!(
            ops.is_empty() && !s.is_full(),
            "above the mark, below what a reserve needs"
        );
        assert_eq!(s.out_of_space(&mut ops), SpaceNews::Full(true));
        assert_eq!(s.out_of_space(&mut ops), SpaceNews::Nothing);
        second(&mut s, &mut at, 29 * MIB, &mut ops);
        assert!(ops.is_empty() && s.is_full());
        second(&mut s, &mut at, 30 * MIB, &mut ops);
        let create = ops.pop_front().expect("taken");
        let news = finish(&mut s, &create, Ok(DiskOutcome::Done), &mut ops);
        assert_eq!(news, SpaceNews::Full(false));

        let none = StoreConfig {
            reserve_bytes: 0,
            ..config()
        };
        let (mut s, mut at) = (Space::new(&none, START, false), 0);
        assert_eq!(s.out_of_space(&mut ops), SpaceNews::Full(true));
        let news = second(&mut s, &mut at, 10 * MIB, &mut ops);
        assert_eq!(
            news,
            SpaceNews::Full(false),
            "a store without a reserve goes on too"
        );
    }

    #[test]
    fn batches_are_refused_below_the_mark_and_taken_a_little_above_it() {
        let (mut s, mut ops, mut at) = (Space::new(&config(), START, true), VecDeque::new(), 0);
        assert_eq!(
            second(&mut s, &mut at, 8 * MIB, &mut ops),
            SpaceNews::Nothing
        );
        assert_eq!(
            second(&mut s, &mut at, 8 * MIB - 1, &mut ops),
            SpaceNews::Full(true)
        );
        assert_eq!(
            second(&mut s, &mut at, 9 * MIB, &mut ops),
            SpaceNews::Nothing
        );
        assert_eq!(
            second(&mut s, &mut at, 10 * MIB, &mut ops),
            SpaceNews::Full(false)
        );
    }

    #[test]
    fn a_store_without_its_reserve_takes_batches_again_above_the_mark() {
        let (mut s, mut ops, mut at) = (Space::new(&config(), START, false), VecDeque::new(), 0);
        let full = second(&mut s, &mut at, 8 * MIB - 1, &mut ops);
        assert_eq!(full, SpaceNews::Full(true));
        let still = second(&mut s, &mut at, 9 * MIB, &mut ops);
        assert_eq!(still, SpaceNews::Nothing);
        // Not enough for a reserve, but nothing found no room either.
        let room = second(&mut s, &mut at, 10 * MIB, &mut ops);
        assert_eq!(room, SpaceNews::Full(false));
        assert!(ops.is_empty());
    }

    #[test]
    fn a_reserve_that_finds_no_space_is_tried_again() {
        let (mut s, mut ops, mut at) = (Space::new(&config(), START, false), VecDeque::new(), 0);
        second(&mut s, &mut at, 500 * MIB, &mut ops);
        let create = ops.pop_front().expect("taken");
        finish(&mut s, &create, Err(DiskError::NoSpace), &mut ops);
        second(&mut s, &mut at, 500 * MIB, &mut ops);
        assert_eq!(ops.len(), 1);
    }
    /// Starts on a disk with plenty of room whose reserve has `bytes`: whether one is left then.
    fn start_with_reserve(bytes: u64) -> bool {
        let mut disk = SimDisk::new(1);
        disk.set_capacity(1000 * MIB);
        let token = DiskTokens::new(SPACE_TAG).issue();
        let file = FileName::Reserve;
        let created = disk.run(ShardId(0), DiskOp::Create { token, file, bytes });
        assert_eq!(created.result, Ok(DiskOutcome::Done));
        let left = {
            let mut blocking = disk.blocking(ShardId(0));
            let mut start = StartDisk::new(&mut *blocking, ShardId(0));
            let listing = start.list().expect("listed");
            prepare_start(&mut start, &config(), &listing).expect("prepared")
        };
        assert_eq!(disk.files(ShardId(0)).contains(&file), left);
        left
    }

    #[test]
    fn only_a_reserve_of_the_wanted_size_counts() {
        assert!(start_with_reserve(20 * MIB));
        for bytes in [0, 4096, 20 * MIB - 4096, 20 * MIB + 4096, 200 * MIB] {
            assert!(!start_with_reserve(bytes), "{bytes} bytes");
        }
    }

    #[test]
    fn a_reserve_that_is_there_unasked_is_made_anew() {
        let (mut s, mut ops, mut at) = (Space::new(&config(), START, false), VecDeque::new(), 0);
        s.out_of_space(&mut ops);
        let exists = Err(DiskError::AlreadyExists);
        for removed in [
            Err(DiskError::Io { errno: 5 }),
            Ok(DiskOutcome::Done),
            Err(DiskError::NotFound),
        ] {
            second(&mut s, &mut at, 500 * MIB, &mut ops);
            let create = ops.pop_front().expect("taken");
            let news = finish(&mut s, &create, exists.clone(), &mut ops);
            assert_eq!(news, SpaceNews::Nothing, "it may be empty");
            assert!(s.is_full() && !s.has_plenty(0));
            let remove = ops.pop_front().expect("removed");
            assert!(matches!(remove, DiskOp::Remove { .. }));
            finish(&mut s, &remove, removed, &mut ops);
        }
        second(&mut s, &mut at, 500 * MIB, &mut ops);
        let create = ops.pop_front().expect("taken again");
        let news = finish(&mut s, &create, Ok(DiskOutcome::Done), &mut ops);
        assert_eq!(news, SpaceNews::Full(false));
        assert!(s.is_quiet());
    }
}
