//! The places of members of Redis, and what both kinds of Redis tell about them. Pure.

use std::net::Ipv4Addr;

use crate::api::placement::{Network, ToleratedLosses};
use crate::api::redis_status::RedisPlace;
use crate::kinds::places::Place;

/// The condition about a member without a place, or in a bad one.
pub const PLACEMENT: &str = "PlacementProblem";
/// The condition about connections between hosts without TLS.
pub const UNENCRYPTED: &str = "Unencrypted";

impl Place for RedisPlace {
    fn new(name: String, ordinal: u32, host: String) -> Self {
        Self { name, ordinal, host, network: Network::Host, address: None, port: 0, bus_port: None }
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
        vec![Some(self.port).filter(|port| *port > 0), self.bus_port]
    }

    fn put(&mut self, address: Option<Ipv4Addr>, ports: &[Option<u16>]) {
        let port = |index: usize| ports.get(index).copied().flatten();
        (self.network, self.address) = (Network::Host, address);
        (self.port, self.bus_port) = (port(0).unwrap_or(0), port(1));
    }
}

impl RedisPlace {
    /// The argument that tells a supervisor where its server listens; `None` on a Docker network.
    pub fn listens(&self) -> Option<String> {
        let address = self.address.filter(|_| self.network == Network::Host)?;
        Some(match self.bus_port {
            Some(bus) => format!("{address}:{}@{bus}", self.port),
            None => format!("{address}:{}", self.port),
        })
    }
}

/// What is tolerated if each of these groups may lose so many of the members on these hosts.
pub fn tolerated(groups: &[(u32, Vec<&str>)]) -> ToleratedLosses {
    let of = groups.iter().map(|(count, hosts)| ToleratedLosses::of(*count, hosts.iter().copied()));
    let both = |a: ToleratedLosses, b: ToleratedLosses| ToleratedLosses {
        members: a.members.min(b.members),
        hosts: a.hosts.min(b.hosts),
    };
    of.reduce(both).unwrap_or_default()
}

/// The host that has more of a group than may be lost, although one may; and how many it has.
pub fn fateful<'a>(count: u32, hosts: &[&'a str]) -> Option<(&'a str, usize)> {
    let on = |host: &str| hosts.iter().filter(|one| **one == host).count();
    let worst = hosts.iter().copied().max_by_key(|host| on(host)).filter(|_| count > 0)?;
    Some((worst, on(worst))).filter(|(_, number)| *number > count as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weakest_group_decides_what_is_tolerated_and_a_host_with_too_many_is_named() {
        let told = |groups: &[(u32, Vec<&'static str>)]| {
            let ToleratedLosses { members, hosts } = tolerated(groups);
            (members, hosts)
        };
        assert_eq!(told(&[(1, vec!["a", "b", "c"]), (1, vec!["a", "b", "c"])]), (1, 1));
        assert_eq!(told(&[(2, vec!["a", "b", "c"]), (1, vec!["a", "a", "b"])]), (1, 0));
        assert_eq!(told(&[]), (0, 0));
        assert_eq!(fateful(1, &["a", "a", "b"]), Some(("a", 2)));
        assert_eq!(fateful(1, &["a", "b", "c"]), None);
        assert_eq!(fateful(0, &["a", "a"]), None);
    }
}
