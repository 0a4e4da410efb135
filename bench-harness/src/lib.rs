//! The load generator behind `millrace bench`: it drives a broker through TCP with the broker's
//! own protocol and reports throughput and latency that can be believed.
//!
//! An open loop decides by the clock when each message is due and counts its latency from that
//! moment, so a stall is seen by every message that it delayed; a closed loop finds the peak. Every
//! message carries an id and a checksum, and a run says whether any was lost, doubled, reordered
//! or damaged.
//!
//! * [`args`]: the command line; [`scenario`]: from there to phases and back to a [`report`],
//!   which [`table`] shows.
//! * [`phase`]: threads that start together; [`worker`]: one of them; [`producer`], [`consumer`]:
//!   its connections, over [`transport`] (the only file that knows the ring) and [`client`] (the
//!   protocols).
//! * [`schedule`], [`payload`], [`recorder`], [`verify`]: when, what, how long, and whether.
//! * [`disk`]: the floor, without a broker.
//! * [`child`], [`sink`], [`machine`], [`setup`]: whom to drive, and on what.

mod args;
mod child;
mod client;
mod connection;
mod consumer;
mod disk;
mod machine;
mod payload;
mod phase;
mod producer;
mod progress;
mod recorder;
mod report;
mod scenario;
mod schedule;
mod setup;
mod sink;
mod table;
mod transport;
mod verify;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

pub use args::BenchArgs;
use args::BenchCommand;
use report::{Report, write_json};

/// Runs what the command line asks for, prints the result and says whether all went well.
pub fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        BenchCommand::Produce(load) => {
            let json = load.json.clone();
            finish(&scenario::produce(load)?, json)
        }
        BenchCommand::Consume(consume) => {
            let json = consume.load.json.clone();
            finish(&scenario::consume(consume)?, json)
        }
        BenchCommand::E2e(load) => {
            let json = load.json.clone();
            finish(&scenario::end_to_end(load)?, json)
        }
        BenchCommand::Disk(args) => {
            let report = disk::run(&args)?;
            print!("{}", report.table());
            write_json(&report, args.json.as_deref())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn finish(report: &Report, json: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    // The table first: a report that cannot be written must not swallow it.
    print!("{}", report.table());
    write_json(report, json.as_deref())?;
    Ok(if report.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
