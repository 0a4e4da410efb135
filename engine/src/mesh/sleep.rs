//! The flag by which a shard that is about to park is not left asleep.
//!
//! The sleeper raises the flag and *then* looks at its rings once more; a sender pushes and *then*
//! takes the flag down. Every access swaps, so the accesses have one order, and each sees all that
//! came before the one before it: if the sender's comes first, the sleeper finds the message and
//! stays awake; if the sleeper's does, the sender finds the flag and wakes it. Whoever takes the
//! flag down wakes, so a sleeper is woken once.
//!
//! A plain load before the sender's swap would be cheaper while the receiver is busy, but then the
//! proof needs sequentially consistent fences, which loom does not model in full. One swap a turn
//! and busy receiver is not what a turn spends its time on.
//!
//! The only lock-free code of our own. This file is compiled a second time against loom's atomics,
//! which try every order: see `sleep_model.rs`.

use super::atomics::{AtomicBool, Ordering};

/// Whether one shard sleeps. Shared by it and all who bring it work.
#[derive(Debug)]
pub struct SleepFlag {
    asleep: AtomicBool,
}

impl SleepFlag {
    /// The flag of a shard that is awake.
    pub(crate) fn new() -> Self {
        Self {
            asleep: AtomicBool::new(false),
        }
    }

    /// Sleeper, before it parks: from now on senders wake it. `is_idle` looks at the rings. Returns
    /// whether it may park; if not, the flag is down again.
    pub(crate) fn prepare(&self, is_idle: impl FnOnce() -> bool) -> bool {
        self.asleep.swap(true, Ordering::AcqRel);
        if is_idle() {
            return true;
        }
        self.wake_up();
        false
    }

    /// Sleeper, when it runs again for whatever reason.
    pub(crate) fn wake_up(&self) {
        // Not a store: the next `prepare` must see what senders did before their last swap.
        self.asleep.swap(false, Ordering::AcqRel);
    }

    /// Sender, after it pushed: whether it has to wake the sleeper.
    pub fn must_wake(&self) -> bool {
        self.asleep.swap(false, Ordering::AcqRel)
    }
}
