//! Decides about the agent of a host: whether there is one, its port and container, and what it looks at. Pure.
//!
//! A host has an agent while it and another host have an address. Nothing waits for it, and nothing depends on it.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use super::{AgentSeen, Step};
use crate::api::docker_host::DockerHost;
use crate::api::labels;
use crate::api::object::Object as _;
use crate::api::port_reservation::PortOwner;
use crate::engine::{BINARY, BINARY_DIR, ContainerSpec, EMPTY_IMAGE, HOST_NETWORK, NetworkSpec, Security};
use crate::kinds::containers::Member;
use crate::kinds::containers::converge::{self, Common, Volumes};
use crate::kinds::ports::{self, PortStep};
use crate::supervisor::agent::wire::{Listening, Order, Report};

/// The member of a host that is its agent, and the purpose of its port.
pub const AGENT: &str = "agent";
/// Its user and group: nobody's. What it reads, everybody may read.
const USER: &str = "65534:65534";
/// The folder of its socket belongs to it. A mode that lets everybody write is lost at its second start: runc then gives the
/// folder the mode that it had below the mount.
const FOLDER: &str = "mode=0755,uid=65534,gid=65534,size=64k";
/// Seconds to end.
const GRACE: u64 = 2;
/// Most bytes of its memory.
const MEMORY: i64 = 64 << 20;
/// Its share of the CPUs when others need them, too, of 1024 that others have.
const SHARE: i64 = 128;
/// Most processes and threads: its own, and those of a connection of the operator.
const PROCESSES: i64 = 32;

/// Whether the host has an agent.
pub fn wanted(object: &DockerHost, seen: &AgentSeen) -> bool {
    let addressed = |name: &str| seen.hosts.get(name).is_some_and(|host| host.declared.address.is_some());
    let others = seen.hosts.keys().filter(|name| *name != object.name());
    !object.spec.out_of_service && addressed(object.name()) && others.into_iter().any(|name| addressed(name))
}

/// Its last report, while it can be reached.
pub fn report(seen: &AgentSeen) -> Option<&Report> {
    seen.link.as_ref().filter(|link| link.live()).map(|link| &link.report)
}

/// What it looks at: the range of its host, and the agents of the hosts that a person has not given up.
pub fn order(object: &DockerHost, seen: &AgentSeen) -> Order {
    let others = seen.hosts.iter().filter(|(name, host)| *name != object.name() && !host.declared.lost);
    let peers = others.filter_map(|(name, host)| {
        let port = ports::held(&seen.reserved, &host.owner, AGENT, AGENT, name)?;
        Some((name.clone(), SocketAddrV4::new(host.declared.address?, port)))
    });
    let range = object.spec.port_range;
    Order { ports: (range.first, range.last), peers: peers.collect() }
}

/// The steps towards a running agent that follows its order, or towards none; and why it has no port.
pub fn steps(object: &DockerHost, seen: &AgentSeen) -> (Vec<Step>, Option<String>) {
    let (owner, network) = (ports::owner_of(object), network(object));
    let common = common(&network, seen);
    if !wanted(object, seen) {
        let ports = ports::release(&seen.reserved, &owner, |_| false);
        let steps = teardown(object, seen).0.into_iter().chain(ports.into_iter().map(Step::Port));
        return (steps.collect(), None);
    }
    let (mut steps, at, problem) = port(object, seen, &owner);
    let spec = || {
        let binary = seen.docker.get(object.name())?.binary.as_deref()?;
        Some(container(object, at?, binary))
    };
    let (name, host, container) = (AGENT.to_owned(), object.name().to_owned(), container_name(object));
    let member = Member { name, host, volume: None, container, on_host: true, spec: spec() };
    // It has no state, so whatever makes it as it should be may happen at any time.
    steps.extend(converge::converge(&common, &[member], |_, _| true).into_iter().map(Step::Docker));
    let order = order(object, seen);
    if report(seen).is_some_and(|report| report.order != order.hash()) {
        steps.push(Step::Order(Box::new(order)));
    }
    (steps, problem)
}

/// Removes it. The steps, and whether it is gone.
pub fn teardown(object: &DockerHost, seen: &AgentSeen) -> (Vec<Step>, bool) {
    let network = network(object);
    let (steps, finished) = converge::teardown(&common(&network, seen), "the host needs no agent");
    (steps.into_iter().map(Step::Docker).collect(), finished)
}

/// Its address and port: reserved first, and another one if something else listens there.
fn port(object: &DockerHost, seen: &AgentSeen, owner: &PortOwner) -> (Vec<Step>, Option<SocketAddrV4>, Option<String>) {
    let (mut steps, name) = (Vec::new(), object.name());
    let Some(host) = seen.hosts.get(name) else { return (steps, None, None) };
    let mut port = ports::held(&seen.reserved, owner, AGENT, AGENT, name);
    let taken = report(seen).is_some_and(|report| report.listening == Listening::Taken);
    if let Some(port) = port.take_if(|_| taken) {
        steps.push(Step::Port(PortStep::Foreign { host: name.to_owned(), port }));
    }
    if port.is_none() {
        match ports::reserve(&seen.reserved, owner, (AGENT, AGENT), (name, &host.declared), None) {
            Ok(spec) => steps.push(Step::Port(PortStep::Reserve(Box::new(spec)))),
            Err(why) => return (steps, None, Some(why)),
        }
    }
    let at = host.declared.address.zip(port).map(|(address, port)| SocketAddrV4::new(address, port));
    (steps, at, None)
}

/// The name of its container.
pub fn container_name(object: &DockerHost) -> String {
    format!("evenkeel-agent.{}", object.name())
}

/// Its container: this program alone, on the host's network, without a privilege.
fn container(object: &DockerHost, at: SocketAddrV4, binary: &str) -> ContainerSpec {
    let labels = object.owner().member_labels(AGENT).into_iter();
    ContainerSpec {
        name: container_name(object),
        hostname: "evenkeel-agent".into(),
        image: EMPTY_IMAGE.into(),
        entrypoint: [BINARY, "agent", "--listen", &at.to_string()].map(String::from).to_vec(),
        labels: labels.chain([(labels::BINARY.to_owned(), binary.to_owned())]).collect(),
        volumes: vec![(binary.to_owned(), BINARY_DIR.to_owned(), true)],
        tmpfs: BTreeMap::from([("/run/evenkeel".to_owned(), FOLDER.to_owned())]),
        network: HOST_NETWORK.into(),
        stop_timeout_seconds: GRACE.cast_signed(),
        memory_bytes: Some(MEMORY),
        cpu_shares: Some(SHARE),
        pids_limit: Some(PROCESSES),
        restart: true,
        user: Some(USER.into()),
        security: Security {
            cap_drop: vec!["ALL".into()],
            read_only: true,
            no_new_privileges: true,
            ..Default::default()
        },
        ..Default::default()
    }
}

/// It is on its host's network, and has none of its own.
fn network(object: &DockerHost) -> NetworkSpec {
    NetworkSpec { name: container_name(object), labels: object.owner().labels(), internal: true }
}

fn common<'a>(network: &'a NetworkSpec, seen: &'a AgentSeen) -> Common<'a> {
    let (hosts, work) = (&seen.docker, &seen.work);
    let (shares_network, volumes) = (false, Volumes::Kept);
    Common { hosts, work, image: EMPTY_IMAGE, network, shares_network, volumes, grace: GRACE }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
