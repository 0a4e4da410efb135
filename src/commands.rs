//! The small verbs: they print and end.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};

use millrace::control::client;
use millrace::control::{Status, TopicStatus};
use millrace::exit::Failure;
use millrace::inspect::{self, Depth};
use millrace::topology::Topology;
use serde::de::DeserializeOwned;

use crate::cli::{ClientArgs, InspectArgs, SettingsArgs};

/// Prints the resolved configuration.
pub(crate) fn config(args: &SettingsArgs) -> Result<(), Failure> {
    say(&args.resolve()?.to_toml())
}

/// Prints the machine's cores.
pub(crate) fn cores() -> Result<(), Failure> {
    say(&Topology::read().table())
}

/// Prints how a running broker is.
pub(crate) fn status(args: &ClientArgs) -> Result<(), Failure> {
    let body = client::get(&args.data_dir()?, "/status")?;
    print(args, &body, show_status)
}

/// Prints a running broker's topics.
pub(crate) fn topics(args: &ClientArgs) -> Result<(), Failure> {
    let body = client::get(&args.data_dir()?, "/topics")?;
    print(args, &body, |topics: &Vec<TopicStatus>| show_topics(topics))
}

/// Prints what a stopped data directory holds.
pub(crate) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let depth = Depth {
        verify: args.verify,
        blocks: args.blocks,
    };
    let found = inspect::inspect(&args.directory()?, depth)?;
    say(&found.text)?;
    if found.damages.is_empty() {
        let checked = if args.verify {
            "every checksum matches\n"
        } else {
            "nothing wrong was seen; --verify checks every checksum\n"
        };
        return say(checked);
    }
    Err(Failure::Damaged(found.damages.join("\n")))
}

/// Prints an answer, as it came or as `show` shows it.
pub(crate) fn print<T: DeserializeOwned>(
    args: &ClientArgs,
    body: &str,
    show: impl Fn(&T) -> String,
) -> Result<(), Failure> {
    if args.json {
        return say(&format!("{body}\n"));
    }
    let answer: T = serde_json::from_str(body).map_err(|error| {
        Failure::Unavailable(format!(
            "the broker's answer cannot be read ({error}); is it of another version?"
        ))
    })?;
    say(&show(&answer))
}

/// Writes to standard output. Whoever reads it may have seen enough, as `head` has.
fn say(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    let said = stdout.write_all(text.as_bytes());
    match said.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        said => said.map_err(Failure::io("standard output")),
    }
}

fn show_status(status: &Status) -> String {
    let mut out = String::new();
    let rows = [
        ("version", status.version.clone()),
        ("process", status.pid.to_string()),
        ("up", format!("{} s", status.uptime_s)),
        (
            "data",
            format!("{} ({})", status.data_dir, status.file_system),
        ),
        ("acknowledged", status.acknowledgement.clone()),
        ("kafka", status.kafka.join(", ")),
        ("topics", status.topics.to_string()),
    ];
    for (name, value) in rows {
        let _ = writeln!(out, "{name:<13} {value}");
    }
    for shard in &status.shards {
        let _ = writeln!(
            out,
            "\nshard {} on core {}: {} partitions, {} bytes",
            shard.shard, shard.core, shard.partitions, shard.bytes
        );
        for (name, value) in &shard.counters {
            let _ = writeln!(out, "  {name:<32} {value:>16}");
        }
    }
    out
}

fn show_topics(topics: &[TopicStatus]) -> String {
    let mut out = String::from("topic  partition  home  first offset  next offset  bytes\n");
    for topic in topics {
        for partition in &topic.partitions {
            let _ = writeln!(
                out,
                "{}  {}  {}  {}  {}  {}",
                topic.name,
                partition.index,
                partition.home,
                partition.log_start,
                partition.high_watermark,
                partition.bytes
            );
        }
        for (name, value) in &topic.overrides {
            let _ = writeln!(out, "{}  {name}={value}", topic.name);
        }
    }
    out
}
