use std::{collections::BTreeSet, time::Duration};

use prost::Message;

use super::*;

fn config() -> Config {
    let listen = vec!["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()];
    Config::new(listen)
}

fn encoded(resources: &Resources) -> Vec<u8> {
    let clusters = resources.clusters.iter().flat_map(Message::encode_to_vec);
    clusters.chain(resources.listeners.iter().flat_map(Message::encode_to_vec)).collect()
}

/// Each hash map of a process has an order of its own, so building again is like building elsewhere.
#[test]
fn the_same_configuration_gives_the_same_bytes_whatever_the_order_of_hash_maps() {
    let all: BTreeSet<_> = (0..200).map(|_| encoded(&build(&config()).unwrap())).collect();
    assert_eq!(all.len(), 1);
}

#[test]
fn another_configuration_gives_other_bytes() {
    let ladder = Ladder::new(Duration::from_secs(5), Duration::from_secs(6), 10, 20);
    let other = Config { ladder: ladder.unwrap(), ..config() };
    assert_ne!(encoded(&build(&config()).unwrap()), encoded(&build(&other).unwrap()));
}

#[test]
fn every_address_is_listened_on() {
    let listener = &build(&config()).unwrap().listeners[0];
    assert_eq!(listener.additional_addresses.len(), 1);
    let none = Config { listen: Vec::new(), ..config() };
    assert_eq!(build(&none), Err(Error::NoAddress));
}

#[test]
fn every_cluster_has_the_ladders_circuit_breakers_on_both_priorities() {
    let config = config();
    for cluster in build(&config).unwrap().clusters {
        let breakers = cluster.circuit_breakers.unwrap().thresholds;
        assert_eq!(breakers.len(), 2, "{}", cluster.name);
        for breaker in breakers {
            for limit in
                [breaker.max_connections, breaker.max_pending_requests, breaker.max_requests]
            {
                assert_eq!(limit.unwrap().value, config.ladder.max_requests());
            }
        }
    }
}

#[test]
fn a_router_on_tcp_is_spoken_to_by_tls_with_secrets_that_envoy_finds_itself() {
    use cluster::grpc;
    use envoy_types::pb::envoy::config::cluster::v3::cluster::{
        ClusterDiscoveryType::Type, DiscoveryType,
    };
    for (address, tls, discovery) in [
        ("unix:/run/router.sock", false, DiscoveryType::Static),
        ("192.0.2.1:8090", true, DiscoveryType::Static),
        ("127.0.0.1:8090", true, DiscoveryType::Static),
        ("r1.example:8090", true, DiscoveryType::StrictDns),
    ] {
        let cluster = grpc("router", &[address.parse().unwrap()], 16);
        assert_eq!(cluster.transport_socket.is_some(), tls, "{address}");
        assert_eq!(cluster.cluster_discovery_type, Some(Type(discovery.into())), "{address}");
    }
}
