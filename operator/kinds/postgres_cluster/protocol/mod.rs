//! The promotion protocol: which decisions follow from what is seen. Pure and total; one transition at most in a look.
//!
//! Stages: `New` (is there data already?) -> `Electing` (promises of a new term are gathered) -> `Establishing` (the
//! leader is promoted behind a shut gate, until its new quorum acknowledges) -> `Steady`. A decision is recorded before
//! the orders that follow from it are given; every term is entered by one such record.
//!
//! Invariants kept here: **I1** one leader a term (a leader is chosen only in the one step `Electing` -> `Establishing`).
//! **I2** a leader holds every acknowledged commit (it is the furthest of re promises of E, or the last leader itself, or
//! not behind the last leader's clean end). **I4** `quorum.rs`. **I10** a supervisor that knows a higher term than the
//! record means that the record is old: everybody with data is asked. **I12** nothing here accepts a loss that the spec
//! did not allow.

use std::time::Duration;

use jiff::Timestamp;

use super::decided::{Decided, Told};
use super::loss;
use super::view::ClusterView;
use crate::api::postgres_cluster::{Decisions, Stage, SwitchoverDecision};

mod electing;
mod establishing;
mod new;
mod sets;
mod steady;

/// A voter that does not stream for this long leaves the quorum, if the quorum can do without it.
const DISMISS_AFTER: Duration = Duration::from_secs(10);
/// A step-down that takes longer is no longer waited for.
pub(super) const STEP_DOWN: Duration = Duration::from_secs(60);

/// The first decisions of a cluster: none yet.
pub fn begin(now: Timestamp) -> Decisions {
    Decisions { since: now, ..Decisions::default() }
}

/// What follows from this look.
pub fn advance(view: &ClusterView) -> Decided {
    let before = view.before;
    let known = view.members.iter().filter_map(|member| Some(member.live()?.promised)).max().unwrap_or(0);
    let newer = known > before.term || known == before.term && newest_order(view) > before.revision;
    let decided = match before.stage {
        Stage::New => new::new(view, known),
        // I10: nothing is done by an old record.
        _ if newer => new::adopt(view, known, "a supervisor knows newer decisions than the record: the record is old"),
        Stage::Electing => electing::electing(view),
        Stage::Establishing => establishing::establishing(view),
        Stage::Steady => steady::steady(view),
    };
    let Some(settled) = loss::settle(view, &decided.decisions) else { return decided };
    Decided {
        decisions: Decisions { unsettled: None, ..decided.decisions },
        told: [decided.told, vec![settled]].concat(),
        ..decided
    }
}

/// The latest revision of this term that a supervisor has an order of.
fn newest_order(view: &ClusterView) -> u64 {
    let orders = view.members.iter().filter_map(|member| member.live()?.order.as_ref());
    orders.filter(|order| order.term == view.before.term).map(|order| order.revision).max().unwrap_or(0)
}

/// What becomes of a switchover under way when an election begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switchover {
    /// The election goes on with it.
    Keep,
    /// It is over: this is a failover.
    Drop,
}

/// A new term: the only door into `Electing`.
fn elect(view: &ClusterView, cause: impl Into<String>, switchover: Switchover) -> Decided {
    let before = view.before;
    let switchover = before.switchover.clone().filter(|_| switchover == Switchover::Keep);
    let electing = enter(before, Stage::Electing, view.now);
    let decisions = Decisions { term: before.term + 1, next: None, switchover, ..electing };
    Decided { decisions, told: vec![Told::Began(cause.into())], blocker: None }
}

/// The same decisions, in another stage from now on.
fn enter(before: &Decisions, stage: Stage, now: Timestamp) -> Decisions {
    Decisions { stage, since: now, ..before.clone() }
}

/// Begins a planned switchover; the caller made sure that the cluster is steady.
pub fn switch_over(view: &ClusterView, decision: SwitchoverDecision) -> Decided {
    let cause = if decision.to.is_empty() { "switchover".into() } else { format!("switchover to {}", decision.to) };
    let elected = elect(view, cause, Switchover::Drop);
    Decided { decisions: Decisions { switchover: Some(decision), ..elected.decisions }, ..elected }
}

/// Why `to` cannot take over now, or `None`.
pub fn cannot_switch_to(view: &ClusterView, to: &str) -> Option<String> {
    let leader = view.before.leader_name();
    let leading = leader.and_then(|name| view.member(name)?.live()?.leading.as_ref());
    let Some(leading) = leading else { return Some("the primary cannot be reached".into()) };
    let streaming = view.streaming(leading).into_iter();
    let ready: Vec<_> = streaming.filter(|voter| view.before.election.voters.contains(voter)).collect();
    if to.is_empty() {
        return ready.is_empty().then(|| "no standby is streaming that could take over".into());
    }
    if Some(to) == leader {
        return Some(format!("{to} is the primary already"));
    }
    if view.member(to).is_none() {
        let names: Vec<_> = view.members.iter().map(|member| member.place.name.as_str()).collect();
        return Some(format!("there is no instance {to}; there are {}", names.join(", ")));
    }
    (!ready.iter().any(|voter| voter.member == to)).then(|| format!("{to} is not streaming from the primary"))
}
