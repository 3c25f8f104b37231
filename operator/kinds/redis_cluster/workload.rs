//! Decides the members: the host and address of each, its container, and when the container may be changed. Pure.

use std::collections::BTreeSet;

use super::definition::{self, container_spec};
use super::view::{Member as Seen, View};
use super::{Observed, Step, container_name, network_name, places};
use crate::api::object::Object as _;
use crate::api::placement::{Network, Replacement};
use crate::api::redis_cluster::{ClusterDecisions, RedisCluster};
use crate::api::redis_status::RedisPlace;
use crate::engine::NetworkSpec;
use crate::kinds::containers::converge::{self, Common, Volumes};
use crate::kinds::containers::{Deed, DockerStep, Member, converge as containers};
use crate::kinds::places::reachable;

/// The network of the object.
fn network(object: &RedisCluster) -> NetworkSpec {
    NetworkSpec { name: network_name(object), labels: object.owner().labels(), internal: false }
}

/// Members to remove: one that another takes the place of, and because the spec asks for fewer the highest ordinals.
pub fn leaving<'p>(places: &'p [RedisPlace], wanted: u32, replacement: Option<&Replacement>) -> BTreeSet<&'p str> {
    let pair = |name: &str| replacement.is_some_and(|one| one.member == name || one.by == name);
    let surplus = places.len().saturating_sub(wanted as usize + usize::from(replacement.is_some()));
    let names = places.iter().rev().map(|place| place.name.as_str());
    let replaced = names.clone().filter(|name| replacement.is_some_and(|one| one.member == *name));
    names.filter(|name| !pair(name)).take(surplus).chain(replaced).collect()
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
    let place = &places::wanted(object, observed, place);
    let on_host = place.network == Network::Host;
    let binary = observed.hosts.get(&place.host).and_then(|host| host.binary.as_deref());
    Member {
        name: place.name.clone(),
        host: place.host.clone(),
        volume: Some(object.owner().member_labels(&place.name)),
        container: container_name(object, &place.name),
        on_host,
        // Its address comes from the network, or with its ports from reservations.
        spec: binary.filter(|_| place.address.is_some()).map(|binary| container_spec(object, place, binary)),
    }
}

/// The steps towards a running container for every member.
pub fn steps(object: &RedisCluster, observed: &Observed, decisions: &ClusterDecisions) -> Vec<Step> {
    let network = network(object);
    let members: Vec<Member> = decisions.members.iter().map(|place| member(object, observed, place)).collect();
    let common = common(object, observed, &network);
    // On several hosts the volume of a member that is no more stays: it was on a host that was silent, or drained.
    let volumes = if decisions.network.is_bridge() { common.volumes } else { Volumes::Kept };
    let mut steps = converge::removals(&Common { volumes, ..self::common(object, observed, &network) }, &members);
    // A container is no server: that one starts by an order only. One is replaced at a time; the plan chooses.
    let taken = |name: &str| observed.links.get(name).is_some_and(|link| link.live() && link.report.port_taken);
    let may = |name: &str, deed: &Deed| match deed {
        Deed::Start | Deed::Restart | Deed::Remake => true,
        // Its server does not run, so nothing is lost by another port.
        Deed::Replace => taken(name),
        Deed::ReplaceStopped => false,
    };
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

/// Removes everything: containers, then the data if the object says so, then the network. A person's word that a host is out of
/// service frees the object from it.
pub fn teardown(object: &RedisCluster, observed: &Observed) -> (Vec<DockerStep>, bool) {
    let network = network(object);
    let hosts = reachable(&observed.hosts, &observed.declared);
    converge::teardown(&Common { hosts: &hosts, ..common(object, observed, &network) }, "the RedisCluster is deleted")
}
