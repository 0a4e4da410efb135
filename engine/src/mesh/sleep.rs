//! The flag by which a shard that is about to park is not left asleep.
//!
//! The sleeper raises the flag and *then* looks at its rings once more; a sender pushes and *then*
//! looks at the flag. A sequentially consistent fence lies between the two steps on either side, so
//! at least one of them sees what the other did: the sleeper finds the message and stays awake, or
//! the sender finds the flag and wakes it. The sender that takes the flag down is the one that
//! wakes, so a sleeper is woken once.
//!
//! The only lock-free code of our own. This file is compiled a second time against loom's atomics,
//! which try every order: see `sleep_model.rs`.

use super::atomics::{AtomicBool, Ordering, fence};

/// Whether one shard sleeps. Shared by it and all who send to it.
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
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if is_idle() {
            return true;
        }
        self.wake_up();
        false
    }

    /// Sleeper, when it runs again for whatever reason.
    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Sender, after it pushed: whether it has to wake the sleeper.
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }
}
