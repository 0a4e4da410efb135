//! Planted bugs: a harness that finds none of them proves nothing.

use millrace_storage::config::SeededBug;

use crate::failure::{Checked, catching};
use crate::setup::{BACKENDS, Setup};
use crate::storage_crash::{cut_after_every_io, three_lives};
use crate::storage_damage::damage_at_rest;
use crate::storage_failures::fail_every_io;
use crate::storage_turnover::turn_over;

/// Seeds tried before a bug counts as overlooked.
const SEEDS_MAX: u64 = 60;

/// What finds a bug.
type Search = fn(&Setup) -> Checked<()>;

const BUGS: [(SeededBug, Search); 6] = [
    (SeededBug::AckBeforeSync, |setup| {
        cut_after_every_io(setup).map(|_| ())
    }),
    (SeededBug::RetryAfterFailedSync, |setup| {
        fail_every_io(setup).map(|_| ())
    }),
    (SeededBug::NoGenerationInChecksum, three_lives),
    (SeededBug::TruncateBelowDurable, |setup| {
        damage_at_rest(setup).map(|_| ())
    }),
    (SeededBug::ServeWithoutRepersist, |setup| {
        cut_after_every_io(setup).map(|_| ())
    }),
    (SeededBug::ReadFromRecycledFile, |setup| {
        turn_over(setup).map(|_| ())
    }),
];

#[test]
fn each_planted_bug_is_found_over_both_backends() {
    for backend in BACKENDS {
        for (bug, search) in BUGS {
            let found = (1..=SEEDS_MAX).find_map(|seed| {
                let setup = Setup::draw(seed).with(backend, Some(bug));
                let failure = catching(|| search(&setup)).err()?;
                Some((seed, failure))
            });
            let Some((seed, failure)) = found else {
                panic!("{bug:?} over {backend:?} was overlooked in {SEEDS_MAX} seeds");
            };
            let sound = Setup::draw(seed).with(backend, None);
            if let Err(failure) = catching(|| search(&sound)) {
                panic!("{bug:?} over {backend:?}: seed {seed} fails without it too: {failure}");
            }
            let first_line = failure.0.lines().next().unwrap_or_default();
            println!("{bug:?} over {backend:?}: seed {seed}: {first_line}");
        }
    }
}
