//! Several hosts: what they declare, their ports, and what happens to a whole one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Box, Disk, World, is_sentinel};
use crate::api::placement::Network;
use crate::engine::ContainerState;
use crate::kinds::containers::{DockerSeen, HOME};
use crate::kinds::fact::Fact;
use crate::kinds::hosts::Declared;
use crate::kinds::loss::Silent;
use crate::kinds::ports::{PortStep, Reservation};
use crate::supervisor::redis::wire::Address;

impl World {
    /// A world of hosts `h1`, `h2` and so on, with an address each.
    pub fn over(spec: &str, hosts: u8) -> Self {
        let mut world = Self::new(spec);
        for number in 1..=hosts {
            let address = Some([10, 99, 0, 10 + number].into());
            let name = format!("h{number}");
            let declared = Declared { address, open: true, domain: name.clone(), ..Declared::default() };
            world.declared.insert(name, declared);
        }
        world
    }

    /// The hosts as the operator sees them, of a host with these containers and volumes.
    pub fn seen(&self, seen: impl Fn(&dyn Fn(&str) -> bool) -> DockerSeen) -> BTreeMap<String, DockerSeen> {
        if self.declared.is_empty() {
            return BTreeMap::from([(HOME.to_owned(), seen(&|_| true))]);
        }
        let one = |host: &String| {
            if self.off.contains_key(host) {
                return (host.clone(), DockerSeen::unknown(&format!("host {host} does not answer")));
            }
            let mut seen = seen(&|name| self.on(name) == *host);
            // Only one host has the object's Docker network.
            if host != HOME {
                seen.networks = Fact::Known(BTreeMap::new());
            }
            (host.clone(), seen)
        };
        self.declared.keys().map(one).collect()
    }

    /// The host of a container.
    pub fn on(&self, name: &str) -> &str {
        self.places.get(name).map_or(HOME, String::as_str)
    }

    /// The address of a container on the network of its host.
    pub fn listens(one: &Box) -> Option<Address> {
        let at = one.spec.entrypoint.iter().skip_while(|word| *word != "--listen").nth(1)?;
        let (ip, port) = at.split_once(':')?;
        Some(Address { ip: ip.parse().ok()?, port: port.parse().ok()? })
    }

    /// A step about a port.
    pub fn reserve(&mut self, step: &PortStep) {
        match step {
            PortStep::Reserve(spec) => {
                let key = (spec.host.clone(), spec.port);
                assert!(!self.reserved.contains_key(&key), "{key:?} is reserved twice");
                self.reserved.insert(key, Reservation { spec: (**spec).clone(), released: false });
            }
            PortStep::Release { host, port, .. } => {
                self.reserved.entry((host.clone(), *port)).and_modify(|one| one.released = true);
            }
            PortStep::Foreign { host, port } => {
                self.reserved.entry((host.clone(), *port)).and_modify(|one| one.spec.foreign = true);
            }
        }
    }

    /// A host loses its power.
    pub fn power_off(&mut self, host: &str) {
        let names: Vec<String> = self.boxes.keys().filter(|name| self.on(name) == host).cloned().collect();
        for name in names {
            self.end_server(&name);
            if let Some(one) = self.boxes.get_mut(&name) {
                one.state = ContainerState::Exited;
            }
        }
        self.off.insert(host.to_owned(), self.ms);
        self.tell(format!("--- host {host} loses its power"));
    }

    /// How long each silent host has been silent.
    pub fn silent(&self) -> Silent {
        let waited = |(host, since): (&String, &u64)| (host.clone(), Duration::from_millis(self.ms - since));
        self.off.iter().map(waited).collect()
    }

    /// It boots, and Docker starts its containers.
    pub fn power_on(&mut self, host: &str) {
        self.off.remove(host);
        let names: Vec<String> = self.boxes.keys().filter(|name| self.on(name) == host).cloned().collect();
        names.iter().for_each(|name| self.start_container(name));
        self.tell(format!("--- host {host} has power again"));
    }

    /// A change of what a host declares.
    pub fn declare(&mut self, host: &str, change: impl FnOnce(&mut Declared)) {
        change(self.declared.entry(host.to_owned()).or_default());
        if let Some(host) = self.declared.get_mut(host) {
            host.open = !(host.drains || host.maintained || host.lost);
        }
    }

    /// Who is where, by the decisions: data members, then Sentinels.
    pub fn placed(&self) -> String {
        let decisions = self.decisions();
        let of = |places: &[crate::api::redis_sentinel::RedisPlace]| {
            let one = |place: &crate::api::redis_sentinel::RedisPlace| {
                assert_eq!(place.network, Network::Host, "{place:?}");
                format!("{} on {}", place.name.trim_start_matches("cache-"), place.host)
            };
            places.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        format!("{}; {}\nmaster {}\n", of(&decisions.members), of(&decisions.sentinels), self.master())
    }

    /// The volumes of each kind on the hosts.
    pub fn volumes(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut all = BTreeMap::<String, BTreeSet<String>>::new();
        for name in self.disks.iter().filter(|(name, _)| !is_sentinel(name)).map(|(name, _): (&String, &Disk)| name) {
            all.entry(self.on(name).to_owned()).or_default().insert(Self::member(name));
        }
        all
    }
}
