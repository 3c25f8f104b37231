//! The members of a cluster: who lives where, what each container is to be, and when it may be changed. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{Observed, RESOURCE, Step, container_name, definition, network_name, upgrade};
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{Decisions, MemberPlace, PostgresCluster, ReclaimPolicy, Stage};
use crate::engine::NetworkSpec;
use crate::kinds::containers::converge::{self, Common, Volumes};
use crate::kinds::containers::{Deed, HOME, Member, converge as containers};

/// The first fixed address of a subnet is this far from its start; lower ones are the gateway's and whoever knows.
const FIRST_ADDRESS: u32 = 10;

/// The hosts of the cluster's members, and the one that new members are placed on.
pub fn hosts(object: &PostgresCluster) -> BTreeSet<String> {
    let decisions = object.status.iter().filter_map(|status| status.decisions.as_ref());
    let places = decisions.flat_map(|decisions| &decisions.members).map(|place| place.host.clone());
    places.chain([HOME.to_owned()]).collect()
}

/// The cluster's network.
pub fn network(object: &PostgresCluster) -> NetworkSpec {
    NetworkSpec { name: network_name(object), labels: object.owner().labels() }
}

/// The subnet of the cluster's network, once that is there.
fn subnet(object: &PostgresCluster, observed: &Observed) -> Option<(Ipv4Addr, u8)> {
    let networks = observed.hosts.get(HOME)?.networks.known()?;
    networks.get(&network_name(object)).map(|network| network.subnet)
}

/// Decides which members there are: enough for the spec, and, before anything is decided, every one whose volume holds data.
pub fn places(object: &PostgresCluster, observed: &Observed, decisions: &Decisions) -> Vec<MemberPlace> {
    let subnet = subnet(object, observed);
    // Nobody knows what the network is now: everyone stays where they were.
    let silent = observed.hosts.get(HOME).is_none_or(|host| host.networks.known().is_none());
    let before: BTreeMap<u32, Option<Ipv4Addr>> =
        decisions.members.iter().map(|place| (place.ordinal, place.address)).collect();
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
        .map(|ordinal| MemberPlace {
            name: format!("{}-{ordinal}", object.name()),
            ordinal,
            host: HOME.into(),
            address: match subnet {
                Some((base, _)) => Some(address(base, ordinal)),
                None => before.get(&ordinal).copied().flatten().filter(|_| silent),
            },
        })
        .collect()
}

fn ordinal_of(object: &PostgresCluster, volume: &str) -> Option<u32> {
    volume.strip_prefix(&container_name(object, object.name()))?.strip_prefix('-')?.parse().ok()
}

fn address(base: Ipv4Addr, ordinal: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base).saturating_add(FIRST_ADDRESS + ordinal))
}

/// Members that the spec has no room for: the highest ordinals, never the leader.
pub fn leaving(object: &PostgresCluster, decisions: &Decisions) -> BTreeSet<String> {
    let surplus = decisions.members.len().saturating_sub(object.spec.instances as usize);
    let others = decisions.members.iter().rev().filter(|place| !decisions.is_leader(&place.name));
    others.take(surplus).map(|place| place.name.clone()).collect()
}

/// What the members have in common.
pub fn common<'a>(object: &'a PostgresCluster, observed: &'a Observed, network: &'a NetworkSpec) -> Common<'a> {
    Common {
        hosts: &observed.hosts,
        work: &observed.work,
        image: &object.spec.image,
        network,
        shares_network: false,
        volumes: match object.spec.storage.reclaim_policy {
            ReclaimPolicy::Delete => Volumes::Data,
            ReclaimPolicy::Retain => Volumes::Kept,
        },
        grace: definition::STOP_TIMEOUT_SECONDS.unsigned_abs(),
    }
}

/// The containers that the members are to have.
pub fn members(object: &PostgresCluster, observed: &Observed, decisions: &Decisions) -> Vec<Member> {
    decisions.members.iter().map(|place| member(object, observed, place)).collect()
}

/// The container that a member is to have.
pub fn member(object: &PostgresCluster, observed: &Observed, place: &MemberPlace) -> Member {
    let binary = upgrade::program(object, observed, place);
    Member {
        name: place.name.clone(),
        host: place.host.clone(),
        labels: object.owner().member_labels(&place.name),
        container: container_name(object, &place.name),
        // Its address is the network's to give.
        spec: binary
            .filter(|_| place.address.is_some())
            .map(|binary| definition::container_spec(object, place, binary)),
    }
}

/// The Secret for applications, if it is not what it should be.
pub fn secrets(observed: &Observed, decisions: &Decisions) -> Option<Step> {
    let addresses: Option<Vec<String>> =
        decisions.members.iter().map(|place| place.address.map(|address| address.to_string())).collect();
    let host = addresses?.join(",");
    (!observed.secrets.complete || observed.secrets.host != host).then_some(Step::EnsureSecrets { host })
}

/// The steps towards a running container for every member. `restart_dead`: whether dead containers are to be started or
/// made anew now; while an election can do without them they only take its time.
pub fn steps(object: &PostgresCluster, observed: &Observed, decisions: &Decisions, restart_dead: bool) -> Vec<Step> {
    let (network, members) = (network(object), members(object, observed, decisions));
    let common = common(object, observed, &network);
    let mut steps = converge::removals(&common, &members);
    steps.extend(containers(&common, &members, |_, deed| match deed {
        Deed::Start => true,
        Deed::Restart | Deed::Remake => restart_dead,
        // One at a time and standbys first: `maintain` chooses.
        Deed::Replace | Deed::ReplaceStopped => false,
    }));
    steps.into_iter().map(Step::Docker).collect()
}

/// Everything goes: containers, then, if the object says so, the data, then the network. The steps, and whether nothing
/// is left once they are done; `None` while nobody can say what there is.
pub fn teardown(object: &PostgresCluster, observed: &Observed) -> Option<(Vec<Step>, bool)> {
    let network = network(object);
    let why = format!("{RESOURCE} {} is deleted", object.name());
    let (steps, finished) = converge::teardown(&common(object, observed, &network), &why)?;
    Some((steps.into_iter().map(Step::Docker).collect(), finished))
}
