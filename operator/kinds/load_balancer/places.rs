//! Decides on which host each balancer is. Pure. A balancer stays where it is, because clients know the address of its host;
//! it leaves a host that is lost, and one that is drained once no pod that it routes to is there any more.

use std::collections::BTreeMap;

use super::names::{container, member};
use super::{LoadBalancer, Observed};
use crate::api::endpoints::EndpointState;
use crate::api::load_balancer::BalancerDecisions;
use crate::kinds::containers::HOME;
use crate::kinds::hosts::Declared;
use crate::kinds::loss::{self, Losses};
use crate::kinds::placement::{self, Candidate, Wants};

/// A balancer and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub member: String,
    /// The name of its container and of its volume.
    pub container: String,
    /// The host; `None` while there is none for it.
    pub host: Option<String>,
    /// How many balancers come before it on the same host.
    pub above: u32,
}

/// The host of each balancer by its name, and why those that are missing, or should leave, have no better place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decided {
    /// The hosts.
    pub places: BTreeMap<String, String>,
    /// Balancers that no host takes, and why.
    pub nowhere: BTreeMap<String, String>,
    /// Why a balancer does not leave a host that is drained.
    pub blocked: Option<String>,
}

/// The balancers, at the recorded hosts.
pub fn members(object: &LoadBalancer, places: &BTreeMap<String, String>) -> Vec<Place> {
    let mut on_host: BTreeMap<&String, u32> = BTreeMap::new();
    let mut of = |ordinal| {
        let member = member(object, ordinal);
        let host = places.get(&member);
        let above = host.map_or(0, |host| {
            let count = on_host.entry(host).or_default();
            *count += 1;
            *count - 1
        });
        Place { container: container(object, &member), member, host: host.cloned(), above }
    };
    (1..=object.spec.replicas).map(&mut of).collect()
}

/// Decides the places. `serves`: whether the balancer of this name balances.
pub fn decide(
    object: &LoadBalancer,
    observed: &Observed,
    before: &BalancerDecisions,
    serves: impl Fn(&str) -> bool,
) -> Decided {
    let losses = loss::judge(&observed.declared, &observed.silent);
    let names: Vec<String> = (1..=object.spec.replicas).map(|ordinal| member(object, ordinal)).collect();
    let choice = Choice { object, observed };
    let mut decided = Decided::default();
    for name in &names {
        let known = before.places.get(name).cloned().or_else(|| adopted(object, observed, before, name));
        if let Some(host) = known.filter(|host| observed.declared.contains_key(host)) {
            decided.places.insert(name.clone(), host);
        }
    }
    for name in &names {
        let host = decided.places.get(name).cloned();
        let others: BTreeMap<_, _> = decided.places.iter().filter(|(other, _)| *other != name).collect();
        match host {
            None => match choice.of(name, &others) {
                Ok(host) => drop(decided.places.insert(name.clone(), host)),
                Err(why) => drop(decided.nowhere.insert(name.clone(), why)),
            },
            Some(host) if losses.lost.contains(&host) => {
                if let Ok(better) = choice.of(name, &others) {
                    decided.places.insert(name.clone(), better);
                }
            }
            Some(host) if drained(observed, &host, &losses) => {
                let rest = names.iter().any(|other| other != name && serves(other));
                match choice.of(name, &others) {
                    Ok(better) => drop(decided.places.insert(name.clone(), better)),
                    // The others serve, and nobody else may take the place of this one.
                    Err(why) if rest => {
                        decided.places.remove(name);
                        decided.nowhere.insert(name.clone(), why);
                    }
                    Err(why) => decided.blocked = Some(format!("{name} stays on {host}, which is drained: {why}")),
                }
            }
            Some(_) => {}
        }
    }
    decided
}

/// The host of a balancer that has none in the record: where its container is. Versions without a record had one host.
fn adopted(object: &LoadBalancer, observed: &Observed, before: &BalancerDecisions, name: &str) -> Option<String> {
    let container = container(object, name);
    let there = observed.hosts.iter().find(|(_, seen)| seen.container(&container).is_some()).map(|(host, _)| host);
    let old = before.started && before.places.is_empty();
    there.filter(|_| before.places.is_empty()).cloned().or_else(|| old.then(|| HOME.to_owned()))
}

/// Whether the host is drained and everything else has left it.
fn drained(observed: &Observed, host: &str, losses: &Losses) -> bool {
    let drains = observed.declared.get(host).is_some_and(|one| one.drains || one.lost);
    let mut endpoints = observed.targets.values().filter_map(|one| one.endpoints()).flat_map(|set| &set.endpoints);
    let busy = endpoints.any(|one| one.host == host && one.state != EndpointState::Out);
    drains && !losses.lost.contains(host) && !busy
}

struct Choice<'a> {
    object: &'a LoadBalancer,
    observed: &'a Observed,
}

impl Choice<'_> {
    /// The host for a balancer beside these others; `Err`: why there is none. As long as there are as many hosts as balancers,
    /// each host has one; a closed host that will be back counts.
    fn of(&self, name: &str, others: &BTreeMap<&String, &String>) -> Result<String, String> {
        let (object, observed) = (self.object, self.observed);
        let selector = &object.spec.placement.node_selector;
        let selected = |host: &Declared| selector.iter().all(|(key, value)| host.labels.get(key) == Some(value));
        let counts = |host: &&Declared| selected(host) && (host.open || host.drains || host.maintained);
        let hosts = observed.declared.values().filter(counts).count().max(1);
        let most = (object.spec.replicas as usize).div_ceil(hosts);
        let wants = Wants { selector: Some(selector), address: object.spec.binds_to_host(), alone: most == 1 };
        let candidate = |(host, declared)| Candidate {
            name: String::as_str(host),
            host: declared,
            answers: observed.hosts.get(host).is_some_and(|seen| seen.containers.known().is_some()),
            own: others.values().filter(|other| **other == host).count(),
            apart: false,
        };
        let all: Vec<_> = observed.declared.iter().map(candidate).filter(|one| most == 1 || one.own < most).collect();
        let salt = format!("{}/{name}", object.metadata.uid.as_deref().unwrap_or_default());
        placement::choose(&all, &wants, &salt).map(str::to_owned).ok_or_else(|| placement::nowhere(&all, &wants))
    }
}
