//! Chooses the host of one more member or pod, for all kinds. Pure. The choice is recorded by the caller and never made again.

use std::collections::BTreeMap;

use super::hosts::Declared;
use crate::api::hash::short_hash;

/// A host, as far as the choice depends on it. Hosts that cannot be chosen count too: they share failure domains.
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it declares.
    pub host: &'a Declared,
    /// Its engine answers.
    pub answers: bool,
    /// How many members of the same object it has.
    pub own: usize,
    /// It is known not to reach the host of another member with data, or not to be reached from there.
    pub apart: bool,
}

/// What the new member needs.
#[derive(Default)]
pub struct Wants<'a> {
    /// Labels that the host must have.
    pub selector: Option<&'a BTreeMap<String, String>>,
    /// The host must have an address that other hosts reach.
    pub address: bool,
    /// The host must have no member of the object yet.
    pub alone: bool,
}

/// Whether the member may be placed on this host.
pub fn fits(candidate: &Candidate, wants: &Wants) -> bool {
    let labels = &candidate.host.labels;
    let selected = wants.selector.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    candidate.host.open
        && candidate.answers
        && !candidate.apart
        && selected
        && (!wants.address || candidate.host.address.is_some())
        && (!wants.alone || candidate.own == 0)
}

/// The host for one more member: of those that fit, in the failure domain with the fewest members, and there the host with
/// the fewest. `salt` decides between equals, so that the single members of many objects do not all meet on one host.
pub fn choose<'a>(candidates: &[Candidate<'a>], wants: &Wants, salt: &str) -> Option<&'a str> {
    let in_domain =
        |domain: &str| -> usize { candidates.iter().filter(|one| one.host.domain == domain).map(|one| one.own).sum() };
    let load =
        |one: &&Candidate| (in_domain(&one.host.domain), one.own, short_hash(format!("{salt}/{}", one.name), 16));
    let fit = candidates.iter().filter(|one| fits(one, wants));
    fit.min_by_key(load).map(|one| one.name)
}

/// Why no host fits, as text for people.
pub fn nowhere(candidates: &[Candidate], wants: &Wants) -> String {
    let count = |which: &dyn Fn(&Candidate) -> bool| candidates.iter().filter(|one| which(one)).count();
    let closed = count(&|one| !one.host.open);
    let silent = count(&|one| one.host.open && !one.answers);
    let bare = count(&|one| one.host.address.is_none());
    let mut text =
        format!("no host will take it: {} declared, {closed} closed, {silent} not answering", candidates.len());
    if wants.address && bare > 0 {
        text += &format!(", {bare} without spec.address");
    }
    let apart = count(&|one| one.apart);
    if apart > 0 {
        text += &format!(", {apart} cut off from the hosts of other members");
    }
    if wants.alone {
        text += &format!(", {} with a member already", count(&|one| one.own > 0));
    }
    let wanted: Vec<_> = wants.selector.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    if wanted.is_empty() { text } else { format!("{text}, nodeSelector {}", wanted.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(domain: &str) -> Declared {
        Declared { domain: domain.into(), open: true, address: Some([10, 0, 0, 1].into()), ..Default::default() }
    }

    fn candidate<'a>(name: &'a str, host: &'a Declared, own: usize) -> Candidate<'a> {
        Candidate { name, host, answers: true, own, apart: false }
    }

    #[test]
    fn a_member_goes_to_the_domain_with_the_fewest_and_there_to_the_emptiest_host() {
        let (rack1, rack2) = (host("rack1"), host("rack2"));
        let hosts = [
            candidate("a", &rack1, 1),
            candidate("b", &rack1, 0),
            candidate("c", &rack2, 1),
            candidate("d", &rack2, 1),
        ];
        assert_eq!(choose(&hosts, &Wants::default(), "x"), Some("b"));
        let hosts = [candidate("a", &rack1, 1), candidate("c", &rack2, 0)];
        assert_eq!(choose(&hosts, &Wants::default(), "x"), Some("c"));
    }

    /// Regression 350: equals were decided by name, so that a hundred Deployments of one replica all ran on the first host of
    /// the alphabet. A hash of the object and the host decides now.
    #[test]
    fn single_members_of_many_objects_spread_over_equal_hosts() {
        let (a, b, c) = (host("a"), host("b"), host("c"));
        let hosts = [candidate("a", &a, 0), candidate("b", &b, 0), candidate("c", &c, 0)];
        let mut on = BTreeMap::<&str, usize>::new();
        for number in 0..300 {
            *on.entry(choose(&hosts, &Wants::default(), &format!("uid-{number}")).unwrap_or_default()).or_default() +=
                1;
        }
        assert!(on.values().all(|count| (70..130).contains(count)), "{on:?}");
    }

    #[test]
    fn a_host_that_does_not_reach_those_of_the_other_members_is_not_chosen() {
        let (a, b) = (host("a"), host("b"));
        let hosts = [Candidate { apart: true, ..candidate("a", &a, 0) }, candidate("b", &b, 1)];
        assert_eq!(choose(&hosts, &Wants::default(), "x"), Some("b"));
        let wants = Wants { alone: true, ..Wants::default() };
        assert_eq!(choose(&hosts, &wants, "x"), None);
        expect_test::expect!["no host will take it: 2 declared, 0 closed, 0 not answering, 1 cut off from the hosts of other members, 1 with a member already"]
            .assert_eq(&nowhere(&hosts, &wants));
    }

    #[test]
    fn a_host_that_is_closed_silent_or_without_what_is_wanted_is_not_chosen_and_the_reason_is_told() {
        let (open, labels) = (host("a"), BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]));
        let closed = Declared { open: false, ..host("b") };
        let bare = Declared { address: None, ..host("c") };
        let hosts = [
            Candidate { answers: false, ..candidate("a", &open, 0) },
            candidate("b", &closed, 0),
            candidate("c", &bare, 1),
        ];
        let wants = Wants { selector: Some(&labels), address: true, alone: true };
        assert_eq!(choose(&hosts, &wants, "x"), None);
        expect_test::expect!["no host will take it: 3 declared, 1 closed, 1 not answering, 1 without spec.address, 1 with a member already, nodeSelector disk=ssd"]
            .assert_eq(&nowhere(&hosts, &wants));
    }
}
