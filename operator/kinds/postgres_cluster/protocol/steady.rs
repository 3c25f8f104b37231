//! Stage `Steady`: the leader serves; evidence of a failure ends its term, and the sets follow the streams. Pure.

use std::time::Duration;

use super::super::decided::{Blocker, Decided, Told};
use super::super::quorum::{Sets, commit_rule, promises_needed, reconfigure};
use super::super::view::{ClusterView, Health, Lost, Member};
use super::{Switchover, elect, sets};
use crate::api::postgres_cluster::{Decisions, Quorum, Voter};
use crate::engine::ContainerState;
use crate::kinds::links::SUSPECT_MS;
use crate::supervisor::wire::{Leading, Report};

/// A primary whose container Docker shows as paused is given up after this many milliseconds without a report: no process
/// of it runs, so its standbys' silence proves no more.
const PAUSED_MS: u64 = 1_000;
/// If commits wait for this long although the voters can be reached, the primary is cut off from them.
const QUORUM_LOST: Duration = Duration::from_secs(30);

/// Keeps the leader, or begins an election.
pub(super) fn steady(view: &ClusterView) -> Decided {
    let before = view.before;
    let Some((member, health)) = view.leader() else {
        return elect(view, "the primary is no member any more", Switchover::Keep);
    };
    let name = &member.place.name;
    if let (Health::Live(_), Some(lost)) = (&health, stranded(view, member)) {
        return elect(view, format!("{name}: {}, and Docker refuses to connect it", lost.why), Switchover::Drop);
    }
    match health {
        Health::Dead(cause) => elect(view, format!("{name}: {cause}"), Switchover::Drop),
        Health::Silent => silent(view, member),
        Health::Live(report) => match report.leading.as_ref().filter(|leading| leading.term == before.term) {
            Some(_) if view.hung_but_replaceable(report) => {
                let failing = report.proof.as_ref().and_then(|proof| proof.failing.as_deref()).unwrap_or_default();
                elect(view, format!("{name} hangs: {failing}"), Switchover::Drop)
            }
            Some(leading) => serving(view, report, leading),
            None => Decided::blocked(before, "PrimaryNotReady", format!("{name} is not serving yet")),
        },
    }
}

/// The primary's container is off its network and Docker refuses to connect it again, so no client and no standby reaches
/// it: an election begins if the others can take writes without it.
fn stranded<'v>(view: &ClusterView, member: &'v Member) -> Option<&'v Lost> {
    let lost = member.lost.as_ref().filter(|lost| lost.refused)?;
    let others = view.able().into_iter().filter(|voter| connected(view, voter)).count();
    (view.before.election.w > 0 && enough(&view.before.election, others)).then_some(lost)
}

/// Whether the voter's container is on its network, as far as known.
fn connected(view: &ClusterView, voter: &Voter) -> bool {
    view.member(&voter.member).is_some_and(|member| member.lost.is_none())
}

/// Whether this many voters can elect one of them, and then take writes without the old leader: one leads, w follow.
fn enough(election: &Quorum, voters: usize) -> bool {
    !election.voters.is_empty() && voters >= promises_needed(election) && voters > election.w as usize
}

/// There is no proof of death, only silence: an election begins only if the standbys receive nothing either, and if it
/// can succeed.
fn silent(view: &ClusterView, member: &Member) -> Decided {
    let before = view.before;
    let name = &member.place.name;
    let unheard_ms = member.link.map_or(u64::MAX, |link| link.silent_ms).min(view.age(before.since).as_millis() as u64);
    // An operator that has just begun to lead, and finds the primary's host silent, need not wait again for what the standbys
    // know already.
    let found_silent = member.link.is_none() && !member.container_known;
    let silent_ms = unheard_ms.max(if found_silent { view.voters_quiet_ms() } else { 0 });
    let paused = member.container.is_some_and(|container| container.state == ContainerState::Paused);
    let (able, needed) = (view.able().len(), promises_needed(&before.election));
    if lost_by_all(view, member) && able >= needed {
        let cause = format!("{name}: its supervisor and its standbys lost it at the same moment");
        return elect(view, cause, Switchover::Drop);
    }
    let how = if paused { format!("{name} is paused") } else { format!("no report from {name}") };
    if silent_ms < if paused { PAUSED_MS } else { SUSPECT_MS } {
        return Decided::blocked(before, "PrimaryUnreachable", how);
    }
    if !paused && view.voters_progress() {
        let message = format!("{how}, but its standbys still receive WAL from it: nothing is done");
        return Decided::blocked(before, "PrimaryUnreachableFromOperator", message);
    }
    if before.election.voters.is_empty() || able < needed {
        let message = format!("{how}, and only {able} of the {needed} standbys that an election needs can be reached");
        return Decided::blocked(before, "QuorumUnavailable", message);
    }
    let cause = match paused {
        true => how,
        false => format!("{how} for {} s, and its standbys receive nothing from it", SUSPECT_MS / 1000),
    };
    elect(view, cause, Switchover::Drop)
}

