//! The WAL's files as slots: made and zero-filled ahead in the background, recycled, pinned.
//!
//! A slot is created preallocated, its name made durable, filled with zeros and synced before its
//! first use, so that commits into it overwrite written blocks: a commit into unwritten extents
//! costs a second journal flush. A recycled slot keeps its old content; the new life's generation
//! tells the two apart. Until the log is pressed for a slot the filling goes gently: commits share
//! the disk.

use std::collections::{BTreeMap, VecDeque};

use crate::buf::AlignedBuf;
use crate::disk::{
    DiskDone, DiskError, DiskOp, DiskOutcome, DiskToken, DiskTokens, FileName, WriteSync,
};
use crate::units::{BootTime, FilePosition, Now};

/// The tag of the slots' tokens.
pub(crate) const SLOTS_TAG: u8 = 17;
/// Free slots that the background keeps ready at least: two ahead of the active file, one for
/// recovery.
const FREE_AHEAD_MIN: usize = 3;
/// Bytes of one zero-filling write when there is time, and the rest after it, microseconds: about
/// 50 MB a second.
const FILL_CALM_BYTES: u64 = 128 << 10;
const FILL_REST_US: u64 = 2_500;
/// Bytes of one zero-filling write when the log waits for the slot.
const FILL_BYTES: u64 = 1 << 20;
/// How long to wait after there was no room for another slot, or too little else to make it.
const RETRY_MS: u64 = 1000;

/// Every WAL file of the shard and what it is good for.
#[derive(Debug)]
pub(crate) struct Slots {
    file_bytes: u64,
    files_max: u32,
    slots: BTreeMap<u32, Slot>,
    making: Option<Making>,
    /// Waiting until then for what was short: space, or a descriptor.
    retry_at: Option<BootTime>,
    /// The log needs a slot soon.
    is_pressed: bool,
    /// The disk has room for more than the log needs.
    has_plenty: bool,
    /// A clean stop began: a slot half made stays as it is.
    is_stopping: bool,
    tokens: DiskTokens,
    /// Removals of files of another size, in flight. Until one is through its number stays taken:
    /// a file of that name made meanwhile might be what goes.
    removing: Vec<(u32, DiskToken)>,
}

#[derive(Debug)]
struct Slot {
    /// The file's size: of the present configuration, or of an earlier one.
    bytes: u64,
    state: SlotState,
    /// Reads that hold the file's present life.
    pins: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// May be put into use.
    Free,
    /// Its life is on the chain.
    Used,
    /// Its life is settled; reads still hold it.
    Released,
}

/// A new slot on its way.
#[derive(Debug)]
struct Making {
    slot: u32,
    step: MakeStep,
    /// The operation on its way; `None` while resting.
    token: Option<DiskToken>,
}

#[derive(Debug)]
enum MakeStep {
    Create,
    SyncDirectory,
    /// Zeros up to here are written or being written.
    Fill {
        to: u64,
    },
    /// Zeros up to `to` are written; the next write waits until `until`.
    Rest {
        to: u64,
        until: BootTime,
        buffer: Option<AlignedBuf>,
    },
    Sync,
    /// Something was short: the beginning goes away again.
    Discard,
}

impl MakeStep {
    /// Whether a step that failed so may be taken again later.
    fn may_wait(&self, error: DiskError) -> bool {
        let is_unsynced = matches!(self, Self::Create | Self::Fill { .. });
        error == DiskError::NoSpace || is_unsynced && error.is_shortage()
    }
}

impl Slots {
    pub(crate) fn new(file_bytes: u64, files_max: u32) -> Self {
        Self {
            file_bytes,
            files_max,
            slots: BTreeMap::new(),
            making: None,
            retry_at: None,
            is_pressed: false,
            has_plenty: false,
            is_stopping: false,
            tokens: DiskTokens::new(SLOTS_TAG),
            removing: Vec::new(),
        }
    }

    /// Adds a slot found or made while opening.
    pub(crate) fn add(&mut self, slot: u32, bytes: u64, used: bool) {
        let state = if used {
            SlotState::Used
        } else {
            SlotState::Free
        };
        let slot_before = self.slots.insert(
            slot,
            Slot {
                bytes,
                state,
                pins: 0,
            },
        );
        assert!(slot_before.is_none(), "a slot is added once");
    }

