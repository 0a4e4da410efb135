//! The verbs about consumer groups.

use std::fmt::Write as _;

use millrace::control::client;
use millrace::control::{GroupStatus, ResetAsk, ResetPartition, ResetTo, ResetTopic};
use millrace::exit::Failure;

use crate::cli::{GroupsArgs, GroupsVerb, ResetArgs};
use crate::commands::print;

/// Prints a running broker's groups, or moves the offsets of one.
pub(crate) fn groups(args: &GroupsArgs) -> Result<(), Failure> {
    if let Some(GroupsVerb::Reset(args)) = &args.verb {
        return reset(args);
    }
    let body = client::get(&args.client.data_dir()?, "/groups")?;
    print(&args.client, &body, |groups: &Vec<GroupStatus>| {
        groups.iter().map(show_group).collect()
    })
}

fn show_group(group: &GroupStatus) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}: {}, generation {}, {} members{}",
        group.group,
        group.state,
        group.generation,
        group.members.len(),
        match group.protocol.as_str() {
            "" => String::new(),
            protocol => format!(", {protocol}"),
        }
    );
    for member in &group.members {
        let leads = if member.member == group.leader {
            ", leads"
        } else {
            ""
        };
        let _ = writeln!(out, "  {} {}{leads}", member.member, member.host);
        for (topic, partitions) in &member.assignment {
            let _ = writeln!(out, "    {topic} {partitions:?}");
        }
    }
    if !group.offsets.is_empty() {
        let _ = writeln!(
            out,
            "  topic  partition  committed  end  lag  lag in seconds"
        );
    }
    for offset in &group.offsets {
        let seconds = offset
            .lag_s
            .map_or("?".to_owned(), |seconds| format!("{seconds:.3}"));
        let _ = writeln!(
            out,
            "  {}  {}  {}  {}  {}  {seconds}",
            offset.topic, offset.partition, offset.committed, offset.end, offset.lag
        );
    }
    out
}

fn reset(args: &ResetArgs) -> Result<(), Failure> {
    let topics = args.topic.iter().map(|named| parse_topic(named));
    let asked = ResetAsk {
        group: args.group.clone(),
        topics: topics.collect::<Result<_, _>>()?,
        to: parse_to(&args.to)?,
        execute: args.execute,
    };
    let asked = serde_json::to_string(&asked).expect("plain data");
    let body = client::post(&args.client.data_dir()?, "/groups/reset", &asked)?;
    let executed = args.execute;
    print(&args.client, &body, |moved: &Vec<ResetPartition>| {
        show_reset(moved, executed)
    })
}

fn show_reset(moved: &[ResetPartition], executed: bool) -> String {
    let mut out = String::from("topic  partition  from  to\n");
    for one in moved {
        let from = one.from.map_or("-".to_owned(), |from| from.to_string());
        let _ = writeln!(out, "{}  {}  {from}  {}", one.topic, one.partition, one.to);
    }
    if !executed {
        out.push_str("nothing was changed; --execute does it\n");
    }
    out
}

/// TOPIC or TOPIC:PARTITION; a topic's name has no colon.
fn parse_topic(named: &str) -> Result<ResetTopic, Failure> {
    let Some((topic, partition)) = named.split_once(':') else {
        let (topic, partition) = (named.to_owned(), None);
        return Ok(ResetTopic { topic, partition });
    };
    let partition = partition.parse().map_err(|_| {
        Failure::Usage(format!(
            "--topic {named}: expected TOPIC:PARTITION, as orders:0"
        ))
    })?;
    Ok(ResetTopic {
        topic: topic.to_owned(),
        partition: Some(partition),
    })
}

fn parse_to(to: &str) -> Result<ResetTo, Failure> {
    let number = |text: &str| text.parse().map_err(|_| not_understood(to));
    match to.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["earliest"] => Ok(ResetTo::Earliest),
        ["latest"] => Ok(ResetTo::Latest),
        ["offset", offset] => Ok(ResetTo::Offset(number(offset)?)),
        ["time", time] => {
            let time = time.parse().map_err(|_| not_understood(to))?;
            Ok(ResetTo::Time(time))
        }
        _ => Err(not_understood(to)),
    }
}

fn not_understood(to: &str) -> Failure {
    Failure::Usage(format!(
        "--to {to}: expected earliest, latest, offset N, or time T in ms since the Unix epoch"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_places_are_read() {
        let partition = parse_topic("orders:3").expect("sound");
        assert_eq!(
            (partition.topic.as_str(), partition.partition),
            ("orders", Some(3))
        );
        assert_eq!(parse_topic("orders").expect("sound").partition, None);
        assert!(parse_topic("orders:x").is_err());
        let to = |text: &str| parse_to(text).ok();
        assert_eq!(to("earliest"), Some(ResetTo::Earliest));
        assert_eq!(to("offset 7"), Some(ResetTo::Offset(7)));
        assert_eq!(to("time -7"), Some(ResetTo::Time(-7)));
        for wrong in ["offset", "offset -1", "time x", "soon"] {
            assert_eq!(to(wrong), None, "{wrong}");
        }
    }
}
