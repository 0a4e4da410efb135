//! The command line of `millrace bench`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::schedule::Burst;
use crate::sizes::Sizes;
use crate::spin::SpinMode;

/// What leads on from `millrace bench` alone.
pub(crate) const EXAMPLES: &str = "\
Examples:
  millrace bench produce                       a broker of its own, as fast as it goes
  millrace bench e2e --rate 1000 --html r.html latency at a given rate, as a page
  millrace bench produce --find-max            the highest rate with a p99 below 10 ms
  millrace bench run perf/scenarios/e2e.toml   a workload from a file
  millrace bench produce --target HOST:PORT    any broker that speaks Kafka's protocol
  millrace bench compare a.json b.json         results side by side
  millrace bench disk                          the floor: the disk without a broker";

/// Drives a broker and reports what it did.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BenchCommand>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Send messages and measure their acknowledgements
    #[command(args_override_self = true)]
    Produce(LoadArgs),
    /// Read messages: at the tail while they are sent, or a cold backlog
    #[command(args_override_self = true)]
    Consume(ConsumeArgs),
    /// Send and read at once and measure from sending to arrival
    #[command(args_override_self = true)]
    E2e(LoadArgs),
    /// Do what a scenario file says: one of the above with its flags as keys
    Run(RunArgs),
    /// Put result files side by side, with ratios to the first
    Compare(CompareArgs),
    /// Let a consumer group form, and form again, and measure how long that takes
    Groups(GroupsArgs),
    /// Measure the disk alone: durable commits and sequential reads as the broker does them
    Disk(DiskArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    /// Broker to drive; without it this executable's own `serve` is started as a child, and with
    /// `sink` an in-process peer that discards what it gets
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) target: Option<String>,
    /// Bytes of each message's value: one size, an even range as 100..2000, or sizes by weight as
    /// 128:90,4096:10
    #[arg(long, value_name = "BYTES", default_value = "1KiB")]
    pub(crate) size: Sizes,
    /// Give each message one of so many keys; they do not choose the partition
    #[arg(long, value_name = "N")]
    pub(crate) keys: Option<u32>,
    /// Codec of the batches; messages are then words and not noise
    #[arg(long, value_name = "CODEC", default_value = "none")]
    pub(crate) compression: Compression,
    /// Messages per second over all connections, sent by the clock; 0 sends as fast as answered
    #[arg(long, value_name = "PER_S", default_value_t = 0)]
    pub(crate) rate: u64,
    /// Send each PERIOD's messages of --rate within its first ON, as 100ms/1s
    #[arg(long, value_name = "ON/PERIOD", value_parser = burst)]
    pub(crate) burst: Option<Burst>,
    /// How long a message of --rate may wait for others of its batch
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = duration)]
    pub(crate) linger: Duration,
    /// Search for the highest rate whose p99 stays below --p99-max, then measure it for --duration
    #[arg(long, conflicts_with = "rate")]
    pub(crate) find_max: bool,
    /// The bound of --find-max, on acknowledgements or, end to end, on arrivals
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = duration)]
    pub(crate) p99_max: Duration,
    /// Process of the broker at --target, on this machine: its CPU time, memory and bytes written
    /// are reported as a child's are
    #[arg(long, value_name = "PID")]
    pub(crate) target_pid: Option<u32>,
    /// Producing connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) connections: u32,
    /// Requests on their way per connection
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) depth: u32,
    /// Most bytes of one batch
    #[arg(long, value_name = "BYTES", default_value = "64KiB", value_parser = bytes)]
    pub(crate) batch: u64,
    /// How long to measure, such as 10s, 500ms or 2m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// How long to run before measuring
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(crate) warmup: Duration,
    /// Write the whole result to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a page with charts to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Topic to use, made if absent; by default a new one, which stays
    #[arg(long, value_name = "NAME")]
    pub(crate) topic: Option<String>,
    /// Partitions of the topic, written in turn, one per request
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) partitions: u32,
    /// What an acknowledgement waits for
    #[arg(long, value_name = "ACKS", default_value = "all")]
    pub(crate) acks: Acks,
    /// Send as an idempotent producer: the broker checks that nothing is doubled or out of order
    #[arg(long)]
    pub(crate) idempotent: bool,
    /// Generator threads, each with a ring of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: u32,
    /// Whether those threads look for work without ever sleeping, which takes a core each and the
    /// time of waking out of every latency
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) spin: SpinMode,
    /// Consuming connections; by default as many as producing ones, at most one per partition
    #[arg(long, value_name = "N")]
    pub(crate) consumers: Option<u32>,
    /// Independent groups of such consumers, each of which reads everything
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) fan_out: u32,
    /// Do not read everything back to look for lost, doubled, reordered or damaged messages
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Cores for the generator's threads, such as 1 or 0,2
    #[arg(
        long,
        value_name = "LIST",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) generator_cores: CoreList,
    #[command(flatten)]
    pub(crate) child: ChildArgs,
}

