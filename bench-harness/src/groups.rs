//! `bench groups`: how long a consumer group takes to form, and to form again.
//!
//! Every member has a connection of its own and does what a client does in a rebalance: it joins,
//! waits for its generation, and asks for its share, which the leader has given out. A round's time
//! is that from the first join to the last share. Members of a real group hear of a rebalance by
//! their next heartbeat; here all join at once, so a round is the broker's time and not theirs. The
//! first round holds what the broker waits for more members; the following ones hold no such wait.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

use crate::args::GroupsArgs;
use crate::client::{Client, GroupMember, Node, Reply};
use crate::connection::Connection;
use crate::interrupt::Interrupts;
use crate::machine::Machine;
use crate::recorder::Latency;
use crate::report::LatencyReport;
use crate::run::Peer;
use crate::scenario::{Target, fresh_run};
use crate::setup;
use crate::table::{duration_text, micros_text};
use crate::transport;

const SCHEMA_VERSION: u32 = 1;
const MEMBERS_MAX: u32 = 10_000;
/// How often and how long a fresh broker's coordinator is awaited.
const COORDINATOR_RETRY: Duration = Duration::from_millis(100);
const COORDINATOR_RETRIES_MAX: u32 = 150;

/// How long the rounds took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GroupsReport {
    schema_version: u32,
    tool: &'static str,
    tool_version: &'static str,
    commit: &'static str,
    machine: Machine,
    target: Target,
    members: u32,
    /// Rounds after the first that were asked for; `rejoin` counts those that there were.
    rounds: u32,
    /// A stop signal came before the last of them was through.
    interrupted: bool,
    /// The first join of all, with the broker's wait for more members.
    first_join_ms: f64,
    /// Of all members that the group has already; `None` if it was stopped before.
    rejoin: Option<LatencyReport>,
}

/// Forms a group, and forms it anew as often as asked or until a stop signal.
pub(crate) fn run(args: &GroupsArgs) -> anyhow::Result<GroupsReport> {
    ensure!(
        (1..=MEMBERS_MAX).contains(&args.members),
        "--members must be 1 to {MEMBERS_MAX}"
    );
    ensure!(args.rounds > 0, "--rounds must be more than 0");
    let mut interrupts = Interrupts::listen().context("cannot listen for stop signals")?;
    let target = Target::of(args.target.as_deref());
    ensure!(
        target != Target::Sink,
        "the sink discards what it gets: it has no groups"
    );
    let peer = Peer::find(&target, &args.child, &interrupts)?;
    let run = fresh_run();
    let group = format!("millrace-bench-{run:08x}");
    setup::prepare(peer.address(), &group, args.members)?;
    let rounds = rounds(peer.address(), &group, args, &mut interrupts);
    let Rounds { times, interrupted } = transport::run(rounds)?;
    peer.stop()?;
    let Some((first, rejoins)) = times.split_first() else {
        bail!("stopped before the group had formed: nothing was measured");
    };
    let mut latency = Latency::new();
    for rejoin in rejoins {
        latency.record(u64::try_from(rejoin.as_nanos())?, 1);
    }
    Ok(GroupsReport {
        schema_version: SCHEMA_VERSION,
        tool: "millrace bench groups",
        tool_version: env!("CARGO_PKG_VERSION"),
        commit: env!("MILLRACE_COMMIT"),
        machine: Machine::describe(),
        target,
        members: args.members,
        rounds: args.rounds,
        interrupted,
        first_join_ms: first.as_secs_f64() * 1e3,
        rejoin: LatencyReport::of(&latency),
    })
}

impl GroupsReport {
    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut out = format!("\na group of {} members\n", self.members);
        if self.interrupted {
            out.push_str("STOPPED EARLY: what was measured until then\n");
        }
        let first = duration_text((self.first_join_ms * 1e6) as u64);
        let again = self.rejoin.as_ref().map_or_else(
            || format!("{:>10}", "-"),
            |rejoin| {
                let [p50, p99, max] =
                    [rejoin.p50_us, rejoin.p99_us, rejoin.max_us].map(micros_text);
                let times = rejoin.count;
                format!("{p50:>10} p50{p99:>12} p99{max:>12} max, {times} times")
            },
        );
        writeln!(out, "first join   {first:>10}\nagain        {again}")
            .expect("a string takes everything");
        out
    }
}

/// A member between rounds.
struct Member {
    connection: Connection,
    /// What the coordinator called it; empty before the first round.
    id: String,
}

/// What the rounds brought.
struct Rounds {
    /// The first round's and the others'. Those only that were whole.
    times: Vec<Duration>,
    /// A stop signal came.
    interrupted: bool,
}

