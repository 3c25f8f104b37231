//! The members of a cluster on the Docker networks of one host: their ordinals and addresses. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{Observed, container_name, network_name, peers_network_name};
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{Decisions, MemberPlace, Network, PostgresCluster, Stage};
use crate::engine::ContainerState;
use crate::kinds::addresses;
use crate::kinds::containers::HOME;

/// The members on the Docker network of one host: enough for the spec, and, before the first decision, also every one whose
/// volume exists.
pub fn bridged(object: &PostgresCluster, observed: &Observed, decisions: &Decisions) -> Vec<MemberPlace> {
    let network = network_name(object);
    let subnet = addresses::subnet(&observed.hosts, &network);
    // The network is unknown now: every member keeps its address.
    let silent = observed.hosts.get(HOME).is_none_or(|host| host.networks.known().is_none());
    let before: BTreeMap<u32, &MemberPlace> = decisions.members.iter().map(|place| (place.ordinal, place)).collect();
    let mut ordinals: BTreeSet<u32> = decisions.members.iter().map(|place| place.ordinal).collect();
    if decisions.stage == Stage::New {
        let known = observed.hosts.get(HOME).and_then(|host| host.volumes.known()).into_iter().flatten();
        ordinals.extend(known.filter_map(|volume| ordinal_of(object, volume)));
    }
    let mut candidate = 1;
    while ordinals.len() < object.spec.instances as usize {
        ordinals.insert(candidate);
        candidate += 1;
    }
    ordinals
        .into_iter()
        .map(|ordinal| {
            let before = before.get(&ordinal).copied();
            let had = before.and_then(|place| place.address);
            let place = MemberPlace {
                name: format!("{}-{ordinal}", object.name()),
                ordinal,
                host: HOME.into(),
                network: Network::Bridge,
                port: None,
                address: match subnet {
                    Some(subnet) => {
                        let taken = |address| taken(observed, object, ordinal, &network, address);
                        Some(addresses::address(subnet, addresses::FIRST + ordinal, had, taken))
                    }
                    None => had.filter(|_| silent),
                },
                peer: before.and_then(|place| place.peer),
            };
            MemberPlace { peer: peer(object, observed, &place), ..place }
        })
        .collect()
}

/// The address by which a member replicates: once it is connected there and has certificates. It is not given up again,
/// because then the member would replicate with the password.
fn peer(object: &PostgresCluster, observed: &Observed, place: &MemberPlace) -> Option<Ipv4Addr> {
    let wanted = peer_wanted(object, observed, place);
    let container = observed.hosts.get(&place.host)?.container(&container_name(object, &place.name));
    let connected = container.is_some_and(|container| {
        container.state == ContainerState::Running && container.address(&peers_network_name(object)) == wanted
    });
    let link = observed.links.get(&place.name).filter(|link| link.live());
    let certified = link.is_some_and(|link| link.report.secures && link.report.tls.is_some());
    if place.peer.is_some() || connected && certified { wanted.or(place.peer) } else { None }
}

/// The address that a member is to have on the network of the members, if that network is known to exist. Until it is
/// recorded, the one that its container has counts as the one before.
pub fn peer_wanted(object: &PostgresCluster, observed: &Observed, place: &MemberPlace) -> Option<Ipv4Addr> {
    let network = peers_network_name(object);
    let subnet = addresses::subnet(&observed.hosts, &network)?;
    let container = observed.hosts.get(&place.host)?.container(&container_name(object, &place.name));
    let has = container.and_then(|container| container.networks.get(&network)?.address);
    let offset = addresses::FIRST + place.ordinal;
    let had = place.peer.or(has.filter(|has| addresses::own(subnet, offset).any(|own| own == *has)));
    let taken = |address| taken(observed, object, place.ordinal, &network, address);
    Some(addresses::address(subnet, offset, had, taken))
}

/// The ordinal of the member that has a volume of this name.
pub fn ordinal_of(object: &PostgresCluster, volume: &str) -> Option<u32> {
    volume.strip_prefix(&container_name(object, object.name()))?.strip_prefix('-')?.parse().ok()
}

fn member_container(object: &PostgresCluster, ordinal: u32) -> String {
    container_name(object, &format!("{}-{ordinal}", object.name()))
}

/// Whether Docker refused to connect the container with this address.
fn taken(observed: &Observed, object: &PostgresCluster, ordinal: u32, network: &str, address: Ipv4Addr) -> bool {
    addresses::taken(&observed.work, &member_container(object, ordinal), network, address)
}
