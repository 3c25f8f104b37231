//! Decides the members of a cluster: the host of each, its container, and when the container may be changed. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::view::Lost;
use super::{Observed, RESOURCE, Step, container_name, definition, network_name, peers_network_name, upgrade};
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{Decisions, MemberPlace, PostgresCluster, Stage};
use crate::engine::{Attachment, Chosen, ContainerSpec, ContainerState, NetworkSpec};
use crate::kinds::addresses;
use crate::kinds::containers::converge::{self, Common};
use crate::kinds::containers::{Deed, DockerStep, HOME, Member, converge as containers, networks};

/// The hosts of the cluster's members, and the one that new members are placed on.
pub fn hosts(object: &PostgresCluster) -> BTreeSet<String> {
    let decisions = object.status.iter().filter_map(|status| status.decisions.as_ref());
    let places = decisions.flat_map(|decisions| &decisions.members).map(|place| place.host.clone());
    places.chain([HOME.to_owned()]).collect()
}

/// The cluster's network.
pub fn network(object: &PostgresCluster) -> NetworkSpec {
    NetworkSpec { name: network_name(object), labels: object.owner().labels(), internal: false }
}

/// The network of its members: no other container is on it, and it has no way out.
fn peers_network(object: &PostgresCluster) -> NetworkSpec {
    NetworkSpec { name: peers_network_name(object), labels: object.owner().labels(), internal: true }
}

/// Whether the network of the members exists, as far as known. Without it no container is made or replaced.
pub fn has_peers_network(object: &PostgresCluster, observed: &Observed) -> bool {
    addresses::subnet(&observed.hosts, &peers_network_name(object)).is_some()
}

/// The members: enough for the spec, and, before the first decision, also every one whose volume exists.
pub fn places(object: &PostgresCluster, observed: &Observed, decisions: &Decisions) -> Vec<MemberPlace> {
    let network = network_name(object);
    let subnet = addresses::subnet(&observed.hosts, &network);
    // The network is unknown now: every member keeps its address.
    let silent = observed.hosts.get(HOME).is_none_or(|host| host.networks.known().is_none());
    let before: BTreeMap<u32, &MemberPlace> = decisions.members.iter().map(|place| (place.ordinal, place)).collect();
    let mut ordinals: BTreeSet<u32> = decisions.members.iter().map(|place| place.ordinal).collect();
    if decisions.stage == Stage::New {
        let known = observed.hosts.values().filter_map(|host| host.volumes.known()).flatten();
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
fn peer_wanted(object: &PostgresCluster, observed: &Observed, place: &MemberPlace) -> Option<Ipv4Addr> {
    let network = peers_network_name(object);
    let subnet = addresses::subnet(&observed.hosts, &network)?;
    let container = observed.hosts.get(&place.host)?.container(&container_name(object, &place.name));
    let has = container.and_then(|container| container.networks.get(&network)?.address);
    let offset = addresses::FIRST + place.ordinal;
    let had = place.peer.or(has.filter(|has| addresses::own(subnet, offset).any(|own| own == *has)));
    let taken = |address| taken(observed, object, place.ordinal, &network, address);
    Some(addresses::address(subnet, offset, had, taken))
}

fn ordinal_of(object: &PostgresCluster, volume: &str) -> Option<u32> {
    volume.strip_prefix(&container_name(object, object.name()))?.strip_prefix('-')?.parse().ok()
}

fn member_container(object: &PostgresCluster, ordinal: u32) -> String {
    container_name(object, &format!("{}-{ordinal}", object.name()))
}

/// Whether Docker refused to connect the container with this address.
fn taken(observed: &Observed, object: &PostgresCluster, ordinal: u32, network: &str, address: Ipv4Addr) -> bool {
    addresses::taken(&observed.work, &member_container(object, ordinal), network, address)
}

/// The network that the running container of a member has lost. One that Docker refuses to connect it to comes first.
/// The network of the members counts once the member replicates by it.
pub fn lost(object: &PostgresCluster, observed: &Observed, place: &MemberPlace) -> Option<Lost> {
    let (seen, member) = (observed.hosts.get(&place.host)?, member(object, observed, place));
    let container = seen.container(&member.container).filter(|container| converge::runs(container))?;
    let peers = peers_network_name(object);
    let matters = |to: &Attachment| to.network != peers || place.peer.is_some();
    let wrong = converge::wrong(seen, &member, container).into_iter().filter(|one| one.away && matters(&one.to));
    let refused = |to: &Attachment| networks::refused(&observed.work, &place.host, &member.container, to).is_some();
    let lost = wrong.map(|one| Lost { refused: refused(&one.to), why: one.why });
    lost.min_by_key(|lost| !lost.refused)
}

/// Members to remove because the spec asks for fewer: the highest ordinals, never the leader.
pub fn leaving(object: &PostgresCluster, decisions: &Decisions) -> BTreeSet<String> {
    let surplus = decisions.members.len().saturating_sub(object.spec.instances as usize);
    let others = decisions.members.iter().rev().filter(|place| !decisions.is_leader(&place.name));
    others.take(surplus).map(|place| place.name.clone()).collect()
}

/// What the members share.
pub fn common<'a>(object: &'a PostgresCluster, observed: &'a Observed, network: &'a NetworkSpec) -> Common<'a> {
    Common {
        hosts: &observed.hosts,
        work: &observed.work,
        image: &object.spec.image,
        network,
        shares_network: false,
        volumes: object.spec.storage.reclaim_policy.into(),
        grace: definition::STOP_TIMEOUT_SECONDS.unsigned_abs(),
    }
}

