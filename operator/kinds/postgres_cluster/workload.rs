//! Decides the members of a cluster: the host of each, its container, and when the container may be changed. Pure.

use std::collections::BTreeSet;

use super::view::Lost;
use super::{
    Observed, RESOURCE, Step, bridge, container_name, definition, network_name, peers_network_name, places, upgrade,
};
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{Decisions, MemberPlace, Network, PostgresCluster};
use crate::engine::{Attachment, Chosen, ContainerSpec, NetworkSpec};
use crate::kinds::addresses;
use crate::kinds::containers::converge::{self, Common, Volumes};
use crate::kinds::containers::{Deed, DockerStep, HOME, Member, converge as containers, networks};
use crate::kinds::places::reachable;

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
    let bridged = |decisions: &Decisions| decisions.network.is_bridge();
    let decisions = object.status.as_ref().and_then(|status| status.decisions.as_ref());
    decisions.is_some_and(|decisions| !bridged(decisions))
        || addresses::subnet(&observed.hosts, &peers_network_name(object)).is_some()
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
    let replaced = places::replaced(decisions).map(str::to_owned);
    let pair = |name: &str| {
        decisions.replacement.as_ref().is_some_and(|replacement| replacement.member == name || replacement.by == name)
    };
    let due = usize::from(decisions.replacement.is_some());
    let surplus = decisions.members.len().saturating_sub(object.spec.instances as usize + due);
    let others = decisions.members.iter().rev().filter(|place| !decisions.is_leader(&place.name) && !pair(&place.name));
    others.take(surplus).map(|place| place.name.clone()).chain(replaced).collect()
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
    let place = &places::wanted(object, observed, place);
    let on_host = place.network == Network::Host;
    let binary = upgrade::program(object, observed, place);
    let daemon = observed.hosts.get(&place.host).and_then(|host| host.daemon.as_ref());
    let chosen = daemon.map(|daemon| definition::chosen(object, daemon)).unwrap_or_default();
    let peers = bridge::peer_wanted(object, observed, place).filter(|_| !on_host).map(|address| Attachment {
        network: peers_network_name(object),
        aliases: Vec::new(),
        address: Some(address),
    });
    // Not part of the hash: a container of the release before is connected while it runs.
    let chosen = Chosen { networks: peers.into_iter().collect(), ..chosen };
    Member {
        name: place.name.clone(),
        host: place.host.clone(),
        volume: Some(object.owner().member_labels(&place.name)),
        container: container_name(object, &place.name),
        on_host,
        // Its address comes from the network, its port from a reservation.
        spec: binary
            .filter(|_| place.address.is_some() && (place.port.is_some() || !on_host))
            .map(|binary| definition::container_spec(object, place, binary))
            .map(|spec| ContainerSpec { chosen, ..spec }),
    }
}

/// The step that corrects the Secret for applications, if needed.
pub fn secrets(observed: &Observed, decisions: &Decisions) -> Option<Step> {
    let addresses: Option<Vec<String>> =
        decisions.members.iter().map(|place| place.address.map(|address| address.to_string())).collect();
    let host = addresses?.join(",");
    let port = ports(&decisions.members);
    let same = observed.secrets.host == host && observed.secrets.port == port;
    (!observed.secrets.complete || !same).then_some(Step::EnsureSecrets { host, port })
}

/// The ports of the members as libpq takes them: one if all have the same, else one for each.
fn ports(members: &[MemberPlace]) -> String {
    let all: Vec<String> = members.iter().map(|place| place.listens_on().to_string()).collect();
    match all.first() {
        Some(first) if all.iter().all(|port| port == first) => first.clone(),
        _ => all.join(","),
    }
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
    // On several hosts the volume of a member that is no more stays: it was on a host that was silent, or drained.
    let volumes = if decisions.network.is_bridge() { common.volumes } else { Volumes::Kept };
    let mut steps = converge::removals(&Common { volumes, ..self::common(object, observed, &network) }, &members);
    let there = |member: &Member| {
        observed.hosts.get(&member.host).is_some_and(|host| host.container(&member.container).is_some())
    };
    members.retain(|member| !held || there(member));
    let taken = |name: &str| observed.links.get(name).is_some_and(|link| link.live() && link.report.port_taken);
    steps.extend(containers(&common, &members, |name, deed| match deed {
        // Its server does not run, so nothing is lost by another port.
        Deed::Replace if taken(name) => true,
        Deed::Start => true,
        Deed::Restart | Deed::Remake => restart_dead,
        // One at a time and standbys first; `maintain` chooses.
        Deed::Replace | Deed::ReplaceStopped => false,
    }));
    // The last step: where Docker has no subnet left for it, everything else goes on.
    let bridged = members.iter().any(|member| !member.on_host) || decisions.network.is_bridge();
    let networks = observed.hosts.get(HOME).filter(|_| bridged).and_then(|host| host.networks.known());
    let peers = networks.map(|there| converge::ensure_network(common.work, HOME, &peers_network(object), there));
    steps.extend(peers.into_iter().flatten());
    steps.into_iter().map(Step::Docker).collect()
}

/// Removes everything: containers, then the data if the object says so, then the networks. The steps, and whether nothing
/// is left once they are done. A person's word that a host is out of service frees the object from it.
pub fn teardown(object: &PostgresCluster, observed: &Observed) -> (Vec<Step>, bool) {
    let network = network(object);
    let why = format!("{RESOURCE} {} is deleted", object.name());
    let hosts = reachable(&observed.hosts, &observed.declared);
    let (mut steps, finished) =
        converge::teardown(&Common { hosts: &hosts, ..common(object, observed, &network) }, &why);
    if finished && addresses::subnet(&observed.hosts, &peers_network_name(object)).is_some() {
        let (host, network) = (HOME.to_owned(), peers_network_name(object));
        steps.push(DockerStep::RemoveNetwork { host, network, shared: false });
    }
    (steps.into_iter().map(Step::Docker).collect(), finished)
}
