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
//!
//! *Whole workers*: [`world`] runs one to four of them with their connections, shards, stores and
//! the mesh between them, against clients that speak Kafka; each core is a [`node`], which sleeps
//! and is woken. [`world_runs`] stops machines, fails and fills disks and changes the number of
//! cores; [`world_stops`] stops after every I/O; [`world_faults`] lets the disk rot and wake-ups be
//! lost; [`history`] judges what the clients saw, and [`churn`] what they saw of a topic that is
//! deleted, created again and cut by retention. [`group_runs`] lets [`members`] of groups share
//! partitions through all of that, and [`coordination`] judges it.

mod batches;
mod churn;
mod churners;
mod clients;
mod coordination;
mod failure;
mod group_runs;
mod history;
mod kafka;
mod machine;
mod manifest_crash;
mod members;
mod network;
mod node;
mod oracle;
mod questions;
mod seeded_bugs;
mod seeds;
mod setup;
mod storage_crash;
mod storage_damage;
mod storage_failures;
mod storage_turnover;
mod workload;
mod world;
mod world_faults;
mod world_runs;
mod world_stops;
