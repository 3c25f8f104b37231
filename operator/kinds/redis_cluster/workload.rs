//! Decides the members: the host and address of each, its container, and when the container may be changed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::definition::{self, container_spec};
use super::view::{Member as Seen, View};
use super::{Observed, Step, container_name, network_name};
use crate::api::object::Object as _;
use crate::api::redis_cluster::{ClusterDecisions, ClusterStage, RedisCluster};
use crate::api::redis_status::RedisPlace;
use crate::engine::NetworkSpec;
use crate::kinds::addresses;
use crate::kinds::containers::converge::{self, Common};
use crate::kinds::containers::{Deed, DockerStep, HOME, Member, converge as containers};
use crate::supervisor::redis::cluster::wire::PORT;

/// Most ordinals that are adopted from volumes.
const ADOPTED: u32 = 20;

/// The hosts of the members, and the one that new members are placed on.
pub fn hosts(object: &RedisCluster) -> BTreeSet<String> {
    let decisions = object.status.iter().filter_map(|status| status.decisions.as_ref());
    let places = decisions.flat_map(|decisions| &decisions.members);
    places.map(|place| place.host.clone()).chain([HOME.to_owned()]).collect()
}

/// The network of the object.
fn network(object: &RedisCluster) -> NetworkSpec {
    NetworkSpec { name: network_name(object), labels: object.owner().labels(), internal: false }
}

/// The members: those that there are, and enough for the spec; before the first decision also every one whose volume exists.
pub fn places(object: &RedisCluster, observed: &Observed, before: &ClusterDecisions) -> Vec<RedisPlace> {
    let network = network_name(object);
    let subnet = addresses::subnet(&observed.hosts, &network);
    // The network is unknown now: every member keeps its address.
    let silent = observed.hosts.get(HOME).is_none_or(|host| host.networks.known().is_none());
    let had: BTreeMap<u32, &RedisPlace> = before.members.iter().map(|place| (place.ordinal, place)).collect();
    let mut ordinals: BTreeSet<u32> = had.keys().copied().collect();
    if before.stage == ClusterStage::New {
        let volumes = observed.hosts.values().filter_map(|host| host.volumes.known()).flatten();
        let ordinal = |volume: &String| -> Option<u32> {
            volume.strip_prefix(&container_name(object, object.name()))?.strip_prefix('-')?.parse().ok()
        };
        ordinals.extend(volumes.filter_map(ordinal).filter(|ordinal| (1..=ADOPTED).contains(ordinal)));
    }
    let mut candidate = 1;
    while ordinals.len() < object.spec.members() as usize {
        ordinals.insert(candidate);
        candidate += 1;
    }
    let place = |ordinal: u32| {
        let name = format!("{}-{ordinal}", object.name());
        let before = had.get(&ordinal).and_then(|place| place.address);
        let container = container_name(object, &name);
        let taken = |address| addresses::taken(&observed.work, &container, &network, address);
        let address = match subnet {
            Some(subnet) => Some(addresses::address(subnet, addresses::FIRST + ordinal, before, taken)),
            None => before.filter(|_| silent),
        };
        RedisPlace { name, ordinal, host: HOME.into(), address, port: PORT }
    };
    ordinals.into_iter().map(place).collect()
}

/// Members to remove because the spec asks for fewer: the highest ordinals.
pub fn leaving(places: &[RedisPlace], wanted: u32) -> BTreeSet<&str> {
    places.iter().skip(wanted as usize).map(|place| place.name.as_str()).collect()
}

/// What the members share.
fn common<'a>(object: &'a RedisCluster, observed: &'a Observed, network: &'a NetworkSpec) -> Common<'a> {
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

/// The desired container of a member.
fn member(object: &RedisCluster, observed: &Observed, place: &RedisPlace) -> Member {
    let binary = observed.hosts.get(&place.host).and_then(|host| host.binary.as_deref());
    Member {
        name: place.name.clone(),
        host: place.host.clone(),
        labels: object.owner().member_labels(&place.name),
        container: container_name(object, &place.name),
        // Its address comes from the network.
        spec: binary.filter(|_| place.address.is_some()).map(|binary| container_spec(object, place, binary)),
    }
}

/// The steps towards a running container for every member.
pub fn steps(object: &RedisCluster, observed: &Observed, decisions: &ClusterDecisions) -> Vec<Step> {
    let network = network(object);
    let members: Vec<Member> = decisions.members.iter().map(|place| member(object, observed, place)).collect();
    let common = common(object, observed, &network);
    let mut steps = converge::removals(&common, &members);
    // A container is no server: that one starts by an order only. One is replaced at a time; the plan chooses.
    let may = |_: &str, deed: &Deed| matches!(deed, Deed::Start | Deed::Restart | Deed::Remake);
    steps.extend(containers(&common, &members, may));
    steps.into_iter().map(Step::Docker).collect()
}

/// The step that replaces the container of a member, if it differs from its spec, or restarts its server for settings that
/// need that.
pub fn due(view: &View, observed: &Observed, seen: &Seen) -> Option<Step> {
    let network = network(view.object);
    let wanted = member(view.object, observed, seen.place);
    if let Some(step) = converge::replace(&common(view.object, observed, &network), &wanted) {
        return Some(Step::Docker(step));
    }
    let report = seen.serving().filter(|report| !report.pending_restart.is_empty())?;
    Some(Step::Restart {
        member: seen.name().to_owned(),
        run: report.run.clone(),
        why: format!("{} changed", report.pending_restart.join(", ")),
    })
}

/// Removes everything: containers, then the data if the object says so, then the network.
pub fn teardown(object: &RedisCluster, observed: &Observed) -> Option<(Vec<DockerStep>, bool)> {
    let network = network(object);
    converge::teardown(&common(object, observed, &network), "the RedisCluster is deleted")
}
