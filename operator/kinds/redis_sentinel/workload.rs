//! Decides the members: the host and address of each, its container, and when the container may be changed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::definition::{self, Part, container_spec};
use super::view::View;
use super::{Observed, Step, container_name, network_name};
use crate::api::object::Object as _;
use crate::api::redis_sentinel::{RedisDecisions, RedisPlace, RedisSentinel, RedisStage};
use crate::engine::NetworkSpec;
use crate::kinds::addresses;
use crate::kinds::containers::converge::{self, Common};
use crate::kinds::containers::{Deed, DockerStep, HOME, Member, converge as containers};
use crate::supervisor::redis::wire::{PORT, SENTINEL_PORT};

/// Offset of the Sentinels' addresses in the subnet. Each member has a few addresses to try, 32 apart.
const SENTINELS: u32 = addresses::FIRST + 12;
/// Most ordinals that are adopted from volumes.
const ADOPTED: u32 = 9;

/// The hosts of the members, and the one that new members are placed on.
pub fn hosts(object: &RedisSentinel) -> BTreeSet<String> {
    let decisions = object.status.iter().filter_map(|status| status.decisions.as_ref());
    let places = decisions.flat_map(|decisions| decisions.members.iter().chain(&decisions.sentinels));
    places.map(|place| place.host.clone()).chain([HOME.to_owned()]).collect()
}

/// The network of the object.
pub fn network(object: &RedisSentinel) -> NetworkSpec {
    NetworkSpec { name: network_name(object), labels: object.owner().labels(), internal: false }
}

/// The name of a data member or a Sentinel.
fn name(object: &RedisSentinel, part: Part, ordinal: u32) -> String {
    match part {
        Part::Data => format!("{}-{ordinal}", object.name()),
        Part::Sentinel => format!("{}-sentinel-{ordinal}", object.name()),
    }
}

/// The members of one kind: those that there are, and enough for the spec; before the first decision also every data member
/// whose volume exists.
pub fn places(object: &RedisSentinel, observed: &Observed, before: &RedisDecisions, part: Part) -> Vec<RedisPlace> {
    let (had, wanted) = match part {
        Part::Data => (&before.members, object.spec.replicas),
        Part::Sentinel => (&before.sentinels, object.spec.sentinels),
    };
    let network = network_name(object);
    let subnet = addresses::subnet(&observed.hosts, &network);
    // The network is unknown now: every member keeps its address.
    let silent = observed.hosts.get(HOME).is_none_or(|host| host.networks.known().is_none());
    let before_by: BTreeMap<u32, &RedisPlace> = had.iter().map(|place| (place.ordinal, place)).collect();
    let mut ordinals: BTreeSet<u32> = before_by.keys().copied().collect();
    if before.stage == RedisStage::New && part == Part::Data {
        let volumes = observed.hosts.values().filter_map(|host| host.volumes.known()).flatten();
        let ordinal = |volume: &String| -> Option<u32> {
            volume.strip_prefix(&container_name(object, object.name()))?.strip_prefix('-')?.parse().ok()
        };
        ordinals.extend(volumes.filter_map(ordinal).filter(|ordinal| (1..=ADOPTED).contains(ordinal)));
    }
    let mut candidate = 1;
    while ordinals.len() < wanted as usize {
        ordinals.insert(candidate);
        candidate += 1;
    }
    let place = |ordinal: u32| {
        let name = name(object, part, ordinal);
        let before = before_by.get(&ordinal).and_then(|place| place.address);
        let (first, port) = match part {
            Part::Data => (addresses::FIRST, PORT),
            Part::Sentinel => (SENTINELS, SENTINEL_PORT),
        };
        let container = container_name(object, &name);
        let taken = |address| addresses::taken(&observed.work, &container, &network, address);
        let address = match subnet {
            Some(subnet) => Some(addresses::address(subnet, first + ordinal, before, taken)),
            None => before.filter(|_| silent),
        };
        RedisPlace { name, ordinal, host: HOME.into(), address, port }
    };
    ordinals.into_iter().map(place).collect()
}

/// Members to remove because the spec asks for fewer: the highest ordinals, never the master.
pub fn leaving<'p>(places: &'p [RedisPlace], wanted: u32, master: Option<&str>) -> BTreeSet<&'p str> {
    let surplus = places.len().saturating_sub(wanted as usize);
    let others = places.iter().rev().filter(|place| Some(place.name.as_str()) != master);
    others.take(surplus).map(|place| place.name.as_str()).collect()
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
    let binary = observed.hosts.get(&place.host).and_then(|host| host.binary.as_deref());
    Member {
        name: place.name.clone(),
        host: place.host.clone(),
        labels: object.owner().member_labels(&place.name),
        container: container_name(object, &place.name),
        // Its address comes from the network.
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
    let mut steps = converge::removals(&common, &members);
    steps.extend(containers(&common, &members, |_, deed| match deed {
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

/// Removes everything: containers, then the data if the object says so, then the network.
pub fn teardown(object: &RedisSentinel, observed: &Observed) -> Option<(Vec<DockerStep>, bool)> {
    let network = network(object);
    converge::teardown(&common(object, observed, &network), "the RedisSentinel is deleted")
}
