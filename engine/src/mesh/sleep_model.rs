//! The sleep flag under loom: the same source, every order of its steps.

mod atomics {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering};
}

// Compiled here, its items have no way out of this model.
#[path = "sleep.rs"]
#[allow(unreachable_pub, clippy::duplicate_mod)]
mod sleep;

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use atomics::Ordering;
use sleep::SleepFlag;

/// A ring as far as sleeping is concerned: how many messages were ever pushed, and the flag.
struct Model {
    pushed: AtomicUsize,
    woken: AtomicUsize,
    flag: SleepFlag,
}

impl Model {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            pushed: AtomicUsize::new(0),
            woken: AtomicUsize::new(0),
            flag: SleepFlag::new(),
        })
    }

    fn send(&self) {
        self.pushed.fetch_add(1, Ordering::Release);
        if self.flag.must_wake() {
            self.woken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tries to park after having read `seen` messages.
    fn park(&self, seen: usize) -> bool {
        self.flag
            .prepare(|| self.pushed.load(Ordering::Acquire) == seen)
    }
}

/// Runs `senders` of one message each against a receiver that looks once and then tries to park.
fn check(senders: usize) {
    let mut orders = Builder::new();
    // With three threads every order takes a minute; three involuntary switches find the faults.
    orders.preemption_bound = (senders > 1).then_some(3);
    orders.check(move || {
        let model = Model::new();
        let threads: Vec<_> = (0..senders)
            .map(|_| {
                let model = Arc::clone(&model);
                thread::spawn(move || model.send())
            })
            .collect();
        let seen = model.pushed.load(Ordering::Acquire);
        let parked = model.park(seen);
        for thread in threads {
            thread.join().expect("a sender ran");
        }
        let woken = model.woken.load(Ordering::Relaxed);
        assert!(woken <= 1, "a sleeper is woken once");
        if parked && seen < senders {
            assert_eq!(woken, 1, "parked with a message unread and nobody woke it");
        }
    });
}

#[test]
fn a_sleeper_with_a_message_is_always_woken() {
    check(1);
}

#[test]
fn two_senders_wake_a_sleeper_once() {
    check(2);
}

#[test]
fn a_sleeper_that_was_woken_and_sleeps_again_is_woken_again() {
    loom::model(|| {
        let model = Model::new();
        let sender = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                model.send();
                model.send();
            })
        };
        // Parks, is woken by whatever comes, reads everything, and parks again.
        let first = model.pushed.load(Ordering::Acquire);
        model.park(first);
        model.flag.wake_up();
        let woken_before = model.woken.load(Ordering::Relaxed);
        let second = model.pushed.load(Ordering::Acquire);
        let parked = model.park(second);
        sender.join().expect("the sender ran");
        let woken = model.woken.load(Ordering::Relaxed);
        if parked && second < 2 {
            assert!(woken > woken_before, "parked with a message unread");
        }
    });
}