/// The broker started as a child.
#[derive(Clone, Debug, Args)]
pub(crate) struct ChildArgs {
    /// The child broker's data directory, kept afterwards; by default a fresh one under the current
    /// directory, removed afterwards
    #[arg(long, value_name = "DIR", conflicts_with = "target")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The child broker's cores, as its own --cores takes them
    #[arg(long, value_name = "LIST", conflicts_with = "target")]
    pub(crate) cores: Option<String>,
    /// Start this executable's `serve` instead of this one's own
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    pub(crate) broker: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ConsumeArgs {
    /// Write this many bytes of messages first, then read them all; --duration and --warmup do
    /// not apply
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) backlog: Option<u64>,
    /// Go on producing so many messages per second while the backlog is read, until the consumers
    /// have caught up
    #[arg(long, value_name = "PER_S", value_parser = at_least_one)]
    pub(crate) meanwhile: Option<u64>,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct GroupsArgs {
    /// Broker to drive; without it this executable's own `serve` is started as a child
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) target: Option<String>,
    /// Members of the group, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) members: u32,
    /// How often all members join again
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) rounds: u32,
    /// Write the result to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) child: ChildArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// TOML file: `kind` is produce, consume or e2e, every other key a flag of it
    pub(crate) file: PathBuf,
    /// Flags of the scenario's kind, which override the file
    #[arg(
        value_name = "FLAGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) flags: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArgs {
    /// Result files of --json; the first is what the others are held against
    #[arg(value_name = "FILE", required = true, num_args = 2..)]
    pub(crate) files: Vec<PathBuf>,
    /// Write a page with all of them to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DiskArgs {
    /// Directory on the disk to measure
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// How long to measure each way of writing
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Lone commits a second, at a message's pace: what an acknowledgement at this rate waits for
    #[arg(long, value_name = "PER_S", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
    /// Write the result to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What the broker waits for before it acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Acks {
    #[value(name = "0")]
    None,
    #[value(name = "1")]
    Leader,
    #[value(name = "all", alias = "-1")]
    All,
}

impl Acks {
    /// Kafka's number for it.
    pub(crate) fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// What batches are packed with.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// Numbers of cores, as `1` or `0,2`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CoreList(pub(crate) Vec<usize>);

impl FromStr for CoreList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').filter(|part| !part.is_empty());
        let cores = parts.map(|part| {
            let core = part.trim().parse();
            core.map_err(|_| format!("{part:?} is no core's number"))
        });
        cores.collect::<Result<_, _>>().map(Self)
    }
}

fn at_least_one(text: &str) -> Result<u64, String> {
    let number = text.parse();
    let number = number.map_err(|_| "a whole number is wanted".to_owned())?;
    if number == 0 {
        return Err("must be more than 0".to_owned());
    }
    Ok(number)
}

/// A burst's part of its period: `100ms/1s`.
fn burst(text: &str) -> Result<Burst, String> {
    let (on, period) = text
        .split_once('/')
        .ok_or("an ON/PERIOD is wanted, as 100ms/1s")?;
    let nanoseconds = |text| -> Result<u64, String> {
        let duration = duration(text)?;
        u64::try_from(duration.as_nanos()).map_err(|_| "too long".to_owned())
    };
    let (on_ns, period_ns) = (nanoseconds(on)?, nanoseconds(period)?);
    if on_ns == 0 || on_ns > period_ns {
        return Err("ON must be more than 0 and at most PERIOD".to_owned());
    }
    Ok(Burst { on_ns, period_ns })
}

