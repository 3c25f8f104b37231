//! Decides the members: the host and address of each, its container, and when the container may be changed. Pure.

use std::collections::BTreeSet;

use super::definition::{self, Part, container_spec};
use super::view::View;
use super::{Observed, Step, container_name, network_name, places};
use crate::api::object::Object as _;
use crate::api::placement::{Network, Replacement};
use crate::api::redis_sentinel::{RedisDecisions, RedisPlace, RedisSentinel};
use crate::engine::NetworkSpec;
use crate::kinds::containers::converge::{self, Common, Volumes};
use crate::kinds::containers::{Deed, DockerStep, Member, converge as containers};
use crate::kinds::places::reachable;

/// The network of the object.
pub fn network(object: &RedisSentinel) -> NetworkSpec {
    NetworkSpec { name: network_name(object), labels: object.owner().labels(), internal: false }
}

/// Members to remove, never the master: one that another takes the place of, and because the spec asks for fewer the highest
/// ordinals.
pub fn leaving<'p>(
    places: &'p [RedisPlace],
    wanted: u32,
    replacement: Option<&'p Replacement>,
    master: Option<&str>,
) -> BTreeSet<&'p str> {
    let pair = |name: &str| replacement.is_some_and(|one| one.member == name || one.by == name);
    let surplus = places.len().saturating_sub(wanted as usize + usize::from(replacement.is_some()));
    let names = places.iter().rev().map(|place| place.name.as_str()).filter(|name| Some(*name) != master);
    let replaced = names.clone().filter(|name| replacement.is_some_and(|one| one.member == *name));
    names.filter(|name| !pair(name)).take(surplus).chain(replaced).collect()
}

/// What the members share.
pub fn common<'a>(object: &'a RedisSentinel, observed: &'a Observed, network: &'a NetworkSpec) -> Common<'a> {
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
pub fn member(object: &RedisSentinel, observed: &Observed, place: &RedisPlace, part: Part) -> Member {
    let place = &places::wanted(object, observed, place, part);
    let on_host = place.network == Network::Host;
    let binary = observed.hosts.get(&place.host).and_then(|host| host.binary.as_deref());
    Member {
        name: place.name.clone(),
        host: place.host.clone(),
        volume: Some(object.owner().member_labels(&place.name)),
        container: container_name(object, &place.name),
        on_host,
        // Its address comes from the network, or with its port from a reservation.
        spec: binary.filter(|_| place.address.is_some()).map(|binary| container_spec(object, place, part, binary)),
    }
}

/// The containers of all members.
fn members(object: &RedisSentinel, observed: &Observed, decisions: &RedisDecisions) -> Vec<Member> {
    let data = decisions.members.iter().map(|place| member(object, observed, place, Part::Data));
    data.chain(decisions.sentinels.iter().map(|place| member(object, observed, place, Part::Sentinel))).collect()
}

/// The steps towards a running container for every member. `restart_dead`: whether dead containers may be restarted now;
/// while a failover can succeed without them, that would only delay it.
pub fn steps(object: &RedisSentinel, observed: &Observed, decisions: &RedisDecisions, restart_dead: bool) -> Vec<Step> {
    let (network, members) = (network(object), members(object, observed, decisions));
    let common = common(object, observed, &network);
    // On several hosts the volume of a member that is no more stays: it was on a host that was silent, or drained.
    let volumes = if decisions.network.is_bridge() { common.volumes } else { Volumes::Kept };
    let mut steps = converge::removals(&Common { volumes, ..self::common(object, observed, &network) }, &members);
    let taken = |name: &str| observed.links.get(name).is_some_and(|link| link.live() && link.report.port_taken);
    steps.extend(containers(&common, &members, |name, deed| match deed {
        // Its server does not run, so nothing is lost by another port.
        Deed::Replace if taken(name) => true,
        Deed::Start => true,
        Deed::Restart | Deed::Remake => restart_dead,
        // One at a time, the master last; the plan chooses.
        Deed::Replace | Deed::ReplaceStopped => false,
    }));
    steps.into_iter().map(Step::Docker).collect()
}

/// The step that replaces the container of a member, if it differs from its spec, or restarts its server for settings that
/// need that.
pub fn due(view: &View, observed: &Observed, name: &str) -> Option<Step> {
    let (member, part) = match view.member(name) {
        Some(member) => (member, Part::Data),
        None => (view.sentinels.iter().find(|one| one.name() == name)?, Part::Sentinel),
    };
    let network = network(view.object);
    let wanted = self::member(view.object, observed, member.place, part);
    if let Some(step) = converge::replace(&common(view.object, observed, &network), &wanted) {
        return Some(Step::Docker(step));
    }
    let (report, seen) = (member.live()?, member.serving()?);
    (!seen.pending_restart.is_empty() && !seen.config_pending).then(|| Step::Restart {
        member: name.to_owned(),
        run: report.run.clone(),
        why: format!("{} changed", seen.pending_restart.join(", ")),
    })
}

/// Removes everything: containers, then the data if the object says so, then the network. A person's word that a host is out of
/// service frees the object from it.
pub fn teardown(object: &RedisSentinel, observed: &Observed) -> (Vec<DockerStep>, bool) {
    let network = network(object);
    let hosts = reachable(&observed.hosts, &observed.declared);
    let common = Common { hosts: &hosts, ..common(object, observed, &network) };
    converge::teardown(&common, "the RedisSentinel is deleted")
}