/// The link to its supervisor was closed, and so were the streams of all standbys that could vote: a dying process does
/// that, a cut network does not. With w = 0 this is not enough, because there only the proof of its end is safe.
fn lost_by_all(view: &ClusterView, member: &Member) -> bool {
    let closed = member.link.is_some_and(|link| !link.connected);
    let able = view.able();
    view.before.election.w > 0 && closed && !able.is_empty() && able.into_iter().all(|voter| view.cut_off(voter))
}

/// The leader answers: its streams are counted, and the sets change by one safe step (I4).
fn serving(view: &ClusterView, report: &Report, leading: &Leading) -> Decided {
    let streaming = view.streaming(leading);
    let told = if report.gate_open { vec![Told::GateOpened] } else { Vec::new() };
    // A switchover ends when the gate is open.
    let switchover = if report.gate_open { Switchover::Drop } else { Switchover::Keep };
    let seen = Decisions {
        history: leading.history.clone(),
        absent: sets::absent(view, &streaming),
        switchover: view.before.switchover.clone().filter(|_| switchover == Switchover::Keep),
        ..view.before.clone()
    };
    let Decisions { commit, election, .. } = &seen;
    let in_commit = streaming.iter().filter(|voter| commit.voters.contains(voter)).count();
    let blocked = in_commit < commit.w as usize;
    let cut = if blocked { long_cut_off(view, &seen) } else { 0 };
    if enough(&seen.election, cut) {
        let cause = "commits wait, and the standbys can be reached but do not stream from the primary";
        let elected = elect(view, cause, switchover);
        let decisions = Decisions { history: seen.history, absent: seen.absent, ..elected.decisions };
        return Decided { decisions, told: [told, elected.told].concat(), blocker: None };
    }
    let mut message = format!("commits need {} standbys and {in_commit} stream: writes wait", commit.w);
    if cut > 0 {
        let needed = promises_needed(&seen.election).max(seen.election.w as usize + 1);
        message +=
            &format!("; no standby is promoted: {cut} could take over, and without the primary {needed} are needed");
    }
    let blocker = blocked.then(|| Blocker::new("CommitsWait", message));
    let confirmed = leading.barrier && leading.commit.as_ref() == Some(&commit_rule(commit));
    let (voters, w) = sets::desired(view, &seen, &streaming);
    let now = Sets { election: election.clone(), commit: commit.clone() };
    let Sets { election, commit } = reconfigure(&now, &voters, w, confirmed);
    let decided = Decisions { election, commit, ..seen };
    let members = if confirmed { sets::remaining(view, &decided) } else { decided.members.clone() };
    Decided { decisions: Decisions { members, ..decided }, told, blocker }
}

/// The number of voters that can be reached, are on their network, and have received nothing for `QUORUM_LOST`.
fn long_cut_off(view: &ClusterView, seen: &Decisions) -> usize {
    let long = |voter: &Voter| seen.absent.get(&voter.incarnation).is_some_and(|since| view.age(*since) >= QUORUM_LOST);
    let cut = |voter: &&Voter| long(voter) && view.cut_off(voter) && connected(view, voter);
    view.able().into_iter().filter(cut).count()
}