    /// Bytes of the file in `slot`.
    pub(crate) fn bytes_of(&self, slot: u32) -> u64 {
        self.slots[&slot].bytes
    }

    /// Slots that a new life may take.
    pub(crate) fn free(&self) -> usize {
        self.slots
            .values()
            .filter(|slot| slot.state == SlotState::Free)
            .count()
    }

    /// Puts the lowest free slot into use.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let (number, slot) = self
            .slots
            .iter_mut()
            .find(|(_, slot)| slot.state == SlotState::Free)?;
        assert_eq!(slot.bytes, self.file_bytes, "other sizes are never free");
        slot.state = SlotState::Used;
        Some(*number)
    }

    /// A number for a slot that does not exist yet.
    pub(crate) fn number_for_extra(&self) -> u32 {
        let mut number = 0;
        while self.is_taken(number) {
            number += 1;
        }
        number
    }

    fn is_taken(&self, number: u32) -> bool {
        self.slots.contains_key(&number)
            || self.making.as_ref().is_some_and(|m| m.slot == number)
            || self.removing.iter().any(|(slot, _)| *slot == number)
    }

    /// The life in `slot` is settled: the slot is free as soon as no read holds it.
    pub(crate) fn release(&mut self, slot: u32, ops: &mut VecDeque<DiskOp>) {
        let entry = self.slots.get_mut(&slot).expect("a used slot exists");
        assert_eq!(entry.state, SlotState::Used, "a slot is released once");
        entry.state = SlotState::Released;
        self.free_if_unheld(slot, ops);
    }

    /// Frees `slot` although reads hold it: what a seeded bug does.
    pub(crate) fn ignore_pins(&mut self, slot: u32) {
        let entry = self.slots.get_mut(&slot).expect("a used slot exists");
        if entry.state == SlotState::Released {
            entry.state = SlotState::Free;
        }
    }

    /// A read of the slot's present life begins.
    pub(crate) fn pin(&mut self, slot: u32) {
        let entry = self.slots.get_mut(&slot).expect("a read slot exists");
        assert_ne!(entry.state, SlotState::Free, "a free slot holds nothing");
        entry.pins += 1;
    }

    /// A read ended.
    pub(crate) fn unpin(&mut self, slot: u32, ops: &mut VecDeque<DiskOp>) {
        let entry = self.slots.get_mut(&slot).expect("a pinned slot exists");
        entry.pins = entry.pins.checked_sub(1).expect("pins are paired");
        self.free_if_unheld(slot, ops);
    }

    fn free_if_unheld(&mut self, slot: u32, ops: &mut VecDeque<DiskOp>) {
        let entry = self.slots.get_mut(&slot).expect("the caller found it");
        if entry.state != SlotState::Released || entry.pins > 0 {
            return;
        }
        if entry.bytes == self.file_bytes {
            entry.state = SlotState::Free;
            return;
        }
        // Left by a start with another file size: of no further use.
        self.slots.remove(&slot);
        let token = self.tokens.issue();
        self.removing.push((slot, token));
        let file = FileName::Wal(slot);
        ops.push_back(DiskOp::Remove { token, file });
    }

    /// Whether another slot is on its way.
    pub(crate) fn is_making(&self) -> bool {
        self.making.is_some()
    }

    /// Whether operations are on their way.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_working = self.making.as_ref().is_some_and(|m| m.token.is_some());
        !is_working && self.removing.is_empty()
    }

    /// When [`Slots::maintain`] has something to do that no completion brings about.
    pub(crate) fn timeout(&self) -> Option<BootTime> {
        if self.is_stopping {
            return None;
        }
        match &self.making {
            Some(Making {
                step: MakeStep::Rest { until, .. },
                ..
            }) => Some(*until),
            Some(_) => None,
            None => self.retry_at,
        }
    }

    /// A clean stop begins: no further slot is made.
    pub(crate) fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// The log needs a slot soon, or does not.
    pub(crate) fn press(&mut self, is_pressed: bool) {
        self.is_pressed = is_pressed;
    }

    /// The disk has room for slots that nothing needs yet, or has not.
    pub(crate) fn allow_stock(&mut self, has_plenty: bool) {
        self.has_plenty = has_plenty;
    }

    /// Starts to make another slot when too few are free, and goes on with one that rests.
    pub(crate) fn maintain(&mut self, now: Now, ops: &mut VecDeque<DiskOp>) {
        self.end_rest(now, ops);
        if self.is_stopping || self.retry_at.is_some_and(|at| at > now.boot) {
            return;
        }
        self.retry_at = None;
        let files_max = self.files_max as usize;
        // A first burst finds half of the log.
        let ahead = match self.has_plenty {
            true => (files_max / 2 + 1).max(FREE_AHEAD_MIN),
            false => FREE_AHEAD_MIN,
        };
        let enough = self.free() >= ahead || self.slots.len() >= files_max;
        if enough || self.making.is_some() {
            return;
        }
        let slot = self.number_for_extra();
        let token = self.tokens.issue();
        self.making = Some(Making {
            slot,
            step: MakeStep::Create,
            token: Some(token),
        });
        ops.push_back(DiskOp::Create {
            token,
            file: FileName::Wal(slot),
            bytes: self.file_bytes,
        });
    }

    /// Takes a completion. Room on the disk is waited for, and so is whatever else the process is
    /// short of, except by a sync: what a failed one left undone is unknown.
    ///
    /// # Errors
    /// Any other failure: what the file holds is unknown, and so is the disk's health.
    pub(crate) fn handle(
        &mut self,
        now: Now,
        done: DiskDone,
        ops: &mut VecDeque<DiskOp>,
    ) -> Result<(), DiskError> {
        if let Some(index) = self.removing.iter().position(|(_, t)| *t == done.token) {
            self.removing.swap_remove(index);
            return done.result.map(drop);
        }
        let making = self.making.take().expect("a slot is being made");
        assert_eq!(making.token, Some(done.token), "one operation at a time");
        match done.result {
            Ok(DiskOutcome::Done) => {
                self.made(now, making, done.buffer, ops);
                self.maintain(now, ops);
                Ok(())
            }
            Err(error) if making.step.may_wait(error) => {
                self.retry_at = Some(now.boot.after_ms(RETRY_MS));
                if !matches!(making.step, MakeStep::Create) {
                    self.step(making.slot, MakeStep::Discard, None, ops);
                }
                Ok(())
            }
            Ok(_) => Err(SHORT_WRITE),
            Err(error) => Err(error),
        }
    }

    fn made(
        &mut self,
        now: Now,
        making: Making,
        buffer: Option<AlignedBuf>,
        ops: &mut VecDeque<DiskOp>,
    ) {
        let next = match making.step {
            MakeStep::Create => MakeStep::SyncDirectory,
            MakeStep::SyncDirectory => MakeStep::Fill { to: 0 },
            MakeStep::Fill { to } if to < self.file_bytes => {
                let until = BootTime(now.boot.0 + FILL_REST_US * 1_000);
                self.making = Some(Making {
                    slot: making.slot,
                    step: MakeStep::Rest { to, until, buffer },
                    token: None,
                });
                // Not at all when the log waits for it.
                return self.end_rest(now, ops);
            }
            MakeStep::Fill { .. } => MakeStep::Sync,
            MakeStep::Rest { .. } => unreachable!("a rest has no completion"),
            MakeStep::Sync => {
                self.add(making.slot, self.file_bytes, false);
                return;
            }
            MakeStep::Discard => return,
        };
        if self.is_stopping {
            return; // The next start takes the file as it is.
        }
        self.step(making.slot, next, buffer, ops);
    }

    /// Goes on filling when that is due, or at once when the log is pressed.
    fn end_rest(&mut self, now: Now, ops: &mut VecDeque<DiskOp>) {
        let is_pressed = self.is_pressed;
        let is_over = |making: &mut Making| match making.step {
            MakeStep::Rest { until, .. } => is_pressed || until <= now.boot,
            _ => false,
        };
        if self.is_stopping {
            return;
        }
        if let Some(Making {
            slot,
            step: MakeStep::Rest { to, buffer, .. },
            ..
        }) = self.making.take_if(is_over)
        {
            self.step(slot, MakeStep::Fill { to }, buffer, ops);
        }
    }

    fn step(
        &mut self,
        slot: u32,
        step: MakeStep,
        buffer: Option<AlignedBuf>,
        ops: &mut VecDeque<DiskOp>,
    ) {
        let token = self.tokens.issue();
        let file = FileName::Wal(slot);
        let (step, op) = match step {
            MakeStep::Create => unreachable!("creation is the first step"),
            MakeStep::Rest { .. } => unreachable!("a rest is no operation"),
            MakeStep::SyncDirectory => (step, DiskOp::SyncDirectory { token }),
            MakeStep::Fill { to: position } => {
                let bytes = if self.is_pressed {
                    FILL_BYTES
                } else {
                    FILL_CALM_BYTES
                };
                let bytes = bytes.min(self.file_bytes - position);
                let mut buffer = buffer.unwrap_or_else(|| AlignedBuf::zeroed(FILL_BYTES as usize));
                buffer.set_len(bytes as usize); // At most FILL_BYTES, which fits.
                let to = position + bytes;
                let op = DiskOp::Write {
                    token,
                    file,
                    position: FilePosition(position),
                    buffer,
                    sync: WriteSync::None,
                };
                (MakeStep::Fill { to }, op)
            }
            MakeStep::Sync => (step, DiskOp::Sync { token, file }),
            MakeStep::Discard => (step, DiskOp::Remove { token, file }),
        };
        self.making = Some(Making {
            slot,
            step,
            token: Some(token),
        });
        ops.push_back(op);
    }
}

