//! Which seeds a test runs: a fixed few, more on demand, or a single one to replay.

use crate::failure::{Checked, catching};

const SEEDS_VARIABLE: &str = "MILLRACE_SIM_SEEDS";
const SEED_VARIABLE: &str = "MILLRACE_SIM_SEED";

/// Runs `case` for `seeds` seeds from 1 on, or as the environment says. Panics at the first one
/// that fails, naming it. Returns how many ran: one alone need not show what many must.
pub(crate) fn each_seed(name: &str, seeds: u64, mut case: impl FnMut(u64) -> Checked<()>) -> u64 {
    let mut run = |seed| {
        if let Err(failure) = catching(|| case(seed)) {
            panic!("{name}: seed {seed}: {failure}\nreplay with {SEED_VARIABLE}={seed}");
        }
    };
    if let Some(seed) = number(SEED_VARIABLE) {
        run(seed);
        return 1;
    }
    let seeds = number(SEEDS_VARIABLE).unwrap_or(seeds);
    for seed in 1..=seeds {
        run(seed);
    }
    seeds
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
    )
}
