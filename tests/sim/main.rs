//! Simulation: the broker's state machines on simulated disks, networks and clocks.
//!
//! Everything random comes from one seed, so a failure prints a seed that replays it exactly:
//!
//! * `cargo test --test sim` runs a few thousand cases.
//! * `MILLRACE_SIM_SEEDS=100000 cargo test --release --test sim` runs more: that many seeds for
//!   each test, where a seed may stand for hundreds of cases.
//! * `MILLRACE_SIM_SEED=7 cargo test --test sim NAME` replays one.

mod failure;
mod manifest_crash;
mod seeds;
