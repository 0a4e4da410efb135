//! Simulation: the broker's state machines on simulated disks, networks and clocks.
//!
//! Everything random comes from one seed, so a failure prints a seed that replays it exactly:
//!
//! * `cargo test --test sim` runs a few thousand cases.
//! * `MILLRACE_SIM_SEEDS=100000 cargo test --release --test sim` runs more: that many seeds for
//!   each test, where a seed may stand for hundreds of cases.
//! * `MILLRACE_SIM_SEED=7 cargo test --test sim NAME` replays one.
//!
//! *One store*: [`machine`] drives a shard's store on a simulated disk, and every stop and failure
//! that a disk can produce is tried at every I/O; [`oracle`] says what must be found afterwards.
//! [`seeded_bugs`] plants known bugs to show that these tests can fail.

mod batches;
mod failure;
mod machine;
mod manifest_crash;
mod oracle;
mod seeded_bugs;
mod seeds;
mod setup;
mod storage_crash;
mod storage_damage;
mod storage_failures;
mod workload;
