//! What the agent of a host has found: recorded, and judged for people. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{AgentSeen, Step, agent};
use crate::api::conditions::{Verdict, yes};
use crate::api::docker_host::{DockerHost, DockerHostStatus};
use crate::api::object::Object as _;
use crate::api::reach::Reach;
use crate::kinds::containers;
use crate::supervisor::agent::wire::{Listening, Order, Report};

/// The condition about hosts that it cannot connect to.
pub const PEERS: &str = "PeersUnreachable";
/// The condition about ports of its range that something else has.
pub const FOREIGN: &str = "ForeignListeners";
/// The condition about an agent that does not report.
pub const AGENT: &str = "AgentUnavailable";
/// Most foreign ports that are recorded.
const PORTS: usize = 128;
/// Most names in a message.
const NAMES: usize = 5;

/// Records what is known now; returns the step that tells of a boot. What an agent does not tell any more is unknown.
pub fn record(object: &DockerHost, seen: &AgentSeen, status: &mut DockerHostStatus) -> Option<Step> {
    if !agent::wanted(object, seen) {
        (status.boot_id, status.reach, status.foreign_ports) = Default::default();
        return None;
    }
    let order = agent::order(object, seen);
    status.reach =
        order.peers.keys().filter_map(|peer| Some((peer.clone(), reach(status, seen, &order, peer)?))).collect();
    let Some(report) = agent::report(seen) else {
        if !seen.young {
            status.foreign_ports = BTreeSet::new();
        }
        return None;
    };
    status.foreign_ports = foreign(object, seen, report);
    let before = status.boot_id.replace(report.boot_id.clone()).filter(|before| *before != report.boot_id)?;
    Some(Step::Rebooted { host: object.name().to_owned(), boot: report.boot_id.clone(), before })
}

/// Whether a peer is reached. Only a peer whose agent the operator hears says something: a host that is off, and an agent that is
/// being replaced, are not behind a firewall.
fn reach(status: &DockerHostStatus, seen: &AgentSeen, order: &Order, peer: &str) -> Option<Reach> {
    let known = status.reach.get(peer).copied();
    let heard = seen.hosts.get(peer).is_some_and(|host| host.listens);
    match agent::report(seen).filter(|_| heard) {
        Some(report) if report.order == order.hash() => report.reach.get(peer).copied(),
        Some(_) => known,
        None => known.filter(|_| seen.young),
    }
}

/// The ports of the range at which something listens that has no reservation, or to which one was left.
fn foreign(object: &DockerHost, seen: &AgentSeen, report: &Report) -> BTreeSet<u16> {
    let ours = |port: u16| {
        let reservation = seen.reserved.get(&(object.name().to_owned(), port));
        reservation.is_some_and(|one| !one.spec.foreign)
    };
    let listeners = report.listeners.iter().copied().filter(|port| object.spec.port_range.has(*port) && !ours(*port));
    listeners.take(PORTS).collect()
}

/// The conditions about what was found; `port`: why the agent has no port.
pub fn verdicts(
    object: &DockerHost,
    seen: &AgentSeen,
    status: &DockerHostStatus,
    port: Option<String>,
) -> [(&'static str, Option<Verdict>); 3] {
    [
        (PEERS, unreachable(object, seen, &status.reach)),
        (FOREIGN, listeners(object, &status.foreign_ports)),
        (AGENT, unavailable(object, seen, status, port)),
    ]
}

fn unreachable(object: &DockerHost, seen: &AgentSeen, reach: &BTreeMap<String, Reach>) -> Option<Verdict> {
    let order = agent::order(object, seen);
    let own = object.spec.address?;
    let cut = reach.iter().filter(|(_, reach)| **reach != Reach::Ok);
    let told: Vec<String> = cut
        .filter_map(|(peer, reach)| {
            let (at, range) = (order.peers.get(peer)?, seen.hosts.get(peer)?.declared.ports);
            let how = if *reach == Reach::Refused { "refused" } else { "no answer" };
            Some(format!(
                "{peer} (TCP {at}: {how}; allow TCP from {own} to {} ports {}-{})",
                at.ip(),
                range.first,
                range.last
            ))
        })
        .collect();
    if told.is_empty() {
        return None;
    }
    let message = format!(
        "it cannot connect to {}. Correct the firewall of that host, or what is between them: no member with data is placed on \
         two hosts that do not reach each other",
        some(&told)
    );
    Some(yes("ConnectionsFail", message))
}

fn listeners(object: &DockerHost, ports: &BTreeSet<u16>) -> Option<Verdict> {
    let told: Vec<String> = ports.iter().map(u16::to_string).collect();
    let range = String::from(object.spec.port_range);
    let message = format!(
        "something that has no PortReservation listens at TCP {} of its range {range}: another program, or a port that an object \
         publishes by number. These ports are not reserved; to free them, stop what listens there or choose another \
         spec.portRange",
        some(&told)
    );
    (!told.is_empty()).then(|| yes("PortsInUse", message))
}

/// Why the agent does not report, while it should.
fn unavailable(
    object: &DockerHost,
    seen: &AgentSeen,
    status: &DockerHostStatus,
    port: Option<String>,
) -> Option<Verdict> {
    if !agent::wanted(object, seen) {
        return None;
    }
    let told = |reason: &str, why: String| {
        let message = format!("{why}. Until then nothing is known of its reach, its boot id and its listening ports");
        Some(yes(reason, message))
    };
    let address = object.spec.address.map(|address| address.to_string()).unwrap_or_default();
    match agent::report(seen).map(|report| report.listening) {
        Some(Listening::NotHere) => {
            let why = format!("{address} is not an address of this host: correct spec.address");
            return Some(yes("WrongAddress", why));
        }
        Some(_) if port.is_none() => return None,
        _ => {}
    }
    if let Some(why) = port {
        return told("NoPort", why);
    }
    if let Some(why) = &seen.refused {
        return told("ReportRefused", format!("a report of its agent is refused: {why}"));
    }
    if let Some((reason, why)) = containers::problem(&seen.work) {
        return told(reason, why);
    }
    let container = agent::container_name(object);
    let there = seen.docker.values().find_map(|host| host.container(&container)).filter(|_| !seen.young);
    if let Some(there) = there {
        let state = format!("{:?}", there.state).to_lowercase();
        return told("NotReporting", format!("container {container} is {state} and does not report; see its log"));
    }
    // A step that failed has told why; that holds until the agent reports.
    let before = status.conditions.iter().find(|condition| condition.type_ == AGENT)?;
    Some(yes(&before.reason, before.message.clone()))
}

/// The first few, and how many more.
pub fn some(all: &[String]) -> String {
    let more = all.len().saturating_sub(NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    all.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ") + &more
}
