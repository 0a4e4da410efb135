//! The `millrace` command.

mod cli;
mod commands;
mod group_commands;
mod serve;

use std::io::Write;
use std::process::ExitCode as ProcessExit;

use clap::Parser;
use millrace::exit::{ExitCode, Failure, end_on_panic};

use cli::{Cli, Verb};

fn main() -> ProcessExit {
    end_on_panic();
    let cli = match Cli::try_parse_from(cli::words(std::env::args_os())) {
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
    match run(cli.verb) {
        Ok(code) => code,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "millrace: {failure}");
            failure.code().into()
        }
    }
}

fn run(verb: Verb) -> Result<ProcessExit, Failure> {
    match verb {
        Verb::Serve(args) => serve::serve(&args)?,
        Verb::Inspect(args) => commands::inspect(&args)?,
        Verb::Config(args) => commands::config(&args)?,
        Verb::Cores => commands::cores()?,
        Verb::Status(args) => commands::status(&args)?,
        Verb::Topics(args) => commands::topics(&args)?,
        Verb::Groups(args) => group_commands::groups(&args)?,
        Verb::Bench(args) => {
            return millrace_bench::run(args).map_err(|error| Failure::Bench(format!("{error:#}")));
        }
    }
    Ok(ExitCode::Clean.into())
}
