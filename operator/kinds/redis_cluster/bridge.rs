//! The members of a RedisCluster on the Docker network of one host: their ordinals and addresses. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{Observed, container_name, network_name};
use crate::api::object::Object as _;
use crate::api::placement::Network;
use crate::api::redis_cluster::{ClusterDecisions, ClusterStage, RedisCluster};
use crate::api::redis_status::RedisPlace;
use crate::kinds::addresses;
use crate::kinds::containers::HOME;
use crate::supervisor::redis::cluster::wire::PORT;

/// Most ordinals that are adopted from volumes.
const ADOPTED: u32 = 20;

/// The ordinal of the member that has a volume of this name.
pub fn ordinal_of(object: &RedisCluster, volume: &str) -> Option<u32> {
    volume.strip_prefix(&container_name(object, object.name()))?.strip_prefix('-')?.parse().ok()
}

/// The members on the Docker network of one host: those that there are, and enough for the spec; before the first decision also
/// every one whose volume exists.
pub fn bridged(object: &RedisCluster, observed: &Observed, before: &ClusterDecisions) -> Vec<RedisPlace> {
    let had: BTreeMap<u32, &RedisPlace> = before.members.iter().map(|place| (place.ordinal, place)).collect();
    let mut ordinals: BTreeSet<u32> = had.keys().copied().collect();
    if before.stage == ClusterStage::New {
        let volumes = observed.hosts.get(HOME).and_then(|host| host.volumes.known()).into_iter().flatten();
        ordinals.extend(
            volumes.filter_map(|volume| ordinal_of(object, volume)).filter(|ordinal| (1..=ADOPTED).contains(ordinal)),
        );
    }
    let mut candidate = 1;
    while ordinals.len() < object.spec.members() as usize {
        ordinals.insert(candidate);
        candidate += 1;
    }
    let place = |ordinal: u32| {
        let place = RedisPlace {
            name: format!("{}-{ordinal}", object.name()),
            ordinal,
            host: HOME.into(),
            network: Network::Bridge,
            address: had.get(&ordinal).and_then(|place| place.address),
            port: PORT,
            bus_port: None,
        };
        RedisPlace { address: address(object, observed, &place), ..place }
    };
    ordinals.into_iter().map(place).collect()
}

/// The address of a member on the Docker network.
pub fn address(object: &RedisCluster, observed: &Observed, place: &RedisPlace) -> Option<Ipv4Addr> {
    let network = network_name(object);
    let container = container_name(object, &place.name);
    let taken = |address| addresses::taken(&observed.work, &container, &network, address);
    match addresses::subnet(&observed.hosts, &network) {
        Some(subnet) => Some(addresses::address(subnet, addresses::FIRST + place.ordinal, place.address, taken)),
        // The network is unknown now: every member keeps its address.
        None => place.address.filter(|_| observed.hosts.get(HOME).is_none_or(|host| host.networks.known().is_none())),
    }
}
