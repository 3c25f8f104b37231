//! Stage `Electing`: collects promises of the term until it is known which voter holds every acknowledged commit (I2).
//! Pure.

use std::cmp::Reverse;
use std::time::Duration;

use super::super::decided::{Decided, Told};
use super::super::loss;
use super::super::quorum::promises_needed;
use super::super::view::{ClusterView, LastLeader};
use super::{STEP_DOWN, enter};
use crate::api::postgres_cluster::{Decisions, Quorum, Stage, Voter};
use crate::supervisor::wire::{CONFIRMATION_MS, Promise};

/// Longest wait for voters that could promise but have not yet, if the choice could be better with them.
const STRAGGLERS: Duration = Duration::from_secs(2);
/// A leader that no voter confirms has stopped itself after this time (1.5 times the life of a confirmation).
const LEASE_OVER: Duration = Duration::from_millis(CONFIRMATION_MS * 3 / 2);

/// Chooses a leader as soon as the choice is known to be safe.
pub(super) fn electing(view: &ClusterView) -> Decided {
    let before = view.before;
    let age = view.age(before.since);
    let last = LastLeader::of(view, before);
    if before.switchover.is_some() && last.steps_down && age < STEP_DOWN {
        return Decided::blocked(before, "SwitchingOver", "the primary is stepping down");
    }
    let promises = promises(view);
    let reach = |promise: &Promise| (promise.timeline, promise.lsn);
    let furthest = promises.iter().map(|(_, promise)| reach(promise)).max();
    let able = view.able().len();
    let needed = promises_needed(&before.election);
    let stragglers = promises.len() < able && age < STRAGGLERS;
    let by_quorum = before.election.w > 0 && promises.len() >= needed;
    // The last leader's clean end is the end of all WAL: a voter that has all of it needs no other promise.
    let by_clean_end =
        last.clean_end.as_ref().is_some_and(|(_, end)| furthest.is_some_and(|furthest| furthest >= *end));
    // I12: w = 0 promised nothing about WAL that was not streamed. But the last leader must be down, by proof or by its
    // lease.
    let by_best = before.election.w == 0 && !promises.is_empty() && (last.fenced || age > LEASE_OVER) && !stragglers;
    let wanted = before.switchover.as_ref().map(|switchover| switchover.to.as_str()).filter(|to| !to.is_empty());
    let wanted_may_come = wanted.is_some_and(|to| promises.iter().all(|(voter, _)| voter.member != to)) && stragglers;
    let best = promises
        .iter()
        .filter(|(_, promise)| Some(reach(promise)) == furthest)
        .map(|(voter, _)| voter)
        .max_by_key(|voter| (Some(voter.member.as_str()) == wanted, Reverse(voter.member.clone())));
    let have: Vec<Voter> = promises.iter().map(|(voter, _)| voter.clone()).collect();
    if let Some(best) = best
        && (by_quorum || by_clean_end || by_best)
        && !wanted_may_come
    {
        let told = Told::Promised(have.iter().map(|voter| voter.member.clone()).collect());
        let returning = last.clean_end.map(|(leader, _)| leader);
        return establish(view, best.clone(), have.into_iter().chain(returning).collect(), told);
    }
    // Too few voters can promise now, but the last leader is back with everything that it acknowledged.
    if let Some(leader) = last.can_lead_again
        && able < needed
        && !stragglers
    {
        let told = Told::LeadsAgain(leader.member.clone());
        return establish(view, leader, have, told);
    }
    quorum_unavailable(view, have.len(), needed)
}

/// The voters of E that have promised this term.
fn promises(view: &ClusterView) -> Vec<(Voter, Promise)> {
    let promise = |voter: &Voter| {
        let member = view.member(&voter.member)?;
        let promise = member.live()?.promise?;
        (member.able(voter) && promise.term == view.before.term).then(|| (voter.clone(), promise))
    };
    view.before.election.voters.iter().filter_map(promise).collect()
}

fn quorum_unavailable(view: &ClusterView, have: usize, needed: usize) -> Decided {
    let (before, voters) = (view.before, &view.before.election.voters);
    let able = view.able();
    let missing: Vec<_> =
        voters.iter().filter(|voter| !able.contains(voter)).map(|voter| voter.member.as_str()).collect();
    if missing.is_empty() {
        return Decided::blocked(before, "Electing", format!("gathering promises: {have} of {needed} so far"));
    }
    let message = format!(
        "an election needs promises of {needed} of {}, has {have}, and can get none from {}: an acknowledged commit may be \
         only there, so no instance is promoted until {} back",
        voters.len(),
        missing.join(", "),
        if missing.len() == 1 { "it is" } else { "they are" }
    );
    Decided::blocked(before, "QuorumUnavailable", message)
}

/// Records the choice: the only place that names the leader of an election's term (I1). E and G stay unchanged until
/// the new leader has the next set in force.
fn establish(view: &ClusterView, leader: Voter, mut voters: Vec<Voter>, how: Told) -> Decided {
    let before = view.before;
    let w = view.w();
    voters.retain(|voter| *voter != leader && view.member(&voter.member).is_some_and(|member| !member.leaving));
    if voters.len() < w as usize {
        // Voters that did not promise are kept if commits would have too few voters without them.
        let others = before.election.voters.iter().filter(|voter| **voter != leader && !voters.contains(voter));
        voters.extend(others.cloned().collect::<Vec<_>>());
    }
    voters.sort();
    let w = if view.preferred() { w.min(voters.len() as u32) } else { w };
    let (unsettled, losses) = loss::suspect(view, &leader);
    let chose = Told::Chose(leader.member.clone());
    let (leader, next) = (Some(leader), Some(Quorum { voters, w }));
    let decisions = Decisions { leader, next, unsettled, ..enter(before, Stage::Establishing, view.now) };
    Decided { decisions, told: [vec![how], losses, vec![chose]].concat(), blocker: None }
}
