//! The command line: verbs and flags, and how flags become settings.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use millrace::config::{Flag, Resolved, Sources};
use millrace::exit::Failure;

/// Names the configuration file where no flag does.
const CONFIG_VARIABLE: &str = "MILLRACE_CONFIG";

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
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
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
    /// The running broker's data directory, where its control socket is. Without it the
    /// configuration is asked, as `serve` does.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// TOML file with the broker's settings.
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
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
    #[arg(long, value_name = "WHERE")]
    pub(crate) to: String,
    /// Do it.
    #[arg(long)]
    pub(crate) execute: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The data directory; no broker may run on it. Without it the configuration is asked, as
    /// `serve` does.
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// TOML file with the broker's settings.
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
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
        resolve(self.config.as_deref(), self.flags()?)
    }

    fn flags(&self) -> Result<Vec<Flag>, Failure> {
        let data_dir = self.data_dir.as_ref().map(|path| {
            let text = path.to_str().map(str::to_owned);
            text.ok_or_else(|| Failure::Usage(format!("--data-dir {}: not UTF-8", path.display())))
        });
        let named = [
            ("--data-dir", "server.data_dir", data_dir.transpose()?),
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

impl ClientArgs {
    /// The data directory of the broker that is meant.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, Failure> {
        data_dir(self.data_dir.as_deref(), self.config.as_deref())
    }
}

impl InspectArgs {
    /// The data directory that is meant.
    pub(crate) fn directory(&self) -> Result<PathBuf, Failure> {
        data_dir(self.directory.as_deref(), self.config.as_deref())
    }
}

/// The one that was named, or else that of the configuration.
fn data_dir(named: Option<&Path>, config: Option<&Path>) -> Result<PathBuf, Failure> {
    match named {
        Some(named) => Ok(named.to_owned()),
        None => Ok(resolve(config, Vec::new())?.config.server.data_dir),
    }
}

fn resolve(file: Option<&Path>, flags: Vec<Flag>) -> Result<Resolved, Failure> {
    let sources = Sources {
        file: file.map(Path::to_owned),
        environment: environment(std::env::vars_os())?,
        flags,
    };
    Ok(Resolved::from_sources(&sources)?)
}

/// The variables that may be settings: one of ours that is no text must not pass for one that is
/// not set.
fn environment(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, Failure> {
    let ours = all.filter(|(name, _)| {
        name.as_encoded_bytes().starts_with(b"MILLRACE_") && name != CONFIG_VARIABLE
    });
    let read = ours.map(|(name, value)| {
        let shown = name.display().to_string();
        let text = name.into_string().ok().zip(value.into_string().ok());
        text.ok_or_else(|| Failure::Unfit(format!("environment variable {shown}: not UTF-8")))
    });
    read.collect()
}

/// The words of the command line, as they were typed but for one thing: where `groups reset` moves
/// offsets to is one word, and `--to offset 5` means the same as `--to "offset 5"`.
pub(crate) fn words(typed: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    for word in typed {
        let is_flag = word.as_encoded_bytes().starts_with(b"--");
        let open = words.last_chunk::<2>().is_some_and(|[before, last]| {
            let named = (before == "--to").then_some(last.as_encoded_bytes());
            let named = named.or_else(|| last.as_encoded_bytes().strip_prefix(b"--to="));
            matches!(named, Some(b"offset" | b"time"))
        });
        match words.last_mut().filter(|_| open && !is_flag) {
            Some(last) => {
                last.push(" ");
                last.push(word);
            }
            None => words.push(word),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    fn parse(line: &str) -> Cli {
        Cli::parse_from(words(line.split(' ').map(OsString::from)))
    }

    #[test]
    fn where_offsets_move_to_is_one_word_or_two() {
        let same = [
            ("earliest", "earliest"),
            ("offset 5", "offset 5"),
            ("time -7", "time -7"),
            ("offset x", "offset x"),
        ];
        for (typed, read) in same {
            for way in [" ", "="] {
                let line = format!("millrace groups reset --topic t --to{way}{typed} team");
                let Verb::Groups(args) = parse(&line).verb else {
                    panic!("parsed as another verb")
                };
                let Some(GroupsVerb::Reset(args)) = args.verb else {
                    panic!("parsed as another verb")
                };
                assert_eq!((args.to.as_str(), args.group.as_str()), (read, "team"));
            }
        }
        let quoted = ["--to", "offset 5", "team"].map(OsString::from);
        assert_eq!(words(quoted.clone().into_iter()), quoted);
        let cut = ["a", "--to", "offset", "--execute"].map(OsString::from);
        assert_eq!(words(cut.clone().into_iter()), cut);
    }

    #[test]
    fn variables_of_ours_that_are_no_text_are_refused_by_name() {
        let raw = OsString::from_vec(vec![b'd', 0xff]);
        let name = |name: &str| OsString::from(name);
        let others = [
            (name("PATH"), raw.clone()),
            (name(CONFIG_VARIABLE), raw.clone()),
        ];
        assert!(environment(others.into_iter()).unwrap().is_empty());
        let ours = [(name("MILLRACE_SERVER_DATA_DIR"), raw)];
        let refused = environment(ours.into_iter()).unwrap_err().to_string();
        assert!(refused.contains("MILLRACE_SERVER_DATA_DIR"), "{refused}");
    }

    #[test]
    fn flags_become_settings() {
        let line = "millrace config --data-dir d --kafka 127.0.0.1:0 --cores 0,1 --set wal.files=5";
        let cli = parse(line);
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
