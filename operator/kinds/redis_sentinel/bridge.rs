//! The members of a RedisSentinel on the Docker network of one host: their names, ordinals and addresses. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::definition::Part;
use super::{Observed, container_name, network_name};
use crate::api::object::Object as _;
use crate::api::placement::Network;
use crate::api::redis_sentinel::{RedisDecisions, RedisPlace, RedisSentinel, RedisStage};
use crate::kinds::addresses;
use crate::kinds::containers::HOME;
use crate::supervisor::redis::wire::{PORT, SENTINEL_PORT};

/// Offset of the Sentinels' addresses in the subnet. Each member has a few addresses to try, 32 apart.
const SENTINELS: u32 = addresses::FIRST + 12;
/// Most ordinals that are adopted from volumes.
const ADOPTED: u32 = 9;

/// The name of a data member or a Sentinel.
pub fn name(object: &RedisSentinel, part: Part, ordinal: u32) -> String {
    match part {
        Part::Data => format!("{}-{ordinal}", object.name()),
        Part::Sentinel => format!("{}-sentinel-{ordinal}", object.name()),
    }
}

/// The ordinal of the data member that has a volume of this name.
pub fn ordinal_of(object: &RedisSentinel, volume: &str) -> Option<u32> {
    volume.strip_prefix(&container_name(object, object.name()))?.strip_prefix('-')?.parse().ok()
}

/// The members of one kind on the Docker network of one host: those that there are, and enough for the spec; before the first
/// decision also every data member whose volume exists.
pub fn bridged(object: &RedisSentinel, observed: &Observed, before: &RedisDecisions, part: Part) -> Vec<RedisPlace> {
    let (had, wanted) = match part {
        Part::Data => (&before.members, object.spec.replicas),
        Part::Sentinel => (&before.sentinels, object.spec.sentinels),
    };
    let before_by: BTreeMap<u32, &RedisPlace> = had.iter().map(|place| (place.ordinal, place)).collect();
    let mut ordinals: BTreeSet<u32> = before_by.keys().copied().collect();
    if before.stage == RedisStage::New && part == Part::Data {
        let volumes = observed.hosts.get(HOME).and_then(|host| host.volumes.known()).into_iter().flatten();
        let found = volumes.filter_map(|volume| ordinal_of(object, volume));
        ordinals.extend(found.filter(|ordinal| (1..=ADOPTED).contains(ordinal)));
    }
    let mut candidate = 1;
    while ordinals.len() < wanted as usize {
        ordinals.insert(candidate);
        candidate += 1;
    }
    let place = |ordinal: u32| {
        let place = RedisPlace {
            name: name(object, part, ordinal),
            ordinal,
            host: HOME.into(),
            network: Network::Bridge,
            address: before_by.get(&ordinal).and_then(|place| place.address),
            port: match part {
                Part::Data => PORT,
                Part::Sentinel => SENTINEL_PORT,
            },
            bus_port: None,
        };
        RedisPlace { address: address(object, observed, &place, part), ..place }
    };
    ordinals.into_iter().map(place).collect()
}

/// The address of a member on the Docker network.
pub fn address(object: &RedisSentinel, observed: &Observed, place: &RedisPlace, part: Part) -> Option<Ipv4Addr> {
    let network = network_name(object);
    let first = match part {
        Part::Data => addresses::FIRST,
        Part::Sentinel => SENTINELS,
    };
    let container = container_name(object, &place.name);
    let taken = |address| addresses::taken(&observed.work, &container, &network, address);
    match addresses::subnet(&observed.hosts, &network) {
        Some(subnet) => Some(addresses::address(subnet, first + place.ordinal, place.address, taken)),
        // The network is unknown now: every member keeps its address.
        None => place.address.filter(|_| observed.hosts.get(HOME).is_none_or(|host| host.networks.known().is_none())),
    }
}
