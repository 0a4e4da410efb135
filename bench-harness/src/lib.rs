//! The load generator behind `millrace bench`: it drives a broker through TCP with the broker's
//! own protocol and reports throughput and latency that can be believed.
//!
//! An open loop decides by the clock when each message is due and counts its latency from that
//! moment, so a stall is seen by every message that it delayed; a closed loop finds the peak. Every
//! message carries an id and a checksum, and a run says whether any was lost, doubled, reordered
//! or damaged.
//!
//! * [`args`]: the command line; [`scenario_file`]: the same as a file; [`scenario`]: what to do;
//!   [`run`]: from a broker's start to its stop; [`search`]: at which rate.
//! * [`report`]: what came of it, as [`table`] and as a page ([`html`]); [`compare`]: several.
//! * [`phase`]: threads that start together; [`worker`]: one of them; [`producer`], [`consumer`]:
//!   its connections, over [`transport`] (the only file that knows the ring) and [`client`] (the
//!   protocols).
//! * [`schedule`], [`sizes`], [`payload`], [`recorder`], [`live`], [`verify`]: when, how much,
//!   what, how long, and whether; [`spin`]: asleep or awake between.
//! * [`disk`]: the floor, without a broker; [`groups`]: how long a group takes to form.
//! * [`child`], [`sink`], [`machine`], [`setup`]: whom to drive, and on what; [`control`] and
//!   [`stages`]: what a child says itself; [`interrupt`]: when to stop.

mod args;
mod child;
mod client;
mod compare;
mod connection;
mod consumer;
mod control;
#[doc(hidden)]
pub mod cost;
mod disk;
mod groups;
mod html;
mod interrupt;
mod live;
mod machine;
mod payload;
mod phase;
mod producer;
mod progress;
mod recorder;
mod report;
mod run;
mod scenario;
mod scenario_file;
mod schedule;
mod search;
mod setup;
mod sink;
mod sizes;
mod spin;
mod stages;
mod table;
mod transport;
mod verify;
mod worker;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

pub use args::BenchArgs;
use args::{BenchCommand, LoadArgs};
use report::{Report, write_json};
use scenario::{Kind, Scenario};

/// What `sysexits.h` calls a wrong command line.
const USAGE: u8 = 64;

/// Runs what the command line asks for, prints the result and says whether all went well.
pub fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let Some(command) = args.command else {
        scenario_file::bench().print_long_help()?;
        return Ok(ExitCode::SUCCESS);
    };
    run_command(command).or_else(|error| match error.downcast::<clap::Error>() {
        Ok(error) => {
            error.print()?;
            let is_wrong = error.use_stderr();
            Ok(ExitCode::from(if is_wrong { USAGE } else { 0 }))
        }
        Err(error) => Err(error),
    })
}

fn run_command(command: BenchCommand) -> anyhow::Result<ExitCode> {
    let (scenario, load) = match command {
        BenchCommand::Compare(args) => {
            let comparison = compare::read(&args.files)?;
            say(&comparison.table())?;
            if let Some(path) = &args.html {
                write_page(&html::comparison(&comparison), path)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        BenchCommand::Disk(args) => {
            let report = disk::run(&args)?;
            say(&report.table())?;
            write_json(&report, args.json.as_deref())?;
            return Ok(ExitCode::SUCCESS);
        }
        BenchCommand::Groups(args) => {
            let report = groups::run(&args)?;
            say(&report.table())?;
            write_json(&report, args.json.as_deref())?;
            return Ok(ExitCode::SUCCESS);
        }
        BenchCommand::Run(args) => {
            let file = scenario_file::read(&args)?;
            let (scenario, load) = load_of(file.command)?;
            let scenario = Scenario {
                file: Some(file.name),
                about: file.about,
                ..scenario
            };
            (scenario, load)
        }
        load => load_of(load)?,
    };
    let report = run::run(scenario, &load)?;
    // The table first: a report that cannot be written must not swallow it.
    let said = say(&report.table());
    write_reports(&report, &load)?;
    said?;
    Ok(if report.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What a verb that drives a broker asks for.
fn load_of(command: BenchCommand) -> anyhow::Result<(Scenario, LoadArgs)> {
    Ok(match command {
        BenchCommand::Produce(load) => (Scenario::of(Kind::Produce, &load)?, load),
        BenchCommand::E2e(load) => (Scenario::of(Kind::EndToEnd, &load)?, load),
        BenchCommand::Consume(args) => (Scenario::of_consume(&args)?, args.load),
        BenchCommand::Run(_)
        | BenchCommand::Compare(_)
        | BenchCommand::Disk(_)
        | BenchCommand::Groups(_) => {
            unreachable!("these verbs have no scenario of their own")
        }
    })
}

/// Writes every file that was asked for, even if another cannot be written.
fn write_reports(report: &Report, load: &LoadArgs) -> anyhow::Result<()> {
    let json = write_json(report, load.json.as_deref());
    let html = load
        .html
        .as_ref()
        .map_or(Ok(()), |path| write_page(&html::report(report), path));
    match (json, html) {
        (Err(json), Err(html)) => Err(json.context(format!("{html:#}"))),
        (json, html) => json.and(html),
    }
}

/// Writes to standard output. Whoever reads it may have seen enough, as `head` has.
fn say(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout();
    let said = stdout.write_all(text.as_bytes());
    match said.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        said => said,
    }
}

fn write_page(page: &str, path: &std::path::Path) -> anyhow::Result<()> {
    report::write_file(path, page)
}