async fn rounds(
    address: SocketAddr,
    group: &str,
    args: &GroupsArgs,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Rounds> {
    let coordinator = coordinator(address, group).await?;
    await_coordinator(coordinator, group).await?;
    let mut members = Vec::new();
    for _ in 0..args.members {
        members.push(Member {
            connection: Connection::open(coordinator, Client::kafka(group, -1)).await?,
            id: String::new(),
        });
    }
    let group: Rc<str> = group.into();
    let mut rounds = Rounds {
        times: Vec::new(),
        interrupted: false,
    };
    let _measuring = interrupts.measure();
    eprintln!("{} members join", args.members);
    for round in 0..=args.rounds {
        let since = Instant::now();
        members = tokio::select! {
            members = take_round(members, &group, round) => members?,
            // The round under way ends with the ring.
            () = interrupts.interrupted() => {
                eprintln!("stopping; what is measured so far follows");
                rounds.interrupted = true;
                break;
            }
        };
        rounds.times.push(since.elapsed());
        if round == 0 {
            eprintln!(
                "the group has formed; its members join {} times more",
                args.rounds
            );
        }
    }
    Ok(rounds)
}

/// Has all members join at once, and returns them when each has its share.
async fn take_round(
    members: Vec<Member>,
    group: &Rc<str>,
    round: u32,
) -> anyhow::Result<Vec<Member>> {
    let count = members.len();
    let leaders = Rc::new(RefCell::new(0));
    let mut tasks = Vec::new();
    for mut member in members {
        let (group, leaders) = (group.clone(), leaders.clone());
        tasks.push(transport::spawn(async move {
            let leads = member.rejoin(&group, round, count).await?;
            *leaders.borrow_mut() += u32::from(leads);
            anyhow::Ok(member)
        }));
    }
    let mut members = Vec::new();
    for task in tasks {
        members.push(task.await.expect("a member's task does not panic")?);
    }
    let leaders = *leaders.borrow();
    ensure!(leaders == 1, "the group has {leaders} leaders");
    Ok(members)
}

impl Member {
    /// Joins, and takes its share; whether it is the leader, who must see all `count` members.
    async fn rejoin(&mut self, group: &str, round: u32, count: usize) -> anyhow::Result<bool> {
        let mut out = Vec::new();
        let member = GroupMember {
            group,
            id: &self.id,
        };
        let client = &mut self.connection.client;
        client.join_group(&mut out, &member, round);
        let joined = self.connection.exchange(out, |reply| match reply {
            Reply::Joined(joined) => Some(joined),
            _ => None,
        });
        let joined = match joined.await? {
            Ok(joined) => joined,
            Err(refusal) => bail!("a member may not join: {refusal}"),
        };
        let leads = !joined.members.is_empty();
        let seen = joined.members.len();
        ensure!(
            !leads || seen == count,
            "a generation has {seen} of {count} members: they did not join at once"
        );
        self.id = joined.id;
        let member = GroupMember {
            group,
            id: &self.id,
        };
        let mut out = Vec::new();
        let client = &mut self.connection.client;
        client.sync_group(&mut out, &member, joined.generation, &joined.members);
        let synced = self.connection.exchange(out, |reply| match reply {
            Reply::Synced(synced) => Some(synced),
            _ => None,
        });
        match synced.await? {
            Ok(has_share) => ensure!(has_share, "a member got no share"),
            Err(refusal) => bail!("a member gets no share: {refusal}"),
        }
        Ok(leads)
    }
}

/// Who coordinates the group: a broker may have to make itself ready for groups first.
async fn coordinator(address: SocketAddr, group: &str) -> anyhow::Result<SocketAddr> {
    let mut connection = Connection::open(address, Client::kafka(group, -1)).await?;
    let mut reason = String::new();
    for _ in 0..COORDINATOR_RETRIES_MAX {
        let mut out = Vec::new();
        connection.client.find_coordinator(&mut out, group);
        let found = connection.exchange(out, |reply| match reply {
            Reply::Coordinator(found) => Some(found),
            _ => None,
        });
        match found.await? {
            Ok(node) => return address_of(&node),
            Err(refusal) => reason = refusal.to_string(),
        }
        tokio::time::sleep(COORDINATOR_RETRY).await;
    }
    bail!("group {group:?} has no coordinator: {reason}")
}

/// Waits until the coordinator takes the group on: one that was only just made does not yet. It is
/// asked for the share of a member that is none, which changes nothing.
async fn await_coordinator(address: SocketAddr, group: &str) -> anyhow::Result<()> {
    let mut connection = Connection::open(address, Client::kafka(group, -1)).await?;
    let nobody = GroupMember {
        group,
        id: "nobody",
    };
    let mut reason = "";
    for _ in 0..COORDINATOR_RETRIES_MAX {
        let mut out = Vec::new();
        connection.client.sync_group(&mut out, &nobody, 1, &[]);
        let synced = connection.exchange(out, |reply| match reply {
            Reply::Synced(synced) => Some(synced),
            _ => None,
        });
        match synced.await? {
            Err(refusal) if refusal.is_not_ready_yet() => reason = refusal.name,
            _ => return Ok(()),
        }
        tokio::time::sleep(COORDINATOR_RETRY).await;
    }
    bail!("the coordinator of group {group:?} does not take it on: {reason}")
}

fn address_of(node: &Node) -> anyhow::Result<SocketAddr> {
    let addresses = (node.host.as_str(), node.port).to_socket_addrs();
    let address = addresses.ok().and_then(|mut addresses| addresses.next());
    address.with_context(|| format!("node {} has no address", node.id))
}