/// The desired containers of the members.
pub fn members(object: &PostgresCluster, observed: &Observed, decisions: &Decisions) -> Vec<Member> {
    decisions.members.iter().map(|place| member(object, observed, place)).collect()
}

/// The desired container of a member.
pub fn member(object: &PostgresCluster, observed: &Observed, place: &MemberPlace) -> Member {
    let binary = upgrade::program(object, observed, place);
    let daemon = observed.hosts.get(&place.host).and_then(|host| host.daemon.as_ref());
    let chosen = daemon.map(|daemon| definition::chosen(object, daemon)).unwrap_or_default();
    let peers = peer_wanted(object, observed, place).map(|address| Attachment {
        network: peers_network_name(object),
        aliases: Vec::new(),
        address: Some(address),
    });
    // Not part of the hash: a container of the release before is connected while it runs.
    let chosen = Chosen { networks: peers.into_iter().collect(), ..chosen };
    Member {
        name: place.name.clone(),
        host: place.host.clone(),
        labels: object.owner().member_labels(&place.name),
        container: container_name(object, &place.name),
        // Its address comes from the network.
        spec: binary
            .filter(|_| place.address.is_some())
            .map(|binary| definition::container_spec(object, place, binary))
            .map(|spec| ContainerSpec { chosen, ..spec }),
    }
}

/// The step that corrects the Secret for applications, if needed.
pub fn secrets(observed: &Observed, decisions: &Decisions) -> Option<Step> {
    let addresses: Option<Vec<String>> =
        decisions.members.iter().map(|place| place.address.map(|address| address.to_string())).collect();
    let host = addresses?.join(",");
    (!observed.secrets.complete || observed.secrets.host != host).then_some(Step::EnsureSecrets { host })
}

/// The steps towards a running container for every member. `restart_dead`: whether dead containers may be restarted or
/// recreated now; while an election can succeed without them, that would only delay it. `held`: no container is made.
pub fn steps(
    object: &PostgresCluster,
    observed: &Observed,
    decisions: &Decisions,
    restart_dead: bool,
    held: bool,
) -> Vec<Step> {
    let (network, mut members) = (network(object), members(object, observed, decisions));
    let common = common(object, observed, &network);
    let mut steps = converge::removals(&common, &members);
    let there = |member: &Member| {
        observed.hosts.get(&member.host).is_some_and(|host| host.container(&member.container).is_some())
    };
    members.retain(|member| !held || there(member));
    steps.extend(containers(&common, &members, |_, deed| match deed {
        Deed::Start => true,
        Deed::Restart | Deed::Remake => restart_dead,
        // One at a time and standbys first; `maintain` chooses.
        Deed::Replace | Deed::ReplaceStopped => false,
    }));
    // The last step: where Docker has no subnet left for it, everything else goes on.
    let networks = observed.hosts.get(HOME).and_then(|host| host.networks.known());
    let peers = networks.map(|there| converge::ensure_network(common.work, HOME, &peers_network(object), there));
    steps.extend(peers.into_iter().flatten());
    steps.into_iter().map(Step::Docker).collect()
}

/// Removes everything: containers, then the data if the object says so, then the networks. The steps, and whether
/// nothing is left once they are done; `None` while it is unknown what exists.
pub fn teardown(object: &PostgresCluster, observed: &Observed) -> Option<(Vec<Step>, bool)> {
    let network = network(object);
    let why = format!("{RESOURCE} {} is deleted", object.name());
    let (mut steps, finished) = converge::teardown(&common(object, observed, &network), &why)?;
    if finished && has_peers_network(object, observed) {
        let (host, network) = (HOME.to_owned(), peers_network_name(object));
        steps.push(DockerStep::RemoveNetwork { host, network, shared: false });
    }
    Some((steps.into_iter().map(Step::Docker).collect(), finished))
}
