//! Decides where the host ports of a balancer are published, and reserves them on hosts that others reach. Pure.
//!
//! On a host with an address, ports are given to members of all kinds from one range, so a balancer's own port is reserved there
//! like any other: nobody else gets it, and one that somebody else has is told before a container is made.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::places::Place;
use super::{LoadBalancer, Observed, Step};
use crate::kinds::ports::{self, PortStep};

/// A published port: the address and the port of the host, and the port of the container.
type Published = (IpAddr, u16, u16);

/// The ports that a balancer publishes; `Err`: why it cannot publish them.
pub fn ports(object: &LoadBalancer, observed: &Observed, place: &Place) -> Result<Vec<Published>, String> {
    let spec = &object.spec;
    let local = IpAddr::from(Ipv4Addr::LOCALHOST);
    let of_host = || {
        let host = place.host.as_deref().unwrap_or_default();
        let address = observed.declared.get(host).and_then(|declared| declared.address);
        let missing = || format!("host {host} has no spec.address, and bindAddress is Host");
        address.map(IpAddr::from).ok_or_else(missing)
    };
    let address = if spec.binds_to_host() { of_host()? } else { spec.bind_address.parse().unwrap_or(local) };
    let listened = spec.frontends.iter().filter_map(|one| Some((address, one.host_port?, one.port)));
    let stats = spec.stats.iter().filter_map(|stats| Some((local, stats.host_port?, stats.port)));
    let published = |(address, first, inside): Published| {
        Some((address, u16::try_from(u32::from(first) + place.above).ok()?, inside))
    };
    Ok(listened.chain(stats).filter_map(published).collect())
}

/// Reserves the host ports of the balancers and releases those that no balancer has any more. The steps, and by its balancer
/// why a port is not to be had.
pub fn reserve(object: &LoadBalancer, observed: &Observed, places: &[Place]) -> (Vec<Step>, Vec<(String, String)>) {
    let owner = ports::owner_of(object);
    let (mut steps, mut problems, mut wanted) = (Vec::new(), Vec::new(), BTreeSet::new());
    for place in places {
        let Some(host) = place.host.as_deref() else { continue };
        let Some(declared) = observed.declared.get(host).filter(|declared| declared.address.is_some()) else {
            continue;
        };
        for (_, port, inside) in ports(object, observed, place).unwrap_or_default() {
            wanted.insert((host, port, place.member.as_str()));
            if ports::holds(&observed.reserved, &owner, &place.member, host, port) {
                continue;
            }
            let purpose = inside.to_string();
            match ports::reserve(&observed.reserved, &owner, (&place.member, &purpose), (host, declared), Some(port)) {
                Ok(spec) => steps.push(PortStep::Reserve(Box::new(spec))),
                Err(why) => problems.push((place.member.clone(), why)),
            }
        }
    }
    let kept = |host: &str, port: u16, member: &str| wanted.contains(&(host, port, member));
    steps.extend(ports::release(&observed.reserved, &owner, |spec| kept(&spec.host, spec.port, &spec.member)));
    (steps.into_iter().map(Step::Port).collect(), problems)
}

/// Whether every port that the balancer publishes is its own.
pub fn reserved(object: &LoadBalancer, observed: &Observed, place: &Place) -> bool {
    let Some(host) = place.host.as_deref() else { return ports(object, observed, place).is_ok() };
    let addressed = observed.declared.get(host).is_some_and(|declared| declared.address.is_some());
    let owner = ports::owner_of(object);
    let holds = |port: u16| ports::holds(&observed.reserved, &owner, &place.member, host, port);
    ports(object, observed, place).is_ok_and(|all| !addressed || all.iter().all(|(_, port, _)| holds(*port)))
}
