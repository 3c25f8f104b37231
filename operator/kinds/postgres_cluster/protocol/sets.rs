//! Which voters are absent, which voters and w fit the current streams, and which members remain. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::super::view::ClusterView;
use super::DISMISS_AFTER;
use crate::api::postgres_cluster::{Decisions, MemberPlace, Quorum, Voter};

/// Voters that do not stream, with the time since when.
pub(super) fn absent(view: &ClusterView, streaming: &[Voter]) -> BTreeMap<String, Timestamp> {
    let since = |voter: &Voter| view.before.absent.get(&voter.incarnation).copied().unwrap_or(view.now);
    let absent = view.before.election.voters.iter().filter(|voter| !streaming.contains(voter));
    absent.map(|voter| (voter.incarnation.clone(), since(voter))).collect()
}

/// The voters and the w that fit the current streams.
pub(super) fn desired(view: &ClusterView, seen: &Decisions, streaming: &[Voter]) -> (Vec<Voter>, u32) {
    let Decisions { election: Quorum { voters: known, .. }, absent, .. } = seen;
    let replaced = |voter: &Voter| view.member(&voter.member).is_some_and(|member| member.replaced(voter));
    let leaves =
        |voter: &Voter| view.member(&voter.member).is_none_or(|member| member.leaving || member.replaced(voter));
    let patient = |voter: &Voter| absent.get(&voter.incarnation).is_some_and(|since| view.age(*since) < DISMISS_AFTER);
    let mut voters: Vec<Voter> = streaming.iter().filter(|voter| !leaves(voter)).cloned().collect();
    voters.extend(known.iter().filter(|voter| patient(voter) && !leaves(voter)).cloned());
    let w = view.w();
    if view.preferred() {
        let able = w.min(voters.len() as u32);
        return (voters, able);
    }
    if voters.len() < w as usize {
        // Commits wait anyway; without this voter the next election would only be weaker.
        let others: Vec<_> =
            known.iter().filter(|voter| !voters.contains(voter) && !replaced(voter)).cloned().collect();
        voters.extend(others);
    }
    (voters, w)
}

/// The members, without those that are leaving and that no set names.
pub(super) fn remaining(view: &ClusterView, decided: &Decisions) -> Vec<MemberPlace> {
    let Decisions { election, commit, members, .. } = decided;
    let named = |name: &str| election.voters.iter().chain(&commit.voters).any(|voter| voter.member == name);
    let leaving = |name: &str| view.member(name).is_some_and(|member| member.leaving);
    members.iter().filter(|place| named(&place.name) || !leaving(&place.name)).cloned().collect()
}
