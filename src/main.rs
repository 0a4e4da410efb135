//! The `millrace` command.

mod cli;
mod commands;

use std::process::ExitCode as ProcessExit;

use clap::Parser;
use millrace::exit::{ExitCode, Failure};

use cli::{Cli, Verb};

fn main() -> ProcessExit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let code = if error.use_stderr() {
                ExitCode::Usage
            } else {
                ExitCode::Clean
            };
            return code.into();
        }
    };
    if let Verb::Bench(args) = cli.verb {
        return bench(args);
    }
    match run(&cli.verb) {
        Ok(()) => ExitCode::Clean.into(),
        Err(failure) => {
            eprintln!("millrace: {failure}");
            failure.code().into()
        }
    }
}

fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Config(args) => commands::config(args),
        Verb::Cores => {
            commands::cores();
            Ok(())
        }
        Verb::Status(args) => commands::status(args),
        Verb::Topics(args) => commands::topics(args),
        Verb::Bench(_) => unreachable!("it has exit codes of its own and was run before"),
    }
}

/// Runs the load generator: 0 when all went well, 1 when a message or the run did not.
fn bench(args: millrace_bench::BenchArgs) -> ProcessExit {
    millrace_bench::run(args).unwrap_or_else(|error| {
        eprintln!("millrace: {error:#}");
        ProcessExit::FAILURE
    })
}