/// What a short write counts as: EIO.
pub(crate) const SHORT_WRITE: DiskError = DiskError::Io { errno: 5 };

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now {
        boot: BootTime(1),
        wall_ms: 0,
    };

    #[test]
    fn a_number_is_taken_until_its_file_is_gone() {
        let mut slots = Slots::new(8192, 3);
        slots.add(0, 4096, true);
        let mut ops = VecDeque::new();
        slots.release(0, &mut ops);
        let Some(DiskOp::Remove { token, file }) = ops.pop_front() else {
            panic!("a file of another size goes");
        };
        assert_eq!(file, FileName::Wal(0));
        assert_eq!(slots.number_for_extra(), 1);
        slots.maintain(NOW, &mut ops);
        let made = ops.pop_front();
        assert!(matches!(
            made,
            Some(DiskOp::Create {
                file: FileName::Wal(1),
                ..
            })
        ));
        let result = Ok(DiskOutcome::Done);
        let done = DiskDone {
            token,
            buffer: None,
            result,
        };
        slots.handle(NOW, done, &mut ops).expect("removed");
        assert_eq!(slots.number_for_extra(), 0);
    }
    #[test]
    fn a_slot_that_something_is_short_for_is_made_later() {
        let emfile = DiskError::Io { errno: 24 };
        let finish = |slots: &mut Slots, ops: &mut VecDeque<DiskOp>, result| {
            let op = ops.pop_front().expect("an operation");
            let (token, buffer) = (op.token(), None);
            let done = DiskDone {
                token,
                buffer,
                result,
            };
            slots.handle(NOW, done, ops)
        };
        let done = Ok(DiskOutcome::Done);
        // The create, the directory's sync, a write, the next one, and the file's sync.
        for steps in 0..5 {
            let (mut slots, mut ops) = (Slots::new(2 * FILL_BYTES, 3), VecDeque::new());
            slots.press(true);
            slots.maintain(NOW, &mut ops);
            for _ in 0..steps {
                finish(&mut slots, &mut ops, done.clone()).expect("made so far");
            }
            let is_sync = steps == 1 || steps == 4;
            let failed = finish(&mut slots, &mut ops, Err(emfile));
            assert_eq!(
                failed,
                if is_sync { Err(emfile) } else { Ok(()) },
                "{steps}"
            );
            if is_sync {
                continue;
            }
            if steps > 0 {
                assert!(matches!(ops.front(), Some(DiskOp::Remove { .. })));
                finish(&mut slots, &mut ops, done.clone()).expect("removed");
            }
            assert!(ops.is_empty(), "not at once");
            let at = slots.timeout().expect("tried again");
            assert!(at > NOW.boot);
            let later = Now { boot: at, ..NOW };
            slots.maintain(later, &mut ops);
            assert!(matches!(ops.front(), Some(DiskOp::Create { .. })));
        }
    }
}
