//! Stage `Establishing`: the leader is promoted with its gate shut, until its new quorum has acknowledged its term.
//! Pure.

use std::time::Duration;

use super::super::decided::{Blocker, Decided, Told};
use super::super::quorum::{commit_rule, promises_needed};
use super::super::view::{ClusterView, Health, Member};
use super::{DISMISS_AFTER, Switchover, elect, enter};
use crate::api::postgres_cluster::{Decisions, Quorum, Stage, Voter};
use crate::kinds::links::SUSPECT_MS;
use crate::supervisor::wire::{Leading, Report};

/// Waits for the leader, adds the standbys that stream from it to its set, and lets it serve or gives it up.
pub(super) fn establishing(view: &ClusterView) -> Decided {
    let before = view.before;
    let Some((member, health)) = view.leader() else {
        return elect(view, "the new primary is no member any more", Switchover::Keep);
    };
    let name = &member.place.name;
    match health {
        Health::Live(report) => promoting(view, name, report),
        Health::Dead(_) if before.system_identifier.is_none() => {
            // The very first primary, and no client was ever let in: its data, if any, is looked at again in `New`.
            let decisions = Decisions { leader: None, next: None, ..enter(before, Stage::New, view.now) };
            Decided { decisions, ..Decided::unchanged(before) }
        }
        Health::Dead(cause) => elect(view, format!("{name}: {cause} before it was established"), Switchover::Drop),
        Health::Silent if given_up(view, member) => {
            elect(view, format!("{name}: no report before it was established"), Switchover::Drop)
        }
        Health::Silent => Decided::blocked(before, "PrimaryUnreachable", format!("no report from {name}")),
    }
}

/// Whether it has sent nothing for `SUSPECT_MS`, and an election can succeed.
fn given_up(view: &ClusterView, member: &Member) -> bool {
    member.link.is_none_or(|link| link.silent_ms >= SUSPECT_MS)
        && view.age(view.before.since) >= Duration::from_millis(SUSPECT_MS)
        && view.able().len() >= promises_needed(&view.before.election)
}

fn promoting(view: &ClusterView, name: &str, report: &Report) -> Decided {
    let before = identified(view.before, report);
    let next = before.next.clone().unwrap_or_default();
    let Some(leading) = report.leading.as_ref().filter(|leading| leading.term == before.term) else {
        return Decided { blocker: Some(not_leading(name, report)), ..Decided::unchanged(&before) };
    };
    if leading.barrier && leading.commit.as_ref() == Some(&commit_rule(&next)) {
        return established(view, name, &before, next, leading);
    }
    let waiting = next.w.saturating_sub(view.streaming(leading).len() as u32);
    let blocker = match waiting {
        0 => Blocker::new("Establishing", format!("{name} waits for its standbys to acknowledge the new term")),
        _ => Blocker::new(
            "WaitingForStandbys",
            format!("{name} is up; commits need {} standbys, and {waiting} more must stream first", next.w),
        ),
    };
    let decisions = Decisions { next: Some(widened(view, next, leading)), ..before };
    Decided { decisions, told: Vec::new(), blocker: Some(blocker) }
}

/// The first leader gets its incarnation, and the cluster its system identifier, once the data directory is made. An adopted
/// cluster whose volumes did not tell the identifier gets it as soon as its primary runs.
fn identified(before: &Decisions, report: &Report) -> Decisions {
    let nameless = before.leader.as_ref().filter(|leader| leader.incarnation.is_empty());
    match (nameless, &report.incarnation, &report.system_identifier) {
        (Some(leader), Some(incarnation), Some(system)) => Decisions {
            leader: Some(Voter { incarnation: incarnation.clone(), ..leader.clone() }),
            system_identifier: Some(system.clone()),
            ..before.clone()
        },
        (None, _, Some(system)) if before.system_identifier.is_none() => {
            Decisions { system_identifier: Some(system.clone()), ..before.clone() }
        }
        _ => before.clone(),
    }
}

fn not_leading(name: &str, report: &Report) -> Blocker {
    let failed = report.job.as_ref().and_then(|job| job.error.clone());
    match failed.or_else(|| report.problem.clone()) {
        Some(problem) => Blocker::new("PrimaryNotStarting", format!("{name}: {problem}")),
        None => Blocker::new("Promoting", format!("{name} is becoming primary")),
    }
}

/// The next set is in force and its barrier was passed: it becomes E and G (I4), and the gate may open.
fn established(view: &ClusterView, name: &str, before: &Decisions, next: Quorum, leading: &Leading) -> Decided {
    let told = Told::Promoted(name.to_owned(), next.clone());
    let decisions = Decisions {
        served: before.leader.clone(),
        commit: Quorum { voters: if next.w == 0 { Vec::new() } else { next.voters.clone() }, w: next.w },
        election: next,
        next: None,
        history: leading.history.clone(),
        absent: Default::default(),
        ..enter(before, Stage::Steady, view.now)
    };
    Decided { decisions, told: vec![told], blocker: None }
}

/// No commit was acknowledged under `next` yet, so it may still change, also to a spec that changed since.
fn widened(view: &ClusterView, mut next: Quorum, leading: &Leading) -> Quorum {
    let streaming = view.streaming(leading);
    next.w = next.w.min(view.w());
    if view.preferred() && view.age(view.before.since) > DISMISS_AFTER {
        next.w = next.w.min(streaming.len() as u32);
    }
    for voter in streaming {
        if !next.voters.contains(&voter) && view.member(&voter.member).is_some_and(|member| !member.leaving) {
            // A re-created data directory replaces the old one of the same member.
            next.voters.retain(|known| known.member != voter.member);
            next.voters.push(voter);
        }
    }
    next.voters.sort();
    next
}
