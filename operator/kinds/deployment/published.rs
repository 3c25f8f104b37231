//! Decides which ports of pods are published, so that balancers on other hosts reach them, which ports of hosts are reserved, and
//! which pods cannot stay where they are. Pure.
//!
//! A pod's bridge address is known on its own host only, and each host chooses its own subnet. So while hosts with an address
//! are more than one, each port that a LoadBalancer routes to is published at a reserved port of the pod's host: it is
//! reserved first, then recorded, then the container is made. A `hostPort` of the template is reserved, too, so that no member of
//! another object gets it.

use std::net::SocketAddrV4;

use k8s_openapi::api::core::v1::PodSpec;

use super::{Observed, Step, blueprint};
use crate::api::deployment::{Decisions, Deployment, Pod, Revision};
use crate::api::labels;
use crate::api::port_reservation::{PortOwner, PortReservationSpec};
use crate::engine::ContainerSeen;
use crate::kinds::ports::{self, PortStep};

/// The purpose of a port that the template names. Others are reserved for the container's port.
const NAMED: &str = "hostPort";

/// Whether balancers on other hosts must reach the pods.
pub fn spans(observed: &Observed) -> bool {
    let addressed = observed.hosts.values().filter(|host| host.declared.address.is_some()).count();
    addressed > 1 && !observed.routed.is_empty()
}

/// The ports of a pod that other hosts must reach and do not.
pub fn lacking(observed: &Observed, pod: &Pod) -> Vec<u16> {
    if !spans(observed) {
        return Vec::new();
    }
    let address = observed.hosts.get(&pod.host).and_then(|host| host.declared.address);
    let there = |port: &u16| pod.ports.get(port).is_some_and(|at| Some(*at.ip()) == address);
    observed.routed.iter().copied().filter(|port| !there(port)).collect()
}

/// Whether the pod has containers, or may have: then its ports cannot be changed any more.
fn exists(observed: &Observed, pod: &Pod) -> bool {
    let is = |container: &ContainerSeen| container.labels.get(labels::MEMBER) == Some(&pod.name);
    let known = observed.docker(&pod.host).and_then(|docker| docker.containers.known());
    known.is_none_or(|all| all.values().any(is))
}

/// Why a pod cannot stay where it is, if so.
pub fn moves(observed: &Observed, pod: &Pod) -> Option<String> {
    let declared = &observed.hosts.get(&pod.host)?.declared;
    let host = &pod.host;
    let why = match declared {
        one if one.lost => format!("host {host} is out of service"),
        one if one.drains => format!("host {host} is drained"),
        one if one.maintained => format!("host {host} is in maintenance"),
        one if spans(observed) && one.address.is_none() => {
            format!("host {host} has no spec.address, so no other host reaches it")
        }
        _ => {
            let port = *lacking(observed, pod).first().filter(|_| exists(observed, pod))?;
            format!("its port {port} is not published for other hosts")
        }
    };
    Some(why)
}

/// Whether another object has a port of the host that the template names.
pub fn is_taken(object: &Deployment, observed: &Observed, spec: &PodSpec, host: &str) -> bool {
    let owner = ports::owner_of(object);
    let addressed = observed.hosts.get(host).is_some_and(|host| host.declared.address.is_some());
    let reserved = |port: u16| observed.reserved.get(&(host.to_owned(), port));
    addressed && blueprint::host_ports(spec).filter_map(reserved).any(|one| one.spec.owner != owner)
}

/// The first port of its host that the pod's template names and the pod has not reserved.
pub fn unreserved(object: &Deployment, observed: &Observed, pod: &Pod, spec: &PodSpec) -> Option<u16> {
    observed.hosts.get(&pod.host)?.declared.address?;
    let owner = ports::owner_of(object);
    blueprint::host_ports(spec).find(|port| !ports::holds(&observed.reserved, &owner, &pod.name, &pod.host, *port))
}

/// Records the ports that are reserved for pods without containers, and returns the steps that reserve those that are missing
/// and release those of pods that are gone.
pub fn reserve(object: &Deployment, observed: &Observed, d: &mut Decisions) -> Vec<Step> {
    let owner = ports::owner_of(object);
    let (mut reserved, mut steps) = (observed.reserved.clone(), Vec::new());
    let Decisions { pods, revisions, .. } = d;
    for pod in pods.iter_mut().filter(|pod| pod.stop.is_none()) {
        let wishes = wishes(observed, &owner, revisions, pod);
        pod.no_port = None;
        let Some(host) = observed.hosts.get(&pod.host) else { continue };
        for (purpose, named) in wishes {
            let place = (pod.host.as_str(), &host.declared);
            match ports::reserve(&reserved, &owner, (&pod.name, &purpose), place, named) {
                Ok(spec) => {
                    ports::note(&mut reserved, &spec);
                    steps.push(PortStep::Reserve(Box::new(spec)));
                }
                Err(why) => pod.no_port = Some(why),
            }
        }
    }
    for pod in &d.pods {
        let taken = pod.taken.and_then(|port| observed.reserved.get(&(pod.host.clone(), port)));
        if let Some(one) = taken.filter(|one| one.spec.owner == owner && !one.spec.foreign) {
            steps.push(PortStep::Foreign { host: one.spec.host.clone(), port: one.spec.port });
        }
    }
    // A port that another program has stays reserved, so that nobody tries it again.
    let kept = |spec: &PortReservationSpec| {
        spec.foreign || d.pods.iter().any(|pod| pod.name == spec.member && pod.host == spec.host)
    };
    steps.extend(ports::release(&observed.reserved, &owner, kept));
    steps.into_iter().map(Step::Port).collect()
}

/// The ports that the pod has not reserved yet: the purpose of each, and the port if the template names it. Records those that it
/// has.
fn wishes(observed: &Observed, owner: &PortOwner, revisions: &[Revision], pod: &mut Pod) -> Vec<(String, Option<u16>)> {
    let Some(address) = observed.hosts.get(&pod.host).and_then(|host| host.declared.address) else { return Vec::new() };
    let spec = revisions.iter().find(|one| one.hash == pod.hash).map(blueprint::pod_spec).unwrap_or_default();
    let has = |port: &u16| ports::holds(&observed.reserved, owner, &pod.name, &pod.host, *port);
    let named = blueprint::host_ports(&spec).filter(|port| !has(port));
    let mut wishes: Vec<_> = named.map(|port| (NAMED.to_owned(), Some(port))).collect();
    if exists(observed, pod) {
        return wishes;
    }
    for port in lacking(observed, pod) {
        let purpose = port.to_string();
        match ports::held(&observed.reserved, owner, &pod.name, &purpose, &pod.host) {
            Some(at) => {
                pod.ports.insert(port, SocketAddrV4::new(address, at));
            }
            None => wishes.push((purpose, None)),
        }
    }
    wishes
}
