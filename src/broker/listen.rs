//! Listeners: bound addresses, and the broker as clients see it through each.

use std::net::SocketAddr;
use std::sync::Arc;

use millrace_net::io::ListenerId;
use millrace_net::kafka::KafkaConfig;
use millrace_net::session::{ClusterView, Node};
use millrace_net::uring::listener::Listener;
use millrace_net::worker::{Door, Protocol};
use millrace_storage::units::ShardId;

use crate::config::KafkaListener;
use crate::exit::Failure;

/// Bound listeners, by shard, with their addresses.
pub(super) struct Bound {
    /// By shard: what it accepts on.
    pub(super) by_shard: Vec<Vec<Listener>>,
    /// By listener.
    pub(super) addresses: Vec<SocketAddr>,
}

/// Binds one port, or one a shard: the configured port + i, or free ones.
pub(super) fn bind(config: &KafkaListener, shards: u16) -> Result<Bound, Failure> {
    let mut bound = Bound {
        by_shard: (0..shards).map(|_| Vec::new()).collect(),
        addresses: Vec::new(),
    };
    let listeners = if config.node_per_core { shards } else { 1 };
    for index in 0..listeners {
        let mut address = config.address;
        if address.port() != 0 {
            address.set_port(port(address.port(), index)?);
        }
        let failed = |error| Failure::Listen { address, error };
        let listener = Listener::bind(ListenerId(index), address).map_err(failed)?;
        bound.addresses.push(listener.address().map_err(failed)?);
        bound.by_shard[usize::from(index)].push(listener);
    }
    Ok(bound)
}

/// What each listener leads to; the same on every shard.
pub(super) fn doors(
    config: &KafkaListener,
    addresses: &[SocketAddr],
    cluster_id: &str,
    kafka: &Arc<KafkaConfig>,
) -> Result<Vec<Door>, Failure> {
    let mut nodes = Vec::new();
    for (index, address) in (0..).zip(addresses) {
        let advertised = u16::try_from(config.advertised_port).expect("bounded by its range");
        nodes.push(Node {
            id: i32::from(index) + 1,
            shard: config.node_per_core.then_some(ShardId(index)),
            host: (!config.advertised_host.is_empty()).then(|| config.advertised_host.clone()),
            port: match advertised {
                0 => address.port(),
                first => port(first, index)?,
            },
        });
    }
    let door = |own| Door {
        protocol: Protocol::Kafka(Arc::clone(kafka)),
        cluster: ClusterView {
            cluster_id: cluster_id.to_owned(),
            nodes: nodes.clone(),
            own,
        },
    };
    Ok((0..nodes.len()).map(door).collect())
}

fn port(first: u16, index: u16) -> Result<u16, Failure> {
    first.checked_add(index).ok_or_else(|| {
        Failure::Unfit(format!(
            "`listeners.kafka.node_per_core`: port {first} + {index} is past the last port; \
             choose a lower one"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_core_has_its_port_and_its_view_of_the_others() {
        let config = KafkaListener {
            node_per_core: true,
            advertised_host: "broker.example".to_owned(),
            advertised_port: 100,
            ..KafkaListener::default()
        };
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let kafka = Arc::new(KafkaConfig::default());
        let doors = doors(&config, &[address(1), address(2)], "id", &kafka).unwrap();
        assert_eq!(doors.len(), 2);
        let view = &doors[1].cluster;
        assert_eq!(
            (view.own, view.nodes[1].id, view.nodes[1].port),
            (1, 2, 101)
        );
        assert_eq!(view.nodes[1].shard, Some(ShardId(1)));
        assert!(port(65_535, 1).is_err());
    }
}
