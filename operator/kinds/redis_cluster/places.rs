//! Decides on which hosts the members live: what a RedisCluster says to the mechanism that places members for all kinds. Pure.

use std::collections::BTreeSet;

use super::view::View;
use super::{Observed, Step, bridge, container_name, decide};
use crate::api::object::Object as _;
use crate::api::placement::{Network, NetworkMode};
use crate::api::redis_cluster::{ClusterDecisions, ClusterStage, RedisCluster};
use crate::api::redis_status::RedisPlace;
use crate::kinds::hosts::DeclaredHosts;
use crate::kinds::places::{self, Ground, Group, Rules};
use crate::kinds::ports;

/// What a member needs ports for.
const PURPOSES: [&str; 2] = ["redis", "bus"];

/// The members of now, and what has to be done and told about their places.
pub struct Placed {
    /// The decisions before, with these members.
    pub decisions: ClusterDecisions,
    /// Reservations of ports.
    pub steps: Vec<Step>,
    /// Why a member has no place, or keeps one that it should leave: reason and message.
    pub problem: Option<(&'static str, String)>,
}

/// The hosts that are observed.
pub fn hosts(object: &RedisCluster, declared: &DeclaredHosts) -> BTreeSet<String> {
    let decisions = object.status.iter().filter_map(|status| status.decisions.as_ref()).next();
    let members = decisions.into_iter().flat_map(|decisions| &decisions.members).map(|place| place.host.clone());
    let spread = decisions
        .is_none_or(|decisions| decisions.stage == ClusterStage::New || !decisions.network.is_bridge())
        || object.spec.placement.network == NetworkMode::Host;
    places::hosts(members, declared, spread)
}

/// The network of the members.
pub fn network(object: &RedisCluster, observed: &Observed, before: &ClusterDecisions) -> Network {
    let new = before.stage == ClusterStage::New && before.members.is_empty();
    places::network(&object.spec.placement, &observed.declared, before.network, new)
}

/// Places the members. `view`: by the places of before.
pub fn placed(view: &View, observed: &Observed) -> Placed {
    let (object, before) = (view.object, view.before);
    let new = before.stage == ClusterStage::New;
    let network = network(object, observed, before);
    let mut decisions = ClusterDecisions { network, ..before.clone() };
    if network.is_bridge() {
        decisions.members = bridge::bridged(object, observed, before);
        return Placed { decisions, steps: Vec::new(), problem: None };
    }
    let link = |name: &str| observed.links.get(name).filter(|link| link.live());
    let live = |name: &str| link(name).is_some();
    let silent = places::silent(&observed.silent, before.members.iter(), live);
    let ground = Ground {
        placement: &object.spec.placement,
        declared: &observed.declared,
        reserved: &observed.reserved,
        hosts: &observed.hosts,
        silent: &silent,
        owner: ports::owner_of(object),
        container: &|member| container_name(object, member),
    };
    let adopted = |volume: &str| bridge::ordinal_of(object, volume);
    let rules = Rules {
        wanted: object.spec.members() as usize,
        name: &|ordinal| format!("{}-{ordinal}", object.name()),
        leads: &|name| decide::is_last_copy(view, name),
        ready: &|name| decide::has_task(view, name),
        taken: &|name| link(name).is_some_and(|link| link.report.port_taken),
        calm: before.stage == ClusterStage::Steady && before.failover.is_none() && before.migration.is_none(),
        adopted: if new { Some(&adopted) } else { None },
        alone: false,
        purposes: &PURPOSES,
        fixed: None,
    };
    let group = Group {
        members: before.members.clone(),
        last_ordinal: before.last_ordinal,
        replacement: before.replacement.clone(),
    };
    let bridging = |place: &mut RedisPlace| place.address = bridge::address(object, observed, place);
    let placed = places::placed(&ground, &rules, group, bridging);
    let mut steps = placed.steps;
    steps.extend(places::released(&ground, placed.group.members.iter()));
    let Group { members, last_ordinal, replacement } = placed.group;
    (decisions.members, decisions.last_ordinal, decisions.replacement) = (members, last_ordinal, replacement);
    Placed { decisions, steps: steps.into_iter().map(Step::Port).collect(), problem: placed.problem }
}

/// The member as its container has to be: on its host's network as soon as it has its ports there.
pub fn wanted(object: &RedisCluster, observed: &Observed, place: &RedisPlace) -> RedisPlace {
    places::wanted(&observed.declared, &observed.reserved, &ports::owner_of(object), &PURPOSES, place)
}
