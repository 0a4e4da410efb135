//! The nodes as this connection's client should see them.

use kafka_protocol::messages::BrokerId;
use millrace_engine::catalog::PartitionHome;
use millrace_storage::units::ShardId;

use crate::kafka::errors::{ErrorCode, Failure};
use crate::session::{ClusterView, CommandSink, ConnectionAddresses, Node};

/// The node that is the controller: the catalog's writer is its shard.
pub(super) const CONTROLLER: BrokerId = BrokerId(1);

/// Kafka's bits of what may be done with the cluster, by operation code, where nothing is
/// forbidden: create, alter, describe, act as a broker, describe and alter settings, write
/// idempotently.
pub(super) const OPERATIONS: i32 = 0b1_1111_1010_0000;

/// Where clients reach a node. Without an advertised host that is the address by which this client
/// came: whatever network it is on, it knows a way there.
pub(super) fn host(node: &Node, addresses: ConnectionAddresses) -> String {
    match &node.host {
        Some(host) => host.clone(),
        // A v4 client of a dual-stack socket has a v6-mapped address, which few clients parse.
        None => addresses.local.ip().to_canonical().to_string(),
    }
}

/// The node that leads a partition; `None` while no node fronts its home.
pub(super) fn leader(cluster: &ClusterView, partition: &PartitionHome) -> Option<BrokerId> {
    let node = node_of(cluster, partition.home)?;
    Some(BrokerId(node.id))
}

/// Who serves a partition, as descriptions of it say.
pub(super) struct Led {
    /// `LEADER_NOT_AVAILABLE` while nobody does.
    pub(super) code: ErrorCode,
    /// -1 while nobody does.
    pub(super) leader: BrokerId,
    /// The leader alone.
    pub(super) replicas: Vec<BrokerId>,
}

/// Who serves `partition`.
pub(super) fn led(cluster: &ClusterView, partition: &PartitionHome) -> Led {
    let leader = leader(cluster, partition);
    Led {
        code: match leader {
            Some(_) => ErrorCode::None,
            None => ErrorCode::LeaderNotAvailable,
        },
        leader: leader.unwrap_or(BrokerId(-1)),
        replicas: leader.into_iter().collect(),
    }
}

/// The node that fronts a shard, if there is one.
pub(super) fn node_of(cluster: &ClusterView, home: ShardId) -> Option<&Node> {
    let mut nodes = cluster.nodes.iter();
    nodes.find(|node| node.shard.is_none_or(|shard| shard == home))
}

/// Homes of partitions that a client places by hand, each on the nodes that it names: one, since
/// there are no replicas. None where the one node fronts every shard: the broker chooses then.
pub(super) fn homes_by_hand<'a>(
    cluster: &ClusterView,
    places: impl Iterator<Item = &'a [BrokerId]>,
) -> Result<Vec<ShardId>, Failure> {
    let mut homes = Vec::new();
    for nodes in places {
        let words = match nodes {
            [id] => match cluster.nodes.iter().find(|node| node.id == id.0) {
                Some(node) => {
                    homes.extend(node.shard);
                    continue;
                }
                None => format!("there is no node {}", id.0),
            },
            [] => "a partition is placed on a node".to_owned(),
            _ => "a partition has one replica here: place it on one node".to_owned(),
        };
        return Err(Failure::new(ErrorCode::InvalidReplicaAssignment, words));
    }
    Ok(homes)
}

/// All nodes, as id, host and port.
pub(super) fn nodes(sink: &dyn CommandSink) -> Vec<(BrokerId, String, i32)> {
    let addresses = sink.addresses();
    let nodes = sink.cluster().nodes.iter();
    nodes
        .map(|node| {
            (
                BrokerId(node.id),
                host(node, addresses),
                i32::from(node.port),
            )
        })
        .collect()
}