/// Bytes with an optional binary unit: `1024`, `64KiB`, `64k`, `3GiB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err(format!("{unit:?} is no unit of bytes; use KiB, MiB or GiB")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a whole number is wanted".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too many bytes".to_owned())
}

/// A time with its unit: `10s`, `500ms`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: u64 = digits
        .parse()
        .map_err(|_| "a whole number is wanted".to_owned())?;
    let milliseconds = match unit.trim() {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" | "min" => number.checked_mul(60_000),
        "" => return Err(format!("a unit is wanted, as {number}ms or {number}s")),
        _ => return Err(format!("{unit:?} is no unit of time; use ms, s or m")),
    };
    milliseconds
        .map(Duration::from_millis)
        .ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<BenchCommand, clap::Error> {
        let whole = Whole::try_parse_from(line.split_ascii_whitespace())?;
        Ok(whole.bench.command.expect("a command is on the line"))
    }

    #[test]
    fn the_line_that_scripts_rely_on_is_understood() {
        let line = "bench e2e --target h:9 --size 1024 --rate 1000 --connections 4 --depth 8 \
                    --batch 65536 --duration 10s --json out.json";
        let Ok(BenchCommand::E2e(load)) = parse(line) else {
            panic!("e2e")
        };
        assert_eq!(
            (load.size, load.rate, load.connections),
            (Sizes::Fixed(1024), 1000, 4)
        );
        assert_eq!(
            (load.depth, load.batch, load.duration),
            (8, 65536, Duration::from_secs(10))
        );
        assert!(matches!(
            parse("bench disk --json x"),
            Ok(BenchCommand::Disk(_))
        ));
        assert!(matches!(
            parse("bench consume --backlog 1GiB"),
            Ok(BenchCommand::Consume(_))
        ));
    }

    #[test]
    fn bytes_and_times_have_units() {
        assert_eq!(
            (bytes("100"), bytes("64KiB"), bytes("2m")),
            (Ok(100), Ok(65536), Ok(2 << 20))
        );
        assert!(bytes("1kg").is_err() && bytes("").is_err() && bytes("99999999999GiB").is_err());
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        let bare = Err("a unit is wanted, as 5ms or 5s".to_owned());
        assert_eq!(duration("5"), bare);
        assert!(duration("10").is_err() && duration("s").is_err());
    }

    #[test]
    fn a_foreign_broker_has_no_data_directory_here() {
        assert!(parse("bench produce --target h:9 --data-dir d").is_err());
    }

    #[test]
    fn the_shape_of_a_load_is_understood() {
        let line = "bench e2e --size 100..2000 --keys 50 --compression zstd --rate 10 --linger 5ms \
                    --burst 100ms/1s --fan-out 3 --generator-cores 0,2 --html r.html";
        let Ok(BenchCommand::E2e(load)) = parse(line) else {
            panic!("e2e")
        };
        assert_eq!(load.size, Sizes::Even(100, 2_000));
        assert_eq!((load.keys, load.fan_out), (Some(50), 3));
        assert_eq!(load.compression, Compression::Zstd);
        assert_eq!(load.linger, Duration::from_millis(5));
        let burst = Burst {
            on_ns: 100_000_000,
            period_ns: 1_000_000_000,
        };
        assert_eq!(load.burst, Some(burst));
        assert_eq!(load.generator_cores, CoreList(vec![0, 2]));
        for wrong in ["2s/1s", "0ms/1s", "1s"] {
            let line = format!("bench produce --burst {wrong}");
            assert!(parse(&line).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_later_flag_takes_the_place_of_an_earlier_one() {
        let line = "bench produce --rate 10 --no-verify --rate 20 --no-verify";
        let Ok(BenchCommand::Produce(load)) = parse(line) else {
            panic!("produce")
        };
        assert_eq!((load.rate, load.no_verify), (20, true));
    }

    #[test]
    fn a_search_has_no_rate_of_its_own() {
        assert!(parse("bench produce --find-max --rate 5").is_err());
        assert!(parse("bench produce --find-max --p99-max 5ms").is_ok());
    }
}
