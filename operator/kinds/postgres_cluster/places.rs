//! Decides on which hosts the instances live: what a PostgresCluster says to the mechanism that places members for all kinds. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::{Observed, Step, bridge, container_name};
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{Decisions, MemberPlace, Network, NetworkMode, PostgresCluster, Replacement, Stage};
use crate::kinds::hosts::DeclaredHosts;
use crate::kinds::places::{self, Ground, Group, Place, Rules};
use crate::kinds::ports;

/// What a member needs a port for.
const PURPOSES: [&str; 1] = ["postgres"];

/// The members of now, and what has to be done and told about their places.
pub struct Placed {
    /// The decisions before, with these members.
    pub decisions: Decisions,
    /// Reservations of ports.
    pub steps: Vec<Step>,
    /// Why a member has no place, or keeps one that it should leave: reason and message.
    pub problem: Option<(&'static str, String)>,
}

impl Place for MemberPlace {
    fn new(name: String, ordinal: u32, host: String) -> Self {
        Self { name, ordinal, host, network: Network::Host, address: None, peer: None, port: None }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn ordinal(&self) -> u32 {
        self.ordinal
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn network(&self) -> Network {
        self.network
    }

    fn address(&self) -> Option<Ipv4Addr> {
        self.address
    }

    fn ports(&self) -> Vec<Option<u16>> {
        vec![self.port]
    }

    fn put(&mut self, address: Option<Ipv4Addr>, ports: &[Option<u16>]) {
        // The address by which it replicated on a Docker network does not exist here.
        self.peer = self.peer.filter(|_| !self.network.is_bridge());
        (self.network, self.address) = (Network::Host, address);
        self.port = ports.first().copied().flatten();
    }
}

/// The hosts that are observed for a cluster.
pub fn hosts(object: &PostgresCluster, declared: &DeclaredHosts) -> BTreeSet<String> {
    let decisions = object.status.iter().filter_map(|status| status.decisions.as_ref()).next();
    let members = decisions.into_iter().flat_map(|decisions| &decisions.members).map(|place| place.host.clone());
    let spread = decisions.is_none_or(|decisions| decisions.stage == Stage::New || !decisions.network.is_bridge())
        || object.spec.placement.network == NetworkMode::Host;
    places::hosts(members, declared, spread)
}

/// The network of the members.
pub fn network(object: &PostgresCluster, observed: &Observed, before: &Decisions) -> Network {
    let new = before.stage == Stage::New && before.members.is_empty();
    places::network(&object.spec.placement, &observed.declared, before.network, new)
}

/// Places the members.
pub fn placed(object: &PostgresCluster, observed: &Observed, before: &Decisions) -> Placed {
    let new = before.stage == Stage::New;
    let network = network(object, observed, before);
    let mut decisions = Decisions { network, ..before.clone() };
    if network.is_bridge() {
        decisions.members = bridge::bridged(object, observed, before);
        return Placed { decisions, steps: Vec::new(), problem: None };
    }
    let link = |name: &str| observed.links.get(name).filter(|link| link.live());
    let members = before.members.iter();
    let silent = places::silent(&observed.silent, members, |name| link(name).is_some());
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
        wanted: object.spec.instances as usize,
        name: &|ordinal| format!("{}-{ordinal}", object.name()),
        leads: &|name| before.is_leader(name),
        ready: &|name| votes(before, name),
        taken: &|name| link(name).is_some_and(|link| link.report.port_taken),
        calm: before.stage == Stage::Steady && before.switchover.is_none(),
        adopted: new.then_some(&adopted),
        alone: object.spec.expose.is_some(),
        purposes: &PURPOSES,
        fixed: object.spec.expose.as_ref().map(|expose| expose.host_port),
    };
    let (members, replacement) = (before.members.clone(), before.replacement.clone());
    let group = Group { members, last_ordinal: before.last_ordinal, replacement };
    // Of a member that is still on the Docker network.
    let bridging = |place: &mut MemberPlace| {
        let own = Decisions { members: vec![place.clone()], ..before.clone() };
        let there = bridge::bridged(object, observed, &own).into_iter().find(|one| one.name == place.name);
        if let Some(there) = there {
            (place.address, place.peer) = (there.address, there.peer);
        }
    };
    let placed = places::placed(&ground, &rules, group, bridging);
    let mut members = placed.group.members;
    for place in members.iter_mut().filter(|place| !place.network.is_bridge()) {
        let certified = link(&place.name).is_some_and(|link| link.report.secures && link.report.tls.is_some());
        place.peer = place.address.filter(|_| certified || place.peer.is_some());
    }
    let mut steps = placed.steps;
    steps.extend(places::released(&ground, members.iter()));
    (decisions.members, decisions.last_ordinal) = (members, placed.group.last_ordinal);
    decisions.replacement = placed.group.replacement;
    Placed { decisions, steps: steps.into_iter().map(Step::Port).collect(), problem: placed.problem }
}

/// The member as its container has to be: on its host's network as soon as it has a port there.
pub fn wanted(object: &PostgresCluster, observed: &Observed, place: &MemberPlace) -> MemberPlace {
    places::wanted(&observed.declared, &observed.reserved, &ports::owner_of(object), &PURPOSES, place)
}

fn votes(decisions: &Decisions, member: &str) -> bool {
    decisions.election.voters.iter().any(|voter| voter.member == member)
}

/// The request of the switchover that takes the leader away from its host, and the members it may go to; `None` if it may stay.
pub fn leaves_its_host(observed: &Observed, decisions: &Decisions) -> Option<(String, Vec<String>)> {
    let leader = decisions.leader.as_ref()?;
    places::leaves_its_host(&observed.declared, &decisions.members, &leader.member)
}

/// The member that leaves because the one that takes its place votes, or leads, by now.
pub fn replaced(decisions: &Decisions) -> Option<&str> {
    let Replacement { member, by, .. } = decisions.replacement.as_ref()?;
    ((votes(decisions, by) || decisions.is_leader(by)) && !decisions.is_leader(member)).then_some(member.as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
