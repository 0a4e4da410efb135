//! Before a phase: find the topic or make it, learn who leads its partitions and where they end.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::client::{Client, Reply, Topology};
use crate::connection::{Connection, HANDSHAKE_TIMEOUT};
use crate::transport;

/// How often and how long a fresh topic's leaders are awaited.
const LEADERS_RETRY: Duration = Duration::from_millis(100);
const LEADERS_RETRIES_MAX: u32 = 150;
const TOPIC_ALREADY_EXISTS: &str = "TOPIC_ALREADY_EXISTS";

/// The topic that a run writes and reads.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    /// Who leads which partitions, in the nodes' order; no node is without.
    pub(crate) nodes: Vec<Led>,
    /// First offset after what was there before, by partition.
    pub(crate) ends: Vec<u64>,
}

/// A node and its partitions.
#[derive(Clone, Debug)]
pub(crate) struct Led {
    pub(crate) address: SocketAddr,
    pub(crate) partitions: Vec<u32>,
}

/// Looks a `HOST:PORT` up.
pub(crate) fn resolve(target: &str) -> anyhow::Result<SocketAddr> {
    ensure!(
        target.contains(':'),
        "--target {target:?} has no port: HOST:PORT is wanted, as {target}:9092"
    );
    let addresses = target
        .to_socket_addrs()
        .with_context(|| format!("--target {target:?} is not a HOST:PORT that can be found"))?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    reachable(&addresses).with_context(|| format!("--target {target:?} has no address"))
}

/// Of a name's addresses the first where somebody listens, or the first of all: `localhost` may be
/// two, and a broker listens on one of them.
fn reachable(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let listens = |address: &&SocketAddr| {
        std::net::TcpStream::connect_timeout(address, HANDSHAKE_TIMEOUT).is_ok()
    };
    match addresses {
        [] | [_] => addresses.first().copied(),
        several => several.iter().find(listens).or(several.first()).copied(),
    }
}

/// Makes `topic` with `partitions`, or takes it as it is if it has as many.
pub(crate) fn prepare(target: SocketAddr, topic: &str, partitions: u32) -> anyhow::Result<Topic> {
    transport::run(async {
        let mut connection = Connection::open(target, Client::kafka(topic, -1)).await?;
        create(&mut connection, topic, partitions).await?;
        let topology = await_leaders(&mut connection, topic, partitions).await?;
        connection.stream.close();
        let nodes = by_node(target, &topology)?;
        let ends = ends(&nodes, topic, partitions).await?;
        Ok(Topic { nodes, ends })
    })
}

async fn create(connection: &mut Connection, topic: &str, partitions: u32) -> anyhow::Result<()> {
    let mut out = Vec::new();
    connection.client.create_topic(&mut out, partitions);
    let created = connection.exchange(out, |reply| match reply {
        Reply::Created(outcome) => Some(outcome),
        _ => None,
    });
    match created.await? {
        Err(refusal) if refusal.name != TOPIC_ALREADY_EXISTS => {
            bail!("the broker refused to create topic {topic:?}: {refusal}")
        }
        _ => Ok(()),
    }
}

async fn await_leaders(
    connection: &mut Connection,
    topic: &str,
    partitions: u32,
) -> anyhow::Result<Topology> {
    let mut reason = String::new();
    for _ in 0..LEADERS_RETRIES_MAX {
        let mut out = Vec::new();
        connection.client.topology(&mut out);
        let topology = connection.exchange(out, |reply| match reply {
            Reply::Topology(outcome) => Some(outcome),
            _ => None,
        });
        match topology.await? {
            Err(refusal) => reason = refusal.to_string(),
            Ok(topology) => {
                let found = topology.leaders.len();
                let wanted = usize::try_from(partitions).expect("32 bits fit");
                ensure!(
                    found <= wanted,
                    "topic {topic:?} has {found} partitions, --partitions says {partitions}"
                );
                match topology
                    .leaders
                    .iter()
                    .find_map(|leader| leader.as_ref().err())
                {
                    Some(refusal) => reason = refusal.to_string(),
                    None if found < wanted => reason = format!("{found} partitions listed"),
                    None => return Ok(topology),
                }
            }
        }
        tokio::time::sleep(LEADERS_RETRY).await;
    }
    bail!("topic {topic:?} did not get {partitions} partitions with leaders: {reason}")
}

/// A single node is reached where the target was; several are reached as they advertise.
fn by_node(target: SocketAddr, topology: &Topology) -> anyhow::Result<Vec<Led>> {
    let mut led = Vec::new();
    for node in &topology.nodes {
        let partitions: Vec<u32> = (0..)
            .zip(&topology.leaders)
            .filter(|(_, leader)| **leader == Ok(node.id))
            .map(|(partition, _)| partition)
            .collect();
        if partitions.len() == topology.leaders.len() {
            return Ok(vec![Led {
                address: target,
                partitions,
            }]);
        }
        if !partitions.is_empty() {
            let address = (node.host.as_str(), node.port)
                .to_socket_addrs()
                .ok()
                .and_then(|mut addresses| addresses.next())
                .with_context(|| format!("node {} has no address", node.id))?;
            led.push(Led {
                address,
                partitions,
            });
        }
    }
    ensure!(!led.is_empty(), "no listed node leads a partition");
    Ok(led)
}

/// Where each partition ends. A fresh leader may still say that it is none: asked again.
async fn ends(nodes: &[Led], topic: &str, partitions: u32) -> anyhow::Result<Vec<u64>> {
    let mut ends = vec![0; usize::try_from(partitions).expect("32 bits fit")];
    for node in nodes {
        let mut connection = Connection::open(node.address, Client::kafka(topic, -1)).await?;
        for (partition, end) in listed_ends(&mut connection, topic, &node.partitions).await? {
            let slot = ends.get_mut(usize::try_from(partition).expect("32 bits fit"));
            *slot.with_context(|| format!("partition {partition} was not asked for"))? = end;
        }
        connection.stream.close();
    }
    Ok(ends)
}

async fn listed_ends(
    connection: &mut Connection,
    topic: &str,
    partitions: &[u32],
) -> anyhow::Result<Vec<(u32, u64)>> {
    let mut reason = String::new();
    for _ in 0..LEADERS_RETRIES_MAX {
        let mut out = Vec::new();
        connection.client.ends(&mut out, partitions);
        let listed = connection.exchange(out, |reply| match reply {
            Reply::Ends(ends) => Some(ends),
            _ => None,
        });
        let (mut ends, mut refused) = (Vec::new(), None);
        for (partition, end) in listed.await? {
            match end {
                Ok(end) => ends.push((partition, end)),
                Err(refusal) => refused = Some(format!("partition {partition}: {refusal}")),
            }
        }
        match refused {
            None => return Ok(ends),
            Some(refused) => reason = refused,
        }
        tokio::time::sleep(LEADERS_RETRY).await;
    }
    bail!("the ends of topic {topic:?} cannot be had: {reason}")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn of_several_addresses_the_one_that_listens_is_taken() {
        let nobody: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let somebody = listener.local_addr().expect("bound");
        assert_eq!(reachable(&[nobody, somebody]), Some(somebody));
        // The error is for who uses it to tell.
        assert_eq!(reachable(&[nobody]), Some(nobody));
        assert_eq!(reachable(&[nobody, nobody]), Some(nobody));
        assert_eq!(reachable(&[]), None);
    }

    #[test]
    fn a_target_without_a_port_is_told_what_is_missing() {
        let told = resolve("localhost").expect_err("no port").to_string();
        assert!(told.ends_with("as localhost:9092"), "{told}");
    }
}
