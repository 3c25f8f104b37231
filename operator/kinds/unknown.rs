//! Tells what stops decisions about an object with members because it is not known: a host that does not answer, and which of two
//! data volumes is the right one. Pure.

use std::collections::BTreeMap;

use super::containers::{DockerSeen, HOME};
use super::hosts::DeclaredHosts;
use super::places::Adopted;
use crate::api::placement::Network;

/// What stops decisions about an object: a host that matters and does not answer. Of a new object (`new` tells the ordinal of the
/// member that has a volume of this name) every host matters, because it may have data of an earlier object of this name; and
/// data that is on two hosts, or on another host than the only one that may have members on a Docker network, stops it too: no choice
/// between them is safe. `stays`: this host has a member that stays.
pub fn unknown(
    hosts: &BTreeMap<String, DockerSeen>,
    declared: &DeclaredHosts,
    new: Option<(Adopted, Network)>,
    stays: impl Fn(&str) -> bool,
) -> Option<(&'static str, String)> {
    let lost = |host: &str| declared.get(host).is_some_and(|host| host.lost);
    let mut matter = hosts.iter().filter(|(host, _)| if new.is_some() { !lost(host) } else { stays(host) });
    if let Some((host, why)) = matter.find_map(|(host, seen)| Some((host, seen.silence()?))) {
        let ask = match new {
            Some(_) if hosts.len() > 1 => format!(
                "; it may have data of an earlier object of this name, so nothing is made. If it never comes back, run: evenkeel host lost {host}"
            ),
            _ => String::new(),
        };
        return Some(("HostUnreachable", format!("{why}{ask}")));
    }
    let (adopted, network) = new?;
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (host, seen) in hosts {
        for volume in seen.volumes.known().into_iter().flatten().filter(|volume| adopted(volume).is_some()) {
            found.entry(volume).or_default().push(host);
        }
    }
    found.into_iter().find_map(|(volume, on)| {
        let (places, advice) = (on.join(" and "), "keep the one that has the newest data, and remove the others on their hosts with: docker volume rm");
        match (on.as_slice(), network) {
            ([_, _, ..], _) => {
                Some(("DataOnTwoHosts", format!("volume {volume} is on hosts {places}, so nothing is made: {advice} {volume}")))
            }
            ([host], Network::Bridge) if *host != HOME => Some((
                "DataOnAnotherHost",
                format!(
                    "volume {volume} is on host {host}, but the Docker network of this object is on host {HOME}, so nothing is made: set spec.placement.network to Host, or remove the volume"
                ),
            )),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::fact::Fact;
    use crate::kinds::hosts::Declared;

    fn ordinal(volume: &str) -> Option<u32> {
        volume.strip_prefix("n.db-")?.parse().ok()
    }

    /// A host with these volumes; `None`: it does not answer.
    fn host(volumes: Option<&[&str]>) -> DockerSeen {
        let Some(volumes) = volumes else { return DockerSeen::unknown("host b does not answer") };
        let volumes = Fact::Known(volumes.iter().map(|one| one.to_string()).collect());
        DockerSeen { volumes, ..DockerSeen::nothing() }
    }

    fn told(hosts: &[(&str, Option<&[&str]>)], lost: &[&str], new: Option<Network>) -> String {
        let seen = hosts.iter().map(|(name, volumes)| (name.to_string(), host(*volumes))).collect();
        let declare = |name: &&str| (name.to_string(), Declared { lost: true, ..Declared::default() });
        let declared = lost.iter().map(declare).collect();
        let new = new.map(|network| (&ordinal as Adopted, network));
        let found = unknown(&seen, &declared, new, |host| host == "a");
        found.map(|(reason, why)| format!("{reason}: {why}")).unwrap_or_default()
    }

    /// Regression 302: a new object that found a volume of one name on two hosts took the one of the first host by name, which
    /// may be the older one: a member that was replaced, or lost with its host, leaves its volume behind.
    #[test]
    fn data_on_two_hosts_stops_a_new_object() {
        let two: &[(&str, Option<&[&str]>)] = &[("a", Some(&["n.db-1"])), ("b", Some(&["n.db-1", "n.db-2"]))];
        assert_eq!(
            told(two, &[], Some(Network::Host)),
            "DataOnTwoHosts: volume n.db-1 is on hosts a and b, so nothing is made: keep the one that has the newest data, and remove the others on their hosts with: docker volume rm n.db-1"
        );
        let one: &[(&str, Option<&[&str]>)] = &[("a", Some(&["n.db-1"])), ("b", Some(&["n.db-2", "other"]))];
        assert_eq!(told(one, &[], Some(Network::Host)), "");
        // Later the record says where the members are.
        assert_eq!(told(two, &[], None), "");
    }

    #[test]
    fn data_on_another_host_stops_a_new_object_on_a_docker_network() {
        let seen: &[(&str, Option<&[&str]>)] = &[("b", Some(&["n.db-1"])), (HOME, Some(&["n.db-2"]))];
        let told = told(seen, &[], Some(Network::Bridge));
        assert!(told.starts_with("DataOnAnotherHost: volume n.db-1 is on host b, but"), "{told}");
    }

    #[test]
    fn a_silent_host_stops_a_new_object_until_a_person_says_that_it_is_lost_and_a_later_one_only_if_a_member_stays_there()
     {
        let silent: &[(&str, Option<&[&str]>)] = &[("a", Some(&[])), ("b", None)];
        let told = |lost: &[&str], new| told(silent, lost, new);
        assert!(told(&[], Some(Network::Host)).ends_with("If it never comes back, run: evenkeel host lost b"));
        assert_eq!(told(&["b"], Some(Network::Host)), "");
        assert_eq!(told(&[], None), "");
    }
}
