//! The command line: verbs and flags, and how flags become settings.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use millrace::config::{Flag, Resolved, Sources};
use millrace::exit::Failure;

/// A durable message broker for Kafka clients: an acknowledgement means it is on the disk.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the broker.
    Serve(ServeArgs),
    /// Print the resolved configuration as TOML, with what each setting means.
    Config(SettingsArgs),
    /// Print the machine's cores and where shards should run.
    Cores,
    /// Ask a running broker how it is.
    Status(ClientArgs),
    /// List a running broker's topics.
    Topics(ClientArgs),
    /// Show a running broker's consumer groups and how far behind they are.
    Groups(GroupsArgs),
    /// Read a stopped broker's data directory.
    Inspect(InspectArgs),
    /// Measure a broker: this one by default, any that speaks its protocol with --target.
    Bench(millrace_bench::BenchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// Start without a damaged range of acknowledged data, exactly as the refusal named it.
    #[arg(long, value_name = "SHARD:FROM-TO")]
    pub(crate) accept_loss: Vec<String>,
}

/// Where settings come from.
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// TOML file with settings; `millrace config` prints one with every setting.
    #[arg(long, value_name = "FILE", env = "MILLRACE_CONFIG")]
    config: Option<PathBuf>,
    /// Directory of everything that is kept.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where Kafka clients connect; port 0 picks a free one.
    #[arg(long, value_name = "ADDR:PORT")]
    kafka: Option<String>,
    /// Cores that run a shard each: auto, 0-3, or 0,2.
    #[arg(long, value_name = "LIST")]
    cores: Option<String>,
    /// Present each core as a Kafka node of its own, on PORT, PORT + 1 and so on.
    #[arg(long)]
    node_per_core: bool,
    /// Any other setting, as `wal.files=16`.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// The running broker's data directory: its control socket is there.
    #[arg(long, value_name = "DIR", default_value = "millrace-data")]
    pub(crate) data_dir: PathBuf,
    /// Print the answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct GroupsArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    #[command(subcommand)]
    pub(crate) verb: Option<GroupsVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupsVerb {
    /// Move an empty group's offsets: shows what would be done, does it with --execute.
    Reset(ResetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// The group.
    pub(crate) group: String,
    /// A topic, or one of its partitions as TOPIC:PARTITION. May be given several times.
    #[arg(long, required = true, value_name = "TOPIC[:PARTITION]")]
    pub(crate) topic: Vec<String>,
    /// earliest, latest, "offset N", or "time T" with milliseconds since the Unix epoch.
    #[arg(long, required = true, num_args = 1..=2, value_names = ["WHERE", "N"])]
    pub(crate) to: Vec<String>,
    /// Do it.
    #[arg(long)]
    pub(crate) execute: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The data directory; no broker may run on it.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Check every checksum.
    #[arg(long)]
    pub(crate) verify: bool,
    /// List the blocks of the log, one line each.
    #[arg(long)]
    pub(crate) blocks: bool,
}

impl SettingsArgs {
    /// Resolves file, environment and flags.
    pub(crate) fn resolve(&self) -> Result<Resolved, Failure> {
        let text = |text: OsString| text.into_string().ok();
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
            .collect();
        let sources = Sources {
            file: self.config.clone(),
            environment,
            flags: self.flags()?,
        };
        Ok(Resolved::from_sources(&sources)?)
    }

    fn flags(&self) -> Result<Vec<Flag>, Failure> {
        let data_dir = self
            .data_dir
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned());
        let named = [
            ("--data-dir", "server.data_dir", data_dir),
            ("--kafka", "listeners.kafka.address", self.kafka.clone()),
            ("--cores", "server.cores", self.cores.clone()),
            (
                "--node-per-core",
                "listeners.kafka.node_per_core",
                self.node_per_core.then(|| "true".to_owned()),
            ),
        ];
        let mut flags = Vec::new();
        for setting in &self.set {
            let Some((name, value)) = setting.split_once('=') else {
                let message = format!("--set {setting}: expected NAME=VALUE, as wal.files=16");
                return Err(Failure::Usage(message));
            };
            flags.push(Flag {
                flag: "--set",
                name: name.trim().to_owned(),
                value: value.trim().to_owned(),
            });
        }
        flags.extend(named.into_iter().filter_map(|(flag, name, value)| {
            Some(Flag {
                flag,
                name: name.to_owned(),
                value: value?,
            })
        }));
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_settings() {
        let line = "millrace config --data-dir d --kafka 127.0.0.1:0 --cores 0,1 --set wal.files=5";
        let cli = Cli::parse_from(line.split(' '));
        let Verb::Config(args) = cli.verb else {
            panic!("parsed as another verb")
        };
        let names: Vec<String> = args.flags().unwrap().into_iter().map(|f| f.name).collect();
        assert_eq!(
            names,
            [
                "wal.files",
                "server.data_dir",
                "listeners.kafka.address",
                "server.cores"
            ]
        );
    }
}
