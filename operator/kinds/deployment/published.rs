//! Decides which ports of pods are published, so that balancers on other hosts reach them, and which pods cannot stay where
//! they are. Pure.
//!
//! A pod's bridge address is known on its own host only, and each host chooses its own subnet. So while hosts with an address
//! are more than one, each port that a LoadBalancer routes to is published at a reserved port of the pod's host: it is
//! reserved first, then recorded, then the container is made.

use std::net::SocketAddrV4;

use super::{Observed, Step};
use crate::api::deployment::{Decisions, Deployment, Pod};
use crate::api::labels;
use crate::api::port_reservation::PortReservationSpec;
use crate::engine::ContainerSeen;
use crate::kinds::ports::{self, PortStep};

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

/// Records the ports that are reserved for pods without containers, and returns the steps that reserve those that are missing
/// and release those of pods that are gone.
pub fn reserve(object: &Deployment, observed: &Observed, d: &mut Decisions) -> Vec<Step> {
    let owner = ports::owner_of(object);
    let (mut reserved, mut steps) = (observed.reserved.clone(), Vec::new());
    for pod in d.pods.iter_mut().filter(|pod| pod.stop.is_none() && !exists(observed, pod)) {
        pod.no_port = None;
        let Some(host) = observed.hosts.get(&pod.host) else { continue };
        let Some(address) = host.declared.address else { continue };
        for port in lacking(observed, pod) {
            let (purpose, place) = (port.to_string(), (pod.host.as_str(), &host.declared));
            if let Some(at) = ports::held(&observed.reserved, &owner, &pod.name, &purpose, &pod.host) {
                pod.ports.insert(port, SocketAddrV4::new(address, at));
                continue;
            }
            match ports::reserve(&reserved, &owner, (&pod.name, &purpose), place, None) {
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
